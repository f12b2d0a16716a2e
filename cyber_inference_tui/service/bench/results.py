"""Makes the result of a bench from its measurements."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from cyber_inference_tui.records.bench import BenchFigure, BenchResult
from cyber_inference_tui.rounds import spread
from cyber_inference_tui.service.bench.measure import Sample
from cyber_inference_tui.service.bench.workload import Workload


def result_of(
    model_id: str,
    samples: Sequence[Sample],
    workload: Workload,
    *,
    run: datetime,
    at: datetime,
    build: str | None,
    power_mode: str | None,
) -> BenchResult:
    """Return the result of a model from its measurements, one of each round."""
    machines = [sample.machine for sample in samples]
    last = samples[-1]
    options = last.spec.options
    memory = [one.memory_bytes for one in machines if one.memory_bytes is not None]
    degrees = [one.temperature_c for one in machines if one.temperature_c is not None]
    return BenchResult(
        run=run,
        at=at,
        model=model_id,
        build=build,
        device=machines[-1].device,
        power_mode=power_mode or machines[-1].power_mode,
        context_size=last.context_size,
        slots=last.slots,
        gpu_layers=options.gpu_layers,
        cache_type_k=options.cache_type_k,
        cache_type_v=options.cache_type_v,
        threads=last.spec.threads or None,
        prompt=workload.prompt,
        tokens=workload.tokens,
        parallel=workload.parallel,
        prompt_tokens_per_second=_figure(sample.speeds.prompt for sample in samples),
        tokens_per_second=_figure(sample.speeds.generation for sample in samples),
        time_to_first_token_seconds=_figure(sample.speeds.first_token for sample in samples),
        joules_per_token=_figure(sample.joules_per_token for sample in samples),
        peak_memory_bytes=max(memory, default=None),
        peak_temperature_c=max(degrees, default=None),
        throttled=tuple(sorted(set[str]().union(*(one.throttled for one in machines)))),
    )


def _figure(values: Iterable[float | None]) -> BenchFigure | None:
    known = tuple(values)
    # By round: a round without a value cannot be left out.
    numbers = tuple(value for value in known if value is not None)
    if len(numbers) < len(known) or (found := spread(numbers)) is None:
        return None
    return BenchFigure(median=found.median, spread=found.deviation, values=numbers)
