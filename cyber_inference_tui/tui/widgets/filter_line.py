"""The line that `/` opens: what is typed filters at once, esc clears it and closes the line."""

from __future__ import annotations

from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Input

from cyber_inference_tui.terminal.text_width import plain


class FilterLine(Input):
    """Hidden until it is opened. ``enter`` goes back to what is filtered and keeps the text."""

    KEYS_TITLE = "Filter"
    DEFAULT_CSS = """
    FilterLine { display: none; }
    FilterLine.-open { display: block; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "clear_and_close", "Clear", id="filter.clear", tooltip="show all again"),
        Binding("enter,down", "close", "Back to the list", id="filter.keep"),
    ]

    class Filtered(Message):
        """The text is another one."""

        def __init__(self, line: FilterLine, text: str) -> None:
            super().__init__()
            self.line = line
            self.text = text

        @property
        def control(self) -> FilterLine:
            """The line, for ``@on`` with a selector."""
            return self.line

    def __init__(self, placeholder: str, *, id: str | None = None) -> None:  # noqa: A002 - Textual's
        super().__init__(placeholder=placeholder, id=id, max_length=200)
        # As in each line to type in: a blinking cursor is sent to the terminal twice a second.
        self.cursor_blink = False
        self._back: Widget | None = None

    @property
    def needle(self) -> str:
        """What is looked for, in lower case; empty = everything is shown."""
        return plain(self.value.strip()).lower()

    def open(self, back: Widget) -> None:
        """Let a text be typed; the focus goes to ``back`` afterwards."""
        self._back = back
        self.add_class("-open")
        # At once: the next key is meant for the line.
        self.screen.set_focus(self)

    def clear_filter(self) -> bool:
        """Show all again; ``False`` where nothing was filtered."""
        had = bool(self.value)
        self.value = ""
        self.action_close()
        return had

    def action_clear_and_close(self) -> None:
        """Show all again and go back."""
        self.clear_filter()

    def action_close(self) -> None:
        """Go back; the line stays while it filters."""
        if not self.value.strip():
            self.remove_class("-open")
        if self._back is not None and self.has_focus:
            self.screen.set_focus(self._back)

    def on_blur(self, event: events.Blur) -> None:
        """An empty line has no reason to stay."""
        if not self.value.strip():
            self.remove_class("-open")

    def on_input_changed(self, event: Input.Changed) -> None:
        """Tell what is looked for now."""
        event.stop()
        self.post_message(self.Filtered(self, self.needle))
