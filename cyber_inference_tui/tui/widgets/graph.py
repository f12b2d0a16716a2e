"""A history graph as high as its place, newest at the right."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
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
from cyber_inference_tui.tui.frames import joined
from cyber_inference_tui.tui.widgets.area import FREE, SHADES, Cell, Plot, area


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
                self.refresh(*(Region(x, y, end - x, 1) for x, end in joined(_changes(old, new))))

    def _lines(self, plot: Plot, width: int, height: int) -> list[list[Cell]]:
        lines = []
        if plot.head:
            lines.append(self._title(plot, width))
        height -= len(lines) + (plot.axis is not None)
        lines += self._body(plot, width, max(0, height))
        if plot.axis is not None:
            lines.append(fitted(text_cells(plot.axis), width))
        return lines

    def _title(self, plot: Plot, width: int) -> list[Cell]:
        head, tail = text_cells(plot.head), text_cells(plot.tail)
        if tail and len(head) + 2 + len(tail) <= width:
            return [*fitted(head, width - len(tail)), *tail]
        if len(head) > width:
            head = [*head[: width - 1], (self._charset.ellipsis, head[width - 1][1])]
        return fitted(head, width)

    def _body(self, plot: Plot, width: int, height: int) -> list[list[Cell]]:
        room = max(0, width - self._gutter(plot))
        charset = self._charset
        lines = area(plot, room, height, charset, colours=has_shades(self))
        for place, texts in plot.marks:
            if 0 <= place < room:
                _draw_mark(lines, place, texts, charset.mark, short=plot.short_marks)
        for line in lines:
            if plot.cursor is not None and 0 <= plot.cursor < room:
                character, kind = line[plot.cursor]
                full = kind.startswith("/")
                line[plot.cursor] = ("│" if full and charset.unicode else character, f"{kind}|")
        for y, label in _labels(plot.scale, height):
            lines[y] += [FREE, *text_cells([(label, "note")])]
        return [fitted(line, width) for line in lines]

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


def has_shades(widget: Widget) -> bool:
    """Return whether the terminal shows shades: themes with the terminal's own colours do not."""
    return not (widget.app.no_color or widget.app.native_ansi_color)


def _draw_mark(
    lines: list[list[Cell]], place: int, texts: Sequence[str], sign: str, *, short: bool
) -> None:
    """Draw a thin line through the free cells of a column, and a text on its right or left."""
    mark = (sign, "mark")
    if not short:
        for line in lines:
            if line[place] == FREE:
                line[place] = mark
    for text in texts:
        cells = text_cells([(text, "note")])
        right, left = [mark, FREE, *cells], [*cells, FREE, mark]
        for line in lines:
            if line[place] in {FREE, mark} and (
                _put(line, place, right) or _put(line, place + 1 - len(left), left)
            ):
                return


def _put(line: list[Cell], start: int, cells: list[Cell]) -> bool:
    """Put ``cells`` into a line if there is room, and a free cell at both ends."""
    end = start + len(cells)
    around = {cell for cell in line[max(0, start - 1) : end + 1] if cell[1] != "mark"}
    if start < 0 or end > len(line) or not around <= {FREE}:
        return False
    line[start:end] = cells
    return True


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


def text_cells(texts: Iterable[tuple[str, str]]) -> list[Cell]:
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


def fitted(cells: list[Cell], width: int) -> list[Cell]:
    """Cut or fill ``cells`` to ``width``."""
    cells = cells[: max(0, width)]
    if cells and cell_len(cells[-1][0]) > 1:
        cells[-1] = (" ", cells[-1][1])  # its second half was cut
    return cells + [FREE] * (width - len(cells))


def _changes(old: Sequence[Cell], new: Sequence[Cell]) -> Iterable[tuple[int, int]]:
    """Return the parts of a line that differ: their first cells and the cells after their last."""
    for x, cell in enumerate(new):
        if x < len(old) and cell == old[x]:
            continue
        start = x
        # Begin with a whole character.
        while start > 0 and (not new[start][0] or (start < len(old) and not old[start][0])):
            start -= 1
        yield start, x + 1
