"""Keeps a bounded history of samples: all of the last minutes, and one a minute before them."""

from __future__ import annotations

from collections import deque
from datetime import datetime, timedelta
from typing import Generic, TypeVar

T = TypeVar("T")

RECENT = timedelta(minutes=15)
RECENT_SAMPLES = 1800
"""Twice the number of 15 minutes at one sample a second; at higher rates fewer minutes are kept."""
THINNED = timedelta(hours=24)
THINNED_SAMPLES = 24 * 60 + 1

_MINUTE = 60


class SampleRing(Generic[T]):
    """A history of samples in order of time.

    All samples of the last ``RECENT`` are kept, and before that the last sample of each minute, for
    ``THINNED``. It has no clock: ages are relative to the newest sample.
    """

    def __init__(self) -> None:
        self._recent: deque[tuple[datetime, T]] = deque()
        self._thinned: deque[tuple[datetime, T]] = deque()

    def add(self, at: datetime, sample: T) -> None:
        """Add ``sample``, taken ``at``. If the clock was set back, later samples are dropped."""
        for kept in (self._recent, self._thinned):
            while kept and kept[-1][0] >= at:
                kept.pop()
        self._recent.append((at, sample))
        if self._thinned and _minute(self._thinned[-1][0]) == _minute(at):
            self._thinned.pop()
        self._thinned.append((at, sample))
        _forget(self._recent, at - RECENT, RECENT_SAMPLES)
        _forget(self._thinned, at - THINNED, THINNED_SAMPLES)

    def since(self, begin: datetime) -> list[T]:
        """Return the samples taken at ``begin`` or later, oldest first."""
        if not self._recent:
            return []
        first = self._recent[0][0]
        thinned = [sample for at, sample in self._thinned if begin <= at < first]
        return thinned + [sample for at, sample in self._recent if begin <= at]

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._recent) + len(self._thinned)


def _minute(at: datetime) -> int:
    return int(at.timestamp() // _MINUTE)


def _forget(kept: deque[tuple[datetime, T]], before: datetime, most: int) -> None:
    while kept[0][0] < before or len(kept) > most:
        kept.popleft()
