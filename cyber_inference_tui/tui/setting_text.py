"""Converts the values of settings to text and back.

Numbers, words, true and false are plain text. A list is its items separated by commas, or JSON if
an item contains a comma. A table is JSON.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from typing import Any

import msgspec

from cyber_inference_tui.errors import InvalidRequestError
from cyber_inference_tui.units import size_text

_THOUSANDS = re.compile(r"-?\d{1,3}(?:,\d{3})+")
_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def to_text(value: Any) -> str:
    """Return ``value`` as it is shown and typed."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, list | tuple):
        items = [to_text(item) if isinstance(item, str) else None for item in value]
        plain = all(item and item == item.strip() and not set(item) & set(',"[]') for item in items)
        return ", ".join(item for item in items if item) if plain else _json(list(value))
    if isinstance(value, dict):
        return _json(value) if value else ""
    return str(value)


def with_unit(text: str, value: Any, description: str) -> str:
    """Return ``text``, which is ``value``, with the unit that its description begins with.

    These are ``Seconds`` and ``Bytes``. Zero, which often means never or no limit, has no unit.
    """
    if isinstance(value, int | float) and value and not isinstance(value, bool):
        if description.startswith("Seconds "):
            return f"{text} s"
        if description.startswith("Bytes "):
            return size_text(int(value))
    return text


def parse(text: str, like: Any) -> Any:
    """Parse ``text`` as a value of the type of ``like`` (the default, or the present value).

    Raise ``InvalidRequestError`` with a sentence. The service checks whether the value is valid.
    """
    text = text.strip()
    if isinstance(like, bool):
        word = _WORDS.get(text.lower())
        if word is None:
            raise InvalidRequestError("Type true or false.")
        return word
    if isinstance(like, int | float):
        return number(text)
    if isinstance(like, list | tuple):
        return _items(text)
    if isinstance(like, dict):
        return _table(text)
    return text


def whole_number(text: str) -> int:
    """Parse a whole number, with or without thousands separators; ``InvalidRequestError``."""
    try:
        return int(text.replace(",", "") if _THOUSANDS.fullmatch(text) else text)
    except ValueError:
        raise InvalidRequestError("Type a whole number.") from None


def number(text: str) -> int | float:
    """Parse a finite number; raise ``InvalidRequestError``."""
    with contextlib.suppress(InvalidRequestError):
        return whole_number(text)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InvalidRequestError("Type a number.")
    return value


def _items(text: str) -> list[Any]:
    if not text.startswith("["):
        return [item for part in text.split(",") if (item := part.strip())]
    items = _from_json(text, 'a list in JSON, such as ["a", "b"]')
    if not isinstance(items, list):
        raise InvalidRequestError("Type a list.")
    return items


def _table(text: str) -> dict[str, Any]:
    example = '{"temperature": 0.7}'
    table = _from_json(text or "{}", f"a table in JSON, such as {example}")
    if not isinstance(table, dict):
        raise InvalidRequestError(f"Type a table, such as {example}.")
    return table


def _from_json(text: str, wanted: str) -> Any:
    # Not json.loads(): it takes NaN and half characters, which are no JSON.
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        found = re.search(r"byte (\d+)", str(error))
        where = ""
        if found:
            before = text.encode()[: int(found[1])].decode(errors="ignore")
            where = f" The mistake is at character {len(before) + 1}."
        raise InvalidRequestError(f"Type {wanted}.{where}") from None


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
