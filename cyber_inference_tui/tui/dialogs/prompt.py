"""A dialog that asks for one line of text."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, ClassVar, cast

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.key_bar import key_hints
from cyber_inference_tui.tui.key_queue import OPENING
from cyber_inference_tui.tui.widgets.text_line import PATH_CHARACTERS, TextLine

if TYPE_CHECKING:
    from cyber_inference_tui.tui.app import CyberApp


class Prompt(ModalScreen[None]):
    """Asks until ``accept`` takes the typed text, or until escape or an empty line.

    ``accept`` raises ``CyberError`` to refuse a text. The dialog shows the error and keeps the
    text.
    """

    DEFAULT_CSS = """
    Prompt { align: center middle; }
    Prompt #box { width: 72; max-width: 96%; height: auto; padding: 1 2; background: $panel; }
    Prompt #text { height: auto; color: $text-muted; }
    Prompt Input { margin-top: 1; background: $surface; }
    Prompt #problem { color: $text-error; height: auto; display: none; }
    Prompt #hint { margin-top: 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "Cancel", id="prompt.cancel"),
    ]

    def __init__(
        self,
        title: str,
        text: str,
        accept: Callable[[str], Awaitable[None]],
        *,
        value: str = "",
        placeholder: str = "",
    ) -> None:
        super().__init__()
        self._title = title
        self._text = text
        self._accept = accept
        self._trying = False
        self._value = value
        self._placeholder = placeholder

    def compose(self) -> ComposeResult:
        """Compose the question and the line."""
        with Vertical(id="box"):
            yield Static(Content.styled(self._title, "bold"))
            yield Static(Content(self._text), id="text")
            yield TextLine(self._value, placeholder=self._placeholder, limit=PATH_CHARACTERS)
            yield Static(id="problem")
            yield Static(key_hints(("enter", "accepts"), ("esc", "cancels")), id="hint")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Offer the typed text to ``accept``."""
        if not (text := event.value.strip()):
            self.dismiss()
        elif not self._trying:
            self._trying = True
            # In the app, because escape must not end it halfway.
            self.app.run_worker(self._try(text), group=OPENING)

    async def _try(self, text: str) -> None:
        try:
            await self._accept(text)
        except CyberError as error:
            if self.is_attached:
                problem = self.query_one("#problem", Static)
                problem.update(Content(clean_line(str(error))))
                problem.display = True
            else:
                cast("CyberApp", self.app).show_message(str(error), "error")
        else:
            if self.is_current:
                self.dismiss()
        finally:
            self._trying = False
