"""What earlier loads taught: how much memory models took, and how long they needed.

Kept by signature (model and arguments), so that a changed context size begins anew; bounded, the
oldest go first. Whoever keeps it over restarts feeds it with ``learn`` and listens to ``on_new``.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from cyber_inference_tui.llama.needs import Footprint

_KEPT = 2_000
_NEWEST_WEIGHS = 0.5


class Lesson(msgspec.Struct, frozen=True, kw_only=True):
    """One load: what it took and how long it needed."""

    signature: str
    model: str
    footprint: Footprint
    context_size: int | None
    load_seconds: float
    size_bytes: int | None
    """Of the model's files."""


class Experience:
    """All lessons; ``on_new`` is told each one that was learned in this run."""

    def __init__(self, on_new: Callable[[Lesson], None] = lambda _: None) -> None:
        self._lessons: dict[str, Lesson] = {}
        self._bytes_per_second: float | None = None
        self._on_new = on_new

    def recall(self, lesson: Lesson) -> None:
        """Take a lesson of a former run, the oldest first."""
        self._lessons.pop(lesson.signature, None)
        self._lessons[lesson.signature] = lesson
        while len(self._lessons) > _KEPT:
            del self._lessons[next(iter(self._lessons))]
        if lesson.size_bytes and lesson.load_seconds > 0:
            speed = lesson.size_bytes / lesson.load_seconds
            former = self._bytes_per_second or speed
            self._bytes_per_second = former + (speed - former) * _NEWEST_WEIGHS

    def learn(self, lesson: Lesson) -> None:
        """A load has just ended well."""
        self.recall(lesson)
        self._on_new(lesson)

    def footprint(self, signature: str) -> Footprint | None:
        """What a model took, started with the same arguments."""
        lesson = self._lessons.get(signature)
        return lesson.footprint if lesson else None

    def load_seconds(self, signature: str, size_bytes: int | None) -> float | None:
        """How long its load will take: as the last time, else by its size and others' speed."""
        lesson = self._lessons.get(signature)
        if lesson is not None:
            return lesson.load_seconds
        if size_bytes is None or self._bytes_per_second is None:
            return None
        return size_bytes / self._bytes_per_second
