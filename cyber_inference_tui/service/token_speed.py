"""The speed at which tokens are generated, over the last seconds.

All times are seconds of one monotonic clock.
"""

from __future__ import annotations

import math
from collections import deque

WINDOW = 4.0
_LEAST = 0.5
"""Seconds before which there is no speed: the first tokens come in bursts."""
_STEP = 0.25


def rounded(speed: float) -> float:
    """Round a speed to three digits, so that a steady one stays the same."""
    return float(f"{speed:.3g}")


class AnswerSpeed:
    """The speed of one answer, from looks at the number of its tokens.

    Its first token came at the time ``since``.
    """

    def __init__(self, since: float) -> None:
        self._looks = deque([(since, 1)])

    def look(self, tokens: int, now: float) -> float | None:
        """Return the mean speed of the last seconds; ``None`` = too early."""
        looks = self._looks
        if now - looks[-1][0] >= _STEP / 2:
            looks.append((now, tokens))
        while len(looks) > 1 and looks[1][0] <= now - WINDOW:
            looks.popleft()
        since, before = looks[0]
        if now - since < _LEAST:
            return None
        return rounded(max(0, tokens - before) / (now - since))


class ModelSpeed:
    """The speed of all answers of a model together, also of those that have ended."""

    def __init__(self) -> None:
        self._parts: dict[int, float] = {}
        """The tokens of each step of time, by its number."""
        self._began = 0.0

    def add(self, tokens: float, since: float, until: float) -> None:
        """Add tokens that were generated evenly from ``since`` to ``until``, which is now."""
        whole = max(until - since, _STEP / 10)
        since = max(until - whole, until - WINDOW)
        if not self._parts:
            self._began = since
        first, last = math.floor(since / _STEP), math.floor(until / _STEP)
        for step in range(first, last + 1):
            begin, end = max(since, step * _STEP), min(until, (step + 1) * _STEP)
            if end > begin:
                part = tokens * (end - begin) / whole
                self._parts[step] = self._parts.get(step, 0.0) + part

    def speed(self, now: float) -> float:
        """Return the mean speed of the last seconds."""
        since = now - WINDOW
        total = 0.0
        for step in list(self._parts):
            inside = min(1.0, (step + 1) - since / _STEP)
            if inside <= 0:
                del self._parts[step]
            else:
                total += self._parts[step] * inside
        return rounded(total / min(WINDOW, max(2 * _LEAST, now - self._began)))
