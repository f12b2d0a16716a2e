"""The facts about the machine, before any judgement. ``None`` = unknown."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import msgspec

from cyber_inference_tui.llama.binary import LlamaBinary
from cyber_inference_tui.llama.install.hardware import Gpu
from cyber_inference_tui.monitor.memory_reading import GpuMemory
from cyber_inference_tui.records import DeviceRecord, PortRecord
from cyber_inference_tui.records.bench import BenchResult


class DeviceFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The machine, and a Jetson's configuration."""

    device: DeviceRecord
    architecture: str
    python: str
    root_user: bool
    power_mode: str | None = None
    power_modes: dict[int, str] = {}
    """All modes of the board, by number."""
    clocks_pinned: bool | None = None
    """Whether ``jetson_clocks`` keeps the processors at their highest clock."""


class GpuFacts(msgspec.Struct, frozen=True, kw_only=True):
    """GPUs as the system lists them, and as their drivers report them."""

    shown: tuple[Gpu, ...] = ()
    """From the device tree and the drivers' device files."""
    nvidia_card: bool = False
    """An NVIDIA card is on the PCI bus, with a driver or without."""
    nvml_library: bool = False
    """NVIDIA's management library, a part of the driver, can be loaded."""
    nvidia_names: tuple[str, ...] = ()
    """The GPUs that the library reports."""
    amd_names: tuple[str, ...] = ()
    memory: tuple[GpuMemory, ...] = ()
    """Of the GPUs with their own memory."""
    kfd_usable: bool | None = None
    """Whether we may use AMD's compute device; ``None`` = there is none."""


class LlamaFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The llama-server in use, or the reason why there is none."""

    binary: LlamaBinary | None = None
    problem: str = ""
    way_out: str = ""
    vulkan_driver: bool = False
    update: str | None = None
    """A newer version of the installed build, from the last check."""
    source: str = ""
    """The source of the installed build."""


class ConfigurationFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration file and its effects."""

    path: Path
    exists: bool = True
    mistakes: tuple[str, ...] = ()
    """Each with its file, line and key."""
    warnings: tuple[str, ...] = ()
    refusal: str = ""
    """The reason why the service would not start with these settings."""
    refusal_way_out: str = ""
    secrets: tuple[str, ...] = ()
    """Settings in the file that other users must not read."""
    mode: int | None = None
    """The file's permission bits."""
    open_host: str = ""
    """The bind address, if other machines can reach it."""
    has_keys: bool = False
    has_password: bool = False
    to_be_made: tuple[str, ...] = ()
    """Settings that the service creates at its next start, because of the open address."""


class DirectoryFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A directory of the settings."""

    key: str
    path: Path
    exists: bool
    is_directory: bool = True
    usable: bool = True
    """We can read it, and write to it if the setting needs that; or create it."""
    silent: bool = False
    """Its disk or network mount does not answer; all other facts are unknown then."""
    must_write: bool = True
    free: int | None = None
    """Free bytes on its file system for this user."""
    file_system: str | None = None
    """Its type, as ``/proc/mounts`` or mount(8) names it."""


class PortState(StrEnum):
    """The owner of the service's port."""

    FREE = "free"
    OURS = "ours"
    """The service of this data directory."""
    ANOTHER = "another"
    """A service of this program with another data directory."""
    FOREIGN = "foreign"
    """Another program."""
    REFUSED = "refused"
    """The system does not allow us to listen there."""


class ServiceFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The service's address, the program that answers there, and the ports of model servers."""

    host: str
    port: int
    state: PortState
    reason: str = ""
    """The reason why the system refuses the address."""
    url: str = ""
    """The address of a running service, as found or as it recorded."""
    pid: int | None = None
    answers: bool = False
    running_version: str | None = None
    own_version: str
    base_port: int
    free_model_ports: int
    """The number of free ports among those that are tried, counting up from ``base_port``."""
    extra_ports: tuple[PortRecord, ...] = ()
    """The further ports, as the running service has them, or as it would find them."""


class MemoryFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Main memory and swap, in bytes."""

    machine_total: int | None = None
    total: int | None = None
    """The memory that we may use: less than the machine's under a limit."""
    available: int | None = None
    cache: int = 0
    """The part of ``available`` that is cache and that the kernel frees on demand."""
    zfs_cache: int = 0
    """The part of ``available`` that is ZFS's cache and that ZFS frees on demand."""
    swap: int | None = None
    """Swap on disks."""
    zram: int | None = None
    """Swap compressed in main memory."""
    swap_on_sd_card: bool = False
    desktop: tuple[str, ...] = ()
    """The programs of a running desktop."""
    desktop_bytes: int = 0
    """The memory that only these use."""


class ModelFact(msgspec.Struct, frozen=True, kw_only=True):
    """A local model."""

    id: str
    size: int | None = None
    problem: str | None = None
    elsewhere: bool = False
    """Another program keeps it."""


class ModelsFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The local models, and files and tables that are no models."""

    models: tuple[ModelFact, ...] = ()
    problems: tuple[str, ...] = ()
    models_dir: Path


class HubFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The model hub, as seen from this machine."""

    url: str
    problem: str = ""


class MachineReport(msgspec.Struct, frozen=True, kw_only=True):
    """All gathered facts; a group is ``None`` if it was not requested or not finished."""

    machine: DeviceFacts | None = None
    gpus: GpuFacts | None = None
    llama: LlamaFacts | None = None
    configuration: ConfigurationFacts | None = None
    directories: tuple[DirectoryFacts, ...] | None = None
    service: ServiceFacts | None = None
    memory: MemoryFacts | None = None
    models: ModelsFacts | None = None
    benches: tuple[BenchResult, ...] | None = None
    """Results of benches, newest first."""
    hub: HubFacts | None = None
    late: tuple[str, ...] = ()
    """Groups that took too long, by the name of their field."""
