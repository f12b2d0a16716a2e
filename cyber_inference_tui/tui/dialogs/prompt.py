"""A dialog that asks for one line of text."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from cyber_inference_tui.tui.key_bar import key_hints
from cyber_inference_tui.tui.widgets.text_line import PATH_CHARACTERS, TextLine


class Prompt(ModalScreen[str | None]):
    """Returns the typed text, or ``None`` for escape or an empty line."""

    DEFAULT_CSS = """
    Prompt { align: center middle; background: $background 60%; }
    Prompt #box { width: 72; max-width: 96%; height: auto; padding: 1 2; background: $panel; }
    Prompt #text { height: auto; color: $text-muted; }
    Prompt Input { margin: 1 0; background: $surface; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "Cancel", id="prompt.cancel"),
    ]

    def __init__(
        self, title: str, text: str = "", *, value: str = "", placeholder: str = ""
    ) -> None:
        super().__init__()
        self._title = title
        self._text = text
        self._value = value
        self._placeholder = placeholder

    def compose(self) -> ComposeResult:
        """Compose the question and the line."""
        with Vertical(id="box"):
            yield Static(Content.styled(self._title, "bold"))
            if self._text:
                yield Static(Content(self._text), id="text")
            yield TextLine(self._value, placeholder=self._placeholder, limit=PATH_CHARACTERS)
            yield Static(key_hints(("enter", "accepts"), ("esc", "cancels")), id="hint")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Return the typed text."""
        self.dismiss(event.value.strip() or None)
