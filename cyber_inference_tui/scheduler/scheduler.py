"""The one owner of all model states: admits requests, and has models loaded and unloaded.

Everything here runs on one event loop, and states change only here and, on its behalf, in
``lives``. ``policy.decide`` says what to do, and ``steps`` when it is asked. Time is the event
loop's clock, so that a loop with a virtual clock drives it all.

It is long because states have one owner: whatever may change one comes through here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

import msgspec

from cyber_inference_tui.errors import (
    CyberError,
    ModelLoadError,
    QueueFullError,
    QueueTimeoutError,
    ShuttingDownError,
)
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.llama.needs import Need
from cyber_inference_tui.llama.spec import ServerSpec, resolve
from cyber_inference_tui.monitor.memory_reading import MemoryReading
from cyber_inference_tui.records import ModelStatus, SessionRecord
from cyber_inference_tui.scheduler.admission import Admission, touch
from cyber_inference_tui.scheduler.estimates import Estimates
from cyber_inference_tui.scheduler.fit import FitCheck
from cyber_inference_tui.scheduler.lifecycle import Lifecycle, again_in, session_record
from cyber_inference_tui.scheduler.load_history import LoadHistory
from cyber_inference_tui.scheduler.memory_tracker import MemoryTracker
from cyber_inference_tui.scheduler.policy import Policy, decide
from cyber_inference_tui.scheduler.state import (
    Lease,
    MemoryReader,
    ModelState,
    ServerLauncher,
    Trouble,
    Waiter,
    idle_timeout,
    load_conditions,
    view_of,
)
from cyber_inference_tui.scheduler.steps import Steps
from cyber_inference_tui.scheduler.views import Limits, ModelView, Reason
from cyber_inference_tui.scheduler.waits import Waits
from cyber_inference_tui.settings.schema import Settings

_logger = logging.getLogger(__name__)


class Scheduler:
    """Use it as ``async with``; leaving it stops every server, however it is left.

    ``on_state`` is called with a model's id at every change of status, ``on_detail`` when only
    numbers (progress, requests) changed, ``on_session`` with every life of a server that has ended.
    Without ``read_memory`` the machine's memory plays no part.
    """

    def __init__(
        self,
        *,
        launcher: ServerLauncher,
        settings: Settings,
        on_state: Callable[[str], None],
        on_detail: Callable[[str], None],
        on_session: Callable[[SessionRecord], None] = lambda _: None,
        read_memory: MemoryReader | None = None,
        load_history: LoadHistory | None = None,
        policy: Policy = decide,
    ) -> None:
        self.settings = settings
        self._launcher = launcher
        self._policy = policy
        self._on_state = on_state
        self._on_detail = on_detail
        self._states: dict[str, ModelState] = {}
        self._load_history = load_history or LoadHistory()
        self._memory_tracker = MemoryTracker(read_memory)
        self._estimates = Estimates(launcher, self._load_history)
        self._lifecycle = Lifecycle(
            self,
            launcher=launcher,
            memory_tracker=self._memory_tracker,
            load_history=self._load_history,
            on_session=on_session,
        )
        self._admission = Admission(self, self._states, on_detail=on_detail)
        self.waits = Waits(self._states, self._admission, self._load_history)
        """What those who wait can be told."""
        self._steps = Steps(self._decide)
        self._measuring: asyncio.Task[None] | None = None
        self._closing = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    # What others see

    def state(self, model_id: str) -> ModelState | None:
        """The state of a model that was ever touched; ``None`` = never."""
        return self._states.get(model_id)

    def states(self) -> list[ModelState]:
        """All models that were ever touched."""
        return list(self._states.values())

    @property
    def loaded_ids(self) -> list[str]:
        """The ids of the models that answer now."""
        return [
            state.model.id for state in self._states.values() if state.status is ModelStatus.LOADED
        ]

    def sessions(self) -> list[SessionRecord]:
        """The lives of servers that have not ended, as they stand."""
        return [record for state in self.states() if (record := session_record(state))]

    @property
    def memory_reading(self) -> MemoryReading | None:
        """The machine's memory when it last mattered; ``None`` = it never did, or is not told."""
        return self._memory_tracker.reading

    @property
    def in_flight(self) -> int:
        """Requests that hold a place, over all models."""
        return self._admission.in_flight

    @property
    def waiting(self) -> int:
        """Requests and loads that wait, over all models."""
        return self._admission.waiting

    def spec(self, model: LocalModel) -> ServerSpec:
        """How the model's server would be started by the settings now."""
        return self._estimates.spec(model, self.settings)

    def need(self, model_id: str) -> Need | None:
        """What a model takes, or would take by its settings now; ``None`` = not looked at yet."""
        estimate = self._estimates.need(model_id)
        state = self._states.get(model_id)
        if state is None or state.need is None:
            return estimate
        # What held at the last load of a model without a server may be out of date.
        return (estimate or state.need) if state.is_at_rest else state.need

    async def estimate(self, models: Iterable[LocalModel], max_age: float = 0.0) -> None:
        """Find out what these models, which are all that there are, would take, and read the
        memory if the last reading is older than ``max_age`` seconds."""
        await self._estimates.update(models, self.settings)
        await self.look(max_age)

    def survey(self) -> FitCheck:
        """What there is room for, as far as it is known at this moment."""
        return FitCheck(
            self.states(),
            self._views(),
            limits=self._limits(),
            memory=self._memory_tracker.expected(),
            reading=self._memory_tracker.reading,
            settings=self.settings,
            now=self._now(),
        )

    async def look(self, max_age: float = 0.0) -> None:
        """Read the memory for ``survey``, if the last reading is older than ``max_age`` seconds;
        not while a load or an unload changes it."""
        if self._now() - self._memory_tracker.memory.at < max_age:
            return
        busy = any(
            state.status in {ModelStatus.LOADING, ModelStatus.UNLOADING} for state in self.states()
        )
        if self._memory_tracker.is_read and not busy and not self._closing:
            if self._measuring is None:
                self._measuring = self._lifecycle.own(self._measure(), "read the memory")
            await asyncio.wait({self._measuring})

    # Changes from outside

    def configure(self, settings: Settings) -> None:
        """Take new settings.

        Limits apply at once. A server that would now be started in another way is restarted when
        its requests have ended. A model that failed keeps its failure, unless the settings changed
        something that a load of it depends on.
        """
        self.settings = settings
        for state in self.states():
            self._settings_changed(state)
        self.step()

    def _settings_changed(self, state: ModelState) -> None:
        state.wanted = self.spec(state.model)
        self._restart_if_due(state)
        if state.status is ModelStatus.QUEUED:
            self._lifecycle.size_up(state)
        elif state.status is ModelStatus.FAILED and state.trouble.conditions != load_conditions(
            state, self.settings
        ):
            self.rest(state)

    def _restart_if_due(self, state: ModelState) -> None:
        """Have a loaded model go when its requests have ended, and come back, if its server would
        now be started in another way."""
        why = state.restart_reason(state.model, state.next_spec)
        if why is not None:
            _logger.info("%s is restarted: %s", state.model.id, why.value)
            state.leaving = why
            state.restart = True

    def binary_changed(self) -> None:
        """Another llama-server is there: models that failed with the former one try again."""
        for state in self.states():
            if state.status is ModelStatus.FAILED and not state.model.settings.command:
                self.rest(state)

    def would_restart(
        self, settings: Settings, changed: Callable[[LocalModel], LocalModel]
    ) -> list[str]:
        """The loaded models that ``configure`` would restart, if they became what ``changed``
        makes of them."""
        found = []
        for state in self.states():
            model = changed(state.model)
            spec = state.limit(resolve(model, settings))
            if state.restart_reason(model, spec) is not None:
                found.append(model.id)
        return sorted(found)

    def refresh(self, model: LocalModel) -> None:
        """The library read this model anew (its file or its settings changed)."""
        state = self._states.get(model.id)
        if state is not None:
            state.model = model
            self._settings_changed(state)
            self.step()

    def remove(self, model_id: str) -> None:
        """The model is not there any more: it goes when its requests have ended."""
        state = self._states.get(model_id)
        if state is None:
            return
        state.restart = False
        self._admission.fail_all(
            state, ModelLoadError(f"{model_id} is not there any more.", needs_person=True)
        )
        if state.status is ModelStatus.LOADED and state.leaving is None:
            state.leaving = Reason.REMOVED
        elif state.status is ModelStatus.LOADING:
            self._lifecycle.give_up(state)
        elif state.status in {ModelStatus.QUEUED, ModelStatus.FAILED}:
            self.rest(state)
        self.step()

    # Requests

    def try_acquire(self, model: LocalModel) -> Lease | None:
        """A place at once, if the model is loaded and has one free: the hot path."""
        state = self._states.get(model.id)
        if state is None or self._closing:
            return None
        return self._admission.try_place(state)

    async def acquire(
        self, model: LocalModel, *, on_wait: Callable[[Waiter], None] | None = None
    ) -> Lease:
        """A place at the model, which is loaded for it if need be.

        ``on_wait`` gets the place in the queue, where there is a wait. Raises ``QueueFullError``,
        ``QueueTimeoutError``, ``InsufficientMemoryError``, ``ShuttingDownError`` or what the load
        failed with. Cancelling it leaves the queue.
        """
        lease = self.try_acquire(model)
        if lease is not None:
            return lease
        state = self._state_of(model)
        self._refuse_early(state)
        waiter = self._enqueue(state, takes_place=True, reason="request")
        if on_wait is not None:
            on_wait(waiter)
        try:
            async with asyncio.timeout(self.settings.queue_timeout or None):
                await waiter.future
        except TimeoutError:
            self._leave(state, waiter)
            raise QueueTimeoutError(
                f"{model.id} was not ready within queue_timeout"
                f" ({self.settings.queue_timeout:g} s)."
            ) from None
        except asyncio.CancelledError:
            self._leave(state, waiter)
            raise
        if state.server is None:
            self._admission.release(state, self._now())
            raise state.failure or ModelLoadError(
                f"{model.id} was unloaded before the request reached it."
            )
        # The place was counted when the future was set, so that nothing could slip in between.
        return Lease(self._admission.release, state, state.server, self._now())

    def _refuse_early(self, state: ModelState) -> None:
        if self._closing:
            raise ShuttingDownError("The service is shutting down.")
        queued = state.queued
        # One may always wait for a model that is not loaded, or no request could ever load it.
        least = 0 if state.status is ModelStatus.LOADED else 1
        if queued >= max(self.settings.max_queue, least):
            wait = self.waits.expected(state, queued + 1)
            if wait is None:
                wait = queued / self._admission.places(state)
            raise QueueFullError(
                f"{state.model.id} has as many waiting requests as max_queue allows ({queued}).",
                retry_after=max(1.0, wait),
            )
        left = state.trouble.retry_at - self._now()
        if state.status is ModelStatus.FAILED and left > 0 and state.failure is not None:
            raise again_in(state.failure, left)

    def _enqueue(self, state: ModelState, *, takes_place: bool, reason: str) -> Waiter:
        waiter = self._admission.enqueue(state, takes_place=takes_place, reason=reason)
        if state.status in {ModelStatus.UNLOADED, ModelStatus.FAILED}:
            self._lifecycle.size_up(state)
            self.set_status(state, ModelStatus.QUEUED)
        self.step()
        return waiter

    def _leave(self, state: ModelState, waiter: Waiter) -> None:
        self._admission.leave(state, waiter)
        if state.status is ModelStatus.QUEUED and not state.waiters:
            self.set_status(state, _at_rest(state))
        self.step()

    def released(self, state: ModelState) -> None:
        """A request at it is over."""
        # Without anybody waiting or leaving nothing can follow but this model's idle timeout and
        # looks at the memory, and mostly a timer that comes no later stands already.
        if self.waiting or state.leaving is not None or self._timer_comes_late(state):
            self.step()

    def _timer_comes_late(self, state: ModelState) -> bool:
        if state.in_flight or state.is_pinned:
            return False
        idle = idle_timeout(state, self.settings)
        when = self._steps.next_at
        if when is None:
            return idle > 0 or self._memory_tracker.is_read
        return idle > 0 and when > state.last_used + idle

    # Explicit wishes

    async def load(self, model: LocalModel) -> None:
        """Load a model and return when it is loaded; errors as in ``acquire``."""
        waiting = self.request_load(model)
        if waiting is not None:
            await waiting

    def request_load(
        self, model: LocalModel, *, reason: str = "asked"
    ) -> asyncio.Future[None] | None:
        """Begin to load a model; the future ends with the load. ``None`` = it is loaded.

        ``reason`` is what the session's record says: ``asked``, ``preload`` or ``restart``.
        """
        if self._closing:
            raise ShuttingDownError("The service is shutting down.")
        state = self._state_of(model)
        if state.status is ModelStatus.LOADED and state.leaving is None:
            touch(state, self._now())
            self._on_detail(model.id)
            return None
        state.trouble.retry_at = 0.0
        waiter = self._enqueue(state, takes_place=False, reason=reason)

        def over(done: asyncio.Future[None]) -> None:
            if done.cancelled():
                self._leave(state, waiter)
            else:
                # Nobody may be there to hear of a failure; the model's record tells it.
                done.exception()

        waiter.future.add_done_callback(over)
        return waiter.future

    async def unload(self, model: LocalModel, *, force: bool = False) -> None:
        """Unload a model and return when its process is gone.

        Waits for its requests (those that wait for its load, too) unless ``force``, which ends
        them; requests that come meanwhile wait and load it again. A load for which no request
        waits is given up.
        """
        state = self._state_of(model)
        if force:
            self._admission.fail_all(state, ModelLoadError(f"{model.id} was unloaded by force."))
        while state.queued and state.status in {ModelStatus.QUEUED, ModelStatus.LOADING}:
            await self._change(state)
        state.restart = False
        if state.status in {ModelStatus.QUEUED, ModelStatus.LOADING}:
            self._admission.fail_all(
                state, ModelLoadError(f"The load of {model.id} was cancelled.")
            )
        if state.status is ModelStatus.LOADING:
            # Shown as what it is: the process is on its way out, and until it is gone requests
            # wait as they do for any model that unloads.
            self._lifecycle.give_up(state)
        elif state.status is ModelStatus.LOADED:
            state.leaving = Reason.REQUEST
            if force:
                self._lifecycle.unload(state, Reason.REQUEST)
        elif state.status in {ModelStatus.QUEUED, ModelStatus.FAILED}:
            self.rest(state)
        self.step()
        while state.leaving is not None or state.status is ModelStatus.UNLOADING:
            await self._change(state)

    def rest(self, state: ModelState) -> None:
        """It has no process, and its failures are forgotten."""
        state.failure, state.trouble = None, Trouble()
        state.plan(state.wanted)
        self.set_status(state, ModelStatus.UNLOADED)

    async def _change(self, state: ModelState) -> None:
        """Wait until the model's state has changed."""
        state.settled.clear()
        await state.settled.wait()

    def pin(self, model: LocalModel, pinned: bool) -> None:
        """Keep a model loaded (or no longer), until the service ends."""
        self._state_of(model).pinned = pinned
        self._on_state(model.id)
        self.step()

    # The end

    def begin_shutdown(self) -> None:
        """Take nothing new: whoever still waits is told so, running answers go on."""
        self._closing = True
        self._steps.stop()
        for state in self._states.values():
            self._admission.fail_all(state, ShuttingDownError("The service is shutting down."))
            if state.status is ModelStatus.QUEUED:
                self.set_status(state, _at_rest(state))

    async def drain(self, timeout: float) -> bool:
        """Wait until no request is in flight, at most ``timeout`` seconds; whether that came."""
        return await self._admission.drain(timeout)

    @property
    def closing(self) -> bool:
        """Whether the end has begun."""
        return self._closing

    async def close(self, *, at_once: bool = False) -> None:
        """Stop every server now, running answers or not, and end all tasks.

        Servers have ``stop_timeout`` for it; ``at_once`` they are killed.
        """
        self.begin_shutdown()
        if at_once:
            self.settings = msgspec.structs.replace(self.settings, stop_timeout=0.0)
        for state in self._states.values():
            if state.status is ModelStatus.LOADED:
                self._lifecycle.unload(state, Reason.SHUTDOWN)
            elif state.status is ModelStatus.LOADING and state.task:
                self._lifecycle.give_up(state)
            if state.sizing is not None:
                state.sizing.cancel()
        if self._measuring is not None:
            self._measuring.cancel()
        await self._lifecycle.wait_all()

    # Deciding, and what came of it

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _state_of(self, model: LocalModel) -> ModelState:
        state = self._states.get(model.id)
        if state is None:
            state = self._states[model.id] = ModelState(model, self.spec(model))
        elif state.model is not model:
            state.model = model
            state.wanted = self.spec(model)
        return state

    def _views(self) -> tuple[ModelView, ...]:
        seconds = self._load_history.load_seconds
        return tuple(
            view_of(state, self.settings, seconds(state.spec.signature, state.model.size_bytes))
            for state in self._states.values()
        )

    def _limits(self) -> Limits:
        return Limits(
            max_loaded_models=self.settings.max_loaded_models,
            max_overtake=self.settings.max_overtake,
            memory_changed_at=self._memory_tracker.changed_at,
            awaited=self._memory_tracker.awaited,
        )

    def step(self) -> None:
        """Something changed: decide anew."""
        self._steps.step()

    def _decide(self) -> float | None:
        decision = self._policy(
            self._views(), self._limits(), self._memory_tracker.memory, self._now()
        )
        self._admission.blocked = decision.blocked
        for unload in decision.unload:
            self._lifecycle.unload(self._states[unload.id], unload.reason)
        if decision.load or decision.unload or decision.refuse:
            self._memory_tracker.give_up_waiting(self._now())
        if decision.load is not None:
            self._lifecycle.load(self._states[decision.load])
        for refusal in decision.refuse:
            self._lifecycle.refuse(self._states[refusal.id], refusal)
        self._close(decision.close)
        if decision.measure and self._measuring is None:
            self._measuring = self._lifecycle.own(self._measure(), "read the memory")
        return decision.wake_at

    def _close(self, close: dict[str, int]) -> None:
        """Let in only those who came early enough; where that changed, look again."""
        for state in self.states():
            was, state.closed_to = state.closed_to, close.get(state.model.id)
            if was != state.closed_to:
                self.step()
            if state.waiters and state.status is ModelStatus.LOADED:
                self._admission.grant(state)

    async def _measure(self) -> None:
        try:
            await self._memory_tracker.read(self.states(), self.settings)
        finally:
            self._measuring = None
        self.step()

    def loaded(self, state: ModelState) -> None:
        """Its server answers: let in who waits, as far as others have not waited longer."""
        touch(state, self._now())
        self.set_status(state, ModelStatus.LOADED)
        self._restart_if_due(state)
        # First who is blocked by it now, then who may come in.
        self.step()
        self._admission.grant(state)
        # Whoever only wanted it loaded waits no more: from now on it may idle out.
        self._on_detail(state.model.id)

    def failed(self, state: ModelState, error: CyberError) -> None:
        """Nobody can be served who waits for it."""
        self._admission.fail_all(state, error)

    def again(self, state: ModelState) -> None:
        """It has no process, and those who wait for it are served by another try."""
        self.set_status(state, ModelStatus.QUEUED if state.waiters else _at_rest(state))
        if state.waiters:
            self._lifecycle.size_up(state)
        self.step()

    def gone(self, state: ModelState) -> None:
        """Its process was ended by choice; whoever came meanwhile has it loaded again."""
        state.progress = None
        state.trouble.failures = 0
        restart, state.restart = state.restart and not self._closing, False
        if not restart:
            state.plan(state.wanted)
        waited_for = bool(state.waiters) and not self._closing
        self.set_status(state, ModelStatus.QUEUED if waited_for else ModelStatus.UNLOADED)
        if waited_for:
            self._lifecycle.size_up(state)
        elif restart:
            self.request_load(state.model, reason="restart")

    def progressed(self, state: ModelState) -> None:
        """A number of it changed."""
        self._on_detail(state.model.id)

    def set_status(self, state: ModelState, status: ModelStatus) -> None:
        """Change a status, and tell."""
        state.status = status
        state.settled.set()
        self._on_state(state.model.id)


def _at_rest(state: ModelState) -> ModelStatus:
    """The status of a model that nobody waits for and that has no process."""
    return ModelStatus.FAILED if state.failure else ModelStatus.UNLOADED
