"""Measure how fast bytes arrive."""

from __future__ import annotations

from collections import deque

_WINDOW = 5.0
_SHORTEST = 0.2
_MAX_SAMPLES = 64


class TransferRate:
    """The mean rate of the last seconds, from counts that only grow."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque(maxlen=_MAX_SAMPLES)

    def add(self, count: int, now: float) -> None:
        """Record the count at ``now``, in monotonic seconds; call it a few times a second."""
        while self._samples and now - self._samples[0][0] > _WINDOW:
            self._samples.popleft()
        self._samples.append((now, count))

    @property
    def per_second(self) -> float | None:
        """The mean of the last seconds; ``None`` while nothing arrives."""
        if not self._samples:
            return None
        began, first = self._samples[0]
        ended, last = self._samples[-1]
        if ended - began < _SHORTEST or last <= first:
            return None
        return (last - first) / (ended - began)
