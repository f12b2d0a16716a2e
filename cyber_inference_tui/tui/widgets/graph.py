"""A history graph: a stacked area as high as its place, newest at the right; and one in a line."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from operator import itemgetter
from typing import ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.geometry import Region
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from cyber_inference_tui.terminal.charset import UNICODE, Charset
from cyber_inference_tui.terminal.text_width import plain

SHADES = 5
"""Shades of the accent colour, for parts of a whole such as models."""
MACHINE_SHADE = 1
"""The shade of graphs that do not show models."""
Cell = tuple[str, str]
"""A character and the kind of its style, for example ``shade-0``, or ``shade-0/shade-1`` for a
character on the ground of another shade."""
_NEAR = 8
"""Cells between two changes in a line, up to which they are painted together."""
_FREE: Cell = (" ", "rest")
_ASCII = " .:-=+*#%"
_EIGHTHS = " ▁▂▃▄▅▆▇█"
# Without colour, the shades are told apart by their fill.
_FILLS = "█▓▒▓▒"
_ASCII_FILLS = "#%=*+"


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
    cursor: int | None = None
    """The column that is read."""


def area(
    plot: Plot, width: int, height: int, charset: Charset, *, colours: bool = True
) -> list[list[Cell]]:
    """Return the lines of the stacked series, top first, with one value per cell.

    A column is a gap if no series has a value there. Where two shades meet, the lower one has an
    eighth block on the ground of the upper one. Without ``colours``, shades differ by their fill.
    """
    series = plot.series
    count = len(series[0]) if series else 0
    columns = []
    for place in range(count - width, count):
        values = [one[place] for one in series] if place >= 0 else []
        tops = _tops(values, height, plot.minimum, plot.maximum)
        columns.append(_column(tops, plot.shades, height, charset, colours))
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
    colours: bool,
) -> list[Cell]:
    """Return the cells of one column, from the bottom."""
    if tops is None:
        return [_FREE] * height
    parts = [
        (top, shade)
        for before, top, shade in zip([0, *tops], tops, shades, strict=False)
        if top > before
    ]
    cells = [_cell(parts, base, charset, colours) for base in range(0, height * 8, 8)]
    if not parts and cells:
        cells[0] = ("▁" if charset.unicode else "_", "ground")
    return cells


def _cell(parts: Sequence[tuple[int, int]], base: int, charset: Charset, colours: bool) -> Cell:
    for index, (top, shade) in enumerate(parts):
        if top <= base:
            continue
        level = top - base
        if not charset.unicode:
            # Half a cell or more is drawn, and the lowest cell always.
            drawn = level >= 4 or not base
            return (_ASCII_FILLS[shade % SHADES], f"shade-{shade}") if drawn else _FREE
        if level >= 8:
            # A coloured ground has no seams between lines, and needs fewer bytes.
            return (" ", f"/shade-{shade}") if colours else (_FILLS[shade % SHADES], "rest")
        above = parts[index + 1][1] if index + 1 < len(parts) else None
        return _EIGHTHS[level], f"shade-{shade}" + ("" if above is None else f"/shade-{above}")
    return _FREE


class Graph(Widget):
    """Shows a ``Plot``, with a title above and an axis below if there are any.

    The CSS classes ``-busy`` and ``-bad`` colour an area of one part.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        f"graph--{name}"
        for name in (
            *(
                "heading",
                "title",
                "figure",
                "note",
                "rest",
                "ground",
                "mark",
                "cursor",
                "good",
                "busy",
                "bad",
            ),
            *(f"shade-{number}" for number in range(SHADES)),
        )
    }
    DEFAULT_CSS = """
    Graph {
        height: 3;
        width: 1fr;
        & > .graph--heading { color: $text-muted; text-style: bold; }
        & > .graph--title { color: $text-muted; }
        & > .graph--figure { color: $foreground; text-style: bold; }
        & > .graph--note { color: $text-muted; }
        & > .graph--ground { color: $foreground 25%; }
        & > .graph--mark { color: $foreground 35%; }
        & > .graph--cursor { background: $foreground 30%; color: $foreground; }
        & > .graph--good { color: $text-success; }
        & > .graph--busy { color: $text-warning; }
        & > .graph--bad { color: $text-error; }
        & > .graph--shade-0 { color: $accent; }
        & > .graph--shade-1 { color: $accent 58%; }
        & > .graph--shade-2 { color: $accent 36%; }
        & > .graph--shade-3 { color: $accent 80%; }
        & > .graph--shade-4 { color: $accent 22%; }
        &.-busy > .graph--shade-0 { color: $warning 70%; }
        &.-bad > .graph--shade-0 { color: $error 70%; }
    }
    """
    ALLOW_SELECT = False

    class Reshaped(Message):
        """Posted after a change of the size: the plot needs another number of values."""

    def __init__(
        self,
        *,
        charset: Charset = UNICODE,
        id: str | None = None,  # noqa: A002 - Textual's name
        classes: str | None = None,
    ) -> None:
        super().__init__(id=id, classes=classes)
        self._charset = charset
        self._plot = Plot()
        self._shown: list[list[Cell]] = []

    @property
    def plot_width(self) -> int:
        """The cells beside the scale's labels."""
        return max(0, self.size.width - self._gutter(self._plot))

    def show(self, plot: Plot) -> None:
        """Show ``plot``; only cells that changed are painted."""
        if plot != self._plot:
            self._plot = plot
            self._compute()

    def _on_resize(self, event: events.Resize) -> None:
        self._shown = []
        self._compute()
        self.post_message(self.Reshaped())

    @staticmethod
    def _gutter(plot: Plot) -> int:
        return max(map(cell_len, plot.scale)) + 2 if plot.scale else 0

    def _compute(self) -> None:
        width, height = self.size
        if not width or not height:
            return
        lines = self._lines(self._plot, width, height)
        before, self._shown = self._shown, lines
        if len(before) != len(lines):
            self.refresh()
            return
        for y, (old, new) in enumerate(zip(before, lines, strict=True)):
            if new != old:
                self.refresh(*(Region(x, y, end - x, 1) for x, end in _changes(old, new)))

    def _lines(self, plot: Plot, width: int, height: int) -> list[list[Cell]]:
        lines = []
        if plot.head:
            lines.append(self._title(plot, width))
        height -= len(lines) + (plot.axis is not None)
        lines += self._body(plot, width, max(0, height))
        if plot.axis is not None:
            lines.append(_fitted(_cells(plot.axis), width))
        return lines

    def _title(self, plot: Plot, width: int) -> list[Cell]:
        head, tail = _cells(plot.head), _cells(plot.tail)
        if tail and len(head) + 2 + len(tail) <= width:
            return [*_fitted(head, width - len(tail)), *tail]
        if len(head) > width:
            head = [*head[: width - 1], (self._charset.ellipsis, head[width - 1][1])]
        return _fitted(head, width)

    def _body(self, plot: Plot, width: int, height: int) -> list[list[Cell]]:
        room = max(0, width - self._gutter(plot))
        charset = self._charset
        lines = area(plot, room, height, charset, colours=not self.app.no_color)
        for place, texts in plot.marks:
            if 0 <= place < room:
                _draw_mark(lines, place, texts, charset)
        for line in lines:
            if plot.cursor is not None and 0 <= plot.cursor < room:
                character, kind = line[plot.cursor]
                full = kind.startswith("/")
                line[plot.cursor] = ("│" if full and charset.unicode else character, f"{kind}|")
        for y, label in _labels(plot.scale, height):
            lines[y] += [_FREE, *_cells([(label, "note")])]
        return [_fitted(line, width) for line in lines]

    def render_line(self, y: int) -> Strip:
        """Render a computed line."""
        width = self.size.width
        if y >= len(self._shown):
            return Strip.blank(width, self.rich_style)
        segments = [
            Segment("".join(character for character, _ in run), self._style(kind))
            for kind, run in groupby(self._shown[y], key=itemgetter(1))
        ]
        # After a change of the layout, lines have the former width until the resize event.
        return Strip(segments).adjust_cell_length(width, self.rich_style)

    def _style(self, kind: str) -> Style:
        at_cursor = kind.endswith("|")
        front, _, ground = kind.removesuffix("|").partition("/")
        style = self.get_component_rich_style(f"graph--{front or 'rest'}")
        if ground:
            style += Style(bgcolor=self.get_component_rich_style(f"graph--{ground}").color)
        if not at_cursor:
            return style
        cursor = self.get_component_rich_style("graph--cursor")
        if ground:
            return style + Style(color=self.rich_style.bgcolor)
        return style + Style(bgcolor=cursor.bgcolor)


def _draw_mark(lines: list[list[Cell]], place: int, texts: Sequence[str], charset: Charset) -> None:
    """Draw a thin line through the free cells of a column, and a text on its right."""
    for line in lines:
        if line[place] == _FREE:
            line[place] = (charset.mark, "mark")
    for text in texts:
        cells = _cells([(f" {text}", "note")])
        end = place + 1 + len(cells)
        for line in lines:
            if end <= len(line) and all(cell == _FREE for cell in line[place + 1 : end + 1]):
                line[place + 1 : end] = cells
                return


def _labels(scale: Sequence[str], height: int) -> Iterable[tuple[int, str]]:
    """Return the lines of the labels: their ends are the first and the last line."""
    if not scale or height < 1:
        return
    used = set()
    shown = scale if height >= 2 * len(scale) - 1 else [scale[0], scale[-1]]
    for place, label in enumerate(reversed(shown)):
        y = round(place * (height - 1) / max(1, len(shown) - 1))
        if y not in used:
            used.add(y)
            yield y, label


def _cells(texts: Iterable[tuple[str, str]]) -> list[Cell]:
    """Return texts as cells; a wide character has an empty one behind it."""
    cells: list[Cell] = []
    for text, kind in texts:
        for character in plain(text):
            size = cell_len(character)
            if size or not cells:
                cells.append((character, kind))
                cells += [("", kind)] * (size - 1)
            else:
                cells[-1] = (cells[-1][0] + character, cells[-1][1])
    return cells


def _fitted(cells: list[Cell], width: int) -> list[Cell]:
    cells = cells[: max(0, width)]
    if cells and cell_len(cells[-1][0]) > 1:
        cells[-1] = (" ", cells[-1][1])  # its second half was cut
    return cells + [_FREE] * (width - len(cells))


def _changes(old: Sequence[Cell], new: Sequence[Cell]) -> list[tuple[int, int]]:
    """Return the parts of a line that differ: their first cells and the cells after their last.

    Parts that are near each other are one, because each costs some bytes.
    """
    found: list[tuple[int, int]] = []
    for x, cell in enumerate(new):
        if x < len(old) and cell == old[x]:
            continue
        start = x
        # Begin with a whole character.
        while start > 0 and (not new[start][0] or (start < len(old) and not old[start][0])):
            start -= 1
        if found and start - found[-1][1] < _NEAR:
            start = found.pop()[0]
        found.append((start, x + 1))
    return found
