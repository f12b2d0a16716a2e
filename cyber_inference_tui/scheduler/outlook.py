"""How long somebody will wait, from what loads and requests took so far. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from cyber_inference_tui.records import ModelStatus

_PROGRESS_SAYS = 0.1
"""A load that is further than this tells better than the past how long it takes."""


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """One model in the order in which models will be loaded; seconds, ``None`` = unknown."""

    status: ModelStatus
    load_seconds: float | None = None
    """What its load is expected to take."""
    progress: float | None = None
    elapsed: float = 0.0
    """How long its load has been running."""
    request_seconds: float | None = None
    """How long one of its requests takes."""
    places: float = 1
    """Requests it serves at once; ``inf`` = no limit."""


class Outlook(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody who waits can be told."""

    status: ModelStatus
    progress: float | None
    position: int
    """From 1, among those that wait for the same model."""
    waiting: int
    """How many these are."""
    seconds: float | None
    """Expected, from now on; ``None`` where nothing is known."""

    def in_words(self, model_id: str) -> str:
        """``loading tiny 42%, about 3 s left`` or ``queued tiny, 2 of 5, about 12 s``."""
        if self.status is ModelStatus.LOADING:
            done = "" if self.progress is None else f" {self.progress:.0%}"
            left = "" if self.seconds is None else f", about {_rounded(self.seconds)} left"
            return f"loading {model_id}{done}{left}"
        about = "" if self.seconds is None else f", about {_rounded(self.seconds)}"
        return f"queued {model_id}, {self.position} of {self.waiting}{about}"


def _rounded(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min"


def load_left(model: Standing) -> float | None:
    """Seconds until a load under way is done."""
    if model.progress is not None and model.progress >= _PROGRESS_SAYS:
        return model.elapsed * (1 - model.progress) / model.progress
    if model.load_seconds is None:
        return None
    return max(0.0, model.load_seconds - model.elapsed)


def expected_wait(
    model: Standing, position: int, before: Sequence[Standing], busy: Sequence[Standing]
) -> float | None:
    """Seconds until the one at ``position`` (from 1) gets its place.

    ``before`` are the models that are loaded before this one, the one under way among them;
    ``busy`` those that have to come to rest first. ``None`` as soon as one part is unknown.
    """
    if model.status is ModelStatus.LOADED:
        if model.request_seconds is None:
            return None
        return model.request_seconds * position / model.places
    parts = [load_left(model) if model.status is ModelStatus.LOADING else model.load_seconds]
    parts += [
        load_left(other) if other.status is ModelStatus.LOADING else other.load_seconds
        for other in before
    ]
    parts += [other.request_seconds for other in busy]
    turns = (position - 1) // model.places
    if turns:
        parts.append(None if model.request_seconds is None else model.request_seconds * turns)
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None
