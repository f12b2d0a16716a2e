"""A model's settings as people type them, and back; what of it is a change. Pure."""

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
    "default": "default",
    "file": "file",
    "env": "environment",
    "flag": "flag",
}
"""Where a value comes from, in words."""

_LONGEST = 1_000_000
"""Characters of a value, which must not be cut: what is shown is what is saved."""


@dataclass(frozen=True, slots=True)
class Change:
    """What saving a line does: set the key to ``value``, or take it out of the table."""

    key: str
    value: Any = None
    unset: bool = False


@dataclass(frozen=True, slots=True)
class _Kind:
    read: Callable[[str], Any]
    hint: str
    show: Callable[[Any], str] = to_text


def setting_text(key: str, value: Any) -> str:
    """``value`` as it is typed; empty where there is none."""
    if value is None or value in ([], {}, ()):
        return ""
    return clean_line(_kind(key, value).show(value), limit=_LONGEST)


def type_hint(record: ModelSettingRecord) -> str:
    """How a value of this key is typed, in a few words."""
    return _kind(record.key, record.effective).hint


def change_of(record: ModelSettingRecord, text: str) -> Change | None:
    """What ``text`` in the line of ``record`` changes; ``None`` = nothing.

    Raises ``InvalidRequestError`` where it cannot be read. Whether the value makes sense is the
    service's to say.
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
    """What saving would do, in a few words."""
    match check.effect:
        case SettingEffect.NOTHING:
            return "is what holds already"
        case SettingEffect.NOW:
            return "applies now"
        case SettingEffect.RESTARTS_MODELS:
            if not check.models:
                return "applies when it is loaded the next time"
            names = ", ".join(clean_line(name, limit=60) for name in check.models[:5])
            return f"reloads {names} after its requests"
        case SettingEffect.RESTARTS_SERVICE:
            return "applies when the service is started again"
        case SettingEffect.OVERRIDDEN:
            return "is written, but the environment or a flag wins over it"


# Kinds of values


def _kind(key: str, like: Any) -> _Kind:
    """How values of ``key`` are typed; of a key that a newer service has, by what holds there."""
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
    """As a shell would have them, if that reads as the same list again; else as JSON."""
    joined = shlex.join(str(item) for item in value)
    try:
        plain = _arguments(joined) == list(value)
    except InvalidRequestError:
        plain = False
    return joined if plain else json.dumps(list(value), ensure_ascii=False)


def _switch(text: str) -> Any:
    return parse(text, False)


def _table(text: str) -> Any:
    return parse(text, {})


_SWITCH = _Kind(_switch, "true or false")
_WHOLE = _Kind(whole_number, "a whole number")
_NUMBER = _Kind(number, "a number")
_NAMES = _Kind(_names, "names with commas between them")
_ALIASES = _Kind(_aliases, "names with commas between them, or a table in JSON")
_ARGUMENTS = _Kind(_arguments, "as in a shell, with spaces between them", _show_arguments)
_TABLE = _Kind(_table, 'a table in JSON, such as {"temperature": 0.7}')
_VARIABLES = _Kind(_table, 'a table in JSON, such as {"GGML_CUDA_P2P": "1"}')
_TEXT = _Kind(str, "text")

_KINDS = {
    "path": _TEXT,
    "aliases": _ALIASES,
    "context_size": _WHOLE,
    "gpu_layers": _WHOLE,
    "parallel": _WHOLE,
    "threads": _WHOLE,
    "mmproj": _TEXT,
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
