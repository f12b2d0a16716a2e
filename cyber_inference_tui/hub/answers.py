"""Answers of the hub that are kept for a few minutes."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class TimedCache(Generic[T]):
    """The last ``most`` answers, each for ``seconds``. ``clock`` counts seconds."""

    def __init__(self, most: int, seconds: float, clock: Callable[[], float]) -> None:
        self._most = most
        self._seconds = seconds
        self._clock = clock
        self._kept: dict[Hashable, tuple[float, T]] = {}

    def get(self, key: Hashable) -> T | None:
        """What was kept, unless its time is over."""
        kept = self._kept.get(key)
        if kept is None or self._clock() - kept[0] > self._seconds:
            return None
        return kept[1]

    def keep(self, key: Hashable, answer: T) -> None:
        """Keep one; the oldest goes for it."""
        self._kept.pop(key, None)
        while len(self._kept) >= self._most:
            del self._kept[next(iter(self._kept))]
        self._kept[key] = (self._clock(), answer)
