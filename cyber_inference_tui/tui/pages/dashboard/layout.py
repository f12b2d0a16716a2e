"""The division of the dashboard's rows and columns among its parts, for any terminal."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

_BESIDE_COLUMNS = 148
"""Columns from which the small graphs are beside the large one, and details beside the models."""
_LEAST_COLUMNS = 56
_LEAST_ROWS = 26
"""Columns and rows of the board from which there are small graphs."""
_SMALL_WIDTH = 27
_SMALL_SHARE = 0.36
_LEAST_LARGE = 5
_HIGH_ROWS = 48
_LOG_COLUMNS = 158
_LOG_ROWS = 28
"""Columns of the board, and rows below the graphs, from which a log has room."""


class Layout(IntEnum):
    """The weight of the graphs against the lists, which a person chooses."""

    LISTS = 0
    BALANCED = 1
    GRAPHS = 2


_SHARES = {Layout.LISTS: 0.0, Layout.BALANCED: 0.4, Layout.GRAPHS: 0.6}
_BESIDE_SHARES = {Layout.LISTS: 0.22, Layout.BALANCED: 0.38, Layout.GRAPHS: 0.55}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Rows and columns of the graphs; the rest of the board is for models and lists."""

    beside: bool = False
    """The small graphs are beside the large one, and the selected model's details beside it."""
    side: int = 0
    """The columns beside the large graph and the models."""
    log: bool = False
    """The selected model's log is below the events."""
    large: int = 0
    """The rows of the large graph with its title and its axis; 0 = there is none."""
    axis: bool = False
    small: int = 0
    """The rows of each small graph with its title; 0 = gauges instead."""
    across: int = 1
    """Small graphs in a row."""
    shown: int = 0
    """Small graphs."""
    gauges: int = 0
    """Lines of gauges, each with two."""

    @property
    def rows(self) -> int:
        """The rows of all graphs together."""
        lines = -(-self.shown // self.across)
        small = 0 if self.beside or not self.small else lines * self.small + 1
        return self.large + small + self.gauges


def plan(width: int, height: int, graphs: int, layout: Layout = Layout.BALANCED) -> Plan:
    """Return the plan for a board of ``width`` by ``height`` with as many small ``graphs``."""
    graphs = max(1, graphs)
    if width >= _BESIDE_COLUMNS and height >= _LEAST_ROWS:
        return _beside(width, height, graphs, layout)
    if width >= _LEAST_COLUMNS and height >= _LEAST_ROWS and layout is not Layout.LISTS:
        return _below(width, height, graphs, layout)
    if height < 20:
        return Plan(gauges=3)
    if layout is Layout.LISTS:
        return Plan(gauges=2) if height < _LEAST_ROWS else Plan(large=5, axis=True, gauges=2)
    return Plan(large=6 if layout is Layout.GRAPHS else 4, gauges=2)


def _beside(width: int, height: int, graphs: int, layout: Layout) -> Plan:
    rows = max(8, round(height * _BESIDE_SHARES[layout]))
    side = max(2 * _SMALL_WIDTH + 4, round(width * _SMALL_SHARE))
    across, lines = _grid(side, graphs, rows // 3)
    return Plan(
        beside=True,
        side=side,
        log=width >= _LOG_COLUMNS and height - rows >= _LOG_ROWS,
        large=rows,
        axis=True,
        small=rows // lines,
        across=across,
        shown=min(graphs, across * lines),
    )


def _below(width: int, height: int, graphs: int, layout: Layout) -> Plan:
    rows = round(height * _SHARES[layout])
    small = 4 if height >= _HIGH_ROWS else 3
    most = max(1, (rows - _LEAST_LARGE - 1) // small)
    across, lines = _grid(width, graphs, most)
    return Plan(
        large=max(_LEAST_LARGE, rows - lines * small - 1),
        axis=True,
        small=small,
        across=across,
        shown=min(graphs, across * lines),
    )


def _grid(width: int, graphs: int, most_lines: int) -> tuple[int, int]:
    """Return columns and lines for the graphs: as few lines as needed, evenly filled."""
    most_across = max(1, width // _SMALL_WIDTH)
    lines = max(1, min(most_lines, -(-graphs // most_across)))
    return min(most_across, -(-graphs // lines)), lines
