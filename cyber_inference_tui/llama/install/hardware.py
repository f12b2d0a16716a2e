"""Which GPUs this machine has, told from files alone, and which of them a build makes use of."""

from __future__ import annotations

import platform
import re
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from cyber_inference_tui.kernel import on_apple_silicon

_READ_LIMIT = 65536
_VENDORS = frozenset({b"0x1002", b"0x8086", b"0x10de"})
"""PCI vendors: AMD, Intel, NVIDIA."""


class Gpu(StrEnum):
    """A kind of GPU, as a person would name it."""

    NVIDIA = "NVIDIA GPU"
    JETSON = "NVIDIA Jetson GPU"
    AMD = "AMD GPU"
    APPLE = "Apple GPU"


_TOLD_BY = {
    # What a line of --list-devices says of such a device, beside the backend's own name.
    Gpu.NVIDIA: re.compile(r"^CUDA|NVIDIA|GeForce|Tesla|Quadro", re.IGNORECASE),
    Gpu.JETSON: re.compile(r"^CUDA|NVIDIA|Tegra|Orin|Xavier|Thor", re.IGNORECASE),
    Gpu.AMD: re.compile(r"^ROCm|^HIP|AMD|Radeon", re.IGNORECASE),
    Gpu.APPLE: re.compile(r"^MTL|^Metal|Apple", re.IGNORECASE),
}


def gpus(root: Path) -> tuple[Gpu, ...]:
    """The GPUs that show below ``root`` (``/``, or a fixture).

    A Jetson is told by its device tree (``nvidia,tegraNNN``) or its ``nvhost`` devices, other
    NVIDIA cards by the driver's files, AMD by the compute device ``/dev/kfd``. A Mac has no such
    files: with Apple's chip it has a GPU.
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


def has_vulkan_driver(root: Path) -> bool:
    """Whether a Vulkan driver has announced itself where the loader looks (``icd.d``)."""
    folders = ("etc/vulkan/icd.d", "usr/share/vulkan/icd.d", "usr/local/share/vulkan/icd.d")
    return any(any((root / folder).glob("*.json")) for folder in folders)


def has_vulkan_loader(root: Path) -> bool:
    """Whether the library is there through which programs reach Vulkan drivers.

    A build with Vulkan starts without it, and is then silently one for the CPU.
    """
    folders = ("usr/lib", "usr/lib64", "usr/local/lib", "lib", "usr/lib/*-linux-gnu*")
    return any(any(root.glob(f"{folder}/libvulkan.so.1")) for folder in folders)


def has_render_device(root: Path) -> bool:
    """Whether a GPU that computes (AMD, Intel, NVIDIA) has a device in ``/dev/dri``.

    The screen of a server's management chip and of a virtual machine has none, or another vendor.
    """
    for node in sorted((root / "dev/dri").glob("renderD*")):
        vendor = _read(root / "sys/class/drm" / node.name / "device/vendor").strip()
        if vendor in _VENDORS:
            return True
    return False


class VulkanBuilds(NamedTuple):
    """For each prebuilt source whether to take its build with Vulkan, in the order to try."""

    github: tuple[bool, ...]
    debian: tuple[bool, ...]


def vulkan_builds(root: Path) -> VulkanBuilds:
    """With Vulkan first where a GPU and its driver are; Debian's brings the loader along."""
    gpu = (bool(gpus(root)) or has_render_device(root)) and has_vulkan_driver(root)
    both, plain = (True, False), (False,)
    return VulkanBuilds(
        github=both if gpu and has_vulkan_loader(root) else plain, debian=both if gpu else plain
    )


def unused_gpus(present: tuple[Gpu, ...], devices: tuple[str, ...]) -> tuple[Gpu, ...]:
    """The GPUs that the build does not list."""
    # A Vulkan device such as "llvmpipe" is the CPU under another name and matches nothing.
    return tuple(
        gpu for gpu in present if not any(_TOLD_BY[gpu].search(device) for device in devices)
    )


def tegra_architecture(root: Path) -> str | None:
    """The CUDA architecture of a Jetson (``87`` = Orin), from its device tree."""
    compatible = _compatible(root)
    known = {b"tegra264": "110", b"tegra234": "87", b"tegra194": "72", b"tegra186": "62"}
    return next((arch for chip, arch in known.items() if chip in compatible), None)


def _compatible(root: Path) -> bytes:
    # The first is a link to the second, by a path that leads out of a mount of the host's files.
    files = ("proc/device-tree/compatible", "sys/firmware/devicetree/base/compatible")
    return next(filter(None, (_read(root / file) for file in files)), b"")


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_READ_LIMIT)
    except OSError:
        return b""


class Platform(NamedTuple):
    """What a build has to be made for, in the words of ``platform``."""

    system: str
    machine: str

    @classmethod
    def here(cls) -> Platform:
        """This machine."""
        return cls(platform.system(), platform.machine())


def asset_patterns(target: Platform, *, gpu: bool) -> tuple[re.Pattern[str], ...]:
    """Names of assets for ``target``, the best first; none where there are no builds.

    There is no CUDA build for Linux: with a GPU of any make the Vulkan one comes first.
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
