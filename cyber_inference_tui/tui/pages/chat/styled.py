"""Texts with roles: their emphasis within a line, and where a line breaks."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rich.cells import cell_len

from cyber_inference_tui.terminal.text_width import head
from cyber_inference_tui.tui.widgets.text_view import Role, TextRow

INLINE_CHARACTERS = 10_000
"""A longer line is shown without emphasis, which nobody could see in it."""
_MARK = re.compile(
    r"\\[*_`#~|<>\\.!+-]"  # an escaped sign
    r"|`+|\*\*\*|\*\*|\*|___|__|_|~~"
    r"|!?\[|\]\([^()\s]*(?:\([^()\s]*\)[^()\s]*)?\)"  # a link or an image, and its address
    r"|<https?://[^\s<>]+>"
)
_ROLES: dict[str, Role] = {
    "***": "strong",
    "___": "strong",
    "**": "strong",
    "__": "strong",
    "*": "emphasis",
    "_": "emphasis",
    "~~": "struck",
}


def inline(text: str, role: Role = "text", *, grows: bool = False) -> TextRow:
    """Return a line of Markdown without its marks, as pieces with their roles.

    Marks without a partner are text. If the line ``grows``, a beginning ``**`` or backtick counts
    already, so that the words do not change when the end arrives.
    """
    if len(text) > INLINE_CHARACTERS or _MARK.search(text) is None:
        return ((text, role),) if text else ()
    return _Inline(text, role).pieces(grows=grows)


class _Inline:
    """One line while its marks are read, from left to right."""

    def __init__(self, text: str, role: Role) -> None:
        self._text = text
        self._role = role
        self._pieces: list[tuple[str, Role]] = []
        self._open: dict[str, int] = {}
        """Marks without a partner so far, and their pieces."""

    def pieces(self, *, grows: bool) -> TextRow:
        text, at = self._text, 0
        while (found := _MARK.search(text, at)) is not None:
            self._add(text[at : found.start()])
            at = self._mark(found, grows=grows)
        self._add(text[at:])
        if grows and "**" in self._open:
            self._close("**")
        return tuple(piece for piece in self._pieces if piece[0])

    def _add(self, text: str, role: Role | None = None) -> None:
        self._pieces.append((text, role or self._role))

    def _mark(self, found: re.Match[str], *, grows: bool) -> int:
        """Take a mark; return where the text goes on."""
        mark, start, end = found[0], found.start(), found.end()
        if mark[0] == "\\":
            self._add(mark[1])
        elif mark[0] == "`":
            return self._code(mark, end, grows=grows)
        elif mark[0] == "<":
            self._add(mark[1:-1], "link")
        elif mark[-1] == "[":
            self._begin("[", mark)
        elif mark[0] == "]":
            self._link(mark)
        else:
            self._emphasis(mark, start, end)
        return end

    def _code(self, mark: str, at: int, *, grows: bool) -> int:
        end = at
        while (end := self._text.find(mark, end)) >= 0:
            after = end + len(mark)
            if self._text[after : after + 1] != "`":
                break
            while self._text[after : after + 1] == "`":
                after += 1
            end = after
        if end < 0 and not grows:
            self._add(mark)
            return at
        self._add(self._text[at : None if end < 0 else end].strip(), "inline")
        return len(self._text) if end < 0 else end + len(mark)

    def _emphasis(self, mark: str, start: int, end: int) -> None:
        before, after = self._text[start - 1 : start], self._text[end : end + 1]
        in_word = mark[0] == "_" and before.isalnum() and after.isalnum()
        if mark in self._open and before and not before.isspace() and not in_word:
            self._close(mark)
        elif after and not after.isspace() and not (mark[0] == "_" and before.isalnum()):
            self._begin(mark, mark)
        else:
            self._add(mark)

    def _begin(self, name: str, mark: str) -> None:
        self._open[name] = len(self._pieces)
        self._add(mark)

    def _close(self, name: str, role: Role | None = None) -> None:
        """Give the pieces since the mark its role, except code and links, and remove the mark."""
        at = self._open[name]
        self._pieces[at] = ("", self._role)
        wanted = role or _ROLES[name]
        for index in range(at, len(self._pieces)):
            text, before = self._pieces[index]
            if before == self._role or (wanted == "strong" and before == "emphasis"):
                self._pieces[index] = (text, wanted)
        self._open = {open_: index for open_, index in self._open.items() if index < at}

    def _link(self, mark: str) -> None:
        address = mark[2:-1]
        if "[" not in self._open:
            self._add(mark)
            return
        at = self._open["["]
        shown = "".join(text for text, _ in self._pieces[at + 1 :])
        self._close("[", "link")
        if address and address != shown:
            self._add(f" ({address})", "dim")


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
