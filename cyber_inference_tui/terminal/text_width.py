"""Measures and cuts texts in terminal cells: some characters take two, some none.

Terminals disagree on the widths of some texts. ``plain`` composes characters and removes those that
join or colour emoji, after which most terminals agree. ``placed`` keeps what follows the remaining
ones (flags, Indic vowel signs, new emoji) in its column in every terminal.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Literal

from rich.cells import cell_len, get_character_cell_size

from cyber_inference_tui.text import clean_line, clean_text

Align = Literal["left", "right"]

# Soft hyphen, zero width space, (non-)joiner and word joiner, the variation selectors, the skin
# tones, and the tags of flags.
_JOINERS = re.compile(
    "[\u00ad\u200b-\u200d\u2060-\u2064\ufe00-\ufe0f\U0001f3fb-\U0001f3ff\U000e0000-\U000e01ef]"
)
# All terminals give these the same width: controls (none), Latin, Greek, Cyrillic, punctuation,
# arrows, lines, blocks, braille and the signs of the app; kana, ideographs and composed Hangul.
_CERTAIN = (
    "\0-\x7f\u00a0-\u00ac\u00ae-\u02ff\u0370-\u0482\u048a-\u052f\u1e00-\u1fff\u2010-\u2027\u2030-\u205e"
    "\u20a0-\u20bf\u2100-\u218b\u2190-\u2319\u2320-\u23e8\u2400-\u25fc\u25ff\u2714\u2716\u27c0-\u2aff"
    "\u2e80-\u3029\u3030-\u303e\u3041-\u3096\u309b-\u30ff\u3105-\u4dbf\u4e00-\ua4c6\uac00-\ud7a3"
    "\uf900-\ufaff\ufe30-\ufe6b\uff01-\uff9d\uffe0-\uffe6\U00020000-\U0002a6df"
)
_DOUBTFUL = re.compile(f"[^{_CERTAIN}]")
_DOUBTFUL_RUN = re.compile(f"[{_CERTAIN}]?[^{_CERTAIN}]+(?: [^{_CERTAIN}]+)*")
"""Doubtful words, with the character before, which a mark changes."""
_DOUBTFUL_TEXT = re.compile(f"([{_CERTAIN}]?[^{_CERTAIN}](?: ?[^ ])*)( *)")
"""A text from its first doubtful character on, and the spaces behind it."""


def plain(text: str, *, limit: int = 4096) -> str:
    """Return ``text`` as one safe, composed line, as wide as the sum of its characters' widths.

    ``limit`` is in characters, as in ``clean_line``.
    """
    if text.isascii() and text.isprintable() and len(text) <= limit:
        return text
    return unicodedata.normalize("NFC", _JOINERS.sub("", clean_line(text, limit=limit)))


def cells(text: str) -> int:
    """Return the number of cells that ``text`` takes on a terminal, in its plain form."""
    return cell_len(plain(text))


def placed(text: str, column: int, *, blank: int = 0) -> str:
    """Return ``text`` for ``column`` (from 0) with the columns of what follows doubtful characters.

    A terminal may draw these wider, into the spaces behind their text if there are enough, or
    narrower, so that their cells are cleared first. ``blank`` cells follow ``text``.
    """

    def place(found: re.Match[str]) -> str:
        shown, space = found.groups()
        start = column + cell_len(text[: found.start()])
        room = len(space) + (blank if found.end() == len(text) else 0)
        if room >= sum(map(_may_be_wider, _DOUBTFUL.findall(shown))):
            return _at(start, shown, cell_len(shown) + len(space))
        return _DOUBTFUL_RUN.sub(lambda run: place_run(run, start), shown) + space

    def place_run(run: re.Match[str], start: int) -> str:
        return _at(start + cell_len(run.string[: run.start()]), run[0], cell_len(run[0]))

    return _DOUBTFUL_TEXT.sub(place, text) if is_doubtful(text) else text


def _may_be_wider(character: str) -> bool:
    # Terminals agree on letters and on marks above or below them.
    return cell_len(character) < 2 and unicodedata.category(character) not in {"Lo", "Mn"}


def _at(column: int, text: str, width: int) -> str:
    return f"{' ' * width}{to_column(column)}{text}{to_column(column + width)}"


def to_column(column: int) -> str:
    """Return the sequence that moves the cursor to ``column`` (from 0)."""
    return f"\x1b[{column + 1}G"  # CHA (ECMA-48) counts from 1


def is_doubtful(text: str) -> bool:
    """Return whether terminals may disagree on the width of ``text``."""
    return not text.isascii() and _DOUBTFUL.search(text) is not None


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


def fold(text: str, width: int, *, after: str = "") -> list[str]:
    """Split ``text`` into pieces of at most ``width`` cells, at least 2, anywhere in a word.

    If there is an ``after`` in the second half of a piece, it ends behind the last one.
    """
    width = max(2, width)
    if text.isascii() and not after:
        return [text[at : at + width] for at in range(0, len(text), width)] or [""]
    pieces = []
    while text:
        piece = head(text, width)
        if after and len(piece) < len(text) and (end := piece.rfind(after, len(piece) // 2)) >= 0:
            piece = piece[: end + len(after)]
        pieces.append(piece)
        text = text[len(piece) :]
    return pieces or [""]


def wrap(text: str, width: int) -> list[tuple[int, int]]:
    """Return start and end of each row of ``text`` in ``width`` cells, at least 2.

    Rows break at spaces, which are left out, but not if that leaves most of a row empty.
    """
    width = max(2, width)
    if text.isascii():
        return [found.span(1) for found in _rows(width).finditer(text)] or [(0, 0)]
    rows: list[tuple[int, int]] = []
    at = 0
    while at < len(text) or not rows:
        end = at + len(head(text[at:], width))
        space = text.rfind(" ", at + max(1, width // 3), end + 1)
        if space > at and end < len(text):
            end = space
        rows.append((at, end))
        at = end + len(text[end:]) - len(text[end:].lstrip(" "))
    return rows


@lru_cache(maxsize=8)
def _rows(width: int) -> re.Pattern[str]:
    return re.compile(rf"(?=.)(.{{{max(1, width // 3)},{width}}}(?= |$)|.{{1,{width}}}) *")


def pasted_text(text: str, *, one_line: bool) -> str:
    """Return pasted text without escape sequences, control characters and bidi marks.

    ``one_line`` joins its lines with spaces.
    """
    clean = clean_text(text.replace("\r\n", "\n").replace("\r", "\n"))
    if not one_line or "\n" not in clean:
        return clean
    return " ".join(line for part in clean.split("\n") if (line := part.strip()))
