"""The screen of a terminal that gives characters the widths of its own."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from rich.cells import cell_len

_PIECE = re.compile(
    r"\x1b\[(?P<row>\d+);(?P<column>\d+)H|\x1b\[(?P<across>\d+)G|\x1b\[[0-?]*[ -/]*[@-~]"
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[P_^][^\x1b]*\x1b\\|\x1b.|.",
    re.DOTALL,
)


def halves(character: str) -> int:
    """Two cells for each half of a flag and each skin tone, one for marks that take space."""
    if "\U0001f1e6" <= character <= "\U0001f1ff" or "\U0001f3fb" <= character <= "\U0001f3ff":
        return 2
    return 1 if unicodedata.category(character) == "Mc" else cell_len(character)


def narrow(character: str) -> int:
    """One cell for every emoji."""
    width = cell_len(character)
    return min(1, width) if "\U0001f000" <= character < "\U00020000" else width


class Emulator:
    """Draws what is fed to it; each cell is one character, empty ones are spaces.

    Marks without a cell, and second cells of wide characters, are left out. Nothing wraps.
    """

    def __init__(self, columns: int, lines: int, width: Callable[[str], int] = cell_len) -> None:
        self._cells = [[" "] * columns for _ in range(lines)]
        self._columns = columns
        self._width = width
        self._row = self._column = 0

    def feed(self, text: str) -> None:
        """Draw ``text``."""
        for found in _PIECE.finditer(text):
            piece = found[0]
            if found["row"]:
                self._row, self._column = int(found["row"]) - 1, int(found["column"]) - 1
            elif found["across"]:
                self._column = int(found["across"]) - 1
            elif piece == "\n":
                self._row, self._column = min(self._row + 1, len(self._cells) - 1), 0
            elif len(piece) == 1 and unicodedata.category(piece) != "Cc":
                self._put(piece)

    def _put(self, character: str) -> None:
        width = self._width(character)
        for at in range(width):
            column = min(self._column + at, self._columns - 1)
            self._cells[self._row][column] = " " if at else character
        self._column = min(self._column + width, self._columns - 1)

    @property
    def rows(self) -> list[str]:
        """The screen; the index of a character is its column."""
        return ["".join(row) for row in self._cells]
