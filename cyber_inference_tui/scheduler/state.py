"""What the scheduler knows of each model, and what requests and servers are to it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Protocol, Self

from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.llama.needs import Footprint, LoadWatch, Need
from cyber_inference_tui.llama.spec import ServerSpec
from cyber_inference_tui.monitor.memory_reading import MemoryReading
from cyber_inference_tui.records import ModelStatus
from cyber_inference_tui.scheduler.estimates import Estimator
from cyber_inference_tui.scheduler.memory import Amount
from cyber_inference_tui.scheduler.views import ModelView, Reason
from cyber_inference_tui.settings.schema import Settings, effective


class Server(Protocol):
    """A loaded model's process, as the scheduler needs it."""

    port: int
    pid: int
    exited: asyncio.Future[int]
    """Done when the process and all that it started are gone."""
    context_size: int | None
    """Tokens of context it was started with; ``None`` = its own affair."""

    argv: tuple[str, ...]
    """Its command line."""
    slots: int | None
    """Requests it answers at once; ``None`` = it does not say."""
    context_length: int | None
    """Tokens of context that one request may use; ``None`` = it does not say."""
    most_requests: int | None
    """Requests it takes at once, those that wait for a slot included; ``None`` = no limit."""

    def footprint(self) -> Footprint | None:
        """What it says it took of the memory; ``None`` = it does not say."""

    async def stop(self, timeout: float) -> int:
        """End it; return when the process is gone."""

    def declare_hung(self, reason: str) -> None:
        """It does not do its work any more: kill it, and give ``reason`` for its end."""

    def exit_reason(self) -> tuple[str, tuple[str, ...]]:
        """After its end: why, in plain words, and its last log lines."""


class ServerLauncher(Estimator, Protocol):
    """Starts servers: ready ones, or a ``CyberError`` with nothing left behind."""

    async def launch(
        self,
        spec: ServerSpec,
        settings: Settings,
        progress: Callable[[float | None], None],
        *,
        measure: bool = True,
        busy: Callable[[], bool] = lambda: False,
        watch: LoadWatch | None = None,
    ) -> Server:
        """Return a server that answers requests.

        With ``measure`` it should tell what it takes of the memory; ``busy`` tells whether it has
        requests, now and later. ``watch`` runs until it is ready and may end the load.
        """


class MemoryReader(Protocol):
    """Reads the machine's memory and what these processes (with their children) hold of it."""

    async def __call__(self, pids: Collection[int], /) -> MemoryReading | None:
        """``None`` = the machine does not tell."""


class Waiter:
    """Somebody who waits for a model: a request, or an explicit load (which takes no place)."""

    __slots__ = ("arrival", "future", "reason", "since", "takes_place")

    def __init__(
        self,
        future: asyncio.Future[None],
        *,
        arrival: int,
        since: float,
        takes_place: bool,
        reason: str,
    ) -> None:
        self.future = future
        self.arrival = arrival
        """Its number over all models, in order of arrival."""
        self.since = since
        self.takes_place = takes_place
        self.reason = reason
        """Why it wants the model loaded: ``request``, ``asked``, ``preload`` or ``restart``."""


class Session:
    """What is counted from a model's load to its unload."""

    def __init__(self, load_reason: str, began: float, modified: int | None = None) -> None:
        self.load_reason = load_reason
        self.modified = modified
        """Of the model's files when the load began."""
        self.began = began
        """When the load began, by the scheduler's clock."""
        self.load_seconds = 0.0
        self.requests = 0
        self.tokens_in = 0
        self.tokens_out = 0
        self.answered = False
        """Its server has answered a request."""
        self.again = 0
        """Requests in flight that were lost already, with another server."""
        self.unanswered = 0
        """Requests that were sent to the server and have nothing of an answer."""
        self.lost = 0
        """``unanswered`` when the server died."""


@dataclass(slots=True)
class Trouble:
    """How often a model failed in a row, and how long it is let rest for that."""

    failures: int = 0
    excused: bool = False
    """One of ``failures`` was put down to a request."""
    retry_at: float = 0.0
    conditions: object = None
    """Of the last failure: when they have changed, the next try may succeed."""


class ModelState:
    """One model's present state. Read it anywhere on the loop; only the scheduler writes it."""

    def __init__(self, model: LocalModel, spec: ServerSpec) -> None:
        self.model = model
        self.wanted = spec
        """How its server would be started by the settings now."""
        self.spec = spec
        """How its server was started; without a server, how the next one will be."""
        self.status = ModelStatus.UNLOADED
        self.progress: float | None = None
        self.server: Server | None = None
        self.dismissed: Server | None = None
        """The last server that was ended by choice; one that died by itself never is."""
        self.on_forced_unload: set[Callable[[], None]] = set()
        """Called when its server is dismissed with requests still there: each ends one."""
        self.in_flight = 0
        self.waiters: deque[Waiter] = deque()
        self.leaving: Reason | None = None
        """Why it is to go as soon as its requests have ended."""
        self.restart = False
        """When it has gone it is loaded again."""
        self.closed_to: int | None = None
        """Requests that came after this arrival are not let in: it is to make room for another."""
        self.overtaken = 0
        """Later requests for other models that were let in while its oldest one waits."""
        self.pinned: bool | None = None
        """Set by a person at run time; ``None`` = as configured."""
        self.last_used = 0.0
        self.loaded = 0.0
        self.loaded_at: datetime | None = None
        self.last_used_at: datetime | None = None
        self.failure: CyberError | None = None
        self.trouble = Trouble()
        self.task: asyncio.Task[None] | None = None
        """The load or unload under way."""
        self.settled = asyncio.Event()
        """Set when ``status`` changes or somebody leaves; who waits clears it and looks again."""
        self.need: Need | None = None
        """What a load by ``spec`` is expected to take; ``None`` = not asked yet."""
        self.sizing: asyncio.Task[None] | None = None
        """Finds out ``need``."""
        self.alone = False
        """It ran out of memory beside others: they make room before the next try."""
        self.tried_again = False
        """The one more try after running out of memory has been used."""
        self.footprint: Footprint | None = None
        """What it took when it was loaded."""
        self.gives = Amount()
        """What its end brings back."""
        self.session: Session | None = None
        self.request_seconds: float | None = None
        """How long its requests take, the latest weighing most."""

    @property
    def next_spec(self) -> ServerSpec:
        """How its server would be started now."""
        return self.limit(self.wanted)

    def limit(self, spec: ServerSpec) -> ServerSpec:
        """This spec with no more context than memory held the last time."""
        limit, asked = self.spec.context_size, spec.context_size
        if self.spec.limited and limit is not None and asked is not None:
            return spec.with_context(min(limit, asked))
        return spec

    def plan(self, spec: ServerSpec) -> None:
        """Have the next server be started so; what that needs is to be found out."""
        if spec.signature != self.spec.signature:
            self.need = None
        self.spec = spec

    def restart_reason(self, model: LocalModel, spec: ServerSpec) -> Reason | None:
        """Why it would restart if it became this model with this spec; ``None`` = it would not."""
        if self.status is not ModelStatus.LOADED or self.leaving is not None:
            return None
        if spec.signature != self.spec.signature:
            return Reason.SETTINGS
        if self.session is not None and self.session.modified != model.modified:
            return Reason.FILES
        return None

    @property
    def is_at_rest(self) -> bool:
        """It has no process, and nobody waits for one."""
        return self.status in {ModelStatus.UNLOADED, ModelStatus.FAILED}

    @property
    def is_pinned(self) -> bool:
        """Never evicted, never idled out."""
        return self.model.settings.pinned if self.pinned is None else self.pinned

    @property
    def queued(self) -> int:
        """Requests that wait for it (explicit loads not counted)."""
        return sum(waiter.takes_place for waiter in self.waiters)


def idle_timeout(state: ModelState, settings: Settings) -> float:
    """Seconds without a request until it is unloaded; 0 = never."""
    return float(effective(state.model.settings, settings, "idle_timeout"))


def load_conditions(state: ModelState, settings: Settings) -> object:
    """Everything that decides whether a load succeeds, as a value to compare."""
    model = state.model
    return (
        state.wanted.signature,
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
    """What the policy sees of it. ``load_seconds`` = what its load takes, if that is known."""
    waits = state.waiters[0] if state.waiters else None
    return ModelView(
        id=state.model.id,
        status=state.status,
        in_flight=state.in_flight,
        waiting=len(state.waiters),
        arrival=waits.arrival if waits else 0,
        waiting_since=waits.since if waits else 0.0,
        overtaken=state.overtaken,
        last_used=state.last_used,
        idle_timeout=idle_timeout(state, settings),
        pinned=state.is_pinned,
        leaving=state.leaving,
        closed_to=state.closed_to,
        need=state.need,
        modest=all(waiter.reason == "preload" for waiter in state.waiters),
        alone=state.alone,
        load_seconds=load_seconds or 0.0,
        gives=state.gives,
    )


class Lease:
    """A request's place at a loaded model: it will not be unloaded until ``release``."""

    __slots__ = (
        "_again",
        "_released",
        "_server",
        "_session",
        "_since",
        "_state",
        "_waits",
        "_was_sent",
        "port",
    )

    def __init__(
        self,
        released: Callable[[ModelState, float], None],
        state: ModelState,
        server: Server,
        since: float,
    ) -> None:
        self._released: Callable[[ModelState, float], None] | None = released
        self._state = state
        self._server = server
        self._since = since
        self._session = state.session
        self._again = False
        self._waits = self._was_sent = False
        self.port = server.port

    @property
    def model_id(self) -> str:
        """The model that serves this request."""
        return self._state.model.id

    @property
    def server(self) -> Server:
        """The server behind this lease, dead or alive."""
        return self._server

    @property
    def dismissed(self) -> bool:
        """Whether its server was ended by choice (by force, if a request was still there)."""
        return self._state.dismissed is self._server

    def at_dismissal(self, end: Callable[[], None]) -> None:
        """Have ``end`` called should the model be unloaded by force, until ``stays``."""
        self._state.on_forced_unload.add(end)

    def stays(self, end: Callable[[], None]) -> None:
        """``end`` need not be called any more."""
        self._state.on_forced_unload.discard(end)

    @property
    def server_exited(self) -> bool:
        """Whether the server behind this lease is gone."""
        return self._server.exited.done()

    async def wait_exited(self, timeout: float) -> None:
        """Wait at most ``timeout`` seconds for the end of the server."""
        await asyncio.wait({self._server.exited}, timeout=timeout)

    def failure(self) -> str:
        """Why the server is gone, in plain words."""
        return self._server.exit_reason()[0]

    def declare_hung(self, reason: str) -> None:
        """Its server answers nobody any more: end it. ``reason`` says what it does not do."""
        if not self._server.exited.done():
            self._server.declare_hung(reason)

    def count(self, tokens_in: int | None, tokens_out: int | None) -> None:
        """Add a request's tokens to what the model did since it was loaded."""
        session = self._state.session
        if session is not None and self._state.server is self._server:
            session.tokens_in += tokens_in or 0
            session.tokens_out += tokens_out or 0

    def again(self) -> None:
        """The request was lost already: a server that dies with it is not to blame."""
        if self._session is not None and not self._again:
            self._again = True
            self._session.again += 1

    async def wait_alone(self, timeout: float) -> None:
        """Wait until all other requests at the server have begun to be answered, or until it is
        gone; at most ``timeout`` seconds."""
        state, session = self._state, self._session
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while session is not None and session.unanswered and not self.server_exited:
                    state.settled.clear()
                    await state.settled.wait()

    def sent(self) -> None:
        """The request goes to the server now."""
        if self._session is not None and not (self._was_sent or self.server_exited):
            self._was_sent = self._waits = True
            self._session.unanswered += 1

    def begun(self) -> None:
        """Its answer has begun, or will never."""
        if self._session is not None and self._waits:
            self._waits = False
            self._session.unanswered -= 1
            if not self._session.unanswered:
                self._state.settled.set()

    @property
    def was_alone(self) -> bool:
        """Whether no other request waited for an answer when the server died with this one."""
        return self._was_sent and self._session is not None and self._session.lost == 1

    def answered(self) -> None:
        """The request has its answer: a server that dies later is not one that never works."""
        session = self._state.session
        if session is not None and self._state.server is self._server:
            session.answered = True

    def release(self) -> None:
        """The last byte is through (or the request is over in another way). Once counts."""
        released, self._released = self._released, None
        if released is not None:
            self.begun()
            if self._again and self._session is not None:
                self._session.again -= 1
            released(self._state, self._since)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()
