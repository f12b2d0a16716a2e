"""Frames, the texts that Textual sends to the terminal, with as few bytes as they need.

Over SSH, each byte counts, and a frame of Textual's has several times those of its texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple

from rich.cells import cell_len
from rich.console import Console, RenderableType
from textual._compositor import ChopsUpdate
from textual.app import App
from textual.screen import Screen

from cyber_inference_tui.terminal.text_width import is_doubtful, placed, to_column
from cyber_inference_tui.tui.app_options import AfterExit

_NEAR = 8
"""Cells between two parts of a line, below which painting them costs less than a move."""
_PIECE = re.compile(
    r"\x1b\[\d+;(\d+)H|\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?"
    r"|\n|\x1b|[^\x1b\n]+"
)
"""A move of the cursor with its column, another sequence, a line's end, or text."""
_PLAIN = "\x1b[0m"
_STYLE = re.compile(r"\x1b\[([\d;]*)m")
_CODE = re.compile(r"[34]8;(?:2;\d+;\d+;\d+|5;\d+)|\d+")
_MOVES = re.compile(r"(?:\x1b\[[\d;]*[HG]|\n)*")


class Painting(App[AfterExit]):
    """The part of the app that paints only the cells that widgets have marked."""

    def _display(self, screen: Screen[Any], renderable: RenderableType | None) -> None:
        if isinstance(renderable, ChopsUpdate):
            renderable = _MarkedCells(renderable.chops, renderable.spans, renderable.chop_ends)
        super()._display(screen, renderable)


class _MarkedCells(ChopsUpdate):
    """A frame of marked cells; Textual's own begins at the left edge of their widget."""

    def render_segments(self, console: Console) -> str:
        """Return the frame."""
        texts = []
        for y, start, end in self.spans:
            for (x, strip), stop in zip(self.chops[y].items(), self.chop_ends[y], strict=True):
                first, last = max(start, x), min(end, stop)
                if strip is not None and first < last:
                    texts.append(f"\x1b[{y + 1};{first + 1}H")
                    texts.append(strip.crop(first - x, last - x).render(console))
        return "".join(texts)


def joined(parts: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join parts of a line that are near each other; each is its first cell and its end."""
    found: list[tuple[int, int]] = []
    for start, end in parts:
        near = found and start - found[-1][1] < _NEAR
        found.append((found.pop()[0] if near else start, end))
    return found


class _Look(NamedTuple):
    """The codes of a style (SGR in ECMA-48)."""

    attributes: tuple[str, ...] = ()
    front: str = ""
    ground: str = ""


def short_frame(data: str) -> str:
    """Return ``data`` with the styles of its texts, sent only where they change.

    What follows characters of a doubtful width has its column.
    """
    if is_doubtful(data):
        data = placed_frame(data)
    parts = []
    shown, codes = _Look(), ""
    for number, piece in enumerate(_STYLE.split(data)):
        if number % 2:
            codes = f"{codes};{piece}" if piece.strip("0") else ""
            continue
        if not _MOVES.fullmatch(piece):
            wanted = _look(codes)
            parts.append(_change(shown, wanted))
            shown = wanted
        parts.append(piece)
    parts.append(_change(shown, _look(codes)))
    return "".join(parts)


@lru_cache(maxsize=1024)
def _look(codes: str) -> _Look:
    attributes, front, ground = [], "", ""
    for code in _CODE.findall(codes):
        kind = int(code.partition(";")[0])
        if 30 <= kind <= 39 or 90 <= kind <= 97:
            front = code
        elif 40 <= kind <= 49 or 100 <= kind <= 107:
            ground = code
        else:
            attributes.append(code)
    return _Look(tuple(attributes), front, ground)


@lru_cache(maxsize=1024)
def _change(shown: _Look, wanted: _Look) -> str:
    """Return the sequence from a style to another."""
    if shown == wanted:
        return ""
    codes = [code for code in wanted[1:] if code not in shown]
    if shown.attributes != wanted.attributes or not all(wanted[1:]):
        codes = ["0", *wanted.attributes, *filter(None, wanted[1:])]
    return f"\x1b[{';'.join(codes)}m"


def placed_frame(data: str) -> str:
    """Return a frame of Textual's with the columns of what follows doubtful characters."""
    pieces = [(found[0], found[1]) for found in _PIECE.finditer(data)]
    frame: list[str] = []
    column: int | None = None
    style = ""
    at = 0
    while at < len(pieces):
        piece, moved_to = pieces[at]
        at += 1
        if moved_to:
            column = int(moved_to) - 1
        elif piece == "\n":
            column = None
        elif piece[0] == "\x1b":
            style = piece
        elif column is not None:
            start, column = column, column + cell_len(piece)
            if is_doubtful(piece):
                styles, blank, at = _blank_from(pieces, at)
                text = placed(piece, start, blank=len(blank))
                if blank:
                    # The text may cover these spaces, so they come first.
                    first = [_PLAIN, to_column(column), styles, blank, _PLAIN, to_column(start)]
                    column += len(blank)
                    text = "".join([*first, style, text, _PLAIN, styles, to_column(column)])
                    style = styles
                piece = text
        frame.append(piece)
    return "".join(frame)


def _blank_from(pieces: list[tuple[str, str | None]], at: int) -> tuple[str, str, int]:
    """Return the styles and the spaces that come next, and the place behind them."""
    styles = ""
    for end in range(at, len(pieces)):
        piece = pieces[end][0]
        if not piece.strip(" "):
            return styles, piece, end + 1
        if not (piece.startswith("\x1b[") and piece.endswith("m")):
            break
        styles += piece
    return "", "", at
