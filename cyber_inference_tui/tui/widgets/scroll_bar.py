"""Scrollbars for terminals without Unicode, and readable without colour."""

from __future__ import annotations

from typing import Any, ClassVar

from rich.segment import Segment, Segments
from rich.style import Style
from textual.scrollbar import ScrollBar, ScrollBarRender

from cyber_inference_tui.terminal.charset import Charset

_THUMB = "#"


class AsciiScrollBar(ScrollBarRender):
    """A scrollbar of whole cells with ``#`` for its thumb, instead of eighths of blocks."""

    VERTICAL_BARS: ClassVar[list[str]] = [" "] * 8
    HORIZONTAL_BARS: ClassVar[list[str]] = [" "] * 8

    @classmethod
    def render_bar(cls, *sizes: Any, **named: Any) -> Segments:
        """Render Textual's bar with a thumb of ``#``."""
        bar = super().render_bar(*sizes, **named)
        segments = [_signed(segment) for segment in bar.segments]
        return Segments(segments, new_lines=bar.new_lines)


def _signed(segment: Segment) -> Segment:
    style = segment.style
    if style is None or not style.reverse:
        return segment
    upright = style + Style(reverse=False)
    return Segment(segment.text.replace(" ", _THUMB), upright)


def set_scroll_bars(charset: Charset) -> None:
    """Set the scrollbars for ``charset``; Textual has one renderer for the whole program."""
    ScrollBar.renderer = ScrollBarRender if charset.unicode else AsciiScrollBar
