"""The dashboard's graphs: what each shows, its present value and its scale."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from cyber_inference_tui.records import (
    ActiveRequestRecord,
    GpuPoint,
    RequestRecord,
    ResourceSample,
    TrendPoint,
)
from cyber_inference_tui.terminal.charset import Charset
from cyber_inference_tui.tui.pages.dashboard.timeline import Reading
from cyber_inference_tui.tui.snapshot import Snapshot, all_swap, hottest, total_power
from cyber_inference_tui.units import counted, number_text, seconds_text, size_text

_GPUS = 4
"""GPUs with their own graphs; more are shown as their mean."""
_CORES = 16
_SCALES = (1, 2, 5, 10, 15, 25, 40, 60, 100, 150, 250, 400, 600, 1000, 1500, 2500, 5000)
_COOLEST = 20.0
"""The lower end of temperatures, so that their changes are visible."""
_HOT, _TOO_HOT = 85.0, 95.0
_WATTS = re.compile(r"(\d{1,4})\s*W", re.IGNORECASE)
_STEPS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A graph: its title, its present value, and how it reads others from a point."""

    name: str
    title: str
    reading: Reading
    text: Callable[[float], str]
    """Formats a value."""
    value: float | None = None
    """The present value."""
    notes: tuple[str, ...] = ()
    """Further remarks, each shown where it fits."""
    scale: str = ""
    """Both ends of the scale, if the note does not say them."""
    minimum: float = 0.0
    maximum: float = 100.0
    tone: str = ""
    """``busy`` or ``bad`` if the present value is a problem."""
    points: tuple[TrendPoint, ...] | None = None
    """Its own points, if the machine's samples do not have its values."""

    def figure(self, charset: Charset) -> str:
        """Return the present value as text."""
        return charset.known(self.value, self.text)


def measures(
    snapshot: Snapshot, points: Sequence[TrendPoint], charset: Charset, *, past: bool = False
) -> list[Measure]:
    """Return the graphs of this machine, the most important first.

    ``points`` are those that are shown; ``past`` says that they are not the app's own. What the
    machine does not have or report has no graph.
    """
    sample = snapshot.sample
    if sample is None:
        return []
    found = [_first_token(snapshot, points, charset, past)]
    found += _gpus(sample, charset)
    found.append(_cpu(sample, charset))
    found += _memory(sample)
    found += _power(sample, points, charset)
    found += _temperature(sample, points, charset)
    found += _swap(sample, points)
    return found


def _first_token(
    snapshot: Snapshot, points: Sequence[TrendPoint], charset: Charset, past: bool
) -> Measure:
    own = None if past else first_tokens(snapshot)
    known = [p.first_token_seconds for p in (points if own is None else own)]
    values = sorted(value for value in known if value is not None)
    notes: tuple[str, ...] = ()
    maximum = scale_for(values, least=1)
    if len(values) > 1:
        slow = values[min(len(values) - 1, int(len(values) * 0.95))]
        notes = (f"p95 {slow:,.1f} s",)
    return Measure(
        name="first",
        title="1st token",
        reading=lambda point: point.first_token_seconds,
        text=seconds_text,
        value=values[len(values) // 2] if values else None,
        notes=notes,
        scale=_scale(0, maximum, "s", charset),
        maximum=maximum,
        points=own,
    )


def first_tokens(snapshot: Snapshot) -> tuple[TrendPoint, ...]:
    """Return points with the time to first token of the last streams."""
    records: tuple[ActiveRequestRecord | RequestRecord, ...] = (
        *snapshot.finished,
        *snapshot.active,
    )
    found = [
        TrendPoint(at=one.at, first_token_seconds=one.time_to_first_token_seconds)
        for one in records
        if one.stream and one.time_to_first_token_seconds is not None
    ]
    return tuple(sorted(found, key=lambda point: point.at))


def _gpus(sample: ResourceSample, charset: Charset) -> list[Measure]:
    count = len(sample.gpus)
    percent = partial(number_text, unit="%")
    if count > _GPUS:
        known = [one.utilization_percent for one in sample.gpus]
        value = _mean(known)
        note = "each " + " ".join(charset.known(one, number_text) for one in known)
        return [
            Measure(
                name="gpu",
                title="GPUs",
                reading=_mean_gpu,
                text=percent,
                value=value,
                notes=(note,),
                scale=_scale(0, 100, "%", charset),
            )
        ]
    found = []
    for number, gpu in enumerate(sample.gpus):
        notes = [None if gpu.clock_hz is None else f"{gpu.clock_hz / 1e9:.2f} GHz"]
        if count > 1:
            unit = "°C" if charset.unicode else "C"
            notes = [
                None if gpu.temperature_c is None else f"{gpu.temperature_c:.0f} {unit}",
                None if gpu.power_w is None else f"{gpu.power_w:.0f} W",
                *notes,
            ]
        found.append(
            Measure(
                name=f"gpu-{number}",
                title="GPU" if count == 1 else f"GPU {number}",
                reading=partial(_of_gpu, number, lambda gpu: gpu.utilization_percent),
                text=percent,
                value=gpu.utilization_percent,
                notes=tuple(filter(None, notes)),
                scale=_scale(0, 100, "%", charset),
            )
        )
    return found


def _mean_gpu(point: TrendPoint) -> float | None:
    return _mean([gpu.utilization_percent for gpu in point.gpus])


def _of_gpu(
    number: int, reading: Callable[[GpuPoint], float | None], point: TrendPoint
) -> float | None:
    return reading(point.gpus[number]) if number < len(point.gpus) else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _cpu(sample: ResourceSample, charset: Charset) -> Measure:
    cores = sample.cpu.count
    notes = [] if cores is None else [counted(cores, "core")]
    loads = sample.cpu.per_core
    if charset.unicode and 1 < len(loads) <= _CORES:
        bars = "".join(" " if one is None else _STEPS[min(7, int(one / 12.5))] for one in loads)
        notes.append(bars)
    return Measure(
        name="cpu",
        title="CPU",
        reading=lambda point: point.cpu_percent,
        text=partial(number_text, unit="%"),
        value=sample.cpu.percent,
        notes=tuple(notes),
        scale=_scale(0, 100, "%", charset),
    )


def _memory(sample: ResourceSample) -> list[Measure]:
    """Return the main memory, and the GPUs' own together."""
    found = []
    own = [number for number, gpu in enumerate(sample.gpus) if _has_own_memory(sample, number)]
    if own:
        gpus = [sample.gpus[number] for number in own]
        found.append(
            _bytes(
                "gpu-memory",
                "GPU memory",
                lambda point: _sum(point.gpus[n].memory_used for n in own if n < len(point.gpus)),
                _sum(gpu.memory_used for gpu in gpus),
                sum(gpu.memory_total or 0 for gpu in gpus),
            )
        )
    if sample.memory.total:
        found.append(
            _bytes(
                "memory",
                "Memory",
                lambda point: point.memory_used,
                sample.memory.used,
                sample.memory.total,
            )
        )
    return found


def _has_own_memory(sample: ResourceSample, number: int) -> bool:
    gpu = sample.gpus[number]
    return bool(gpu.memory_total) and not gpu.shared_memory


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _bytes(name: str, title: str, reading: Reading, value: float | None, total: int) -> Measure:
    return Measure(
        name=name,
        title=title,
        reading=reading,
        text=lambda size: size_text(int(size)),
        value=value,
        notes=(f"of {size_text(total)}",),
        maximum=total,
    )


def _power(sample: ResourceSample, points: Sequence[TrendPoint], charset: Charset) -> list[Measure]:
    value = total_power(sample)
    seen = [power for point in points if (power := _power_of(point)) is not None]
    if value is None and not seen:
        return []
    highest = max([*seen, value or 0.0])
    mode = _WATTS.search(sample.device.power_mode or "")
    limit = float(mode[1]) if mode else 0.0
    notes = (f"of {limit:.0f} W",) if highest <= limit else ()
    if highest > limit:
        limit = scale_for([highest])
    return [
        Measure(
            name="power",
            title="Power",
            reading=_power_of,
            text=partial(number_text, decimals=1 if limit < 100 else 0, unit="W"),
            value=value,
            notes=notes,
            scale="" if notes else _scale(0, limit, "W", charset),
            maximum=limit,
        )
    ]


def _power_of(point: TrendPoint) -> float | None:
    """Return the power of the board, else the sum of its GPUs."""
    return _sum(gpu.power_w for gpu in point.gpus) if point.power_w is None else point.power_w


def _temperature(
    sample: ResourceSample, points: Sequence[TrendPoint], charset: Charset
) -> list[Measure]:
    value, unit = hottest(sample), "°C" if charset.unicode else "C"
    if value is None and all(point.temperature_c is None for point in points):
        return []
    notes: tuple[str, ...] = ()
    if sample.fan is not None and sample.fan.percent is not None:
        notes = (f"fan {sample.fan.percent:.0f} %",)
    elif sample.fan is not None and sample.fan.rpm is not None:
        notes = (f"fan {sample.fan.rpm:,} rpm",)
    return [
        Measure(
            name="temperature",
            title="Temp",
            reading=lambda point: point.temperature_c,
            text=partial(number_text, unit=unit),
            value=value,
            notes=notes,
            scale=_scale(_COOLEST, 100, unit, charset),
            minimum=_COOLEST,
            tone="" if value is None or value < _HOT else "bad" if value >= _TOO_HOT else "busy",
        )
    ]


def _swap(sample: ResourceSample, points: Sequence[TrendPoint]) -> list[Measure]:
    """Return the swap, if any is or was in use."""
    swap = all_swap(sample)
    used, total = swap.used, swap.total
    if not total or not (used or any(point.swap_used for point in points)):
        return []
    title = "Swap" if sample.zram is None else "Swap, zram"
    return [_bytes("swap", title, lambda point: point.swap_used, used, total)]


def scale_for(values: Sequence[float], *, least: float = 0.0) -> float:
    """Return the end of a scale for ``values``: a round number."""
    highest = max([*values, least], default=least)
    return float(next((scale for scale in _SCALES if scale >= highest), highest))


def _scale(minimum: float, maximum: float, unit: str, charset: Charset) -> str:
    return f"{minimum:.0f}{charset.missing}{maximum:.0f} {unit}"
