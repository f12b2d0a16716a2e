"""Paints the rows of a log: wrapped, or cut and scrolled sideways."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.scroll_view import ScrollView
from textual.strip import Strip

from cyber_inference_tui.records import NumberedLine
from cyber_inference_tui.terminal.text_width import plain
from cyber_inference_tui.tui.widgets.log_rows import Role, RowFormat
from cyber_inference_tui.tui.widgets.log_window import Entry, LogWindow

_MARKS = ("match", "found")
"""The roles with their own background."""


class LogSheet(ScrollView):
    """Paints a window of at most ``window`` lines in the format ``form``, or else ``empty``."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "logview--time",
        "logview--debug",
        "logview--warning",
        "logview--error",
        "logview--gap",
        "logview--match",
        "logview--found",
        "logview--task0",
        "logview--task1",
        "logview--task2",
        "logview--target",
    }
    DEFAULT_CSS = """
    LogSheet {
        height: 1fr;
        overflow-x: hidden;
        overflow-y: auto;
        scrollbar-gutter: stable;
        scrollbar-size-vertical: 1;
        & > .logview--time { color: $text-muted; }
        & > .logview--debug { color: $text-muted; }
        & > .logview--warning { color: $text-warning; }
        & > .logview--error { color: $text-error; }
        & > .logview--gap { color: $text-accent; text-style: italic; }
        & > .logview--match { background: $warning-muted; text-style: bold; }
        & > .logview--found { background: $warning; color: $background; text-style: bold; }
        & > .logview--task0 { color: $text-accent; }
        & > .logview--task1 { text-style: bold; }
        & > .logview--task2 { color: $text-muted; }
        & > .logview--target { background: $foreground 8%; }
        &:nocolor > .logview--match, &:nocolor > .logview--found { text-style: reverse; }
        &:ansi > .logview--match, &:ansi > .logview--found {
            background: transparent; color: ansi_default; text-style: reverse;
        }
    }
    """

    def __init__(
        self,
        form: RowFormat,
        window: int,
        empty: str,
        *,
        id: str | None = None,  # noqa: A002 - Textual's name
        classes: str | None = None,
    ) -> None:
        super().__init__(id=id, classes=classes)
        self._format = form
        self._window = LogWindow(window, self._rows_of)
        self._empty = plain(empty)
        self._target: int | None = None
        """Number of the marked line."""

    def _rows_of(self, entry: Entry) -> int:
        return self._format.rows_of(entry)

    def show_empty(self, text: str) -> None:
        """Set the text that is shown if there are no lines."""
        if text != self._empty:
            self._empty = plain(text)
            if not len(self._window):
                self.refresh()

    # Sideways

    def action_shift(self, steps: int) -> None:
        """Scroll cut lines sideways, as far as the longest visible line."""
        if not self._format.wrap:
            self._shift_to(self._format.shift + steps * max(8, self._format.text_width // 3))

    def on_mouse_scroll_right(self, event: events.MouseScrollRight) -> None:
        """Scroll right."""
        self.action_shift(1)

    def on_mouse_scroll_left(self, event: events.MouseScrollLeft) -> None:
        """Scroll left."""
        self.action_shift(-1)

    def _shift_to(self, shift: int) -> None:
        top = self.scroll_offset.y
        shown = (self._window.at(row) for row in range(top, top + self.size.height))
        longest = max(
            (
                cell_len(self._format.text_of(one[0]))
                for one in shown
                if one and isinstance(one[0], NumberedLine)
            ),
            default=0,
        )
        shift = max(0, min(shift, longest - self._format.text_width))
        if shift != self._format.shift:
            self._format = replace(self._format, shift=shift)
            self.refresh()

    def scroll_to_match(self, row: int) -> None:
        """Scroll sideways to a match beyond the edge."""
        found = self._window.at(row)
        if self._format.wrap or found is None or not isinstance(found[0], NumberedLine):
            return
        if (match := next(self._format.matches(found[0]), None)) is None:
            return
        start, end = (cell_len(self._format.text_of(found[0])[:place]) for place in match)
        width, shift = self._format.text_width, self._format.shift
        if end > shift + width - 1 or start < shift + bool(shift):
            self._shift_to(0 if end < width else start - width // 3)

    # Painting

    def render_line(self, y: int) -> Strip:
        """Render a row of the screen."""
        ground = self.rich_style
        width = self.size.width
        found = self._window.at(self.scroll_offset.y + y)
        if found is None:
            rows = [] if len(self._window) else textwrap.wrap(self._empty, max(8, width - 3))
            return self._strip([(f"  {rows[y]}" if y < len(rows) else "", "time")], ground)
        entry, part = found
        target = isinstance(entry, NumberedLine) and entry.number == self._target
        if target:
            ground = self.get_component_rich_style("logview--target")
        return self._strip(self._format.pieces(entry, part, target=target), ground)

    def _strip(self, pieces: Sequence[tuple[str, Role]], ground: Style) -> Strip:
        width = self.size.width
        shown = [piece for piece in pieces if piece[0]]
        segments = [Segment(text, self._style(role, ground)) for text, role in shown]
        space = width - sum(cell_len(segment.text) for segment in segments)
        # Spaces look the same in every colour: append them to the last piece.
        if space > 0 and shown and shown[-1][1] not in _MARKS:
            segments[-1] = Segment(segments[-1].text + " " * space, segments[-1].style)
        return Strip(segments).adjust_cell_length(width, ground)

    def _style(self, role: Role, ground: Style) -> Style:
        if role == "text":
            return ground
        style = self.get_component_rich_style(f"logview--{role}")
        return style if role in _MARKS else style + Style(bgcolor=ground.bgcolor)
