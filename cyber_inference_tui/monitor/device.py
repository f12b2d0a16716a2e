"""Identifies the machine: its model, its system, and a Jetson's chip and JetPack."""

from __future__ import annotations

import platform
import re
from pathlib import Path

from cyber_inference_tui.kernel import on_apple_silicon, on_macos, sysctl
from cyber_inference_tui.monitor.kernel_files import line, read_bytes, read_line
from cyber_inference_tui.records import DeviceKind, DeviceRecord, GpuRecord
from cyber_inference_tui.text import clean_line

_TEGRA = re.compile(r"nvidia,(tegra[0-9]{3})")
_RELEASE = re.compile(rb"# R([0-9]{1,3}) \(release\), REVISION: ([0-9]{1,3}(?:\.[0-9]{1,3}){0,2}),")
_PRETTY_NAME = re.compile(rb"^PRETTY_NAME=[\"']?([^\"'\n]+)", re.MULTILINE)
_MODEL_NAME = re.compile(rb"^model name\s*: (.+)$", re.MULTILINE)
# Placeholders in firmware whose names were never filled in.
_NO_NAME = re.compile(r"o\.?e\.?m\.?|^system |^default string$|^not specified$", re.IGNORECASE)

# https://developer.nvidia.com/embedded/jetpack-archive
_JETPACK = {
    "35.1": "5.0.2",
    "35.2.1": "5.1",
    "35.3.1": "5.1.1",
    "35.4.1": "5.1.2",
    "36.3": "6.0",
    "36.4": "6.1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
    "36.4.7": "6.2.1",
    "36.5": "6.2.2",
    "38.2": "7.0",
    "38.4": "7.1",
    "39.2": "7.2",
}
_JETPACK_MAJOR = {32: "4", 34: "5", 35: "5", 36: "6", 38: "7", 39: "7"}


def read_device(root: Path = Path("/")) -> DeviceRecord:
    """Identify the machine whose ``proc/``, ``sys/`` and ``etc/`` are below ``root``.

    The power mode is left out, because it changes at run time.
    """
    if root == Path("/") and on_macos():
        return _read_mac()
    compatible = device_tree(root, "compatible")
    model = line(device_tree(root, "model"))
    chip = tegra_chip(compatible)
    release = l4t_release(read_bytes(root / "etc/nv_tegra_release") or b"") if chip else None
    processor = _text(_MODEL_NAME, root / "proc/cpuinfo")
    return DeviceRecord(
        kind=_kind(chip, compatible, model),
        name=model or _firmware_name(root) or processor,
        processor=processor,
        os=_text(_PRETTY_NAME, root / "etc/os-release"),
        kernel=read_line(root / "proc/sys/kernel/osrelease"),
        chip=chip,
        l4t=release,
        jetpack=jetpack(release) if release else None,
    )


def _read_mac() -> DeviceRecord:
    # "Apple M1 Pro"; Intel's names contain runs of blanks.
    processor = " ".join((sysctl("machdep.cpu.brand_string") or "").split()) or None
    return DeviceRecord(
        name=processor or sysctl("hw.model"),
        processor=processor,
        os=f"macOS {platform.mac_ver()[0]}".strip(),
        kernel=platform.release(),
    )


def mac_gpus(device: DeviceRecord, root: Path = Path("/")) -> tuple[GpuRecord, ...]:
    """Return the GPU of Apple's chip in this Mac; none on other machines.

    Only root can read its load (powermetrics(1)).
    """
    if root != Path("/") or not on_apple_silicon():
        return ()
    return (GpuRecord(name=device.processor or "Apple GPU", shared_memory=True),)


def device_tree(root: Path, name: str) -> bytes | None:
    """Return a property of the device tree's root; NULs separate the items of a list."""
    # The first is a link to the second, and its path leads out of a mount of the host's files.
    content = read_bytes(root / "proc/device-tree" / name)
    return content or read_bytes(root / "sys/firmware/devicetree/base" / name)


def tegra_chip(compatible: bytes | None) -> str | None:
    """Return the chip in the device tree's ``compatible``, such as ``tegra234`` (Orin)."""
    for entry in (compatible or b"").split(b"\0")[:64]:
        if found := _TEGRA.fullmatch(entry.decode("ascii", "replace")):
            return found[1]
    return None


def l4t_release(content: bytes) -> str | None:
    """Return the release in ``/etc/nv_tegra_release``, such as ``35.3.1``."""
    found = _RELEASE.match(content)
    return f"{found[1].decode()}.{found[2].decode()}" if found else None


def jetpack(release: str) -> str | None:
    """Return the JetPack for a release of Linux for Tegra, or only its major version."""
    exact = _JETPACK.get(release) or _JETPACK.get(release.removesuffix(".0"))
    return exact or _JETPACK_MAJOR.get(int(release.partition(".")[0]))


def _kind(chip: str | None, compatible: bytes | None, model: str | None) -> DeviceKind:
    if chip:
        return DeviceKind.JETSON
    if (compatible or b"").startswith(b"raspberrypi,"):
        return DeviceKind.RASPBERRY_PI
    return DeviceKind.BOARD if compatible or model else DeviceKind.COMPUTER


def _firmware_name(root: Path) -> str | None:
    parts = [read_line(root / "sys/class/dmi/id" / part) for part in ("sys_vendor", "product_name")]
    known = [part for part in parts if part and not _NO_NAME.search(part)]
    return " ".join(known) or None


def _text(pattern: re.Pattern[bytes], file: Path) -> str | None:
    found = pattern.search(read_bytes(file) or b"")
    if found is None:
        return None
    return clean_line(found[1].decode("utf-8", "replace"), limit=200).strip() or None
