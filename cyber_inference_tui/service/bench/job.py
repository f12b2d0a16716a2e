"""The bench: measures and tunes models while nobody else is served, and keeps the results."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial

import msgspec

from cyber_inference_tui.cancellation import to_its_end
from cyber_inference_tui.errors import ConflictError, CyberError, ShuttingDownError
from cyber_inference_tui.records.bench import BenchRequest, BenchResult, BenchState, BenchStatus
from cyber_inference_tui.records.tuning import TuneRequest
from cyber_inference_tui.rounds import in_turns
from cyber_inference_tui.scheduler.scheduler import Scheduler
from cyber_inference_tui.service.bench.measure import Measurer, Sample
from cyber_inference_tui.service.bench.power_modes import PowerModes
from cyber_inference_tui.service.bench.results import result_of
from cyber_inference_tui.service.bench.workload import Workload
from cyber_inference_tui.service.models import Models
from cyber_inference_tui.service.tuning.tuner import Tuner
from cyber_inference_tui.units import counted

_logger = logging.getLogger(__name__)


class Bench:
    """Runs at most one bench or tuning at a time, and keeps the status of the last one.

    It makes way for people: it does not begin while a request runs or waits, and stops when one
    arrives. ``build`` returns the build of llama-server, ``keep`` stores a result, and ``publish``
    is called with each new status.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        models: Models,
        measurer: Measurer,
        power: PowerModes,
        tuner: Tuner,
        *,
        build: Callable[[], str | None],
        keep: Callable[[BenchResult], None],
        publish: Callable[[BenchStatus], None],
        now: Callable[[], datetime],
    ) -> None:
        self._scheduler = scheduler
        self._models = models
        self._measurer = measurer
        self._power = power
        self._tuner = tuner
        self._build = build
        self._keep = keep
        self._publish = publish
        self._now = now
        self._status = BenchStatus()
        self._task: asyncio.Task[None] | None = None
        self._ending: tuple[BenchState, str | None] | None = None
        """The reason why the task is being cancelled."""
        self._closed = False

    @property
    def status(self) -> BenchStatus:
        """The bench that runs, or the last one."""
        return self._status

    def start(self, request: BenchRequest) -> BenchStatus:
        """Begin to measure.

        Raises ``ConflictError`` while a bench or a request is under way, ``ModelNotFoundError``.
        """
        ids = list(dict.fromkeys(self._models.resolve(name).id for name in request.models))
        status = BenchStatus(request=request, total=len(ids) * request.rounds)
        return self._begin(status, partial(self._bench, request, ids))

    def start_tuning(self, request: TuneRequest) -> BenchStatus:
        """Begin to tune a model; raises as ``start`` does."""
        model_id = self._models.resolve(request.model).id
        return self._begin(BenchStatus(tuning=request), partial(self._tune, request, model_id))

    def _begin(self, status: BenchStatus, work: Callable[[], Awaitable[None]]) -> BenchStatus:
        if self._closed:
            raise ShuttingDownError("The service is stopping.")
        if self._is_running:
            raise ConflictError("A bench is running already.", hint="Wait for it, or stop it.")
        if others := self._measurer.others:
            verb = "is" if others == 1 else "are"
            raise ConflictError(
                f"{counted(others, 'request')} {verb} running or waiting, and a bench would slow"
                " that down.",
                hint="Try again when nobody is served.",
            )
        self._ending = None
        self._status = status
        self._tell(state=BenchState.RUNNING, step="beginning", started_at=self._now())
        self._task = asyncio.create_task(self._run(work), name="bench")
        return self._status

    async def cancel(self) -> BenchStatus:
        """End the bench that is running, if any."""
        self._end(BenchState.CANCELLED, None)
        if self._task is not None:
            await asyncio.wait({self._task})
        if self._is_running:
            # The task was cancelled before it began.
            self._tell(state=BenchState.CANCELLED, step=None, ended_at=self._now())
        return self._status

    async def close(self) -> None:
        """End the bench; none can be started afterwards."""
        self._closed = True
        await self.cancel()

    @property
    def _is_running(self) -> bool:
        return self._status.state is BenchState.RUNNING

    def _end(self, state: BenchState, reason: str | None) -> None:
        if self._task is not None and self._is_running and self._ending is None:
            self._ending = state, reason
            self._task.cancel()

    def _look(self) -> None:
        if self._measurer.others > 0:
            self._end(
                BenchState.STOPPED,
                f"A request came after {self._status.done} of {self._status.total}"
                f" {'trials' if self._status.tuning else 'measurements'}.",
            )

    async def _run(self, work: Callable[[], Awaitable[None]]) -> None:
        state, reason = BenchState.DONE, None
        try:
            await work()
        except asyncio.CancelledError:
            if self._ending is None:
                raise
            state, reason = self._ending
        except CyberError as error:
            state, reason = BenchState.FAILED, str(error)
        except TimeoutError:
            state, reason = BenchState.FAILED, "A measurement took more than an hour."
        except Exception:
            _logger.exception("the bench failed")
            state, reason = BenchState.FAILED, "Something unexpected happened; see the log."
        self._tell(state=state, step=None, error=reason, ended_at=self._now())

    async def _tune(self, request: TuneRequest, model_id: str) -> None:
        def tell(step: str, done: int, total: int) -> None:
            self._tell(step=f"{model_id}, {step}", done=done, total=total)

        try:
            with self._scheduler.watched(self._look):
                found = await self._tuner.search(request, model_id, tell)
            # Better settings restart the model, and its load is no request of somebody.
            self._tell(outcome=await self._tuner.finish(request, model_id, found))
        finally:
            self._measurer.restore(self._models.resolve(model_id))

    async def _bench(self, request: BenchRequest, ids: Sequence[str]) -> None:
        with self._scheduler.watched(self._look):
            await self._measure_all(request, ids)

    async def _measure_all(self, request: BenchRequest, ids: Sequence[str]) -> None:
        """Measure all models in turns, in each power mode if that is asked for."""
        if not request.power_modes:
            await self._in_turns(request, ids, None)
            return
        present, names = await self._power.read()
        self._tell(total=self._status.total * len(names))
        async with self._returning_to(present, ids):
            # The present mode last, so that the servers of the last one stay as they are.
            for number in sorted(names, key=lambda one: (one == present, one)):
                self._tell(step=f"setting the power mode {names[number]}")
                for model_id in ids:
                    # A server starts as many threads as there are cores in its mode.
                    await self._scheduler.unload(self._models.resolve(model_id))
                await to_its_end(self._power.set(number))
                await self._in_turns(request, ids, names[number])

    @asynccontextmanager
    async def _returning_to(self, mode: int, ids: Sequence[str]) -> AsyncIterator[None]:
        try:
            yield
        finally:
            if (await self._power.read())[0] != mode:
                await to_its_end(self._power.set(mode))
                for model_id in ids:
                    self._models.begin_unload(model_id)

    async def _in_turns(self, request: BenchRequest, ids: Sequence[str], mode: str | None) -> None:
        """Measure all models in turns, and keep the results once all rounds are over."""
        workload = Workload(prompt=request.prompt, tokens=request.tokens, parallel=request.parallel)
        samples: dict[str, list[Sample]] = {model_id: [] for model_id in ids}
        where = f", {mode}" if mode else ""
        for number, model_id in in_turns(ids, request.rounds):
            self._tell(step=f"{model_id}, round {number + 1} of {request.rounds}{where}")
            sample = await self._measurer.measure(self._models.resolve(model_id), workload)
            taken = samples[model_id]
            taken.append(sample)
            if sample.spec.signature != taken[0].spec.signature:
                raise ConflictError(f"The settings of {model_id} were changed meanwhile.")
            self._tell(done=self._status.done + 1)
        started = self._status.started_at or self._now()
        for model_id, taken in samples.items():
            result = result_of(
                model_id,
                taken,
                workload,
                run=started,
                at=self._now(),
                build=self._build(),
                power_mode=mode,
            )
            self._keep(result)
            self._tell(results=(*self._status.results, result))

    def _tell(self, **changes: object) -> None:
        self._status = msgspec.structs.replace(self._status, **changes)
        self._publish(self._status)
