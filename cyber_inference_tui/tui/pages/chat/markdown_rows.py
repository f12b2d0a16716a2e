"""Draws what the Markdown parser found as rows of the screen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING

from rich.cells import cell_len

from cyber_inference_tui.terminal.charset import Charset
from cyber_inference_tui.terminal.text_width import fold, head, plain
from cyber_inference_tui.tui.pages.chat.code_colours import coloured
from cyber_inference_tui.tui.pages.chat.conversation import ANSWER_CHARACTERS
from cyber_inference_tui.tui.pages.chat.inline import inline_lines
from cyber_inference_tui.tui.pages.chat.styled import part, width_of, wrap_pieces
from cyber_inference_tui.tui.pages.chat.tables import most_columns, table_rows, widths_for
from cyber_inference_tui.tui.widgets.text_view import Role, TextRow

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

OPEN_CODE_LINES = 1_000
"""Lines of a block of code that is drawn again as it grows."""
_COLOURED_LINE = 500
"""A longer line of code gets its colours when the code is complete."""


@dataclass(frozen=True, slots=True)
class CodeBlock:
    """A block of code to copy."""

    language: str
    content: str

    @property
    def text(self) -> str:
        """The code."""
        return self.content.removesuffix("\n")

    @property
    def lines(self) -> list[str]:
        """The lines of the code."""
        return self.text.split("\n") if self.content else []


@dataclass(slots=True)
class _Container:
    """A quote or a list item that begins in line ``start``.

    ``mark`` is before its first row, ``hang`` before the others.
    """

    start: int
    mark: TextRow
    hang: TextRow
    is_quote: bool = False
    begun: bool = False


class MarkdownRows:
    """Draws Markdown as ``rows`` of ``width`` cells, each after the ``indent``.

    It ``follows`` other rows, or begins a text. Its ``blocks`` of code have numbers from
    ``first_block`` on. The columns of its first table have the ``widths``, or those that fit.
    """

    def __init__(
        self,
        width: int,
        charset: Charset,
        indent: str,
        *,
        follows: bool = False,
        first_block: int = 1,
        widths: Sequence[int] = (),
    ) -> None:
        self.rows: list[TextRow] = []
        self.blocks: list[CodeBlock] = []
        self.widths = widths
        """The widths of the last table's columns."""
        self._given_widths = widths
        self._width = width
        self._charset = charset
        self._indent: TextRow = ((indent, "text"),) if indent else ()
        self._follows = follows
        self._first_block = first_block
        self._containers: list[_Container] = []
        self._lines: list[str] = []

    def draw(self, parser: MarkdownIt, source: str) -> None:
        """Draw ``source``. A last line without its end may grow."""
        self._lines = source.split("\n")
        growing = len(self._lines) if self._lines[-1] else 0
        role: Role = "text"
        table: list[list[TextRow]] | None = None
        rights: list[bool] = []
        top = 0
        for token in parser.parse(source):
            start, end = token.map or (0, 0)
            match token.type:
                case "blockquote_open":
                    bar: TextRow = (("▏ " if self._charset.unicode else "| ", "dim"),)
                    self._enter(_Container(start, bar, bar, is_quote=True))
                case "list_item_open":
                    sign = token.info or ("•" if self._charset.unicode else "")
                    mark = f"{sign}{'' if sign == '•' else token.markup} "
                    hang: TextRow = ((" " * len(mark), "text"),)
                    self._enter(_Container(start, ((mark, "dim"),), hang))
                case "blockquote_close" | "list_item_close":
                    if not self._containers[-1].begun:
                        self._add(self._containers[-1].start, [()])
                    self._containers.pop()
                case "heading_open":
                    role = "title" if token.tag in {"h1", "h2"} else "heading"
                case "th_open":
                    role = "strong"
                    rights.append(token.attrGet("style") == "text-align:right")
                case "paragraph_open" | "td_open":
                    role = "text"
                case "table_open":
                    table, rights, top = [], [], start
                case "tr_open" if table is not None:
                    table.append([])
                case "table_close" if table is not None:
                    self._table(top, table, rights)
                    table = None
                case "inline" if table:
                    cell = inline_lines(parser, token, role, grows=end == growing)
                    table[-1].append(cell[0])
                case "inline":
                    lines = inline_lines(parser, token, role, grows=end == growing)
                    width = self._room()
                    self._add(start, [row for line in lines for row in wrap_pieces(line, width)])
                case "hr":
                    line = "─" if self._charset.unicode else "-"
                    self._add(start, [((line * min(self._room(), 40), "dim"),)])
                case "fence" | "code_block":
                    self._code(token, grows=end == growing)

    # Containers

    def _enter(self, container: _Container) -> None:
        if self._room() - width_of(container.hang) < self._width // 2:
            container.mark = container.hang = ()  # deeper ones are not indented further
        self._containers.append(container)

    def _room(self) -> int:
        """Return the cells of a row within the open containers."""
        return self._width - sum(width_of(one.hang) for one in self._containers)

    def _add(self, start: int, rows: Iterable[TextRow]) -> None:
        """Add the rows of a block that begins in line ``start``, after a blank row as there."""
        quoted = any(one.is_quote for one in self._containers)
        blank = start > 0 and is_blank(self._lines[start - 1], quoted=quoted)
        if blank and (self._follows or self.rows):
            begun = (one.hang for one in self._containers if one.begun)
            self.rows.append(tuple(chain(self._indent, *begun)))
        for row in rows:
            leads = [one.hang if one.begun else one.mark for one in self._containers]
            self.rows.append(tuple(chain(self._indent, *leads, row)))
            for one in self._containers:
                one.begun = True

    # Blocks

    def _table(self, start: int, cells: list[list[TextRow]], rights: list[bool]) -> None:
        room = self._room()
        if len(rights) > most_columns(room):  # within a list or a quote
            bar: TextRow = ((" | ", "dim"),)
            lines = (tuple(chain(*(chain(bar, cell) for cell in row)))[1:] for row in cells)
            self._add(start, chain(*(wrap_pieces(line, room) for line in lines)))
            return
        self.widths = self._given_widths or widths_for(cells, room)
        self._given_widths = ()
        self._add(start, table_rows(cells, self.widths, rights, self._charset))

    def _code(self, token: Token, *, grows: bool) -> None:
        language = "".join(token.info.split()[:1])[:32]
        block = CodeBlock(language, token.content)
        self.blocks.append(block)
        lines = block.lines
        closed = is_closed(token)
        if not closed and grows and lines and set(lines[-1].strip()) == {token.markup[0]}:
            del lines[-1]  # the end of the block arrives
        width = self._room()
        right = f"{self._first_block + len(self.blocks) - 1} "
        left = head(f" {plain(language) or 'code'}", width - len(right) - 1)
        space = " " * max(1, width - cell_len(left) - len(right))
        rows: list[TextRow] = [((left + space + right, "code-title"),)]
        if closed:
            # Only the whole code tells the lines within a long string or comment.
            rows += _code_rows(language, tuple(lines), width)
        else:
            rows += chain.from_iterable(_line_rows(language, line, width) for line in lines)
        self._add(first_line(token), rows)


@lru_cache(maxsize=2 * OPEN_CODE_LINES)
def _line_rows(language: str, line: str, width: int) -> list[TextRow]:
    """Return the rows of a line of code; the last ones are kept, because the code grows."""
    return _code_rows(language if len(line) <= _COLOURED_LINE else "", (line,), width)


def _code_rows(language: str, lines: tuple[str, ...], width: int) -> list[TextRow]:
    rows: list[TextRow] = []
    shown = tuple(plain(line, limit=ANSWER_CHARACTERS).rstrip() for line in lines)
    for pieces in coloured(language, shown):
        at = 0
        for piece in fold("".join(text for text, _ in pieces), width - 2):
            blank = " " * (width - 1 - cell_len(piece))
            rows.append(((" ", "code"), *part(pieces, at, at + len(piece)), (blank, "code")))
            at += len(piece)
    return rows


def is_closed(code: Token) -> bool:
    """Return whether the end of a block of code has arrived."""
    start, end = code.map or (0, 0)
    return code.type == "code_block" or len(CodeBlock("", code.content).lines) == end - start - 2


def is_blank(line: str, *, quoted: bool) -> bool:
    """Return whether a line has no text, apart from the marks if it is ``quoted``."""
    return not line.strip(" \t\n>" if quoted else " \t\n")


def first_line(token: Token) -> int:
    """Return the number of the line that a block begins in."""
    return token.map[0] if token.map else 0
