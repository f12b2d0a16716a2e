"""Refused requests: which of them are kept, so that strangers cannot fill the history."""

from __future__ import annotations

from collections.abc import Callable

BURST = 100
"""Refused requests of a kind that are kept at once; after them one every ``PAUSE`` seconds."""
PAUSE = 30.0

_AT_THE_DOOR = frozenset({"invalid_api_key", "forbidden_host", "forbidden_origin"})


class Refusals:
    """Chooses those to keep. ``clock`` gives seconds.

    What anybody can cause, by a wrong key or a foreign name, leaves the room of the others alone.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._at_the_door = _Allowance()
        self._inside = _Allowance()

    def keeps(self, code: str) -> bool:
        """Whether the next one, with this code, is to be kept."""
        allowance = self._at_the_door if code in _AT_THE_DOOR else self._inside
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
