"""Detects the GPUs of this machine from files, and the builds that suit the machine."""

from __future__ import annotations

import platform
import re
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from cyber_inference_tui.kernel import on_apple_silicon

_READ_LIMIT = 65536
_GB10 = re.compile(rb"^Model:\s*.*\bGB10\b", re.MULTILINE)
_VENDORS = frozenset({b"0x1002", b"0x8086", b"0x10de"})
"""PCI vendors: AMD, Intel, NVIDIA."""


class Gpu(StrEnum):
    """A kind of GPU, by the name that a user knows."""

    NVIDIA = "NVIDIA GPU"
    JETSON = "NVIDIA Jetson GPU"
    AMD = "AMD GPU"
    APPLE = "Apple GPU"


_DEVICE_OF = {
    # Matches a line of --list-devices: the device's name, or its backend's.
    Gpu.NVIDIA: re.compile(r"^CUDA|NVIDIA|GeForce|Tesla|Quadro", re.IGNORECASE),
    Gpu.JETSON: re.compile(r"^CUDA|NVIDIA|Tegra|Orin|Xavier|Thor", re.IGNORECASE),
    Gpu.AMD: re.compile(r"^ROCm|^HIP|AMD|Radeon", re.IGNORECASE),
    Gpu.APPLE: re.compile(r"^MTL|^Metal|Apple", re.IGNORECASE),
}


def gpus(root: Path) -> tuple[Gpu, ...]:
    """Detect the GPUs below ``root`` (``/``, or a fixture).

    A Jetson is recognized by its device tree (``nvidia,tegraNNN``) or its ``nvhost`` devices, other
    NVIDIA cards by the driver's files, AMD by the compute device ``/dev/kfd``. A Mac has no such
    files; with Apple's chip it has a GPU.
    """
    found = []
    if b"nvidia,tegra" in _compatible(root) or any((root / "dev").glob("nvhost*-gpu")):
        found.append(Gpu.JETSON)
    elif (root / "dev/nvidia0").exists() or (root / "proc/driver/nvidia/version").exists():
        found.append(Gpu.NVIDIA)
    if (root / "dev/kfd").exists():
        found.append(Gpu.AMD)
    if root == Path("/") and on_apple_silicon():
        found.append(Gpu.APPLE)
    return tuple(found)


def has_shared_memory(root: Path) -> bool:
    """Return whether an NVIDIA GPU shares the machine's memory: a Jetson's, or that of a GB10.

    The driver names the model of each GPU in ``/proc/driver/nvidia/gpus/*/information``.
    """
    names = (root / "proc/driver/nvidia/gpus").glob("*/information")
    return Gpu.JETSON in gpus(root) or any(_GB10.search(_read(name)) for name in names)


def has_vulkan_driver(root: Path) -> bool:
    """Return whether a Vulkan driver is registered in the loader's folders (``icd.d``)."""
    folders = ("etc/vulkan/icd.d", "usr/share/vulkan/icd.d", "usr/local/share/vulkan/icd.d")
    return any(any((root / folder).glob("*.json")) for folder in folders)


def has_vulkan_loader(root: Path) -> bool:
    """Return whether the library through which programs reach Vulkan drivers is installed.

    A build with Vulkan starts without it, and silently uses only the CPU.
    """
    folders = ("usr/lib", "usr/lib64", "usr/local/lib", "lib", "usr/lib/*-linux-gnu*")
    return any(any(root.glob(f"{folder}/libvulkan.so.1")) for folder in folders)


def has_render_device(root: Path) -> bool:
    """Return whether a GPU that can compute (AMD, Intel, NVIDIA) has a device in ``/dev/dri``.

    The display of a server's management chip or of a virtual machine has none, or another vendor.
    """
    for node in sorted((root / "dev/dri").glob("renderD*")):
        vendor = _read(root / "sys/class/drm" / node.name / "device/vendor").strip()
        if vendor in _VENDORS:
            return True
    return False


class VulkanBuilds(NamedTuple):
    """For each source, whether to use its build with Vulkan, in the order to try."""

    github: tuple[bool, ...]
    debian: tuple[bool, ...]


def vulkan_builds(root: Path) -> VulkanBuilds:
    """Put Vulkan first if there is a GPU with a driver; Debian's packages include the loader."""
    gpu = (bool(gpus(root)) or has_render_device(root)) and has_vulkan_driver(root)
    both, plain = (True, False), (False,)
    return VulkanBuilds(
        github=both if gpu and has_vulkan_loader(root) else plain, debian=both if gpu else plain
    )


def unused_gpus(present: tuple[Gpu, ...], devices: tuple[str, ...]) -> tuple[Gpu, ...]:
    """Return the GPUs that the build does not list."""
    # The Vulkan device "llvmpipe" is the CPU and matches nothing.
    return tuple(
        gpu for gpu in present if not any(_DEVICE_OF[gpu].search(device) for device in devices)
    )


def tegra_architecture(root: Path) -> str | None:
    """Return the CUDA architecture of a Jetson (``87`` = Orin) from its device tree."""
    compatible = _compatible(root)
    known = {b"tegra264": "110", b"tegra234": "87", b"tegra194": "72", b"tegra186": "62"}
    return next((arch for chip, arch in known.items() if chip in compatible), None)


def _compatible(root: Path) -> bytes:
    # The first is a link to the second, and its path leads out of a mount of the host's files.
    files = ("proc/device-tree/compatible", "sys/firmware/devicetree/base/compatible")
    return next(filter(None, (_read(root / file) for file in files)), b"")


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_READ_LIMIT)
    except OSError:
        return b""


class Platform(NamedTuple):
    """The system and machine that a build is made for, as the module ``platform`` names them."""

    system: str
    machine: str

    @classmethod
    def here(cls) -> Platform:
        """Return the platform of this machine."""
        return cls(platform.system(), platform.machine())


def asset_patterns(target: Platform, *, gpu: bool) -> tuple[re.Pattern[str], ...]:
    """Return patterns for the names of assets for ``target``, best first; none without builds.

    There is no CUDA build for Linux: with any GPU the Vulkan build comes first.
    """
    cpu = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}.get(
        target.machine.lower()
    )
    system = {"Linux": "ubuntu", "Darwin": "macos"}.get(target.system)
    if cpu is None or system is None:
        return ()
    kinds = [f"vulkan-{cpu}"] if gpu and system == "ubuntu" else []
    return tuple(
        # The system may carry its release: "ubuntu-22.04-x64".
        re.compile(rf"^llama-[\w.]+-bin-{system}(?:-\d\d\.\d\d)?-{kind}\.(?:tar\.gz|zip)$")
        for kind in [*kinds, cpu]
    )
