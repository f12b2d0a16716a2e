"""The state of the service at one moment, as the app knows it. Pages draw themselves from it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TypeVar

import msgspec

from cyber_inference_tui.records import (
    ActiveRequestRecord,
    DownloadRecord,
    DownloadStatus,
    GpuPoint,
    InstallRecord,
    MemoryPool,
    ModelRecord,
    ModelStatus,
    ProblemRecord,
    RecentEvent,
    RequestRecord,
    ResourceSample,
    StatusRecord,
    SwapRecord,
    TrendPoint,
)
from cyber_inference_tui.records.peers import PeerRecord, PeerState
from cyber_inference_tui.units import counted

IN_PROGRESS = frozenset({DownloadStatus.QUEUED, DownloadStatus.RUNNING, DownloadStatus.VERIFYING})
"""States of downloads that end by themselves."""


class Link(StrEnum):
    """The state of the connection to the service."""

    CONNECTING = "connecting"
    """The service has not answered yet."""
    LIVE = "live"
    LOST = "lost"
    """The connection broke; the snapshot is old."""


EVERYWHERE = "*"
"""The choice of all boxes; that of this one is the empty name."""


class RemoteModel(ModelRecord, frozen=True, kw_only=True):
    """A model of another box. Its id is ``BOX/ID``, by which this service knows it, too."""

    box: str

    @property
    def there(self) -> str:
        """Its id on its box."""
        return self.id.removeprefix(f"{self.box}/")


def is_known(box: PeerRecord) -> bool:
    """Return whether a box tells its state now."""
    return box.state in {PeerState.CONNECTED, PeerState.RESTING}


def remote_models(box: PeerRecord) -> tuple[RemoteModel, ...]:
    """Return the models of a box, by id; none while it is not known what it has."""
    if not is_known(box):
        return ()
    return tuple(
        RemoteModel(
            **{
                **msgspec.structs.asdict(model),
                "id": f"{box.name}/{model.id}",
                "box": box.name,
            }
        )
        for model in sorted(box.models, key=lambda model: model.id)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The newest known state of the service."""

    link: Link = Link.CONNECTING
    problem: str = ""
    """Why there is no connection, in one sentence."""
    retry_at: datetime | None = None
    """Time of the next attempt to connect, while it is awaited."""
    updated_at: datetime | None = None
    """Time of the last event or response, by this machine's clock."""
    outdated: frozenset[str] = frozenset()
    """Parts that could not be read the last time, in plain words (``memory``); they are old."""
    status: StatusRecord | None = None
    status_at: datetime | None = None
    """Time at which ``status`` was read, by this machine's clock."""
    models: tuple[ModelRecord, ...] = ()
    """Those of this box, sorted by id."""
    boxes: tuple[PeerRecord, ...] = ()
    """The other boxes, by name."""
    elsewhere: tuple[RemoteModel, ...] = ()
    """The models of other boxes, by box and id."""
    problems: tuple[ProblemRecord, ...] = ()
    """Files and settings that cannot be used as models."""
    sample: ResourceSample | None = None
    trend: tuple[TrendPoint, ...] = ()
    """Oldest first."""
    rooms: tuple[MemoryPool, ...] = ()
    active: tuple[ActiveRequestRecord, ...] = ()
    """Requests that are not finished, oldest first."""
    speeds: dict[str, float] | None = None
    """Tokens per second by model, as the last live figures said; ``None`` before the first."""
    rates: dict[int, tuple[float, ...]] = field(default_factory=dict)
    """By the number of a running request: its last tokens per second, about one each second."""
    finished: tuple[RequestRecord, ...] = ()
    """The last finished requests, newest first."""
    recent_events: tuple[RecentEvent, ...] = ()
    """Newest first."""
    downloads: tuple[DownloadRecord, ...] = ()
    install: InstallRecord | None = None
    """The installation of llama-server; ``None`` if the service has no such endpoint."""
    config_version: int = 0
    """Grows with each change of the settings."""
    config_problem: str = ""
    """Why the service refused the last change of its configuration file; empty if it did not."""

    @property
    def reached(self) -> bool:
        """The service has answered since the app started."""
        return self.updated_at is not None

    @property
    def live(self) -> bool:
        """The connection works."""
        return self.link is Link.LIVE

    def model(self, model_id: str) -> ModelRecord | None:
        """Return the model with this id."""
        return next((one for one in (*self.models, *self.elsewhere) if one.id == model_id), None)

    def home(self, model_id: str) -> tuple[str, str]:
        """Return the box of a model or of its log, empty for this one, and its id there."""
        box, slash, there = model_id.partition("/")
        known = slash and any(one.name == box for one in self.boxes)
        if not known or any(model.id == model_id for model in self.models):
            return "", model_id
        return box, there

    def models_of(self, box: str) -> tuple[ModelRecord, ...]:
        """Return the models of a box, of this one (empty name), or of all (``EVERYWHERE``)."""
        if not box:
            return self.models
        own = {model.id for model in self.models} if self.elsewhere else ()
        others = (one for one in self.elsewhere if box in {EVERYWHERE, one.box})
        here = self.models if box == EVERYWHERE else ()
        return (*here, *(one for one in others if one.id not in own))

    @property
    def speeds_now(self) -> dict[str, float]:
        """Tokens per second by model now, of those that answer."""
        if self.speeds is not None:
            return self.speeds
        return {} if self.sample is None else trend_point(self.sample).tokens_per_second

    @property
    def active_models(self) -> tuple[ModelRecord, ...]:
        """The models that are neither unloaded nor failed."""
        asleep = {ModelStatus.UNLOADED, ModelStatus.FAILED}
        return tuple(model for model in self.models if model.status not in asleep)


def trend_point(sample: ResourceSample) -> TrendPoint:
    """Return the values of ``sample`` that graphs show."""
    return TrendPoint(
        at=sample.at,
        cpu_percent=sample.cpu.percent,
        memory_used=sample.memory.used,
        memory_total=sample.memory.total,
        swap_used=all_swap(sample).used,
        power_w=total_power(sample),
        temperature_c=hottest(sample),
        fan_percent=None if sample.fan is None else sample.fan.percent,
        gpus=tuple(
            GpuPoint(
                utilization_percent=gpu.utilization_percent,
                memory_used=gpu.memory_used,
                memory_total=gpu.memory_total,
                temperature_c=gpu.temperature_c,
                power_w=gpu.power_w,
                clock_hz=gpu.clock_hz,
            )
            for gpu in sample.gpus
        ),
        tokens_per_second={
            usage.id: usage.tokens_per_second for usage in sample.models if usage.tokens_per_second
        },
    )


def all_swap(sample: ResourceSample) -> SwapRecord:
    """Return the sum of the swap on disks and in zram, as far as known."""
    kinds = [kind for kind in (sample.swap, sample.zram) if kind is not None]
    used = [kind.used for kind in kinds if kind.used is not None]
    total = [kind.total for kind in kinds if kind.total is not None]
    return SwapRecord(total=sum(total) if total else None, used=sum(used) if used else None)


def total_power(sample: ResourceSample) -> float | None:
    """Return the power of the board in W, else the sum of its GPUs, else ``None``."""
    if (total := sample.power.get("total")) is not None:
        return total
    known = [gpu.power_w for gpu in sample.gpus if gpu.power_w is not None]
    return sum(known) if known else None


def hottest(sample: ResourceSample) -> float | None:
    """Return °C of a Jetson's junction (``tj``), else the hottest GPU, else the hottest sensor."""
    junction = [v for name, v in sample.temperatures.items() if name.lower().startswith("tj")]
    gpus = [gpu.temperature_c for gpu in sample.gpus]
    for values in (junction, gpus, list(sample.temperatures.values())):
        known = [value for value in values if value is not None]
        if known:
            return max(known)
    return None


_Request = TypeVar("_Request", ActiveRequestRecord, RequestRecord)
RequestIdentity = tuple[datetime, str, str, str | None]


def request_identity(record: ActiveRequestRecord | RequestRecord) -> RequestIdentity:
    """Return what identifies a request while it runs, after its end and in the history.

    Its number differs between these.
    """
    return record.at, record.model, record.path, record.client


def model_of(record: ActiveRequestRecord | RequestRecord) -> str:
    """Return the id of the model that has answered a request, in the lists of models."""
    prefix = f"{record.box}/"
    if record.box is None or record.model.startswith(prefix):
        return record.model
    return f"{prefix}{record.model}"


def on_box(records: Iterable[_Request], box: str) -> Sequence[_Request]:
    """Return the requests that ran on a box, on this one (empty name), or all (``EVERYWHERE``)."""
    return [one for one in records if box in {EVERYWHERE, one.box or ""}]


def would_be_lost(snapshot: Snapshot) -> str:
    """Return a sentence about what stopping the service would end; empty if nothing."""
    downloads = sum(one.status in IN_PROGRESS for one in snapshot.downloads)
    work = ((len(snapshot.active), "request"), (downloads, "download"))
    parts = []
    if running := " and ".join(counted(number, noun) for number, noun in work if number):
        parts.append(f"interrupts {running}")
    if models := len(snapshot.active_models):
        parts.append(f"unloads {counted(models, 'model')}")
    return f"Stopping {', and '.join(parts)}." if parts else ""
