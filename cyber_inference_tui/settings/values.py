"""Convert and check a setting's value, given as text or as a parsed value. Pure.

Errors name the expected and the found value, but never a secret: messages are logged.
"""

from __future__ import annotations

import datetime
import ipaddress
import math
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.settings.owned_options import owned_option_problem
from cyber_inference_tui.settings.password_hash import HASH_FORM
from cyber_inference_tui.settings.schema import (
    ALIAS_KEYS,
    ALIASES,
    FIELDS,
    LLAMA_ARGUMENTS,
    MODEL_KEYS,
    NETWORK,
    PASSWORD,
    PORTS,
    Key,
    RequestRules,
)
from cyber_inference_tui.spelling import close_names
from cyber_inference_tui.text import clean_line

_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})
_SHOWN = 60
"""Characters of an invalid value that a message repeats."""
_PORTS = range(1, 65536)
_INT64 = range(-(2**63), 2**64)
"""Whole numbers that JSON on the wire can carry."""

_NAME = (re.compile(r"(?!\s)[^\x00-\x1f\x7f-\x9f]+(?<!\s)"), "a name")

# The patterns of texts; the words complete "expected …".
_FORMS: Mapping[str, tuple[re.Pattern[str], str]] = {
    "name": _NAME,
    ALIASES: _NAME,
    "word": (re.compile(r"[^\x00-\x20\x7f-\x9f]+"), "a name without blanks"),
    "token": (re.compile(r"[\x21-\x7e]+"), "a text of visible ASCII characters"),
    "origin": (
        re.compile(r"\*|[A-Za-z][A-Za-z0-9+.-]*://[^/\s]+"),
        "an origin such as https://chat.example.org",
    ),
    "url": (re.compile(r"https?://[^\s]+"), "an address that begins with https:// or http://"),
    "variable": (re.compile(r"[^=\x00]+"), "a variable's name"),
    FIELDS: (re.compile(r".+", re.DOTALL), "a field's name"),
    PASSWORD: (
        re.compile(rf"(?!\$scrypt\$).+|{HASH_FORM}", re.DOTALL),
        "a password, or a whole scrypt hash",
    ),
}
_NOT_MODEL = "expected no field model: the service finds the model by it, and sends the model's id"


class InvalidValueError(ValueError):
    """The value is invalid.

    ``item`` is the number (from 0) of the invalid item of an array; ``table`` names the tables
    inside the value that lead to it, from the outside in.
    """

    def __init__(self, message: str, item: int | None = None, table: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.item = item
        self.table = table

    def inside(self, *table: str) -> InvalidValueError:
        """Return the same error for a value inside ``table``."""
        return InvalidValueError(str(self), self.item, (*table, *self.table))


def convert(key: Key, value: Any, *, folder: Path | None, home: str, is_text: bool) -> Any:
    """Return ``value`` as the setting's type; raises ``InvalidValueError``.

    ``is_text``: a text may represent a value of any type, as in a variable. Relative paths start
    from ``folder`` (``None`` = the working directory); ``home`` replaces ``~``.
    """
    given = value
    if (key.choices or key.words) and isinstance(value, str):
        value = value.strip().lower()
    if is_text:
        value = parsed(key, value)
    if key.form == ALIASES and isinstance(value, dict):
        tables, mistakes = alias_tables(value, folder=folder, home=home)
        if mistakes:
            first = mistakes[0]
            raise InvalidValueError(f"{'.'.join(first.table)}: {first}", first.item, first.table)
        return tables
    if key.is_list and isinstance(value, list | tuple):
        found, mistakes = items(key, value, folder=folder, home=home)
        if mistakes:
            raise mistakes[0]
        return found
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidValueError(f"expected {key.expected}, found {in_words(value, key)}")
    try:
        typed = msgspec.convert(value, thread_safe(key.type), dec_hook=_decode_path)
    except (msgspec.ValidationError, TypeError, ValueError, OverflowError):
        if key.form == "variable" and isinstance(value, dict):
            name = next((name for name in value if not isinstance(value[name], str)), "")
            raise InvalidValueError(f"{name[:_SHOWN]}: expected a string in quotes") from None
        near = nearest(str(value), (*key.choices, *key.words)) or _only_for_a_model(key, given)
        raise InvalidValueError(
            f"expected {key.expected}, found {in_words(given, key)}{near}"
        ) from None
    if isinstance(typed, dict):
        _check_table(key, typed)
        return typed
    if isinstance(typed, Path):
        return expanded(typed, folder, home)
    if isinstance(typed, str) and typed:
        _check_form(key, typed, None)
        if key.is_path_in(typed):
            return str(expanded(Path(typed), folder, home))
    return typed


def items(
    key: Key, value: Sequence[Any], *, folder: Path | None, home: str
) -> tuple[tuple[Any, ...], list[InvalidValueError]]:
    """Return the items of an array, and all mistakes in it."""
    found: list[Any] = []
    mistakes: list[InvalidValueError] = []
    for number, item in enumerate(value):
        try:
            found.append(_item(key, item, number, folder=folder, home=home))
        except InvalidValueError as error:
            mistakes.append(error)
    return tuple(found), mistakes


def alias_tables(
    value: Mapping[str, Any], *, folder: Path | None, home: str
) -> tuple[dict[str, RequestRules], list[InvalidValueError]]:
    """Return the table form of ``aliases``, and all mistakes in it."""
    tables: dict[str, RequestRules] = {}
    mistakes: list[InvalidValueError] = []
    pattern, words = _NAME
    for alias, table in value.items():
        if not isinstance(table, dict):
            mistakes.append(
                InvalidValueError(f"expected a table, found {in_words(table)}", None, (alias,))
            )
            continue
        if pattern.fullmatch(alias) is None or not _is_text(alias):
            mistakes.append(InvalidValueError(f"expected {words}", None, (alias,)))
        values = {}
        for name, item in table.items():
            key = ALIAS_KEYS.get(name)
            try:
                if key is None:
                    raise InvalidValueError(f"unknown setting{nearest(name, ALIAS_KEYS)}")
                values[name] = convert(key, item, folder=folder, home=home, is_text=False)
            except InvalidValueError as error:
                mistakes.append(error.inside(alias, name))
        tables[alias] = RequestRules(**values)
    return tables, mistakes


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean …?`` if a known name is spelt like ``name``, or an empty text."""
    close = close_names(name, known, 1)
    return f"; did you mean {close[0]}?" if close else ""


def _only_for_a_model(key: Key, value: Any) -> str:
    """Return ``; it belongs into …`` for a word that only a model's own setting may be, or an empty
    text."""
    for own in MODEL_KEYS.values():
        if own.general == key.name and value in own.words:
            return f"; it belongs into a model's own table, as {own.name}"
    return ""


def _item(key: Key, value: Any, number: int, *, folder: Path | None, home: str) -> Any:
    if key.form == PORTS:
        if type(value) is int and value in _PORTS:
            return value
        raise InvalidValueError(
            f"item {number + 1}: expected a port from 1 to {_PORTS[-1]}, found {in_words(value)}",
            number,
        )
    if isinstance(value, Path):
        value = str(value)
    if not isinstance(value, str):
        kind = "a path" if key.is_path else "a string"
        raise InvalidValueError(
            f"expected {key.expected}, but item {number + 1} is {in_words(value, key)}, not {kind}",
            number,
        )
    if key.is_path:
        if not value or not _is_text(value):
            raise InvalidValueError(
                f"item {number + 1}: expected a path, found {in_words(value, key)}", number
            )
        return expanded(Path(value), folder, home)
    _check_form(key, value, number)
    # As a shell does: programs do not expand ~ in their arguments.
    return home + value[1:] if key.is_arguments and home and value[:2] == "~/" else value


def _check_form(key: Key, text: str, item: int | None) -> None:
    place = "" if item is None else f"item {item + 1}: "
    if not _is_text(text):
        raise InvalidValueError(f"{place}expected UTF-8 text without NUL characters", item)
    if key.form == FIELDS and text == "model":
        raise InvalidValueError(f"{place}{_NOT_MODEL}", item)
    form = _FORMS.get(key.form)
    if form is not None and form[0].fullmatch(text) is None:
        raise InvalidValueError(f"{place}expected {form[1]}, found {in_words(text, key)}", item)
    if key.form == NETWORK:
        try:
            ipaddress.ip_network(text, strict=False)
        except ValueError:
            words = "an address or a network such as 10.0.0.0/8"
            raise InvalidValueError(
                f"{place}expected {words}, found {in_words(text, key)}", item
            ) from None
    if key.form == LLAMA_ARGUMENTS and (why := owned_option_problem(text)) is not None:
        raise InvalidValueError(f"{place}{why}", item)


def _check_table(key: Key, table: dict[str, Any]) -> None:
    if key.form == "variable":
        pattern, words = _FORMS["variable"]
        for name, value in table.items():
            if pattern.fullmatch(name) is None:
                raise InvalidValueError(f'expected {words}, found "{name[:_SHOWN]}"')
            if not _is_text(value):
                raise InvalidValueError(f"{name[:_SHOWN]}: expected text without NUL characters")
        return
    if key.form == FIELDS and "model" in table:
        raise InvalidValueError(_NOT_MODEL)
    wrong = _not_json(table)
    if wrong is not None:
        raise InvalidValueError(f"expected values that JSON knows, found {wrong}")


def _not_json(value: Any) -> str | None:
    """Describe the first part of ``value`` that JSON cannot hold."""
    if isinstance(value, dict):
        return next((bad for item in value.values() if (bad := _not_json(item))), None)
    if isinstance(value, list):
        return next((bad for item in value if (bad := _not_json(item))), None)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, int) and value not in _INT64:
        return "a whole number of more than 64 bits"
    if isinstance(value, datetime.date | datetime.time):
        return f"the date or time {value.isoformat()} (put it in quotes)"
    return None


def _is_text(text: str) -> bool:
    """Return whether files, arguments and JSON can hold it: UTF-8 without NUL."""
    return "\0" not in text and not any("\ud800" <= sign <= "\udfff" for sign in text)


def _decode_path(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str) and value and _is_text(value):
        return Path(value)
    raise ValueError("not a path")


def parsed(key: Key, text: Any) -> Any:
    """Parse the text of a variable or a command line by the setting's type.

    Anything but a ``str`` is returned as it is. Nothing is checked.
    """
    if not isinstance(text, str):
        return text
    kind = key.bare_type
    stripped = text.strip()
    if kind is bool and stripped.lower() in _TRUE | _FALSE:
        return stripped.lower() in _TRUE
    if kind in {int, float}:
        for number in (int, float):
            try:
                return number(stripped)
            except ValueError:
                continue
    if key.form == ALIASES and stripped.startswith("{"):
        return _literal(stripped)
    if key.is_list:
        if stripped.startswith("["):
            return _literal(stripped)
        parts = [part.strip() for part in text.split(",") if part.strip()]
        if key.form == PORTS:
            return [int(part) if part.isdecimal() and len(part) <= 5 else part for part in parts]
        return parts
    if key.is_table:
        return _literal(stripped)
    return text


def _literal(text: str) -> Any:
    """Return the TOML or JSON value of a text, or the text if it is neither."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        pass
    try:
        document = tomllib.loads(f"x = {text}")
    except (ValueError, RecursionError):  # TOMLDecodeError is a ValueError, as are endless digits
        return text
    return document["x"] if len(document) == 1 else text


def expanded(path: Path, folder: Path | None, home: str) -> Path:
    """Return ``path`` absolute, with ``~`` expanded; raises ``InvalidValueError``."""
    # Not resolve(): it would replace symbolic links.
    first = path.parts[0] if path.parts else ""
    if first == "~":
        if not home:
            raise InvalidValueError("expected a path, but there is no home directory for ~")
        path = Path(home, *path.parts[1:])
    elif first.startswith("~"):
        try:
            path = path.expanduser()
        except RuntimeError:
            raise InvalidValueError(f"expected a path, but there is no user {first[1:]}") from None
    return folder / path if folder is not None else path.absolute()


def in_words(value: Any, key: Key | None = None) -> str:
    """Describe an invalid value; a secret only by its type."""
    secret = key is not None and key.secret
    if isinstance(value, str):
        return "a string" if secret else f'"{clean_line(value, limit=_SHOWN)}"'
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "nothing"
    if isinstance(value, int) and value not in _INT64:
        return "a whole number of more than 64 bits"
    if secret:
        return "a number" if isinstance(value, int | float) else "another kind of value"
    return str(value)[:_SHOWN]
