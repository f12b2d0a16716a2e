"""The machine: what it is and what it is busy with; bytes, °C, W."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

import msgspec


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


class MemoryRoom(msgspec.Struct, frozen=True, kw_only=True):
    """One memory that models are loaded into, as the scheduler reckons (``GET /admin/memory``)."""

    pool: str
    """``memory`` (main memory) or ``gpu`` (what the GPUs have of their own, together)."""
    limit_bytes: int | None = None
    """How much of it may be used, by models and everything else."""
    free_bytes: int | None = None
    """What a load may take now."""
    free_after_unloading_bytes: int | None = None
    """What a load may take when all idle models are gone that may go."""


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
