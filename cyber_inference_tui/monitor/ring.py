"""Keeps the samples of the last minutes."""

from __future__ import annotations

from collections import deque
from datetime import datetime, timedelta
from typing import Generic, TypeVar

T = TypeVar("T")

RECENT = timedelta(minutes=15)
RECENT_SAMPLES = 1800
"""Twice the number of 15 minutes at one sample a second; at higher rates fewer minutes are kept."""


class SampleRing(Generic[T]):
    """The samples of the last ``RECENT``, in order of time.

    It has no clock: ages are relative to the newest sample.
    """

    def __init__(self) -> None:
        self._kept: deque[tuple[datetime, T]] = deque()

    def add(self, at: datetime, sample: T) -> None:
        """Add ``sample``, taken ``at``. If the clock was set back, later samples are dropped."""
        kept = self._kept
        while kept and kept[-1][0] >= at:
            kept.pop()
        kept.append((at, sample))
        while kept[0][0] < at - RECENT or len(kept) > RECENT_SAMPLES:
            kept.popleft()

    def since(self, begin: datetime) -> list[T]:
        """Return the samples taken at ``begin`` or later, oldest first."""
        return [sample for at, sample in self._kept if begin <= at]

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._kept)
