"""Reads swap on disks and in compressed memory.

Sources: ``proc_swaps(5)``, ``blockdev/zram.rst``; psutil without ``/proc``.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import psutil

from cyber_inference_tui.monitor.kernel_files import LARGEST, KeptFile, integer
from cyber_inference_tui.monitor.rates import percent
from cyber_inference_tui.records import SwapRecord

_MOST_DEVICES = 64
_HEADER = b"Filename"
_DEVICE = re.compile(
    rb"^(/\S+)\s+(?:partition|file)\s+([0-9]{1,12})\s+([0-9]{1,12})\s+-?[0-9]+$", re.MULTILINE
)
_ZRAM = re.compile(rb"/dev/(zram[0-9]{1,4})")


class SwapReading(msgspec.Struct, frozen=True, kw_only=True):
    """The two kinds of swap."""

    disk: SwapRecord
    zram: SwapRecord | None


class SwapSensor:
    """Reads ``proc/swaps`` below ``root``, and each zram device's use of main memory."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._is_this_machine = root == Path("/")
        self._block = root / "sys/block"
        self._swaps = KeptFile(root / "proc/swaps")
        self._stats: dict[str, KeptFile] = {}

    def read(self) -> SwapReading | None:
        """Return the sum of all devices; ``None`` = the file cannot be read."""
        content = self._swaps.read()
        if content is None and self._is_this_machine:
            try:
                swap = psutil.swap_memory()
            except (psutil.Error, OSError, RuntimeError):
                return None
            return SwapReading(disk=_record([(swap.total, swap.used)], None), zram=None)
        if content is None or not content.startswith(_HEADER):
            return None
        disk, zram = [], []
        memory: list[int | None] = []
        lines = content.splitlines()[1 : _MOST_DEVICES + 1]
        for line in lines:
            found = _DEVICE.fullmatch(line.rstrip())
            if found is None:
                return None  # without one device the sum is unknown
            sizes = int(found[2]) * 1024, int(found[3]) * 1024
            if name := _ZRAM.fullmatch(found[1]):
                zram.append(sizes)
                memory.append(self._memory(name[1].decode()))
            else:
                disk.append(sizes)
        taken = [size for size in memory if size is not None]
        return SwapReading(
            disk=_record(disk, None),
            zram=_record(zram, sum(taken) if len(taken) == len(memory) else None) if zram else None,
        )

    def _memory(self, device: str) -> int | None:
        """Return ``mem_used_total``, the third number of ``mm_stat``."""
        if device not in self._stats:
            self._stats[device] = KeptFile(self._block / device / "mm_stat")
        numbers = (self._stats[device].read() or b"").split()
        size = integer(numbers[2]) if len(numbers) > 3 else None
        return size if size is not None and 0 <= size < LARGEST else None


def _record(devices: list[tuple[int, int]], memory: int | None) -> SwapRecord:
    total, used = sum(size for size, _ in devices), sum(used for _, used in devices)
    return SwapRecord(total=total, used=used, percent=percent(used, total), memory=memory)
