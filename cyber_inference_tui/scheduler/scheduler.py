"""The scheduler's interface: requests, explicit loads and unloads, settings, and the shutdown.

Everything runs on one event loop, whose clock is the time; a loop with a virtual clock drives all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import msgspec

from cyber_inference_tui.errors import (
    ModelLoadError,
    QueueFullError,
    QueueTimeoutError,
    ShuttingDownError,
)
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.llama.needs import Need
from cyber_inference_tui.llama.spec import ServerSpec, asked_requests, resolve
from cyber_inference_tui.monitor.memory_reading import MemoryReading
from cyber_inference_tui.records import ModelStatus, Priority, SessionRecord
from cyber_inference_tui.scheduler.control_loop import ControlLoop
from cyber_inference_tui.scheduler.estimates import Estimates
from cyber_inference_tui.scheduler.fit import FitCheck
from cyber_inference_tui.scheduler.lease import Lease
from cyber_inference_tui.scheduler.load_errors import NOBODY, Lending, retry_later_error
from cyber_inference_tui.scheduler.load_history import LoadHistory
from cyber_inference_tui.scheduler.memory_tracker import MemoryTracker, ReadMemory
from cyber_inference_tui.scheduler.places import Places
from cyber_inference_tui.scheduler.policy import Policy, decide
from cyber_inference_tui.scheduler.server_interface import ServerLauncher
from cyber_inference_tui.scheduler.shares import WEIGHTS
from cyber_inference_tui.scheduler.state import (
    ModelState,
    Waiter,
    load_conditions,
    session_record,
)
from cyber_inference_tui.scheduler.views import Reason
from cyber_inference_tui.scheduler.wait_estimate import WaitEstimator
from cyber_inference_tui.settings.schema import Settings


class Scheduler:
    """Use it as ``async with``; leaving it stops every server.

    ``on_state`` is called with the id of a model whose status changed, ``on_detail`` if only
    numbers changed (progress, requests), ``on_session`` with the record of every session that
    ended. Without ``read_memory`` the machine's memory has no influence. ``lending`` returns what
    other boxes would lend to a model, for the sentence of a refusal.
    """

    def __init__(
        self,
        *,
        launcher: ServerLauncher,
        settings: Settings,
        on_state: Callable[[str], None],
        on_detail: Callable[[str], None],
        on_session: Callable[[SessionRecord], None] = lambda _: None,
        read_memory: ReadMemory | None = None,
        load_history: LoadHistory | None = None,
        policy: Policy = decide,
        lending: Lending = lambda _: NOBODY,
    ) -> None:
        self._lending = lending
        load_history = load_history or LoadHistory()
        self._on_state = on_state
        self._memory_tracker = MemoryTracker(read_memory)
        self._estimates = Estimates(launcher, load_history)
        self._loop = ControlLoop(
            launcher=launcher,
            settings=settings,
            on_state=on_state,
            on_detail=on_detail,
            on_session=on_session,
            memory_tracker=self._memory_tracker,
            load_history=load_history,
            policy=policy,
            lending=lending,
        )
        self._states = self._loop.states
        self._admission = self._loop.admission
        self.energy = self._loop.energy
        """The shares of the requests at the models' servers."""
        self.waits = WaitEstimator(self._states, self._admission, load_history)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    # Reading

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._loop.settings

    def state(self, model_id: str) -> ModelState | None:
        """Return the state of a model; ``None`` if nobody has asked for it yet."""
        return self._states.get(model_id)

    def states(self) -> list[ModelState]:
        """Return the states of all models that somebody has asked for."""
        return list(self._states.values())

    @property
    def loaded_ids(self) -> list[str]:
        """The ids of the loaded models."""
        return [
            state.model.id for state in self._states.values() if state.status is ModelStatus.LOADED
        ]

    def sessions(self) -> list[SessionRecord]:
        """Return the records of the sessions that have not ended."""
        return [record for state in self.states() if (record := session_record(state))]

    @property
    def memory_reading(self) -> MemoryReading | None:
        """The last reading of the memory; ``None`` if there is none."""
        return self._memory_tracker.reading

    @property
    def in_flight(self) -> int:
        """The number of requests that hold a place, over all models."""
        return self._admission.in_flight

    @property
    def waiting(self) -> int:
        """The number of requests and loads that wait, over all models."""
        return self._admission.waiting

    def spec(self, model: LocalModel) -> ServerSpec:
        """Return the specification of the model's server by the settings in force."""
        return self._estimates.spec(model, self.settings)

    def need(self, model_id: str) -> Need | None:
        """Return the memory that a model needs by the settings in force; ``None`` = unknown."""
        estimate = self._estimates.need(model_id)
        state = self._states.get(model_id)
        if state is None or state.need is None:
            return estimate
        # Without a server, the need at the last load may be out of date.
        return (estimate or state.need) if state.has_no_process else state.need

    def next_load(
        self, model: LocalModel, fit_check: FitCheck | None = None
    ) -> tuple[ServerSpec, Need | None]:
        """Return the specification of the server that a load of the model would start now, and
        its need."""
        state, need = self._states.get(model.id), self.need(model.id)
        spec = self.spec(model) if state is None else state.next_spec
        waits = state is None or state.has_no_process or state.status is ModelStatus.QUEUED
        if need is None or not need.smaller or not waits:
            return spec, need
        need = (fit_check or self.fit_check()).chosen(model.id, need)
        return spec.with_context(min(need.context, spec.context_size or need.context)), need

    async def estimate(self, models: Iterable[LocalModel], max_age: float = 0.0) -> None:
        """Estimate the need of these models, which are all there are, and read the memory if the
        last reading is older than ``max_age`` seconds."""
        await self._estimates.update(models, self.settings)
        await self.refresh_memory(max_age)

    def fit_check(self) -> FitCheck:
        """Return a check of which models fit at this moment."""
        return FitCheck(
            self.states(),
            self._loop.views(),
            limits=self._loop.limits(),
            memory=self._memory_tracker.expected(),
            reading=self._memory_tracker.reading,
            settings=self.settings,
            now=self._loop.now(),
            lending=self._lending,
        )

    async def refresh_memory(self, max_age: float = 0.0) -> None:
        """Read the memory for ``fit_check`` if the last reading is older than ``max_age`` seconds,
        but not while a load or an unload changes it."""
        if self._loop.now() - self._memory_tracker.memory.at < max_age:
            return
        busy = any(
            state.status in {ModelStatus.LOADING, ModelStatus.UNLOADING}
            for state in self._states.values()
        )
        if self._memory_tracker.is_enabled and not busy and not self.closing:
            await asyncio.wait({self._loop.read_memory()})

    @contextmanager
    def watched(self, look: Callable[[], None]) -> Iterator[None]:
        """Call ``look`` within this block at each change of a model's numbers, such as a request
        that arrives, before anything else happens."""
        tell = self._loop.on_detail

        def tell_both(model_id: str) -> None:
            tell(model_id)
            look()

        self._loop.on_detail = tell_both
        try:
            yield
        finally:
            self._loop.on_detail = tell

    # Changes of settings and models

    def configure(self, settings: Settings) -> None:
        """Apply new settings.

        Limits apply at once. A server that would be started in another way now is restarted when
        its requests have ended. A failed model keeps its failure, unless a setting changed on which
        a load of it depends.
        """
        self._loop.settings = settings
        self._admission.max_overtake = settings.max_overtake
        for state in self.states():
            self._update(state, state.model)
            self._apply_changes(state)
        self._loop.step()

    def _update(self, state: ModelState, model: LocalModel) -> None:
        state.model = model
        state.configured_spec = self.spec(model)
        state.asked_requests = asked_requests(model.settings, self.settings)
        state.count_places()

    def _apply_changes(self, state: ModelState) -> None:
        self._loop.restart_if_changed(state)
        if state.status is ModelStatus.QUEUED:
            self._loop.estimate(state)
        elif state.status is ModelStatus.FAILED and state.failures.conditions != load_conditions(
            state, self.settings
        ):
            self._loop.reset(state)

    def binary_changed(self) -> None:
        """Let models that failed with another llama-server try again."""
        for state in self.states():
            if state.status is ModelStatus.FAILED and not state.model.settings.command:
                self._loop.reset(state)

    def would_restart(
        self, settings: Settings, changed: Callable[[LocalModel], LocalModel]
    ) -> list[str]:
        """Return the ids of the loaded models that these settings would restart; ``changed``
        returns a model as they would make it."""
        found = []
        for state in self.states():
            model = changed(state.model)
            spec = state.limit(resolve(model, settings))
            if state.restart_reason(model, spec) is not None:
                found.append(model.id)
        return sorted(found)

    def refresh(self, model: LocalModel) -> None:
        """Apply a change of the model's files or of its own settings."""
        state = self._states.get(model.id)
        if state is not None:
            self._update(state, model)
            self._apply_changes(state)
            self._loop.step()

    def remove(self, model_id: str) -> None:
        """Unload a model whose files are gone, when its requests have ended."""
        state = self._states.get(model_id)
        if state is None:
            return
        state.restart = False
        self._loop.fail_all(
            state, ModelLoadError(f"{model_id} is not there any more.", needs_person=True)
        )
        if state.status is ModelStatus.LOADED and state.leaving is None:
            state.leaving = Reason.REMOVED
        elif state.status is ModelStatus.LOADING:
            self._loop.cancel_load(state)
        elif state.status in {ModelStatus.QUEUED, ModelStatus.FAILED}:
            self._loop.reset(state)
        self._loop.step()

    def forget(self, model_id: str) -> None:
        """Forget a model without a process that is not in the library."""
        state = self._states.get(model_id)
        if state is not None and state.has_no_process:
            del self._states[model_id]

    # Requests

    def try_acquire(self, model: LocalModel, priority: Priority = Priority.NORMAL) -> Lease | None:
        """Return a lease if the model is loaded and has a free place now: the hot path."""
        state = self._states.get(model.id)
        return None if state is None else self._loop.try_acquire(state, priority)

    def places(self, model: LocalModel, priority: Priority = Priority.NORMAL) -> Places | None:
        """Return the places at the model's present server, if it has one.

        They are only for normal requests, which need no record of their priority.
        """
        state = self._states.get(model.id)
        if state is None or priority is not Priority.NORMAL:
            return None
        return self._loop.places(state)

    async def acquire(
        self,
        model: LocalModel,
        *,
        priority: Priority = Priority.NORMAL,
        on_wait: Callable[[Waiter], None] | None = None,
    ) -> Lease:
        """Wait for a place at the model, which is loaded if necessary.

        While requests of several priorities wait, each gets its share of the places.
        ``on_wait`` is called with the place in the queue if there is a wait. Raises
        ``QueueFullError``, ``QueueTimeoutError``, ``InsufficientMemoryError``,
        ``ShuttingDownError`` or the error of the load. Cancelling it leaves the queue.
        """
        state = self._state_of(model)
        lease = self._loop.try_acquire(state, priority)
        if lease is not None:
            return lease
        self._refuse_early(state, priority)
        waiter = self._loop.enqueue(state, takes_place=True, reason="request", priority=priority)
        if on_wait is not None:
            on_wait(waiter)
        try:
            async with asyncio.timeout(self.settings.queue_timeout or None):
                await waiter.future
        except TimeoutError:
            self._loop.leave(state, waiter)
            raise QueueTimeoutError(
                f"{model.id} was not ready within queue_timeout"
                f" ({self.settings.queue_timeout:g} s)."
            ) from None
        except asyncio.CancelledError:
            self._loop.leave(state, waiter)
            raise
        lease = self._loop.lease(state, self._loop.now(), priority)
        if lease is None:
            self._loop.release(state, self._loop.now(), self._loop.now())
            raise state.failure or ModelLoadError(
                f"{model.id} was unloaded before the request reached it."
            )
        return lease

    def _refuse_early(self, state: ModelState, priority: Priority) -> None:
        if self.closing:
            raise ShuttingDownError("The service is shutting down.")
        # Requests of a lower priority do not fill the queue for those of a higher one.
        weight = WEIGHTS[priority]
        queued = sum(WEIGHTS[waiter.priority] >= weight for waiter in state.requests)
        # One request may always wait for a model that is not loaded, or none could ever load it.
        least = 0 if state.status is ModelStatus.LOADED else 1
        if queued >= max(self.settings.max_queue, least):
            wait = self.waits.seconds(state, queued + 1)
            if wait is None:
                wait = queued / state.places
            raise QueueFullError(
                f"{state.model.id} has as many waiting requests as max_queue allows ({queued}).",
                retry_after=max(1.0, wait),
            )
        pause = state.failures.retry_at - self._loop.now()
        if state.status is ModelStatus.FAILED and pause > 0 and state.failure is not None:
            raise retry_later_error(state.failure, pause)

    # Explicit loads and unloads

    async def load(self, model: LocalModel) -> None:
        """Load a model and return when it is loaded; the errors are those of ``acquire``."""
        loaded = self.request_load(model)
        if loaded is not None:
            await loaded

    def request_load(
        self, model: LocalModel, *, reason: str = "asked"
    ) -> asyncio.Future[None] | None:
        """Begin to load a model; the future ends with the load. ``None`` = it is loaded.

        ``reason`` is for the record of the session: ``asked``, ``preload`` or ``restart``.
        """
        if self.closing:
            raise ShuttingDownError("The service is shutting down.")
        state = self._state_of(model)
        if state.status is ModelStatus.LOADED and state.leaving is None:
            state.last_used = self._loop.now()
            self._loop.on_detail(model.id)
            return None
        return self._loop.request_load(state, reason)

    async def unload(self, model: LocalModel, *, force: bool = False) -> None:
        """Unload a model and return when its process is gone.

        It waits for the model's requests, including those in the queue of a load, unless ``force``
        ends them. Requests that arrive meanwhile wait and load it again. A load for which no
        request waits is cancelled.
        """
        state = self._state_of(model)
        if force:
            self._loop.fail_all(state, ModelLoadError(f"{model.id} was unloaded by force."))
        while state.queued and state.status in {ModelStatus.QUEUED, ModelStatus.LOADING}:
            await _change(state)
        state.restart = False
        if state.status in {ModelStatus.QUEUED, ModelStatus.LOADING}:
            self._loop.fail_all(state, ModelLoadError(f"The load of {model.id} was cancelled."))
        if state.status is ModelStatus.LOADING:
            self._loop.cancel_load(state)
        elif state.status is ModelStatus.LOADED:
            state.leaving = Reason.REQUEST
            if force:
                self._loop.unload(state, Reason.REQUEST)
        elif state.status in {ModelStatus.QUEUED, ModelStatus.FAILED}:
            self._loop.reset(state)
        self._loop.step()
        while state.leaving is not None or state.status is ModelStatus.UNLOADING:
            await _change(state)

    def pin(self, model: LocalModel, pinned: bool) -> None:
        """Pin a model or remove its pin, until the service ends."""
        self._state_of(model).pinned = pinned
        self._on_state(model.id)
        self._loop.step()

    # Shutdown

    def begin_shutdown(self) -> None:
        """Accept nothing new and fail all queues; requests in flight go on."""
        self._loop.closing = True
        for state in self._states.values():
            self._loop.fail_all(state, ShuttingDownError("The service is shutting down."))
            if state.status is ModelStatus.QUEUED:
                self._loop.set_status_without_process(state)

    async def drain(self, timeout: float) -> bool:
        """Wait until no request is in flight; return ``False`` after ``timeout`` seconds."""
        return await self._admission.drain(timeout)

    @property
    def closing(self) -> bool:
        """True if the shutdown has begun."""
        return self._loop.closing

    async def close(self, *, at_once: bool = False) -> None:
        """Stop every server, with or without requests, and end all tasks.

        Servers have ``stop_timeout`` to end; with ``at_once`` they are killed.
        """
        self.begin_shutdown()
        if at_once:
            self._loop.settings = msgspec.structs.replace(self.settings, stop_timeout=0.0)
        await self._loop.close()

    def _state_of(self, model: LocalModel) -> ModelState:
        state = self._states.get(model.id)
        if state is None:
            asked = asked_requests(model.settings, self.settings)
            state = self._states[model.id] = ModelState(model, self.spec(model), asked)
        elif state.model is not model:
            self._update(state, model)
        return state


async def _change(state: ModelState) -> None:
    """Wait until the model's state has changed."""
    state.changed.clear()
    await state.changed.wait()
