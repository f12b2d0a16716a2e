"""What the scheduler knows of each model, and what requests and servers are to it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from datetime import datetime
from types import TracebackType
from typing import Protocol, Self

from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.records import ModelStatus
from cyber_inference_tui.settings.schema import Settings


class Server(Protocol):
    """A loaded model's process, as the scheduler needs it."""

    port: int
    pid: int
    exited: asyncio.Future[int]

    async def stop(self, timeout: float) -> int:
        """End it; return when the process is gone."""

    def obituary(self) -> tuple[str, tuple[str, ...]]:
        """After its end: why, in plain words, and its last log lines."""

    def declare_hung(self, reason: str) -> None:
        """It does not answer any more: kill it. ``reason`` says what it does, or does not do."""


class ServerLauncher(Protocol):
    """Starts servers: ready ones, or a ``CyberError`` with nothing left behind."""

    async def launch(
        self,
        model: LocalModel,
        settings: Settings,
        progress: Callable[[float | None], None],
    ) -> Server:
        """A server that answers requests."""


class Waiter:
    """Somebody who waits for a model: a request, or an explicit load (which takes no place)."""

    __slots__ = ("future", "since", "takes_place")

    def __init__(self, future: asyncio.Future[None], since: float, takes_place: bool) -> None:
        self.future = future
        self.since = since
        self.takes_place = takes_place


class ModelState:
    """One model's present state. Read it anywhere on the loop; only the scheduler writes it."""

    def __init__(self, model: LocalModel) -> None:
        self.model = model
        self.status = ModelStatus.UNLOADED
        self.progress: float | None = None
        self.server: Server | None = None
        self.dismissed: Server | None = None
        """The last server that was ended by choice; one that died by itself never is."""
        self.session_tokens_in = 0
        self.session_tokens_out = 0
        """Tokens of the requests since it was loaded, as far as their servers told."""
        self.in_flight = 0
        self.waiters: deque[Waiter] = deque()
        self.leaving = False
        """Somebody asked to unload it."""
        self.draining = False
        """It gets no new requests, so that it can make room for another model."""
        self.pinned: bool | None = None
        """Set by a person at run time; ``None`` = as configured."""
        self.last_used = 0.0
        self.loaded = 0.0
        self.loaded_at: datetime | None = None
        self.last_used_at: datetime | None = None
        self.failure: CyberError | None = None
        self.failures = 0
        self.retry_at = 0.0
        self.task: asyncio.Task[None] | None = None
        """The load or unload under way."""
        self.settled = asyncio.Event()
        """Set when ``status`` changes or somebody leaves; who waits clears it and looks again."""

    @property
    def is_pinned(self) -> bool:
        """Never evicted, never idled out."""
        return self.model.settings.pinned if self.pinned is None else self.pinned

    @property
    def queued(self) -> int:
        """Requests that wait for it (explicit loads not counted)."""
        return sum(waiter.takes_place for waiter in self.waiters)


class Lease:
    """A request's place at a loaded model: it will not be unloaded until ``release``."""

    __slots__ = ("_released", "_server", "_state", "port")

    def __init__(
        self, released: Callable[[ModelState], None], state: ModelState, server: Server
    ) -> None:
        self._released: Callable[[ModelState], None] | None = released
        self._state = state
        self._server = server
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

    @property
    def server_exited(self) -> bool:
        """Whether the server behind this lease is gone."""
        return self._server.exited.done()

    async def wait_exited(self, timeout: float) -> None:
        """Wait at most ``timeout`` seconds for the end of the server."""
        await asyncio.wait({self._server.exited}, timeout=timeout)

    def declare_hung(self, reason: str) -> None:
        """Its server answers nobody any more: end it. ``reason`` says what it does not do."""
        if not self._server.exited.done():
            self._server.declare_hung(reason)

    def failure(self) -> str:
        """Why the server is gone, in plain words."""
        return self._server.obituary()[0]

    def count(self, tokens_in: int | None, tokens_out: int | None) -> None:
        """Add to the tokens of the session; ``None`` = not known."""
        self._state.session_tokens_in += tokens_in or 0
        self._state.session_tokens_out += tokens_out or 0

    def release(self) -> None:
        """The last byte is through (or the request is over in another way). Once counts."""
        released, self._released = self._released, None
        if released is not None:
            released(self._state)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()
