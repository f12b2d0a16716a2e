"""A bounded history of samples: all of the last minutes, and one a minute before them."""

from __future__ import annotations

from collections import deque
from datetime import datetime, timedelta
from typing import Generic, TypeVar

T = TypeVar("T")

RECENT = timedelta(minutes=15)
RECENT_SAMPLES = 1800
"""Twice what 15 minutes have at one a second; at higher rates fewer minutes are kept in full."""
THINNED = timedelta(hours=24)
THINNED_SAMPLES = 24 * 60 + 1

_MINUTE = 60


class SampleRing(Generic[T]):
    """``add`` samples in the order of their times; ``since`` gives back what is kept of them.

    The last ``RECENT`` are kept as they come, before that the last sample of each minute, for
    ``THINNED``. It has no clock: what is old, the newest sample's time tells.
    """

    def __init__(self) -> None:
        self._recent: deque[tuple[datetime, T]] = deque()
        self._thinned: deque[tuple[datetime, T]] = deque()

    def add(self, at: datetime, sample: T) -> None:
        """Keep ``sample``, taken ``at``. A clock that was set back makes later samples go."""
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
        """What was taken at ``begin`` or later, oldest first."""
        if not self._recent:
            return []
        first = self._recent[0][0]
        thinned = [sample for at, sample in self._thinned if begin <= at < first]
        return thinned + [sample for at, sample in self._recent if begin <= at]

    def __len__(self) -> int:
        """How many samples are held."""
        return len(self._recent) + len(self._thinned)


def _minute(at: datetime) -> int:
    return int(at.timestamp() // _MINUTE)


def _forget(kept: deque[tuple[datetime, T]], before: datetime, most: int) -> None:
    while kept[0][0] < before or len(kept) > most:
        kept.popleft()
