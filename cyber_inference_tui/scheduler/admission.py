"""Who is let in at a loaded model, in which order, and who has waited behind how many others.

Requests have numbers in the order of their arrival over all models. For each model the one that
has waited longest is its head; a head whose model is not loaded counts the later requests that are
let in elsewhere meanwhile. When that is enough, and its model is blocked by busy ones, these let in
only who came before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from math import inf
from typing import Protocol

from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.llama.spec import asked_requests
from cyber_inference_tui.records import ModelStatus
from cyber_inference_tui.scheduler.state import Lease, ModelState, Waiter
from cyber_inference_tui.settings.schema import Settings

_NEWEST_WEIGHS = 0.3


class Owner(Protocol):
    """The scheduler, as this room needs it."""

    @property
    def settings(self) -> Settings:
        """The settings in force."""

    def step(self) -> None:
        """Something changed: decide anew."""

    def released(self, state: ModelState) -> None:
        """A request at it is over."""


class Admission:
    """The queues of all models and the places at their servers.

    ``on_detail`` is called with the id of a model whose numbers changed.
    """

    def __init__(
        self,
        owner: Owner,
        states: Mapping[str, ModelState],
        *,
        on_detail: Callable[[str], None],
    ) -> None:
        self._owner = owner
        self._states = states
        self._on_detail = on_detail
        self._arrivals = 0
        self._drained = asyncio.Event()
        self.blocked: frozenset[str] = frozenset()
        """Models that cannot be loaded before others are gone, which are busy or may get busy."""
        self.in_flight = 0
        """Requests that hold a place, over all models."""
        self.waiting = 0
        """Requests and loads that wait, over all models."""

    def places(self, state: ModelState) -> float:
        """Requests that the model's server gets at once; ``inf`` = no limit.

        What ``max_concurrent_requests`` says, but never more than the server takes.
        """
        takes = state.server.most_requests if state.server is not None else None
        asked = asked_requests(state.model.settings, self._owner.settings)
        return min(asked or inf, inf if takes is None else takes)

    # Coming

    def try_place(self, state: ModelState) -> Lease | None:
        """A place at once, if the model is loaded and has one free: the hot path."""
        if (
            state.status is not ModelStatus.LOADED
            or state.waiters
            or state.leaving is not None
            or state.server is None
            or state.server.exited.done()
            or state.in_flight >= self.places(state)
        ):
            return None
        if self.waiting and not self._admits(state, self._arrivals + 1):
            return None
        self._arrivals += 1
        since = _now()
        self._take_place(state, self._arrivals, since)
        return Lease(self.release, state, state.server, since)

    def enqueue(self, state: ModelState, *, takes_place: bool, reason: str) -> Waiter:
        """The end of the model's queue; the waiter's future is done when its turn has come."""
        self._arrivals += 1
        waiter = Waiter(
            asyncio.get_running_loop().create_future(),
            arrival=self._arrivals,
            since=_now(),
            takes_place=takes_place,
            reason=reason,
        )
        state.waiters.append(waiter)
        self.waiting += 1
        self._on_detail(state.model.id)
        return waiter

    def leave(self, state: ModelState, waiter: Waiter) -> None:
        """A waiter gives up: out of the queue, or back with the place it just got."""
        if waiter in state.waiters:
            state.waiters.remove(waiter)
            self._one_less(state)
            state.settled.set()
            self._on_detail(state.model.id)
        elif waiter.takes_place and _was_granted(waiter.future):
            self.release(state, _now())

    def fail_all(self, state: ModelState, error: CyberError) -> None:
        """Nobody can be served who waits for it."""
        if state.waiters:
            self._on_detail(state.model.id)
        while state.waiters:
            waiter = state.waiters.popleft()
            self._one_less(state)
            if not waiter.future.done():
                waiter.future.set_exception(error)

    def _one_less(self, state: ModelState) -> None:
        self.waiting -= 1
        if not state.waiters:
            state.overtaken = 0

    # Being let in

    def grant(self, state: ModelState) -> None:
        """Let in those who wait, in order, as far as there are places and nobody else's turn is
        due."""
        if state.status is not ModelStatus.LOADED or state.leaving is not None:
            return
        if state.server is None or state.server.exited.done():
            # It died a moment ago: they are better served by the next one.
            return
        # An explicit load is done, however many requests stand before it.
        for waiter in [one for one in state.waiters if not one.takes_place]:
            state.waiters.remove(waiter)
            self._let_in(state, waiter)
        most = self.places(state)
        while state.waiters and state.in_flight < most:
            if not self._admits(state, state.waiters[0].arrival):
                break
            self._let_in(state, state.waiters.popleft())

    def _let_in(self, state: ModelState, waiter: Waiter) -> None:
        self._one_less(state)
        if waiter.future.done():
            return
        if waiter.takes_place:
            self._take_place(state, waiter.arrival, _now())
        waiter.future.set_result(None)

    def _admits(self, state: ModelState, arrival: int) -> bool:
        """Whether a request that came as the ``arrival``-th may be let in before those who wait
        for other models."""
        if state.closed_to is not None and arrival > state.closed_to:
            return False
        if state.is_pinned or not self.blocked:
            # Nobody can have it unloaded, so it stands in nobody's way.
            return True
        return not any(
            other.overtaken >= self._owner.settings.max_overtake
            and other is not state
            and other.waiters
            and other.waiters[0].arrival < arrival
            for model_id in self.blocked
            if (other := self._states.get(model_id)) is not None
        )

    def _take_place(self, state: ModelState, arrival: int, now: float) -> None:
        state.in_flight += 1
        self.in_flight += 1
        if state.session is not None:
            state.session.requests += 1
        touch(state, now)
        self._on_detail(state.model.id)
        if self.waiting and not state.is_pinned:
            self._overtake(state, arrival)

    def _overtake(self, state: ModelState, arrival: int) -> None:
        """A request was let in; those who wait longer, for models not loaded yet, are counted."""
        enough = False
        for other in self._states.values():
            if (
                other is not state
                and other.waiters
                and other.status is not ModelStatus.LOADED
                and other.waiters[0].arrival < arrival
            ):
                other.overtaken += 1
                enough |= other.overtaken == self._owner.settings.max_overtake
        if enough:
            self._owner.step()

    # Leaving

    def release(self, state: ModelState, since: float) -> None:
        """A place is free again that was taken at ``since``."""
        state.in_flight -= 1
        self.in_flight -= 1
        now = _now()
        touch(state, now)
        former = state.request_seconds
        state.request_seconds = (
            now - since if former is None else former + (now - since - former) * _NEWEST_WEIGHS
        )
        self._on_detail(state.model.id)
        if self.in_flight == 0:
            self._drained.set()
        if self.waiting:
            self.grant(state)
        self._owner.released(state)

    async def drain(self, timeout: float) -> bool:
        """Wait until no request is in flight, at most ``timeout`` seconds; whether that came."""
        try:
            async with asyncio.timeout(timeout):
                while self.in_flight:
                    self._drained.clear()
                    await self._drained.wait()
        except TimeoutError:
            return False
        return True


def touch(state: ModelState, now: float) -> None:
    """The model was used just now."""
    state.last_used = now
    state.last_used_at = datetime.now(UTC)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _was_granted(future: asyncio.Future[None]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None
