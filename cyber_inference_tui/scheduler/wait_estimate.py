"""Estimates how long requests wait, from the durations of past loads and requests."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from math import inf

import msgspec

from cyber_inference_tui.records import ModelStatus, WaitingRecord
from cyber_inference_tui.scheduler.admission import Admission
from cyber_inference_tui.scheduler.load_history import LoadHistory
from cyber_inference_tui.scheduler.shares import WEIGHTS
from cyber_inference_tui.scheduler.state import ModelState, Waiter

_RELIABLE_PROGRESS = 0.1
"""From this progress on, a load's own speed predicts its end better than past loads."""


class WaitEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """The position of a request in the queue of its model, and the rest of its wait."""

    status: ModelStatus
    progress: float | None
    position: int
    """Counted from 1."""
    waiting: int
    """The length of the queue."""
    seconds: float | None
    """The expected wait from now on; ``None`` = unknown."""

    def in_words(self, model_id: str) -> str:
        """Return ``loading tiny 42%, about 3 s left`` or ``queued tiny, 2 of 5, about 12 s``."""
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


class WaitEstimator:
    """Estimates waits from the states of all models, which it only reads."""

    def __init__(
        self,
        states: Mapping[str, ModelState],
        admission: Admission,
        load_history: LoadHistory,
    ) -> None:
        self._states = states
        self._admission = admission
        self._load_history = load_history

    def records(self) -> list[WaitingRecord]:
        """Return the record of every waiting request, model by model, in the order of queues."""
        now = asyncio.get_running_loop().time()
        records = []
        for state in self._states.values():
            for position, waiter in enumerate(_requests(state), start=1):
                seconds = self.seconds(state, position)
                records.append(
                    WaitingRecord(
                        model=state.model.id,
                        priority=waiter.priority,
                        position=position,
                        waited_seconds=round(now - waiter.since, 3),
                        expected_wait_seconds=None if seconds is None else round(seconds, 1),
                    )
                )
        return records

    def positions(self) -> dict[Waiter, int]:
        """Return the position of every waiting request in its queue, from 1."""
        return {
            waiter: position
            for state in self._states.values()
            for position, waiter in enumerate(_requests(state), start=1)
        }

    def ahead(self, model_id: str, waiter: Waiter) -> int:
        """Return the number of requests that get a place before a waiting request."""
        return _requests(self._states[model_id]).index(waiter)

    def estimate(self, model_id: str, waiter: Waiter) -> WaitEstimate | None:
        """Return the estimate for a request; ``None`` if it does not wait any more."""
        state = self._states.get(model_id)
        requests = [] if state is None else _requests(state)
        if state is None or waiter not in requests:
            return None
        position = requests.index(waiter) + 1
        return WaitEstimate(
            status=state.status,
            progress=state.progress,
            position=position,
            waiting=len(requests),
            seconds=self.seconds(state, position),
        )

    def seconds_of_next(self, state: ModelState) -> float | None:
        """Return the seconds that a request would wait which arrived now; ``None`` = unknown."""
        if state.status is ModelStatus.FAILED:
            # Its next load may fail as well.
            return None
        if (
            state.status is ModelStatus.LOADED
            and not state.waiters
            and state.in_flight < state.places
        ):
            return 0.0
        return self.seconds(state, state.queued + 1)

    def seconds(self, state: ModelState, position: int) -> float | None:
        """Return the seconds until the request at ``position`` (from 1) gets its place.

        The result is ``None`` if the duration of any step before is unknown.
        """
        request = state.request_seconds
        if state.status is ModelStatus.LOADED:
            return None if request is None else request * position / state.places
        parts = [self._load_left(state)]
        if state.status is not ModelStatus.LOADING:
            parts += self._before(state)
        rounds = (position - 1) // state.places
        if rounds:
            parts.append(None if request is None else request * rounds)
        known = [part for part in parts if part is not None]
        return sum(known) if len(known) == len(parts) else None

    def _before(self, state: ModelState) -> list[float | None]:
        """Return the seconds of everything that has to end before the model's load."""
        parts = []
        turn = _turn(state)
        for other in self._states.values():
            if other is state:
                continue
            if other.status is ModelStatus.LOADING or (
                other.status is ModelStatus.QUEUED and other.waiters and _turn(other) < turn
            ):
                parts.append(self._load_left(other))
            elif (
                state.model.id in self._admission.blocked
                and other.in_flight
                and not other.is_pinned
            ):
                parts.append(other.request_seconds)
        return parts

    def _load_left(self, state: ModelState) -> float | None:
        """Return the seconds that the model's load takes, or the rest of a load under way."""
        expected = self._load_history.load_seconds(state.spec.signature, state.model.size_bytes)
        if state.status is not ModelStatus.LOADING or state.session is None:
            return expected
        elapsed = asyncio.get_running_loop().time() - state.session.began
        if state.progress is not None and state.progress >= _RELIABLE_PROGRESS:
            return elapsed * (1 - state.progress) / state.progress
        return None if expected is None else max(0.0, expected - elapsed)


def _requests(state: ModelState) -> list[Waiter]:
    """Return the waiting requests of a model in the order in which they get a place."""
    requests = state.requests
    return requests if state.shares is None else state.shares.in_order(requests)


def _turn(state: ModelState) -> tuple[int, float]:
    """Return a value that orders models by their turn to be loaded."""
    arrival = state.waiters[0].arrival if state.waiters else inf
    return -WEIGHTS[state.waiting_priority], arrival
