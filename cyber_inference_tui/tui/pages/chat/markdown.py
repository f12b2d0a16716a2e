"""Draws Markdown that grows at its end as rows, within bounds; markdown-it-py parses it.

Only the end of the text is parsed again: what is before its last block is drawn for good. What is
drawn for good depends on the text, not on the pieces in which it arrives.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from cyber_inference_tui.terminal.charset import UNICODE, Charset
from cyber_inference_tui.tui.pages.chat import code_colours
from cyber_inference_tui.tui.pages.chat.code_colours import COLOURED_CHARACTERS
from cyber_inference_tui.tui.pages.chat.markdown_rows import (
    OPEN_CODE_LINES,
    CodeBlock,
    MarkdownRows,
    first_line,
    is_blank,
    is_closed,
)
from cyber_inference_tui.tui.pages.chat.tables import most_columns
from cyber_inference_tui.tui.widgets.text_view import TextRow

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.rules_block import StateBlock
    from markdown_it.token import Token

STEP = 500
"""After each of so many characters, what is before the last block is drawn for good."""
OPEN_CHARACTERS = 2_000
OPEN_LINES = 100
"""A last block with more characters or lines is drawn for good, too."""
_NESTING = 20
"""Two for each list or quote within another; what is deeper is left out."""
_CONTEXT_CHARACTERS = 80
_CODE_MARK = re.compile("`{3}|~{3}")


@lru_cache(maxsize=4)
def _parser(columns: int) -> MarkdownIt:
    """Return a parser for tables of at most ``columns``; wider ones are lines of text."""
    from markdown_it import MarkdownIt  # noqa: PLC0415 - needed only by who chats
    from markdown_it.rules_block import table  # noqa: PLC0415

    def bounded_table(state: StateBlock, start: int, end: int, silent: bool) -> bool:
        first = state.bMarks[start]
        bars = state.src.count("|", first, state.eMarks[start])
        if not 1 <= bars <= columns + 1:
            return False
        stop = next((line for line in range(start, end) if state.isEmpty(line)), end)
        # Rows that lack most of their cells would cost much.
        is_full = bars * (stop - start) <= state.eMarks[stop - 1] - first
        return is_full and table(state, start, end, silent)

    parser = MarkdownIt("commonmark", {"html": False, "maxNesting": _NESTING})
    parser.block.ruler.at("table", bounded_table, {"alt": ["paragraph"]})
    # References and underlined headings would change rows that are drawn for good.
    return parser.disable(["reference", "lheading"]).enable(["table", "strikethrough"])


def prepare() -> None:
    """Import what drawing needs, in a thread."""
    _parser(1)
    code_colours.prepare()


@dataclass(frozen=True, slots=True)
class _Context:
    """Lines that put what follows into its place, such as the first one of an open list item.

    Their ``rows`` are drawn already, with a table's ``widths``. ``code`` means that the last known
    block of code is open.
    """

    lines: str = ""
    rows: int = 0
    code: bool = False
    widths: Sequence[int] = ()


class MarkdownFlow:
    """Draws Markdown that grows at its end as rows of ``width`` cells."""

    def __init__(self, width: int, charset: Charset = UNICODE, indent: str = "  ") -> None:
        self._width = max(8, width - len(indent))
        self._charset = charset
        self._indent = indent
        self._rows: list[TextRow] = []
        """The rows that are drawn for good."""
        self._done = 0
        """The characters in them."""
        self._read = 0
        self._blocks: list[CodeBlock] = []
        self._context = _Context()
        self.blocks: list[CodeBlock] = []
        """The blocks of code, in the order of their numbers on the screen."""

    def rows(self, text: str) -> list[TextRow]:
        """Return the rows of ``text``, which has to begin with the text of the last call."""
        text = text.replace("\r", " ")  # the parser would take it for the end of a line
        while self._read + STEP <= len(text):
            self._read += STEP
            self._finish(text[self._done : self._read])
        drawn = self._draw(text[self._done :], self._context)
        self.blocks = self._with(drawn.blocks)
        return [*self._rows, *drawn.rows[self._context.rows :]]

    @property
    def _parser(self) -> MarkdownIt:
        return _parser(most_columns(self._width))

    def _draw(self, text: str, context: _Context) -> MarkdownRows:
        """Draw the end of the text, and its context before it."""
        drawn = MarkdownRows(
            self._width,
            self._charset,
            self._indent,
            follows=bool(self._rows),
            first_block=len(self._blocks) + (not context.code),
            widths=context.widths,
        )
        drawn.draw(self._parser, context.lines + text)
        return drawn

    def _with(self, blocks: list[CodeBlock]) -> list[CodeBlock]:
        """Return the known blocks of code and those of the end of the text."""
        if not self._context.code or not blocks:
            return [*self._blocks, *blocks]
        *before, begun = self._blocks
        whole = CodeBlock(begun.language, begun.content + blocks[0].content)
        return [*before, whole, *blocks[1:]]

    def _finish(self, text: str) -> None:
        """Draw for good what is before the last block of ``text``, or all of it if it is long."""
        # A line that has not ended may become anything.
        whole = text[: text.rfind("\n") + 1]
        if len(text) - len(whole) > OPEN_CHARACTERS:
            whole = text
        quoted = len(whole) > OPEN_CHARACTERS
        if is_blank(whole, quoted=quoted) and not self._context.code:
            self._done += max(0, len(whole) - 1)  # the last one separates what follows
            return
        source = self._context.lines + whole
        path = _last_path(self._parser.parse(source))
        lines = _lines(source)
        # A list's items are blocks of their own.
        outer = path[min(len(path) - 1, path[0].token.type.endswith("list_open"))]
        if not _is_long(lines, outer):
            path = [outer]
        end, is_open = _cut(lines, path)
        done = "".join(lines[:end])[len(self._context.lines) :]
        if not done:
            return
        drawn = self._draw(done, self._context)
        self._rows += drawn.rows[self._context.rows :]
        self._blocks = self._with(drawn.blocks)
        self._done += len(done)
        self._context = _context(lines[:end], path, drawn.widths, is_open=is_open)
        if self._context.lines:
            rows = len(self._draw("", self._context).rows)
            self._context = replace(self._context, rows=rows)


@dataclass(frozen=True, slots=True)
class _Block:
    """A block in which the text ends, or a container of it.

    ``start`` is the line to which all before it can be drawn without it.
    """

    token: Token
    start: int


def _last_path(tokens: list[Token]) -> list[_Block]:
    """Return the last block, after the lists, items and quotes that it is in."""
    path: list[_Block] = []
    before: Token | None = None
    for token in tokens:
        if token.nesting >= 0 and token.map and token.type != "inline":
            path = path[: token.level]
            if not path or path[-1].token.type != "table_open":
                # The first block of an item may begin a line after the item's mark.
                is_first = path and path[-1].token is before
                path.append(_Block(token, path[-1].start if is_first else token.map[0]))
        before = token
    return path


def _is_long(lines: list[str], block: _Block) -> bool:
    """Return whether the last block is too long to be drawn again and again."""
    lines = lines[block.start :]
    if block.token.type == "fence":
        return len(lines) > OPEN_CODE_LINES or sum(map(len, lines)) > COLOURED_CHARACTERS
    return len(lines) > OPEN_LINES or sum(map(len, lines)) > OPEN_CHARACTERS


def _cut(lines: list[str], path: list[_Block]) -> tuple[int, bool]:
    """Return the number of lines to draw for good, and whether the last block is open then."""
    block = path[-1]
    is_long = _is_long(lines, block)
    code = block.token.type == "fence"
    if code and is_long and not is_closed(block.token):
        return len(lines), True
    end = len(lines) if is_long else block.start
    quoted = any(one.token.type == "blockquote_open" for one in path)
    while end and is_blank(lines[end - 1], quoted=quoted):
        end -= 1  # they separate what follows
    return end, is_long and end == len(lines) and not code


def _context(
    lines: list[str], path: list[_Block], widths: Sequence[int], *, is_open: bool
) -> _Context:
    """Return the context of what follows ``lines``, which end in the ``path``."""
    *containers, last = path
    starts = {block.token.map[0] for block in containers if block.token.map}
    kept = {at: _beginning(lines[at]) for at in starts if at < len(lines)}
    table, code = (is_open and last.token.type == kind for kind in ("table_open", "fence"))
    start = first_line(last.token)
    if table:
        kept.update(enumerate(lines[start : start + 2], start))
    elif code:
        kept[start] = f"{lines[start].rstrip()[:_CONTEXT_CHARACTERS]}\n"
    source = "".join(kept[at] for at in sorted(kept))
    if code and len(lines) > start + 1 and not lines[-1].endswith("\n"):
        # Within a line: what follows needs its indentation.
        source += lines[-1].removesuffix(last.token.content.rpartition("\n")[2])
    return _Context(source, code=code, widths=widths if table else ())


def _beginning(line: str) -> str:
    """Return a line that begins the same list item or quote, with other text."""
    return f"{_CODE_MARK.split(line, 1)[0][:_CONTEXT_CHARACTERS].rstrip()} x\n"


def _lines(source: str) -> list[str]:
    """Return the lines with their ends."""
    *lines, rest = source.split("\n")
    return [*(f"{line}\n" for line in lines), *([rest] if rest else [])]
