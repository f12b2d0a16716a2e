"""A service without servers, behind the real HTTP layer: for the tests of HTTP, client and app.

Each part is a subclass of the real part that it replaces, so mypy compares their methods.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import msgspec
from aiohttp import web

from cyber_inference_tui.errors import (
    ConfigError,
    ConflictError,
    CyberError,
    ModelNotFoundError,
    NotFoundError,
)
from cyber_inference_tui.http.application import assemble
from cyber_inference_tui.http.body_limits import BODY_LIMITS
from cyber_inference_tui.http.client_connection import Runner
from cyber_inference_tui.http.forward import Forwarder
from cyber_inference_tui.http.json_io import json_answer
from cyber_inference_tui.http.login import AdminLogin
from cyber_inference_tui.http.request_body import read_body
from cyber_inference_tui.http.tls import ServerCertificate
from cyber_inference_tui.hub.browse import Browse
from cyber_inference_tui.hub.downloads import Downloads
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.monitor.ring import RECENT
from cyber_inference_tui.peers.discovery import Discovery
from cyber_inference_tui.peers.peers import Peers
from cyber_inference_tui.records import (
    ActiveRequestRecord,
    AdapterRecord,
    ClientRecord,
    ConfigCheckRecord,
    ConfigValueRecord,
    CpuRecord,
    DeviceRecord,
    DownloadRecord,
    DownloadStatus,
    DraftTotals,
    HubCardRecord,
    HubFilesRecord,
    HubModelRecord,
    InstallRecord,
    InstallState,
    KeyTotals,
    LiveRequest,
    LiveRequests,
    LlamaServerRecord,
    LogLevel,
    LogPage,
    LogRecord,
    LogRun,
    MemoryPool,
    MemoryRecord,
    ModelDetails,
    ModelRecord,
    ModelStatus,
    ModelTotals,
    NumberedLine,
    ProblemRecord,
    RequestRecord,
    ResourceSample,
    SessionRecord,
    SettingEffect,
    SpeedTotals,
    StatusRecord,
    SwapRecord,
    Trend,
    WaitingRecord,
    to_json,
)
from cyber_inference_tui.records.bench import (
    BenchRequest,
    BenchResult,
    BenchState,
    BenchStatus,
)
from cyber_inference_tui.records.checks import ModelCheck
from cyber_inference_tui.records.gc import GcOrder, GcPart, GcPlan, GcQuery, GcResult
from cyber_inference_tui.records.logs import message_of
from cyber_inference_tui.records.peers import (
    Box,
    NewPeer,
    PeerChange,
    PeerRecord,
    PeerState,
    PeerSuggestion,
)
from cyber_inference_tui.records.queries import (
    ClientsQuery,
    HistoryQuery,
    LinesQuery,
    NewScale,
    RequestQuery,
    SpeedQuery,
    TrendQuery,
)
from cyber_inference_tui.records.tuning import TuneRequest, TuneUndone
from cyber_inference_tui.service.api_keys import ApiKeys
from cyber_inference_tui.service.audit_log import AuditLog, Caller
from cyber_inference_tui.service.bench.job import Bench
from cyber_inference_tui.service.checks.checker import Checker
from cyber_inference_tui.service.configuration import Configuration
from cyber_inference_tui.service.finished_requests import FinishedRequests
from cyber_inference_tui.service.history import History
from cyber_inference_tui.service.housekeeping import Housekeeping
from cyber_inference_tui.service.hub import Hub
from cyber_inference_tui.service.install import Installation
from cyber_inference_tui.service.key_file import Keys
from cyber_inference_tui.service.live_figures import LiveFigures
from cyber_inference_tui.service.logs import Logs
from cyber_inference_tui.service.metrics import Metrics
from cyber_inference_tui.service.models import Models
from cyber_inference_tui.service.monitoring import Monitoring
from cyber_inference_tui.service.recent_events import RecentEvents
from cyber_inference_tui.service.service import Service
from cyber_inference_tui.service.trend_points import gather, point_of
from cyber_inference_tui.service.trends import Trends
from cyber_inference_tui.service.tuning.tuned import TunedSettings
from cyber_inference_tui.settings.schema import Settings
from cyber_inference_tui.sockets import listening_socket

T = TypeVar("T")
Forward = Callable[[web.Request], Awaitable[web.StreamResponse]]

SAMPLE = ResourceSample(
    at=datetime(2026, 1, 31, 12, tzinfo=UTC),
    device=DeviceRecord(),
    cpu=CpuRecord(count=2),
    memory=MemoryRecord(total=8),
    swap=SwapRecord(),
)
_NEWEST = RequestQuery()
_LEVELS = list(LogLevel)
_ACTIVE = {DownloadStatus.QUEUED, DownloadStatus.RUNNING, DownloadStatus.PAUSED}


@dataclass
class World:
    """Everything that a service reports. Publish its changes with ``FakeService.publish``."""

    status: StatusRecord
    models: dict[str, ModelRecord] = field(default_factory=dict)
    problems: list[ProblemRecord] = field(default_factory=list)
    samples: list[ResourceSample] = field(default_factory=list)
    trends: dict[int, Trend] = field(default_factory=dict)
    """By the seconds that they span."""
    rooms: list[MemoryPool] = field(default_factory=list)
    bench: BenchStatus = field(default_factory=BenchStatus)
    benches: list[BenchResult] = field(default_factory=list)
    check: ModelCheck | None = None
    active: list[ActiveRequestRecord] = field(default_factory=list)
    waiting: list[WaitingRecord] = field(default_factory=list)
    requests: list[RequestRecord] = field(default_factory=list)
    sessions: list[SessionRecord] = field(default_factory=list)
    totals: list[ModelTotals] = field(default_factory=list)
    key_totals: list[KeyTotals] = field(default_factory=list)
    speed_totals: dict[str, list[SpeedTotals]] = field(default_factory=dict)
    """By what they are summed up by: model, client, key or day."""
    clients: list[ClientRecord] = field(default_factory=list)
    details: dict[str, ModelDetails] = field(default_factory=dict)
    logs: dict[str, list[NumberedLine]] = field(default_factory=dict)
    runs: dict[str, tuple[LogRun, ...]] = field(default_factory=dict)
    config: dict[str, ConfigValueRecord] = field(default_factory=dict)
    found: list[HubModelRecord] = field(default_factory=list)
    hub_files: dict[str, list[HubFilesRecord]] = field(default_factory=dict)
    hub_cards: dict[str, HubCardRecord] = field(default_factory=dict)
    downloads: dict[str, DownloadRecord] = field(default_factory=dict)
    boxes: list[PeerRecord] = field(default_factory=list)
    gc: GcPlan = field(default_factory=lambda: GcPlan(own=GcPart(), others=GcPart(), free_bytes=0))
    suggestions: list[PeerSuggestion] = field(default_factory=list)
    install: InstallRecord = field(default_factory=InstallRecord)
    answer: tuple[str, ...] = ("Hello", " there", ", I am small.")
    thinking: tuple[str, ...] = ()


def small_world(*ids: str) -> World:
    """Models with these ids, a log of the service, and one setting."""
    return World(
        status=StatusRecord(
            version="9.9.9",
            pid=4242,
            uptime_seconds=7503.2,
            host="127.0.0.1",
            port=0,
            llama_server=LlamaServerRecord(path="/opt/llama-server", version="b9999"),
            models_loaded=0,
            requests_in_flight=0,
            requests_queued=0,
        ),
        models={model_id: ModelRecord(id=model_id) for model_id in ids},
        problems=[ProblemRecord(where="/models/lora.gguf", reason="it is an adapter")],
        samples=[SAMPLE],
        rooms=[MemoryPool(pool="memory", limit_bytes=8, free_bytes=4)],
        logs={
            "service": [
                NumberedLine(number=number, at=SAMPLE.at, text=f"line {number}")
                for number in range(3, 7)
            ]
        },
        config={
            "max_queue": ConfigValueRecord(
                key="max_queue", value=128, source="file", default=128, help="", live=True
            )
        },
    )


def make_settings(**changes: Any) -> Settings:
    """Settings that are the same everywhere; bodies may have 1 MiB."""
    return Settings(**{"max_body_size": 1 << 20, **changes})


class _Housekeeping(Housekeeping):
    def __init__(self, service: FakeService) -> None:
        self._service = service

    async def plan(self, query: GcQuery) -> GcPlan:
        return self._service.read("plan_gc", self._service.world.gc, query)

    async def delete(self, order: GcOrder) -> GcResult:
        """Delete a part, so that the next plan has only the other one."""
        world = self._service.world
        name = "own" if order.token == world.gc.own.token else "others"
        part = getattr(world.gc, name)
        self._service.change("gc", order.token)
        world.gc = msgspec.structs.replace(world.gc, **{name: GcPart()})
        return GcResult(freed_bytes=part.freed_bytes, deleted=part.items)


class _Installation(Installation):
    def __init__(self, service: FakeService) -> None:
        self._service = service

    async def state(self) -> InstallRecord:
        return self._service.read("install_state", self._service.world.install)

    async def start(self, source: str) -> InstallRecord:
        if self._service.world.install.state is InstallState.RUNNING:
            raise ConflictError("It is being installed.")
        self._service.change("install", source)
        return self._set(state=InstallState.RUNNING, source=source, step="downloading")

    async def cancel(self) -> InstallRecord:
        if self._service.world.install.state is InstallState.RUNNING:
            self._service.change("cancel_install")
            self._set(state=InstallState.CANCELLED, step=None)
        return self._service.world.install

    def _set(self, **changes: Any) -> InstallRecord:
        world = self._service.world
        world.install = msgspec.structs.replace(world.install, **changes)
        return world.install


class _Downloads(Downloads):
    def __init__(self, service: FakeService) -> None:
        self._service = service

    def records(self) -> list[DownloadRecord]:
        return self._service.read("downloads", list(self._service.world.downloads.values()))

    async def add(
        self, repo: str, filename: str | None = None, revision: str | None = None
    ) -> DownloadRecord:
        self._service.change("download", repo, filename, revision)
        known = list(self._service.world.downloads.values())
        for record in known:
            if (record.repo, record.filename) == (repo, filename) and record.status in _ACTIVE:
                return record
        number = len(self._service.world.downloads) + 1
        return self._set(
            DownloadRecord(
                id=f"d{number}", repo=repo, filename=filename, status=DownloadStatus.QUEUED
            )
        )

    async def pause(self, download_id: str) -> DownloadRecord:
        return self._act(download_id, DownloadStatus.PAUSED, "pause_download")

    async def resume(self, download_id: str) -> DownloadRecord:
        return self._act(download_id, DownloadStatus.QUEUED, "resume_download")

    async def retry(self, download_id: str) -> DownloadRecord:
        return self._act(download_id, DownloadStatus.QUEUED, "retry_download")

    async def cancel(self, download_id: str, *, keep: bool = False) -> DownloadRecord:
        return self._act(download_id, DownloadStatus.CANCELLED, "cancel_download", keep)

    def _act(self, download_id: str, new: DownloadStatus, name: str, *more: Any) -> DownloadRecord:
        known = self._service.world.downloads.get(download_id)
        if known is None:
            raise NotFoundError(f"There is no download {download_id}.")
        self._service.change(name, download_id, *more)
        return self._set(msgspec.structs.replace(known, status=new, error=None))

    def _set(self, record: DownloadRecord) -> DownloadRecord:
        self._service.world.downloads[record.id] = record
        self._service.publish("download", record)
        return record


class _Configuration(Configuration):
    def __init__(self, service: FakeService) -> None:
        self._service = service

    def values(self) -> list[ConfigValueRecord]:
        return self._service.read("config", list(self._service.world.config.values()))

    async def set(self, key: str, value: Any, *, by_owner: bool = False) -> ConfigValueRecord:
        known = self._known(key, value)
        self._service.change("set_config", key, value)
        source = known.source if known.source in {"env", "flag"} else "file"
        if key == "llama_server_path" and source == "file":
            self._use_llama_server(value)
        return self._set(known, value, source)

    async def unset(self, key: str, *, by_owner: bool = False) -> ConfigValueRecord:
        known = self._known(key)
        self._service.change("unset_config", key)
        return self._set(known, known.default, "default")

    def _set(self, known: ConfigValueRecord, value: Any, source: str) -> ConfigValueRecord:
        record = msgspec.structs.replace(known, value=value, source=source)
        if not known.key.startswith("models."):
            self._service.world.config[known.key] = record
            self._service.publish("config", {"error": None})
        return record

    async def check(self, key: str, value: Any, *, by_owner: bool = False) -> ConfigCheckRecord:
        known = self._known(key, value)
        self._service.read("check_config", None)
        models = self._service.restarts
        effect = SettingEffect.NOW if known.live else SettingEffect.RESTARTS_SERVICE
        if key.startswith("models."):
            models = (key.removeprefix("models.").rpartition(".")[0].strip('"'),)
            effect = SettingEffect.RESTARTS_MODELS
        elif known.source in {"env", "flag"}:
            effect = SettingEffect.OVERRIDDEN
        elif models and known.live:
            effect = SettingEffect.RESTARTS_MODELS
        return ConfigCheckRecord(key=key, value=value, effect=effect, models=models)

    def _known(self, key: str, value: Any = None) -> ConfigValueRecord:
        if key.startswith("models."):
            return ConfigValueRecord(key=key, value=None, source="default", default=None, help="")
        known = self._service.world.config.get(key)
        if known is None:
            raise NotFoundError(f"There is no setting {key}.")
        if isinstance(known.default, int) and isinstance(value, str):
            raise ConfigError(f"{key} must be a whole number.")
        return known

    def _use_llama_server(self, path: str) -> None:
        there = path.startswith("/opt/")
        problem = f"llama_server_path is {path}, but there is no such file."
        self._service.world.status = msgspec.structs.replace(
            self._service.world.status,
            llama_server=LlamaServerRecord(
                path=path if there else None, problem=None if there else problem
            ),
        )


class _Audit(AuditLog):
    def __init__(self, service: FakeService) -> None:
        self._service = service

    async def note(self, event: str, caller: Caller | None = None, **details: Any) -> None:
        self._service.audited.append((event, caller))


class _Models(Models):
    def __init__(self, service: FakeService) -> None:
        self._service = service

    async def add_demo(self) -> ModelRecord:
        self._service.change("add_demo")
        demo = ModelRecord(id="demo", size_bytes=5_000_000, origin="demo")
        self._service.world.models.setdefault("demo", demo)
        self._service.publish("model", demo)
        return demo

    def records(self) -> list[ModelRecord]:
        models = self._service.world.models
        return self._service.read("models", [models[model_id] for model_id in sorted(models)])

    def resolve(self, name: str) -> LocalModel:
        return self.local(self.record(name).id)

    def auto_record(self) -> ModelRecord | None:
        return None

    def local(self, model_id: str) -> LocalModel:
        written = self._service.written.get(model_id, 0)
        return LocalModel(id=model_id, modified=written * 1_000_000_000)

    def record(self, model_id: str) -> ModelRecord:
        for record in self._service.world.models.values():
            if model_id in {record.id, *record.aliases}:
                return record
        raise ModelNotFoundError(f"There is no model {model_id}.")

    async def details(self, model_id: str) -> ModelDetails:
        record = self.record(model_id)
        found = self._service.world.details.get(record.id) or ModelDetails(model=record)
        return self._service.read("details", msgspec.structs.replace(found, model=record))

    def problems(self) -> list[ProblemRecord]:
        return self._service.read("problems", list(self._service.world.problems))

    def memory_rooms(self) -> list[MemoryPool]:
        return self._service.read("memory_room", list(self._service.world.rooms))

    async def load(self, model_id: str, *, wait: bool) -> ModelRecord:
        if wait:
            return self._set(model_id, "load", wait, status=ModelStatus.LOADED, progress=None)
        return self._set(model_id, "load", wait, status=ModelStatus.LOADING, progress=0.0)

    async def unload(self, model_id: str, *, force: bool) -> ModelRecord:
        changes: dict[str, Any] = {"status": ModelStatus.UNLOADED, "memory_bytes": None}
        return self._set(model_id, "unload", force, **changes)

    def begin_unload(self, model_id: str) -> None:
        self._set(model_id, "begin_unload", False, status=ModelStatus.UNLOADING)

    async def pin(self, model_id: str, pinned: bool) -> ModelRecord:
        return self._set(model_id, "pin", pinned, pinned=pinned)

    async def scale_adapter(self, model_id: str, change: NewScale) -> list[AdapterRecord]:
        self._service.change("scale", model_id, change.id, change.scale)
        world = self._service.world
        details = world.details[self.record(model_id).id]
        adapters = tuple(
            msgspec.structs.replace(one, scale=change.scale) if one.id == change.id else one
            for one in details.adapters
        )
        world.details[model_id] = msgspec.structs.replace(details, adapters=adapters)
        return list(adapters)

    async def delete(self, model_id: str) -> ModelRecord:
        record = self.record(model_id)
        if record.status not in {ModelStatus.UNLOADED, ModelStatus.FAILED}:
            raise ConflictError(f"{model_id} is loaded.", hint="Unload it first.")
        self._service.change("delete", model_id)
        self._service.publish("model", {"id": record.id, "status": None})
        return self._service.world.models.pop(record.id)

    def _set(self, model_id: str, name: str, argument: bool, **changes: Any) -> ModelRecord:
        record = self.record(model_id)
        self._service.change(name, model_id, argument)
        return self._service.set_model(record.id, **changes)


class _History(History):
    def __init__(self, service: FakeService) -> None:
        self._service = service

    async def requests(self, query: RequestQuery = _NEWEST) -> list[RequestRecord]:
        found = [
            one
            for one in self._service.world.requests
            if (query.before is None or one.id < query.before)
            and query.model in {None, one.model}
            and query.failed in {None, one.status >= 400 or one.error is not None}
            and query.request_id in {None, one.request_id}
        ]
        return self._service.read("requests", found[: query.limit], query)

    async def benches(self, query: HistoryQuery = _NEWEST) -> list[BenchResult]:
        found = [one for one in self._service.world.benches if query.model in {None, one.model}]
        return self._service.read("benches", found[: query.limit], query)

    async def clients(self, query: ClientsQuery) -> list[ClientRecord]:
        return self._service.read("clients", self._service.world.clients[: query.limit])

    async def totals(self) -> list[ModelTotals]:
        return self._service.read("totals", list(self._service.world.totals))

    async def key_totals(self, since: datetime | None = None) -> list[KeyTotals]:
        return self._service.read("key_totals", list(self._service.world.key_totals))

    async def drafted(self, model: str) -> DraftTotals | None:
        found = self._service.world.details.get(model)
        return found.drafted if found is not None else None

    async def speed_totals(
        self, query: SpeedQuery, price_per_kwh: float = 0.0
    ) -> list[SpeedTotals]:
        found = self._service.world.speed_totals.get(query.by, [])
        return self._service.read("speed_totals", found, query)


class _Keys(ApiKeys):
    def __init__(self, service: FakeService) -> None:
        super().__init__(Path("/proc/none"), now=lambda: service.now, audit=_Audit(service))
        self._service = service

    async def _write(self, keys: Keys) -> None:
        self._service.change("keys", *(key.name for key in keys))
        self.present = keys


class _Logs(Logs):
    def __init__(self, service: FakeService) -> None:
        self._service = service

    def records(self) -> list[LogRecord]:
        return self._service.read("logs", [*map(self._log, self._service.world.logs)])

    def _log(self, name: str) -> LogRecord:
        lines = self._service.world.logs.get(name, [])
        errors = [one.number for one in lines if one.level is LogLevel.ERROR]
        return LogRecord(
            id=name,
            first=lines[0].number if lines else 0,
            end=lines[-1].number + 1 if lines else 0,
            last_at=lines[-1].at if lines else None,
            last_error=errors[-1] if errors else None,
            runs=self._service.world.runs.get(name, ()),
        )

    async def page(self, log_id: str, query: LinesQuery) -> LogPage:
        log = self._log(log_id)
        least = 0 if query.level is None else _LEVELS.index(query.level)
        lines = [
            one
            for one in self._service.world.logs.get(log_id, [])
            if (query.before is None or one.number < query.before)
            and (query.after is None or one.number >= query.after)
            and _LEVELS.index(one.level) >= least
            and all(text.lower() in message_of(one.text).lower() for text in query.q)
        ]
        forwards = query.after is not None
        reached = log.end if forwards else log.first
        if len(lines) > query.limit:
            lines = lines[: query.limit] if forwards else lines[len(lines) - query.limit :]
            if lines:
                reached = lines[-1].number + 1 if forwards else lines[0].number
        page = LogPage(log=log, lines=tuple(lines), searched_to=reached)
        return self._service.read("log_lines", page, log_id, query)


class _Bench(Bench):
    """Nothing is measured: a test sets ``World.bench`` and ``World.benches``."""

    def __init__(self, service: FakeService) -> None:
        self._service = service

    @property
    def status(self) -> BenchStatus:
        return self._service.read("bench", self._service.world.bench)

    def start(self, request: BenchRequest) -> BenchStatus:
        self._service.change("start_bench", request)
        running = BenchStatus(state=BenchState.RUNNING, request=request, step="beginning")
        self._service.world.bench = running
        return running

    def start_tuning(self, request: TuneRequest) -> BenchStatus:
        self._service.change("start_tuning", request)
        running = BenchStatus(state=BenchState.RUNNING, tuning=request, step="beginning")
        self._service.world.bench = running
        return running

    async def cancel(self) -> BenchStatus:
        self._service.change("cancel_bench")
        before = self._service.world.bench
        ended = msgspec.structs.replace(before, state=BenchState.CANCELLED, step=None)
        self._service.world.bench = ended
        return ended


class _Checker(Checker):
    """Nothing is tried: a test sets ``World.check``."""

    def __init__(self, service: FakeService) -> None:
        self._service = service

    async def check(self, name: str) -> ModelCheck:
        self._service.change("check", name)
        world = self._service.world
        assert world.check is not None
        details = world.details.get(name) or ModelDetails(model=world.models[name])
        world.details[name] = msgspec.structs.replace(details, check=world.check)
        return world.check


class _Tuned(TunedSettings):
    def __init__(self, service: FakeService) -> None:
        self._service = service

    async def undo(self, model_id: str) -> TuneUndone:
        self._service.change("undo_tuning", model_id)
        return TuneUndone(model=model_id, values={})


class _Peers(Peers):
    def __init__(self, service: FakeService) -> None:
        super().__init__(
            service.settings.data_dir,
            local=dict,
            write=_no_write,
            now=lambda: service.now,
            changed=lambda: None,
        )
        self._service = service

    def records(self) -> list[PeerRecord]:
        return self._service.read("peers", list(self._service.world.boxes))

    async def add(self, new: NewPeer, own: Callable[[bool], Box]) -> PeerRecord:
        self._service.change("add_peer", new)
        return self._put(PeerRecord(name="jetson", url=new.url, state=PeerState.CONNECTED))

    async def remove(self, name: str) -> PeerRecord:
        self._service.change("remove_peer", name)
        gone = next(one for one in self._service.world.boxes if one.name == name)
        self._service.world.boxes.remove(gone)
        self._service.publish("peers", PeerChange(name=name))
        return gone

    def _put(self, record: PeerRecord) -> PeerRecord:
        self._service.world.boxes.append(record)
        self._service.publish("peers", PeerChange(name=record.name, box=record))
        return record


class _Discovery(Discovery):
    def __init__(self, service: FakeService) -> None:
        self._service = service

    async def suggestions(self) -> list[PeerSuggestion]:
        return self._service.read("suggestions", list(self._service.world.suggestions))


class _Monitoring(Monitoring):
    def __init__(self, service: FakeService) -> None:
        self._service = service

    async def latest(self, max_age: float = 0.0) -> ResourceSample:
        self._service.read("resources", None)
        return self._service.world.samples[-1]

    def history(self, seconds: float) -> list[bytes]:
        samples = [to_json(sample) for sample in self._service.world.samples]
        return self._service.read("resource_history", samples, seconds)


class _Trends(Trends):
    def __init__(self, service: FakeService) -> None:
        self._service = service

    async def read(self, query: TrendQuery) -> Trend:
        step = timedelta(seconds=max(1.0, query.seconds / max(1, query.points)))
        samples = self._service.world.samples if query.seconds <= RECENT.total_seconds() else []
        points = gather((point_of(one, None) for one in samples), step)
        recent = Trend(step_seconds=step.total_seconds(), points=points)
        found = self._service.world.trends.get(query.seconds, recent)
        return self._service.read("trend", found, query)


class _LiveFigures(LiveFigures):
    def __init__(self, service: FakeService) -> None:
        super().__init__(service.events, records=service.active_requests)

    def look_soon(self) -> None:
        """Publish nothing by itself: ``FakeService.publish_live`` does when the test says so."""


class _Metrics(Metrics):
    def __init__(self, service: FakeService) -> None:
        self._service = service

    async def scrape(self) -> bytes:
        return self._service.read("metrics", b"up 1.0\n")


class _Browse(Browse):
    def __init__(self, service: FakeService) -> None:
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
        self._service.searches.append((query, sort, cursor))
        await self._service.hub_pace.wait()
        found = [one for one in self._service.world.found if query.lower() in one.repo.lower()]
        self._service.read("hub_search", None, query, sort, limit, cursor, author)
        start = int(cursor or 0)
        end = start + limit
        return found[start:end], str(end) if end < len(found) else None

    async def card(self, repo: str, revision: str | None = None) -> HubCardRecord:
        await self._service.hub_pace.wait()
        found = (one for one in self._service.world.found if one.repo == repo)
        bare = HubCardRecord(model=next(found, HubModelRecord(repo=repo)))
        card = self._service.world.hub_cards.get(repo, bare)
        return self._service.read("hub_card", card, repo, revision)


class _Hub(Hub):
    def __init__(self, service: FakeService) -> None:
        self.browse = _Browse(service)
        self._downloads = _Downloads(service)


async def _no_write(name: str, values: Mapping[str, Any] | None) -> None:
    """Write no configuration: nobody pairs with this service."""


class FakeService(Service):
    """Reports a ``World``, and changes it.

    ``calls`` has the requested changes, ``reads`` the queries. Calls raise the error for their name
    in ``fail``; every call raises ``failure``.
    """

    # A property of the real service, so the class needs an attribute in its place.
    settings: Settings = make_settings()

    def __init__(
        self, *ids: str, world: World | None = None, settings: Settings | None = None
    ) -> None:
        self.world = world or small_world(*ids)
        self.settings = settings or make_settings()
        self.events = RecentEvents(now=lambda: SAMPLE.at, first_id=1)
        self.address = ("127.0.0.1", 0)
        self.calls: list[tuple[Any, ...]] = []
        self.reads: list[tuple[Any, ...]] = []
        self.fail: dict[str, CyberError] = {}
        self.failure: Exception | None = None
        self.refusals: list[tuple[RequestRecord, str]] = []
        self.written: dict[str, int] = {}
        self.now = SAMPLE.at
        """The time by which API keys expire."""
        self.restarts: tuple[str, ...] = ()
        """The models that a change of a live setting restarts."""
        self.searches: list[tuple[str, str, str | None]] = []
        """Text, order and cursor of each search on the hub."""
        self.hub_pace = asyncio.Event()
        """Cleared: the hub does not answer."""
        self.hub_pace.set()
        self.first_piece = asyncio.Event()
        """Cleared: a chat sends no piece of its answer yet."""
        self.first_piece.set()
        self.chat_pace = asyncio.Event()
        """Cleared: a chat waits before each piece but the first."""
        self.chat_pace.set()
        self.chats_open = 0
        """Chats that are not finished."""
        self.audited: list[tuple[str, Caller | None]] = []
        """The events of the audit log."""
        self.audit = _Audit(self)
        self.configuration = _Configuration(self)
        self.housekeeping = _Housekeeping(self)
        self.installation = _Installation(self)
        self.bench = _Bench(self)
        self.checker = _Checker(self)
        self.tuned = _Tuned(self)
        self.models = _Models(self)
        self.history = _History(self)
        self.keys = _Keys(self)
        self.finished = FinishedRequests(self.note_requests)
        self.logs = _Logs(self)
        self.monitoring = _Monitoring(self)
        self.trends = _Trends(self)
        self.live = _LiveFigures(self)
        self.metrics = _Metrics(self)
        self.hub = _Hub(self)
        self.peers = _Peers(self)
        self.discovery = _Discovery(self)

    def publish(self, topic: str, record: Any) -> None:
        """Publish an event."""
        self.events.publish(topic, record)

    def publish_live(self) -> LiveRequests:
        """Publish the figures of the world's active requests, as the service does meanwhile."""
        speeds: dict[str, float] = {}
        for one in self.world.active:
            if one.tokens_per_second is not None:
                speeds[one.model] = speeds.get(one.model, 0.0) + one.tokens_per_second
        live = LiveRequests(
            live=tuple(
                LiveRequest(
                    number=one.number,
                    phase=one.phase,
                    tokens_out=one.tokens_out,
                    tokens_per_second=one.tokens_per_second,
                )
                for one in self.world.active
            ),
            tokens_per_second=speeds,
        )
        self.publish("request", live)
        return live

    def set_model(self, model_id: str, **changes: Any) -> ModelRecord:
        """Change a model, and publish it."""
        record = msgspec.structs.replace(self.world.models[model_id], **changes)
        self.world.models[model_id] = record
        self.publish("model", record)
        return record

    def read(self, name: str, answer: T, *query: Any) -> T:
        """Note a query, and return its answer or raise its error."""
        if self.failure is not None:
            raise self.failure
        if name in self.fail:
            raise self.fail[name]
        if query:
            self.reads.append((name, *query))
        return answer

    def change(self, name: str, *arguments: Any) -> None:
        """Note a change, or raise its error."""
        self.read(name, None)
        self.calls.append((name, *arguments))

    async def hub_files(self, repo: str, revision: str | None = None) -> list[HubFilesRecord]:
        await self.hub_pace.wait()
        return self.read("hub_files", list(self.world.hub_files.get(repo, [])), repo, revision)

    def status(self) -> StatusRecord:
        status = msgspec.structs.replace(self.world.status, last_event_id=self.events.last_id)
        return self.read("status", status)

    def active_requests(self) -> list[ActiveRequestRecord]:
        return self.read("active_requests", list(self.world.active))

    async def sessions(self, query: HistoryQuery) -> list[SessionRecord]:
        found = [one for one in self.world.sessions if query.model in {None, one.model}]
        return self.read("sessions", found[: query.limit], query)

    def note_refusal(self, record: RequestRecord, code: str) -> None:
        self.refusals.append((record, code))

    def queue(self) -> list[WaitingRecord]:
        return self.world.waiting

    def log_id(self, name: str) -> str:
        return name if name in self.world.logs else self.models.record(name).id

    async def log_tail(self, name: str, lines: int) -> str:
        kept = self.world.logs.get(self.log_id(name), [])
        return "".join(f"{line.text}\n" for line in kept[max(0, len(kept) - lines) :])

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer a chat, in place of a model's server."""
        body = await request.json()
        model = self.models.record(body.pop("model"))
        messages = body.pop("messages")
        del body["stream"], body["stream_options"]
        self.read(f"chat with {model.id}", None)
        self.change("chat", model.id, messages, body)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        self.chats_open += 1
        try:
            if model.status is not ModelStatus.LOADED:
                await response.write(f": loading {model.id} 42%\n\n".encode())
            await self.first_piece.wait()
            for piece in self.world.thinking:
                await _say(response, {"reasoning_content": piece})
            for number, piece in enumerate(self.world.answer):
                if number:
                    await self.chat_pace.wait()
                await _say(response, {"content": piece})
            usage = {"prompt_tokens": 12, "completion_tokens": len(self.world.answer)}
            timings = {"predicted_per_second": 21.4}
            await _say(response, {}, finish_reason="stop", usage=usage, timings=timings)
            await response.write(b"data: [DONE]\n\n")
        finally:
            self.chats_open -= 1
        return response


async def _say(
    response: web.StreamResponse,
    delta: dict[str, str],
    *,
    finish_reason: str | None = None,
    **more: Any,
) -> None:
    chunk = {"choices": [{"delta": delta, "finish_reason": finish_reason}], **more}
    await response.write(f"data: {json.dumps(chunk)}\n\n".encode())


async def echo(request: web.Request) -> web.StreamResponse:
    """Answer with what arrived, in place of the forwarder."""
    with request.app[BODY_LIMITS].share() as share:
        body = await read_body(request, share, 1 << 20)
    return json_answer({"path": request.path, "method": request.method, "size": len(body)})


class Front:
    """The running HTTP layer: ``port``, and a client whose URLs are paths."""

    def __init__(
        self,
        service: FakeService,
        port: int,
        client: aiohttp.ClientSession,
        app: web.Application,
        login: AdminLogin,
    ) -> None:
        self.service = service
        self.login = login
        self.app = app
        self.port = port
        self.client = client
        self.url = f"http://127.0.0.1:{port}"
        self.requests: list[web.Request] = []
        """All requests, in order."""


@asynccontextmanager
async def serving(
    service: FakeService,
    forward: Forward = echo,
    *,
    host: str = "127.0.0.1",
    heartbeat: float = 15.0,
    send_timeout: float = 60.0,
    head_timeout: float = 60.0,
    most_connections: int | None = None,
    most_of_one: int | None = None,
    login: AdminLogin | None = None,
    forwarder: Forwarder | None = None,
    certificate: ServerCertificate | None = None,
) -> AsyncIterator[Front]:
    """Serve on a free port as the real service does, until the block ends.

    With a ``forwarder``, it forwards requests for models, also on the lean path. With a
    ``certificate``, it speaks TLS.
    """
    login = login or AdminLogin(service, Path("/proc/none/login.secret"))
    app = assemble(
        service,
        forwarder.handle if forwarder is not None else forward,
        login,
        forwarder=forwarder,
        heartbeat=heartbeat,
        send_timeout=send_timeout,
    )

    @web.middleware
    async def note(request: web.Request, handler: Forward) -> web.StreamResponse:
        front.requests.append(request)
        return await handler(request)

    app.middlewares.insert(0, note)
    runner = Runner(
        app,
        head_timeout=head_timeout,
        most_connections=most_connections,
        most_of_one=most_of_one,
        handler_cancellation=True,
        access_log=None,
        shutdown_timeout=2.0,
    )
    await runner.setup()
    listener = listening_socket(host, 0)
    port = listener.getsockname()[1]
    stop = await runner.accept(listener, certificate)
    service.address = (host, port)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client:
        front = Front(service, port, client, app, login)
        try:
            yield front
        finally:
            await stop()
            await runner.cleanup()
