"""Measures and cuts texts in terminal cells: some characters take two, some none.

Terminals disagree on joined emoji and variation selectors, so that a row with them may be too
long. ``plain`` removes those characters. The width of a text is then the sum of its characters'
widths in every terminal.
"""

from __future__ import annotations

import re
from typing import Literal

from rich.cells import cell_len, get_character_cell_size

from cyber_inference_tui.text import clean_line, clean_text

Align = Literal["left", "right"]

# Soft hyphen, zero width space, (non-)joiner and word joiner, the variation selectors.
_JOINERS = re.compile("[\u00ad\u200b-\u200d\u2060-\u2064\ufe00-\ufe0f\U000e0000-\U000e01ef]")


def plain(text: str, *, limit: int = 4096) -> str:
    """Return ``text`` as one safe line whose width is the sum of its characters' widths.

    ``limit`` is in characters, as in ``clean_line``.
    """
    if text.isascii() and text.isprintable() and len(text) <= limit:
        return text
    return _JOINERS.sub("", clean_line(text, limit=limit))


def cut(text: str, width: int, ellipsis: str) -> str:
    """Cut ``text`` to at most ``width`` cells; ``ellipsis`` marks the cut."""
    if len(text) <= width and text.isascii():
        return text
    if cell_len(text) <= width:
        return text
    room = width - len(ellipsis)
    return ellipsis[: max(0, width)] if room < 0 else head(text, room) + ellipsis


def head(text: str, width: int) -> str:
    """Return the longest beginning of ``text`` of at most ``width`` cells."""
    if text.isascii():
        return text[: max(0, width)]
    used = 0
    for index, character in enumerate(text):
        used += get_character_cell_size(character)
        if used > width:
            return text[:index]
    return text


def tail(text: str, width: int) -> str:
    """Return ``text`` after its first ``width`` cells; half a wide character becomes a space."""
    if text.isascii():
        return text[max(0, width) :]
    before = head(text, width)
    rest = text[len(before) :]
    over = width - cell_len(before)
    return rest if not over or not rest else " " + rest[1:]


def fit(text: str, width: int, align: Align, ellipsis: str) -> str:
    """Cut or pad ``text`` to exactly ``width`` cells."""
    text = cut(text, width, ellipsis)
    space = " " * (width - cell_len(text))
    return space + text if align == "right" else text + space


def fold(text: str, width: int) -> list[str]:
    """Split ``text`` into pieces of at most ``width`` cells, at least 2, anywhere in a word."""
    width = max(2, width)
    if text.isascii():
        return [text[at : at + width] for at in range(0, len(text), width)] or [""]
    pieces = []
    while text:
        piece = head(text, width)
        pieces.append(piece)
        text = text[len(piece) :]
    return pieces or [""]


def folded_count(text: str, width: int) -> int:
    """Return the number of pieces that ``fold`` makes; ASCII needs no folding."""
    width = max(2, width)
    if text.isascii():
        return max(1, -(-len(text) // width))
    return len(fold(text, width))


def pasted_text(text: str, *, one_line: bool) -> str:
    """Return pasted text without escape sequences, control characters and bidi marks.

    ``one_line`` joins its lines with spaces.
    """
    clean = clean_text(text.replace("\r\n", "\n").replace("\r", "\n"))
    if not one_line or "\n" not in clean:
        return clean
    return " ".join(line for part in clean.split("\n") if (line := part.strip()))
