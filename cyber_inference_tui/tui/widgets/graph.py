"""A history graph of one to four lines, newest at the right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from textual import events
from textual.geometry import Region, Size
from textual.strip import Strip
from textual.widget import Widget

from cyber_inference_tui.terminal.charset import UNICODE, Charset
from cyber_inference_tui.terminal.text_width import cut, fit, plain

_BRAILLE = 0x2800
# Unicode's numbering of the eight dots of a braille cell (the Unicode standard, "Braille
# Patterns"): bits of the left and the right column filled from below with 0 to 4 dots.
_LEFT = (0x00, 0x40, 0x44, 0x46, 0x47)
_RIGHT = (0x00, 0x80, 0xA0, 0xB0, 0xB8)
_ASCII = " .:-=+*#%"
MOST_LINES = 4


def rows(
    values: Sequence[float | None], width: int, height: int, maximum: float, charset: Charset
) -> list[str]:
    """Return the lines of a graph, top first, each ``width`` cells wide; ``None`` leaves a gap.

    Braille shows two values per cell, ASCII one. The newest value, the last, is at the right.
    Zero is the lowest step, so that it differs from a gap. Values are limited to ``maximum``.
    """
    if width <= 0 or height <= 0:
        return [""] * max(0, height)
    if not charset.unicode:
        steps = len(_ASCII) - 1
        levels = _levels(values, width, height * steps, maximum)
        return [
            "".join(_ASCII[_part(level, base, steps)] for level in levels)
            for base in range((height - 1) * steps, -1, -steps)
        ]
    levels = _levels(values, width * 2, height * 4, maximum)
    pairs = list(zip(levels[::2], levels[1::2], strict=True))
    return [
        "".join(
            chr(_BRAILLE + _LEFT[_part(left, base, 4)] + _RIGHT[_part(right, base, 4)])
            for left, right in pairs
        )
        for base in range((height - 1) * 4, -1, -4)
    ]


def _part(level: int, base: int, steps: int) -> int:
    return min(steps, max(0, level - base))


def _levels(values: Sequence[float | None], count: int, top: int, maximum: float) -> list[int]:
    """Return the newest ``count`` values as steps from 1 to ``top``; 0 is a gap."""
    shown = [_level(value, top, maximum) for value in values[-count:]]
    return [0] * (count - len(shown)) + shown


def _level(value: float | None, top: int, maximum: float) -> int:
    if value is None or math.isnan(value):
        return 0
    if not maximum > 0 or value <= 0:
        return 1
    return top if value >= maximum else max(1, round(value / maximum * top))


class Graph(Widget):
    """A graph of 1 to 4 ``lines``, with a title line above unless ``title`` is ``None``.

    The CSS classes ``-busy`` and ``-bad`` colour it.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {"graph--title", "graph--caption", "graph--line"}
    DEFAULT_CSS = """
    Graph {
        height: auto;
        width: 1fr;
        & > .graph--title { color: $text-muted; }
        & > .graph--caption { color: $foreground; }
        & > .graph--line { color: $accent; }
        &.-busy > .graph--line { color: $text-warning; }
        &.-bad > .graph--line { color: $text-error; }
    }
    """
    ALLOW_SELECT = False

    def __init__(
        self,
        title: str | None = None,
        *,
        lines: int = 1,
        charset: Charset = UNICODE,
        id: str | None = None,  # noqa: A002 - Textual's name
        classes: str | None = None,
    ) -> None:
        super().__init__(id=id, classes=classes)
        self._title = title if title is None else plain(title)
        self._lines = min(MOST_LINES, max(1, lines))
        self._charset = charset
        self._values: tuple[float | None, ...] = ()
        self._maximum = 1.0
        self._caption = ""
        self._shown: list[str] = []

    def show(
        self,
        values: Sequence[float | None],
        maximum: float,
        *,
        caption: str | None = None,
        title: str | None = None,
    ) -> None:
        """Show a history up to ``maximum``, a ``caption`` after the title, and a new ``title``.

        Only lines that changed are painted.
        """
        # Keep no more than the widest screen shows.
        self._values = tuple(values[-2048:])
        self._maximum = maximum
        if caption is not None:
            self._caption = plain(caption)
        if title is not None and self._title is not None:
            self._title = plain(title)
        self._compute()

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """Return the lines of the graph and its title."""
        return self._lines + (self._title is not None)

    def _on_resize(self, event: events.Resize) -> None:
        self._compute()

    def _compute(self) -> None:
        width = self.size.width
        if not width:
            return
        lines = rows(self._values, width, self._lines, self._maximum, self._charset)
        if self._title is not None:
            lines.insert(0, self._head(self._title, width))
        before, self._shown = self._shown, lines
        for y, line in enumerate(lines):
            old = before[y] if y < len(before) else ""
            if line != old:
                self.refresh(Region(0, y, _changed_to(old, line), 1))

    def _head(self, title: str, width: int) -> str:
        text = f"{title}  {self._caption}" if self._caption else title
        return fit(text, width, "left", self._charset.ellipsis)

    def render_line(self, y: int) -> Strip:
        """Render a computed line."""
        width = self.size.width
        if y >= len(self._shown):
            return Strip.blank(width, self.rich_style)
        line = self._shown[y]
        if self._title is not None and y == 0:
            split = len(cut(self._title, width, self._charset.ellipsis))
            caption = line[split:]
            segments = [Segment(line[:split], self.get_component_rich_style("graph--title"))]
            if caption:
                style = self.get_component_rich_style("graph--caption")
                segments.append(Segment(caption, style))
        else:
            segments = [Segment(line, self.get_component_rich_style("graph--line"))]
        # After a change of the layout, lines have the former width until the resize event.
        return Strip(segments).adjust_cell_length(width, self.rich_style)


def _changed_to(old: str, new: str) -> int:
    """Return the cell after which two lines of one width are equal; the rest is not painted."""
    same = 0
    while same < min(len(old), len(new)) and old[-1 - same] == new[-1 - same]:
        same += 1
    return max(1, cell_len(new[: len(new) - same]))
