"""Rows of text that grow at their end; only changed cells are painted."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import ClassVar, Literal, get_args

from rich.cells import cell_len
from rich.segment import Segment
from textual.binding import Binding, BindingType
from textual.events import Resize
from textual.geometry import Region, Size
from textual.message import Message
from textual.reactive import var
from textual.scroll_view import ScrollView
from textual.strip import Strip

from cyber_inference_tui.terminal.text_width import is_doubtful

Role = Literal[
    "text", "name", "dim", "busy", "error",
    "title", "heading", "strong", "emphasis", "struck", "inline", "link",
    "code", "code-title", "keyword", "string", "comment", "number", "called",
]  # fmt: skip
TextRow = tuple[tuple[str, Role], ...]
"""Pieces from left to right, without control characters."""

_AHEAD_SHARE = 8
"""A following view leaves at most this part of its height blank."""


class TextView(ScrollView, can_focus=True):
    """Shows rows. At their end it follows; scrolled up it stays.

    Following, it moves up to ``ahead`` rows further than it has to, so that a text that grows
    moves seldom: a move paints the whole view.

    It posts ``WidthChanged`` when the rows have to be made for another ``text_width``.
    """

    KEYS_TITLE = "Conversation"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "scroll_rows(-1)", "Up", show=False, id="text.up"),
        Binding("down,j", "scroll_rows(1)", "Down", show=False, id="text.down"),
        Binding("pageup", "scroll_pages(-1)", "Page up", show=False, id="text.page-up"),
        Binding("pagedown,space", "scroll_pages(1)", "Page down", show=False, id="text.page-down"),
        Binding("home,g", "first", "First", show=False, id="text.first"),
        Binding("end,G", "follow", "End", show=False, id="text.end"),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        f"textview--{role}" for role in get_args(Role) if role != "text"
    }
    DEFAULT_CSS = """
    TextView {
        height: 1fr;
        overflow-x: hidden;
        overflow-y: auto;
        scrollbar-gutter: stable;
        scrollbar-size-vertical: 1;
        & > .textview--name { color: $text-accent; text-style: bold; }
        & > .textview--dim { color: $text-muted; }
        & > .textview--busy { color: $text-warning; }
        & > .textview--error { color: $text-error; }
        & > .textview--title { color: $text-accent; text-style: bold; }
        & > .textview--heading, & > .textview--strong { text-style: bold; }
        & > .textview--emphasis { text-style: italic; }
        & > .textview--struck { color: $text-muted; text-style: strike; }
        & > .textview--inline { color: $secondary; }
        & > .textview--link { text-style: underline; }
        & > .textview--code { background: $surface; }
        & > .textview--code-title { background: $surface; color: $text-muted; }
        & > .textview--keyword { background: $surface; color: $text-accent; }
        & > .textview--string { background: $surface; color: $text-success; }
        & > .textview--comment { background: $surface; color: $text-muted; }
        & > .textview--number { background: $surface; color: $text-warning; }
        & > .textview--called { background: $surface; text-style: bold; }
    }
    """
    ALLOW_SELECT = False

    following: var[bool] = var(True)
    """The view follows the end."""

    class WidthChanged(Message):
        """Posted when the width for the text changed."""

        def __init__(self, view: TextView) -> None:
            super().__init__()
            self.view = view

        @property
        def control(self) -> TextView:
            """The view, for ``@on`` with a selector."""
            return self.view

    def __init__(
        self,
        *,
        ahead: int = 0,
        id: str | None = None,  # noqa: A002 - Textual's name
        classes: str | None = None,
    ) -> None:
        super().__init__(id=id, classes=classes)
        self._rows: Sequence[TextRow] = ()
        self._ahead = ahead
        self._width = 0
        self._moving = False
        self._bar_rows = 0
        """Number of rows that the scrollbar shows."""

    @property
    def text_width(self) -> int:
        """Cells of a row; 0 before the first layout."""
        return self._width

    def show(self, rows: Sequence[TextRow]) -> None:
        """Show these rows; paint only what changed."""
        height = self.size.height
        top = self.scroll_offset.y
        before = [self._row(y) for y in range(top, top + height)]
        self._rows = rows
        self._measure(len(rows))
        if self.following and top != self.max_scroll_y:
            self._go(self.max_scroll_y)
        top = self.scroll_offset.y
        regions = []
        for y, old in enumerate(before):
            new = self._row(top + y)
            if new != old:
                start, end = _differing(old, new)
                regions.append(Region(start, y, max(1, end - start), 1))
        if regions:
            self.refresh(*regions)

    def _measure(self, count: int) -> None:
        """Take over the number of rows."""
        bar = self.show_vertical_scrollbar
        blank = self.virtual_size.height - count
        ahead = min(self._ahead, self.size.height // _AHEAD_SHARE)
        if self.following and count > self.size.height:
            count += blank if 0 <= blank <= ahead else ahead
        if count == self.virtual_size.height:
            return
        few = count <= self.size.height and not bar
        if few or (bar and self._bar_rows and count > self.size.height):
            # The layout stays the same. Skip it, because otherwise the whole view is painted for
            # each new row.
            self.set_reactive(TextView.virtual_size, Size(1, count))
            most = float(self.max_scroll_y)
            y = most if self.following else min(self.scroll_y, most)
            self.set_reactive(TextView.scroll_y, y)
            self.set_reactive(TextView.scroll_target_y, y)
            # The bar would be painted for each new row, too.
            if bar and not 0.95 <= count / self._bar_rows <= 1.05:
                self._show_bar()
            return
        self._bar_rows = count
        self.virtual_size = Size(1, count)

    def _show_bar(self) -> None:
        """Update the scrollbar, which ``_measure`` may have skipped."""
        self._bar_rows = self.virtual_size.height
        if self.show_vertical_scrollbar:
            self.vertical_scrollbar.window_virtual_size = self._bar_rows
            self.vertical_scrollbar.position = self.scroll_y

    def watch_show_vertical_scrollbar(self) -> None:
        """Update a scrollbar that appears: moves before did not reach it."""
        self._show_bar()

    def _row(self, index: int) -> TextRow:
        return self._rows[index] if 0 <= index < len(self._rows) else ()

    # Moving

    def _go(self, y: int) -> None:
        """Scroll without changing ``following``."""
        self._moving = True
        try:
            self.scroll_to(y=y, animate=False, force=True)
        finally:
            self._moving = False

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Follow the end while the user is there."""
        super().watch_scroll_y(old_value, new_value)
        if not self._moving and round(old_value) != round(new_value):
            self.following = self.scroll_offset.y >= self.max_scroll_y
            self._show_bar()

    def action_scroll_rows(self, rows: int) -> None:
        """Scroll by rows."""
        self.scroll_to(y=self.scroll_offset.y + rows, animate=False, force=True)

    def action_scroll_pages(self, pages: int) -> None:
        """Scroll by screens less one line."""
        self.action_scroll_rows(pages * max(1, self.size.height - 1))

    def action_first(self) -> None:
        """Go to the first row."""
        self.action_scroll_rows(-len(self._rows))

    def action_follow(self) -> None:
        """Go to the end and follow it."""
        self.following = True
        self._go(self.max_scroll_y)

    def _on_resize(self, event: Resize) -> None:
        # Textual's size includes the scrollbar.
        width = self.scrollable_content_region.width
        if width != self._width:
            self._width = width
            self.post_message(self.WidthChanged(self))
        if self.following:
            self._go(self.max_scroll_y)

    # Painting

    def render_line(self, y: int) -> Strip:
        """Render a row."""
        width = self.size.width
        segments = [
            Segment(
                text,
                self.rich_style
                if role == "text"
                else self.get_component_rich_style(f"textview--{role}"),
            )
            for text, role in self._row(self.scroll_offset.y + y)
        ]
        return Strip(segments).adjust_cell_length(width, self.rich_style)


def _differing(old: TextRow, new: TextRow) -> tuple[int, int]:
    """Return the first and the last cell where two rows differ, in text or colour."""
    was, now = _characters(old), _characters(new)
    same = _same(was, now)
    # Marks and halves of flags are painted with the characters before them.
    while same and is_doubtful(
        "".join(sign for row in (was, now) for sign, _ in row[same - 1 : same + 1])
    ):
        same -= 1
    left = cell_len("".join(sign for sign, _ in was[:same]))
    end_was, end_now = (cell_len("".join(text for text, _ in row)) for row in (old, new))
    if end_was == end_now:
        # A block of code is filled with blanks, which stay.
        behind = min(_same(was[::-1], now[::-1]), len(now) - same, len(was) - same)
        end_now -= cell_len("".join(sign for sign, _ in now[len(now) - behind :]))
        return left, end_now
    return left, max(end_was, end_now)


def _characters(row: TextRow) -> list[tuple[str, Role]]:
    return [(sign, role) for text, role in row for sign in text]


def _same(was: list[tuple[str, Role]], now: list[tuple[str, Role]]) -> int:
    """Return the number of equal characters at the start."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(was, now, strict=False)))
