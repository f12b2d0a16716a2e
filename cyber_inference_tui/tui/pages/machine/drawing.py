"""Draws the parts of the machine in as many columns as there is room for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise, zip_longest

from rich.cells import cell_len

from cyber_inference_tui.terminal.charset import Charset
from cyber_inference_tui.terminal.text_width import cut, fit, wrap
from cyber_inference_tui.tui.pages.dashboard.measures import Measure
from cyber_inference_tui.tui.pages.dashboard.timeline import Texts
from cyber_inference_tui.tui.pages.machine.rows import Row
from cyber_inference_tui.tui.pages.machine.sections import Section
from cyber_inference_tui.tui.widgets.area import FREE, MACHINE_SHADE, Cell, Plot, area, spark
from cyber_inference_tui.tui.widgets.graph import fitted, text_cells

Series = Callable[[Measure, int], Sequence[float | None]]
"""Returns the last values of a measure, one for each of so many columns."""
Lines = list[list[Cell]]

_TWO_COLUMNS, _THREE_COLUMNS = 76, 150
"""The least cells for so many columns."""
_WIDE = 100
"""The least cells for the larger gap."""
_GAP, _NARROW_GAP = 4, 3
_FIGURE = 16
"""Cells of a figure, so that bars end at the same cell: ``0.41 of 7.40 GiB``."""
_MOST_NAME, _MOST_SMALL_NAME = 14, 18
_LEAST_BAR = 4
_HIGH_GRAPH, _LOW_GRAPH = 20, 8
_GOOD_GRAPH = 3
"""Lines of a graph that is good to read."""
_CALM = {"memory", "temperature"}
"""Measures that change little."""
_MOST_LINES = 8
"""Lines of cores or sensors."""
_SMALL_GAP = 3


@dataclass(frozen=True, slots=True)
class Drawing:
    """Draws the machine with these characters and the values of ``series``."""

    charset: Charset
    colours: bool
    """The terminal shows shades."""
    series: Series

    def lines(
        self, found: Sequence[Section], head: Sequence[Texts], size: tuple[int, int]
    ) -> Lines:
        """Return the lines of the page for ``size`` in cells; there may be more than its height.

        ``head`` are the lines above all columns. Graphs take the height that is left.
        """
        width, height = size
        lines = [fitted(text_cells(texts), width) for texts in head]
        lines.append([])
        count = 1 + (width >= _TWO_COLUMNS) + (width >= _THREE_COLUMNS)
        if count == 1:
            lines += [*self._essentials(found, width), []]
        gap = _GAP if width >= _WIDE else _NARROW_GAP
        room = (width - gap * (count - 1)) // count
        left = height - len(lines)

        def least(one: Section) -> int:
            graph = 0 if one.measure is None else _GOOD_GRAPH
            return len(self._body(one, room, 0)) + 2 + graph

        columns = [
            self._column(column, room, left) for column in _spread(found, count, left, least)
        ]
        for parts in zip_longest(*columns, fillvalue=[]):
            cells = [cell for part in parts for cell in (*fitted(part, room), *[FREE] * gap)]
            lines.append(cells)
        return [fitted(line, width) for line in lines]

    def _column(self, found: Sequence[Section], width: int, height: int) -> Lines:
        names = _name_width(row for one in found for row in one.rows)
        bodies = [self._body(one, width, names) for one in found]
        heights = _graph_heights(
            [one.measure for one in found], height - sum(len(body) + 2 for body in bodies) + 1
        )
        lines: Lines = []
        for one, tall, body in zip(found, heights, bodies, strict=True):
            if lines:
                lines.append([])
            lines.append(self._heading(one, width))
            if one.measure is not None:
                tone = "" if one.main is None else one.main.tone
                lines += self._graph(one.measure, tone, width, tall)
            lines += body
        return lines

    def _heading(self, section: Section, width: int) -> list[Cell]:
        """Return the title, what it is about and the most important figure at the right."""
        figure = "" if section.main is None else section.main.figure
        tone = "" if section.main is None else section.main.tone
        left = width - cell_len(figure) - 2
        about = cut(section.about, left - cell_len(section.title) - 2, self.charset.ellipsis)
        cells = text_cells([(section.title, "heading"), (f"  {about}", "note")])
        return [*fitted(cells, width - cell_len(figure)), *text_cells([(figure, tone or "figure")])]

    def _graph(self, measure: Measure, tone: str, width: int, height: int) -> Lines:
        plot = Plot(
            series=(tuple(self.series(measure, width)),),
            shades=(MACHINE_SHADE,),
            minimum=measure.minimum,
            maximum=measure.maximum,
        )
        lines = area(plot, width, height, self.charset, colours=self.colours)
        if not tone:
            return lines
        shade = f"shade-{MACHINE_SHADE}"
        return [
            [(text, kind.replace(shade, f"{tone}-area")) for text, kind in line] for line in lines
        ]

    def _body(self, section: Section, width: int, names: int) -> Lines:
        """Return what is below the graph."""
        lines = [self._row(row, width, names) for row in section.rows]
        lines += self._small(section.small, width)
        widest = max((cell_len(name) for name, _ in section.notes), default=0)
        for name, remark in section.notes:
            for number, (start, end) in enumerate(wrap(remark, max(10, width - widest - 2))):
                shown = "" if number else name
                texts = [(f"{shown:<{widest}}  ", "title"), (remark[start:end], "note")]
                lines.append(text_cells(texts))
        widest = max((cell_len(one.text) for one in section.commands), default=0)
        for command in section.commands:
            about = f"  {command.about}" if widest + 2 + cell_len(command.about) <= width else ""
            lines.append(text_cells([(f"{command.text:<{widest}}", "rest"), (about, "note")]))
        return lines

    def _row(self, row: Row, width: int, names: int) -> list[Cell]:
        """Return a line with a bar; a long name or figure takes cells of the bar."""
        figures = max(_FIGURE, cell_len(row.figure))
        least = 0 if row.share is None else _LEAST_BAR + 1
        names = min(max(names, cell_len(row.name)), max(1, width - figures - 2 - least))
        return text_cells(
            [
                (fit(row.name, names, "left", self.charset.ellipsis), "title"),
                *self._bar(row, width - names - figures - 2),
                (fit(row.figure, figures, "right", self.charset.ellipsis), row.tone or "rest"),
            ]
        )

    def _bar(self, row: Row, width: int) -> Texts:
        """Return a bar of ``width`` cells, with a space at each side."""
        if row.share is None:
            return ((" " * (width + 2), "rest"),)
        full, rest = ("━", "─") if self.charset.unicode else ("#", ".")
        filled = round(max(0.0, min(1.0, row.share)) * width)
        return (
            (" ", "rest"),
            (full * filled, row.tone or "shade-0"),
            (rest * (width - filled), "ground"),
            (" ", "rest"),
        )

    # Many rows of the same kind

    def _small(self, rows: Sequence[Row], width: int) -> Lines:
        """Return rows in several columns, from top to bottom.

        Too many cores are one character each; of too many sensors, the last ones are left out.
        """
        if not rows:
            return []
        for sizes in _small_sizes(rows):
            across = max(1, (width + _SMALL_GAP) // (sum(sizes) + 2 + _LEAST_BAR + _SMALL_GAP))
            down = -(-len(rows) // across)
            if down <= _MOST_LINES:
                break
        else:
            if rows[0].name.isdigit():
                return self._one_character_each(rows, width)
            down, rows = _MOST_LINES, rows[: across * _MOST_LINES]
        across = -(-len(rows) // down)
        each, more = divmod(width - _SMALL_GAP * (across - 1), across)
        lines: Lines = []
        for top in range(down):
            line: list[Cell] = []
            for place, row in enumerate(rows[top::down]):
                line += self._small_row(row, each + (place < more), sizes)
                line += [FREE] * _SMALL_GAP
            lines.append(line)
        return lines

    def _small_row(self, row: Row, width: int, sizes: tuple[int, int, int]) -> list[Cell]:
        names, figures, more = sizes
        dots = self.charset.ellipsis
        name = fit(row.name, names, "right" if row.name.isdigit() else "left", dots)
        texts = (
            (name, "title"),
            *self._bar(row, max(0, width - sum(sizes) - 2)),
            (fit(row.figure, figures, "right", dots), row.tone or "rest"),
            (fit(row.more, more, "right", dots), "note"),
        )
        return fitted(text_cells(texts), width)

    def _one_character_each(self, rows: Sequence[Row], width: int) -> Lines:
        names = max(cell_len(row.name) for row in rows)
        across = next((many for many in (64, 32, 16) if many + names + 1 <= width), 8)
        lines = []
        for start in range(0, len(rows), across):
            shares = [row.share for row in rows[start : start + across]]
            name = f"{rows[start].name:>{names}} "
            texts = [(name, "title"), (spark(shares, len(shares), 1.0, self.charset), "shade-0")]
            lines.append(text_cells(texts))
        return lines

    # Little room

    def _essentials(self, found: Sequence[Section], width: int) -> Lines:
        """Return the most important figures, one line each, and the commands."""
        rows: list[Row] = []
        for one in found:
            inner = "" if one.main is None else "  "
            rows += [] if one.main is None else [one.main]
            rows += [replace(row, name=f"{inner}{row.name}") for row in one.rows if row.essential]
        names = _name_width(rows)
        lines = [self._row(row, width, names) for row in rows]
        for one in found:
            lines += self._body(Section(title="", commands=one.commands), width, 0)
        return lines


def _spread(
    found: Sequence[Section], count: int, room: int, height: Callable[[Section], int]
) -> list[Sequence[Section]]:
    """Return the sections in ``count`` columns, in order: as high as ``room`` if possible.

    Of equally good ways, the graphs are spread evenly, then the heights.
    """
    heights = [height(one) for one in found]
    graphs = [one.measure is not None for one in found]
    count = min(count, len(found)) or 1

    def cost(way: Sequence[int]) -> tuple[int, int, int]:
        highest = max(sum(heights[start:end]) for start, end in pairwise(way))
        most = max(sum(graphs[start:end]) for start, end in pairwise(way))
        return max(room, highest), most, highest

    cuts = combinations(range(1, len(found)), count - 1)
    best = min(((0, *places, len(found)) for places in cuts), key=cost)
    return [found[start:end] for start, end in pairwise(best)]


def _graph_heights(found: Sequence[Measure | None], room: int) -> list[int]:
    """Return the lines of each graph, at least 1; those that change little stay low."""
    most = [0 if one is None else _LOW_GRAPH if one.name in _CALM else _HIGH_GRAPH for one in found]
    heights = [min(1, limit) for limit in most]
    while sum(heights) < room and heights != most:
        growing = [place for place, tall in enumerate(heights) if tall < most[place]]
        heights[min(growing, key=heights.__getitem__)] += 1
    return heights


def _name_width(rows: Iterable[Row]) -> int:
    return min(_MOST_NAME, max((cell_len(row.name) for row in rows), default=0))


def _small_sizes(rows: Sequence[Row]) -> Iterable[tuple[int, int, int]]:
    """Yield the cells for names, figures and second figures; then without the second."""
    names = min(_MOST_SMALL_NAME, max(cell_len(row.name) for row in rows))
    # "100 %" is the widest of its kind, so that nothing moves.
    figures = max(5, *(cell_len(row.figure) for row in rows))
    if more := max(cell_len(row.more) for row in rows):
        yield names, figures, more + 2
    yield names, figures, 0
