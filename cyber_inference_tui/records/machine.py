"""The machine: its parts and their load, in bytes, °C and W."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

import msgspec


class DeviceKind(StrEnum):
    """The kind of a machine."""

    JETSON = "jetson"
    RASPBERRY_PI = "raspberry-pi"
    BOARD = "board"
    """Another machine with a device tree."""
    COMPUTER = "computer"
    """Everything else: a PC, a server, a virtual machine, a container."""


class ThrottleReason(StrEnum):
    """The reason why a part of the machine is slowed down."""

    TEMPERATURE = "temperature"
    """It is too hot."""
    POWER = "power"
    """It has reached its power limit, which is usual for a GPU with much to do."""
    CURRENT = "current"
    """The board draws more current than its supply may deliver."""
    VOLTAGE = "voltage"
    """The supply's voltage has dropped."""
    HARDWARE = "hardware"
    """The hardware slows down without a reason, or an outside signal asks for it."""


class DeviceRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The machine that the service runs on."""

    kind: DeviceKind = DeviceKind.COMPUTER
    name: str | None = None
    processor: str | None = None
    os: str | None = None
    kernel: str | None = None
    chip: str | None = None
    """The chip of a Jetson, such as ``tegra234``."""
    l4t: str | None = None
    """The release of Linux for Tegra on a Jetson, such as ``36.4.3``."""
    jetpack: str | None = None
    """The JetPack of that release; the first number alone if the rest is not known."""
    power_mode: str | None = None
    """The power mode of a Jetson, such as ``15W``."""
    power_modes: dict[int, str] = {}
    """All power modes of a Jetson by their numbers, as in ``sudo nvpmodel -m NUMBER``."""


class CpuRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The processors since the previous sample; the first sample has no percentages."""

    percent: float | None = None
    """The load of all cores together."""
    per_core: tuple[float | None, ...] = ()
    """By the cores' numbers; ``None`` also for a core that is switched off."""
    count: int | None = None
    """Cores that are switched on."""
    load_average: tuple[float, float, float] | None = None
    """Averages over 1, 5 and 15 minutes."""
    frequencies_hz: tuple[int | None, ...] = ()
    """The frequency of each group of cores that share a clock; at most 16 groups."""
    max_frequencies_hz: tuple[int | None, ...] = ()
    """The highest frequency that each of these groups may have now."""
    frequency_cores: tuple[tuple[int, ...], ...] = ()
    """The numbers of the cores in each of these groups; empty if they are unknown."""


class MemoryRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Main memory, or a container's part of it."""

    total: int | None = None
    available: int | None = None
    """Memory that programs can get without swapping."""
    used: int | None = None
    """``total - available``."""
    percent: float | None = None


class SwapRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Swap on disks, or zram: swap that is compressed in main memory."""

    total: int | None = None
    used: int | None = None
    percent: float | None = None
    memory: int | None = None
    """The main memory that zram uses."""


class GpuRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A GPU."""

    name: str
    utilization_percent: float | None = None
    memory_total: int | None = None
    memory_used: int | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    shared_memory: bool | None = None
    """The GPU uses the machine's memory and has none of its own."""
    clock_hz: int | None = None
    memory_clock_hz: int | None = None
    max_clock_hz: int | None = None
    power_limit_w: float | None = None
    temperature_limit_c: float | None = None
    """The temperature at which it slows down."""
    fan_percent: float | None = None
    throttled_by: tuple[ThrottleReason, ...] = ()
    """The reasons why it is slowed down."""
    processes: dict[int, int | None] | None = None
    """Memory by pid, if the driver reports it (in a container the pids are the host's)."""


class MemoryPool(msgspec.Struct, frozen=True, kw_only=True):
    """The scheduler's limits for a memory that models are loaded into (``GET /admin/memory``)."""

    pool: str
    """``memory`` (main memory) or ``gpu`` (the GPUs' own memory, together)."""
    limit_bytes: int | None = None
    """The bytes that models and all else may use."""
    free_bytes: int | None = None
    """The bytes that a load may use now."""
    free_after_unloading_bytes: int | None = None
    """The bytes that a load may use after unloading all idle models that may be unloaded."""


class DiskRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The file system of a path, and the traffic of its device since the previous sample."""

    path: str
    total: int | None = None
    available: int | None = None
    """The space for programs that do not run as root."""
    used: int | None = None
    percent: float | None = None
    """``used`` as a part of ``used + available``, as in ``df``."""
    read_bytes_per_second: float | None = None
    write_bytes_per_second: float | None = None
    sd_card: bool = False
    """It is known to be an SD card, which wears out by writing."""


class NetworkRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The traffic of a network interface since the previous sample."""

    name: str
    receive_bytes_per_second: float | None = None
    send_bytes_per_second: float | None = None


class FanRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A fan: its set speed and its measured speed."""

    percent: float | None = None
    rpm: int | None = None


class ModelUsage(msgspec.Struct, frozen=True, kw_only=True):
    """The resources that a model's server uses, with its descendants."""

    id: str
    pid: int
    cpu_percent: float | None = None
    """The load since the previous sample; 100 = one core, 400 = four."""
    memory_private_bytes: int | None = None
    """The main memory that is free again when the server ends."""
    memory_mapped_bytes: int | None = None
    """The pages of its files in main memory, mostly weights."""
    gpu_memory_bytes: int | None = None
    """As the driver reports it; if it does not, as the server's log said after the load."""
    in_flight: int = 0
    tokens_per_second: float | None = None
    """The rate for all its requests together."""


class EnergyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The energy that the machine has used since the service began to measure it."""

    joules: float
    seconds: float
    """The time in which ``joules`` were used, without gaps."""
    covers: tuple[str, ...]
    """What is measured: ``board``, or names of GPUs and ``CPU`` (its package)."""
    gaps: int = 0
    """How often nothing was measured for a time: its energy is in no sum."""
    longest_gap_seconds: float = 0.0


class ResourceSample(msgspec.Struct, frozen=True, kw_only=True):
    """The machine at one moment (``GET /admin/resources``), in °C and W."""

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
    """By rail; ``total`` is that of the whole board."""
    power_limits: dict[str, float] = {}
    """By rail: the power at which its monitor raises an alarm, at the present voltage."""
    energy: EnergyRecord | None = None
    """``None`` = nothing measures it."""
    throttling: dict[str, tuple[ThrottleReason, ...]] = {}
    """By part (``cpu``, ``board`` and so on, without GPUs): the reasons why it is slowed down."""
    fan: FanRecord | None = None
    disks: tuple[DiskRecord, ...] = ()
    networks: tuple[NetworkRecord, ...] = ()
    memory_clock_hz: int | None = None
    """The clock of a Jetson's memory controller (EMC)."""
    uptime_seconds: float | None = None
    models: tuple[ModelUsage, ...] = ()
    """The loaded models."""
