"""The records that travel the wire between the service and its clients: one definition for both.

Sizes are bytes, durations seconds, times ISO 8601 in UTC (``datetime`` with a zone). A field is
``None`` where the machine or the file does not tell; a number is never made up.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

_encoder = msgspec.json.Encoder()


def to_json(value: Any) -> bytes:
    """A record (or a list, a dict of them) as JSON on one line.

    A file name that is not UTF-8 holds lone surrogates, which JSON cannot carry: they become "?".
    """
    try:
        return _encoder.encode(value)
    except UnicodeEncodeError:
        return _encoder.encode(_encodable(msgspec.to_builtins(value)))


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [_encodable(item) for item in value]
    if isinstance(value, dict):
        return {_encodable(key): _encodable(item) for key, item in value.items()}
    return value


class ModelStatus(StrEnum):
    """Where a model stands; the order is the order of a life."""

    UNLOADED = "unloaded"
    QUEUED = "queued"
    LOADING = "loading"
    LOADED = "loaded"
    UNLOADING = "unloading"
    FAILED = "failed"


class ModelRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One local model and what is going on with it (``GET /admin/models``)."""

    id: str
    aliases: tuple[str, ...] = ()
    path: str | None = None
    size_bytes: int | None = None
    architecture: str | None = None
    parameters: int | None = None
    quantization: str | None = None
    context_length: int | None = None
    """What the model was trained with, in tokens."""
    context_size: int | None = None
    """What its server was started with, in tokens, or would be."""
    status: ModelStatus = ModelStatus.UNLOADED
    progress: float | None = None
    """0 to 1 while loading, where the server tells."""
    port: int | None = None
    pid: int | None = None
    pinned: bool = False
    in_flight: int = 0
    queued: int = 0
    expected_wait_seconds: float | None = None
    """How long a request that came now would wait; ``None`` where nothing is known of it."""
    memory_estimate_bytes: int | None = None
    memory_estimate_source: str | None = None
    """``measured`` (it took that much before), ``engine``, ``formula`` or ``upper bound``."""
    memory_bytes: int | None = None
    """What it took when it was loaded; ``None`` while it is not."""
    loaded_at: datetime | None = None
    last_used_at: datetime | None = None
    error: str | None = None
    """Why it failed, or why its file cannot be read."""


class WaitingRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One request that waits for a model (``GET /admin/queue``)."""

    model: str
    position: int
    """From 1, among those that wait for this model."""
    waited_seconds: float
    expected_wait_seconds: float | None
    """From now on; ``None`` where nothing is known of it."""


class SessionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One life of a model's server, from load to unload (``GET /admin/sessions``)."""

    id: int = 0
    """Given by the history; it grows with time."""
    model: str
    load_reason: str
    """``request``, ``asked``, ``preload`` or ``restart``."""
    unload_reason: str | None = None
    """Why it ended, in plain words; ``None`` while it is loaded."""
    loaded_at: datetime
    unloaded_at: datetime | None = None
    load_seconds: float
    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    context_size: int | None = None
    memory_estimate_bytes: int | None = None
    memory_bytes: int | None = None


class RequestRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One finished request (``GET /admin/requests``). Never its prompt, never its answer."""

    id: int = 0
    """Given by the history; it grows with time."""
    at: datetime
    """When it came."""
    model: str
    path: str
    status: int
    """The HTTP status that the client saw; 499 = it went away first."""
    stream: bool = False
    tokens_in: int | None = None
    tokens_out: int | None = None
    tokens_per_second: float | None = None
    """While answering, as the server measured it."""
    time_to_first_token_seconds: float | None = None
    """From its arrival to the first byte of the answer's body, waiting included."""
    queue_seconds: float = 0.0
    """How long it waited for a place at its model."""
    duration_seconds: float
    client: str | None = None
    """The address it came from."""
    error: str | None = None
    """What went wrong, in one sentence."""


class ModelTotals(msgspec.Struct, frozen=True, kw_only=True):
    """One model's requests summed up, as far back as the history goes (``GET /admin/totals``)."""

    model: str
    requests: int
    failures: int
    """Those with a status of 400 or more, or with an error."""
    tokens_in: int
    """Of the requests whose number of tokens is known."""
    tokens_out: int
    last_used_at: datetime
    """When the latest one came."""


class LlamaServerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The ``llama-server`` in use."""

    path: str | None = None
    version: str | None = None


class StatusRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The service in one glance (``GET /admin/status``)."""

    version: str
    pid: int
    uptime_seconds: float
    host: str
    port: int
    llama_server: LlamaServerRecord
    models_loaded: int
    requests_in_flight: int
    requests_queued: int


class DeviceKind(StrEnum):
    """What sort of machine it is."""

    JETSON = "jetson"
    RASPBERRY_PI = "raspberry-pi"
    BOARD = "board"
    """Another machine that describes itself with a device tree."""
    COMPUTER = "computer"
    """Everything else: a PC, a server, a virtual machine, a container."""


class DeviceRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What machine the service runs on."""

    kind: DeviceKind = DeviceKind.COMPUTER
    name: str | None = None
    processor: str | None = None
    os: str | None = None
    kernel: str | None = None
    chip: str | None = None
    """A Jetson's, such as ``tegra234``."""
    l4t: str | None = None
    """A Jetson's release of Linux for Tegra, such as ``36.4.3``."""
    jetpack: str | None = None
    """The JetPack of that release; the first number alone where the rest is not known."""
    power_mode: str | None = None
    """A Jetson's, such as ``15W``."""


class CpuRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The processors since the sample before; the first sample has no percentages."""

    percent: float | None = None
    """Of all cores together."""
    per_core: tuple[float | None, ...] = ()
    """By the cores' numbers; ``None`` also for one that is switched off."""
    count: int | None = None
    """Cores that are switched on."""
    load_average: tuple[float, float, float] | None = None
    """Over 1, 5 and 15 minutes."""
    frequencies_hz: tuple[int | None, ...] = ()
    """One for each group of cores that share a clock, of the first 16 such groups."""


class MemoryRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Main memory, or what a container may use of it."""

    total: int | None = None
    available: int | None = None
    """What programs can get without swapping."""
    used: int | None = None
    """``total - available``."""
    percent: float | None = None


class SwapRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Swap on disks; or zram, which is swap that is compressed in main memory."""

    total: int | None = None
    used: int | None = None
    percent: float | None = None
    memory: int | None = None
    """What zram takes of main memory for it."""


class GpuRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU."""

    name: str
    utilization_percent: float | None = None
    memory_total: int | None = None
    memory_used: int | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    shared_memory: bool | None = None
    """It has no memory of its own, but uses the machine's."""
    clock_hz: int | None = None
    memory_clock_hz: int | None = None
    processes: dict[int, int | None] | None = None
    """Memory by pid, where the driver tells (in a container the pids are the host's)."""


class DiskRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The file system that holds a path, and the traffic of its device since the sample before."""

    path: str
    total: int | None = None
    available: int | None = None
    """For programs that do not run as root."""
    used: int | None = None
    percent: float | None = None
    """``used`` of ``used + available``, as ``df`` has it."""
    read_bytes_per_second: float | None = None
    write_bytes_per_second: float | None = None


class NetworkRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The traffic of one network interface since the sample before."""

    name: str
    receive_bytes_per_second: float | None = None
    send_bytes_per_second: float | None = None


class FanRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One fan: how fast it is told to turn, and how fast it does."""

    percent: float | None = None
    rpm: int | None = None


class ModelUsage(msgspec.Struct, frozen=True, kw_only=True):
    """What one model's server, with its descendants, uses at the moment."""

    id: str
    pid: int
    cpu_percent: float | None = None
    """Of one core, since the sample before: 100 = one core, 400 = four."""
    memory_private_bytes: int | None = None
    """What main memory gets back when it ends."""
    memory_mapped_bytes: int | None = None
    """Its files' pages that are in main memory, weights above all."""
    gpu_memory_bytes: int | None = None
    """By the driver; where that does not tell, what the server said when it was loaded."""
    in_flight: int = 0
    tokens_per_second: float | None = None
    """Generated for all its requests together."""


class ResourceSample(msgspec.Struct, frozen=True, kw_only=True):
    """The machine at one moment (``GET /admin/resources``); °C, W."""

    at: datetime
    device: DeviceRecord
    cpu: CpuRecord
    memory: MemoryRecord
    swap: SwapRecord
    zram: SwapRecord | None = None
    """``None`` = there is none."""
    gpus: tuple[GpuRecord, ...] = ()
    temperatures: dict[str, float | None] = {}
    power: dict[str, float | None] = {}
    """By rail; ``total`` is the whole board's."""
    fan: FanRecord | None = None
    disks: tuple[DiskRecord, ...] = ()
    networks: tuple[NetworkRecord, ...] = ()
    memory_clock_hz: int | None = None
    """Of a Jetson's memory controller (EMC)."""
    uptime_seconds: float | None = None
    models: tuple[ModelUsage, ...] = ()
    """Those that are loaded."""


class ConfigValueRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One setting's effective value (``GET /admin/config``); secrets are masked."""

    key: str
    value: Any
    source: str
    """``default``, ``file``, ``env`` or ``flag``."""
    default: Any
    help: str
    secret: bool = False
    live: bool = False
    """Applies without a restart of the service."""


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a process's output, cleaned of control sequences."""

    at: datetime
    text: str


class LogEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Data of a ``log`` event: new lines of one process, in order."""

    id: str
    """A model's id, or ``service``."""
    lines: tuple[LogLine, ...]


class ServiceEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Data of a ``service`` event: ``state`` is ``started`` or ``stopping``."""

    state: str
    message: str = ""


class GapEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Data of a ``gap`` event: a reader was too slow, or resumed too late, and lost events."""

    missed: int | None
    """How many; ``None`` where that is not known."""
    topic: str | None
    """Of which topic; ``None`` = of all, because the service was started anew since."""
