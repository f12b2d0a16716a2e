"""Tunes a model: measures its present settings and others, and writes the better ones."""

from __future__ import annotations

import os
import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from cyber_inference_tui.errors import (
    ConflictError,
    InsufficientMemoryError,
    InvalidRequestError,
    ModelLoadError,
    UpstreamError,
)
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.llama.companion_options import can_draft, names_draft
from cyber_inference_tui.records import CpuRecord, ResourceSample
from cyber_inference_tui.records.tuning import Goal, TuneOutcome, TuneRequest
from cyber_inference_tui.rounds import Difference
from cyber_inference_tui.scheduler.scheduler import Scheduler
from cyber_inference_tui.service.bench.measure import Measurer, Sample
from cyber_inference_tui.service.bench.workload import Workload
from cyber_inference_tui.service.models import Models
from cyber_inference_tui.service.tuning.answers import Step, distance, repeated, written
from cyber_inference_tui.service.tuning.candidates import (
    DRAFTED,
    Facts,
    candidates,
    changed_values,
)
from cyber_inference_tui.service.tuning.search import Found, Score, search, worth
from cyber_inference_tui.settings.schema import ModelSettings, Settings
from cyber_inference_tui.units import number_text, size_text

# With settings that do not fit, do not start, or end the server.
_NOT_MEASURED = (InsufficientMemoryError, InvalidRequestError, ModelLoadError, UpstreamError)

Write = Callable[[str, Mapping[str, Any], str], Awaitable[None]]
"""Writes settings of a model, with a comment."""
Tell = Callable[[str, int, int], None]
"""Is called with each step in words, the trials that are over, and the number of all."""


class Tuner:
    """Tunes models, one at a time.

    ``read_machine`` returns the newest sample of the machine, ``flags`` the options of
    llama-server, and ``build`` its build.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        models: Models,
        measurer: Measurer,
        *,
        read_machine: Callable[[], Awaitable[ResourceSample]],
        flags: Callable[[], Awaitable[frozenset[str]]],
        write: Write,
        build: Callable[[], str | None],
        now: Callable[[], datetime],
    ) -> None:
        self._scheduler = scheduler
        self._models = models
        self._measurer = measurer
        self._read_machine = read_machine
        self._flags = flags
        self._write = write
        self._build = build
        self._now = now

    async def search(self, request: TuneRequest, model_id: str, tell: Tell) -> Found:
        """Look for better settings. Afterwards the model may have any that were tried.

        Raises ``CyberError`` if the present settings cannot be measured, or the machine slows down.
        """
        model = self._models.resolve(model_id)
        lab = ModelLab(self._measurer, model, request, self._scheduler.settings)
        present = await lab.begin()
        changes = candidates(await self._facts(present, model), request)
        return await search(
            lab,
            model.settings,
            changes,
            request.goal,
            lambda step, done: tell(step, done, len(changes) + 1),
        )

    async def _facts(self, present: Sample, model: LocalModel) -> Facts:
        machine, flags = await self._read_machine(), await self._flags()
        need = self._scheduler.need(model.id)
        spec, metadata = present.spec, model.metadata
        draft = model.draft
        drafts = draft is not None and can_draft(draft, flags)
        decided = names_draft(spec.arguments, model.settings.env)
        on_gpus = need is not None and (need.footprint.device > 0 or need.spills)
        return Facts(
            cores=_cores(),
            fast_cores=fast_cores(machine.cpu),
            gpus=on_gpus or (bool(machine.gpus) and spec.gpu_layers >= 0),
            spills=need is not None and need.spills,
            blocks=metadata.layers if metadata else None,
            is_mixture=bool(metadata and metadata.experts),
            threads=spec.threads,
            gpu_layers=spec.gpu_layers,
            slots=present.slots or 0,
            draft=model.settings.draft if drafts and not decided else None,
            draft_lengths=DRAFTED in flags,
            options=spec.options,
        )

    async def finish(self, request: TuneRequest, model_id: str, found: Found) -> TuneOutcome:
        """Write what was found to the model's table, and say it in a sentence."""
        if found.settings is None or found.gain is None:
            return TuneOutcome(
                trials=found.trials,
                summary="Nothing was clearly better: it keeps its settings.",
            )
        settings = self._models.resolve(model_id).settings
        if settings != found.present:
            raise ConflictError(f"The settings of {model_id} were changed meanwhile.")
        values = changed_values(settings, found.settings)
        before, after = (figure(scores, request.goal) for scores in (found.before, found.after))
        gain = gain_text(found.gain, request.goal)
        what = f"{request.goal.value}: {gain}, {after}, before {before}"
        build = self._build()
        on = f"{self._now().astimezone():%Y-%m-%d}{f' with {build}' if build else ''}"
        await self._write(model_id, values, f"{on} for {what}.")
        return TuneOutcome(
            values=values,
            gain=found.gain.change,
            noise=found.gain.noise,
            trials=found.trials,
            summary=f"Better for {what}.",
        )


class ModelLab:
    """Measures settings of a model on its real server."""

    def __init__(
        self, measurer: Measurer, model: LocalModel, request: TuneRequest, limits: Settings
    ) -> None:
        self._measurer = measurer
        self._model = model
        self._goal = request.goal
        self._limits = limits
        self._workload = Workload(
            prompt=request.prompt, tokens=request.tokens, parallel=request.parallel
        )
        self._present: Sample | None = None
        self._reference: list[Step] = []

    async def begin(self) -> Sample:
        """Measure the settings in force for the first time, which does not count.

        Raises ``CyberError`` if they cannot be measured for this goal.
        """
        self._present = await self._measured(self._model.settings, 0)
        worth(self._score(self._present), self._goal)
        return self._present

    async def measure(self, settings: ModelSettings, number: int) -> Score | str:
        """Measure once, in the round with this number, or return why a server with these settings
        does not run here."""
        try:
            sample = await self._measured(settings, number)
        except _NOT_MEASURED as error:
            if settings == self._model.settings:
                raise
            return str(error)
        whole = self._present.context_size if self._present else None
        if (sample.context_size or 0) < (whole or 0):
            return f"has a context of {sample.context_size or 0:,} tokens only"
        return self._score(sample)

    async def distance(self, settings: ModelSettings) -> float | None:
        """Return how much answers differ from those with the settings in force; ``None`` = they
        cannot be compared."""
        try:
            if not self._reference:
                async with self._measurer.client(self._model) as (state, _, client):
                    self._reference = await written(client, state.spec.request_context)
            async with self._measurer.client(self._with(settings)) as (_, _, client):
                return distance(self._reference, await repeated(client, self._reference))
        except UpstreamError:
            return None

    def _with(self, settings: ModelSettings) -> LocalModel:
        return msgspec.structs.replace(self._model, settings=settings)

    async def _measured(self, settings: ModelSettings, number: int) -> Sample:
        workload = msgspec.structs.replace(self._workload, seed=number)
        sample = await self._measurer.measure(self._with(settings), workload)
        if sample.machine.throttled:
            raise ConflictError(
                "The machine slowed down while it was measured:"
                f" {', '.join(sorted(sample.machine.throttled))}.",
                hint="Cool it or supply more power, and tune again.",
            )
        return sample

    def _score(self, sample: Sample) -> Score:
        machine, workload, speeds = sample.machine, self._workload, sample.speeds
        seconds = workload.prompt / speeds.prompt + workload.tokens / speeds.generation
        return Score(
            speed=(workload.prompt + workload.tokens) / seconds,
            joules=sample.joules_per_token,
            memory=machine.memory_bytes,
            exceeds=self._exceeds(sample),
        )

    def _exceeds(self, sample: Sample) -> bool:
        """Return whether these settings made memory fuller than it may be."""
        machine, present = sample.machine, self._present
        grown = present is None or (machine.memory_bytes or 0) > (present.machine.memory_bytes or 0)
        full = (machine.memory_percent or 0) > self._limits.max_memory_percent
        gpu_full = (machine.gpu_memory_percent or 0) > self._limits.max_gpu_memory_percent
        return grown and (full or gpu_full)


def _cores() -> int:
    usable = getattr(os, "sched_getaffinity", None)
    return len(usable(0)) if usable is not None else os.cpu_count() or 1


def fast_cores(cpu: CpuRecord) -> int | None:
    """Return the number of the cores with the highest clock; ``None`` = all have the same."""
    clocks = dict(zip(cpu.frequency_cores, cpu.max_frequencies_hz, strict=False))
    highest = max((clock for clock in clocks.values() if clock), default=None)
    fast = sum(len(cores) for cores, clock in clocks.items() if clock == highest)
    return fast if 0 < fast < sum(len(cores) for cores in clocks) else None


def gain_text(gain: Difference, goal: Goal) -> str:
    """Return a gain in words: ``22.8 % faster (± 1.2 %)``, ``4.8 % less (± 0.1 %)``."""
    if goal is Goal.SPEED:
        share, noise, word = gain.change, gain.noise, "faster"
    else:
        # The gain is that of tokens per joule, or of models per byte.
        more = 1 + gain.change
        share, noise, word = gain.change / more, gain.noise / more**2, "less"
    return f"{100 * share:.1f} % {word} (± {100 * noise:.1f} %)"


def figure(scores: Sequence[Score], goal: Goal) -> str:
    """Return the median of some measurements with its unit."""
    if goal is Goal.SPEED:
        return f"{number_text(statistics.median(one.speed for one in scores), decimals=1)} tokens/s"
    if goal is Goal.ENERGY:
        joules = statistics.median(one.joules or 0.0 for one in scores)
        return f"{number_text(joules, decimals=2)} J/token"
    return size_text(round(statistics.median(one.memory or 0 for one in scores)))
