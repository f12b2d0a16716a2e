"""Keeps the catalog of local models up to date, and loads, unloads, pins and deletes models."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from cyber_inference_tui.cancellation import to_its_end
from cyber_inference_tui.errors import (
    ConflictError,
    CyberError,
    GGUFError,
    ModelNotFoundError,
    StorageError,
)
from cyber_inference_tui.files import has_no_room, write_problem
from cyber_inference_tui.gguf.demo import DEMO_ID
from cyber_inference_tui.gguf.reader import Header, read_header
from cyber_inference_tui.library.catalog import Catalog, LocalModel
from cyber_inference_tui.llama.launcher import Launcher
from cyber_inference_tui.records import (
    AdapterRecord,
    Fit,
    MemoryPool,
    ModelDetails,
    ModelRecord,
    ModelStatus,
    ProblemRecord,
)
from cyber_inference_tui.records.checks import ModelCheck
from cyber_inference_tui.records.queries import NewScale
from cyber_inference_tui.scheduler.fit import FitCheck
from cyber_inference_tui.scheduler.policy import MEMORY_WATCH_MOST
from cyber_inference_tui.scheduler.scheduler import Scheduler
from cyber_inference_tui.service.audit_log import AuditLog
from cyber_inference_tui.service.auto_model import auto_model
from cyber_inference_tui.service.capabilities import capabilities_of
from cyber_inference_tui.service.change_notifier import ChangeNotifier
from cyber_inference_tui.service.listing import (
    configure_library,
    library_for,
    problem_records,
    record_with_state,
    unloaded_record,
    with_fit,
    write_demo_for,
)
from cyber_inference_tui.service.model_companions import scaled_adapters
from cyber_inference_tui.service.model_details import details_of
from cyber_inference_tui.settings.load import CurrentSettings
from cyber_inference_tui.settings.schema import Settings
from cyber_inference_tui.storage import Storages, touch

_SCAN_INTERVAL = 4.0
"""Seconds between scans; the documentation promises new files within five seconds."""
_UNWATCHED_MEMORY_AGE = MEMORY_WATCH_MOST
"""Seconds for which a memory reading is recent enough for estimates while nobody sees them."""
_SCAN_LIMIT = 3.0
"""Seconds that a scan waits for a slow storage, whose models then appear in a later scan."""
_CONFIGURE_SECONDS = 1.0
_DELETE_SECONDS = 10.0

_MOST_LOGGED = 20
"""Unusable files that one scan logs by name."""
_WITHOUT_PROCESS = frozenset({ModelStatus.UNLOADED, ModelStatus.FAILED})
_IN_MEMORY = frozenset({ModelStatus.LOADING, ModelStatus.LOADED})

_logger = logging.getLogger(__name__)


class Models:
    """Combines the library's catalog with the scheduler's states.

    ``demo`` adds the built-in model. ``checked`` returns the results of a model's check, if it is
    valid, and ``digest`` the SHA-256 of a model's file, if known.
    """

    def __init__(
        self,
        *,
        current: CurrentSettings,
        environ: Mapping[str, str],
        demo: bool,
        scheduler: Scheduler,
        launcher: Launcher,
        notifier: ChangeNotifier,
        audit: AuditLog,
        checked: Callable[[LocalModel], ModelCheck | None],
        digest: Callable[[LocalModel], str | None],
    ) -> None:
        self._current = current
        self._digest = digest
        self._environ = environ
        self._demo = demo
        self._scheduler = scheduler
        self._launcher = launcher
        self._notifier = notifier
        self._audit = audit
        self._checked = checked
        self._library = library_for(self._settings, demo=demo, environ=environ)
        self._fits: dict[str, tuple[Fit | None, int | None]] = {}
        """By id: the fit of the model at the last update, and its context size."""
        self._scanning = asyncio.Lock()
        self._scaling = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._storages = Storages()
        self._to_preload: list[str] = []
        self.former_uses: Mapping[str, datetime] = {}
        """By id: the last use of each model by earlier services."""
        self.catalog = Catalog(models={}, problems=())
        """The models on the disk; replaced as a whole."""

    @property
    def _settings(self) -> Settings:
        return self._current.settings

    async def prepare_directories(self) -> None:
        """Create the directory for models; raises ``OSError``.

        A full disk is no error, because users need the service to delete models.
        """
        folder = self._settings.models_dir
        try:
            # The scan reports a storage that does not answer.
            with contextlib.suppress(StorageError):
                await self._storages.ask_async(
                    folder, partial(folder.mkdir, parents=True, exist_ok=True)
                )
        except OSError as error:
            if not has_no_room(error):
                raise
            _logger.warning("%s", write_problem(folder, error))
        if self._demo:
            try:
                await asyncio.to_thread(write_demo_for, self._settings)
            except CyberError as error:
                _logger.warning("there is no demo model: %s", error)

    # The catalog

    async def watch(self) -> None:
        """Scan the disk every few seconds, until cancelled."""
        failure = ""
        while True:
            watched = self._notifier.models_are_watched()
            await self.update_estimates(
                max_age=_SCAN_INTERVAL / 2 if watched else _UNWATCHED_MEMORY_AGE
            )
            await asyncio.sleep(_SCAN_INTERVAL)
            try:
                await self.scan()
            except (OSError, MemoryError, RuntimeError) as error:
                # No threads or no memory are left; the next scan may succeed.
                if str(error) != failure:
                    _logger.warning("cannot look for models: %s", error)
                failure = str(error)
            else:
                failure = ""

    async def scan(self, limit: float = _SCAN_LIMIT) -> None:
        """Scan the disk now, and wait at most ``limit`` seconds for slow storages."""
        # Several callers may scan at once: the watch, changed settings, a deleted model.
        async with self._scanning:
            former = self.catalog
            self.catalog = await asyncio.to_thread(self._library.scan, limit)
        before = former.models
        self._log_problems(former)
        for model_id, model in self.catalog.models.items():
            if before.get(model_id) != model:
                self._scheduler.refresh(model)
                self._notifier.state_changed(model_id)
        for model_id in before.keys() - self.catalog.models.keys():
            self._scheduler.remove(model_id)
            self._notifier.model_gone(model_id)
        self._preload_found()

    def _log_problems(self, former: Catalog) -> None:
        """Log new unusable files once, and those that are readable again."""
        known, now = _reasons(former), _reasons(self.catalog)
        new = [where for where in now if where not in known]
        for where in new[:_MOST_LOGGED]:
            _logger.warning("%s: %s", where, now[where])
        if len(new) > _MOST_LOGGED:
            more = len(new) - _MOST_LOGGED
            _logger.warning("%d more files cannot be used: list-models shows why", more)
        unread = {one.where for one in self.catalog.problems if one.passing}
        over = [one.where for one in former.problems if one.passing and one.where not in unread]
        for where in over[:_MOST_LOGGED]:
            _logger.info("%s: it can be read again, or is gone", where)
        if former.problems != self.catalog.problems:
            self._notifier.problems_changed()

    async def rescan(self) -> Catalog:
        """Scan the disk, estimate new models, and return the catalog."""
        await self.scan()
        await self.update_estimates(max_age=_SCAN_INTERVAL)
        return self.catalog

    async def configure(self, settings: Settings) -> None:
        """Apply changed settings: other directories, other tables of models.

        If a storage is slow, this returns after a second and the work continues.
        """
        task = self._start(self._configure(settings), "look for models")
        await asyncio.wait({task}, timeout=_CONFIGURE_SECONDS)

    async def _configure(self, settings: Settings) -> None:
        await self._configure_library(settings)
        await self.scan()

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run ``work`` in a task, which ``close`` cancels. The name says what it does."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _logger.warning("cannot %s: %s", task.get_name(), error)

    async def close(self) -> None:
        """Cancel the application of settings, and unloads that wait for requests."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _configure_library(self, settings: Settings) -> None:
        # The library is kept: it knows the models on storages that do not answer now.
        async with self._scanning:
            await asyncio.to_thread(
                configure_library,
                self._library,
                settings,
                demo=self._demo,
                environ=self._environ,
            )

    async def update_estimates(self, *, max_age: float = 0.0) -> None:
        """Estimate all models again, check which fit, and publish the changes.

        The memory reading is at most ``max_age`` seconds old.
        """
        await self._scheduler.estimate(self.catalog.models.values(), max_age)
        fit_check = self._scheduler.fit_check()
        former, self._fits = self._fits, {}
        for model_id, model in self.catalog.models.items():
            state = self._scheduler.state(model_id)
            spec, need = self._scheduler.next_load(model, fit_check)
            if model.problem:
                fit = None
            elif state is not None and state.status in _IN_MEMORY:
                # Its record has no fit.
                fit = former[model_id][0] if model_id in former else None
            else:
                fit = fit_check.fit(model_id, need)
            self._fits[model_id] = fit, spec.context_size
            if self._fits[model_id] != former.get(model_id):
                self._notifier.detail_changed(model_id)

    # Reading

    def records(self) -> list[ModelRecord]:
        """Return the records of all local models, by id."""
        fit_check = self._scheduler.fit_check()
        return [self._record(model, fit_check) for _, model in sorted(self.catalog.models.items())]

    def problems(self) -> list[ProblemRecord]:
        """Return the files, tables and aliases that cannot be used, with the reasons."""
        return problem_records(self.catalog)

    def record(self, model_id: str) -> ModelRecord:
        """Return the record of a model by id or alias; raises ``ModelNotFoundError``."""
        return self._record(self.catalog.resolve(model_id))

    def _record(self, model: LocalModel, fit_check: FitCheck | None = None) -> ModelRecord:
        state = self._scheduler.state(model.id)
        spec, need = self._scheduler.next_load(model, fit_check)
        check = self._checked(model)
        record = unloaded_record(model, spec, need, check=check)
        if state is not None:
            wait = self._scheduler.waits.seconds_of_next(state)
            record = record_with_state(record, model, self._settings, state, wait=wait, check=check)
        if record.last_used_at is None and model.id in self.former_uses:
            record = msgspec.structs.replace(record, last_used_at=self.former_uses[model.id])
        if (sha256 := self._digest(model)) is not None:
            record = msgspec.structs.replace(record, sha256=sha256)
        if record.status in _IN_MEMORY or model.problem is not None:
            return record
        fit_check = fit_check or self._scheduler.fit_check()
        return with_fit(record, fit_check.verdict(model.id, need))

    def resolve(self, name: str) -> LocalModel:
        """Return the model that a request names, which may be ``auto``.

        Raises ``ModelNotFoundError``.
        """
        if self.catalog.is_auto(name):
            return self.auto()
        return self.catalog.resolve(name)

    def auto(self, counts: Callable[[LocalModel], bool] = lambda model: True) -> LocalModel:
        """Return the model that ``auto`` means, among those that count.

        Raises ``ModelNotFoundError``.
        """
        return auto_model(self.catalog, self._scheduler, self._settings.default_model, counts)

    def capabilities(self, model: LocalModel) -> tuple[str, ...]:
        """Return what a model can do; nothing if that is not known."""
        state = self._scheduler.state(model.id)
        server = state.server if state is not None else None
        template = server.template if server is not None else None
        spec = self._scheduler.spec(model)
        return capabilities_of(model, spec, template, self._checked(model))

    def auto_record(self) -> ModelRecord | None:
        """Return the record of the model that ``auto`` means; ``None`` without a default model."""
        if not self._settings.default_model:
            return None
        try:
            return self._record(self.auto())
        except ModelNotFoundError:
            return None

    def local(self, model_id: str) -> LocalModel | None:
        """Return the model with this id as it is on the disk; ``None`` = there is none."""
        return self.catalog.models.get(model_id)

    async def details(self, model_id: str) -> ModelDetails:
        """Return all details of a model; raises ``ModelNotFoundError``."""
        model = self.catalog.resolve(model_id)
        fit_check = self._scheduler.fit_check()
        spec, _ = self._scheduler.next_load(model, fit_check)
        return await details_of(
            model,
            self._record(model, fit_check),
            state=self._scheduler.state(model.id),
            spec=spec,
            check=self._checked(model),
            loaded=self._current.loaded,
            launcher=self._launcher,
            fit_check=fit_check,
            storages=self._storages,
        )

    async def headers(self, model: LocalModel) -> tuple[Header | None, Header | None]:
        """Read the headers of a model's file and of its projector; ``None`` = it has none here."""

        async def read(path: Path | None) -> Header | None:
            if path is None:
                return None
            try:
                return await self._storages.ask_async(path.parent, partial(read_header, path))
            except (GGUFError, StorageError):
                return None

        return await read(model.path), await read(model.mmproj)

    def memory_rooms(self) -> list[MemoryPool]:
        """Return the limits and the free memory for models."""
        return self._scheduler.fit_check().rooms()

    def last_uses(self) -> dict[str, datetime]:
        """Return the last use of each model, by its id."""
        states = self._scheduler.states()
        now = {state.model.id: at for state in states if (at := state.last_used_at) is not None}
        return {**self.former_uses, **now}

    def reason_in_use(self, model_id: str) -> str:
        """Return why a model may not be deleted now, in words; empty if it may."""
        state = self._scheduler.state(model_id)
        if state is None:
            return ""
        if not state.has_no_process or state.waiters:
            return f"it is {state.status.value}"
        return "it is pinned" if state.is_pinned else ""

    def files_in_use(self) -> list[Path]:
        """Return the files of the running servers."""
        return [file for one in self._scheduler.states() if one.server for file in one.spec.files]

    # Acting

    def preload(self) -> None:
        """Begin to load the models with ``preload``, in the order of the file.

        The first ones get the free memory.
        """
        self._to_preload = []
        for model_id, own in self._settings.models.items():
            if own.preload:
                self._to_preload.append(model_id)
            self._to_preload += [
                f"{model_id}:{preset}"
                for preset, keys in own.presets.items()
                if keys.get("preload")
            ]
        self._preload_found()

    def _preload_found(self) -> None:
        wanted, self._to_preload = self._to_preload, []
        for model_id in wanted:
            model = self.catalog.models.get(model_id)
            if model is not None and model.problem is None:
                self._scheduler.request_load(model, reason="preload")
            elif any(one.passing for one in self.catalog.problems):
                # It may be on a storage that did not answer.
                self._to_preload.append(model_id)

    async def load(self, model_id: str, *, wait: bool) -> ModelRecord:
        """Load a model and return its record, with ``wait`` after the end of the load."""
        model = self.catalog.resolve(model_id)
        if wait:
            await self._scheduler.load(model)
        else:
            self._scheduler.request_load(model)
        return self._record(model)

    async def unload(self, model_id: str, *, force: bool) -> ModelRecord:
        """Unload a model and return its record; ``force`` does not wait for its requests."""
        model = self.catalog.resolve(model_id)
        await self._scheduler.unload(model, force=force)
        return self._record(model)

    def begin_unload(self, model_id: str) -> None:
        """Begin to unload a model, after its requests."""
        model = self.catalog.resolve(model_id)
        self._start(self._scheduler.unload(model), f"unload {model.id}")

    async def pin(self, model_id: str, pinned: bool) -> ModelRecord:
        """Pin a model or remove its pin, and return its record."""
        model = self.catalog.resolve(model_id)
        self._scheduler.pin(model, pinned)
        return self._record(model)

    async def scale_adapter(self, model_id: str, change: NewScale) -> list[AdapterRecord]:
        """Set the strength of an adapter of a loaded model, and return its adapters."""
        model = self.catalog.resolve(model_id)
        state = self._scheduler.state(model.id)
        is_loaded = state is not None and state.status is ModelStatus.LOADED
        server = state.server.address if is_loaded and state and state.server else None
        # The server takes the strengths of all adapters at once.
        async with self._scaling:
            adapters = await scaled_adapters(model, server, change.id, change.scale)
        await self._audit.note("adapter_scaled", model=model.id, id=change.id, scale=change.scale)
        return adapters

    async def delete(self, model_id: str) -> ModelRecord:
        """Delete an unloaded model's files in ``models_dir`` and return its last record."""
        model = self.catalog.resolve(model_id)
        record = self._record(model)
        if record.status not in _WITHOUT_PROCESS:
            raise ConflictError(f"{model.id} is {record.status.value}.", hint="Unload it first.")
        for other in self.catalog.models.values():
            if other.preset_of == model.id:
                status = self._record(other).status
                if status not in _WITHOUT_PROCESS:
                    raise ConflictError(f"{other.id} is {status.value}.", hint="Unload it first.")
        await to_its_end(self._delete_files(model))
        return record

    async def _delete_files(self, model: LocalModel) -> None:
        folder = self._settings.models_dir
        # A deletion that was reported as failed must not happen when the storage answers later.
        await self._storages.ask_async(folder, partial(touch, model.shards))
        await self._storages.ask_async(
            folder,
            partial(self._library.delete, self.catalog, model.id),
            _DELETE_SECONDS,
        )
        await self._launcher.forget_prompts(model.id)
        await self._audit.note("model_deleted", model=model.id)
        await self.scan()

    async def add_demo(self) -> ModelRecord:
        """Add the built-in model for this run, as ``--demo`` does, and return its record."""
        if not self._demo:
            await asyncio.to_thread(write_demo_for, self._settings)
            self._demo = True
            await self._configure_library(self._settings)
        await self.scan()
        return self.record(DEMO_ID)


def _reasons(catalog: Catalog) -> dict[str, str]:
    """Return why files and models cannot be used, by the name that users see."""
    reasons = {one.where: one.reason for one in catalog.problems}
    broken = {model.id: model.problem for model in catalog.models.values() if model.problem}
    return {**broken, **reasons}
