"""The one owner of all model states: admits requests, loads and unloads, never cuts an answer.

Everything here runs on one event loop and changes state only in this file. ``policy.decide`` says
what to do; ``_step`` carries it out after every change, and a timer asks again when a model may
become idle. Time is the event loop's clock, so that a loop with a virtual clock drives it all.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime
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
from cyber_inference_tui.records import ModelStatus
from cyber_inference_tui.scheduler.policy import (
    STABLE_AFTER,
    Limits,
    ModelView,
    Reason,
    backoff,
    decide,
)
from cyber_inference_tui.scheduler.state import (
    Lease,
    ModelState,
    Server,
    ServerLauncher,
    Waiter,
)
from cyber_inference_tui.settings.schema import Settings

_logger = logging.getLogger(__name__)


class Scheduler:
    """Use it as ``async with``; leaving it stops every server, however it is left.

    ``on_state`` is called with a model's id at every change of status, ``on_detail`` when only
    numbers (progress, requests) changed. ``max_connections`` is how many requests one server gets
    at once; the others wait here, in order.
    """

    def __init__(
        self,
        *,
        launcher: ServerLauncher,
        settings: Settings,
        max_connections: int,
        on_state: Callable[[str], None],
        on_detail: Callable[[str], None],
    ) -> None:
        self._launcher = launcher
        self._settings = settings
        self._max_connections = max_connections
        self._on_state = on_state
        self._on_detail = on_detail
        self._states: dict[str, ModelState] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closing = False
        self._drained = asyncio.Event()
        self.in_flight = 0
        """Requests that hold a place, over all models."""
        self.waiting = 0
        """Requests and loads that wait, over all models."""

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

    @property
    def loaded_ids(self) -> list[str]:
        """The ids of the models that answer now."""
        return [
            state.model.id for state in self._states.values() if state.status is ModelStatus.LOADED
        ]

    def configure(self, settings: Settings) -> None:
        """Take new settings; limits apply at once, what concerns a server at its next load."""
        self._settings = settings
        self._step()

    def refresh(self, model: LocalModel) -> None:
        """The library read this model anew (its file or its settings changed)."""
        state = self._states.get(model.id)
        if state is not None:
            state.model = model
            self._step()

    # Requests

    def try_acquire(self, model: LocalModel) -> Lease | None:
        """A place at once, if the model is loaded and has one free: the hot path."""
        state = self._states.get(model.id)
        if (
            state is None
            or state.status is not ModelStatus.LOADED
            or state.waiters
            or state.leaving
            or state.draining
            or self._closing
            or state.server is None
            or state.server.exited.done()
            or state.in_flight >= self._max_connections
        ):
            return None
        return self._place(state, state.server)

    async def acquire(self, model: LocalModel) -> Lease:
        """A place at the model, which is loaded for it if need be.

        Raises ``QueueFullError``, ``QueueTimeoutError``, ``ShuttingDownError`` or what the load
        failed with. Cancelling it leaves the queue.
        """
        lease = self.try_acquire(model)
        if lease is not None:
            return lease
        state = self._state_of(model)
        self._refuse_early(state)
        waiter = self._enqueue(state, takes_place=True)
        try:
            async with asyncio.timeout(self._settings.queue_timeout or None):
                await waiter.future
        except TimeoutError:
            self._leave(state, waiter)
            raise QueueTimeoutError(
                f"{model.id} was not ready within queue_timeout"
                f" ({self._settings.queue_timeout:g} s)."
            ) from None
        except asyncio.CancelledError:
            self._leave(state, waiter)
            raise
        if state.server is None:
            self._release(state)
            raise state.failure or ModelLoadError(
                f"{model.id} was unloaded before the request reached it."
            )
        # The place was counted when the future was set, so that nothing could slip in between.
        return Lease(self._release, state, state.server)

    def _refuse_early(self, state: ModelState) -> None:
        if self._closing:
            raise ShuttingDownError("The service is shutting down.")
        if state.queued >= self._settings.max_queue:
            raise QueueFullError(
                f"{state.queued} requests wait for {state.model.id} already (max_queue).",
                retry_after=max(1.0, state.queued / self._max_connections),
            )
        left = state.retry_at - self._now()
        if state.status is ModelStatus.FAILED and left > 0 and state.failure is not None:
            raise _again_in(state.failure, left)

    def _enqueue(self, state: ModelState, *, takes_place: bool) -> Waiter:
        future = asyncio.get_running_loop().create_future()
        waiter = Waiter(future, self._now(), takes_place)
        state.waiters.append(waiter)
        self.waiting += 1
        if state.status in {ModelStatus.UNLOADED, ModelStatus.FAILED}:
            self._set_status(state, ModelStatus.QUEUED)
        else:
            self._on_detail(state.model.id)
        self._step()
        return waiter

    def _leave(self, state: ModelState, waiter: Waiter) -> None:
        """A waiter gives up: out of the queue, or back with the place it just got."""
        if waiter in state.waiters:
            state.waiters.remove(waiter)
            self.waiting -= 1
            if state.status is ModelStatus.QUEUED and not state.waiters:
                self._set_status(state, _at_rest(state))
            state.settled.set()
            self._on_detail(state.model.id)
            self._step()
        elif waiter.takes_place and _was_granted(waiter.future):
            self._release(state)

    def _place(self, state: ModelState, server: Server) -> Lease:
        self._count_place(state)
        return Lease(self._release, state, server)

    def _count_place(self, state: ModelState) -> None:
        state.in_flight += 1
        self.in_flight += 1
        self._touch(state)
        self._on_detail(state.model.id)

    def _touch(self, state: ModelState) -> None:
        state.last_used = self._now()
        state.last_used_at = datetime.now(UTC)

    def _release(self, state: ModelState) -> None:
        """A lease ended."""
        state.in_flight -= 1
        self.in_flight -= 1
        self._touch(state)
        self._on_detail(state.model.id)
        if self.in_flight == 0:
            self._drained.set()
        # Without anybody waiting or leaving nothing can follow but this model's idle timeout, and
        # mostly a timer that comes no later stands already.
        if self.waiting or state.leaving or self._timer_comes_late(state):
            self._grant(state)
            self._step()

    def _timer_comes_late(self, state: ModelState) -> bool:
        idle = self._idle_timeout(state)
        if state.in_flight or idle == 0 or state.is_pinned:
            return False
        return self._timer is None or self._timer.when() > state.last_used + idle

    # Explicit wishes

    async def load(self, model: LocalModel) -> None:
        """Load a model and return when it is loaded; errors as in ``acquire``."""
        state = self.request_load(model)
        if state is not None:
            await state

    def request_load(self, model: LocalModel) -> asyncio.Future[None] | None:
        """Begin to load a model; the future ends with the load. ``None`` = it is loaded."""
        if self._closing:
            raise ShuttingDownError("The service is shutting down.")
        state = self._state_of(model)
        if state.status is ModelStatus.LOADED and not state.leaving:
            self._touch(state)
            return None
        state.retry_at = 0.0
        waiter = self._enqueue(state, takes_place=False)

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
            self._fail_waiters(state, ModelLoadError(f"{model.id} was unloaded by force."))
        while state.queued and state.status in {ModelStatus.QUEUED, ModelStatus.LOADING}:
            await self._change(state)
        if state.status in {ModelStatus.QUEUED, ModelStatus.LOADING}:
            self._fail_waiters(state, ModelLoadError(f"The load of {model.id} was cancelled."))
        if state.status is ModelStatus.LOADING:
            # Shown as what it is: the process is on its way out, and until it is gone requests
            # wait as they do for any model that unloads.
            self._set_status(state, ModelStatus.UNLOADING)
            if state.task is not None:
                state.task.cancel()
        elif state.status is ModelStatus.LOADED:
            state.leaving = True
            if force:
                self._begin_unload(state, Reason.REQUEST)
        elif state.status in {ModelStatus.QUEUED, ModelStatus.FAILED}:
            state.failure, state.failures, state.retry_at = None, 0, 0.0
            self._set_status(state, ModelStatus.UNLOADED)
        self._step()
        while state.leaving or state.status is ModelStatus.UNLOADING:
            await self._change(state)

    async def _change(self, state: ModelState) -> None:
        """Wait until the model's state has changed."""
        state.settled.clear()
        await state.settled.wait()

    def pin(self, model: LocalModel, pinned: bool) -> None:
        """Keep a model loaded (or no longer), until the service ends."""
        self._state_of(model).pinned = pinned
        self._on_state(model.id)
        self._step()

    # The end

    def begin_shutdown(self) -> None:
        """Take nothing new: whoever still waits is told so, running answers go on."""
        self._closing = True
        for state in self._states.values():
            self._fail_waiters(state, ShuttingDownError("The service is shutting down."))
            if state.status is ModelStatus.QUEUED:
                self._set_status(state, _at_rest(state))

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
            self._settings = msgspec.structs.replace(self._settings, stop_timeout=0.0)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for state in self._states.values():
            if state.status is ModelStatus.LOADED:
                self._begin_unload(state, Reason.REQUEST)
            elif state.status is ModelStatus.LOADING and state.task:
                self._set_status(state, ModelStatus.UNLOADING)
                state.task.cancel()
        while self._tasks:
            await asyncio.wait(self._tasks)

    # Carrying decisions out

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _state_of(self, model: LocalModel) -> ModelState:
        state = self._states.get(model.id)
        if state is None:
            state = self._states[model.id] = ModelState(model)
        state.model = model
        return state

    def _views(self) -> Iterator[ModelView]:
        for state in self._states.values():
            yield ModelView(
                id=state.model.id,
                status=state.status,
                in_flight=state.in_flight,
                waiting=len(state.waiters),
                waiting_since=state.waiters[0].since if state.waiters else 0.0,
                last_used=state.last_used,
                idle_timeout=self._idle_timeout(state),
                pinned=state.is_pinned,
                leaving=state.leaving,
                draining=state.draining,
            )

    def _idle_timeout(self, state: ModelState) -> float:
        own = state.model.settings.idle_timeout
        return self._settings.model_idle_timeout if own is None else own

    def _step(self) -> None:
        if self._closing:
            return
        limits = Limits(max_loaded_models=self._settings.max_loaded_models)
        decision = decide(tuple(self._views()), limits, self._now())
        for unload in decision.unload:
            self._begin_unload(self._states[unload.id], unload.reason)
        if decision.load is not None:
            self._begin_load(self._states[decision.load])
        for state in self._states.values():
            was, state.draining = state.draining, state.model.id == decision.drain
            if was and not state.draining:
                # Whoever it was to make room for is gone or has been served.
                self._grant(state)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if decision.wake_at is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(decision.wake_at, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._step()

    def _begin_load(self, state: ModelState) -> None:
        state.progress = None
        state.failure = None
        self._set_status(state, ModelStatus.LOADING)
        state.task = self._own(self._load(state), f"load {state.model.id}")
        state.task.add_done_callback(lambda task: self._load_over(state, task))

    def _load_over(self, state: ModelState, task: asyncio.Task[None]) -> None:
        """Also a task that is cancelled before its first step has to leave things in order."""
        if state.task is task:
            state.task = None
            if state.status is ModelStatus.UNLOADING:
                self._gone(state)
        self._step()

    async def _load(self, state: ModelState) -> None:
        def progress(value: float | None) -> None:
            state.progress = value
            self._on_detail(state.model.id)

        began = self._now()
        try:
            server = await self._launcher.launch(state.model, self._settings, progress)
        except CyberError as error:
            self._load_failed(state, error)
        except Exception:
            # A defect of ours must not leave the model in "loading" with everybody waiting.
            _logger.exception("loading %s failed unexpectedly", state.model.id)
            self._load_failed(
                state, ModelLoadError(f"Loading {state.model.id} failed: see the service's log.")
            )
        else:
            if state.status is ModelStatus.UNLOADING:
                # Given up in the moment in which it became ready.
                await self._stop(state, server)
            else:
                self._loaded(state, server, self._now() - began)

    def _loaded(self, state: ModelState, server: Server, seconds: float) -> None:
        state.server = server
        state.session_tokens_in = state.session_tokens_out = 0
        state.loaded = self._now()
        state.loaded_at = datetime.now(UTC)
        state.progress = None
        self._touch(state)
        self._set_status(state, ModelStatus.LOADED)
        _logger.info("%s loaded in %.2f s (pid %d)", state.model.id, seconds, server.pid)
        server.exited.add_done_callback(lambda _: self._server_exited(state, server))
        self._grant(state)

    def _load_failed(self, state: ModelState, error: CyberError) -> None:
        if state.status is ModelStatus.UNLOADING:
            # It was given up already; that its end was not a clean one changes nothing.
            _logger.info("%s", error)
            return
        state.progress = None
        self._note_failure(state, error)
        _logger.warning("%s", error)
        self._fail_waiters(state, error)

    def _note_failure(self, state: ModelState, error: CyberError) -> None:
        state.failure = error
        state.failures += 1
        state.retry_at = self._now() + backoff(state.failures)
        self._set_status(state, ModelStatus.FAILED)

    def _server_exited(self, state: ModelState, server: Server) -> None:
        """The process ended by itself while its model was loaded."""
        if state.server is not server or state.status is not ModelStatus.LOADED:
            return
        why, tail = server.obituary()
        if self._now() - state.loaded >= STABLE_AFTER:
            state.failures = 0
        state.server = None
        state.loaded_at = None
        state.leaving = False
        self._note_failure(
            state, ModelLoadError(f"{state.model.id} stopped: {why}.", log_tail=tail)
        )
        _logger.warning("%s stopped: %s", state.model.id, why)
        self._own(_end(server), f"clean up after {state.model.id}")
        left = state.retry_at - self._now()
        if left > 0 and state.failure is not None:
            # As for those who come now: it keeps dying, so they are not held up by the backoff.
            self._fail_waiters(state, _again_in(state.failure, left))
        elif state.waiters:
            self._set_status(state, ModelStatus.QUEUED)
        self._step()

    def _begin_unload(self, state: ModelState, reason: Reason) -> None:
        state.dismissed = state.server
        self._set_status(state, ModelStatus.UNLOADING)
        _logger.info("%s: unloading (%s)", state.model.id, reason.value)
        state.task = self._own(self._unload(state), f"unload {state.model.id}")

    async def _unload(self, state: ModelState) -> None:
        try:
            if state.server is not None:
                await self._stop(state, state.server)
        finally:
            state.task = None
            self._gone(state)
            self._step()

    async def _stop(self, state: ModelState, server: Server) -> None:
        try:
            await server.stop(self._settings.stop_timeout)
        except TimeoutError as error:
            _logger.error("%s: %s", state.model.id, error)

    def _gone(self, state: ModelState) -> None:
        """Its process was ended by choice; whoever came meanwhile has it loaded again."""
        state.server = None
        state.loaded_at = None
        state.progress = None
        state.leaving = False
        state.failures = 0
        waited_for = bool(state.waiters) and not self._closing
        self._set_status(state, ModelStatus.QUEUED if waited_for else ModelStatus.UNLOADED)

    def _grant(self, state: ModelState) -> None:
        """Let in those who wait, in order, as far as there are places."""
        if state.status is not ModelStatus.LOADED or state.leaving or state.draining:
            return
        if state.server is None or state.server.exited.done():
            # It died a moment ago: they are better served by the next one.
            return
        while state.waiters:
            waiter = state.waiters[0]
            if waiter.takes_place and state.in_flight >= self._max_connections:
                break
            self._let_in(state, state.waiters.popleft())
        # An explicit load is done, however many requests stand before it.
        loads = [waiter for waiter in state.waiters if not waiter.takes_place]
        for waiter in loads:
            state.waiters.remove(waiter)
            self._let_in(state, waiter)

    def _let_in(self, state: ModelState, waiter: Waiter) -> None:
        self.waiting -= 1
        if waiter.future.done():
            return
        if waiter.takes_place:
            self._count_place(state)
        waiter.future.set_result(None)

    def _fail_waiters(self, state: ModelState, error: CyberError) -> None:
        while state.waiters:
            waiter = state.waiters.popleft()
            self.waiting -= 1
            if not waiter.future.done():
                waiter.future.set_exception(error)

    def _set_status(self, state: ModelState, status: ModelStatus) -> None:
        state.status = status
        state.settled.set()
        self._on_state(state.model.id)

    def _own(self, work: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _at_rest(state: ModelState) -> ModelStatus:
    """The status of a model that nobody waits for and that has no process."""
    return ModelStatus.FAILED if state.failure else ModelStatus.UNLOADED


def _was_granted(future: asyncio.Future[None]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


async def _end(server: Server) -> None:
    """Whatever the dead server left in its process group."""
    with contextlib.suppress(TimeoutError):
        await server.stop(0)


def _again_in(failure: CyberError, seconds: float) -> ModelLoadError:
    tail = failure.log_tail if isinstance(failure, ModelLoadError) else ()
    return ModelLoadError(
        failure.message, hint=f"The next try is possible in {seconds:.0f} s.", log_tail=tail
    )
