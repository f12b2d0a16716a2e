"""What is known of the machine before anything is judged. ``None`` is what it does not tell."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import msgspec

from cyber_inference_tui.llama.binary import LlamaBinary
from cyber_inference_tui.llama.install.hardware import Gpu
from cyber_inference_tui.monitor.memory_reading import GpuMemory
from cyber_inference_tui.records import DeviceRecord


class DeviceFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What machine this is, and for a Jetson how it is set."""

    device: DeviceRecord
    architecture: str
    python: str
    root_user: bool
    power_mode: str | None = None
    power_modes: dict[int, str] = {}
    """All modes that the board has, by number."""
    clocks_pinned: bool | None = None
    """Whether ``jetson_clocks`` holds the processors at their highest clock."""


class GpuFacts(msgspec.Struct, frozen=True, kw_only=True):
    """GPUs by what the system shows of them, and by what their drivers say."""

    shown: tuple[Gpu, ...] = ()
    """By the device tree and the drivers' device files."""
    nvidia_card: bool = False
    """An NVIDIA card is on the PCI bus, with a driver or without."""
    nvml_library: bool = False
    """NVIDIA's management library, a part of the driver, can be loaded."""
    nvidia_names: tuple[str, ...] = ()
    """The GPUs that the library knows."""
    amd_names: tuple[str, ...] = ()
    memory: tuple[GpuMemory, ...] = ()
    """Of the GPUs that have their own."""
    kfd_usable: bool | None = None
    """Whether we may use AMD's compute device; ``None`` where there is none."""


class LlamaFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The llama-server in use, or why there is none."""

    binary: LlamaBinary | None = None
    problem: str = ""
    way_out: str = ""
    vulkan_driver: bool = False
    update: str | None = None
    """A newer version of the installed one that was seen at the last look."""
    source: str = ""
    """Where the installed one is from."""


class ConfigurationFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration file and what it comes to."""

    path: Path
    exists: bool = True
    mistakes: tuple[str, ...] = ()
    """Each names its file, line and key."""
    warnings: tuple[str, ...] = ()
    refusal: str = ""
    """Why the service would not start with these settings."""
    refusal_way_out: str = ""
    secrets: tuple[str, ...] = ()
    """Settings in the file that others must not read."""
    mode: int | None = None
    """The file's permission bits."""
    open_host: str = ""
    """The bind address, if other machines can reach it."""
    has_keys: bool = False
    has_password: bool = False
    to_be_made: tuple[str, ...] = ()
    """Settings that the service fills in at its next start, because of the open address."""


class DirectoryFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One directory of the settings."""

    key: str
    path: Path
    exists: bool
    is_directory: bool = True
    usable: bool = True
    """We may read it, and write to it where the setting needs that; or create it."""
    silent: bool = False
    """Its disk or network mount does not answer; nothing else is known then."""
    must_write: bool = True
    free: int | None = None
    """Bytes on its file system that are ours to take."""
    file_system: str | None = None
    """Its type, as ``/proc/mounts`` or mount(8) names it."""


class PortState(StrEnum):
    """Who has the service's port."""

    FREE = "free"
    OURS = "ours"
    """The service of this data directory."""
    ANOTHER = "another"
    """A service of this program with another data directory."""
    FOREIGN = "foreign"
    """Another program."""
    REFUSED = "refused"
    """The system does not let us listen there."""


class ServiceFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The service's address, who answers there, and the ports of models' servers."""

    host: str
    port: int
    state: PortState
    reason: str = ""
    """Why the system refuses the address."""
    url: str = ""
    """Where a running service is, or said it is."""
    pid: int | None = None
    answers: bool = False
    running_version: str | None = None
    own_version: str
    base_port: int
    free_model_ports: int
    """Of those that are tried, counting up from ``base_port``."""


class MemoryFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Main memory and swap, in bytes."""

    machine_total: int | None = None
    total: int | None = None
    """What we may use of it: less than the machine's under a limit."""
    available: int | None = None
    cache: int = 0
    """The part of ``available`` that the kernel gets back from its caches."""
    zfs_cache: int = 0
    """The part of ``available`` that ZFS gives back from its cache."""
    swap: int | None = None
    """On disks."""
    zram: int | None = None
    """Compressed in main memory."""


class ModelFact(msgspec.Struct, frozen=True, kw_only=True):
    """One local model."""

    id: str
    size: int | None = None
    problem: str | None = None
    elsewhere: bool = False
    """Whether another program keeps it."""


class ModelsFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The local models, and files and tables that are none."""

    models: tuple[ModelFact, ...] = ()
    problems: tuple[str, ...] = ()
    models_dir: Path


class HubFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The model hub as seen from here."""

    url: str
    problem: str = ""


class MachineReport(msgspec.Struct, frozen=True, kw_only=True):
    """All that was gathered; a group is ``None`` if it was not asked for or did not come."""

    machine: DeviceFacts | None = None
    gpus: GpuFacts | None = None
    llama: LlamaFacts | None = None
    configuration: ConfigurationFacts | None = None
    directories: tuple[DirectoryFacts, ...] | None = None
    service: ServiceFacts | None = None
    memory: MemoryFacts | None = None
    models: ModelsFacts | None = None
    hub: HubFacts | None = None
    late: tuple[str, ...] = ()
    """Groups that took too long, by their field's name."""
