"""Where a table's columns stand in the width there is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cyber_inference_tui.terminal.text_width import Align

GAP = 2
"""Cells between two columns."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column. One column of a table may have the ``width`` ``None``: it takes the rest.

    Where the table is too narrow, the columns with the highest ``priority`` number go first; those
    with 0 stay always.
    """

    key: str
    title: str
    width: int | None = None
    """In cells, without the gap to the next column."""
    align: Align = "left"
    priority: int = 0
    least: int = 12
    """The least width of the one that takes the rest."""


@dataclass(frozen=True)
class Place:
    """A column that is shown: its index, and its cells from ``start`` on."""

    index: int
    start: int
    width: int

    @property
    def end(self) -> int:
        """The cell after its last one."""
        return self.start + self.width


def places(columns: Sequence[Column], width: int, start: int = 0) -> list[Place]:
    """The columns that find room between the cells ``start`` and ``width``, from left to right."""
    shown = list(range(len(columns)))
    while shown and _needed(columns, shown) > width - start:
        last = max(shown, key=lambda index: (columns[index].priority, index))
        if columns[last].priority <= 0:
            break
        shown.remove(last)
    rest = width - start - _needed(columns, shown)
    placed = []
    for index in shown:
        column = columns[index]
        # Too narrow even for those that stay: the one that can shrink does, then the right is cut.
        size = max(1, column.least + rest) if column.width is None else column.width
        size = min(size, width - start)
        if size <= 0:
            break
        placed.append(Place(index, start, size))
        start += size + GAP
    return placed


def _needed(columns: Sequence[Column], shown: Sequence[int]) -> int:
    widths = (
        column.least if column.width is None else column.width
        for column in (columns[index] for index in shown)
    )
    return sum(widths) + GAP * max(0, len(shown) - 1)
