"""Ollama's times and durations."""

from __future__ import annotations

import re
import time
from typing import Any

from cyber_inference_tui.errors import InvalidRequestError
from cyber_inference_tui.text import clean_line

NEVER = 0.0
"""An idle timeout that never ends, as in the settings."""
AT_ONCE = 0.001
"""The idle timeout of a model that is unloaded after its request."""

_LONGEST = 1e9
"""Seconds. A longer time is forever."""
_SHOWN = 100
_UNITS = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "μs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}
_PART = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)([^0-9.]*)")
_WAY_OUT = 'Write a number of seconds, or a text such as "5m".'


class Clock:
    """Writes the present time as Ollama does: in UTC, with nine digits of a second."""

    def __init__(self) -> None:
        self._second = -1
        self._text = b""

    def now(self) -> bytes:
        """Return the present time."""
        second, rest = divmod(time.time_ns(), 1_000_000_000)
        if second != self._second:
            self._second = second
            self._text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode()
        return b"%b.%09dZ" % (self._text, rest)


def idle_timeout(keep_alive: Any) -> float | None:
    """Return the idle timeout that ``keep_alive`` asks for; ``None`` if it is not given.

    It is a number of seconds or a text such as ``5m``; a negative one never ends. Raises
    ``InvalidRequestError``.
    """
    if keep_alive is None:
        return None
    if isinstance(keep_alive, str):
        seconds = duration(keep_alive)
    elif isinstance(keep_alive, int | float) and not isinstance(keep_alive, bool):
        seconds = keep_alive
    else:
        raise InvalidRequestError("keep_alive is no duration.", hint=_WAY_OUT, param="keep_alive")
    return max(float(seconds), AT_ONCE) if 0 <= seconds <= _LONGEST else NEVER


def duration(text: str) -> float:
    """Return the seconds of a duration such as ``1h30m``. Raises ``InvalidRequestError``."""
    if text in {"0", "+0", "-0"}:
        return 0.0
    shown = clean_line(text, limit=_SHOWN)
    sign = -1.0 if text.startswith("-") else 1.0
    rest = text[1:] if text.startswith(("-", "+")) else text
    problem = "" if rest else "invalid duration"
    seconds = 0.0
    while rest and not problem:
        part = _PART.match(rest)
        if part is None or len(text) > _SHOWN:
            problem = "invalid duration"
        elif part[2] not in _UNITS:
            unit = f'unknown unit "{clean_line(part[2])}"' if part[2] else "missing unit"
            problem = f"{unit} in duration"
        else:
            seconds += float(part[1]) * _UNITS[part[2]]
            rest = rest[part.end() :]
    if problem:
        raise InvalidRequestError(f'time: {problem} "{shown}".', hint=_WAY_OUT, param="keep_alive")
    return sign * seconds
