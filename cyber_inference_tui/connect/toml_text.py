"""Changes TOML text and keeps the rest."""

from __future__ import annotations

import tomllib
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError


def read(text: str) -> Any:
    """Return the data of the text. Raises ``ValueError``."""
    return tomllib.loads(text)


def with_changes(text: str, changes: Any) -> str:
    """Return the text after settled ``changes``; new tables come last. Raises ``ValueError``."""
    end = "\r\n" if "\r\n" in text else "\n"
    try:
        document = tomlkit.parse(text)
        tables: dict[tuple[str, ...], dict[str, Any]] = {}
        _set(document, changes, (), tables)
        new = tomlkit.dumps(document)
        for path, values in tables.items():
            header = ".".join(tomlkit.key(part).as_string() for part in path)
            table = tomlkit.dumps(values).replace("\n", end)
            start = new if not new or new.endswith("\n") else new + end
            new = f"{start}{end if start else ''}[{header}]{end}{table}"
    except (TOMLKitError, TypeError, LookupError) as error:
        raise ValueError(str(error)) from None
    return new


def _set(
    table: Any, changes: dict[str, Any], path: tuple[str, ...], new: dict[tuple[str, ...], Any]
) -> None:
    """Set values in tables that exist; collect the other tables in ``new``, by their path."""
    for name, value in changes.items():
        if not isinstance(value, dict):
            if name not in table or table[name] != value:
                table[name] = value
        elif name in table:
            _set(table[name], value, (*path, name), new)
        elif all(isinstance(inner, dict) for inner in value.values()):
            for inner_name, inner in value.items():
                new[(*path, name, inner_name)] = inner
        else:
            new[(*path, name)] = value
