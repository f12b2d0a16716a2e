"""Benches: measured speed, energy and memory of models."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from cyber_inference_tui.records.tuning import TuneOutcome, TuneRequest

MOST_MODELS = 16
_MOST_TOKENS = 1 << 20


class BenchRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to measure (``POST /admin/bench``)."""

    models: Annotated[tuple[str, ...], Meta(min_length=1, max_length=MOST_MODELS)]
    """Ids or aliases; they take turns."""
    prompt: Annotated[int, Meta(ge=1, le=_MOST_TOKENS)] = 512
    """Tokens of each prompt. No prompt begins like another one."""
    tokens: Annotated[int, Meta(ge=2, le=_MOST_TOKENS)] = 128
    """Tokens of each answer."""
    parallel: Annotated[int, Meta(ge=1, le=64)] = 1
    """Requests at once."""
    rounds: Annotated[int, Meta(ge=1, le=100)] = 6
    """Measurements of each model, after one that does not count."""
    power_modes: bool = False
    """Measure in each power mode of a Jetson, and return to the present one."""


class BenchFigure(msgspec.Struct, frozen=True, kw_only=True):
    """A figure that was measured in each round."""

    median: float
    spread: float
    """The median absolute deviation: half of the values are no farther from the median."""
    values: tuple[float, ...] = ()
    """By round."""


class BenchResult(msgspec.Struct, frozen=True, kw_only=True):
    """A measured model (``GET /admin/bench/results``)."""

    id: int = 0
    """The number in the history; it grows with time."""
    run: datetime
    """The start of the bench. Results of one bench in one power mode were measured in turns."""
    at: datetime
    """The end of its last round."""
    model: str
    build: str | None = None
    """The build of llama-server, such as ``b11669``."""
    device: str | None = None
    power_mode: str | None = None
    context_size: int | None = None
    """Tokens of all slots together."""
    slots: int | None = None
    gpu_layers: int | None = None
    """As asked for; ``None`` = as many as possible."""
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"
    threads: int | None = None
    """As asked for; ``None`` = llama-server decides."""
    prompt: int
    """Tokens of each prompt."""
    tokens: int
    """Tokens of each answer."""
    parallel: int = 1
    """Requests at once. The speeds are those of all together."""
    prompt_tokens_per_second: BenchFigure | None = None
    tokens_per_second: BenchFigure | None = None
    """The speed of generation."""
    time_to_first_token_seconds: BenchFigure | None = None
    """The mean of the requests of a round."""
    joules_per_token: BenchFigure | None = None
    """Of a round by its tokens, those of prompts included; ``None`` = nothing measures energy."""
    peak_memory_bytes: int | None = None
    """The most memory of its server: main memory, and that of GPUs which have their own."""
    peak_temperature_c: float | None = None
    """The highest temperature of any part."""
    throttled: tuple[str, ...] = ()
    """The parts that were slowed down while it was measured, with the reason."""


class BenchState(StrEnum):
    """The state of the bench."""

    IDLE = "idle"
    """None was started since the service runs."""
    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"
    """It made way for a request."""
    CANCELLED = "cancelled"
    FAILED = "failed"


class BenchStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The bench or tuning that runs, or the last one (``GET /admin/bench``, ``bench`` events)."""

    state: BenchState = BenchState.IDLE
    request: BenchRequest | None = None
    tuning: TuneRequest | None = None
    """In place of ``request``, if it tunes a model."""
    step: str | None = None
    """What it does now, in a few words."""
    done: int = 0
    """Measurements that are over, or trials of a tuning."""
    total: int = 0
    started_at: datetime | None = None
    ended_at: datetime | None = None
    error: str | None = None
    """The reason for its early end, in a sentence or two."""
    results: tuple[BenchResult, ...] = ()
    """Those that are complete."""
    outcome: TuneOutcome | None = None
    """Of a tuning, after its end."""
