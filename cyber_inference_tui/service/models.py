"""The models on this machine: what the service tells of them, and what may be done with one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from functools import partial

from cyber_inference_tui.errors import ConflictError, CyberError, StorageError
from cyber_inference_tui.files import has_no_room, write_problem
from cyber_inference_tui.gguf.demo import DEMO_ID
from cyber_inference_tui.library.catalog import Catalog, LocalModel
from cyber_inference_tui.llama.launcher import Launcher
from cyber_inference_tui.records import (
    Fit,
    MemoryRoom,
    ModelDetails,
    ModelRecord,
    ModelStatus,
    ProblemRecord,
)
from cyber_inference_tui.scheduler.fit import FitCheck
from cyber_inference_tui.scheduler.scheduler import Scheduler
from cyber_inference_tui.service.change_notifier import ChangeNotifier
from cyber_inference_tui.service.details import details_of
from cyber_inference_tui.service.listing import (
    configure_library,
    library_for,
    problem_records,
    touched_record,
    unloaded_record,
    with_fit,
    write_demo_for,
)
from cyber_inference_tui.settings.load import Loaded
from cyber_inference_tui.settings.schema import Settings
from cyber_inference_tui.storage import Storages, touch

_SCAN_INTERVAL = 3.0
_SCAN_LIMIT = 3.0
"""Seconds that a scan waits for a slow storage; what that has then counts in a later scan."""
_CONFIGURE_SECONDS = 1.0
_DELETE_SECONDS = 10.0

_MOST_LOGGED = 20
"""Files of one look; a folder of other files is named in part."""
_IN_MEMORY = frozenset({ModelStatus.LOADING, ModelStatus.LOADED})

_logger = logging.getLogger(__name__)


class Models:
    """The library's catalog, kept up to date, beside what the scheduler knows of each model.

    ``loaded`` gives the settings in force. ``demo``: the built-in model is one of them.
    """

    def __init__(
        self,
        *,
        loaded: Callable[[], Loaded],
        environ: Mapping[str, str],
        demo: bool,
        scheduler: Scheduler,
        launcher: Launcher,
        news: ChangeNotifier,
    ) -> None:
        self._loaded = loaded
        self._environ = environ
        self._demo = demo
        self._scheduler = scheduler
        self._launcher = launcher
        self._notifier = news
        self._library = library_for(self._settings, demo=demo, environ=environ)
        self._fits: dict[str, tuple[Fit | None, int | None]] = {}
        """Whether each model fitted at the last look, and the context it would have."""
        self._scanning = asyncio.Lock()
        self._configuring: set[asyncio.Task[None]] = set()
        self._storages = Storages()
        self._to_preload: list[str] = []
        self.catalog = Catalog(models={}, problems=())
        """What lies on the disk; replaced as a whole."""

    @property
    def _settings(self) -> Settings:
        return self._loaded().settings

    async def prepare_directories(self) -> None:
        """Make what has to be there; raises ``OSError``.

        A disk without room is no reason to fail: a person may need the service to make some.
        """
        folder = self._settings.models_dir
        try:
            # The scan says that it does not answer.
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

    # What is there

    async def watch(self) -> None:
        """Look every few seconds for what has changed on the disk, until cancelled."""
        failure = ""
        while True:
            await self.reckon(max_age=_SCAN_INTERVAL / 2)
            await asyncio.sleep(_SCAN_INTERVAL)
            try:
                await self.scan()
            except (OSError, MemoryError, RuntimeError) as error:
                # No threads, no memory: the next look may find some again.
                if str(error) != failure:
                    _logger.warning("cannot look for models: %s", error)
                failure = str(error)
            else:
                failure = ""

    async def scan(self, limit: float = _SCAN_LIMIT) -> None:
        """Look now; storages that are slow are waited for ``limit`` seconds."""
        # Several may want one: the watch, a changed file, a deleted model.
        async with self._scanning:
            former = self.catalog
            self.catalog = await asyncio.to_thread(self._library.scan, limit)
        before = former.models
        self._tell_problems(former)
        for model_id, model in self.catalog.models.items():
            if before.get(model_id) != model:
                self._scheduler.refresh(model)
                self._notifier.state_changed(model_id)
        for model_id in before.keys() - self.catalog.models.keys():
            self._scheduler.remove(model_id)
            self._notifier.model_gone(model_id)
        self._preload_what_came()

    def _tell_problems(self, former: Catalog) -> None:
        """Log what cannot be used, once, and when something can be read again."""
        known, now = _reasons(former), _reasons(self.catalog)
        new = [where for where in now if where not in known]
        for where in new[:_MOST_LOGGED]:
            _logger.warning("%s: %s", where, now[where])
        if len(new) > _MOST_LOGGED:
            more = len(new) - _MOST_LOGGED
            _logger.warning("%d more files cannot be used: list-models tells why", more)
        unread = {one.where for one in self.catalog.problems if one.passing}
        over = [one.where for one in former.problems if one.passing and one.where not in unread]
        for where in over[:_MOST_LOGGED]:
            _logger.info("%s: it can be read again, or is gone", where)
        if former.problems != self.catalog.problems:
            self._notifier.problems_changed()

    async def rescan(self) -> Catalog:
        """Look now, and reckon what is new; what there is then."""
        await self.scan()
        await self.reckon(max_age=_SCAN_INTERVAL)
        return self.catalog

    async def configure(self, settings: Settings) -> None:
        """Take changed settings: other directories, other tables.

        Returns after a moment where a storage lets that wait; it goes on then.
        """
        task = asyncio.create_task(self._configure(settings), name="take other directories")
        self._configuring.add(task)
        task.add_done_callback(self._configured)
        await asyncio.wait({task}, timeout=_CONFIGURE_SECONDS)

    async def _configure(self, settings: Settings) -> None:
        await self._configure_library(settings)
        await self.scan()

    def _configured(self, task: asyncio.Task[None]) -> None:
        self._configuring.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _logger.warning("cannot look for models: %s", error)

    async def close(self) -> None:
        """Take up nothing more."""
        for task in self._configuring:
            task.cancel()
        await asyncio.gather(*self._configuring, return_exceptions=True)

    async def _configure_library(self, settings: Settings) -> None:
        # Not a new one: what the old one found stays known where it cannot be read just now.
        async with self._scanning:
            await asyncio.to_thread(
                configure_library,
                self._library,
                settings,
                demo=self._demo,
                environ=self._environ,
            )

    async def reckon(self, *, max_age: float = 0.0) -> None:
        """Find out again what models take and what fits, and publish what has changed.

        By a reading of the memory that is at most ``max_age`` seconds old.
        """
        await self._scheduler.estimate(self.catalog.models.values(), max_age)
        survey = self._scheduler.survey()
        former, self._fits = self._fits, {}
        for model_id, model in self.catalog.models.items():
            need = self._scheduler.need(model_id)
            fit = None if model.problem else survey.fit(model_id, need)
            self._fits[model_id] = fit, self._scheduler.spec(model).context_size
            if self._fits[model_id] != former.get(model_id):
                self._notifier.detail_changed(model_id)

    # Reading

    def records(self) -> list[ModelRecord]:
        """Every local model, by id."""
        survey = self._scheduler.survey()
        return [self._record(model, survey) for _, model in sorted(self.catalog.models.items())]

    def problems(self) -> list[ProblemRecord]:
        """Files, tables and aliases that are no usable models, each with its reason."""
        return problem_records(self.catalog)

    def record(self, model_id: str) -> ModelRecord:
        """One model by id or alias; raises ``ModelNotFoundError``."""
        return self._record(self.catalog.resolve(model_id))

    def _record(self, model: LocalModel, survey: FitCheck | None = None) -> ModelRecord:
        state = self._scheduler.state(model.id)
        need = self._scheduler.need(model.id)
        if state is None:
            record = unloaded_record(model, self._scheduler.spec(model), need)
        else:
            wait = self._scheduler.waits.of_the_next(state)
            record = touched_record(model, self._settings, state, need, wait=wait)
        if record.status in _IN_MEMORY or model.problem is not None:
            return record
        survey = survey or self._scheduler.survey()
        return with_fit(record, survey.verdict(model.id, need))

    def written(self, model_id: str) -> int:
        """The time its files were last written, in seconds since 1970; 0 = not known."""
        model = self.catalog.models.get(model_id)
        return (model.modified or 0) // 1_000_000_000 if model is not None else 0

    async def details(self, model_id: str) -> ModelDetails:
        """Everything there is to know of a model; raises ``ModelNotFoundError``."""
        model = self.catalog.resolve(model_id)
        state = self._scheduler.state(model.id)
        return await details_of(
            model,
            self._record(model),
            state=state,
            spec=state.next_spec if state is not None else self._scheduler.spec(model),
            loaded=self._loaded(),
            launcher=self._launcher,
            survey=self._scheduler.survey(),
            storages=self._storages,
        )

    def room(self) -> list[MemoryRoom]:
        """The memory that models may have."""
        return self._scheduler.survey().rooms()

    # Acting

    def preload(self) -> None:
        """Begin to load those that are to be there from the start.

        In the order of the file; the first ones get the room that there is.
        """
        tables = self._settings.models
        self._to_preload = [model_id for model_id, table in tables.items() if table.preload]
        self._preload_what_came()

    def _preload_what_came(self) -> None:
        wanted, self._to_preload = self._to_preload, []
        for model_id in wanted:
            model = self.catalog.models.get(model_id)
            if model is not None and model.problem is None:
                self._scheduler.request_load(model, reason="preload")
            elif any(one.passing for one in self.catalog.problems):
                # A storage that did not answer at the start may have it.
                self._to_preload.append(model_id)

    async def load(self, model_id: str, *, wait: bool) -> ModelRecord:
        """Load a model; with ``wait`` the record is the one after the load."""
        model = self.catalog.resolve(model_id)
        if wait:
            await self._scheduler.load(model)
        else:
            self._scheduler.request_load(model)
        return self._record(model)

    async def unload(self, model_id: str, *, force: bool) -> ModelRecord:
        """Unload a model, after its requests unless ``force``."""
        model = self.catalog.resolve(model_id)
        await self._scheduler.unload(model, force=force)
        return self._record(model)

    async def pin(self, model_id: str, pinned: bool) -> ModelRecord:
        """Keep a model from being evicted or idled out, or allow it again."""
        model = self.catalog.resolve(model_id)
        self._scheduler.pin(model, pinned)
        return self._record(model)

    async def delete(self, model_id: str) -> ModelRecord:
        """Remove an unloaded model's files under ``models_dir``; its last record."""
        model = self.catalog.resolve(model_id)
        record = self._record(model)
        if record.status not in {ModelStatus.UNLOADED, ModelStatus.FAILED}:
            raise ConflictError(f"{model.id} is {record.status.value}.", hint="Unload it first.")
        folder = self._settings.models_dir
        # A deletion that is told to have failed must not happen when the storage answers.
        await self._storages.ask_async(folder, partial(touch, model.shards))
        await self._storages.ask_async(
            folder,
            partial(self._library.delete, self.catalog, model.id),
            _DELETE_SECONDS,
        )
        await self.scan()
        return record

    async def add_demo(self) -> ModelRecord:
        """Have the built-in model until the service ends, as ``--demo`` does; its record."""
        if not self._demo:
            await asyncio.to_thread(write_demo_for, self._settings)
            self._demo = True
            await self._configure_library(self._settings)
        await self.scan()
        return self.record(DEMO_ID)


def _reasons(catalog: Catalog) -> dict[str, str]:
    """Why files cannot be used, also those of models, by what they are shown as."""
    reasons = {one.where: one.reason for one in catalog.problems}
    broken = {model.id: model.problem for model in catalog.models.values() if model.problem}
    return {**broken, **reasons}
