"""Where a key stands in a TOML text, so that a mistake can be named with its line.

The standard reader does not tell lines. This scanner knows just enough TOML to walk a valid text:
strings, comments, brackets, table headers and (dotted, quoted) keys.
"""

from __future__ import annotations

import re
import tomllib

_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}|' r"'''.*?'{3,5}|" r'"(?:\\.|[^"\\\n])*"|' r"'[^'\n]*'",
    re.DOTALL,
)
_HEADER = re.compile(r"\[\[?(?P<name>[^\n]*?)\]\]?[ \t]*(?:#[^\n]*)?$", re.MULTILINE)
_KEY_PART = re.compile(r"""[ \t]*("(?:\\.|[^"\\\n])*"|'[^'\n]*'|[A-Za-z0-9_-]+)[ \t]*""")

Path = tuple[str, ...]


def key_lines(text: str) -> dict[Path, int]:
    """The line (from 1) of every table header and key outside inline tables, by its full path.

    ``text`` must be valid TOML; for anything else what was found so far is given.
    """
    found: dict[Path, int] = {}
    table: Path = ()
    position, line = 0, 1
    while position < len(text):
        character = text[position]
        if character in " \t\r\n":
            line += character == "\n"
            position += 1
            continue
        end = position
        if character == "#":
            end = _end_of_line(text, position)
        elif character == "[":
            header = _HEADER.match(text, position)
            if header is None:
                return found
            table, _ = _key_path(header["name"].strip("[] \t"), 0)
            found.setdefault(table, line)
            end = header.end()
        else:
            path, end = _key_path(text, position)
            if not path or text[end : end + 1] != "=":
                return found
            found.setdefault(table + path, line)
            end = _end_of_value(text, end + 1)
        line += text.count("\n", position, end)
        position = end
    return found


def _end_of_line(text: str, position: int) -> int:
    end = text.find("\n", position)
    return len(text) if end < 0 else end


def _key_path(text: str, position: int) -> tuple[Path, int]:
    """A dotted key at ``position`` and where it ends."""
    parts: list[str] = []
    while match := _KEY_PART.match(text, position):
        raw = match[1]
        parts.append(tomllib.loads(f"x={raw}")["x"] if raw[0] in "\"'" else raw)
        position = match.end()
        if text[position : position + 1] != ".":
            break
        position += 1
    return tuple(parts), position


def _end_of_value(text: str, position: int) -> int:
    """Behind the value: the end of its line, or of the line where its last bracket closes."""
    depth = 0
    while position < len(text):
        character = text[position]
        if character in "\"'":
            string = _STRING.match(text, position)
            if string is None:
                return len(text)
            position = string.end()
            continue
        if character == "#":
            position = _end_of_line(text, position)
            continue
        if character == "\n" and depth == 0:
            return position
        depth += (character in "[{") - (character in "]}")
        position += 1
    return position
