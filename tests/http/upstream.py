"""Models' servers as raw sockets, so that they can fail at any byte."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.gguf.chat_template import TemplateFacts
from cyber_inference_tui.http.forward import Forwarder
from cyber_inference_tui.library.catalog import Catalog, LocalModel
from cyber_inference_tui.llama.http_get import ServerAddress
from cyber_inference_tui.llama.needs import Footprint, Need
from cyber_inference_tui.llama.spec import ServerSpec
from cyber_inference_tui.records import ActiveRequestRecord, RequestRecord
from cyber_inference_tui.scheduler.scheduler import Scheduler
from cyber_inference_tui.service.active_requests import ActiveRequests
from cyber_inference_tui.service.finished_requests import FinishedRequests
from cyber_inference_tui.service.metric_counters import Noted
from cyber_inference_tui.service.models import Models
from cyber_inference_tui.service.service import Service
from cyber_inference_tui.settings.schema import Settings
from tests.fakes.service import FakeService, Front, serving
from tests.scheduler.virtual import model


class Got:
    """A request that reached the server."""

    def __init__(self, head: bytes, body: bytes) -> None:
        first, *lines = head.decode("latin-1").split("\r\n")
        self.method, self.target, _ = first.split(" ")
        self.headers = {
            name.lower(): value.strip() for name, _, value in (one.partition(":") for one in lines)
        }
        self.body = body


class Talk:
    """A connection to the server, to read requests and write any bytes."""

    def __init__(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.number = number
        self.reader = reader
        self.writer = writer

    async def request(self) -> Got:
        """Read the next request. Raises ``IncompleteReadError`` if the peer is gone."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        got = Got(head[:-4], b"")
        got.body = await self.reader.readexactly(int(got.headers.get("content-length", "0")))
        return got

    async def say(self, *parts: bytes) -> None:
        """Write and flush."""
        for part in parts:
            self.writer.write(part)
        await self.writer.drain()

    def reset(self) -> None:
        """Abort the connection."""
        self.writer.transport.abort()


Script = Callable[[Talk], Awaitable[None]]


def answer(*lines: str, body: bytes = b"", status: str = "200 OK") -> bytes:
    """Return a response. Adds a Content-Length if ``lines`` has none."""
    head = [f"HTTP/1.1 {status}", *lines]
    if not any(line.lower().startswith(("content-length", "transfer")) for line in lines):
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body


EVENTS = "Content-Type: text/event-stream", "Transfer-Encoding: chunked"


def event(text: str) -> bytes:
    """Return a chunk with an event."""
    data = f"data: {text}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST = b"0\r\n\r\n"


class Recorder:
    """Answers every request with the same bytes, and keeps the requests."""

    def __init__(self, reply: bytes = answer(body=b"{}")) -> None:
        self.reply = reply
        self.seen: list[Got] = []

    async def __call__(self, talk: Talk) -> None:
        while True:
            self.seen.append(await talk.request())
            await talk.say(self.reply)


class FakeServer:
    """A model's server for the scheduler."""

    def __init__(self, address: ServerAddress) -> None:
        self.address = address
        self.pid = 1
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.hung: str | None = None
        self.context_size: int | None = None
        self.argv: tuple[str, ...] = ("llama-server",)
        self.slots: int | None = None
        self.context_length: int | None = None
        self.template: TemplateFacts | None = None
        self.most_requests: int | None = None
        self.lingers: asyncio.Event | None = None
        """Set to let it exit."""

    def footprint(self) -> Footprint | None:
        return None

    async def stop(self, timeout: float, *, keep_prompts: bool = True) -> int:
        if self.lingers is not None:
            await self.lingers.wait()
        if not self.exited.done():
            self.exited.set_result(0)
        return 0

    def exit_reason(self) -> tuple[str, tuple[str, ...]]:
        return "its server was killed by SIGSEGV", ("last words",)

    def declare_hung(self, reason: str) -> None:
        self.hung = reason
        if not self.exited.done():
            self.exited.set_result(-9)


class FakeLauncher:
    """Loads a model when the test allows it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: CyberError | None = None
        self.servers: list[FakeServer] = []
        self.progress: Callable[[float | None], None] = lambda value: None

    @property
    def address(self) -> ServerAddress:
        """The address of the server."""
        return ServerAddress("127.0.0.1", self.port, "server-key")

    async def need(self, spec: ServerSpec, *, ask_engine: bool = True) -> Need:
        return Need()

    async def launch(
        self,
        spec: ServerSpec,
        settings: Settings,
        progress: Callable[[float | None], None],
        *,
        measure: bool = True,
        busy: Callable[[], bool] = lambda: False,
        watch: object = None,
    ) -> FakeServer:
        self.progress = progress
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        self.servers.append(FakeServer(self.address))
        return self.servers[-1]


class World:
    """The front, the forwarder, the scheduler, and their script."""

    def __init__(
        self,
        front: Front,
        scheduler: Scheduler,
        launcher: FakeLauncher,
        records: list[RequestRecord],
    ) -> None:
        self.records = records
        self.active: Callable[[], list[ActiveRequestRecord]] = list
        """Returns the records of the running requests."""
        self.on_request = records.append
        self.refusals: list[tuple[RequestRecord, str]] = []
        """The recorded refusals, with the codes of their errors."""
        self.codes: list[str | None] = []
        self.front = front
        self.scheduler = scheduler
        self.launcher = launcher
        self.connections = 0


class _Models(Models):
    # A property of the real one, so the class has to have something in its place.
    _settings: Settings = Settings()

    def __init__(self, settings: Settings, catalog: Catalog, scheduler: Scheduler) -> None:
        self._settings = settings
        self._scheduler = scheduler
        self._digest = lambda _: None
        self._tasks = set()
        self._checked = lambda model: None
        self.catalog = catalog


class _Service(Service):
    """A service with the parts that the forwarder needs."""

    # A property of the real one, so the class has to have something in its place.
    settings: Settings = Settings()

    def __init__(self, settings: Settings, catalog: Catalog, scheduler: Scheduler) -> None:
        self.settings = settings
        self.active = ActiveRequests()
        self.models = _Models(settings, catalog, scheduler)
        self.scheduler = scheduler


@asynccontextmanager
async def forwarding(
    script: Script,
    *models: LocalModel,
    front_settings: Settings | None = None,
    auto_aliases: Sequence[str] = (),
    **settings: Any,
) -> AsyncIterator[World]:
    """Serve models (``m`` by default) with a real front. ``script`` plays every connection."""
    world: World
    failures: list[BaseException] = []
    records: list[RequestRecord] = []

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        world.connections += 1
        try:
            await script(Talk(world.connections, reader, writer))
        except (asyncio.IncompleteReadError, ConnectionError):
            # The forwarder closed it.
            return
        except BaseException as error:
            failures.append(error)
            raise
        finally:
            writer.close()

    def note(noted: list[Noted]) -> None:
        for record, error_code in noted:
            world.codes.append(error_code)
            world.front.service.keys.note([record])
            world.on_request(record)

    known = models or (model("m"),)
    catalog = Catalog({one.id: one for one in known}, auto_aliases=auto_aliases)
    server = await asyncio.start_server(play, "127.0.0.1", 0, limit=1 << 20)
    launcher = FakeLauncher(server.sockets[0].getsockname()[1])
    full = Settings(**settings)
    try:
        async with Scheduler(
            launcher=launcher,
            settings=full,
            on_state=lambda model_id: None,
            on_detail=lambda model_id: None,
        ) as scheduler:
            behind = _Service(full, catalog, scheduler)
            forwarder = Forwarder(
                behind,
                finished=FinishedRequests(note, pause=0),
                now=lambda: datetime.now(UTC),
            )
            service = FakeService("m", settings=front_settings)
            behind.keys, behind.peers = service.keys, service.peers
            async with serving(service, forwarder=forwarder) as front:
                world = World(front, scheduler, launcher, records)
                world.refusals = service.refusals
                world.active = lambda: behind.active.records(scheduler.waits.positions())
                yield world
                await forwarder.close()
            assert scheduler.in_flight == 0
            assert scheduler.waiting == 0
    finally:
        server.close()
    assert not [one for one in failures if not isinstance(one, asyncio.CancelledError)]
