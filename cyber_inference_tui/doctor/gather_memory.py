"""Gathers facts about main memory, swap, and a desktop that holds memory. Everything blocks.

``root`` and ``container`` are those of ``doctor.gather``.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from cyber_inference_tui.doctor.facts import MemoryFacts
from cyber_inference_tui.monitor.kernel_files import entries, integer, read_bytes, read_line
from cyber_inference_tui.monitor.main_memory import MainMemory, meminfo
from cyber_inference_tui.monitor.sensors.swap import SwapSensor

_DESKTOP: Final = frozenset(
    {"Xorg", "Xwayland", "gnome-shell", "kwin_wayland", "kwin_x11", "plasmashell", "mutter"}
    | {"xfwm4", "lxpanel", "labwc", "wayfire", "weston", "openbox", "compiz", "nautilus"}
)
"""The servers, shells and window managers of desktops, by ``comm``: proc_pid_comm(5)."""
_MOST_PROCESSES: Final = 20_000
_SWAP: Final = re.compile(rb"^(/\S+)\s+(partition|file)\s", re.MULTILINE)
_DEVICES: Final = "/dev/"


def memory_facts(root: Path, container: Path) -> MemoryFacts:
    """Describe main memory, swap, and the desktop."""
    main = MainMemory(root, container).read()
    swap = SwapSensor(root).read()
    desktop = _desktop(root)
    return MemoryFacts(
        machine_total=meminfo(read_bytes(root / "proc/meminfo") or b"").get("MemTotal"),
        total=main.total if main else None,
        available=main.available if main else None,
        cache=main.cache if main else 0,
        zfs_cache=main.zfs_cache if main else 0,
        swap=swap.disk.total if swap else None,
        zram=(swap.zram.total if swap.zram else 0) if swap else None,
        swap_on_sd_card=_swap_is_on_sd_card(root),
        desktop=tuple(sorted(desktop)),
        desktop_bytes=sum(desktop.values()),
    )


def _desktop(root: Path) -> dict[str, int]:
    """Return the programs of a running desktop, with the memory that only they use."""
    found: dict[str, int] = {}
    numbers = (name for name in entries(root / "proc") if name.isdecimal())
    for number, _ in zip(numbers, range(_MOST_PROCESSES), strict=False):
        name = read_line(root / "proc" / number / "comm")
        if name in _DESKTOP:
            # proc_pid_statm(5): resident and shared pages are the second and third number.
            words = (read_bytes(root / "proc" / number / "statm") or b"").split()
            pages = [integer(word) or 0 for word in words[1:3]]
            own = max(0, pages[0] - pages[1]) if len(pages) == 2 else 0
            found[name] = found.get(name, 0) + own * os.sysconf("SC_PAGE_SIZE")
    return found


def _swap_is_on_sd_card(root: Path) -> bool:
    """Return whether a partition or file for swap is on an SD card."""
    mounts = read_bytes(root / "proc/mounts") or b""
    for path, kind in _SWAP.findall(read_bytes(root / "proc/swaps") or b""):
        name = os.fsdecode(path)
        device = name if kind == b"partition" else _device_of(name, mounts)
        if device.startswith(_DEVICES):
            folder = root / "sys/class/block" / device.removeprefix(_DEVICES)
            # The folder is a link, and a partition's is inside that of its disk.
            if "SD" in (read_line(folder / up / "device/type") for up in (".", "..")):
                return True
    return False


def _device_of(file: str, mounts: bytes) -> str:
    """Return the device of a file's file system, by ``proc_mounts(5)``; empty = unknown."""
    lines = [line.split(b" ") for line in mounts.splitlines()]
    above = {
        os.fsdecode(words[1]): os.fsdecode(words[0])
        for words in lines
        if len(words) > 2 and Path(file).is_relative_to(os.fsdecode(words[1]))
    }
    return above[max(above, key=len)] if above else ""
