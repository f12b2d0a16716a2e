"""Draws the tables of Markdown."""

from __future__ import annotations

import re
from itertools import zip_longest

from cyber_inference_tui.terminal.charset import Charset
from cyber_inference_tui.terminal.columns import GAP
from cyber_inference_tui.tui.pages.chat.styled import inline, width_of, wrap_pieces
from cyber_inference_tui.tui.widgets.text_view import Role, TextRow

MEASURED_ROWS = 100
"""The widths of a longer table are those of its first rows, so that it costs little to draw."""
_LEAST = 4
_BORDER = re.compile(r"(?<!\\)\|")
_RULE = re.compile(r"^:?-+:?$")


def is_row(line: str) -> bool:
    """Return whether a line may belong to a table."""
    return line.lstrip().startswith("|")


def _texts(line: str) -> list[str]:
    inner = line.strip().removeprefix("|")
    if inner.endswith("|") and not inner.endswith("\\|"):
        inner = inner[:-1]
    return [text.strip() for text in _BORDER.split(inner)]


def _is_rule(texts: list[str]) -> bool:
    return all(_RULE.match(text) for text in texts)


class Table:
    """A table that grows by lines."""

    def __init__(self, width: int, charset: Charset) -> None:
        self._width = width
        self._charset = charset
        self.lines: list[str] = []
        self._cells: list[list[TextRow]] = []
        self._drawn: list[TextRow] = []
        """Rows of the screen that do not change any more."""
        self._drawn_cells = 0
        self._widths: list[int] | None = None
        self._rights: list[bool] = []

    def takes(self, line: str) -> bool:
        """Add a line if it belongs to the table."""
        if not is_row(line):
            return False
        self.lines.append(line)
        if len(self.lines) == 2 and _is_rule(_texts(line)):
            self._rights = [text.endswith(":") and text[0] != ":" for text in _texts(line)]
        else:
            self._cells.append(self._parsed(line, header=len(self.lines) == 1))
        if len(self._cells) == MEASURED_ROWS and self._widths is None:
            self._widths = self._fitting(self._cells)
        return True

    @staticmethod
    def _parsed(line: str, *, header: bool = False) -> list[TextRow]:
        role: Role = "strong" if header else "text"
        return [inline(text, role) for text in _texts(line)]

    def rows(self, tail: str = "") -> list[TextRow] | None:
        """Return the rows, with those of ``tail``, a line that grows; ``None`` if it is no table.

        A table has a second line of dashes, and room for its columns.
        """
        columns = len(self._cells[0]) if self._cells else 0
        if not self._rights or columns * (_LEAST + GAP) > self._width:
            return None
        if self._widths is None:
            cells = [*self._cells, *([self._parsed(tail)] if is_row(tail) else [])]
            return self._draw(cells, self._fitting(cells), with_rule=True)
        new = self._cells[self._drawn_cells :]
        self._drawn += self._draw(new, self._widths, with_rule=not self._drawn_cells)
        self._drawn_cells = len(self._cells)
        if is_row(tail):
            return [*self._drawn, *self._draw([self._parsed(tail)], self._widths, with_rule=False)]
        return list(self._drawn)

    def _fitting(self, cells: list[list[TextRow]]) -> list[int]:
        """Return the width of each column; the widest ones give way."""
        widths = [
            max([_LEAST, *(width_of(row[at]) for row in cells if at < len(row))])
            for at in range(len(cells[0]))
        ]
        room = self._width - GAP * (len(widths) - 1)
        while (over := sum(widths) - room) > 0:
            most = max(widths)
            less = max((width for width in widths if width < most), default=_LEAST)
            widest = [at for at, width in enumerate(widths) if width == most]
            step = max(1, min(most - less, -(-over // len(widest))))
            for at in widest:
                widths[at] = max(_LEAST, most - step)
            if most <= _LEAST:
                break
        return widths

    def _draw(
        self, cells: list[list[TextRow]], widths: list[int], *, with_rule: bool
    ) -> list[TextRow]:
        rows: list[TextRow] = []
        for number, row in enumerate(cells):
            wrapped = [
                wrap_pieces(row[at] if at < len(row) else (), width)
                for at, width in enumerate(widths)
            ]
            rows += [self._line(parts, widths) for parts in zip_longest(*wrapped, fillvalue=())]
            if with_rule and not number:
                line = "─" if self._charset.unicode else "-"
                rule = (" " * GAP).join(line * width for width in widths)
                rows.append(((rule, "dim"),))
        return rows

    def _line(self, parts: tuple[TextRow, ...], widths: list[int]) -> TextRow:
        pieces: list[tuple[str, Role]] = []
        for at, (shown, width) in enumerate(zip(parts, widths, strict=True)):
            blank = " " * (width - width_of(shown))
            right = at < len(self._rights) and self._rights[at]
            pieces += [(blank, "text"), *shown] if right else [*shown, (blank, "text")]
            pieces.append((" " * GAP, "text"))
        return tuple(piece for piece in pieces[:-1] if piece[0])
