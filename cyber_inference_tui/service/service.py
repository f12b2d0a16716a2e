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

import msgspec

from cyber_inference_tui import __version__
from cyber_inference_tui.errors import ConfigError, ConflictError, CyberError
from cyber_inference_tui.gguf.demo import write_demo
from cyber_inference_tui.hub.downloads import Downloads
from cyber_inference_tui.library.catalog import Catalog, LocalModel
from cyber_inference_tui.llama.binary import LlamaBinary, find_llama_server
from cyber_inference_tui.llama.command import MAX_CONNECTIONS
from cyber_inference_tui.llama.launch import Launcher
from cyber_inference_tui.llama.log import LogRing
from cyber_inference_tui.llama.needs import Need
from cyber_inference_tui.llama.orphans import PidRecord
from cyber_inference_tui.monitor.memory import MemoryReading
from cyber_inference_tui.monitor.memory_reader import MemoryReader
from cyber_inference_tui.monitor.nvml import Nvml
from cyber_inference_tui.monitor.sampler import Sampler
from cyber_inference_tui.records import (
    ConfigValueRecord,
    LlamaServerRecord,
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
from cyber_inference_tui.scheduler.scheduler import Scheduler
from cyber_inference_tui.service.events import EventBus
from cyber_inference_tui.service.history import History
from cyber_inference_tui.service.hub import Hub
from cyber_inference_tui.service.listing import (
    demo_path,
    disk_paths,
    library_for,
    unloaded_record,
)
from cyber_inference_tui.service.logs import SERVICE_LOG, Logs
from cyber_inference_tui.service.metrics import Metrics, Present
from cyber_inference_tui.service.monitoring import Monitoring
from cyber_inference_tui.settings.credentials import GUARDS, check_kept
from cyber_inference_tui.settings.edit import set_value, split_key
from cyber_inference_tui.settings.load import Loaded, check_value, load_if_there
from cyber_inference_tui.settings.schema import Settings
from cyber_inference_tui.settings.watch import FileWatch

_SCAN_INTERVAL = 3.0
_CONFIG_INTERVAL = 1.0
_EVENT_FLUSH = 0.1

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
        self.loaded = loaded
        # Now, not when the watching begins: an edit in between would never be seen.
        self._config_watch = FileWatch(loaded.config_path)
        self.started_at = utc_now()
        self.address: tuple[str, int] = (loaded.settings.host, loaded.settings.port)
        self.events = EventBus()
        self._environ = environ
        self._flags = flags
        self._demo = demo
        data_dir = loaded.settings.data_dir
        self._logs = Logs(data_dir / "logs", now=utc_now, on_lines=self._flush_soon)
        self.history = History(data_dir / "history.sqlite3", now=utc_now)
        self._metrics = Metrics(self._present)
        self._pending_models: set[str] = set()
        self._flush_handle: asyncio.TimerHandle | None = None
        self._binary: LlamaBinary | None = None
        self._library = library_for(loaded.settings, demo=demo)
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
        self._hub = Hub(
            settings=lambda: self.settings,
            environ=environ,
            events=self.events,
            now=utc_now,
            rescan=self._rescan,
        )
        self._needs: dict[str, tuple[str, Need]] = {}
        """What models would take, by id, with the signature for which that holds."""
        self._loop_tasks: list[asyncio.Task[None]] = []
        self._scanning = asyncio.Lock()
        self._logs.adopt(SERVICE_LOG, service_log)

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
        with contextlib.suppress(CyberError):
            # Known early for the status page; a load says it again if there is none.
            await asyncio.to_thread(self._find_binary)
        self._loop_tasks = [
            asyncio.create_task(self._watch_library(), name="watch the library"),
            asyncio.create_task(self._watch_config(), name="watch the configuration"),
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
            path = demo_path(settings)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_demo(path)

    def _find_binary(self) -> LlamaBinary:
        self._binary = find_llama_server(
            setting=self.settings.llama_server_path,
            data_dir=self.settings.data_dir,
            environ=self._environ,
        )
        return self._binary

    # Watching files

    async def _watch_library(self) -> None:
        while True:
            await self._size_up()
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
        return self.catalog

    async def _recall(self) -> None:
        """What former runs learned of loads."""
        try:
            for measurement in reversed(await self.history.measurements()):
                self._experience.recall(measurement)
        except CyberError as error:
            _logger.warning("what loads took before is not known: %s", error)

    async def _size_up(self) -> None:
        """Reckon what each model would take, as far as that has changed."""
        for model in list(self.catalog.models.values()):
            signature = self._launcher.signature(model, self.settings)
            known = self._needs.get(model.id)
            measured = self._experience.footprint(signature)
            if known is None or known[0] != signature or measured not in {None, known[1].footprint}:
                need = await self._launcher.need(model, self.settings, ask_engine=False)
                self._needs[model.id] = (signature, need)
        for model_id in self._needs.keys() - self.catalog.models.keys():
            del self._needs[model_id]

    async def _read_memory(self, pids: Collection[int]) -> MemoryReading | None:
        reading = await asyncio.to_thread(self._memory_reader.read, pids)
        return reading if reading.total > 0 else None

    async def _watch_config(self) -> None:
        while True:
            await asyncio.sleep(_CONFIG_INTERVAL)
            if not await asyncio.to_thread(self._config_watch.changed):
                continue
            try:
                await self._reload()
            except ConfigError as error:
                _logger.error("the changed configuration is refused, the old one stays: %s", error)
                self.events.publish("config", {"error": str(error)})

    async def _reload(self) -> None:
        """Take the configuration file as it is now; raises ``ConfigError`` and changes nothing."""
        new = await asyncio.to_thread(
            load_if_there, self.loaded.config_path, environ=self._environ, flags=self._flags
        )
        if new.settings == self.settings:
            self.loaded = new
            return
        check_kept(self.settings, new.settings, self.address[0])
        self.loaded = new
        self._library = library_for(new.settings, demo=self._demo)
        logging.getLogger("cyber_inference_tui").setLevel(new.settings.log_level.upper())
        await self._scan()
        self.scheduler.configure(new.settings)
        await self._size_up()
        self.events.publish("config", {"error": None})
        _logger.info("the configuration was read anew from %s", new.config_path)

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
        return [self._record(model) for _, model in sorted(self.catalog.models.items())]

    def model(self, model_id: str) -> ModelRecord:
        """One model by id or alias; raises ``ModelNotFoundError``."""
        return self._record(self.catalog.resolve(model_id))

    def _record(self, model: LocalModel) -> ModelRecord:
        state = self.scheduler.state(model.id)
        _, need = self._needs.get(model.id, ("", None))
        if state is None:
            return unloaded_record(model, need)
        server = state.server
        wait = self.scheduler.expected_wait(state)
        return msgspec.structs.replace(
            unloaded_record(model, state.need or need),
            status=state.status,
            progress=state.progress,
            port=server.port if server else None,
            **({"context_size": server.context_size} if server else {}),
            pid=server.pid if server else None,
            pinned=state.is_pinned,
            in_flight=state.in_flight,
            queued=state.queued,
            expected_wait_seconds=None if wait is None else round(wait, 1),
            memory_bytes=state.footprint.total if state.footprint else None,
            loaded_at=state.loaded_at,
            last_used_at=state.last_used_at,
            error=str(state.failure) if state.failure else model.problem,
        )

    def log_tail(self, log_id: str, lines: int) -> str:
        """The last lines of a log as text; raises ``ModelNotFoundError``."""
        # What is in the answer must not come again as an event after it.
        self._flush()
        if log_id not in self._logs:
            log_id = self.catalog.resolve(log_id).id
        return self._logs.tail(log_id, lines)

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

    def config(self) -> list[ConfigValueRecord]:
        """Every setting with its value and source; secrets masked."""
        return self.loaded.records()

    async def set_config(self, key: str, value: Any) -> ConfigValueRecord:
        """Write one setting into the configuration file and apply it."""
        model_id, known = split_key(key)
        if key in GUARDS and not check_value(key, value):
            # Before it is written: the file would be refused as a whole, now and later.
            wanted = msgspec.structs.replace(self.settings, **{key: known.default})
            check_kept(self.settings, wanted, self.address[0])
        await asyncio.to_thread(set_value, self.loaded.config_path, key, value)
        await self._reload()
        return self.loaded.record(known, model_id)

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
