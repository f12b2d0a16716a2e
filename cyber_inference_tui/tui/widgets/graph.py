"""A history graph of one to four lines, newest at the right."""

from __future__ import annotations

from collections.abc import Sequence

from textual.widget import Widget

from cyber_inference_tui.tui.charset import UNICODE, Charset


def rows(
    values: Sequence[float | None], width: int, height: int, maximum: float, charset: Charset
) -> list[str]:
    """The lines of a graph, top first, each ``width`` cells wide; ``None`` leaves a gap.

    Braille shows two values to a cell, ASCII one. The newest value (the last) is at the right.
    """
    raise NotImplementedError


class Graph(Widget):
    """A graph with a title line over it (none if ``title`` is ``None``); ``lines`` is 1 to 4."""

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

    def show(
        self, values: Sequence[float | None], maximum: float, *, caption: str | None = None
    ) -> None:
        """Show a history; ``caption`` stands after the title. Repaints only lines that differ.

        The classes ``-busy`` and ``-bad`` on the widget colour the graph and its caption.
        """
        raise NotImplementedError
