"""Computes graphs in characters: a stacked area of several lines, and one line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from cyber_inference_tui.terminal.charset import Charset

SHADES = 5
"""Shades of the accent colour, for parts of a whole such as models."""
MACHINE_SHADE = 1
"""The shade of graphs that do not show models."""
Cell = tuple[str, str]
"""A character and the kind of its style, for example ``shade-0``, or ``shade-0/shade-1`` for a
character on the ground of another shade."""
FREE: Cell = (" ", "rest")
"""A cell without anything."""
_ASCII = " .:-=+*#%"
_WHOLE = 8
"""The steps of a cell."""
_EIGHTHS = " ▁▂▃▄▅▆▇█"
# Without colours for the shades, they differ by their fill.
FILLS = "█▓▒▓▒"
ASCII_FILLS = "#%@*+"


def spark(
    values: Sequence[float | None],
    width: int,
    maximum: float,
    charset: Charset,
    minimum: float = 0.0,
) -> str:
    """Return a graph of one line of ``width`` cells; ``None`` leaves a gap.

    The newest value, the last, is at the right. The lowest value is the lowest step, so that it
    differs from a gap. Values are limited to the scale.
    """
    steps = _EIGHTHS if charset.unicode else _ASCII
    shown = "".join(steps[_step(value, minimum, maximum)] for value in values[-width:])
    return shown.rjust(width)[: max(0, width)]


def _step(value: float | None, minimum: float, maximum: float) -> int:
    if value is None or math.isnan(value):
        return 0
    return max(1, _eighths(value, 1, minimum, maximum))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """The contents of a graph.

    Texts are pairs of a text and its kind: ``heading``, ``title``, ``figure``, ``note``, a shade,
    ``good``, ``busy`` or ``bad``.
    """

    series: tuple[tuple[float | None, ...], ...] = ()
    """The parts of the area, from the bottom; each has a value per column, oldest first."""
    shades: tuple[int, ...] = ()
    """The shades of the parts."""
    minimum: float = 0.0
    maximum: float = 100.0
    head: tuple[tuple[str, str], ...] = ()
    """The title line from the left."""
    tail: tuple[tuple[str, str], ...] = ()
    """Its end at the right, left out if there is no room."""
    scale: tuple[str, ...] = ()
    """Labels beside the graph, from the bottom to the top."""
    axis: tuple[tuple[str, str], ...] | None = None
    """The line below the graph."""
    marks: tuple[tuple[int, tuple[str, ...]], ...] = ()
    """Columns with a thin line; the first of the texts for which there is room is beside it."""
    short_marks: bool = False
    """The lines are beside their texts only, which costs less where they often move."""
    cursor: int | None = None
    """The column that is read."""


def shade_sign(shade: int, charset: Charset, *, colours: bool) -> str:
    """Return the character that stands for a shade in a legend."""
    if not charset.unicode:
        return ASCII_FILLS[shade % SHADES]
    return "■" if colours else FILLS[shade % SHADES]


def area(
    plot: Plot, width: int, height: int, charset: Charset, *, colours: bool = True
) -> list[list[Cell]]:
    """Return the lines of the stacked series, top first, with one value per cell.

    A column is a gap if no series has a value there. Where two shades meet, the lower one has an
    eighth block on the ground of the upper one. Without ``colours`` for the shades, these differ
    by their fill.
    """
    series, fills = plot.series, ""
    if not charset.unicode or not colours:
        fills = FILLS if charset.unicode else ASCII_FILLS
        fills = fills[0] * SHADES if len(plot.shades) == 1 else fills
    count = len(series[0]) if series else 0
    columns = []
    for place in range(count - width, count):
        values = [one[place] for one in series] if place >= 0 else []
        tops = _tops(values, height, plot.minimum, plot.maximum)
        columns.append(_column(tops, plot.shades, height, charset, fills))
    return [[column[line] for column in columns] for line in range(height - 1, -1, -1)]


def _tops(
    values: Sequence[float | None], height: int, minimum: float, maximum: float
) -> list[int] | None:
    """Return the eighths of a line up to each part's upper end; ``None`` is a gap."""
    if all(value is None or math.isnan(value) for value in values):
        return None
    limited = (value if value is not None and value > 0 else 0.0 for value in values)
    return [_eighths(value, height, minimum, maximum) for value in accumulate(limited)]


def _eighths(value: float, height: int, minimum: float, maximum: float) -> int:
    """Return the eighths of a line up to ``value``; something is never nothing."""
    if value <= minimum or not maximum > minimum:
        return 0
    share = min(1.0, (min(value, maximum) - minimum) / (maximum - minimum))
    return max(1, round(share * height * 8))


def _column(
    tops: Sequence[int] | None,
    shades: Sequence[int],
    height: int,
    charset: Charset,
    fills: str,
) -> list[Cell]:
    """Return the cells of one column, from the bottom."""
    if tops is None:
        return [FREE] * height
    parts = [
        (top, shade)
        for before, top, shade in zip([0, *tops], tops, shades, strict=False)
        if top > before
    ]
    cells = [_cell(parts, base, charset, fills) for base in range(0, height * 8, 8)]
    if not parts and cells:
        cells[0] = ("▁" if charset.unicode else "_", "ground")
    return cells


def _cell(parts: Sequence[tuple[int, int]], base: int, charset: Charset, fills: str) -> Cell:
    for index, (top, shade) in enumerate(parts):
        level = top - base
        if level <= 0:
            continue
        above = parts[index + 1][1] if index + 1 < len(parts) else None
        if not fills:
            if level >= _WHOLE:
                # A coloured ground has no seams between lines, and needs fewer bytes.
                return " ", f"/shade-{shade}"
            return _EIGHTHS[level], f"shade-{shade}" + ("" if above is None else f"/shade-{above}")
        if charset.unicode and above is None and level < _WHOLE:
            return _EIGHTHS[level], f"shade-{shade}"
        # The larger part has the cell, and the lowest cell is never empty.
        if level >= _WHOLE // 2 or (above is None and not base):
            return fills[shade % SHADES], f"shade-{shade}"
    return FREE
