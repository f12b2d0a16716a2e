"""Decides which models are loaded and acts: the only place where a model's status changes.

Everything that happens is a call from ``Scheduler`` (a request, other settings) or an event from
``ServerTasks`` (a load has ended, a process is gone). Each updates the states and ends in ``step``,
which asks the policy and starts what it decides.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cached_property

from cyber_inference_tui.errors import CyberError, ModelLoadError
from cyber_inference_tui.llama.needs import (
    Footprint,
    Measurement,
    Need,
    NeedSource,
    largest_context,
)
from cyber_inference_tui.monitor.energy_shares import EnergyShares
from cyber_inference_tui.monitor.memory_reading import MemoryReading
from cyber_inference_tui.records import ModelStatus, Priority, SessionRecord
from cyber_inference_tui.scheduler.admission import Admission
from cyber_inference_tui.scheduler.free_memory import Amount, footprint_by_change, needed_amount
from cyber_inference_tui.scheduler.lease import Lease
from cyber_inference_tui.scheduler.load_errors import Lending, refusal_error, retry_later_error
from cyber_inference_tui.scheduler.load_history import LoadHistory
from cyber_inference_tui.scheduler.memory_tracker import MemoryTracker
from cyber_inference_tui.scheduler.places import Places
from cyber_inference_tui.scheduler.policy import STABLE_AFTER, Policy, retry_delay
from cyber_inference_tui.scheduler.server_interface import Server, ServerLauncher
from cyber_inference_tui.scheduler.server_tasks import (
    Event,
    LoadFailed,
    LoadProgressed,
    MemoryRead,
    NeedEstimated,
    ServerExited,
    ServerReady,
    ServerStopped,
    ServerTasks,
)
from cyber_inference_tui.scheduler.state import (
    Failures,
    ModelState,
    Session,
    Waiter,
    idle_timeout,
    load_conditions,
    session_record,
    view_of,
)
from cyber_inference_tui.scheduler.views import LoadLimits, ModelView, Reason, Refusal
from cyber_inference_tui.settings.schema import Settings

LEAST_CONTEXT = 2048
"""Tokens. A model is not started with less for want of memory."""

_STEPS_AT_ONCE = 16

_logger = logging.getLogger(__name__)


class ControlLoop:
    """Owns the states of all models. The arguments are those of ``Scheduler``."""

    def __init__(
        self,
        *,
        launcher: ServerLauncher,
        settings: Settings,
        on_state: Callable[[str], None],
        on_detail: Callable[[str], None],
        on_session: Callable[[SessionRecord], None],
        memory_tracker: MemoryTracker,
        load_history: LoadHistory,
        policy: Policy,
        lending: Lending,
    ) -> None:
        self._lending = lending
        self.settings = settings
        self.states: dict[str, ModelState] = {}
        self.admission = Admission(self.states, max_overtake=settings.max_overtake)
        self.energy = EnergyShares()
        self.closing = False
        self._on_state = on_state
        self.on_detail = on_detail
        self._on_session = on_session
        self._memory_tracker = memory_tracker
        self._load_history = load_history
        self._policy = policy
        self._tasks = ServerTasks(launcher, memory_tracker, self._handle)
        self._timer: asyncio.TimerHandle | None = None
        self._stepping = False
        self._step_is_due = False

    @cached_property
    def now(self) -> Callable[[], float]:
        """The clock of the event loop."""
        # Looked up once: before Python 3.12 every look-up of the loop costs a system call.
        return asyncio.get_running_loop().time

    # Deciding

    def step(self) -> None:
        """Ask the policy and act, until nothing more follows at this moment.

        A change that follows from an action is decided on after that action, never within it.
        """
        self._step_is_due = True
        if self._stepping:
            return
        self._stepping = True
        try:
            for _ in range(_STEPS_AT_ONCE):
                if not self._step_is_due or self.closing:
                    break
                self._step_is_due = False
                self._wake_at(self._decide())
        finally:
            self._stepping = False

    def _wake_at(self, when: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if when is not None and not self.closing:
            self._timer = asyncio.get_running_loop().call_at(when, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self.step()

    def views(self) -> tuple[ModelView, ...]:
        """Return the policy's view of all models."""
        seconds = self._load_history.load_seconds
        return tuple(
            view_of(state, self.settings, seconds(state.spec.signature, state.model.size_bytes))
            for state in self.states.values()
        )

    def limits(self) -> LoadLimits:
        """Return the limits for the set of loaded models."""
        return LoadLimits(
            max_loaded_models=self.settings.max_loaded_models,
            max_overtake=self.settings.max_overtake,
            memory_changed_at=self._memory_tracker.changed_at,
            awaited=self._memory_tracker.awaited,
        )

    def _decide(self) -> float | None:
        """Carry out one decision; return the time of the next one if nothing happens before."""
        decision = self._policy(
            self.views(), self.limits(), self._memory_tracker.memory, self.now()
        )
        self.admission.blocked = decision.blocked
        for unload in decision.unload:
            self.unload(self.states[unload.id], unload.reason)
        if decision.load or decision.unload or decision.refuse:
            self._memory_tracker.give_up_waiting(self.now())
        if decision.load is not None:
            self._load(self.states[decision.load])
        for refusal in decision.refuse:
            self._refuse(self.states[refusal.id], refusal)
        for state in list(self.states.values()):
            admit_before = decision.admit_before.get(state.model.id)
            if admit_before != state.admit_before:
                state.admit_before = admit_before
                self.step()
            if state.waiters:
                self._admit(state)
        if decision.read_memory:
            self.read_memory()
        return decision.wake_at

    # Requests

    def enqueue(
        self,
        state: ModelState,
        *,
        takes_place: bool,
        reason: str,
        priority: Priority = Priority.NORMAL,
    ) -> Waiter:
        """Queue a request or an explicit load, and load the model if necessary."""
        waiter = self.admission.enqueue(
            state, takes_place=takes_place, reason=reason, priority=priority
        )
        self.on_detail(state.model.id)
        if state.has_no_process:
            self.estimate(state)
            self.set_status(state, ModelStatus.QUEUED)
        self.step()
        return waiter

    def request_load(self, state: ModelState, reason: str) -> asyncio.Future[None]:
        """Queue an explicit load; cancelling the future leaves the queue."""
        state.failures.retry_at = 0.0
        waiter = self.enqueue(state, takes_place=False, reason=reason)

        def ended(future: asyncio.Future[None]) -> None:
            if future.cancelled():
                self.leave(state, waiter)
            else:
                # Perhaps nobody awaits the future; the model's record has the error.
                future.exception()

        waiter.future.add_done_callback(ended)
        return waiter.future

    def leave(self, state: ModelState, waiter: Waiter) -> None:
        """Remove a waiter that gives up from the queue, or give back the place that it just got."""
        if self.admission.remove(state, waiter):
            state.changed.set()
            self.on_detail(state.model.id)
        elif waiter.takes_place and _was_admitted(waiter.future):
            self.release(state, self.now(), self.now())
        if state.status is ModelStatus.QUEUED and not state.waiters:
            self.set_status_without_process(state)
        self.step()

    def fail_all(self, state: ModelState, error: CyberError) -> None:
        """Empty the model's queue; everybody in it gets ``error``."""
        if state.waiters:
            self.admission.fail_all(state, error)
            self.on_detail(state.model.id)

    def try_acquire(self, state: ModelState, priority: Priority) -> Lease | None:
        """Return a lease if the model has a free place at this moment: the hot path."""
        if priority is not Priority.NORMAL:
            state.use_shares()
        server = state.server
        if self.closing or server is None or not self.admission.try_take_place(state, priority):
            return None
        now = self.now()
        self.energy.begin(now, self.admission.in_flight - 1)
        state.last_used = now
        self.on_detail(state.model.id)
        return self._lease(state, server, now, priority)

    def lease(self, state: ModelState, now: float, priority: Priority) -> Lease | None:
        """Return the lease for a place that was taken; ``None`` if the server is gone."""
        server = state.server
        return None if server is None else self._lease(state, server, now, priority)

    def _lease(self, state: ModelState, server: Server, now: float, priority: Priority) -> Lease:
        return Lease(
            self.release,
            state,
            server,
            now,
            state.session,
            begin=self.energy.mark,
            priority=priority,
        )

    def places(self, state: ModelState) -> Places | None:
        """Return the places at the model's present server, if it has one."""
        return None if state.server is None else Places(self, state, state.server)

    def _admit(self, state: ModelState) -> None:
        for load in self.admission.pop_loads(state):
            load.future.set_result(None)
        while (request := self.admission.pop_admitted(state)) is not None:
            # Counted now, so that nothing can slip in before the request continues.
            self.admission.take_place(state, request.arrival, request.priority)
            state.last_used = now = self.now()
            self.energy.begin(now, self.admission.in_flight - 1)
            self.on_detail(state.model.id)
            request.future.set_result(None)

    def release(self, state: ModelState, since: float, now: float) -> float:
        """Free the place that a request took at ``since``: the hot path.

        Return the mark of ``energy`` at its end.
        """
        admission = self.admission
        self.energy.end(now, admission.in_flight)
        mark = self.energy.mark
        admission.free_place(state, now - since)
        state.last_used = now
        self.on_detail(state.model.id)
        # If nobody waits and the model is not leaving, nothing can follow but its idle timeout and
        # memory readings, and in most cases the timer is set for that or for an earlier time.
        if (
            admission.waiting
            or state.leaving is not None
            or not (state.in_flight or self._timer_is_early(state))
        ):
            self.step()
        return mark

    def _timer_is_early(self, state: ModelState) -> bool:
        """Return whether the next step is not after the end of the model's idle timeout."""
        timer = self._timer
        if timer is not None and timer is state.early_timer:
            # It was early enough, and the timeout ends later now. All that could change this ends
            # with a step, which sets another timer.
            return True
        if not self._is_early(state):
            return False
        state.early_timer = timer
        return True

    def _is_early(self, state: ModelState) -> bool:
        if state.is_pinned:
            return True
        idle = idle_timeout(state, self.settings)
        if self._timer is None:
            return idle <= 0 and not self._memory_tracker.is_enabled
        return idle <= 0 or self._timer.when() <= state.last_used + idle

    # Actions

    def set_status(self, state: ModelState, status: ModelStatus) -> None:
        """Change the status and notify observers."""
        state.status = status
        state.changed.set()
        self._on_state(state.model.id)

    def set_status_without_process(self, state: ModelState) -> None:
        """Set the status of a model without a process for which nobody waits."""
        self.set_status(state, ModelStatus.FAILED if state.failure else ModelStatus.UNLOADED)

    def reset(self, state: ModelState) -> None:
        """Make it an unloaded model without failures. It must have no process."""
        state.failure, state.failures = None, Failures()
        state.plan(state.configured_spec)
        self.set_status(state, ModelStatus.UNLOADED)

    def restart_if_changed(self, state: ModelState) -> None:
        """Have a loaded model restart after its requests, if its server would be started in
        another way now."""
        reason = state.restart_reason(state.model, state.next_spec)
        if reason is not None:
            _logger.info("%s is restarted: %s", state.model.id, reason.value)
            state.leaving = reason
            state.restart = True

    def estimate(self, state: ModelState) -> None:
        """Find out what the model's next load needs, unless that is known or under way."""
        if state.server is None:
            state.plan(state.next_spec)
            if state.spec.split:
                # It depends on the memory of another box.
                state.need = None
        if state.need is None:
            self._tasks.estimate(state)

    def read_memory(self) -> asyncio.Task[None]:
        """Read the memory, unless that is under way; return the task of the reading."""
        return self._tasks.read_memory(self.states.values(), self.settings)

    def _load(self, state: ModelState) -> None:
        state.progress = None
        state.failure = None
        # It is loaded by the settings in force.
        state.restart = False
        reason = state.waiters[0].reason if state.waiters else "asked"
        before = self._memory_tracker.reading
        state.session = Session(reason, self.now(), state.model.modified, before)
        self.set_status(state, ModelStatus.LOADING)
        self._tasks.load(state, lambda: self.settings)

    def cancel_load(self, state: ModelState) -> None:
        """End a load under way; the model counts as unloading until its process is gone."""
        self.set_status(state, ModelStatus.UNLOADING)
        self._tasks.cancel_load(state)

    def unload(self, state: ModelState, reason: Reason) -> None:
        """Stop the server of a loaded model now."""
        if state.server is None:
            return
        state.stopped_on_purpose = state.server
        # Requests end first: a server stops only when it has answered them, or is killed.
        for end in tuple(state.on_forced_unload):
            end()
        if state.session is not None:
            state.session.unload_reason = reason.value
        self.set_status(state, ModelStatus.UNLOADING)
        _logger.info("%s: unloading (%s)", state.model.id, reason.value)
        self._tasks.stop(
            state,
            state.server,
            self.settings.stop_timeout,
            # A server that is started in another way cannot use them.
            keep_prompts=state.change(state.model, state.next_spec) is None,
        )

    async def close(self) -> None:
        """Stop all servers, and return when all tasks have ended."""
        for state in self.states.values():
            if state.status is ModelStatus.LOADED:
                self.unload(state, Reason.SHUTDOWN)
            elif state.status is ModelStatus.LOADING:
                self.cancel_load(state)
        self._wake_at(None)
        await self._tasks.close()

    def _refuse(self, state: ModelState, refusal: Refusal) -> None:
        """Handle a model that cannot get enough memory: reduce its context, or fail it."""
        model_id = state.model.id
        if refusal.free_at_best is not None and self._choose_context(state, refusal.free_at_best):
            _logger.info("%s gets %d tokens of context", model_id, state.spec.context_size)
            self.step()
            return
        if all(waiter.reason == "preload" for waiter in state.waiters):
            _logger.warning("%s is not preloaded: there is no room left for it", model_id)
            self.fail_all(state, ModelLoadError(f"There is no room to preload {model_id}."))
            self.reset(state)
            return
        reading = self._memory_tracker.reading
        if reading is not None and reading.gpus and self._keep_projector_back(state):
            _logger.warning(
                "%s does not fit into memory: it is tried with its projector in main memory",
                model_id,
            )
            self.step()
            return
        if refusal.free_at_best is not None and self._halve_context(state):
            _logger.warning(
                "%s does not fit into memory: it is tried with %d tokens of context",
                model_id,
                state.spec.context_size,
            )
            self.step()
            return
        error = refusal_error(
            refusal,
            list(self.states.values()),
            self._memory_tracker.reading,
            self.settings,
            need=state.need or Need(),
            lending=self._lending(model_id),
        )
        state.plan(state.configured_spec)
        _logger.warning("%s", error)
        self._fail(state, error, error)
        # A later estimate may need less.
        state.need = None

    def _keep_projector_back(self, state: ModelState) -> bool:
        """Keep the projector of the next load off the GPU, if it would go there."""
        if state.need is None or not state.need.projector:
            return False
        state.plan(state.spec.with_projector_kept_back())
        self.estimate(state)
        return True

    def _choose_context(self, state: ModelState, free: Amount) -> bool:
        """Plan the next load with the largest context that fits into ``free``, if the service
        chooses it and it has more than the least."""
        need = state.need
        if need is None or not need.smaller:
            return False
        cards = self._memory_tracker.memory.cards_for(need.visible)

        def fits(one: Need) -> bool:
            return free.covers(needed_amount(one, cards=cards, device_at_most=free.device))

        # This need does not fit: it was refused.
        self._reduce_context(state, largest_context(need.smaller, fits).context)
        return True

    def _halve_context(self, state: ModelState) -> bool:
        """Halve the context of the next load, if it is not a given number and enough is left."""
        spec, size = state.spec, state.spec.context_size or 0
        if spec.least_context is not None:
            half = max(size // 2, spec.least_context)
        else:
            half = size // 2 if self.settings.allow_smaller_context else 0
        if half < LEAST_CONTEXT or half == size:
            return False
        self._reduce_context(state, half)
        return True

    def _reduce_context(self, state: ModelState, size: int) -> None:
        state.plan(state.spec.with_context(size))
        self.estimate(state)

    # Events

    def _handle(self, event: Event) -> None:
        match event:
            case NeedEstimated(state, spec, need):
                if state.spec.signature != spec.signature:
                    self.estimate(state)
                    return
                state.need = need
            case LoadProgressed(state, progress):
                state.progress = progress
                self.on_detail(state.model.id)
                return
            case ServerReady(state, server):
                self._server_ready(state, server)
            case LoadFailed(state, error):
                self._load_failed(state, error)
            case ServerExited(state, server):
                self._server_exited(state, server)
            case ServerStopped(state):
                self._server_stopped(state)
            case MemoryRead(reading):
                self._memory_read(reading)
        self.step()

    def _server_ready(self, state: ModelState, server: Server) -> None:
        if state.status is ModelStatus.UNLOADING:
            # The load was cancelled at the moment when the server became ready.
            self._tasks.stop(state, server, self.settings.stop_timeout)
            return
        now = self.now()
        state.server = server
        state.count_places()
        state.loaded = now
        state.loaded_at = datetime.now(UTC)
        state.progress = None
        state.needs_exclusive_memory = state.retried = False
        if state.session is not None:
            seconds = state.session.load_seconds = now - state.session.began
            state.last_load = state.session.began, now
            _logger.info("%s loaded in %.2f s (pid %d)", state.model.id, seconds, server.pid)
        footprint = server.footprint()
        if footprint is None and state.need and state.need.source is NeedSource.MEASURED:
            # It was not asked to report this time.
            footprint = state.need.footprint
        self._note_footprint(state, footprint)
        state.last_used = now
        self.set_status(state, ModelStatus.LOADED)
        self.restart_if_changed(state)
        # First the policy decides which models it blocks now, then requests are admitted.
        self.step()
        self._admit(state)
        self.on_detail(state.model.id)
        if footprint is None:
            self.read_memory()

    def _memory_read(self, reading: MemoryReading | None) -> None:
        """Measure the servers that do not report what they use."""
        for state in self.states.values():
            server, session = state.server, state.session
            if not (reading and server and session) or state.footprint is not None:
                continue
            footprint = footprint_by_change(session.memory_before, reading, server.pid)
            if footprint is not None:
                self._note_footprint(state, footprint)
                self.on_detail(state.model.id)
            elif self._memory_tracker.memory.at < state.loaded:
                # That reading began before the server was ready.
                self.read_memory()

    def _note_footprint(self, state: ModelState, footprint: Footprint | None) -> None:
        """Note what a loaded model uses, for now and for the estimate of its next load."""
        state.footprint = footprint
        self._memory_tracker.server_started(state, self.now())
        if footprint is None or state.session is None or state.server is None:
            return
        if state.spec.lent_bytes:
            # What another box has asked for is no measurement.
            return
        self._load_history.learn(
            Measurement(
                signature=state.spec.signature,
                model=state.model.id,
                footprint=footprint,
                context_size=state.server.context_size,
                load_seconds=state.session.load_seconds,
                size_bytes=state.model.size_bytes,
                at=datetime.now(UTC),
            )
        )

    def _load_failed(self, state: ModelState, error: CyberError) -> None:
        if state.status is ModelStatus.UNLOADING:
            # The load was cancelled; how it ended does not matter.
            _logger.info("%s", error)
            self._server_stopped(state)
            return
        if state.session is not None:
            state.last_load = state.session.began, self.now()
        state.session = None
        state.progress = None
        self._memory_tracker.server_ended(state, self.now())
        if self._retry(state, error):
            return
        state.needs_exclusive_memory = state.retried = False
        if isinstance(error, ModelLoadError) and error.out_of_memory and not self._evictable():
            # It had all the memory that models can have.
            error.needs_person = True
        self._count_failure(state)
        _logger.warning("%s", error)
        self._fail(state, error, error)

    def _retry(self, state: ModelState, error: CyberError) -> bool:
        """Queue a model that ran out of memory once more: after others have made room, with its
        projector in main memory, or with less context where the settings allow that."""
        if not (isinstance(error, ModelLoadError) and error.out_of_memory):
            return False
        others = () if state.retried else self._evictable()
        if others:
            state.needs_exclusive_memory = state.retried = True
            how = f"when {', '.join(others)} made room"
        elif self._keep_projector_back(state):
            how = "with its projector in main memory"
        elif not state.retried and self._halve_context(state):
            state.retried = True
            how = f"with {state.spec.context_size:,} tokens of context"
        else:
            return False
        _logger.warning("%s It is tried once more %s.", error, how)
        self._requeue(state)
        return True

    def _evictable(self) -> list[str]:
        """Return the ids of the loaded models that may be evicted."""
        return sorted(
            state.model.id
            for state in self.states.values()
            if state.status is ModelStatus.LOADED and not state.is_pinned
        )

    def _server_exited(self, state: ModelState, server: Server) -> None:
        if state.server is not server or state.status is not ModelStatus.LOADED:
            return
        reason, log_tail = server.exit_reason()
        session, failures = state.session, state.failures
        if session is not None:
            session.lost = session.unanswered
        if (session is not None and session.answered) or self.now() - state.loaded >= STABLE_AFTER:
            failures.count = 0
            failures.excused = False
        # A request that was lost before has most likely killed this server, too. That is excused
        # once, so that one bad request does not delay the others. A server that never works dies
        # more often.
        counts = failures.excused or session is None or not session.retries
        failures.excused = failures.excused or not counts
        error = ModelLoadError(
            f"{state.model.id} stopped: {reason}.",
            log_tail=log_tail,
            server_exit=server.exited.result() if server.exited.done() else None,
        )
        self._forget_server(state, f"stopped: {reason}")
        self._count_failure(state, counts=counts)
        _logger.warning("%s stopped: %s", state.model.id, reason)
        pause = failures.retry_at - self.now()
        # If it keeps dying, requests in the queue get the same error as new ones: they do not
        # wait for the end of the backoff.
        self._fail(state, error, retry_later_error(error, pause) if pause > 0 else None)
        if state.waiters:
            self._requeue(state)

    def _count_failure(self, state: ModelState, *, counts: bool = True) -> None:
        """Set the time of the next try, which is later after each failure that ``counts``."""
        state.failures.count += counts
        state.failures.retry_at = self.now() + retry_delay(state.failures.count)

    def _fail(self, state: ModelState, error: CyberError, for_queue: CyberError | None) -> None:
        """Fail the model with ``error``, and its queue with ``for_queue``; ``None`` keeps it.

        The queue comes first, so that the record of a failed model has none.
        """
        state.failure = error
        state.failures.conditions = load_conditions(state, self.settings)
        if for_queue is not None:
            self.fail_all(state, for_queue)
        self.set_status(state, ModelStatus.FAILED)

    def _requeue(self, state: ModelState) -> None:
        """Queue a model without a process again, if somebody waits for it."""
        if state.waiters:
            self.set_status(state, ModelStatus.QUEUED)
            self.estimate(state)
        else:
            self.set_status_without_process(state)

    def _server_stopped(self, state: ModelState) -> None:
        self._forget_server(state, state.session.unload_reason if state.session else "")
        state.progress = None
        state.failures.count = 0
        restart, state.restart = state.restart and not self.closing, False
        if not restart:
            state.plan(state.configured_spec)
        if state.waiters and not self.closing:
            self.set_status(state, ModelStatus.QUEUED)
            self.estimate(state)
            return
        self.set_status(state, ModelStatus.UNLOADED)
        if restart:
            self.request_load(state, "restart")

    def _forget_server(self, state: ModelState, unload_reason: str) -> None:
        record = session_record(state, unload_reason)
        if state.server is not None:
            # The memory that it used is known better now than before its load.
            state.need = None
        state.session = state.server = state.loaded_at = state.footprint = None
        state.asked_idle_timeout = None
        state.count_places()
        state.leaving = state.admit_before = None
        self._memory_tracker.server_ended(state, self.now())
        if record is not None:
            self._on_session(record)


def _was_admitted(future: asyncio.Future[None]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None
