"""Columns of tables in the app and on the command line: they draw, size and sort."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from cyber_inference_tui.terminal.charset import Charset
from cyber_inference_tui.terminal.stream import Terminal
from cyber_inference_tui.terminal.text_width import plain
from cyber_inference_tui.terminal.tone import Tone

GAP = 2
"""Cells between two columns."""
FLEXIBLE_CELLS = 48
"""Cells of the flexible column, unless its texts are wider: what follows it stays near."""
_OPTIONAL = 4
"""The lowest priority of columns that make room for a ``whole`` one."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A text with a tone."""

    text: str
    tone: Tone = "none"


@dataclass(frozen=True, slots=True)
class RenderContext:
    """The context of the app's cells, beside their record."""

    charset: Charset
    now: datetime
    favourites: Collection[str] = ()
    """The ids of the models with the sign of a favourite."""


Record = TypeVar("Record")
Context = TypeVar("Context", RenderContext, Terminal)


@dataclass(frozen=True)
class Column(Generic[Record, Context]):
    """A column of a table of ``Record``, which shows ``text`` of ``value``, or ``cell``.

    A table that is too narrow hides the columns with the highest ``priority`` first, and never
    those with 0. One column of a table in the app may have no ``width``: it is flexible.
    """

    key: str
    """Its name in the code."""
    title: str
    width: int | None = None
    """In cells; the app adds free cells if a text is wider. The command line measures its texts."""
    value: Callable[[Record], Any] | None = None
    """Returns the value to show and to sort by, or ``None`` if unknown."""
    _: KW_ONLY
    least: int = 0
    """Least width if ``width`` is ``None``; on the command line 0 means: never cut."""
    right: bool = False
    """Aligned to the right, as numbers are."""
    priority: int = 0
    text: Callable[[Any], str] = str
    """Formats the value."""
    tone: Tone = "none"
    cell: Callable[[Record, Context], Cell | str] | None = None
    """Draws the cell if that needs more than the value."""
    largest_first: bool | None = None
    """Sort in descending order first; by default numbers do."""
    whole: bool = False
    """Columns of priority ``_OPTIONAL`` and above go before its texts are cut, if these have no
    more than ``FLEXIBLE_CELLS``."""

    def draw(self, record: Record, context: Context) -> Cell | str:
        """Return the cell of ``record``."""
        if self.cell is not None:
            return self.cell(record, context)
        value = None if self.value is None else self.value(record)
        known = value is not None and value != ""
        return Cell(plain(self.text(value)) if known else context.charset.missing, self.tone)


@dataclass(frozen=True, slots=True)
class Order(Generic[Record]):
    """The column by which a table is sorted, and the direction."""

    column: Column[Record, Any]
    descending: bool = False

    def reversed(self) -> Order[Record]:
        """Return the same column in the other direction."""
        return Order(self.column, not self.descending)

    def by(self, column: Column[Record, Any]) -> Order[Record]:
        """Return the order by ``column``; reversed if it is that already."""
        if column.value is None:
            return self
        first = column.right if column.largest_first is None else column.largest_first
        return self.reversed() if column == self.column else Order(column, first)

    def sort(self, records: Iterable[Record]) -> list[Record]:
        """Sort ``records``; unknown values come last in both directions. The sort is stable."""
        known: list[tuple[Any, Record]] = []
        unknown: list[Record] = []
        for record in records:
            value = None if self.column.value is None else self.column.value(record)
            if value is None:
                unknown.append(record)
            else:
                known.append((value, record))
        known.sort(key=lambda pair: pair[0], reverse=self.descending)
        return [record for _, record in known] + unknown


@dataclass(frozen=True)
class PlacedColumn:
    """A visible column: its index and its cells."""

    index: int
    start: int
    width: int

    @property
    def end(self) -> int:
        """The cell after its last one."""
        return self.start + self.width


def fitting(
    columns: Sequence[Column[Any, Any]], widths: Sequence[int], room: int, least: int = 1
) -> list[int]:
    """Return the indexes of the columns that fit into ``room`` cells at their least widths.

    Columns with a priority below ``least`` stay.
    """
    shown = list(range(len(columns)))
    while shown and _total(widths, shown) > room:
        last = max(shown, key=lambda index: (columns[index].priority, index))
        if columns[last].priority < least:
            break
        shown.remove(last)
    return shown


def place_columns(
    columns: Sequence[Column[Any, Any]],
    width: int,
    start: int = 0,
    widest: Sequence[int] | None = None,
) -> list[PlacedColumn]:
    """Place the columns that fit between the cells ``start`` and ``width``, left to right.

    ``widest`` are the cells of each column's widest text, with its title if that is shown. If the
    flexible column is too narrow for its own, the others give it the cells that theirs leave free.
    If it leaves cells free, the others take those that their texts need.
    """
    wanted = [0] * len(columns) if widest is None else widest
    sizes = [column.least if column.width is None else column.width for column in columns]
    shown = fitting(columns, sizes, width - start)
    flexible = next((index for index in shown if columns[index].width is None), None)
    if flexible is not None and columns[flexible].whole:
        tight = [min(pair) for pair in zip(sizes, wanted, strict=True)]
        tight[flexible] = max(sizes[flexible], min(FLEXIBLE_CELLS, wanted[flexible]))
        fit = fitting(columns, tight, width - start, _OPTIONAL)
        shown = [index for index in shown if index in fit]
    rest = width - start - _total(sizes, shown)
    fixed = [index for index in shown if index != flexible]
    if flexible is not None:
        for index in reversed(fixed):
            free = sizes[index] - wanted[index]
            given = max(0, min(free, wanted[flexible] - sizes[flexible] - rest))
            sizes[index] -= given
            rest += given
        # If even the columns with priority 0 do not fit, it shrinks, then all are cut.
        most = max(FLEXIBLE_CELLS, wanted[flexible], sizes[flexible])
        taken = min(rest, most - sizes[flexible])
        sizes[flexible] = max(1, sizes[flexible] + taken)
        rest -= taken
    for index in fixed:
        taken = max(0, min(rest, wanted[index] - sizes[index]))
        sizes[index] += taken
        rest -= taken
    placed = []
    for index in shown:
        size = min(sizes[index], width - start)
        if size <= 0:
            break
        placed.append(PlacedColumn(index, start, size))
        start += size + GAP
    return placed


def place_with_air(
    columns: Sequence[Column[Any, Any]], width: int, start: int, widest: Sequence[int]
) -> list[PlacedColumn]:
    """Place the columns as ``place_columns`` does, and leave the last cell of ``width`` free.

    Without that cell a text may be cut or hidden that has room with it: then it is used.
    """
    whole, airy = (place_columns(columns, width - air, start, widest) for air in (0, 1))
    shown = {
        sum(min(place.width, widest[place.index]) for place in places) for places in (whole, airy)
    }
    return airy if len(shown) == 1 else whole


def _total(widths: Sequence[int], shown: Sequence[int]) -> int:
    return sum(widths[index] for index in shown) + GAP * max(0, len(shown) - 1)
