"""Changes JSON text and keeps the rest: comments, commas at the end, order and indentation.

Editors and agents allow ``//`` and ``/* */`` comments and a comma before a closing bracket in their
settings (JSON with Comments).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from cyber_inference_tui.connect.settings_change import Items, edited, place, plain

_SKIPPED = re.compile(r"(?:[\s\ufeff]+|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_SCALAR = re.compile(r'"(?:[^"\\\n]|\\.)*"|[-+.\w]+')
_DEEPEST = 100


@dataclass
class _Node:
    """A value and its place in the text; ``inner`` are the values of an object or array."""

    start: int
    end: int = 0
    data: Any = None
    keys: list[str] = field(default_factory=list)
    inner: list[_Node] = field(default_factory=list)
    last: int = 0
    """The end of the last value, comma or comment before the closing bracket."""
    comma: bool = False
    """There is a comma after the last value."""


def read(text: str) -> Any:
    """Return the data of the text; an empty text is an empty object. Raises ``ValueError``."""
    return _parsed(text).data if text.strip("\ufeff \t\r\n") else {}


def with_changes(text: str, changes: Any) -> str:
    """Return the text after settled ``changes``. Raises ``ValueError``."""
    end = "\r\n" if "\r\n" in text else "\n"
    if not text.strip("\ufeff \t\r\n"):
        return _dumped(changes, "", "  ", end) + end
    root = _parsed(text)
    unit = next(iter(re.findall(r"^([ \t]+)\S", text, re.MULTILINE)), "  ")
    edits: list[tuple[int, int, str]] = []
    _change(text, root, changes, (unit, end), edits)
    return edited(text, edits)


def _dumped(value: Any, indent: str, unit: str, end: str) -> str:
    value = plain(value)
    # A list of plain values is on one line, as people write it.
    if isinstance(value, list) and not any(isinstance(item, dict | list) for item in value):
        return json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict | list) or not value:
        return json.dumps(value, ensure_ascii=False)
    within = indent + unit
    if isinstance(value, dict):
        parts = [
            f"{json.dumps(name, ensure_ascii=False)}: {_dumped(inner, within, unit, end)}"
            for name, inner in value.items()
        ]
    else:
        parts = [_dumped(inner, within, unit, end) for inner in value]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    lines = f",{end}".join(within + part for part in parts)
    return f"{opening}{end}{lines}{end}{indent}{closing}"


def _change(
    text: str, node: _Node, changes: Any, style: tuple[str, str], edits: list[tuple[int, int, str]]
) -> None:
    """Add the ``edits`` that make the value of ``node`` what ``changes`` say."""
    added: list[tuple[str | None, Any]] = []
    if isinstance(changes, dict) and isinstance(node.data, dict):
        for name, value in changes.items():
            if name in node.keys:
                # Of two members with one name the last counts.
                at = len(node.keys) - 1 - node.keys[::-1].index(name)
                _change(text, node.inner[at], value, style, edits)
            else:
                added.append((name, value))
    elif isinstance(changes, Items) and isinstance(node.data, list):
        for item in changes.items:
            found = place(node.data, changes.key, item)
            if found is None:
                added.append((None, item))
            else:
                _change(text, node.inner[found], item, style, edits)
    elif node.data != changes or type(node.data) is not type(changes):
        edits.append((node.start, node.end, _dumped(changes, _indent(text, node), *style)))
    if added:
        _add(text, node, added, style, edits)


def _indent(text: str, node: _Node) -> str:
    """Return the indentation of the line that the node begins on."""
    line = text[text.rfind("\n", 0, node.start) + 1 : node.start].lstrip("\ufeff")
    return line[: len(line) - len(line.lstrip())]


def _add(
    text: str,
    node: _Node,
    added: list[tuple[str | None, Any]],
    style: tuple[str, str],
    edits: list[tuple[int, int, str]],
) -> None:
    unit, end = style
    outer = _indent(text, node)
    indent = outer + unit
    if node.inner and "\n" in text[node.start : node.inner[0].start]:
        indent = _indent(text, node.inner[0])
    parts = [
        indent
        + (f"{json.dumps(name, ensure_ascii=False)}: " if name is not None else "")
        + _dumped(value, indent, *style)
        for name, value in added
    ]
    if node.inner and not node.comma:
        edits.append((node.inner[-1].end, node.inner[-1].end, ","))
    new = end + f",{end}".join(parts) + ("," if node.comma else "")
    if "\n" not in text[node.last : node.end]:
        new += end + outer
    edits.append((node.last, node.last, new))


def _parsed(text: str) -> _Node:
    node = _value(text, _skip(text, 0), 0)
    if _skip(text, node.end) != len(text):
        raise _mistake(text, node.end, "there is more after the end")
    return node


def _skip(text: str, at: int) -> int:
    return next(_SKIPPED.finditer(text, at)).end()  # it matches nothing, too


def _mistake(text: str, at: int, what: str) -> ValueError:
    return ValueError(f"line {text.count(chr(10), 0, at) + 1}: {what}")


def _value(text: str, at: int, depth: int) -> _Node:
    if depth > _DEEPEST:
        raise _mistake(text, at, "it is nested too deeply")
    if text[at : at + 1] in {"{", "["}:
        return _container(text, at, depth)
    found = _SCALAR.match(text, at)
    if found is None:
        raise _mistake(text, at, "a value is missing")
    try:
        data = json.loads(found[0], strict=False)
    except ValueError:
        raise _mistake(text, at, f"{found[0][:40]} is no value") from None
    return _Node(at, found.end(), data)


def _container(text: str, at: int, depth: int) -> _Node:
    is_object = text[at] == "{"
    node = _Node(at, data={} if is_object else [], last=at + 1)
    closing = "}" if is_object else "]"
    while True:
        # Comments after a value belong to it: only the blanks after them are free.
        node.last = at + 1 + len(text[at + 1 : _skip(text, at + 1)].rstrip())
        at = _skip(text, at + 1)
        if text[at : at + 1] == closing:
            node.end = at + 1
            return node
        if node.inner and not node.comma:
            raise _mistake(text, at, "a comma is missing")
        if is_object:
            key = _SCALAR.match(text, at)
            if key is None or not key[0].startswith('"'):
                raise _mistake(text, at, "a name in quotes is missing")
            at = _skip(text, key.end())
            if text[at : at + 1] != ":":
                raise _mistake(text, at, "a colon is missing")
            node.keys.append(json.loads(key[0], strict=False))
            at = _skip(text, at + 1)
        value = _value(text, at, depth + 1)
        node.inner.append(value)
        if is_object:
            node.data[node.keys[-1]] = value.data
        else:
            node.data.append(value.data)
        after = _skip(text, value.end)
        node.comma = text[after : after + 1] == ","
        at = after if node.comma else value.end - 1
