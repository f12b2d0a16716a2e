"""The dashboard's graphs: their captions and histories."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from textual.content import Content

from cyber_inference_tui.records import ResourceSample
from cyber_inference_tui.terminal.charset import Charset
from cyber_inference_tui.terminal.text_width import fit
from cyber_inference_tui.tui.snapshot import Snapshot, TrendPoint, hottest, total_power
from cyber_inference_tui.tui.widgets.graph import rows
from cyber_inference_tui.units import counted, number_text

TrendName = Literal["gpu", "cpu", "memory", "power", "temperature"]

SPAN_SECONDS = 300.0
"""Seconds that a graph shows."""
_LEAST_STEP = 2.0
_LONGEST_HOLD = 15.0
"""Seconds for which a value fills a gap; the service samples less often while it is idle."""
_SCALES = (5, 10, 15, 25, 40, 60, 100, 150, 250, 400, 600, 1000, 1500, 2500, 5000)
_WATTS = re.compile(r"(\d{1,4})\s*W", re.IGNORECASE)
_GAUGE_TITLE = 6
_GAUGE_FIGURE = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """A graph: its title, its present value and the end of its scale."""

    name: TrendName
    title: str
    figure: str
    """The present value."""
    note: str = ""
    """A further remark, shown where it fits."""
    value: float | None = None
    maximum: float = 100.0

    @property
    def caption(self) -> str:
        """The text after the title."""
        return f"{self.figure}  {self.note}" if self.note else self.figure


def trends(snapshot: Snapshot, charset: Charset) -> list[Trend]:
    """Return the graphs of this machine, at most four.

    Memory replaces the GPU or the power if the machine does not have or report it. Without a
    temperature sensor there is no temperature.
    """
    sample = snapshot.sample
    if sample is None:
        return []
    power = _power(snapshot, sample, charset)
    found = [_gpu(sample, charset)] if sample.gpus else [_memory(sample, charset)]
    found.append(_cpu(sample, charset))
    if power is not None:
        found.append(power)
    elif sample.gpus:
        found.append(_memory(sample, charset))
    if (temperature := _temperature(snapshot, sample, charset)) is not None:
        found.append(temperature)
    return found


def _gpu(sample: ResourceSample, charset: Charset) -> Trend:
    known = [gpu.utilization_percent for gpu in sample.gpus]
    values = [value for value in known if value is not None]
    mean = sum(values) / len(values) if values else None
    note = ""
    if len(known) > 1:
        note = "each " + " ".join(charset.known(value, number_text) for value in known)
    elif (clock := sample.gpus[0].clock_hz) is not None:
        note = f"{clock / 1e9:.2f} GHz"
    return Trend(name="gpu", title="GPU", figure=_percent(mean, charset), note=note, value=mean)


def _cpu(sample: ResourceSample, charset: Charset) -> Trend:
    cores = sample.cpu.count
    note = "" if cores is None else counted(cores, "core")
    value = sample.cpu.percent
    return Trend(name="cpu", title="CPU", figure=_percent(value, charset), note=note, value=value)


def _memory(sample: ResourceSample, charset: Charset) -> Trend:
    # Its bytes are beside the memory bar.
    value = sample.memory.percent
    figure = _percent(value, charset)
    return Trend(name="memory", title="Memory", figure=figure, value=value)


def _power(snapshot: Snapshot, sample: ResourceSample, charset: Charset) -> Trend | None:
    value = total_power(sample)
    seen = [point.power for point in snapshot.trend if point.power is not None]
    if value is None and not seen:
        return None
    highest = max([*seen, value or 0.0])
    mode = _WATTS.search(sample.device.power_mode or "")
    limit = float(mode[1]) if mode else 0.0
    if highest > limit:
        limit = next((scale for scale in _SCALES if scale >= highest), highest)
    watts = partial(number_text, decimals=1 if limit < 100 else 0, unit="W")
    figure = charset.known(value, watts)
    note = f"of {limit:.0f}"
    return Trend(name="power", title="Power", figure=figure, note=note, value=value, maximum=limit)


def _temperature(snapshot: Snapshot, sample: ResourceSample, charset: Charset) -> Trend | None:
    value = hottest(sample)
    if value is None and all(point.temperature is None for point in snapshot.trend):
        return None
    unit = "°C" if charset.unicode else "C"
    figure = charset.known(value, partial(number_text, unit=unit))
    note = ""
    if sample.fan is not None and sample.fan.percent is not None:
        note = f"fan {sample.fan.percent:.0f} %"
    elif sample.fan is not None and sample.fan.rpm is not None:
        note = f"fan {sample.fan.rpm:,} rpm"
    return Trend(name="temperature", title="Temp", figure=figure, note=note, value=value)


def _percent(value: float | None, charset: Charset) -> str:
    return charset.known(value, partial(number_text, unit="%"))


def history(points: Sequence[TrendPoint], name: TrendName, count: int) -> list[float | None]:
    """Return the last minutes as ``count`` means over equal periods, newest last.

    Periods are aligned to the clock, and only complete ones are shown. A graph then moves every
    few seconds instead of with every sample, which saves most of the bytes on a slow line.
    """
    if count <= 0 or not points:
        return []
    step = max(_LEAST_STEP, SPAN_SECONDS / count)
    end = int(points[-1].at.timestamp() // step)
    sums: dict[int, tuple[float, int]] = {}
    for point in reversed(points):
        place = int(point.at.timestamp() // step)
        if place < end - count - 1:
            break
        value: float | None = getattr(point, name)
        if value is not None:
            total, number = sums.get(place, (0.0, 0))
            sums[place] = total + value, number + 1
    values: list[float | None] = []
    held: float | None = None
    age = 0.0
    for place in range(end - count, end):
        if place in sums:
            total, number = sums[place]
            held, age = total / number, 0.0
        else:
            age += step
        values.append(held if age <= _LONGEST_HOLD else None)
    return values


def gauge(trend: Trend, points: Sequence[TrendPoint], width: int, charset: Charset) -> Content:
    """Return a graph on one line of ``width`` cells: a bar of the present value, and a history."""
    title = fit(trend.title, _GAUGE_TITLE, "left", charset.ellipsis)
    figure = fit(trend.figure, _GAUGE_FIGURE, "right", charset.ellipsis)
    room = width - _GAUGE_TITLE - _GAUGE_FIGURE - 4
    bar = max(4, room // 2)
    spark = max(0, room - bar)
    full, rest = ("━", "─") if charset.unicode else ("#", ".")
    share = 0.0 if trend.value is None else max(0.0, min(1.0, trend.value / trend.maximum))
    filled = round(share * bar)
    values = history(points, trend.name, spark * 2 if charset.unicode else spark)
    line = rows(values, spark, 1, trend.maximum, charset)[0]
    return Content.assemble(
        (title, "$text-muted"),
        (figure, ""),
        ("  ", ""),
        (full * filled, "$accent"),
        (rest * (bar - filled), "$text-muted"),
        ("  ", ""),
        (line, "$accent"),
    )
