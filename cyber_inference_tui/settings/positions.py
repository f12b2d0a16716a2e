"""Find the line of each key in a TOML text, for messages about mistakes.

The standard reader does not report lines. This scanner knows just enough TOML to walk a text that
the standard reader accepts: strings, comments, arrays, inline tables, headers and (dotted, quoted)
keys. It follows the grammar, so a ``#``, ``=`` or bracket inside a string does not confuse it.
"""

from __future__ import annotations

import contextlib
import re
import tomllib
from bisect import bisect_right

KeyPath = tuple[str | int, ...]
"""Names of tables and keys from the outside in; numbers (from 0) are items of an array."""

_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}'
    r"|'''.*?'{3,5}"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
_KEY_PART = re.compile(r"""[ \t]*("(?:\\.|[^"\\\n])*"|'[^'\n]*'|[A-Za-z0-9_-]+)[ \t]*""")
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_PLAIN_VALUE = re.compile(r"[^,\]}#\n]*")
_REST_OF_LINE = re.compile(r"[ \t\r]*(?:#[^\n]*)?(?:\n|\Z)")


def key_lines(text: str) -> dict[KeyPath, int]:
    """Return the line (from 1) of every table, key and array item, by its full path.

    A table that a dotted key or a header implies has the line that names it first. Of a text that
    is not valid TOML, the part before the first error counts.
    """
    scanner = _Scanner(text)
    with contextlib.suppress(_UnexpectedError, RecursionError):
        scanner.document()
    return scanner.lines


def key_path(key: str) -> tuple[str, ...] | None:
    """Return the parts of a dotted key (``models."a.b".path``), or ``None`` if it is none."""
    try:
        parts, end = _Scanner(key).key(0)
    except _UnexpectedError:
        return None
    return parts if end == len(key) else None


class _UnexpectedError(Exception):
    """The text is not valid TOML."""


class _Scanner:
    """Walks a text once and fills ``lines``."""

    def __init__(self, text: str) -> None:
        self.lines: dict[KeyPath, int] = {}
        self._text = text
        self._line_ends = [match.start() for match in re.finditer("\n", text)]

    def document(self) -> None:
        """Walk the whole text."""
        table: KeyPath = ()
        position = self._skip_blank(0)
        while position < len(self._text):
            if self._text[position] == "[":
                start = position
                double = self._text.startswith("[[", position)
                table, position = self.key(position + 1 + double)
                if not self._text.startswith("]]" if double else "]", position):
                    raise _UnexpectedError
                position += 1 + double
                self._note((), table, start)
            else:
                position = self._pair(table, position)
            rest = _REST_OF_LINE.match(self._text, position)
            if rest is None:
                raise _UnexpectedError
            position = self._skip_blank(rest.end())

    def key(self, position: int) -> tuple[tuple[str, ...], int]:
        """Return the dotted key at ``position``, and its end."""
        parts: list[str] = []
        while match := _KEY_PART.match(self._text, position):
            raw = match[1]
            parts.append(_unquoted(raw))
            position = match.end()
            if self._text[position : position + 1] != ".":
                return tuple(parts), position
            position += 1
        raise _UnexpectedError

    def _pair(self, table: KeyPath, position: int) -> int:
        parts, end = self.key(position)
        if self._text[end : end + 1] != "=":
            raise _UnexpectedError
        self._note(table, parts, position)
        return self._value(table + parts, end + 1)

    def _value(self, path: KeyPath, position: int) -> int:
        """Note the keys inside the value at ``position``; returns its end."""
        position = self._skip_blank(position)
        opening = self._text[position : position + 1]
        if opening in {'"', "'"}:
            string = _STRING.match(self._text, position)
            if string is None:
                raise _UnexpectedError
            return string.end()
        if opening not in {"[", "{"}:
            plain = _PLAIN_VALUE.match(self._text, position)
            return plain.end() if plain else position
        closing = "]" if opening == "[" else "}"
        position = self._skip_blank(position + 1)
        number = 0
        while self._text[position : position + 1] != closing:
            if opening == "[":
                self.lines[(*path, number)] = self._line(position)
                position = self._value((*path, number), position)
            else:
                position = self._pair(path, position)
            number += 1
            position = self._skip_blank(position)
            following = self._text[position : position + 1]
            if following == ",":
                position = self._skip_blank(position + 1)
            elif following != closing:
                raise _UnexpectedError
        return position + 1

    def _skip_blank(self, position: int) -> int:
        blank = _BLANK.match(self._text, position)
        return blank.end() if blank else position

    def _note(self, table: KeyPath, parts: tuple[str, ...], position: int) -> None:
        line = self._line(position)
        for depth in range(1, len(parts) + 1):
            self.lines.setdefault(table + parts[:depth], line)

    def _line(self, position: int) -> int:
        return bisect_right(self._line_ends, position - 1) + 1


def _unquoted(raw: str) -> str:
    if raw[0] not in "\"'":
        return raw
    try:
        value = tomllib.loads(f"x={raw}")["x"]
    except tomllib.TOMLDecodeError:
        raise _UnexpectedError from None
    return str(value)
