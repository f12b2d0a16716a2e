"""A table that repaints only what changed.

Textual paints every cell that is marked as dirty, changed or not, and on a slow line each cell
counts. This table compares new rows with those on the screen and marks only cells that differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from cyber_inference_tui.terminal.charset import UNICODE, Charset
from cyber_inference_tui.terminal.columns import (
    GAP,
    Cell,
    Column,
    PlacedColumn,
    Record,
    RenderContext,
    place_with_air,
)
from cyber_inference_tui.terminal.text_width import Align, fit, plain
from cyber_inference_tui.terminal.tone import Tone
from cyber_inference_tui.tui.frames import joined
from cyber_inference_tui.tui.widgets.empty_text import EmptyText

_GUTTER = 2
"""Cells for the sign of the cursor; a table with marks has one more."""
_LONGEST = 1000
"""Maximum characters of a cell; no screen is that wide."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row; ``key`` identifies its record for as long as that exists."""

    key: str
    cells: tuple[Cell | str, ...]
    tone: Tone = "none"
    """For cells without their own tone."""

    def cell(self, index: int) -> tuple[str, Tone]:
        """Return text and tone of a cell; a row may be shorter than the table."""
        if index >= len(self.cells):
            return "", "none"
        cell = self.cells[index]
        if isinstance(cell, str):
            return cell, self.tone
        return cell.text, self.tone if cell.tone == "none" else cell.tone


def row_of(
    key: str,
    record: Record,
    columns: Sequence[Column[Record, RenderContext]],
    context: RenderContext,
    tone: Tone = "none",
) -> Row:
    """Return the row of ``record`` with the cell of each column."""
    return Row(key, tuple(column.draw(record, context) for column in columns), tone)


class LiveTable(ScrollView, can_focus=True):
    """Rows under a header, with a cursor that stays on its record when the order changes.

    If its record goes away, no row is under the cursor until a key moves it: a key that was meant
    for that record must not act on its neighbour. It takes the neighbour if a filter changed.

    ``empty`` is shown if there are no rows. Without ``cursor`` the table only scrolls. With
    ``marks`` it has room for the signs of ``show_marks``.
    """

    KEYS_TITLE = "Table"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False, id="table.up"),
        Binding("down,j", "move(1)", "Down", show=False, id="table.down"),
        Binding("pageup", "page(-1)", "Page up", show=False, id="table.page-up"),
        Binding("pagedown", "page(1)", "Page down", show=False, id="table.page-down"),
        Binding("ctrl+u", "half_page(-1)", "Half up", show=False, id="table.half-up"),
        Binding("ctrl+d", "half_page(1)", "Half down", show=False, id="table.half-down"),
        Binding("home,g", "first", "First", show=False, id="table.first"),
        Binding("end,G", "last", "Last", show=False, id="table.last"),
        Binding("enter", "choose", "Open", show=False, id="table.choose"),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "livetable--header",
        "livetable--cursor",
        "livetable--good",
        "livetable--busy",
        "livetable--bad",
        "livetable--dim",
        "livetable--accent",
        "livetable--strong",
    }
    DEFAULT_CSS = """
    LiveTable {
        height: 1fr;
        overflow-x: hidden;
        overflow-y: auto;
        scrollbar-gutter: stable;
        scrollbar-size-vertical: 1;
        & > .livetable--header { color: $text-muted; text-style: bold; }
        & > .livetable--cursor { background: $foreground 8%; }
        & > .livetable--good { color: $text-success; }
        & > .livetable--busy { color: $text-warning; }
        & > .livetable--bad { color: $text-error; }
        & > .livetable--dim { color: $text-muted; }
        & > .livetable--accent { color: $text-accent; }
        & > .livetable--strong { text-style: bold; }
        &:focus > .livetable--cursor { background: $primary 20%; }
        &:nocolor > .livetable--cursor { text-style: bold; }
        &:nocolor:focus > .livetable--cursor { text-style: reverse; }
    }
    """
    ALLOW_SELECT = False

    class _Message(Message):
        def __init__(self, table: LiveTable) -> None:
            super().__init__()
            self.table = table

        @property
        def control(self) -> LiveTable:
            """The table, for ``@on`` with a selector."""
            return self.table

    class RowHighlighted(_Message):
        """Posted when the cursor moved to another record (``None``: there are no rows)."""

        def __init__(self, table: LiveTable, key: str | None) -> None:
            super().__init__(table)
            self.key = key

    class RowChosen(_Message):
        """Posted after enter or a double click."""

        def __init__(self, table: LiveTable, key: str) -> None:
            super().__init__(table)
            self.key = key

    class HeaderSelected(_Message):
        """Posted when the title of a column was clicked."""

        def __init__(self, table: LiveTable, column: Column[Any, RenderContext]) -> None:
            super().__init__(table)
            self.column = column

    def __init__(
        self,
        columns: Sequence[Column[Any, RenderContext]],
        *,
        empty: Content | str = "",
        header: bool = True,
        cursor: bool = True,
        marks: bool = False,
        charset: Charset = UNICODE,
        id: str | None = None,  # noqa: A002 - Textual's name
        classes: str | None = None,
    ) -> None:
        super().__init__(id=id, classes=classes)
        self._columns = tuple(columns)
        self._header = int(header)
        self._has_cursor = cursor
        self._gutter = (_GUTTER if cursor else 0) + marks
        self._empty = EmptyText(empty, self._gutter)
        self._marked: frozenset[str] = frozenset()
        self._charset = charset
        self._rows: tuple[Row, ...] = ()
        self._cursor = 0
        self._gone: str | None = None
        """The key of the record under the cursor, if its row went away."""
        self._sort: tuple[str, bool] | None = None
        self.hidden_columns: frozenset[str] = frozenset()
        """The keys of the columns that a person does not want to see."""
        self._left_out: frozenset[str] = frozenset()
        self._places: list[PlacedColumn] = []
        self._widest = [0] * len(self._columns)
        """Cells of the widest text of each column."""
        self._clicked: str | None = None
        self.keeps_top = False
        """A cursor on the first row stays on the first row when rows are added."""
        self.filtered = False
        """A person asked for other rows: the cursor takes one of those that come."""
        self.set_reactive(LiveTable.virtual_size, Size(1, self._header))

    # Contents

    def show(self, rows: Sequence[Row]) -> None:
        """Show ``rows`` in this order; each has its own key. Unchanged rows cost nothing."""
        new, old = tuple(rows), self._rows
        if new == old:
            return
        before, key, gone = self._cursor, self.cursor_key, self._gone
        seen = self._is_visible(before)
        self._rows = new
        moved = self._measure(new, old)
        at_top = self.keeps_top and not before and not self.scroll_offset.y
        self._cursor = 0 if at_top else self._place_of(gone or key, before)
        found = at_top or not new or not old or new[self._cursor].key == (gone or key)
        self._gone = None if found or self.filtered else gone or key
        self.filtered = False
        if len(new) != len(old):
            self._take_height(len(new) + self._header)
        if not new or not old or moved or self._gone != gone:
            self.refresh()
        else:
            if seen:
                self._reveal()
            self._refresh_changes(old, before)
        if self.cursor_key != key:
            self.post_message(self.RowHighlighted(self, self.cursor_key))

    def _take_height(self, height: int) -> None:
        """Take over the number of lines, without a layout if possible: that paints all rows."""
        bar = self.show_vertical_scrollbar
        same = height >= self.virtual_size.height if bar else height <= self.size.height
        if not same or self.styles.auto_dimensions:
            self.virtual_size = Size(1, height)
            return
        self.set_reactive(LiveTable.virtual_size, Size(1, height))
        if bar:
            self.vertical_scrollbar.window_virtual_size = height

    def show_sort(self, column: str | None, *, descending: bool = False) -> None:
        """Put the arrow at ``column``; the page sorts."""
        sort = None if column is None else (column, descending)
        if sort != self._sort:
            self._sort = sort
            # The arrow takes two cells.
            moved = self._place()
            self.refresh(*([] if moved else [Region(0, 0, self.size.width, 1)]))

    def show_marks(self, keys: frozenset[str]) -> None:
        """Put the sign of a mark at the rows with these keys."""
        changed, self._marked = self._marked ^ keys, keys
        for index, row in enumerate(self._rows if changed else ()):
            if row.key in changed:
                self._refresh_row(index)

    def hide_columns(self, keys: Iterable[str]) -> None:
        """Show all columns but those with these keys, and those that do not fit."""
        self.hidden_columns = frozenset(keys) & {one.key for one in self.optional_columns}
        if self._place():
            self.refresh()

    def leave_out(self, keys: Iterable[str]) -> None:
        """Neither show nor offer the columns with these keys, which say nothing now."""
        before, self._left_out = self._left_out, frozenset(keys)
        if self._left_out != before and self._place():
            self.refresh()

    def show_empty(self, empty: Content | str) -> None:
        """Set the content that is shown if there are no rows."""
        if self._empty.replace(empty) and not self._rows:
            self.refresh()

    @property
    def has_header(self) -> bool:
        """It shows the titles of its columns."""
        return bool(self._header)

    @property
    def cursor_key(self) -> str | None:
        """The key of the row under the cursor."""
        return self._rows[self._cursor].key if self._rows and self._gone is None else None

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows in order."""
        return self._rows

    @property
    def shown_columns(self) -> tuple[Column[Any, RenderContext], ...]:
        """The columns that fit."""
        return tuple(self._columns[place.index] for place in self._places)

    @property
    def optional_columns(self) -> tuple[Column[Any, RenderContext], ...]:
        """The columns that can be hidden: all but the first one and the one with names."""
        return tuple(
            one
            for one in self._columns[1:]
            if one.width is not None and one.key not in self._left_out
        )

    def move_to(self, key: str) -> bool:
        """Move the cursor to a row and show it; ``False`` if no row has this key."""
        for index, row in enumerate(self._rows):
            if row.key == key:
                self._move(index)
                return True
        return False

    def _place_of(self, key: str | None, before: int) -> int:
        """Return the index of the row with ``key``, or of the row that took its place."""
        if before < len(self._rows) and self._rows[before].key == key:
            return before
        for index, row in enumerate(self._rows):
            if row.key == key:
                return index
        return max(0, min(before, len(self._rows) - 1))

    def _refresh_changes(self, old: tuple[Row, ...], old_cursor: int) -> None:
        """Mark the visible cells that changed."""
        top = self.scroll_offset.y
        regions = []
        for y, index in enumerate(range(top, top + self._page_size), self._header):
            was = old[index] if index < len(old) else None
            now = self._rows[index] if index < len(self._rows) else None
            moved = (index == old_cursor) != (index == self._cursor)
            if was == now and not moved:
                continue
            spans = [(0, self.size.width)]
            if was is not None and now is not None and not moved:
                cells = ((p, was.cell(p.index), now.cell(p.index)) for p in self._places)
                spans = joined((p.start, p.end) for p, one, other in cells if one != other)
            regions += [Region(x, y, end - x, 1) for x, end in spans]
        if regions:
            self.refresh(*regions)

    def _refresh_row(self, index: int) -> None:
        if self._is_visible(index):
            y = index - self.scroll_offset.y + self._header
            self.refresh(Region(0, y, self.size.width, 1))

    # Moving

    @property
    def _page_size(self) -> int:
        return max(0, self.size.height - self._header)

    def _is_visible(self, index: int) -> bool:
        top = self.scroll_offset.y
        return top <= index < top + self._page_size

    def _reveal(self) -> None:
        """Scroll as little as needed to show the cursor."""
        top, size = self.scroll_offset.y, self._page_size
        if not self._has_cursor or size <= 0 or self._is_visible(self._cursor):
            return
        y = self._cursor if self._cursor < top else self._cursor - size + 1
        self.scroll_to(y=y, animate=False, force=True)

    def _move(self, index: int) -> None:
        if not self._rows:
            return
        index = max(0, min(index, len(self._rows) - 1))
        before, self._cursor = self._cursor, index
        gone, self._gone = self._gone, None
        if index != before or gone is not None:
            for line in (before, index):
                self._refresh_row(line)
            self.post_message(self.RowHighlighted(self, self.cursor_key))
        self._reveal()

    def action_move(self, rows: int) -> None:
        """Move the cursor; a table without a cursor scrolls."""
        if self._has_cursor:
            # The next row has the place of one that went away.
            self._move(self._cursor + rows - (self._gone is not None and rows > 0))
        else:
            self.scroll_to(y=self.scroll_offset.y + rows, animate=False)

    def action_page(self, pages: int) -> None:
        """Move the cursor by screens less one line."""
        self.action_move(pages * max(1, self._page_size - 1))

    def action_half_page(self, pages: int) -> None:
        """Move the cursor by half screens."""
        self.action_move(pages * max(1, self._page_size // 2))

    def action_first(self) -> None:
        """Go to the first row."""
        self.action_move(-len(self._rows))

    def action_last(self) -> None:
        """Go to the last row."""
        self.action_move(len(self._rows))

    def action_choose(self) -> None:
        """Post ``RowChosen`` for the row under the cursor."""
        if self._has_cursor and self.cursor_key is not None:
            self.post_message(self.RowChosen(self, self.cursor_key))

    def on_click(self, event: events.Click) -> None:
        """Move the cursor to the clicked row; a second click chooses it. A title sorts."""
        offset = event.get_content_offset(self)
        if event.widget is not self or offset is None:
            return
        if offset.y < self._header:
            for place in self._places:
                if place.start <= offset.x < place.end + GAP:
                    self.post_message(self.HeaderSelected(self, self._columns[place.index]))
            return
        index = self.scroll_offset.y + offset.y - self._header
        if not self._has_cursor or index >= len(self._rows):
            return
        self._move(index)
        # The order may change between two clicks: both must hit the same record.
        if event.chain > 1 and self._clicked == self.cursor_key:
            self.action_choose()
        self._clicked = self.cursor_key

    # Painting

    def _on_resize(self, event: events.Resize) -> None:
        self._measure(self._rows, ())
        self._place()
        self._reveal()
        self.refresh()

    def _measure(self, new: Sequence[Row], old: Sequence[Row]) -> bool:
        """Measure the new rows; return whether columns have moved.

        While the rows are of the same records, widths only grow, so that columns do not move back
        and forth with the texts. Records that are gone have no influence.
        """
        before = list(self._widest)
        same = {row.key for row in new} == {row.key for row in old}
        known = set(map(id, old)) if same else set()
        if not same:
            self._widest = [0] * len(self._columns)
        for row in new:
            if id(row) not in known:
                for index, width in enumerate(self._widest):
                    text = row.cell(index)[0]
                    if len(text) > width or not text.isascii():
                        self._widest[index] = max(width, cell_len(plain(text, limit=_LONGEST)))
        return self._widest != before and self._place()

    def _place(self) -> bool:
        """Place the columns; return whether any has moved."""
        # Textual's size includes the scroll bar.
        width = self.scrollable_content_region.width
        sorted_by = None if self._sort is None else self._sort[0]
        widest = [
            max(cells, self._header * (len(column.title) + 2 * (column.key == sorted_by)))
            for cells, column in zip(self._widest, self._columns, strict=True)
        ]
        before = self._places
        chosen = [
            index
            for index, column in enumerate(self._columns)
            if column.key not in self.hidden_columns | self._left_out
        ]
        self._places = [
            replace(place, index=chosen[place.index])
            for place in place_with_air(
                [self._columns[index] for index in chosen],
                width,
                self._gutter,
                [widest[index] for index in chosen],
            )
        ]
        return self._places != before

    def render_line(self, y: int) -> Strip:
        """Render a line: the header, a row or a blank."""
        width = self.size.width
        if y < self._header:
            return self._line(self._header_texts(), width)
        if not self._rows:
            return self._empty.line(self, y - self._header)
        index = self.scroll_offset.y + y - self._header
        if index >= len(self._rows):
            return Strip.blank(width, self.rich_style)
        row, ellipsis = self._rows[index], self._charset.ellipsis
        texts = (
            (place, fit(plain(text, limit=_LONGEST), place.width, align, ellipsis), tone)
            for place in self._places
            for text, tone in (row.cell(place.index),)
            for align in (_align(self._columns[place.index]),)
        )
        at_cursor = self._has_cursor and index == self._cursor and self._gone is None
        cursor = self.get_component_rich_style("livetable--cursor") if at_cursor else None
        return self._line(texts, width, cursor, marked=row.key in self._marked)

    def _header_texts(self) -> Iterable[tuple[PlacedColumn, str, Tone | None]]:
        for place in self._places:
            column = self._columns[place.index]
            title = plain(column.title)
            if self._sort is not None and self._sort[0] == column.key:
                arrow = self._charset.descending if self._sort[1] else self._charset.ascending
                room = max(0, place.width - 2)
                title = fit(title, min(len(title), room), "left", self._charset.ellipsis)
                title = f"{title} {arrow}" if room else arrow
            yield place, fit(title, place.width, _align(column), self._charset.ellipsis), None

    def _line(
        self,
        texts: Iterable[tuple[PlacedColumn, str, Tone | None]],
        width: int,
        cursor: Style | None = None,
        *,
        marked: bool = False,
    ) -> Strip:
        """Join cells to a line; neighbours of one style become one segment."""
        ground = self.rich_style if cursor is None else cursor
        pieces: list[tuple[str, Style]] = []
        at = 0
        if self._has_cursor:
            sign = " " if cursor is None else self._charset.cursor
            mark = self._charset.check if marked else " "
            at = min(self._gutter, width)
            pieces.append((sign[:at], ground))
            style = self._style("accent", ground, cursor is not None)
            pieces.append((f"{mark} "[: at - 1], style))
        for place, text, tone in texts:
            pieces.append((" " * (place.start - at), ground))
            pieces.append((text, self._style(tone, ground, cursor is not None)))
            at = place.end
        pieces.append((" " * (width - at), ground))
        segments: list[Segment] = []
        for text, style in pieces:
            if not text:
                continue
            # Spaces look the same in every foreground colour.
            if segments and (segments[-1].style == style or text.isspace()):
                segments[-1] = Segment(segments[-1].text + text, segments[-1].style)
            else:
                segments.append(Segment(text, style))
        # After a change of the layout, columns have the former places until the resize event.
        return Strip(segments).adjust_cell_length(width, ground)

    def _style(self, tone: Tone | None, ground: Style, at_cursor: bool) -> Style:
        if tone == "none":
            return ground
        style = self.get_component_rich_style(f"livetable--{tone or 'header'}")
        if not at_cursor:
            return style
        return style + Style(bgcolor=ground.bgcolor, bold=ground.bold, reverse=ground.reverse)


def _align(column: Column[Any, RenderContext]) -> Align:
    return "right" if column.right else "left"
