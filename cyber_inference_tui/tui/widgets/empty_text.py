"""The text in place of a table's rows, laid out once for all of its lines."""

from __future__ import annotations

from rich.segment import Segment
from textual.content import Content
from textual.strip import Strip
from textual.visual import Visual
from textual.widget import Widget

from cyber_inference_tui.terminal.text_width import plain


class EmptyText:
    """The text of an empty table, ``indent`` cells from its left edge."""

    def __init__(self, text: Content | str, indent: int) -> None:
        self._content = _content(text)
        self._indent = indent
        self._strips: tuple[object, list[Strip]] | None = None

    def replace(self, text: Content | str) -> bool:
        """Replace the text; return whether it is another one."""
        content = _content(text)
        if content.is_same(self._content):
            return False
        self._content, self._strips = content, None
        return True

    def line(self, widget: Widget, y: int) -> Strip:
        """Return a line of the text, wrapped to the size of ``widget``."""
        strips = self._lay_out(widget)
        return strips[y] if y < len(strips) else Strip.blank(widget.size.width, widget.rich_style)

    def _lay_out(self, widget: Widget) -> list[Strip]:
        width, height = widget.size
        ground = widget.rich_style
        laid_out_for = (width, height, ground)
        if self._strips is not None and self._strips[0] == laid_out_for:
            return self._strips[1]
        indent = max(0, min(self._indent, width - 1))
        strips = []
        for strip in Visual.to_strips(
            widget, self._content, width - indent, None, widget.visual_style, apply_selection=False
        )[:height]:
            safe = [Segment(plain(text), style) for text, style, _ in strip]
            whole = Strip([Segment(" " * indent, ground), *safe])
            strips.append(whole.adjust_cell_length(width, ground))
        self._strips = (laid_out_for, strips)
        return strips


def _content(text: Content | str) -> Content:
    return Content(text) if isinstance(text, str) else text
