"""Pauses between tries that fail, and between looks that find nothing new."""

from __future__ import annotations

import time
from collections.abc import Callable


def backoff(first: float, longest: float, failures: int) -> float:
    """Return how many seconds to wait after ``failures`` failures in a row.

    The wait is ``first`` seconds after the first failure, doubles with each further failure, and is
    at most ``longest``.
    """
    return min(longest, first * 2.0 ** min(failures - 1, 32))


class LookTimer:
    """Decides when to look again at something that seldom changes.

    The pause is a quarter of the time for which it has not changed, but between ``least`` and
    ``most`` seconds of ``clock``: looks come soon after a change, and cost little at rest.
    """

    __slots__ = ("_changed_at", "_clock", "_least", "_looked_at", "_most")

    def __init__(
        self, *, most: float, least: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._least = least
        self._most = most
        self._changed_at = self._looked_at = clock()

    def is_due(self) -> bool:
        """Return whether the pause since the last look is over."""
        quarter = (self._looked_at - self._changed_at) / 4
        pause = min(max(self._least, quarter), self._most)
        return self._clock() - self._looked_at >= pause

    def note_look(self, *, changed: bool) -> None:
        """Take note of a look now."""
        self._looked_at = self._clock()
        if changed:
            self._changed_at = self._looked_at
