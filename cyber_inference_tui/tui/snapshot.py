"""What the terminal app knows of the service at one moment. Frozen: pages are drawn from it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from cyber_inference_tui.records import (
    ActiveRequestRecord,
    DownloadRecord,
    InstallRecord,
    MemoryRoom,
    ModelRecord,
    ModelStatus,
    ProblemRecord,
    RequestRecord,
    ResourceSample,
    StatusRecord,
)
from cyber_inference_tui.terminal.tone import Tone


class Link(StrEnum):
    """How it stands with the connection to the service."""

    CONNECTING = "connecting"
    """Nothing has been heard yet."""
    LIVE = "live"
    LOST = "lost"
    """What is known is from before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecentEvent:
    """Something that happened, in a few words."""

    at: datetime
    subject: str
    """The model's id, or ``service``."""
    text: str
    tone: Tone = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrendPoint:
    """What the graphs keep of one sample: percent, bytes, W, °C; ``None`` = not told."""

    at: datetime
    cpu: float | None = None
    gpu: float | None = None
    memory: float | None = None
    power: float | None = None
    temperature: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The service as it was last heard of."""

    link: Link = Link.CONNECTING
    problem: str = ""
    """Why there is no connection, in one sentence."""
    updated_at: datetime | None = None
    """When the last news came, by this machine's clock."""
    outdated: frozenset[str] = frozenset()
    """Parts that the service could not answer for the last time, in plain words (``memory``): they
    are as they were before."""
    status: StatusRecord | None = None
    status_at: datetime | None = None
    """When ``status`` was read, by this machine's clock."""
    models: tuple[ModelRecord, ...] = ()
    """By id."""
    problems: tuple[ProblemRecord, ...] = ()
    """Files and settings that are no models."""
    sample: ResourceSample | None = None
    trend: tuple[TrendPoint, ...] = ()
    """Oldest first."""
    rooms: tuple[MemoryRoom, ...] = ()
    active: tuple[ActiveRequestRecord, ...] = ()
    """Requests that are not finished, oldest first."""
    finished: tuple[RequestRecord, ...] = ()
    """The last ones, newest first."""
    recent_events: tuple[RecentEvent, ...] = ()
    """Newest first."""
    downloads: tuple[DownloadRecord, ...] = ()
    install: InstallRecord | None = None
    """How getting a llama-server stands; ``None`` where the service does not know of it."""
    config_version: int = 0
    """Grows with each change of the settings that the service reports."""
    config_problem: str = ""
    """Why the service refused the last change of its configuration file; empty if it did not."""

    @property
    def live(self) -> bool:
        """What is shown is of now."""
        return self.link is Link.LIVE

    def model(self, model_id: str) -> ModelRecord | None:
        """The model of this id."""
        return next((model for model in self.models if model.id == model_id), None)

    @property
    def awake(self) -> tuple[ModelRecord, ...]:
        """The models that are neither unloaded nor failed."""
        asleep = {ModelStatus.UNLOADED, ModelStatus.FAILED}
        return tuple(model for model in self.models if model.status not in asleep)


def trend_point(sample: ResourceSample) -> TrendPoint:
    """What the graphs keep of ``sample``."""
    gpus = [gpu.utilization_percent for gpu in sample.gpus]
    known = [value for value in gpus if value is not None]
    return TrendPoint(
        at=sample.at,
        cpu=sample.cpu.percent,
        gpu=sum(known) / len(known) if known else None,
        memory=sample.memory.percent,
        power=total_power(sample),
        temperature=hottest(sample),
    )


def total_power(sample: ResourceSample) -> float | None:
    """W of the whole board, or of its GPUs together, as far as the machine tells."""
    if (total := sample.power.get("total")) is not None:
        return total
    known = [gpu.power_w for gpu in sample.gpus if gpu.power_w is not None]
    return sum(known) if known else None


def hottest(sample: ResourceSample) -> float | None:
    """°C: a Jetson's junction (``tj``), else the hottest GPU, else the hottest of all sensors."""
    junction = [v for name, v in sample.temperatures.items() if name.lower().startswith("tj")]
    gpus = [gpu.temperature_c for gpu in sample.gpus]
    for values in (junction, gpus, list(sample.temperatures.values())):
        known = [value for value in values if value is not None]
        if known:
            return max(known)
    return None
