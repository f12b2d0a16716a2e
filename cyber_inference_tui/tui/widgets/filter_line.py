"""The filter that ``/`` opens: it filters while the user types, esc clears and closes it."""

from __future__ import annotations

from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Input

from cyber_inference_tui.terminal.text_width import plain
from cyber_inference_tui.tui.widgets.live_table import LiveTable
from cyber_inference_tui.tui.widgets.text_line import TextLine


class FilterLine(TextLine):
    """Hidden until it is opened. ``enter`` returns to the list and keeps the text."""

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
        """Posted when the text changed."""

        def __init__(self, line: FilterLine, text: str) -> None:
            super().__init__()
            self.line = line
            self.text = text

        @property
        def control(self) -> FilterLine:
            """The line, for ``@on`` with a selector."""
            return self.line

    def __init__(self, placeholder: str, *, id: str | None = None) -> None:  # noqa: A002 - Textual's
        super().__init__(placeholder=placeholder, id=id)
        self._back: Widget | None = None

    @property
    def needle(self) -> str:
        """The text in lower case; empty shows everything."""
        return plain(self.value.strip()).lower()

    def open(self, back: Widget) -> None:
        """Open the filter; the focus returns to ``back`` afterwards."""
        self._back = back
        self.add_class("-open")
        # Focus it now, because the next key is for the filter.
        self.screen.set_focus(self)

    def clear_filter(self) -> bool:
        """Clear the text; return whether there was any."""
        had = bool(self.value)
        self.value = ""
        self.action_close()
        return had

    def action_clear_and_close(self) -> None:
        """Clear the text and return to the list."""
        self.clear_filter()

    def action_close(self) -> None:
        """Return to the list; the filter stays open while it has text."""
        if not self.value.strip():
            self.remove_class("-open")
        if self._back is not None and self.has_focus:
            self.screen.set_focus(self._back)

    def on_blur(self, event: events.Blur) -> None:
        """Close an empty filter."""
        if not self.value.strip():
            self.remove_class("-open")

    def on_input_changed(self, event: Input.Changed) -> None:
        """Post the new text; a text that was not typed opens the line."""
        event.stop()
        if self.value.strip():
            self.add_class("-open")
        if isinstance(self._back, LiveTable):
            self._back.filtered = True
        self.post_message(self.Filtered(self, self.needle))
