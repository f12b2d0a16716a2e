"""Turns Markdown that grows at its end into rows; each finished line is rendered once.

A line is rendered when its end has arrived, and a table with its last line, because a row changes
the widths of the columns. The lines of a paragraph stay lines, as models mean them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from rich.cells import cell_len

from cyber_inference_tui.terminal.charset import UNICODE, Charset
from cyber_inference_tui.terminal.text_width import fold, plain
from cyber_inference_tui.tui.pages.chat.code_colours import coloured
from cyber_inference_tui.tui.pages.chat.conversation import ANSWER_CHARACTERS
from cyber_inference_tui.tui.pages.chat.styled import inline, part, width_of, wrap_pieces
from cyber_inference_tui.tui.pages.chat.tables import Table, is_row
from cyber_inference_tui.tui.widgets.text_view import Role, TextRow

_FENCE = re.compile(r"^( *(?:> ?)?)(`{3,}|~{3,})[ \t]*([^\s`{]*)[^`]*$")
_HEADING = re.compile(r"^ {0,3}(#{1,6})\s+(.*?)(?:\s+#+)?\s*$")
_RULE = re.compile(r"^ {0,3}([-*_])(?: *\1){2,} *$")
_ITEM = re.compile(r"^( *)([-*+]|\d{1,9}[.)])( +)(.*)$")
_QUOTE = re.compile(r"^ {0,3}> ?(.*)$")
_DEEPEST = 8
"""Quotes within quotes that are shown as such."""


@dataclass(slots=True)
class CodeBlock:
    """A block of code; ``indent`` is what stands before its first mark."""

    mark: str
    language: str
    indent: str = ""
    lines: list[str] = field(default_factory=list)

    @classmethod
    def begun_by(cls, line: str) -> CodeBlock | None:
        """Return the block that a line begins."""
        found = _FENCE.match(line)
        return None if found is None else cls(found[2], found[3][:32], found[1])

    def ends_with(self, line: str) -> bool:
        """Return whether a line ends the block; add it if it does not."""
        bare = line.strip(" >\t")
        if len(bare) >= len(self.mark) and set(bare) == {self.mark[0]}:
            return True
        # The code of a list's item is indented like the item.
        same = next(
            (n for n, (a, b) in enumerate(zip(line, self.indent, strict=False)) if a != b),
            min(len(line), len(self.indent)),
        )
        self.lines.append(line[same:])
        return False

    @property
    def text(self) -> str:
        """The code."""
        return "\n".join(self.lines)


def code_blocks(text: str) -> list[CodeBlock]:
    """Return the blocks of code in ``text``, in the order of their numbers on the screen."""
    blocks: list[CodeBlock] = []
    block: CodeBlock | None = None
    for line in text.split("\n"):
        if block is None:
            block = CodeBlock.begun_by(line)
            if block is not None:
                blocks.append(block)
        elif block.ends_with(line):
            block = None
    return blocks


class MarkdownFlow:
    """Renders Markdown that grows at its end to rows of ``width`` cells."""

    def __init__(self, width: int, charset: Charset = UNICODE, indent: str = "  ") -> None:
        self._width = max(8, width - len(indent))
        self._charset = charset
        self._indent: TextRow = ((indent, "text"),)
        self._rows: list[TextRow] = []
        self._done = 0
        """Characters that are rendered for good, or wait for the end of their table."""
        self._block: CodeBlock | None = None
        self._blocks = 0
        self._code_at = 0
        """The first row of the code in the open block."""
        self._table: Table | None = None

    def rows(self, text: str) -> list[TextRow]:
        """Return the rows of ``text``, which has to begin with the text of the last call."""
        *whole, tail = text[self._done :].split("\n")
        for line in whole:
            self._done += len(line) + 1
            self._take(_plain(line))
        return [*self._rows, *self._open_rows(_plain(tail))]

    def _take(self, line: str) -> None:
        """Render a line that is complete."""
        if self._block is not None:
            self._take_code(line)
            return
        if self._table is not None:
            if self._table.takes(line):
                return
            self._end_table()
        if (block := CodeBlock.begun_by(line)) is not None:
            self._block = block
            self._blocks += 1
            self._rows.append(self._code_title(block, self._blocks))
            self._code_at = len(self._rows)
        elif is_row(line):
            self._table = Table(self._width, self._charset)
            self._table.takes(line)
        else:
            self._rows += self._text_rows(line)

    def _take_code(self, line: str) -> None:
        block = self._block
        if block is None:
            return
        if block.ends_with(line):
            # Only the whole code tells the lines within a long string or comment.
            del self._rows[self._code_at :]
            self._rows += self._code_rows(block, tuple(block.lines))
            self._block = None
        else:
            self._rows += self._code_rows(block, (block.lines[-1],))

    def _end_table(self) -> None:
        table, self._table = self._table, None
        if table is not None:
            self._rows += self._table_rows(table)

    def _open_rows(self, tail: str) -> list[TextRow]:
        """Return the rows that the next characters may change."""
        if self._block is not None:
            begins_mark = tail.strip(" >\t") and set(tail.strip(" >\t")) == {self._block.mark[0]}
            return self._code_rows(self._block, (tail,)) if tail and not begins_mark else []
        rows = [] if self._table is None else self._table_rows(self._table, tail)
        if not tail or (self._table is not None and is_row(tail)):
            return rows
        if (block := CodeBlock.begun_by(tail)) is not None:
            return [*rows, self._code_title(block, self._blocks + 1)]
        return [*rows, *self._text_rows(tail, grows=True)]

    def _table_rows(self, table: Table, tail: str = "") -> list[TextRow]:
        rows = table.rows(tail)
        if rows is not None:
            return [self._indent + row for row in rows]
        lines = [*table.lines, *([tail] if is_row(tail) else [])]
        return [row for line in lines for row in self._text_rows(line)]

    # Lines of text

    def _text_rows(self, line: str, *, grows: bool = False) -> list[TextRow]:
        before, after, content = self._parts(line, self._width, 0, grows=grows)
        width = self._width - width_of(before)
        rows = wrap_pieces(content, max(2, width))
        return [self._indent + (after if n else before) + row for n, row in enumerate(rows)]

    def _parts(
        self, line: str, width: int, depth: int, *, grows: bool
    ) -> tuple[TextRow, TextRow, TextRow]:
        """Return what stands before the first row and the other rows, and the content."""
        unicode = self._charset.unicode
        if found := _HEADING.match(line):
            role: Role = "heading" if len(found[1]) > 2 else "title"
            return (), (), inline(found[2], role, grows=grows)
        if _RULE.match(line):
            return (), (), ((("─" if unicode else "-") * min(width, 40), "dim"),)
        if (found := _QUOTE.match(line)) and depth < _DEEPEST:
            bar: TextRow = (("▏ " if unicode else "| ", "dim"),)
            before, after, content = self._parts(found[1], width - 2, depth + 1, grows=grows)
            return bar + before, bar + after, content
        if found := _ITEM.match(line):
            sign = found[2] if found[2][0].isdigit() or not unicode else "•"
            space = found[1][: width // 3]
            # As wide as the source, so that the lines below an item are below its text.
            mark = f"{sign}{found[3][:4]}"
            marks: TextRow = ((space, "text"), (mark, "dim"))
            hang: TextRow = ((" " * (len(space) + len(mark)), "text"),)
            return marks, hang, inline(found[4], grows=grows)
        text = line.lstrip(" ")
        blank = line[: len(line) - len(text)][: width // 2]
        lead: TextRow = ((blank, "text"),) if blank and text else ()
        return lead, lead, inline(text, grows=grows)

    # Lines of code

    def _code_title(self, block: CodeBlock, number: int) -> TextRow:
        width = self._width - self._code_indent(block)
        left = f" {plain(block.language) or 'code'}"
        right = f"{number} "
        space = " " * max(1, width - cell_len(left) - len(right))
        return (*self._code_lead(block), (left + space + right, "code-title"))

    def _code_rows(self, block: CodeBlock, lines: tuple[str, ...]) -> list[TextRow]:
        width = self._width - self._code_indent(block)
        lead = self._code_lead(block)
        rows: list[TextRow] = []
        for pieces in coloured(block.language, lines):
            text = "".join(piece for piece, _ in pieces)
            at = 0
            for shown in fold(text, width - 2):
                blank = " " * (width - 1 - cell_len(shown))
                row = part(pieces, at, at + len(shown))
                rows.append((*lead, (" ", "code"), *row, (blank, "code")))
                at += len(shown)
        return rows

    def _code_lead(self, block: CodeBlock) -> TextRow:
        space = " " * self._code_indent(block)
        return (*self._indent, (space, "text")) if space else self._indent

    def _code_indent(self, block: CodeBlock) -> int:
        return min(len(block.indent), self._width // 3)


def _plain(line: str) -> str:
    return plain(line, limit=ANSWER_CHARACTERS).rstrip()
