"""What those who wait can be told: their position and how long it may take."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from cyber_inference_tui.records import ModelStatus, WaitingRecord
from cyber_inference_tui.scheduler.admission import Admission
from cyber_inference_tui.scheduler.load_history import LoadHistory
from cyber_inference_tui.scheduler.outlook import Outlook, Standing, expected_wait
from cyber_inference_tui.scheduler.state import ModelState, Waiter


class Waits:
    """Reads the scheduler's states; changes nothing."""

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
        """Every request that waits, model by model, in order."""
        now = asyncio.get_running_loop().time()
        records = []
        for state in self._states.values():
            requests = [waiter for waiter in state.waiters if waiter.takes_place]
            for position, waiter in enumerate(requests, start=1):
                seconds = self.expected(state, position)
                records.append(
                    WaitingRecord(
                        model=state.model.id,
                        position=position,
                        waited_seconds=round(now - waiter.since, 3),
                        expected_wait_seconds=None if seconds is None else round(seconds, 1),
                    )
                )
        return records

    def positions(self) -> dict[Waiter, int]:
        """The place of every request that waits, from 1, among those for its model."""
        return {
            waiter: position
            for state in self._states.values()
            for position, waiter in enumerate(
                (one for one in state.waiters if one.takes_place), start=1
            )
        }

    def outlook(self, model_id: str, waiter: Waiter) -> Outlook | None:
        """What ``waiter`` can be told of its wait; ``None`` when that is over."""
        state = self._states.get(model_id)
        if state is None:
            return None
        requests = [one for one in state.waiters if one.takes_place]
        if waiter not in requests:
            return None
        position = requests.index(waiter) + 1
        return Outlook(
            status=state.status,
            progress=state.progress,
            position=position,
            waiting=len(requests),
            seconds=self.expected(state, position),
        )

    def of_the_next(self, state: ModelState) -> float | None:
        """Seconds that a request that came now would wait; ``None`` = unknown."""
        if state.status is ModelStatus.FAILED:
            # It is at rest, and its next load may fail as well.
            return None
        if (
            state.status is ModelStatus.LOADED
            and not state.waiters
            and state.in_flight < self._admission.places(state)
        ):
            return 0.0
        return self.expected(state, state.queued + 1)

    def expected(self, state: ModelState, position: int) -> float | None:
        """Seconds until the one at ``position`` (from 1) gets its place; ``None`` = unknown."""
        before, busy = [], []
        if state.status is not ModelStatus.LOADED:
            mine = state.waiters[0].arrival if state.waiters else None
            for other in self._states.values():
                if other is state:
                    continue
                comes_first = other.waiters and (mine is None or other.waiters[0].arrival < mine)
                if other.status is ModelStatus.LOADING or (
                    other.status is ModelStatus.QUEUED and comes_first
                ):
                    before.append(self._standing(other))
                elif (
                    state.model.id in self._admission.blocked
                    and other.in_flight
                    and not other.is_pinned
                ):
                    busy.append(self._standing(other))
        return expected_wait(self._standing(state), position, before, busy)

    def _standing(self, state: ModelState) -> Standing:
        now = asyncio.get_running_loop().time()
        return Standing(
            status=state.status,
            load_seconds=self._load_history.load_seconds(
                state.spec.signature, state.model.size_bytes
            ),
            progress=state.progress,
            elapsed=now - state.session.began if state.session else 0.0,
            request_seconds=state.request_seconds,
            places=self._admission.places(state),
        )
