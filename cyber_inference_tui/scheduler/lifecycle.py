"""The lives of servers, carried out: loads, unloads, failures and what is recorded of them.

The scheduler decides; this does it and tells the scheduler what came of it.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from typing import Protocol

from cyber_inference_tui.errors import CyberError, ModelLoadError
from cyber_inference_tui.llama.needs import Measurement, Need, NeedSource
from cyber_inference_tui.monitor.memory_reading import MemoryReading
from cyber_inference_tui.records import ModelStatus, SessionRecord
from cyber_inference_tui.scheduler.load_history import LoadHistory
from cyber_inference_tui.scheduler.memory import excess_of, footprint_by_change
from cyber_inference_tui.scheduler.memory_tracker import MemoryTracker
from cyber_inference_tui.scheduler.policy import STABLE_AFTER, backoff
from cyber_inference_tui.scheduler.refusal import refusal_error, runaway_error
from cyber_inference_tui.scheduler.state import (
    ModelState,
    Server,
    ServerLauncher,
    Session,
    load_conditions,
)
from cyber_inference_tui.scheduler.views import Reason, Refusal
from cyber_inference_tui.settings.schema import Settings

LOAD_WATCH = 0.25
"""Seconds between two looks at the memory that a loading server takes."""
LEAST_CONTEXT = 2048
"""Tokens. A model is not started with less for want of memory."""

_logger = logging.getLogger(__name__)


class Owner(Protocol):
    """The scheduler, as this room needs it: it alone lets requests in and changes statuses."""

    @property
    def settings(self) -> Settings:
        """The settings in force."""

    def states(self) -> list[ModelState]:
        """All models that were ever touched."""

    def set_status(self, state: ModelState, status: ModelStatus) -> None:
        """Change a status, and tell."""

    def progressed(self, state: ModelState) -> None:
        """A number changed."""

    def loaded(self, state: ModelState) -> None:
        """It answers now."""

    def failed(self, state: ModelState, error: CyberError) -> None:
        """Nobody can be served who waits for it."""

    def again(self, state: ModelState) -> None:
        """Those who wait for it are served by another try."""

    def gone(self, state: ModelState) -> None:
        """Its process was ended by choice."""

    def rest(self, state: ModelState) -> None:
        """It has no process, and its failures are forgotten."""

    def step(self) -> None:
        """Something changed: decide anew."""


class Lifecycle:
    """Carries out loads and unloads; owns their tasks until they have ended."""

    def __init__(
        self,
        owner: Owner,
        *,
        launcher: ServerLauncher,
        memory_tracker: MemoryTracker,
        load_history: LoadHistory,
        on_session: Callable[[SessionRecord], None],
    ) -> None:
        self._owner = owner
        self._launcher = launcher
        self._memory_tracker = memory_tracker
        self._load_history = load_history
        self._on_session = on_session
        self._tasks: set[asyncio.Task[None]] = set()

    def own(self, work: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        """Run ``work`` as a task that ``wait_all`` waits for."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def wait_all(self) -> None:
        """Return when every task has ended."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    # What a load will take

    def size_up(self, state: ModelState) -> None:
        """Find out what ``state``'s model needs, unless that is known or being found out."""
        if state.server is None:
            state.plan(state.next_spec)
        if state.need is None and state.sizing is None:
            state.sizing = self.own(self._size_up(state), f"size up {state.model.id}")

    async def _size_up(self, state: ModelState) -> None:
        spec = state.spec
        need = Need()
        try:
            need = await self._launcher.need(spec)
        except CyberError as error:
            # Whatever is wrong with it, its load will say so, to whoever waits for it.
            _logger.info("what %s needs cannot be told: %s", state.model.id, error)
        except Exception:
            # A defect of ours must not keep everybody waiting who wants it.
            _logger.exception("what %s needs cannot be told", state.model.id)
        finally:
            state.sizing = None
        if state.spec.signature == spec.signature:
            state.need = need
            self._owner.step()
        else:
            self.size_up(state)

    # Refusing

    def refuse(self, state: ModelState, refusal: Refusal) -> None:
        """There is no room for a model and there will be none: a smaller context, or an error."""
        if all(waiter.reason == "preload" for waiter in state.waiters):
            _logger.warning("%s is not preloaded: there is no room left for it", state.model.id)
            self._owner.failed(
                state, ModelLoadError(f"There is no room to preload {state.model.id}.")
            )
            self._owner.rest(state)
            return
        if refusal.at_best is not None and self._shrink(state):
            _logger.warning(
                "%s does not fit into memory: it is tried with %d tokens of context",
                state.model.id,
                state.spec.context_size,
            )
            self._owner.step()
            return
        error = refusal_error(
            refusal,
            self._owner.states(),
            self._memory_tracker.reading,
            self._owner.settings,
            at_most=state.need is not None and state.need.source is NeedSource.UPPER_BOUND,
        )
        state.plan(state.wanted)
        _logger.warning("%s", error)
        self._fail(state, error, told=error)
        # Its next try may find more room.
        state.need = None

    # Loading

    def load(self, state: ModelState) -> None:
        """Begin to load a model."""
        state.progress = None
        state.failure = None
        # Whatever its settings are now, it is loaded with them.
        state.restart = False
        reason = state.waiters[0].reason if state.waiters else "asked"
        state.session = Session(reason, _now(), state.model.modified)
        self._owner.set_status(state, ModelStatus.LOADING)
        state.task = self.own(self._load(state), f"load {state.model.id}")
        state.task.add_done_callback(lambda task: self._load_over(state, task))

    def give_up(self, state: ModelState) -> None:
        """End a load under way; until its process is gone it counts as unloading."""
        self._owner.set_status(state, ModelStatus.UNLOADING)
        if state.task is not None:
            state.task.cancel()

    def _load_over(self, state: ModelState, task: asyncio.Task[None]) -> None:
        """Also a task that is cancelled before its first step has to leave things in order."""
        if state.task is task:
            state.task = None
            if state.status is ModelStatus.UNLOADING:
                state.session = None
                # What it had taken until then is to come back, too.
                self._memory_tracker.server_ended(state, _now())
                self._owner.gone(state)
        self._owner.step()

    async def _load(self, state: ModelState) -> None:
        def progress(value: float | None) -> None:
            state.progress = value
            self._owner.progressed(state)

        before = self._memory_tracker.reading
        watch = _Watch(state, self._memory_tracker, lambda: self._owner.settings)
        measured = state.need is not None and state.need.source is NeedSource.MEASURED
        try:
            server = await self._launcher.launch(
                state.spec,
                self._owner.settings,
                progress,
                measure=not measured,
                busy=lambda: state.in_flight > 0,
                watch=watch.run if self._memory_tracker.is_read else None,
            )
        except CyberError as error:
            if isinstance(error, ModelLoadError) and watch.exceeded:
                # More room would not help, so nobody makes any for it.
                error.out_of_memory = False
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
                return
            self._loaded(state, server)
            if state.footprint is None:
                await self._measure(state, server, before)

    def _loaded(self, state: ModelState, server: Server) -> None:
        now = _now()
        state.server = server
        state.loaded = now
        state.loaded_at = datetime.now(UTC)
        state.progress = None
        state.alone = state.tried_again = False
        if state.session is not None:
            state.session.load_seconds = now - state.session.began
            _logger.info(
                "%s loaded in %.2f s (pid %d)",
                state.model.id,
                state.session.load_seconds,
                server.pid,
            )
        state.footprint = server.footprint()
        if state.footprint is None and state.need and state.need.source is NeedSource.MEASURED:
            # It was not asked to tell this time.
            state.footprint = state.need.footprint
        self._memory_tracker.server_started(state, now)
        self._learn(state, server)
        server.exited.add_done_callback(lambda _: self._exited(state, server))
        self._owner.loaded(state)

    async def _measure(
        self, state: ModelState, server: Server, before: MemoryReading | None
    ) -> None:
        """A server that does not say what it took: what the machine says must do."""
        reading = await self._memory_tracker.read(self._owner.states(), self._owner.settings)
        if reading is not None and state.server is server:
            state.footprint = footprint_by_change(before, reading, server.pid)
            if state.footprint is not None:
                self._memory_tracker.server_started(state, _now())
                self._learn(state, server)
                self._owner.progressed(state)
        self._owner.step()

    def _learn(self, state: ModelState, server: Server) -> None:
        if state.footprint is None or state.session is None:
            return
        self._load_history.learn(
            Measurement(
                signature=state.spec.signature,
                model=state.model.id,
                footprint=state.footprint,
                context_size=server.context_size,
                load_seconds=state.session.load_seconds,
                size_bytes=state.model.size_bytes,
                at=datetime.now(UTC),
            )
        )

    def _load_failed(self, state: ModelState, error: CyberError) -> None:
        state.session = None
        if state.status is ModelStatus.UNLOADING:
            # It was given up already; that its end was not a clean one changes nothing.
            _logger.info("%s", error)
            return
        state.progress = None
        self._memory_tracker.server_ended(state, _now())
        if self._try_again(state, error):
            return
        state.alone = state.tried_again = False
        if isinstance(error, ModelLoadError) and error.out_of_memory and not self._others():
            # It had all the memory that models can have.
            error.needs_person = True
        self._count_failure(state)
        _logger.warning("%s", error)
        self._fail(state, error, told=error)

    def _try_again(self, state: ModelState, error: CyberError) -> bool:
        """After running out of memory: once more when others have made room, or with less context
        where the settings allow that."""
        if not (isinstance(error, ModelLoadError) and error.out_of_memory) or state.tried_again:
            return False
        others = self._others()
        if others:
            state.alone = True
            how = f"when {', '.join(sorted(other.model.id for other in others))} made room"
        elif self._shrink(state):
            how = f"with {state.spec.context_size:,} tokens of context"
        else:
            return False
        state.tried_again = True
        _logger.warning("%s It is tried once more %s.", error, how)
        self._owner.again(state)
        return True

    def _others(self) -> list[ModelState]:
        """The loaded models that could make room for one that is being loaded."""
        return [
            other
            for other in self._owner.states()
            if other.status is ModelStatus.LOADED and not other.is_pinned
        ]

    def _shrink(self, state: ModelState) -> bool:
        """Halve the context of the next load, if that is allowed and enough would be left."""
        size = state.spec.context_size
        if not self._owner.settings.allow_smaller_context or size is None:
            return False
        if size // 2 < LEAST_CONTEXT:
            return False
        state.plan(state.spec.with_context(size // 2))
        self.size_up(state)
        return True

    # Failing

    def _count_failure(self, state: ModelState, *, counts: bool = True) -> None:
        """Set when the next try is possible: later after each failure that ``counts``."""
        state.trouble.failures += counts
        state.trouble.retry_at = _now() + backoff(state.trouble.failures)

    def _fail(self, state: ModelState, error: CyberError, *, told: CyberError | None) -> None:
        """The model failed with ``error``. Everybody who waits for it gets ``told``; with ``None``
        they go on waiting.

        They leave before the status changes, so that the record of a failed model has no queue.
        """
        state.failure = error
        state.trouble.conditions = load_conditions(state, self._owner.settings)
        if told is not None:
            self._owner.failed(state, told)
        self._owner.set_status(state, ModelStatus.FAILED)

    def _exited(self, state: ModelState, server: Server) -> None:
        """The process ended by itself while its model was loaded."""
        if state.server is not server or state.status is not ModelStatus.LOADED:
            return
        why, tail = server.exit_reason()
        session = state.session
        if session is not None:
            session.lost = session.unanswered
        if (session is not None and session.answered) or _now() - state.loaded >= STABLE_AFTER:
            state.trouble.failures = 0
            state.trouble.excused = False
        # Killed by a request that killed the one before it, most likely. Once that is excused, so
        # that one bad request does not keep the others waiting; a server that never works has more
        # of them.
        counts = state.trouble.excused or session is None or not session.again
        state.trouble.excused = state.trouble.excused or not counts
        error = ModelLoadError(f"{state.model.id} stopped: {why}.", log_tail=tail)
        self._end_session(state, f"stopped: {why}")
        self._forget_server(state)
        self._count_failure(state, counts=counts)
        _logger.warning("%s stopped: %s", state.model.id, why)
        left = state.trouble.retry_at - _now()
        # Those who wait get the same as those who come now: it keeps dying, so the backoff does
        # not hold them up.
        self._fail(state, error, told=again_in(error, left) if left > 0 else None)
        if state.waiters:
            self._owner.again(state)
        self._owner.step()

    # Unloading

    def unload(self, state: ModelState, reason: Reason) -> None:
        """Begin to unload a loaded model."""
        state.dismissed = state.server
        # A server that still answers would take until it is killed to go.
        for end in tuple(state.on_forced_unload):
            end()
        self._owner.set_status(state, ModelStatus.UNLOADING)
        _logger.info("%s: unloading (%s)", state.model.id, reason.value)
        state.task = self.own(self._unload(state, reason), f"unload {state.model.id}")

    async def _unload(self, state: ModelState, reason: Reason) -> None:
        try:
            if state.server is not None:
                await self._stop(state, state.server)
        finally:
            state.task = None
            self._end_session(state, reason.value)
            self._forget_server(state)
            self._owner.gone(state)
            self._owner.step()

    async def _stop(self, state: ModelState, server: Server) -> None:
        try:
            await server.stop(self._owner.settings.stop_timeout)
        except TimeoutError as error:
            _logger.error("%s: %s", state.model.id, error)

    def _forget_server(self, state: ModelState) -> None:
        state.server = None
        state.loaded_at = None
        state.footprint = None
        state.leaving = None
        state.closed_to = None
        # What it took is known better now than what was expected.
        state.need = None
        self._memory_tracker.server_ended(state, _now())

    def _end_session(self, state: ModelState, reason: str) -> None:
        record = session_record(state, reason)
        state.session = None
        if record is not None:
            self._on_session(record)


class _Watch:
    """Watches the memory that the processes of a loading server take."""

    def __init__(
        self, state: ModelState, memory_tracker: MemoryTracker, settings: Callable[[], Settings]
    ) -> None:
        self._model = state.model.id
        self._need = state.need or Need()
        self._memory_tracker = memory_tracker
        self._settings = settings
        self.exceeded = False
        """It takes more than was expected of it."""

    async def run(
        self, processes: Callable[[], Awaitable[tuple[int, ...]]]
    ) -> ModelLoadError | None:
        """Return with the reason when the load has to end."""
        try:
            while True:
                await asyncio.sleep(LOAD_WATCH)
                if (reason := await self._look(await processes())) is not None:
                    return reason
        except Exception:
            # A defect of ours, or no descriptor is left: the load goes on as before.
            _logger.exception("the memory that %s takes cannot be watched", self._model)
            return None

    async def _look(self, pids: tuple[int, ...]) -> ModelLoadError | None:
        reading = await self._memory_tracker.look(pids)
        if reading is None:
            return None
        settings = self._settings()
        taken = sum(process.private for process in reading.processes.values())
        excess = excess_of(self._need, taken, reading, max_percent=settings.max_memory_percent)
        self.exceeded = excess is not None
        if excess is None or not excess.runaway:
            return None
        return runaway_error(self._model, excess, reading.total, settings)


def session_record(state: ModelState, unload_reason: str | None = None) -> SessionRecord | None:
    """The session of a loaded model as it stands, or as it ended."""
    session = state.session
    if session is None or state.loaded_at is None:
        return None
    return SessionRecord(
        model=state.model.id,
        load_reason=session.load_reason,
        unload_reason=unload_reason,
        loaded_at=state.loaded_at,
        unloaded_at=datetime.now(UTC) if unload_reason is not None else None,
        load_seconds=round(session.load_seconds, 3),
        requests=session.requests,
        tokens_in=session.tokens_in,
        tokens_out=session.tokens_out,
        context_size=state.server.context_size if state.server else None,
        memory_estimate_bytes=state.need.footprint.total if state.need else None,
        memory_bytes=state.footprint.total if state.footprint else None,
    )


def again_in(failure: CyberError, seconds: float) -> ModelLoadError:
    """The failure, for those who come before the next try is possible."""
    tail = failure.log_tail if isinstance(failure, ModelLoadError) else ()
    again = f"The next try is possible in {math.ceil(seconds)} s."
    error = ModelLoadError(
        failure.message,
        # Another try would be in vain.
        hint=failure.hint if failure.permanent else again,
        log_tail=tail,
        needs_person=failure.permanent,
    )
    error.retry_after = seconds
    return error


def _now() -> float:
    return asyncio.get_running_loop().time()
