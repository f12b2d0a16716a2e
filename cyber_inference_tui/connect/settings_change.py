"""The wanted content of a settings file: a nested dictionary, merged into the file's data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Items:
    """Items of a list: each is merged into the item with the same ``key``, or added."""

    key: str
    items: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class IfAbsent:
    """A value that a file needs; the file's own value is kept."""

    value: Any


def settled(present: Any, changes: Any) -> Any:
    """Return ``changes`` without the ``IfAbsent`` values that the data ``present`` has already."""
    if not isinstance(changes, dict):
        return changes
    known = present if isinstance(present, dict) else {}
    return {
        name: settled(known.get(name), value.value if isinstance(value, IfAbsent) else value)
        for name, value in changes.items()
        if not isinstance(value, IfAbsent) or known.get(name) is None
    }


def plain(changes: Any) -> Any:
    """Return settled ``changes`` as the data of a file that has nothing else."""
    return merged(None, changes)


def merged(present: Any, changes: Any) -> Any:
    """Return the data ``present`` after ``changes``, which are ``settled``."""
    if isinstance(changes, Items):
        result = list(present) if isinstance(present, list) else []
        for item in changes.items:
            at = place(result, changes.key, item)
            if at is None:
                result.append(item)
            else:
                result[at] = merged(result[at], item)
        return result
    if isinstance(changes, dict):
        table = dict(present) if isinstance(present, dict) else {}
        for name, value in changes.items():
            table[name] = merged(table.get(name), value)
        return table
    return changes


def place(items: list[Any], key: str, item: dict[str, Any]) -> int | None:
    """Return the index of the item with the same ``key`` as ``item``; ``None`` if there is none."""
    for at, known in enumerate(items):
        if isinstance(known, dict) and known.get(key) == item[key]:
            return at
    return None


def changed(present: Any, wanted: Any, path: str = "") -> list[str]:
    """Return the paths of the values of ``wanted`` that ``present`` has not."""
    if isinstance(wanted, dict) and isinstance(present, dict):
        return [
            name
            for key, value in wanted.items()
            for name in changed(present.get(key), value, f"{path}.{key}" if path else str(key))
        ]
    return [] if present == wanted else [path or "its list"]


def edited(text: str, edits: Iterable[tuple[int, int, str]]) -> str:
    """Return ``text`` with other text at some places: start, end and the new text.

    Those at one place keep their order.
    """
    parts = []
    at = 0
    for start, end, new in sorted(edits, key=lambda edit: edit[0]):
        parts += [text[at:start], new]
        at = end
    return "".join([*parts, text[at:]])
