"""The past of the machine and its models, for graphs (``GET /admin/trend``)."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from cyber_inference_tui.records.models import DraftTotals

MarkKind = Literal["loaded", "unloaded", "failed", "throttled"]


class GpuPoint(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A GPU in one period: means, and of the memory the highest value."""

    utilization_percent: float | None = None
    memory_used: int | None = None
    memory_total: int | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    clock_hz: float | None = None


class TrendPoint(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One period: means, and of memory, swap and disk the highest value."""

    at: datetime
    """The beginning of the period."""
    cpu_percent: float | None = None
    memory_used: int | None = None
    memory_total: int | None = None
    swap_used: int | None = None
    """Swap and zram together."""
    disk_percent: float | None = None
    """The disk of the models."""
    power_w: float | None = None
    temperature_c: float | None = None
    """The hottest sensor."""
    fan_percent: float | None = None
    gpus: tuple[GpuPoint, ...] = ()
    tokens_per_second: dict[str, float] = {}
    """By model, of those that answered: the mean over the whole period."""
    first_token_seconds: float | None = None
    """The median time to first token of the streams that ended in the period; over several minutes
    the median of the minutes' medians."""


class TrendMark(msgspec.Struct, frozen=True, kw_only=True):
    """A moment that explains a change in the graphs."""

    at: datetime
    kind: MarkKind
    subject: str
    """The model's id, or the machine's part."""
    text: str
    """The event in a few words, without its subject."""


class Trend(msgspec.Struct, frozen=True, kw_only=True):
    """The periods of a span of time, oldest first, and its marks."""

    step_seconds: float
    """The length of a period."""
    points: tuple[TrendPoint, ...]
    """Periods without a sample are left out."""
    marks: tuple[TrendMark, ...] = ()


class SpeedTotals(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of the requests with the same ``name`` (``GET /admin/totals/speed``)."""

    name: str
    """The model, the client (its key, else its program, else its address), or the day (UTC)."""
    requests: int
    failures: int
    tokens_in: int
    tokens_out: int
    tokens_per_second_p50: float | None = None
    tokens_per_second_p95: float | None = None
    """The speed that 95 of 100 answers reach: the slow end."""
    first_token_seconds_p50: float | None = None
    first_token_seconds_p95: float | None = None
    energy_j: float | None = None
    """The sum over requests whose energy is known, in J; ``None`` = of none."""
    cost: float | None = None
    """What that energy costs at ``price_per_kwh``; ``None`` without a price."""
    drafted: DraftTotals | None = None
    """Of a model; ``None`` = none of its requests had a draft."""
    last_used_at: datetime
    """The arrival of the latest request."""
