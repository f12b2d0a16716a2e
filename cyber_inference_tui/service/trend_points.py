"""The arithmetic of trends: samples become points, and points become longer periods."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from statistics import fmean, median
from typing import TypeVar

import msgspec

from cyber_inference_tui.records import (
    GpuPoint,
    GpuRecord,
    ModelStatus,
    ResourceSample,
    ThrottleReason,
    TrendPoint,
)
from cyber_inference_tui.records.trend import MarkKind

N = TypeVar("N", int, float)

MINUTE = timedelta(minutes=1)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TOTAL = "total"
_MARKS: dict[ModelStatus, MarkKind] = {
    ModelStatus.LOADED: "loaded",
    ModelStatus.UNLOADED: "unloaded",
    ModelStatus.FAILED: "failed",
}
# A GPU at its power limit is no event: that is where a busy one works.
_SLOW = {
    ThrottleReason.TEMPERATURE: "slowed down: it is too hot",
    ThrottleReason.CURRENT: "slowed down: it draws too much current",
    ThrottleReason.VOLTAGE: "slowed down: the supply's voltage is too low",
    ThrottleReason.HARDWARE: "slowed down by its hardware",
}


class Minute(msgspec.Struct, frozen=True, kw_only=True):
    """A minute of the trend, as the history stores it."""

    at: datetime
    point: bytes
    """A ``TrendPoint`` as JSON."""


def mark_kind(before: ModelStatus, after: ModelStatus) -> MarkKind | None:
    """Return the kind of mark for a model's change of status; ``None`` = the change has none."""
    ends_nothing = before not in {ModelStatus.LOADED, ModelStatus.UNLOADING}
    if before is after or (after is ModelStatus.UNLOADED and ends_nothing):
        return None
    return _MARKS.get(after)


def slowed_down(sample: ResourceSample) -> set[tuple[str, str]]:
    """Return the parts that are slowed down against expectation, each with the reason in words."""
    parts = {
        part.upper() if part in {"cpu", "gpu"} else part: reasons
        for part, reasons in sample.throttling.items()
    }
    for number, gpu in enumerate(sample.gpus):
        parts["GPU" if len(sample.gpus) == 1 else f"GPU {number}"] = gpu.throttled_by
    return {
        (part, _SLOW[reason])
        for part, reasons in parts.items()
        for reason in reasons
        if reason in _SLOW
    }


def start_of(at: datetime, step: timedelta) -> datetime:
    """Return the beginning of the period of length ``step`` that has ``at``.

    Periods are counted from 1970, so that a later question has the same ones.
    """
    return _EPOCH + (at - _EPOCH) // step * step


def point_of(sample: ResourceSample, first_token_seconds: float | None) -> TrendPoint:
    """Return a sample as a point."""
    swaps = [
        swap.used
        for swap in (sample.swap, sample.zram)
        if swap is not None and swap.used is not None
    ]
    temperatures = [*sample.temperatures.values(), *(gpu.temperature_c for gpu in sample.gpus)]
    return TrendPoint(
        at=sample.at,
        cpu_percent=sample.cpu.percent,
        memory_used=sample.memory.used,
        memory_total=sample.memory.total,
        swap_used=sum(swaps) if swaps else None,
        # The models' directory is the first.
        disk_percent=sample.disks[0].percent if sample.disks else None,
        power_w=sample.power.get(_TOTAL),
        temperature_c=_highest(temperatures),
        fan_percent=sample.fan.percent if sample.fan else None,
        gpus=tuple(map(_gpu_point, sample.gpus)),
        tokens_per_second={
            model.id: model.tokens_per_second for model in sample.models if model.tokens_per_second
        },
        first_token_seconds=first_token_seconds,
    )


def merge(at: datetime, points: Sequence[TrendPoint]) -> TrendPoint:
    """Return the period that begins ``at`` and has these points, of which there is at least one."""
    rates: dict[str, float] = {}
    for point in points:
        for model, rate in point.tokens_per_second.items():
            rates[model] = rates.get(model, 0.0) + rate
    gpus = max(len(point.gpus) for point in points)
    firsts = [one.first_token_seconds for one in points if one.first_token_seconds is not None]
    return TrendPoint(
        at=at,
        cpu_percent=_mean(point.cpu_percent for point in points),
        memory_used=_highest(point.memory_used for point in points),
        memory_total=_highest(point.memory_total for point in points),
        swap_used=_highest(point.swap_used for point in points),
        disk_percent=_highest(point.disk_percent for point in points),
        power_w=_mean(point.power_w for point in points),
        temperature_c=_mean(point.temperature_c for point in points),
        fan_percent=_mean(point.fan_percent for point in points),
        gpus=tuple(
            _merge_gpu([point.gpus[index] for point in points if index < len(point.gpus)])
            for index in range(gpus)
        ),
        # Nobody was answered at a point that does not name the model.
        tokens_per_second={model: round(total / len(points), 2) for model, total in rates.items()},
        first_token_seconds=round(median(firsts), 4) if firsts else None,
    )


def gather(points: Iterable[TrendPoint], step: timedelta) -> tuple[TrendPoint, ...]:
    """Return the periods of length ``step`` that have points, oldest first."""
    periods: dict[datetime, list[TrendPoint]] = {}
    for point in points:
        periods.setdefault(start_of(point.at, step), []).append(point)
    return tuple(merge(at, periods[at]) for at in sorted(periods))


def _gpu_point(gpu: GpuRecord) -> GpuPoint:
    return GpuPoint(
        utilization_percent=gpu.utilization_percent,
        memory_used=gpu.memory_used,
        memory_total=gpu.memory_total,
        temperature_c=gpu.temperature_c,
        power_w=gpu.power_w,
        clock_hz=gpu.clock_hz,
    )


def _merge_gpu(points: Sequence[GpuPoint]) -> GpuPoint:
    return GpuPoint(
        utilization_percent=_mean(point.utilization_percent for point in points),
        memory_used=_highest(point.memory_used for point in points),
        memory_total=_highest(point.memory_total for point in points),
        temperature_c=_mean(point.temperature_c for point in points),
        power_w=_mean(point.power_w for point in points),
        clock_hz=_mean(point.clock_hz for point in points),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(fmean(known), 2) if known else None


def _highest(values: Iterable[N | None]) -> N | None:
    return max((value for value in values if value is not None), default=None)
