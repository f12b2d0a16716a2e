"""Asks for the admin password of a service."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Checkbox, Input, Static


class Password(ModalScreen["tuple[str, bool] | None"]):
    """Returns the password and whether to keep it, or ``None``. ``problem``: what was wrong before.

    ``can_keep``: offer to keep it in a file.
    """

    CSS_PATH = "question.tcss"
    DEFAULT_CSS = """
    Password { align: center middle; background: $background 60%; }
    Password #box { width: 60; height: auto; padding: 1 2; background: $panel; }
    Password #problem { color: $error; height: auto; }
    Password Input { margin-top: 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "Cancel", id="password.cancel"),
    ]

    def __init__(self, url: str, *, problem: str = "", can_keep: bool = False) -> None:
        super().__init__()
        self._url = url
        self._problem = problem
        self._can_keep = can_keep

    def compose(self) -> ComposeResult:
        """The form."""
        with Vertical(id="box"):
            yield Static(Content.styled("Admin password", "bold"))
            yield Static(Content.styled(f"{self._url} asks for it.", "$text-muted"))
            if self._problem:
                yield Static(Content(self._problem), id="problem")
            yield Input(password=True, placeholder="password, then Enter", id="password")
            if self._can_keep:
                yield Checkbox("keep it in a file that only you can read", id="keep", compact=True)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Return what was typed."""
        keep = self._can_keep and self.query_one("#keep", Checkbox).value
        self.dismiss((event.value, keep))
