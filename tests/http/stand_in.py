"""A service without servers, and the real HTTP layer in front of it on a port of the kernel's.

Each part is a subclass of the real one that it replaces, so mypy holds them to its methods.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

from cyber_inference_tui.errors import ConfigError, ConflictError, ModelNotFoundError, NotFoundError
from cyber_inference_tui.http.application import assemble
from cyber_inference_tui.http.client_connection import Runner
from cyber_inference_tui.http.json_io import json_answer
from cyber_inference_tui.http.login import AdminLogin
from cyber_inference_tui.http.request_body import read_body
from cyber_inference_tui.hub.browse import Browse
from cyber_inference_tui.hub.downloads import Downloads
from cyber_inference_tui.records import (
    ActiveRequestRecord,
    ConfigCheckRecord,
    ConfigValueRecord,
    CpuRecord,
    DeviceRecord,
    DownloadRecord,
    DownloadStatus,
    HubFileRecord,
    HubFilesRecord,
    HubModelRecord,
    InstallRecord,
    InstallState,
    LlamaServerRecord,
    LogPage,
    LogRecord,
    MemoryRecord,
    MemoryRoom,
    ModelDetails,
    ModelRecord,
    ModelStatus,
    ModelTotals,
    ProblemRecord,
    RequestRecord,
    ResourceSample,
    SessionRecord,
    SettingEffect,
    StatusRecord,
    SwapRecord,
    WaitingRecord,
    to_json,
)
from cyber_inference_tui.records.queries import HistoryQuery, LinesQuery, RequestQuery
from cyber_inference_tui.service.configuring import Configuration
from cyber_inference_tui.service.events import EventBus
from cyber_inference_tui.service.history import History
from cyber_inference_tui.service.hub import Hub
from cyber_inference_tui.service.install import Installation
from cyber_inference_tui.service.logs import Logs
from cyber_inference_tui.service.metrics import Metrics
from cyber_inference_tui.service.models import Models
from cyber_inference_tui.service.monitoring import Monitoring
from cyber_inference_tui.service.service import Service
from cyber_inference_tui.settings.schema import Settings

SAMPLE = ResourceSample(
    at=datetime(2026, 1, 31, 12, tzinfo=UTC),
    device=DeviceRecord(),
    cpu=CpuRecord(count=2),
    memory=MemoryRecord(total=8),
    swap=SwapRecord(),
)

NEWEST = RequestQuery()

LOG = LogRecord(id="service", first=3, end=7, running=True)

Forward = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_settings(**changes: Any) -> Settings:
    """Settings that are the same everywhere; bodies may have 1 MiB."""
    return Settings(**{"max_body_size": 1 << 20, **changes})


class StandInInstallation(Installation):
    """One that never ends by itself."""

    def __init__(self) -> None:
        self.record = InstallRecord()

    async def state(self) -> InstallRecord:
        return self.record

    async def start(self, source: str) -> InstallRecord:
        if self.record.state is InstallState.RUNNING:
            raise ConflictError("It is being installed.")
        self.record = InstallRecord(state=InstallState.RUNNING, source=source)
        return self.record

    async def cancel(self) -> InstallRecord:
        if self.record.state is InstallState.RUNNING:
            self.record = msgspec.structs.replace(self.record, state=InstallState.CANCELLED)
        return self.record


class StandInDownloads(Downloads):
    """Knows one download, ``abc``, and notes what it was asked."""

    def __init__(self) -> None:
        self.record = DownloadRecord(id="abc", repo="o/n", status=DownloadStatus.QUEUED)
        self.calls: list[tuple[Any, ...]] = []

    def records(self) -> list[DownloadRecord]:
        return [self.record]

    async def add(
        self, repo: str, filename: str | None = None, revision: str | None = None
    ) -> DownloadRecord:
        self.calls.append(("add", repo, filename, revision))
        return self.record

    async def pause(self, download_id: str) -> DownloadRecord:
        return self._act("pause", download_id, DownloadStatus.PAUSED)

    async def resume(self, download_id: str) -> DownloadRecord:
        return self._act("resume", download_id, DownloadStatus.QUEUED)

    async def retry(self, download_id: str) -> DownloadRecord:
        return self._act("retry", download_id, DownloadStatus.QUEUED)

    async def cancel(self, download_id: str, *, keep: bool = False) -> DownloadRecord:
        return self._act(f"cancel {keep}", download_id, DownloadStatus.CANCELLED)

    def _act(self, what: str, download_id: str, status: DownloadStatus) -> DownloadRecord:
        if download_id != self.record.id:
            raise NotFoundError(f"There is no download {download_id}.")
        self.calls.append((what,))
        self.record = msgspec.structs.replace(self.record, status=status)
        return self.record


class StandInConfiguration(Configuration):
    """One setting, ``max_queue``."""

    def __init__(self) -> None:
        self.stored = {"max_queue": 128}

    def values(self) -> list[ConfigValueRecord]:
        return [
            ConfigValueRecord(key=key, value=value, source="file", default=128, help="")
            for key, value in self.stored.items()
        ]

    async def set(self, key: str, value: Any) -> ConfigValueRecord:
        if key not in self.stored:
            raise NotFoundError(f"There is no setting {key}.")
        if not isinstance(value, int):
            raise ConfigError(f"{key} must be a whole number.")
        self.stored[key] = value
        return self.values()[0]

    async def unset(self, key: str) -> ConfigValueRecord:
        return await self.set(key, 128)

    async def check(self, key: str, value: Any) -> ConfigCheckRecord:
        if not isinstance(value, int):
            raise ConfigError(f"{key} must be a whole number.")
        return ConfigCheckRecord(key=key, value=value, effect=SettingEffect.NOW)


class StandInModels(Models):
    """The models of a stand-in service."""

    def __init__(self, service: StandInService) -> None:
        self._service = service

    async def add_demo(self) -> ModelRecord:
        return self._service.records.setdefault("demo", ModelRecord(id="demo"))

    def records(self) -> list[ModelRecord]:
        return [self._service.records[model_id] for model_id in sorted(self._service.records)]

    def written(self, model_id: str) -> int:
        return self._service.written.get(model_id, 0)

    def record(self, model_id: str) -> ModelRecord:
        for record in self._service.records.values():
            if model_id in {record.id, *record.aliases}:
                return record
        raise ModelNotFoundError(f"There is no model {model_id}.")

    async def details(self, model_id: str) -> ModelDetails:
        return ModelDetails(model=self.record(model_id), facts={"layers": 2})

    def problems(self) -> list[ProblemRecord]:
        return [ProblemRecord(where="/models/lora.gguf", reason="it is an adapter")]

    def memory_rooms(self) -> list[MemoryRoom]:
        return [MemoryRoom(pool="memory", limit_bytes=8, free_bytes=4)]

    async def load(self, model_id: str, *, wait: bool) -> ModelRecord:
        self._service.fail()
        return self._change(model_id, "load", wait, status=ModelStatus.LOADED)

    async def unload(self, model_id: str, *, force: bool) -> ModelRecord:
        return self._change(model_id, "unload", force, status=ModelStatus.UNLOADED)

    async def pin(self, model_id: str, pinned: bool) -> ModelRecord:
        return self._change(model_id, "pin", pinned, pinned=pinned)

    async def delete(self, model_id: str) -> ModelRecord:
        record = self.record(model_id)
        if record.status is not ModelStatus.UNLOADED:
            raise ConflictError(f"{model_id} is loaded.", hint="Unload it first.")
        self._service.calls.append(("delete", model_id))
        return self._service.records.pop(record.id)

    def _change(self, model_id: str, *call: Any, **fields: Any) -> ModelRecord:
        record = self.record(model_id)
        self._service.calls.append((call[0], model_id, *call[1:]))
        self._service.records[record.id] = msgspec.structs.replace(record, **fields)
        return self._service.records[record.id]


class StandInHistory(History):
    """Its requests."""

    def __init__(self, service: StandInService) -> None:
        self._service = service

    async def requests(self, query: RequestQuery = NEWEST) -> list[RequestRecord]:
        self._service.fail()
        self._service.calls.append(("requests", query))
        return self._service.past_requests[: query.limit]

    async def totals(self) -> list[ModelTotals]:
        return self._service.sums


class StandInLogs(Logs):
    """Its one log."""

    def __init__(self, service: StandInService) -> None:
        self._service = service

    def records(self) -> list[LogRecord]:
        self._service.fail()
        return [LOG]

    async def page(self, log_id: str, query: LinesQuery) -> LogPage:
        self._service.calls.append(("lines", log_id, query))
        return LogPage(log=LOG, lines=(), searched_to=7)


class StandInMonitoring(Monitoring):
    """Its samples."""

    def __init__(self, service: StandInService) -> None:
        self._service = service

    async def latest(self) -> ResourceSample:
        self._service.fail()
        return self._service.samples[-1]

    def history(self, seconds: float) -> list[bytes]:
        self._service.calls.append(("history", seconds))
        return [to_json(sample) for sample in self._service.samples]


class StandInMetrics(Metrics):
    """One number."""

    def __init__(self, service: StandInService) -> None:
        self._service = service

    async def scrape(self) -> bytes:
        self._service.fail()
        return b"up 1.0\n"


class StandInBrowse(Browse):
    """A hub with one model."""

    def __init__(self, service: StandInService) -> None:
        self._service = service

    async def search(
        self,
        query: str,
        *,
        sort: str = "downloads",
        limit: int = 30,
        cursor: str | None = None,
        author: str | None = None,
    ) -> tuple[list[HubModelRecord], str | None]:
        self._service.hub_asked.append((query, sort, limit, cursor, author))
        return [HubModelRecord(repo="o/n")], None if cursor else "next"


class StandInHub(Hub):
    """What there is of a hub."""

    def __init__(self, service: StandInService) -> None:
        self.browse = StandInBrowse(service)


class StandInService(Service):
    """Keeps its models in a dictionary and notes what it was asked."""

    # Those are properties of the real one, so the class has to have something in their place.
    settings: Settings = make_settings()
    downloads: StandInDownloads = StandInDownloads()
    configuration: StandInConfiguration
    installation: StandInInstallation
    models: StandInModels

    def __init__(self, *ids: str, settings: Settings | None = None) -> None:
        self.settings = settings or make_settings()
        self.events = EventBus(first_id=1)
        self.address = ("127.0.0.1", 0)
        self.records = {model_id: ModelRecord(id=model_id) for model_id in ids}
        self.written: dict[str, int] = {}
        self.calls: list[tuple[Any, ...]] = []
        self.failure: Exception | None = None
        self.refusals: list[tuple[RequestRecord, str]] = []
        self.configuration = StandInConfiguration()
        self.past_requests: list[RequestRecord] = []
        self.past_sessions: list[SessionRecord] = []
        self.present: list[ActiveRequestRecord] = []
        self.line: list[WaitingRecord] = []
        self.sums: list[ModelTotals] = []
        self.samples: list[ResourceSample] = [SAMPLE]
        self.installation = StandInInstallation()
        self.downloads = StandInDownloads()
        self.hub_asked: list[Any] = []
        self.models = StandInModels(self)
        self.history = StandInHistory(self)
        self.logs = StandInLogs(self)
        self.monitoring = StandInMonitoring(self)
        self.metrics = StandInMetrics(self)
        self.hub = StandInHub(self)

    async def hub_files(self, repo: str, revision: str | None = None) -> list[HubFilesRecord]:
        self.hub_asked.append((repo, revision))
        return [HubFilesRecord(name="n-Q8_0.gguf", files=(HubFileRecord(path="n-Q8_0.gguf"),))]

    def status(self) -> StatusRecord:
        self.fail()
        return StatusRecord(
            version="1",
            pid=1,
            uptime_seconds=1.5,
            host=self.address[0],
            port=self.address[1],
            llama_server=LlamaServerRecord(),
            models_loaded=0,
            requests_in_flight=0,
            requests_queued=0,
        )

    def active_requests(self) -> list[ActiveRequestRecord]:
        return self.present

    async def sessions(self, query: HistoryQuery) -> list[SessionRecord]:
        self.calls.append(("sessions", query))
        return self.past_sessions[: query.limit]

    def note_refusal(self, record: RequestRecord, code: str) -> None:
        self.refusals.append((record, code))

    def queue(self) -> list[WaitingRecord]:
        return self.line

    def log_id(self, name: str) -> str:
        return name if name == "service" else self.models.record(name).id

    async def log_tail(self, name: str, lines: int) -> str:
        self.log_id(name)
        return "".join(f"line {number}\n" for number in range(lines)[-10:])

    def fail(self) -> None:
        if self.failure is not None:
            raise self.failure


async def echo(request: web.Request) -> web.StreamResponse:
    """In place of the forwarder: tells what reached it."""
    body = await read_body(request, 1 << 20)
    return json_answer({"path": request.path, "method": request.method, "size": len(body)})


class Front:
    """The running HTTP layer: ``port``, and a client whose URLs are paths."""

    def __init__(self, port: int, client: aiohttp.ClientSession, app: web.Application) -> None:
        self.port = port
        self.app = app
        self.client = client
        self.url = f"http://127.0.0.1:{port}"


@asynccontextmanager
async def serving(
    service: StandInService,
    forward: Forward = echo,
    *,
    host: str = "127.0.0.1",
    heartbeat: float = 15.0,
    send_timeout: float = 60.0,
    head_timeout: float = 60.0,
    most_connections: int | None = None,
    login: AdminLogin | None = None,
) -> AsyncIterator[Front]:
    """Serve as the real service does, until the block ends."""
    login = login or AdminLogin(service, Path("/proc/none/login.secret"))
    app = assemble(service, forward, login, heartbeat=heartbeat, send_timeout=send_timeout)
    runner = Runner(
        app,
        head_timeout=head_timeout,
        most_connections=most_connections,
        handler_cancellation=True,
        access_log=None,
        shutdown_timeout=2.0,
    )
    await runner.setup()
    site = web.TCPSite(runner, host, 0)
    await site.start()
    port = runner.addresses[0][1]
    service.address = (host, port)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client:
        try:
            yield Front(port, client, app)
        finally:
            await runner.cleanup()
