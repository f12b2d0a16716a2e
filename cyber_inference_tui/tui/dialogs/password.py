"""Asks for the admin password of a service."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Checkbox, Input, Static

from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.key_bar import key_hints
from cyber_inference_tui.tui.key_queue import OPENING
from cyber_inference_tui.tui.widgets.text_line import TextLine


class Tick(Checkbox):
    """A check box that shows its state without colours, too."""

    BUTTON_LEFT = "["
    BUTTON_RIGHT = "]"
    BUTTON_INNER = " "

    def watch_value(self) -> None:
        """Draw the box checked or empty."""
        self.BUTTON_INNER = "x" if self.value else " "
        super().watch_value()
        self.refresh(layout=True)


class Password(ModalScreen["tuple[str, bool] | None"]):
    """Asks until ``login`` accepts a password; returns it and whether to store it, or ``None``.

    ``can_keep`` offers to store it in a file.
    """

    CSS_PATH = "question.tcss"
    DEFAULT_CSS = """
    Password { align: center middle; }
    Password #box { width: 60; max-width: 96%; height: auto; padding: 1 2; background: $panel; }
    Password Input { margin-top: 1; background: $surface; }
    Password #problem { color: $text-error; height: auto; display: none; }
    Password #keep, Password #hint { margin-top: 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "Cancel", id="password.cancel"),
    ]

    def __init__(
        self, url: str, login: Callable[[str], Awaitable[object]], *, can_keep: bool = False
    ) -> None:
        super().__init__()
        self._url = url
        self._login = login
        self._can_keep = can_keep

    def compose(self) -> ComposeResult:
        """Compose the form."""
        with Vertical(id="box"):
            yield Static(Content.styled("Admin password", "bold"))
            yield Static(Content.styled(f"{self._url} needs it.", "$text-muted"))
            yield TextLine(password=True, placeholder="password", id="password")
            yield Static(id="problem")
            if self._can_keep:
                yield Tick("store it in a file that only you can read", id="keep", compact=True)
            ticks = [("tab space", "ticks")] if self._can_keep else []
            hints = (("enter", "logs in"), *ticks, ("esc", "quits"))
            yield Static(key_hints(*hints), id="hint")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Try the typed password."""
        self.run_worker(self._try(event.value), group=OPENING, exclusive=True, exit_on_error=False)

    async def _try(self, password: str) -> None:
        try:
            await self._login(password)
        except CyberError as error:
            problem = self.query_one("#problem", Static)
            problem.update(Content(clean_line(str(error))))
            problem.display = True
            # The next key replaces the text; enter tries it again.
            self.query_one("#password", Input).select_all()
        else:
            keep = self._can_keep and self.query_one("#keep", Tick).value
            self.dismiss((password, keep))
