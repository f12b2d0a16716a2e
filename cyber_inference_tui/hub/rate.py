"""How fast bytes come, over the last seconds."""

from __future__ import annotations

from collections import deque

_WINDOW = 5.0
_SHORTEST = 0.2
_MAX_SAMPLES = 64


class TransferRate:
    """Give it a count that only goes up, a few times a second; ``now`` is in seconds."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque(maxlen=_MAX_SAMPLES)

    def note(self, count: int, now: float) -> None:
        """The count at this time."""
        while self._samples and now - self._samples[0][0] > _WINDOW:
            self._samples.popleft()
        self._samples.append((now, count))

    @property
    def per_second(self) -> float | None:
        """The mean of the last seconds; ``None`` while nothing moves."""
        if not self._samples:
            return None
        began, first = self._samples[0]
        ended, last = self._samples[-1]
        if ended - began < _SHORTEST or last <= first:
            return None
        return (last - first) / (ended - began)
