"""Turns the parsed text of a Markdown block into pieces with roles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cyber_inference_tui.terminal.text_width import plain
from cyber_inference_tui.tui.pages.chat.conversation import ANSWER_CHARACTERS
from cyber_inference_tui.tui.widgets.text_view import Role, TextRow

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

_ROLES: dict[str, Role] = {"strong": "strong", "em": "emphasis", "s": "struck", "a": "link"}


def inline_lines(parser: MarkdownIt, token: Token, role: Role, *, grows: bool) -> list[TextRow]:
    """Return the lines of a block's text without their marks; at least one.

    If the text ``grows``, a beginning ``**`` or backtick counts already, so that the words do not
    change when the end arrives.
    """
    found = token.children or []
    if grows and (end := _missing_end(token.content)):
        ended = parser.parseInline(token.content + end)[0].children or []
        if ended and not (ended[-1].type == "text" and ended[-1].content):
            # The mark has begun something.
            found = ended
    lines: list[list[tuple[str, Role]]] = [[]]
    roles = [role]
    addresses: list[str] = []
    for child in found:
        if child.type in {"softbreak", "hardbreak"}:
            lines.append([])
        elif child.nesting > 0:
            roles.append(_within(roles[-1], _ROLES[child.tag]))
            # An automatic link is its address.
            addresses.append("" if child.info == "auto" else str(child.attrGet("href") or ""))
        elif child.nesting < 0:
            roles.pop()
            _add_address(lines[-1], addresses.pop())
        elif child.type == "image":
            _add(lines[-1], child.content, "link")
            _add_address(lines[-1], str(child.attrGet("src")))
        else:
            _add(lines[-1], child.content, "inline" if child.type == "code_inline" else roles[-1])
    return [tuple(line) for line in lines]


def _missing_end(text: str) -> str:
    """Return the mark, or its second half, that is missing at the end of a line that grows."""
    line = text.rpartition("\n")[2]
    if line.count("`") % 2:
        return "`"
    if line.count("**") % 2:
        return "*" if line[-1] == "*" and line[-2] != "*" else "**"
    return ""


def _within(outer: Role, inner: Role) -> Role:
    """Return the role of emphasis within other emphasis or a heading."""
    return inner if outer in {"text", "emphasis"} or inner == "link" else outer


def _add_address(line: list[tuple[str, Role]], address: str) -> None:
    """Add the address of a link or an image, unless its text is the address."""
    if address and (not line or line[-1][0] != address):
        _add(line, f" ({address})", "dim")


def _add(line: list[tuple[str, Role]], text: str, role: Role) -> None:
    if shown := plain(text, limit=ANSWER_CHARACTERS):
        line.append((shown, role))
