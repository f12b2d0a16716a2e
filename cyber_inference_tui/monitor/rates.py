"""Turns counters that only grow into rates."""

from __future__ import annotations


class Rate:
    """Turns a counter's values into units per second."""

    __slots__ = ("_at", "_value")

    def __init__(self) -> None:
        self._value: int | None = None
        self._at = 0.0

    def per_second(self, value: int | None, now: float) -> float | None:
        """Return the mean rate since the last call; ``now`` is in seconds of a monotonic clock.

        ``None`` at the first call, after a gap, and for a counter that was reset.
        """
        before, self._value = self._value, value
        seconds, self._at = now - self._at, now
        if value is None or before is None or seconds <= 0 or value < before:
            return None
        return round((value - before) / seconds, 1)


def percent(part: int | None, whole: int | None) -> float | None:
    """Return ``part`` as a percentage of ``whole``, to a tenth.

    ``None`` if either is unknown, or the part is larger than the whole.
    """
    if part is None or not whole or not 0 <= part <= whole:
        return None
    return round(100 * part / whole, 1)
