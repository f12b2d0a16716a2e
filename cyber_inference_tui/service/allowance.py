"""An allowance that is used up and grows again, for limits by rate."""

from __future__ import annotations


class Allowance:
    """At most ``burst`` at once, and one more every ``pause`` seconds.

    The times are in seconds, of any clock that is never set.
    """

    __slots__ = ("_at", "_left", "burst", "pause")

    def __init__(self, burst: int, pause: float) -> None:
        self.burst = burst
        self.pause = pause
        self._left = float(burst)
        self._at: float | None = None

    def left(self, now: float) -> int:
        """Return how many there are at the time ``now``."""
        if self._at is not None:
            self._left = min(self.burst, self._left + (now - self._at) / self.pause)
        self._at = now
        # Sums of small parts may stay just below a whole number.
        return int(self._left + 1e-6)

    def take(self, now: float) -> bool:
        """Use one, if there is one."""
        if self.left(now) < 1:
            return False
        self._left -= 1
        return True

    def wait(self, now: float) -> float:
        """Return the seconds until there is one; 0 = now."""
        return 0.0 if self.left(now) >= 1 else (1 - self._left) * self.pause
