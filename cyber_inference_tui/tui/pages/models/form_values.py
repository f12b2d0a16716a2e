"""Converts a model's settings to text and back, and finds changes."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cyber_inference_tui.errors import InvalidRequestError
from cyber_inference_tui.records import ConfigCheckRecord, ModelSettingRecord, SettingEffect
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.setting_text import number, parse, to_text, whole_number

SOURCES = {
    "model": "this model",
    "base": "the model",
    "default": "default",
    "file": "file",
    "env": "environment",
    "flag": "flag",
}
"""The sources of a value in words."""

_LONGEST = 1_000_000
"""Limit in characters, high enough to cut no value: the text shown is the text saved."""


@dataclass(frozen=True, slots=True)
class Change:
    """A change: set the key to ``value``, or remove it from the model's table."""

    key: str
    value: Any = None
    unset: bool = False


@dataclass(frozen=True, slots=True)
class _Kind:
    read: Callable[[str], Any]
    hint: str
    show: Callable[[Any], str] = to_text


def setting_text(key: str, value: Any) -> str:
    """Return ``value`` as it is typed; empty if there is none."""
    if value is None or value in ([], {}, ()):
        return ""
    return clean_line(_kind(key, value).show(value), limit=_LONGEST)


def type_hint(record: ModelSettingRecord) -> str:
    """Return a hint on how to type a value of this key."""
    return _kind(record.key, record.effective).hint


def change_of(record: ModelSettingRecord, text: str) -> Change | None:
    """Return the change that ``text`` makes to ``record``, or ``None``.

    Raise ``InvalidRequestError`` if it cannot be parsed. The service checks whether the value is
    valid.
    """
    text = text.strip()
    before = setting_text(record.key, record.value)
    if text == before.strip():
        return None
    if not text:
        return Change(record.key, unset=True)
    value = _kind(record.key, record.effective).read(text)
    same = value == record.value and isinstance(value, bool) == isinstance(record.value, bool)
    return None if same else Change(record.key, value)


def effect_text(check: ConfigCheckRecord) -> str:
    """Return the effect of saving in a few words."""
    match check.effect:
        case SettingEffect.NOTHING:
            return "unchanged"
        case SettingEffect.NOW:
            return "applies now"
        case SettingEffect.RESTARTS_MODELS:
            if not check.models:
                return "applies at the next load"
            names = ", ".join(clean_line(name, limit=60) for name in check.models[:5])
            return f"reloads {names} after its requests"
        case SettingEffect.RESTARTS_SERVICE:
            return "applies after a restart of the service"
        case SettingEffect.OVERRIDDEN:
            return "saved, but overridden by the environment or a flag"


# Kinds of values


def _kind(key: str, like: Any) -> _Kind:
    """Return the kind of ``key``; for an unknown key, by the type of its value ``like``."""
    if (known := _KINDS.get(key)) is not None:
        return known
    if isinstance(like, bool):
        return _SWITCH
    if isinstance(like, int | float):
        return _NUMBER
    if isinstance(like, list | tuple):
        return _NAMES
    return _TABLE if isinstance(like, dict) else _TEXT


def _names(text: str) -> list[Any]:
    names: list[Any] = parse(text, [])
    return names


def _aliases(text: str) -> Any:
    return _table(text) if text.startswith("{") else _names(text)


def _arguments(text: str) -> list[Any]:
    if text.startswith("["):
        return _names(text)
    try:
        return shlex.split(text)
    except ValueError:
        raise InvalidRequestError("A quotation mark is not closed.") from None


def _show_arguments(value: Any) -> str:
    """Quote the arguments for a shell if that parses to the same list, else as JSON."""
    joined = shlex.join(str(item) for item in value)
    try:
        plain = _arguments(joined) == list(value)
    except InvalidRequestError:
        plain = False
    return joined if plain else json.dumps(list(value), ensure_ascii=False)


def _context(text: str) -> Any:
    return text if text == "auto" else whole_number(text)


def _switch(text: str) -> Any:
    return parse(text, False)


def _table(text: str) -> Any:
    return parse(text, {})


_SWITCH = _Kind(_switch, "true or false")
_WHOLE = _Kind(whole_number, "a whole number")
_CONTEXT = _Kind(_context, 'a whole number, or "auto"')
_NUMBER = _Kind(number, "a number")
_NAMES = _Kind(_names, "names separated by commas")
_ALIASES = _Kind(_aliases, "names separated by commas, or a JSON table")
_ARGUMENTS = _Kind(_arguments, "arguments as in a shell, separated by spaces", _show_arguments)
_TABLE = _Kind(_table, 'a JSON table such as {"temperature": 0.7}')
_VARIABLES = _Kind(_table, 'a JSON table such as {"GGML_CUDA_P2P": "1"}')
_TEXT = _Kind(str, "text")
_DRAFT = _Kind(str, "off, auto, or the id of a model")

_KINDS = {
    "path": _TEXT,
    "aliases": _ALIASES,
    "context_size": _CONTEXT,
    "gpu_layers": _WHOLE,
    "parallel": _WHOLE,
    "threads": _WHOLE,
    "mmproj": _TEXT,
    "draft": _DRAFT,
    "lora": _NAMES,
    "split": _NAMES,
    "args": _ARGUMENTS,
    "env": _VARIABLES,
    "idle_timeout": _NUMBER,
    "pinned": _SWITCH,
    "preload": _SWITCH,
    "max_concurrent_requests": _WHOLE,
    "request_defaults": _TABLE,
    "request_overrides": _TABLE,
    "request_strip": _NAMES,
    "command": _ARGUMENTS,
}
