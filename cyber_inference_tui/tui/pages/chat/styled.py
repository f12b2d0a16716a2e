"""Breaks lines of text, plain or in pieces with roles, into rows."""

from __future__ import annotations

from collections.abc import Iterator

from rich.cells import cell_len

from cyber_inference_tui.terminal.text_width import head
from cyber_inference_tui.tui.widgets.text_view import Role, TextRow


def spans(text: str, first: int, rest: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of each row of ``text``, broken between words if possible.

    The first row has ``first`` cells, and the others ``rest``.
    """
    at, room = 0, max(2, first)
    while True:
        # Four characters in a cell are more than a mark above another; it bounds the slice.
        end = at + len(head(text[at : at + 4 * room], room))
        if end >= len(text) or end == at:
            yield at, len(text)
            return
        if text[end] != " ":
            space = text.rfind(" ", at, end)
            # A break inside the indentation would make a row without text.
            if text[at : space + 1].strip():
                end = space
        yield at, end
        while end < len(text) and text[end] == " ":
            end += 1
        if end == len(text):
            return
        at, room = end, max(2, rest)


def wrap(text: str, width: int) -> list[str]:
    """Wrap one line to ``width`` cells; further rows of a list item are below its text."""
    if cell_len(text) <= width:
        return [text]
    stripped = text.lstrip(" ")
    hang = len(text) - len(stripped) + 2 * (stripped[:2] in {"- ", "* ", "+ "})
    space = " " * min(hang, width // 2)
    found = spans(text, width, width - len(space))
    return [(space if start else "") + text[start:end] for start, end in found]


def wrap_pieces(pieces: TextRow, width: int) -> list[TextRow]:
    """Wrap styled pieces to rows of ``width`` cells."""
    text = "".join(piece for piece, _ in pieces)
    if cell_len(text) <= width:
        return [pieces]
    return [part(pieces, start, end) for start, end in spans(text, width, width)]


def part(pieces: TextRow, start: int, end: int) -> TextRow:
    """Return the characters from ``start`` to ``end``."""
    found: list[tuple[str, Role]] = []
    at = 0
    for text, role in pieces:
        if at >= end:
            break
        shown = text[max(0, start - at) : end - at]
        if shown:
            found.append((shown, role))
        at += len(text)
    return tuple(found)


def width_of(pieces: TextRow) -> int:
    """Return the cells of a row."""
    return sum(cell_len(text) for text, _ in pieces)
