"""Limit how many refused requests are kept, so that strangers cannot fill the history."""

from __future__ import annotations

from collections.abc import Callable

BURST = 100
"""Refused requests of a kind that are kept at once; after them one every ``PAUSE`` seconds."""
PAUSE = 30.0

_BY_STRANGERS = frozenset({"invalid_api_key", "forbidden_host", "forbidden_origin"})


class Refusals:
    """Chooses the refused requests to keep. ``clock`` returns seconds.

    Anybody can cause those with a wrong key or a foreign name, so they have a limit of their own.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._by_strangers = _Allowance()
        self._others = _Allowance()

    def keeps(self, code: str) -> bool:
        """Return whether to keep the next refused request, which has this code."""
        allowance = self._by_strangers if code in _BY_STRANGERS else self._others
        return allowance.take(self._clock())


class _Allowance:
    def __init__(self) -> None:
        self._left = float(BURST)
        self._at: float | None = None

    def take(self, now: float) -> bool:
        if self._at is not None:
            self._left = min(BURST, self._left + (now - self._at) / PAUSE)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
