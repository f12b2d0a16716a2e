"""The service: settings, library, servers, scheduler and events, composed and kept going.

It is what the HTTP layer talks to; it knows nothing of HTTP itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from functools import partial
from types import TracebackType
from typing import Any, Self

from cyber_inference_tui import __version__
from cyber_inference_tui.errors import ConflictError, CyberError
from cyber_inference_tui.gguf.demo import DEMO_ID
from cyber_inference_tui.hub.downloads import Downloads
from cyber_inference_tui.library.catalog import Catalog, LocalModel
from cyber_inference_tui.llama.binary import LlamaBinary, find_llama_server
from cyber_inference_tui.llama.command import MAX_CONNECTIONS
from cyber_inference_tui.llama.expectation import formula_need
from cyber_inference_tui.llama.launch import Launcher
from cyber_inference_tui.llama.log import LogRing
from cyber_inference_tui.llama.orphans import PidRecord
from cyber_inference_tui.monitor.memory import MemoryReading
from cyber_inference_tui.monitor.memory_reader import MemoryReader
from cyber_inference_tui.monitor.nvml import Nvml
from cyber_inference_tui.monitor.sampler import Sampler
from cyber_inference_tui.records import (
    ActiveRequestRecord,
    HubFilesRecord,
    HubModelRecord,
    LlamaServerRecord,
    LogLevel,
    LogPage,
    LogRecord,
    MemoryRoom,
    ModelDetails,
    ModelRecord,
    ModelStatus,
    ModelTotals,
    RequestRecord,
    ResourceSample,
    ServiceEvent,
    SessionRecord,
    StatusRecord,
    WaitingRecord,
)
from cyber_inference_tui.scheduler.experience import Experience
from cyber_inference_tui.scheduler.room import Survey
from cyber_inference_tui.scheduler.scheduler import Scheduler
from cyber_inference_tui.service.active import ActiveRequests
from cyber_inference_tui.service.configuring import Configuration, configured_anew
from cyber_inference_tui.service.details import details_of
from cyber_inference_tui.service.events import EventBus
from cyber_inference_tui.service.history import History
from cyber_inference_tui.service.hub import Hub
from cyber_inference_tui.service.install import INSTALL_LOG, Installation
from cyber_inference_tui.service.install_ground import ground_for
from cyber_inference_tui.service.listing import (
    disk_paths,
    library_for,
    touched_record,
    unloaded_record,
    with_fit,
    write_demo_for,
)
from cyber_inference_tui.service.logs import SERVICE_LOG, Logs
from cyber_inference_tui.service.metrics import Metrics, Present
from cyber_inference_tui.service.monitoring import Monitoring
from cyber_inference_tui.service.offers import offers
from cyber_inference_tui.service.reckoning import Reckoning
from cyber_inference_tui.settings.load import Loaded
from cyber_inference_tui.settings.schema import Settings

_SCAN_INTERVAL = 3.0
_EVENT_FLUSH = 0.1

_IN_MEMORY = frozenset({ModelStatus.LOADING, ModelStatus.LOADED})

_logger = logging.getLogger(__name__)


def utc_now() -> datetime:
    """The present, with its zone."""
    return datetime.now(UTC)


class Service:
    """Everything below the HTTP layer. Use it as ``async with``; one event loop owns it all."""

    def __init__(
        self,
        loaded: Loaded,
        *,
        demo: bool,
        environ: Mapping[str, str],
        flags: Mapping[str, Any],
        service_log: LogRing,
    ) -> None:
        self.configuration = Configuration(
            loaded,
            bound_host=lambda: self.address[0],
            environ=environ,
            flags=flags,
            apply=self._apply,
            tell=self._tell_config,
            restarts=self._restarts,
        )
        self.started_at = utc_now()
        self.address: tuple[str, int] = (loaded.settings.host, loaded.settings.port)
        self.events = EventBus()
        self._environ = environ
        self._demo = demo
        data_dir = loaded.settings.data_dir
        self._logs = Logs(
            data_dir / "logs", space=service_log.space, now=utc_now, on_lines=self._flush_soon
        )
        self.history = History(data_dir / "history.sqlite3", now=utc_now)
        self._metrics = Metrics(self._present)
        self._pending_models: set[str] = set()
        self._flush_handle: asyncio.TimerHandle | None = None
        self._binary: LlamaBinary | None = None
        self._binary_problem: str | None = None
        self._library = library_for(loaded.settings, demo=demo, environ=environ)
        self.catalog: Catalog = Catalog(models={}, problems=())
        self._experience = Experience(on_new=self.history.add_measurement)
        nvml = Nvml()
        self._memory_reader = MemoryReader(loaded.settings.system_root, nvml, environment=environ)
        self._launcher = Launcher(
            find_binary=self._find_binary,
            log_for=self._logs.ring,
            pids=PidRecord(data_dir / "servers.json"),
            environ=environ,
            measured=self._experience.footprint,
        )
        self.scheduler = Scheduler(
            launcher=self._launcher,
            settings=loaded.settings,
            max_connections=MAX_CONNECTIONS,
            on_state=self._state_changed,
            on_detail=self._detail_changed,
            on_session=self._session_ended,
            read_memory=self._read_memory,
            experience=self._experience,
        )
        self.monitoring = Monitoring(
            make_sampler=partial(Sampler, loaded.settings.system_root, nvml=nvml),
            disks=lambda: disk_paths(self.settings),
            states=self.scheduler.states,
            events=self.events,
            interval=lambda: self.settings.sample_interval,
            now=utc_now,
        )
        self.installation = Installation(
            ground_for(lambda: self.loaded, environ, utc_now),
            guard=self._launcher.guard,
            log=self._logs.ring(INSTALL_LOG),
            publish=partial(self.events.publish, "service"),
            found=self._binary_changed,
            now=utc_now,
        )
        self._hub = Hub(
            settings=lambda: self.settings,
            environ=environ,
            events=self.events,
            now=utc_now,
            rescan=self._rescan,
        )
        self._reckoning = Reckoning(self.scheduler, self._launcher, self._experience)
        self.active = ActiveRequests()
        self._loop_tasks: list[asyncio.Task[None]] = []
        self._scanning = asyncio.Lock()
        service_log.begin_run(os.getpid(), first=0)
        self._logs.adopt(SERVICE_LOG, service_log)

    @property
    def loaded(self) -> Loaded:
        """The settings in force, and where they come from."""
        return self.configuration.loaded

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self.loaded.settings

    @property
    def downloads(self) -> Downloads:
        """Models on their way from the hub."""
        return self._hub.downloads

    # Life

    async def __aenter__(self) -> Self:
        try:
            await asyncio.to_thread(self._prepare_directories)
            self._logs.start()
        except OSError as error:
            raise CyberError(
                f"Cannot create {error.filename}: {error.strerror}.",
                hint="Choose other places with data_dir and models_dir.",
            ) from error
        await self.history.start()
        await self._recall()
        await self._launcher.start()
        await self._scan()
        await self._look_for_binary()
        self._loop_tasks = [
            asyncio.create_task(self._watch_library(), name="watch the library"),
            asyncio.create_task(self.configuration.watch(), name="watch the configuration"),
        ]
        # In the order of the file; the first ones get the room that there is.
        for model_id, table in self.settings.models.items():
            model = self.catalog.models.get(model_id)
            if table.preload and model is not None and model.problem is None:
                self.scheduler.request_load(model, reason="preload")
        self.monitoring.start()
        await self._hub.start()
        self.events.publish("service", ServiceEvent(state="started"))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for task in self._loop_tasks:
            task.cancel()
        await asyncio.gather(*self._loop_tasks, return_exceptions=True)
        await self._hub.stop()
        await self.monitoring.stop()
        await self.installation.close()
        await self.scheduler.close()
        await self._launcher.close()
        await self.history.stop()
        await self._metrics.close()
        self.close_events()
        await self._logs.stop()

    def close_events(self) -> None:
        """Tell all who watch that the service ends, and end their streams."""
        self._flush()
        self.events.publish("service", ServiceEvent(state="stopping"))
        self.events.close()

    def _prepare_directories(self) -> None:
        settings = self.settings
        settings.models_dir.mkdir(parents=True, exist_ok=True)
        if self._demo:
            write_demo_for(settings)

    def _find_binary(self) -> LlamaBinary:
        try:
            binary = find_llama_server(
                setting=self.settings.llama_server_path,
                data_dir=self.settings.data_dir,
                environ=self._environ,
            )
        except CyberError as error:
            self._binary, self._binary_problem = None, str(error)
            raise
        self._binary, self._binary_problem = binary, None
        return binary

    async def _look_for_binary(self) -> None:
        """Find it for the status; why there is none is said there, and again by a load."""
        with contextlib.suppress(CyberError):
            await asyncio.to_thread(self._find_binary)

    async def _binary_changed(self) -> None:
        """Another llama-server may be there: models take it at their next load."""
        await asyncio.to_thread(self._find_binary)
        await self._reckon()

    # Watching files

    async def _watch_library(self) -> None:
        while True:
            await self._reckon(max_age=_SCAN_INTERVAL / 2)
            await asyncio.sleep(_SCAN_INTERVAL)
            try:
                await self._scan()
            except OSError as error:
                _logger.warning("cannot read the model directories: %s", error)

    async def _scan(self) -> None:
        # Several may want one: the watch, a changed file, a deleted model.
        async with self._scanning:
            before = self.catalog.models
            self.catalog = await asyncio.to_thread(self._library.scan)
        for model_id, model in self.catalog.models.items():
            if before.get(model_id) != model:
                self.scheduler.refresh(model)
                self._state_changed(model_id)
        for model_id in before.keys() - self.catalog.models.keys():
            self.scheduler.remove(model_id)
            self.events.publish("model", {"id": model_id, "status": None})

    async def _rescan(self) -> Catalog:
        await self._scan()
        await self._reckon(max_age=_SCAN_INTERVAL)
        return self.catalog

    async def _recall(self) -> None:
        """What former runs learned of loads."""
        try:
            for measurement in reversed(await self.history.measurements()):
                self._experience.recall(measurement)
        except CyberError as error:
            _logger.warning("what loads took before is not known: %s", error)

    async def _reckon(self, *, max_age: float = 0.0) -> None:
        """Reckon anew what models take and what fits, and tell where that has changed.

        By a reading of the memory that is at most ``max_age`` seconds old.
        """
        await self._reckoning.update(self.catalog.models, self.settings)
        await self.scheduler.look(max_age)
        for model_id in self._reckoning.changed_fits(self.catalog.models.values()):
            self._detail_changed(model_id)

    async def _read_memory(self, pids: Collection[int]) -> MemoryReading | None:
        reading = await asyncio.to_thread(self._memory_reader.read, pids)
        return reading if reading.total > 0 else None

    async def _apply(self, settings: Settings) -> None:
        """Put changed settings into effect."""
        self._library = library_for(settings, demo=self._demo, environ=self._environ)
        logging.getLogger("cyber_inference_tui").setLevel(settings.log_level.upper())
        await self._look_for_binary()
        await self._scan()
        self.scheduler.configure(settings)
        await self._reckon()
        for model_id in self.scheduler.loaded_ids:
            # When it idles out, and how it is configured, may have changed.
            self._detail_changed(model_id)

    def _restarts(self, settings: Settings) -> list[str]:
        return self.scheduler.would_restart(
            settings, lambda model: configured_anew(model, settings)
        )

    def _tell_config(self, error: str | None) -> None:
        self.events.publish("config", {"error": error})

    # Reading

    def status(self) -> StatusRecord:
        """The service in one glance."""
        binary = self._binary
        return StatusRecord(
            version=__version__,
            pid=os.getpid(),
            uptime_seconds=round((utc_now() - self.started_at).total_seconds(), 3),
            host=self.address[0],
            port=self.address[1],
            llama_server=LlamaServerRecord(
                path=str(binary.path) if binary else None,
                version=binary.version if binary else None,
                problem=self._binary_problem,
            ),
            config_path=str(self.loaded.config_path),
            data_dir=str(self.settings.data_dir),
            models_dir=str(self.settings.models_dir),
            models_loaded=len(self.scheduler.loaded_ids),
            requests_in_flight=self.scheduler.in_flight,
            requests_queued=self.scheduler.waiting,
            last_event_id=self.events.last_id,
        )

    def models(self) -> list[ModelRecord]:
        """Every local model, by id."""
        survey = self.scheduler.survey()
        return [self._record(model, survey) for _, model in sorted(self.catalog.models.items())]

    def model(self, model_id: str) -> ModelRecord:
        """One model by id or alias; raises ``ModelNotFoundError``."""
        return self._record(self.catalog.resolve(model_id))

    def _record(self, model: LocalModel, survey: Survey | None = None) -> ModelRecord:
        state = self.scheduler.state(model.id)
        need = self._reckoning.need(model)
        if state is None:
            record = unloaded_record(model, self.settings, need)
        else:
            wait = self.scheduler.expected_wait(state)
            record = touched_record(model, self.settings, state, need, wait=wait)
        if record.status in _IN_MEMORY:
            return record
        return with_fit(record, self._reckoning.verdict(model, survey or self.scheduler.survey()))

    async def details(self, model_id: str) -> ModelDetails:
        """Everything there is to know of a model; raises ``ModelNotFoundError``."""
        model = self.catalog.resolve(model_id)
        return await details_of(
            model,
            self._record(model),
            state=self.scheduler.state(model.id),
            loaded=self.loaded,
            launcher=self._launcher,
            survey=self.scheduler.survey(),
        )

    def memory_room(self) -> list[MemoryRoom]:
        """The memory that models may have."""
        return self.scheduler.survey().rooms()

    def active_requests(self) -> list[ActiveRequestRecord]:
        """Every request that is not finished, the oldest first."""
        return self.active.records(self.scheduler.positions())

    def log_id(self, name: str) -> str:
        """The id of the log of ``name``: a log's id, or a model's id or alias.

        Raises ``ModelNotFoundError``.
        """
        return name if name in self._logs else self.catalog.resolve(name).id

    def logs(self) -> list[LogRecord]:
        """Every log that has begun, by id."""
        return self._logs.records()

    async def log_tail(self, name: str, lines: int) -> str:
        """The last lines of a log as text; raises ``ModelNotFoundError``."""
        # What is in the answer must not come again as an event after it.
        self._flush()
        return await self._logs.tail(self.log_id(name), lines)

    async def log_lines(
        self,
        name: str,
        *,
        before: int | None,
        after: int | None,
        limit: int,
        level: LogLevel | None,
        text: str,
    ) -> LogPage:
        """A part of a log, as ``Logs.page`` gives it; raises ``ModelNotFoundError``."""
        return await self._logs.page(
            self.log_id(name), before=before, after=after, limit=limit, level=level, text=text
        )

    async def requests(
        self,
        *,
        limit: int,
        before: int | None,
        model: str | None,
        failed: bool | None,
        since: datetime | None,
    ) -> list[RequestRecord]:
        """Finished requests, newest first."""
        return await self.history.requests(
            limit=limit, before=before, model=model, failed=failed, since=since
        )

    async def sessions(
        self, *, limit: int, before: int | None, model: str | None, since: datetime | None
    ) -> list[SessionRecord]:
        """Sessions, newest first: those that have not ended stand before all others."""
        ended = await self.history.sessions(limit=limit, before=before, model=model, since=since)
        if before is not None:
            return ended
        running = [one for one in self.scheduler.sessions() if model in {None, one.model}]
        running.sort(key=lambda one: one.loaded_at, reverse=True)
        return [*running, *ended][:limit]

    def queue(self) -> list[WaitingRecord]:
        """Every request that waits for its model."""
        return self.scheduler.queue()

    async def totals(self) -> list[ModelTotals]:
        """Sums over the requests that are kept, by model."""
        return await self.history.totals()

    async def metrics(self) -> bytes:
        """The metrics, as text for Prometheus."""
        return await self._metrics.scrape()

    def _present(self) -> Present:
        return Present(
            version=__version__,
            llama_server_version=self._binary.version if self._binary else None,
            started_at=self.started_at,
            models=self.models(),
            running=self.scheduler.sessions(),
            memory=self.scheduler.memory_reading,
            sample=self.monitoring.last,
        )

    async def resources(self) -> ResourceSample:
        """The machine and its loaded models now."""
        return await self.monitoring.latest()

    def resource_history(self, seconds: int) -> list[bytes]:
        """Samples of the last ``seconds``, oldest first, each as JSON."""
        return self.monitoring.history(seconds)

    # Acting

    async def add_demo(self) -> ModelRecord:
        """Have the built-in model until the service ends, as ``--demo`` does; its record."""
        if not self._demo:
            await asyncio.to_thread(write_demo_for, self.settings)
            self._demo = True
            self._library = library_for(self.settings, demo=True, environ=self._environ)
        await self._scan()
        return self.model(DEMO_ID)

    async def load_model(self, model_id: str, *, wait: bool) -> ModelRecord:
        """Load a model; with ``wait`` the record is the one after the load."""
        model = self.catalog.resolve(model_id)
        if wait:
            await self.scheduler.load(model)
        else:
            self.scheduler.request_load(model)
        return self._record(model)

    async def unload_model(self, model_id: str, *, force: bool) -> ModelRecord:
        """Unload a model, after its requests unless ``force``."""
        model = self.catalog.resolve(model_id)
        await self.scheduler.unload(model, force=force)
        return self._record(model)

    async def pin(self, model_id: str, pinned: bool) -> ModelRecord:
        """Keep a model from being evicted or idled out, or allow it again."""
        model = self.catalog.resolve(model_id)
        self.scheduler.pin(model, pinned)
        return self._record(model)

    async def delete_model(self, model_id: str) -> ModelRecord:
        """Remove an unloaded model's files under ``models_dir``; its last record."""
        model = self.catalog.resolve(model_id)
        record = self._record(model)
        if record.status not in {ModelStatus.UNLOADED, ModelStatus.FAILED}:
            raise ConflictError(f"{model.id} is {record.status.value}.", hint="Unload it first.")
        await asyncio.to_thread(self._library.delete, self.catalog, model.id)
        await self._scan()
        return record

    # The hub

    async def hub_search(
        self,
        query: str,
        *,
        sort: str = "downloads",
        limit: int = 30,
        cursor: str | None = None,
        author: str | None = None,
    ) -> tuple[list[HubModelRecord], str | None]:
        """A page of models on the hub, and the cursor of the next one."""
        return await self._hub.browse.search(
            query, sort=sort, limit=limit, cursor=cursor, author=author
        )

    async def hub_files(self, repo: str, revision: str | None = None) -> list[HubFilesRecord]:
        """What a repository has, and how it would fit here now."""
        repository = await self._hub.browse.repository(repo, revision)
        headers = await self._hub.browse.headers(repository)
        devices = await self._launcher.devices()
        await self.scheduler.look(_SCAN_INTERVAL)
        return offers(
            repository,
            headers,
            local=self.catalog.models.values(),
            reckon=lambda model, files: formula_need(model, self.settings, files, devices=devices),
            survey=self.scheduler.survey(),
        )

    # Events

    def note_request(self, record: RequestRecord, error_code: str | None) -> None:
        """A request is finished: keep it, count it, and tell whoever watches."""
        self.history.add_request(record)
        self._metrics.note_request(record, error_code)
        self.events.publish("request", record)

    def _session_ended(self, record: SessionRecord) -> None:
        self.history.add_session(record)
        self._metrics.note_session(record)

    def _state_changed(self, model_id: str) -> None:
        self._pending_models.discard(model_id)
        model = self.catalog.models.get(model_id)
        if model is not None:
            self.events.publish("model", self._record(model))

    def _detail_changed(self, model_id: str) -> None:
        self._pending_models.add(model_id)
        self._flush_soon()

    def _flush_soon(self) -> None:
        if self._flush_handle is None:
            loop = asyncio.get_running_loop()
            self._flush_handle = loop.call_later(_EVENT_FLUSH, self._flush)

    def _flush(self) -> None:
        if self._flush_handle is not None:
            self._flush_handle.cancel()
            self._flush_handle = None
        for lines in self._logs.take_pending():
            self.events.publish("log", lines)
        models, self._pending_models = self._pending_models, set()
        for model_id in models:
            self._state_changed(model_id)
