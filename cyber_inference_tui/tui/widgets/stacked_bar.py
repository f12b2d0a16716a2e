"""A stacked bar of one line, such as for the parts of a machine's memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.geometry import Size
from textual.strip import Strip
from textual.widget import Widget

from cyber_inference_tui.terminal.charset import UNICODE, Charset
from cyber_inference_tui.terminal.text_width import cut, plain
from cyber_inference_tui.tui.widgets.area import ASCII_FILLS, FILLS, SHADES
from cyber_inference_tui.tui.widgets.graph import has_shades

BarPartKind = Literal["model", "system", "free"]

# Where there are no shades, each kind and each model has its own fill.
_UNICODE_FILL = {"model": FILLS, "system": "░", "free": "·", "rest": " "}
_ASCII_FILL = {"model": ASCII_FILLS, "system": "=", "free": ".", "rest": " "}
_SHORTEST_NAME = 4


@dataclass(frozen=True)
class BarPart:
    """A part: ``value`` in the unit of the total, ``figure`` as its text (``3.1``)."""

    label: str
    value: float
    kind: BarPartKind
    figure: str = ""
    shade: int | None = None
    """The shade of a model, as in a graph; by default models alternate."""


@dataclass(frozen=True)
class Span:
    """A text in the bar: some fill, a part's label, or the tick."""

    text: str
    style: str
    """``shade-0`` and so on, ``system``, ``free`` or ``rest``."""
    content: Literal["fill", "label", "mark"] = "fill"


def shares(values: Sequence[float], total: float, width: int) -> list[int]:
    """Return the cells for each of ``values`` out of ``total``, and for the rest of the total.

    The cells add up to ``width``: the largest remainders get the cells that rounding leaves. Each
    positive value gets a cell while there are enough. If the values exceed the total, they share
    the whole width.
    """
    width = max(0, width)
    clean = [value if value > 0 and math.isfinite(value) else 0.0 for value in values]
    total = total if total > 0 and math.isfinite(total) else 0.0
    largest_value = max([*clean, total])
    if largest_value <= 0:
        return [0] * len(clean) + [width]
    # Divide by the largest value first, because a sum of huge numbers may be infinite.
    clean = [value / largest_value for value in clean]
    used = sum(clean)
    whole = max(used, total / largest_value)
    parts = [*clean, whole - used]
    exact = [value / whole * width for value in parts]
    cells = [int(part) for part in exact]
    by_remainder = sorted(range(len(parts)), key=lambda at: cells[at] - exact[at])
    left = width - sum(cells)
    for at in (by_remainder * 2)[: max(0, left)]:
        cells[at] += 1
    for at, value in enumerate(clean):
        largest = max(range(len(cells)), key=cells.__getitem__)
        if value > 0 and cells[at] == 0 and cells[largest] > 1:
            cells[at], cells[largest] = 1, cells[largest] - 1
    return cells


def layout(
    parts: Sequence[BarPart], total: float, width: int, mark: float | None, charset: Charset
) -> list[Span]:
    """Return the bar as spans of ``width`` cells in total."""
    cells = shares([part.value for part in parts], total, width)
    fill = _UNICODE_FILL if charset.unicode else _ASCII_FILL
    tick = _mark_cell(mark, max(total, 0.0), width)
    spans: list[Span] = []
    start = 0
    models = 0
    for part, size in zip([*parts, None], cells, strict=True):
        kind = "rest" if part is None else part.kind
        style: str = kind
        character = fill[kind][0]
        if part is not None and kind == "model":
            shade = (models if part.shade is None else part.shade) % SHADES
            style, character = f"shade-{shade}", fill[kind][shade]
            models += 1
        before = size if tick is None or not start <= tick < start + size else tick - start
        after = size - before - (before < size)
        # The tick may be inside the part: put the label on the longer side.
        label = "" if part is None else _label(part, max(before, after), charset)
        spans += _filled(character, style, before, label if before >= after else "")
        if before < size:
            spans.append(Span(charset.mark, style, "mark"))
            spans += _filled(character, style, after, "" if before >= after else label)
        start += size
    return [span for span in spans if span.text]


def _mark_cell(mark: float | None, total: float, width: int) -> int | None:
    if mark is None or not (mark >= 0 and total > 0 and width > 0):
        return None
    return min(width - 1, int(min(1.0, mark / total) * width))


def _label(part: BarPart, room: int, charset: Charset) -> str:
    """Return as much of the label as fits with a space at each side and some fill."""
    room -= 3
    figure, name = plain(part.figure), plain(part.label)
    beside = f" {figure}" if figure else ""
    name_room = room - cell_len(beside)
    if name and name_room >= min(_SHORTEST_NAME, cell_len(name)):
        return f" {cut(name, name_room, charset.ellipsis)}{beside} "
    return f" {figure} " if figure and cell_len(figure) <= room else ""


def _filled(fill: str, style: str, size: int, label: str) -> list[Span]:
    return [Span(fill * (size - cell_len(label)), style), Span(label, style, "label")]


class StackedBar(Widget):
    """Shows parts of a total, each as wide as its share, with labels where they fit."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        *(f"stackedbar--shade-{number}" for number in range(SHADES)),
        "stackedbar--system",
        "stackedbar--free",
        "stackedbar--rest",
        "stackedbar--mark",
        "stackedbar--label",
    }
    # The grounds of the shades are the colours of the graphs' shades.
    DEFAULT_CSS = """
    StackedBar {
        height: 1;
        width: 1fr;
        & > .stackedbar--shade-0 { background: $accent; color: auto 90%; }
        & > .stackedbar--shade-1 { background: $accent 58%; color: auto 90%; }
        & > .stackedbar--shade-2 { background: $accent 36%; color: auto 90%; }
        & > .stackedbar--shade-3 { background: $accent 80%; color: auto 90%; }
        & > .stackedbar--shade-4 { background: $accent 22%; color: auto 90%; }
        & > .stackedbar--system { background: $foreground 20%; color: $foreground; }
        & > .stackedbar--free { background: $foreground 6%; color: $text-muted; }
        & > .stackedbar--rest { color: $text-disabled; }
        & > .stackedbar--mark { color: $text-warning; text-style: bold; }
        & > .stackedbar--label { color: $foreground; }
    }
    """
    ALLOW_SELECT = False

    def __init__(
        self,
        *,
        charset: Charset = UNICODE,
        id: str | None = None,  # noqa: A002 - Textual's name
        classes: str | None = None,
    ) -> None:
        super().__init__(id=id, classes=classes)
        self._charset = charset
        self._parts: tuple[BarPart, ...] = ()
        self._total = 0.0
        self._mark: float | None = None
        self._spans: list[Span] = []

    def show(self, parts: Sequence[BarPart], total: float, mark: float | None = None) -> None:
        """Show ``parts`` of ``total`` in order, with a tick at ``mark`` (in the same unit)."""
        self._parts, self._total, self._mark = tuple(parts), total, mark
        self._compute()

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """Return one line."""
        return 1

    def _on_resize(self, event: events.Resize) -> None:
        self._compute()

    def _compute(self) -> None:
        spans = layout(self._parts, self._total, self.size.width, self._mark, self._charset)
        if spans != self._spans:
            self._spans = spans
            self.refresh()

    def render_line(self, y: int) -> Strip:
        """Render the bar."""
        width = self.size.width
        if y or not self._spans:
            return Strip.blank(width, self.rich_style)
        coloured = self._charset.unicode and has_shades(self)
        draw = self._coloured if coloured else self._plain
        # After a change of the layout, the spans have the former width until the resize event.
        return Strip([draw(span) for span in self._spans]).adjust_cell_length(
            width, self.rich_style
        )

    def _coloured(self, span: Span) -> Segment:
        """Return a span on the ground of its style, which needs no fill."""
        style = self.get_component_rich_style(f"stackedbar--{span.style}")
        if span.content == "mark":
            mark = self.get_component_rich_style("stackedbar--mark")
            return Segment(span.text, mark + Style(bgcolor=style.bgcolor))
        text = span.text if span.content == "label" else " " * cell_len(span.text)
        return Segment(text, style)

    def _plain(self, span: Span) -> Segment:
        """Return a span in the colour of its style, with its fill."""
        if span.content != "fill":
            return Segment(span.text, self.get_component_rich_style(f"stackedbar--{span.content}"))
        style = self.get_component_rich_style(f"stackedbar--{span.style}")
        ink = style.bgcolor if span.style.startswith("shade") else style.color
        return Segment(span.text, self.rich_style + Style(color=ink))
