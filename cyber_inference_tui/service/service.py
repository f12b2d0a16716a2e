"""The service: composes settings, library, servers, scheduler and events, and runs them.

The HTTP layer calls it; it knows nothing of HTTP itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from cyber_inference_tui import __version__
from cyber_inference_tui.certificates import fingerprint, read_certificate
from cyber_inference_tui.errors import CyberError, NoLlamaServerError, StorageError
from cyber_inference_tui.llama.binary import LlamaBinary, locate_llama_server, probe
from cyber_inference_tui.llama.launcher import Launcher
from cyber_inference_tui.llama.log import Log
from cyber_inference_tui.llama.log_files import LogLimits
from cyber_inference_tui.llama.need_estimate import formula_need
from cyber_inference_tui.llama.orphans import PidRecord
from cyber_inference_tui.llama.program import kill_programs
from cyber_inference_tui.llama.prompts import PromptStore
from cyber_inference_tui.llama.spec import resolve
from cyber_inference_tui.llama.split import Lender, Splitter, plan_split
from cyber_inference_tui.monitor.memory_reader import MemoryReader
from cyber_inference_tui.monitor.memory_reading import MemoryReading
from cyber_inference_tui.monitor.nvml import Nvml
from cyber_inference_tui.monitor.power import PowerSensor
from cyber_inference_tui.monitor.sampler import MachineSampler
from cyber_inference_tui.peers.discovery import Announced, Discovery
from cyber_inference_tui.peers.lenders import PeerLenders
from cyber_inference_tui.peers.link import expected_speed
from cyber_inference_tui.peers.peers import Peers, own_name
from cyber_inference_tui.records import (
    ActiveRequestRecord,
    HubFilesRecord,
    KeyRecord,
    LlamaServerRecord,
    ModelRecord,
    RequestRecord,
    ServiceEvent,
    SessionRecord,
    StatusRecord,
    WaitingRecord,
)
from cyber_inference_tui.records.peers import Box, PeerRecord
from cyber_inference_tui.records.queries import (
    HistoryQuery,
)
from cyber_inference_tui.records.workers import SplitCheck, SplitQuestion
from cyber_inference_tui.scheduler.load_history import LoadHistory
from cyber_inference_tui.scheduler.scheduler import Scheduler
from cyber_inference_tui.service.active_requests import ActiveRequests
from cyber_inference_tui.service.api_keys import ApiKeys
from cyber_inference_tui.service.audit_log import AUDIT_FILE, AuditLog
from cyber_inference_tui.service.bench.job import Bench
from cyber_inference_tui.service.bench.measure import Measurer
from cyber_inference_tui.service.bench.power_modes import PowerModes
from cyber_inference_tui.service.change_notifier import ChangeNotifier
from cyber_inference_tui.service.checks.checker import Checker
from cyber_inference_tui.service.checks.kept_checks import KeptChecks
from cyber_inference_tui.service.configuration import Configuration
from cyber_inference_tui.service.energy import EnergyReadings, in_thread
from cyber_inference_tui.service.extra_ports import ExtraPorts
from cyber_inference_tui.service.finished_requests import FinishedRequests
from cyber_inference_tui.service.history import HISTORY_FILE, History
from cyber_inference_tui.service.housekeeping import Housekeeping
from cyber_inference_tui.service.hub import Hub
from cyber_inference_tui.service.install import INSTALL_LOG, Installation
from cyber_inference_tui.service.install_context import InstallContext
from cyber_inference_tui.service.live_figures import LiveFigures
from cyber_inference_tui.service.logs import LOGS, SERVICE_LOG, Logs
from cyber_inference_tui.service.metric_counters import Noted
from cyber_inference_tui.service.metrics import Metrics
from cyber_inference_tui.service.metrics_text import MetricsState
from cyber_inference_tui.service.model_usage import recent_speeds
from cyber_inference_tui.service.models import Models
from cyber_inference_tui.service.monitoring import Monitoring
from cyber_inference_tui.service.offers import offers
from cyber_inference_tui.service.recent_events import RecentEvents
from cyber_inference_tui.service.refusals import Refusals
from cyber_inference_tui.service.shared_files import SharedFiles
from cyber_inference_tui.service.trends import Trends
from cyber_inference_tui.service.tuning.tuned import TunedSettings
from cyber_inference_tui.service.tuning.tuner import Tuner
from cyber_inference_tui.service.workers import Workers
from cyber_inference_tui.settings.load import CurrentSettings, LoadedSettings
from cyber_inference_tui.settings.schema import Settings
from cyber_inference_tui.sockets import is_loopback
from cyber_inference_tui.storage import Storages

_FIRST_SCAN = 10.0
"""Seconds that the start waits for slow storages."""
_RECENT = 3.0
"""Seconds for which a reading of the memory is recent enough to judge a repository."""

_logger = logging.getLogger(__name__)


def utc_now() -> datetime:
    """Return the present time with its zone."""
    return datetime.now(UTC)


class Service:
    """Everything below the HTTP layer. Use it as ``async with``, on one event loop."""

    def __init__(
        self,
        loaded: LoadedSettings,
        *,
        demo: bool,
        environ: Mapping[str, str],
        flags: Mapping[str, Any],
        service_log: Log,
    ) -> None:
        current = self._current = CurrentSettings(loaded)
        self.started_at = utc_now()
        self._began = time.monotonic()
        self.address: tuple[str, int] = (loaded.settings.host, loaded.settings.port)
        data_dir = loaded.settings.data_dir
        self.history = History(data_dir / HISTORY_FILE, now=utc_now)
        self.trends = Trends(self.history, now=utc_now)
        self.events = RecentEvents(now=utc_now, on_mark=self.trends.mark)
        pids = PidRecord(data_dir / "servers.json")
        given_environ, environ = environ, pids.marked(environ)
        self._environ = environ
        self._notifier = ChangeNotifier(
            self.events,
            record=self._record,
            boxes=lambda: self.peers.records(),  # noqa: PLW0108 - they are made later
        )
        self.logs = Logs(
            data_dir / LOGS,
            now=utc_now,
            on_lines=self._notifier.log_lines,
            limits=self._log_limits,
        )
        self.audit = AuditLog(data_dir / LOGS / AUDIT_FILE, now=utc_now, limits=self._log_limits)
        self.keys = ApiKeys(data_dir, now=utc_now, audit=self.audit)
        self.metrics = Metrics(self._metrics_state)
        self._refusals = Refusals(time.monotonic)
        self._storages = Storages()
        self._binary: LlamaBinary | None = None
        self._binary_problem: str | None = None
        self._load_history = LoadHistory(on_new=self.history.add)
        nvml = Nvml()
        root = loaded.settings.system_root
        self._memory_reader = MemoryReader(root, nvml, environment=environ)
        self._prompts = PromptStore(
            data_dir / "prompts", enabled=lambda: self.settings.keep_prompts, now=time.time
        )
        self._launcher = Launcher(
            find_binary=self._find_binary,
            log_for=self.logs.log,
            pids=pids,
            environ=environ,
            measured=self._load_history.footprint,
            folder=loaded.config_path.parent,
            splitter=Splitter(
                lambda: self.lenders,
                lambda: self.workers.room(),  # noqa: PLW0108 - they are made later
            ),
            prompts=self._prompts,
        )
        self.scheduler = Scheduler(
            launcher=self._launcher,
            settings=loaded.settings,
            on_state=self._notifier.state_changed,
            on_detail=self._notifier.detail_changed,
            on_session=self._session_ended,
            read_memory=self._read_memory,
            load_history=self._load_history,
            lending=self._lending,
        )
        self.shared_files = SharedFiles(data_dir, lambda: self.models.catalog.models)
        self._checks = KeptChecks(data_dir)
        self.models = Models(
            current=current,
            environ=environ,
            demo=demo,
            scheduler=self.scheduler,
            launcher=self._launcher,
            notifier=self._notifier,
            audit=self.audit,
            checked=lambda model: self._checks.of(model, self.scheduler.spec(model), self._build()),
            digest=self.shared_files.digest,
        )
        self.monitoring = Monitoring(
            current=current,
            make_sampler=lambda disks: MachineSampler(root, disks, nvml).sample,
            states=self.scheduler.states,
            events=self.events,
            now=utc_now,
            on_sample=self.trends.add,
            energy=lambda: self.energy.record,
        )
        self.energy = EnergyReadings(
            in_thread(PowerSensor(root, nvml).read),
            self.scheduler.energy,
            running=lambda: self.scheduler.in_flight,
        )
        self.installation = Installation(
            InstallContext(current, environ, utc_now),
            guard=self._launcher.guard,
            log=self.logs.log(INSTALL_LOG),
            publish=partial(self.events.publish, "service"),
            on_installed=self._binary_changed,
            now=utc_now,
        )
        self.configuration = Configuration(
            current,
            bound_host=lambda: self.address[0],
            environ=given_environ,
            flags=flags,
            apply=self._apply,
            publish=partial(self.events.publish, "config"),
            audit=self.audit,
            would_restart=self.scheduler.would_restart,
        )
        self._compose_trials(root)
        self.peers = Peers(
            data_dir,
            local=lambda: self.models.catalog.models,
            write=partial(self.configuration.set_table, "peers"),
            now=utc_now,
            changed=self._notifier.peers_changed,
        )
        self.lenders = PeerLenders(self.peers, self._launcher.worker_facts)
        self.workers = Workers(
            self.scheduler, settings=lambda: self.settings, facts=self._launcher.worker_facts
        )
        self.hub = Hub(
            current=current,
            environ=environ,
            events=self.events,
            now=utc_now,
            rescan=self.models.rescan,
            boxes=self.peers.nearby,
            on_files=self.shared_files.note,
        )
        self.housekeeping = Housekeeping(
            settings=lambda: self.settings,
            environ=environ,
            catalog=lambda: self.models.catalog,
            in_use=self.models.reason_in_use,
            files_in_use=self.models.files_in_use,
            last_uses=self.models.last_uses,
            staged=self.hub.staged,
            shared_files=self.shared_files,
            on_deleted=self._files_deleted,
            now=utc_now,
        )
        self.discovery = Discovery()
        self.extra_ports = ExtraPorts()
        self.active = ActiveRequests()
        self.live = LiveFigures(
            self.events,
            records=self.active_requests,
            measured=lambda: recent_speeds(self.monitoring.last, utc_now()),
        )
        self.active.on_add = self.live.look_soon
        self.finished = FinishedRequests(self.note_requests, when_due=self.energy.when_read)
        self._loop_tasks: list[asyncio.Task[None]] = []
        service_log.begin_run(os.getpid(), first=service_log.restored)
        self.logs.adopt(SERVICE_LOG, service_log)

    def _compose_trials(self, root: Path) -> None:
        """Compose what tries, measures and tunes models."""
        self.checker = Checker(
            self.scheduler,
            self._checks,
            resolve=self.models.resolve,
            build=self._build,
            changed=self._notifier.detail_changed,
            now=utc_now,
        )
        self.measurer = Measurer(
            self.scheduler,
            read_machine=self.monitoring.latest,
            read_energy=self.energy.read,
        )
        self.tuned = TunedSettings(self.settings.data_dir, self.configuration)
        self.bench = Bench(
            self.scheduler,
            self.models,
            self.measurer,
            PowerModes(root, self._environ),
            Tuner(
                self.scheduler,
                self.models,
                self.measurer,
                read_machine=self.monitoring.latest,
                flags=self._launcher.flags,
                write=self.tuned.write,
                build=self._build,
                now=utc_now,
            ),
            build=self._build,
            keep=self.history.add_bench,
            publish=partial(self.events.publish, "bench"),
            now=utc_now,
        )

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._current.settings

    def _log_limits(self) -> LogLimits:
        return LogLimits(self.settings.log_max_size, self.settings.log_keep)

    # Start and end

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._end()
            raise
        return self

    async def _start(self) -> None:
        try:
            await self.models.prepare_directories()
            await self.logs.restore()
            self.logs.start()
        except OSError as error:
            raise CyberError(
                f"Cannot create {error.filename}: {error.strerror}.",
                hint="Choose other places with data_dir and models_dir.",
            ) from error
        await self.keys.read()
        await self.peers.read()
        await self._checks.read()
        await self.shared_files.read()
        await self.history.start()
        await self.keys.recall(self.history)
        await self._restore_measurements()
        await self._restore_uses()
        await self._launcher.start()
        await self._prompts.tidy()
        await self.models.scan(_FIRST_SCAN)
        self.events.begin(self.models.records())
        await self._look_for_binary()
        self._loop_tasks = [
            asyncio.create_task(self.models.watch(), name="watch the library"),
            asyncio.create_task(self.configuration.watch(), name="watch the configuration"),
        ]
        self.models.preload()
        self.monitoring.start()
        self.energy.start()
        await self.hub.start()
        await self.peers.configure(self.settings.peers)
        await self._discover(self.settings)
        self.events.publish("service", ServiceEvent(state="started"))

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._end()

    async def _end(self) -> None:
        kill_programs()
        for task in self._loop_tasks:
            task.cancel()
        await asyncio.gather(*self._loop_tasks, return_exceptions=True)
        await self.bench.close()
        await self.discovery.close()
        await self.peers.close()
        await self.models.close()
        await self.hub.stop()
        await self.shared_files.close()
        await self.monitoring.stop()
        await self.energy.stop()
        await self.installation.close()
        await self.scheduler.close()
        await self._prompts.close()
        await self._launcher.close()
        self.finished.flush()
        self.trends.close()
        self.live.stop()
        await self.history.stop()
        await self.metrics.close()
        self.close_events()
        await self.logs.stop()

    def close_events(self) -> None:
        """Publish that the service ends, and end all event streams."""
        self._notifier.flush()
        self.events.publish("service", ServiceEvent(state="stopping"))
        self.events.close()

    def _find_binary(self) -> LlamaBinary:
        try:
            data_dir, setting = self.settings.data_dir, self.settings.llama_server_path
            try:
                path = self._storages.ask(
                    Path(setting or "llama-server"),
                    partial(
                        locate_llama_server,
                        setting=setting,
                        data_dir=data_dir,
                        environ=self._environ,
                    ),
                )
            except StorageError as error:
                raise NoLlamaServerError(error.message, hint=error.hint) from error
            binary = probe(path, data_dir=data_dir, environ=self._environ)
        except CyberError as error:
            self._binary, self._binary_problem = None, str(error)
            raise
        before = self._binary.devices_problem if self._binary else ""
        if binary.devices_problem not in {"", before}:
            _logger.warning(
                "llama-server did not list its GPUs and will be asked again: %s",
                binary.devices_problem,
            )
        self._binary, self._binary_problem = binary, None
        return binary

    async def _look_for_binary(self) -> None:
        """Find the llama-server for the status, which also reports why there is none."""
        with contextlib.suppress(CyberError):
            await asyncio.to_thread(self._find_binary)

    def _build(self) -> str | None:
        """Return the build of the llama-server in use, in the words of its makers."""
        binary = self._binary
        if binary is None:
            return None
        return binary.version if binary.build is None else f"b{binary.build}"

    async def _binary_changed(self) -> None:
        """Find the llama-server again; models use it from their next load on."""
        await asyncio.to_thread(self._find_binary)
        self.scheduler.binary_changed()
        await self.models.update_estimates()

    async def _restore_measurements(self) -> None:
        """Take over what earlier runs measured of loads."""
        try:
            for measurement in reversed(await self.history.measurements()):
                self._load_history.recall(measurement)
        except CyberError as error:
            _logger.warning("earlier measurements of loads are not known: %s", error)

    async def _restore_uses(self) -> None:
        """Take over when earlier runs used each model last."""
        try:
            self.models.former_uses = await self.history.last_uses()
        except CyberError as error:
            _logger.warning("when models were used last is not known: %s", error)

    async def _files_deleted(self, names: list[str]) -> None:
        await self.audit.note("gc", deleted=names)
        await self.models.scan()

    async def _read_memory(self, pids: Collection[int]) -> MemoryReading | None:
        variables = {
            variable
            for model in self.models.catalog.models.values()
            if (variable := model.settings.env.get("CUDA_VISIBLE_DEVICES")) is not None
        }
        reading = await asyncio.to_thread(self._memory_reader.read, pids, variables)
        return reading if reading.total > 0 else None

    async def _apply(self, settings: Settings) -> None:
        """Put changed settings into effect."""
        logging.getLogger("cyber_inference_tui").setLevel(settings.log_level.upper())
        await self.extra_ports.configure(settings)
        await self.models.configure(settings)
        await self._prompts.tidy()
        self.scheduler.configure(settings)
        await self.peers.configure(settings.peers)
        await self._discover(settings)
        await self._look_for_binary()
        await self.models.update_estimates()
        for model_id in self.scheduler.loaded_ids:
            # Its idle timeout and its other settings may have changed.
            self._notifier.detail_changed(model_id)

    async def _discover(self, settings: Settings) -> None:
        own = None
        if settings.mdns:
            host, port = self.address
            scheme = "https" if settings.tls_cert else "http"
            own = Announced(host, port, scheme, await asyncio.to_thread(self.own_fingerprint))
        await self.discovery.configure(own)

    # Reading

    def status(self) -> StatusRecord:
        """Return the state of the service."""
        binary = self._binary
        return StatusRecord(
            version=__version__,
            pid=os.getpid(),
            # Not by the time of day: a board without a clock sets it late, from the network.
            uptime_seconds=round(time.monotonic() - self._began, 3),
            host=self.address[0],
            port=self.address[1],
            extra_ports=self.extra_ports.records,
            llama_server=LlamaServerRecord(
                path=str(binary.path) if binary else None,
                version=binary.version if binary else None,
                build=binary.build if binary else None,
                problem=self._binary_problem,
                devices_problem=(binary.devices_problem or None) if binary else None,
            ),
            config_path=str(self._current.loaded.config_path),
            data_dir=str(self.settings.data_dir),
            models_dir=str(self.settings.models_dir),
            models_loaded=len(self.scheduler.loaded_ids),
            requests_in_flight=self.scheduler.in_flight,
            requests_queued=self.scheduler.waiting,
            last_event_id=self.events.last_id,
        )

    def own_box(self, to_this_machine: bool) -> Box:
        """Return what this box says of itself to another one, on this machine or elsewhere."""
        settings, (host, port) = self.settings, self.address
        scheme = "https" if settings.tls_cert else "http"
        url = ""
        if to_this_machine or not is_loopback(host):
            everywhere = host in {"", "0.0.0.0", "::"}
            shown = "*" if everywhere else f"[{host}]" if ":" in host else host
            url = f"{scheme}://{shown}:{port}"
        return Box(name=own_name(), url=url, certificate=self._own_certificate())

    def own_fingerprint(self) -> str:
        """Return the fingerprint of this box's certificate; empty without TLS."""
        certificate = self._own_certificate()
        return fingerprint(certificate) if certificate else ""

    def _own_certificate(self) -> str:
        path = self.settings.tls_cert
        return read_certificate(Path(path)) if path else ""

    def peer_records(self) -> list[PeerRecord]:
        """Return the other boxes; whoever asks perhaps reads their events next."""
        self.events.expect_reader("peers")
        return self.peers.records()

    def _lending(self, model_id: str) -> Mapping[str, int]:
        """Return the bytes that other boxes would lend to a model that may be split."""
        model = self.models.catalog.models.get(model_id)
        if model is None or model.settings.command or model.settings.split:
            return {}
        return self.peers.lending()

    async def check_split(self, box: str, asked: SplitQuestion) -> SplitCheck:
        """Measure the link to a box, and say whether a model can be split over both.

        Raises ``NotFoundError`` and ``PeerError``, and ``ModelNotFoundError`` for its model.
        """
        model = self.models.catalog.resolve(asked.model) if asked.model else None
        check, there = await self.lenders.measured(box)
        if model is None or check.problems:
            return check
        devices = await self._launcher.devices() or ()
        plan = plan_split(
            self.scheduler.spec(model),
            Lender(memory=there.memory, devices=there.devices),
            free_here=self.workers.room(),
            devices=devices,
            processor=self._launcher.processor,
        )
        if plan is None:
            return check
        speed = expected_speed(
            plan.here.total,
            plan.there,
            gpu_here=bool(devices),
            gpu_there=there.has_gpu,
            round_trip_ms=check.round_trip_ms,
        )
        return msgspec.structs.replace(check, tokens_per_second=round(speed, 1))

    def _record(self, model_id: str) -> ModelRecord | None:
        return self.models.record(model_id) if model_id in self.models.catalog.models else None

    def active_requests(self) -> list[ActiveRequestRecord]:
        """Return the requests in progress, oldest first."""
        return self.active.records(self.scheduler.waits.positions())

    def log_id(self, name: str) -> str:
        """Return the id of the log of ``name``: a log's id, or a model's id or alias.

        Whoever asks reads the log, and perhaps its events next. Raises ``ModelNotFoundError``.
        """
        self.events.expect_reader("log")
        return name if name in self.logs else self.models.catalog.resolve(name).id

    async def log_tail(self, name: str, lines: int) -> str:
        """Return the last lines of a log as text; raises ``ModelNotFoundError``."""
        log_id = self.log_id(name)
        # Lines of the answer must not come as events after it.
        self._notifier.flush()
        return await self.logs.tail(log_id, lines)

    @property
    def past(self) -> History:
        """The history, with all requests that have finished so far."""
        self.finished.flush()
        return self.history

    def key_records(self) -> list[KeyRecord]:
        """Return the API keys with names, and their use."""
        self.finished.flush()
        return self.keys.records()

    async def sessions(self, query: HistoryQuery) -> list[SessionRecord]:
        """Return sessions, newest first; running sessions come before all others."""
        ended = await self.history.sessions(query)
        if query.before is not None:
            return ended
        running = [
            session for session in self.scheduler.sessions() if query.model in {None, session.model}
        ]
        running.sort(key=lambda session: session.loaded_at, reverse=True)
        return [*running, *ended][: query.limit]

    def queue(self) -> list[WaitingRecord]:
        """Return the requests that wait for their model."""
        return self.scheduler.waits.records()

    def _metrics_state(self) -> MetricsState:
        return MetricsState(
            version=__version__,
            llama_server_version=self._binary.version if self._binary else None,
            started_at=self.started_at,
            models=self.models.records(),
            running=self.scheduler.sessions(),
            memory=self.scheduler.memory_reading,
            sample=self.monitoring.last,
            energy=self.energy.record,
        )

    # The hub

    async def hub_files(self, repo: str, revision: str | None = None) -> list[HubFilesRecord]:
        """Return the models in a repository, and how they would fit here."""
        repository = await self.hub.browse.repository(repo, revision)
        headers = await self.hub.browse.headers(repository)
        devices = await self._launcher.devices()
        await self.scheduler.refresh_memory(_RECENT)
        return offers(
            repository,
            headers,
            local=self.models.catalog.models.values(),
            estimate_need=lambda model: formula_need(
                resolve(model, self.settings), devices=devices, processor=self._launcher.processor
            ),
            fit_check=self.scheduler.fit_check(),
        )

    # Events

    def note_requests(self, noted: list[Noted]) -> None:
        """Keep, count and publish finished requests."""
        records = [record for record, _ in noted]
        self.history.add_all(records)
        if self.keys.present:
            self.keys.note(records)
        self.metrics.note_requests(noted)
        self.trends.note_requests(records)
        self.events.publish_all("request", records)
        self.live.note(records)

    def note_refusal(self, record: RequestRecord, code: str) -> None:
        """Count a request that was refused before its model was known; keep a limited number."""
        self.metrics.note_refusal(code)
        if self._refusals.keeps(code):
            self.history.add(record)
            self.keys.note([record])
            self.events.publish("request", record)

    def _session_ended(self, record: SessionRecord) -> None:
        self.history.add(record)
        self.metrics.note_session(record)
