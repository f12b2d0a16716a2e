"""The state of one model: its server, its queue and its failures."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import inf

from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.llama.needs import Footprint, Need
from cyber_inference_tui.llama.spec import ServerSpec
from cyber_inference_tui.monitor.memory_reading import MemoryReading
from cyber_inference_tui.records import ModelStatus, Priority, SessionRecord
from cyber_inference_tui.scheduler.free_memory import Amount
from cyber_inference_tui.scheduler.server_interface import Server
from cyber_inference_tui.scheduler.shares import Shares, highest
from cyber_inference_tui.scheduler.views import ModelView, Reason
from cyber_inference_tui.settings.schema import Settings


class Waiter:
    """A request that waits for a model, or an explicit load, which takes no place."""

    __slots__ = ("arrival", "future", "passed", "priority", "reason", "since", "takes_place")

    def __init__(
        self,
        future: asyncio.Future[None],
        *,
        arrival: int,
        since: float,
        takes_place: bool,
        reason: str,
        priority: Priority = Priority.NORMAL,
    ) -> None:
        self.future = future
        self.arrival = arrival
        """The number in the order of arrival over all models."""
        self.since = since
        self.takes_place = takes_place
        self.reason = reason
        """The reason for a load: ``request``, ``asked``, ``preload`` or ``restart``."""
        self.priority = priority
        self.passed = 0.0
        """The model's ``passed`` when it arrived."""


class Session:
    """The counts of a model from its load to its unload."""

    def __init__(
        self,
        load_reason: str,
        began: float,
        modified: int | None = None,
        memory_before: MemoryReading | None = None,
    ) -> None:
        self.load_reason = load_reason
        self.unload_reason = ""
        """Set when the unload begins."""
        self.modified = modified
        """The modification time of the model's files when the load began."""
        self.memory_before = memory_before
        """The last reading of the memory before the load."""
        self.began = began
        """The time when the load began, by the scheduler's clock."""
        self.load_seconds = 0.0
        self.requests = 0
        self.tokens_in = 0
        self.tokens_out = 0
        self.answered = False
        """The server has answered a request."""
        self.retries = 0
        """Requests in flight that were lost with a former server."""
        self.unanswered = 0
        """Requests that were sent to the server and have received nothing yet."""
        self.lost = 0
        """``unanswered`` when the server died."""


@dataclass(slots=True)
class Failures:
    """The failures of a model in a row, and the pause that they cause."""

    count: int = 0
    excused: bool = False
    """One failure was blamed on a request."""
    retry_at: float = 0.0
    conditions: object = None
    """``load_conditions`` at the last failure; after a change of them a load may succeed."""


class ModelState:
    """The present state of one model.

    Anything on the event loop may read it. Only the scheduler writes it.
    """

    early_timer: asyncio.TimerHandle | None = None
    """A timer of the scheduler that is not after the end of the idle timeout."""
    asked_idle_timeout: float | None = None
    """The idle timeout that the last request asked for; 0 = never. ``None`` = as configured."""
    last_load: tuple[float, float] = (0.0, 0.0)
    """The beginning and the end of its last load, by the scheduler's clock."""
    shares: Shares | None = None
    """The shares of the priorities, once a request with another priority than normal has come.

    From then on requests wait here and not in the server, which knows no priorities.
    """

    def __init__(self, model: LocalModel, spec: ServerSpec, asked_requests: int = 0) -> None:
        self.model = model
        self.configured_spec = spec
        """The specification by the settings in force."""
        self.spec = spec
        """The specification of the server, or of the next one."""
        self.asked_requests = asked_requests
        """The number of requests at once by the settings; 0 = as many as the server accepts."""
        self.places: float = asked_requests or inf
        """The number of requests that its server gets at once; ``inf`` = no limit.

        This is ``max_concurrent_requests``, but never more than the server accepts, and with
        ``shares`` no more than its slots.
        """
        self.status = ModelStatus.UNLOADED
        self.progress: float | None = None
        self.server: Server | None = None
        self.stopped_on_purpose: Server | None = None
        """The last server that the scheduler stopped; not set for a server that died."""
        self.on_forced_unload: set[Callable[[], None]] = set()
        """Functions to call when the server is stopped although it has requests: they end them."""
        self.in_flight = 0
        self.waiters: deque[Waiter] = deque()
        self.leaving: Reason | None = None
        """The reason to unload it as soon as its requests have ended."""
        self.restart = False
        """Load it again after it was unloaded."""
        self.admit_before: int | None = None
        """Only requests up to this arrival are admitted, to make room for another model."""
        self.passed = 0.0
        """Requests for other models that were admitted before earlier ones that waited here.

        One counts as many times as its weight is contained in that of the highest priority here.
        """
        self.pinned: bool | None = None
        """The pin that was set at run time; ``None`` = as configured."""
        self.last_used = 0.0
        self.loaded = 0.0
        self.loaded_at: datetime | None = None
        self._last_used_at: tuple[float, datetime | None] = (0.0, None)
        """``last_used`` when ``last_used_at`` was last asked for, and the answer."""
        self.failure: CyberError | None = None
        self.failures = Failures()
        self.changed = asyncio.Event()
        """Set when ``status`` changes or a request leaves; a reader clears it and looks again."""
        self.need: Need | None = None
        """The memory that a load by ``spec`` needs; ``None`` = not estimated yet."""
        self.needs_exclusive_memory = False
        """It ran out of memory beside others, which make room before the next try."""
        self.retried = False
        """The retry after running out of memory has been used."""
        self.footprint: Footprint | None = None
        """The memory that the server used when it was ready."""
        self.freed_on_unload = Amount()
        self.session: Session | None = None
        self.request_seconds: float | None = None
        """The moving average of the duration of its requests."""

    @property
    def next_spec(self) -> ServerSpec:
        """The specification of a server that is started now."""
        return self.limit(self.configured_spec)

    def limit(self, spec: ServerSpec) -> ServerSpec:
        """Return ``spec`` with no more than memory allowed at the last load."""
        if self.spec.projector_kept_back and spec.projector is not None:
            spec = spec.with_projector_kept_back()
        limit, asked = self.spec.context_size, spec.context_size
        # A size that is asked for now is not limited by one that was chosen, and vice versa.
        alike = self.spec.least_context == spec.least_context
        if self.spec.limited and alike and limit is not None and asked is not None:
            return spec.with_context(min(limit, asked))
        return spec

    def plan(self, spec: ServerSpec) -> None:
        """Use ``spec`` for the next server; if it differs, forget the estimate of its memory."""
        if spec.signature != self.spec.signature:
            self.need = None
        self.spec = spec

    def restart_reason(self, model: LocalModel, spec: ServerSpec) -> Reason | None:
        """Return why this model with this spec would be restarted; ``None`` if it would not."""
        if self.status is not ModelStatus.LOADED or self.leaving is not None:
            return None
        return self.change(model, spec)

    def change(self, model: LocalModel, spec: ServerSpec) -> Reason | None:
        """Return what differs between its server and one for this model with this spec."""
        if spec.signature != self.spec.signature:
            return Reason.SETTINGS
        if self.session is not None and self.session.modified != model.modified:
            return Reason.FILES
        return None

    @property
    def has_no_process(self) -> bool:
        """True if it has no process and nobody waits for a load."""
        return self.status in {ModelStatus.UNLOADED, ModelStatus.FAILED}

    @property
    def is_pinned(self) -> bool:
        """True if it is never evicted and has no idle timeout."""
        return self.model.settings.pinned if self.pinned is None else self.pinned

    @property
    def overtaken(self) -> float:
        """The number of admissions of others before the oldest request, at most."""
        return self.passed - self.waiters[0].passed if self.waiters else 0.0

    @property
    def requests(self) -> list[Waiter]:
        """The requests that wait for it, without explicit loads, in the order of arrival."""
        return [waiter for waiter in self.waiters if waiter.takes_place]

    @property
    def queued(self) -> int:
        """The number of ``requests``."""
        return len(self.requests)

    @property
    def waiting_priority(self) -> Priority:
        """The highest priority of those that wait for it."""
        if self.shares is None:
            return Priority.NORMAL
        return highest(waiter.priority for waiter in self.waiters)

    @property
    def priority(self) -> Priority:
        """The highest priority of all that wait for it or run."""
        if self.shares is None:
            return Priority.NORMAL
        running = self.shares.running(self.in_flight)
        return highest(running.union(waiter.priority for waiter in self.waiters))

    def loading_seconds(self, since: float, now: float) -> float:
        """Return the seconds between these times that belong to its present or its last load."""
        began, ended = self.last_load
        if self.status is ModelStatus.LOADING and self.session is not None:
            began, ended = self.session.began, now
        return max(0.0, min(ended, now) - max(began, since))

    def use_shares(self) -> None:
        """Share the places by priority from now on."""
        if self.shares is None:
            self.shares = Shares()
            self.count_places()

    def count_places(self) -> None:
        """Set ``places`` after a change of what they depend on."""
        places = self.asked_requests or inf
        if self.server is not None:
            accepts = self.server.most_requests
            slots = None if self.shares is None else self.server.slots
            places = min(places, accepts or inf, slots or inf)
        self.places = places

    @property
    def last_used_at(self) -> datetime | None:
        """The date of ``last_used``; ``None`` if it was never used."""
        # Requests note the loop's time only, and the date is found when somebody asks.
        used, at = self._last_used_at
        if used != self.last_used:
            past = asyncio.get_running_loop().time() - self.last_used
            at = datetime.now(UTC) - timedelta(seconds=past)
            self._last_used_at = self.last_used, at
        return at


def idle_timeout(state: ModelState, settings: Settings) -> float:
    """Return the seconds without a request after which it is unloaded; 0 = never."""
    # Asked after every request, so not by way of ``effective``.
    if state.asked_idle_timeout is not None:
        return state.asked_idle_timeout
    own = state.model.settings.idle_timeout
    return settings.model_idle_timeout if own is None else own


def load_conditions(state: ModelState, settings: Settings) -> object:
    """Return everything that decides whether a load succeeds, as a value to compare."""
    model = state.model
    return (
        state.configured_spec.signature,
        state.configured_spec.confined,
        model.modified,
        model.problem,
        None if model.settings.command else settings.llama_server_path,
        settings.load_timeout,
        settings.max_loaded_models,
        settings.max_memory_percent,
        settings.max_gpu_memory_percent,
        settings.allow_smaller_context,
    )


def view_of(state: ModelState, settings: Settings, load_seconds: float | None) -> ModelView:
    """Return the policy's view of the model; ``load_seconds`` is ``None`` if unknown."""
    oldest = state.waiters[0] if state.waiters else None
    return ModelView(
        id=state.model.id,
        status=state.status,
        in_flight=state.in_flight,
        waiting=len(state.waiters),
        arrival=oldest.arrival if oldest else 0,
        waiting_since=oldest.since if oldest else 0.0,
        overtaken=state.overtaken,
        priority=state.priority,
        last_used=state.last_used,
        idle_timeout=idle_timeout(state, settings),
        pinned=state.is_pinned,
        leaving=state.leaving,
        admit_before=state.admit_before,
        need=state.need,
        only_if_free=all(waiter.reason == "preload" for waiter in state.waiters),
        needs_exclusive_memory=state.needs_exclusive_memory,
        load_seconds=load_seconds or 0.0,
        freed_on_unload=state.freed_on_unload,
    )


def session_record(state: ModelState, unload_reason: str | None = None) -> SessionRecord | None:
    """Return the record of the session, ended if there is a reason; ``None`` if not loaded."""
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
