"""The queues of all models, and the rules by which their requests are admitted.

Requests are numbered in the order of arrival over all models. The oldest request of a model is its
head. A head whose model is not loaded counts the later requests that are admitted elsewhere
meanwhile. When the count reaches ``max_overtake`` and busy models block its model, these admit only
requests that came before the head. A later request of a higher priority counts less, one of a lower
priority counts more: by the weights in ``shares``, which also order the requests for one model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.records import ModelStatus, Priority
from cyber_inference_tui.scheduler.shares import WEIGHTS
from cyber_inference_tui.scheduler.state import ModelState, Waiter

_NEWEST_WEIGHS = 0.3


class Admission:
    """Keeps the queues of all models and counts the places at their servers."""

    def __init__(self, states: Mapping[str, ModelState], *, max_overtake: int) -> None:
        self._states = states
        self._arrivals = 0
        self._drained: asyncio.Event | None = None
        """Set when no request is in flight any more; there once somebody waits for that."""
        self.max_overtake = max_overtake
        self.blocked: frozenset[str] = frozenset()
        """Models that cannot be loaded before others are gone, which are busy or may get busy."""
        self.in_flight = 0
        """Requests that hold a place, over all models."""
        self.waiting = 0
        """Requests and loads that wait, over all models."""

    def next_arrival(self) -> int:
        """Return the number of a request that arrives now."""
        self._arrivals += 1
        return self._arrivals

    def try_take_place(self, state: ModelState, priority: Priority) -> bool:
        """Admit a request that arrives now, if that is possible at once: the hot path."""
        server = state.server
        if (
            server is None
            or state.status is not ModelStatus.LOADED
            or state.leaving is not None
            or state.waiters
            or state.in_flight >= state.places
            or server.exited.done()
            or (self.waiting and not self._admits(state, self._arrivals + 1))
        ):
            return False
        self._arrivals += 1
        self.take_place(state, self._arrivals, priority)
        return True

    def may_overtake(self, state: ModelState) -> bool:
        """Return whether a normal request of the model may be admitted before those that wait.

        If so, it is counted that it overtakes them.
        """
        if not self._admits(state, self._arrivals + 1):
            return False
        self._count_overtaken(state, self._arrivals + 1, Priority.NORMAL)
        return True

    def enqueue(
        self,
        state: ModelState,
        *,
        takes_place: bool,
        reason: str,
        priority: Priority = Priority.NORMAL,
    ) -> Waiter:
        """Append to the model's queue; the future of the waiter ends when it is admitted."""
        loop = asyncio.get_running_loop()
        waiter = Waiter(
            loop.create_future(),
            arrival=self.next_arrival(),
            since=loop.time(),
            takes_place=takes_place,
            reason=reason,
            priority=priority,
        )
        waiter.passed = state.passed
        state.waiters.append(waiter)
        self.waiting += 1
        return waiter

    def remove(self, state: ModelState, waiter: Waiter) -> bool:
        """Take a waiter that gives up out of the queue; return ``False`` if it is not there."""
        if waiter not in state.waiters:
            return False
        state.waiters.remove(waiter)
        self.waiting -= 1
        return True

    def fail_all(self, state: ModelState, error: CyberError) -> None:
        """Empty the model's queue; everybody in it gets ``error``."""
        while state.waiters:
            waiter = state.waiters.popleft()
            self.waiting -= 1
            if not waiter.future.done():
                waiter.future.set_exception(error)

    def pop_loads(self, state: ModelState) -> list[Waiter]:
        """Take the explicit loads out of the queue of a loaded model.

        They end with the load, without regard to the requests before them.
        """
        if not _is_open(state):
            return []
        loads = [waiter for waiter in state.waiters if not waiter.takes_place]
        for waiter in loads:
            self.remove(state, waiter)
        return [waiter for waiter in loads if not waiter.future.done()]

    def pop_admitted(self, state: ModelState) -> Waiter | None:
        """Take the next request out of the queue, by the shares of the priorities, if it gets a
        place and no other model's turn is due."""
        while _is_open(state) and state.waiters and state.in_flight < state.places:
            shares = state.shares
            heads = [state.waiters[0]] if shares is None else shares.heads(state.waiters)
            waiter = next((one for one in heads if self._admits(state, one.arrival)), None)
            if waiter is None:
                break
            self.remove(state, waiter)
            if not waiter.future.done():
                if shares is not None:
                    shares.admit(waiter, state.waiters)
                return waiter
        return None

    def _admits(self, state: ModelState, arrival: int) -> bool:
        """Return whether the request with this number may be admitted before the requests that
        wait for other models."""
        if state.admit_before is not None and arrival > state.admit_before:
            return False
        if state.is_pinned or not self.blocked:
            # A pinned model is never unloaded for others, so its requests delay nobody.
            return True
        return not any(
            other.overtaken >= self.max_overtake
            and other is not state
            and other.waiters
            and other.waiters[0].arrival < arrival
            for model_id in self.blocked
            if (other := self._states.get(model_id)) is not None
        )

    def take_place(self, state: ModelState, arrival: int, priority: Priority) -> None:
        """Count an admitted request, and the heads that it overtakes."""
        state.in_flight += 1
        self.in_flight += 1
        if state.session is not None:
            state.session.requests += 1
        if self.waiting:
            self._count_overtaken(state, arrival, priority)

    def _count_overtaken(self, state: ModelState, arrival: int, priority: Priority) -> None:
        if state.is_pinned:
            return
        for other in self._states.values():
            if (
                other is not state
                and other.waiters
                and other.status is not ModelStatus.LOADED
                and other.waiters[0].arrival < arrival
            ):
                other.passed += WEIGHTS[other.waiting_priority] / WEIGHTS[priority]

    def free_place(self, state: ModelState, seconds: float) -> None:
        """Count the end of a request that held a place for so many seconds: the hot path."""
        state.in_flight -= 1
        self.in_flight -= 1
        former = state.request_seconds
        state.request_seconds = (
            seconds if former is None else former + (seconds - former) * _NEWEST_WEIGHS
        )
        if self._drained is not None and not self.in_flight:
            self._drained.set()

    async def drain(self, timeout: float) -> bool:
        """Wait until no request is in flight; return ``False`` after ``timeout`` seconds."""
        self._drained = self._drained or asyncio.Event()
        try:
            async with asyncio.timeout(timeout):
                while self.in_flight:
                    self._drained.clear()
                    await self._drained.wait()
        except TimeoutError:
            return False
        return True


def _is_open(state: ModelState) -> bool:
    # If the server died a moment ago, the queue waits for the next server.
    server = state.server
    return (
        server is not None
        and state.status is ModelStatus.LOADED
        and state.leaving is None
        and not server.exited.done()
    )
