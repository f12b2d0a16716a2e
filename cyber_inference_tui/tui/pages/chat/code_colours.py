"""Roles of the words of code, by Pygments, which is imported when code arrives."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from cyber_inference_tui.tui.widgets.text_view import Role, TextRow

COLOURED_CHARACTERS = 20_000
"""Longer code stays plain, because colouring would delay keys."""
_ROLES: tuple[tuple[str, Role], ...] = (
    ("Token.Comment", "comment"),
    ("Token.Literal.String", "string"),
    ("Token.Literal.Number", "number"),
    ("Token.Keyword", "keyword"),
    ("Token.Operator.Word", "keyword"),
    ("Token.Name.Function", "called"),
    ("Token.Name.Class", "called"),
    ("Token.Name.Tag", "keyword"),
)


@lru_cache(maxsize=16)
def _lexer(language: str) -> Any:
    """Return the lexer of a language, or ``None`` for an unknown one."""
    from pygments.lexers import get_lexer_by_name  # type: ignore[import-untyped]  # noqa: PLC0415 - slow
    from pygments.util import ClassNotFound  # type: ignore[import-untyped]  # noqa: PLC0415

    try:
        return get_lexer_by_name(language, stripnl=False, ensurenl=False)
    except ClassNotFound:
        return None


@lru_cache(maxsize=512)
def _role(token: Any) -> Role:
    name = str(token)
    return next((role for begins, role in _ROLES if name.startswith(begins)), "code")


def prepare() -> None:
    """Import what colouring needs, in a thread."""
    coloured("python", ("x = 1",))


@lru_cache(maxsize=4)
def coloured(language: str, lines: tuple[str, ...]) -> list[TextRow]:
    """Return the pieces of each line; in one role if the language is unknown.

    A block that grows is drawn again and again: the last results are kept.
    """
    plain: list[TextRow] = [((line, "code"),) for line in lines]
    size = sum(map(len, lines))
    lexer = _lexer(language.lower()) if language and size <= COLOURED_CHARACTERS else None
    if lexer is None:
        return plain
    rows: list[list[tuple[str, Role]]] = [[]]
    for token, text in lexer.get_tokens("\n".join(lines)):
        role = _role(token)
        for number, piece in enumerate(text.split("\n")):
            if number:
                rows.append([])
            if piece and rows[-1] and rows[-1][-1][1] == role:
                rows[-1][-1] = (rows[-1][-1][0] + piece, role)
            elif piece:
                rows[-1].append((piece, role))
    # A lexer that changes line ends would shift the rows.
    return [tuple(row) for row in rows] if len(rows) == len(lines) else plain
