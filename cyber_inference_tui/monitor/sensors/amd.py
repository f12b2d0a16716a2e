"""Reads AMD GPUs from the files of the ``amdgpu`` driver below ``/sys/class/drm``.

Sources: the kernel's ``gpu/amdgpu/driver-misc.rst`` and ``thermal.rst``, and ``amdgpu_pm.c`` for
the files of each kind of GPU.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from cyber_inference_tui.monitor.kernel_files import (
    LARGEST,
    KeptFile,
    ProbeTimer,
    celsius,
    entries,
    read_bytes,
    read_line,
)
from cyber_inference_tui.monitor.rates import percent
from cyber_inference_tui.records import GpuRecord

_AMD = "0x1002"
_MOST_CARDS = 64
# By default, firmware reserves up to 4 GiB of main memory for an APU. A larger reservation is a
# user's choice: that memory belongs to the GPU and is hidden from the rest of the system.
_CARVED_OUT = 8 << 30


class AmdSensor:
    """Reads all AMD GPUs below ``root``; looks for new ones every 30 s of ``clock``."""

    def __init__(self, root: Path = Path("/"), clock: Callable[[], float] = time.monotonic) -> None:
        self._drm = root / "sys/class/drm"
        self._timer = ProbeTimer(clock)
        self._cards: dict[str, _Card] = {}

    def read(self) -> tuple[GpuRecord, ...] | None:
        """Return all GPUs in the order of their cards; ``None`` = there is none."""
        return tuple(card.read() for card in self._probed()) or None

    def read_memory(self) -> tuple[GpuRecord, ...]:
        """Return only the memory of all GPUs, which is faster."""
        return tuple(card.read_memory() for card in self._probed())

    def _probed(self) -> list[_Card]:
        if self._timer.is_due():
            names = [n for n in entries(self._drm) if n.startswith("card") and n[4:].isdigit()]
            found = [
                name
                for name in names[:_MOST_CARDS]
                if read_line(self._drm / name / "device/vendor") == _AMD
            ]
            self._cards = {
                name: self._cards.get(name) or _Card(self._drm / name / "device") for name in found
            }
        return list(self._cards.values())


class _Card:
    def __init__(self, device: Path) -> None:
        self._name = _name(device)
        hwmons = [device / "hwmon" / entry for entry in entries(device / "hwmon")]
        hwmon = hwmons[0] if hwmons else device / "hwmon/hwmon0"
        # The driver leaves these two out for APUs.
        self._is_apu = not (
            read_bytes(hwmon / "freq2_input") or read_bytes(device / "mem_busy_percent")
        )
        self._vram = KeptFile(device / "mem_info_vram_total")
        self._vram_used = KeptFile(device / "mem_info_vram_used")
        self._gtt = KeptFile(device / "mem_info_gtt_total")
        self._gtt_used = KeptFile(device / "mem_info_gtt_used")
        self._state = KeptFile(device / "power/runtime_status")
        self._busy = KeptFile(device / "gpu_busy_percent")
        self._temperature = KeptFile(hwmon / "temp1_input")
        self._power = (KeptFile(hwmon / "power1_average"), KeptFile(hwmon / "power1_input"))
        self._power_limit = KeptFile(hwmon / "power1_cap")
        self._temperature_limit = KeptFile(hwmon / "temp1_crit")
        self._fan = KeptFile(hwmon / "pwm1")
        self._clocks = (KeptFile(hwmon / "freq1_input"), KeptFile(hwmon / "freq2_input"))

    def read_memory(self) -> GpuRecord:
        total, used = _size(self._vram), _size(self._vram_used)
        shared = self._is_apu and (total or 0) < _CARVED_OUT
        if shared:
            total = _sum(total, _size(self._gtt))
            used = _sum(used, _size(self._gtt_used))
        if total is not None and used is not None and used > total:
            used = None
        return GpuRecord(
            name=self._name,
            shared_memory=shared,
            memory_total=total or None,
            memory_used=used if total else None,
        )

    def read(self) -> GpuRecord:
        memory = self.read_memory()
        # Reading these files would wake up a sleeping GPU.
        if self._state.text() == "suspended":
            return memory
        busy = self._busy.number()
        watts = [n for file in self._power if (n := _size(file)) is not None]
        return msgspec.structs.replace(
            memory,
            utilization_percent=float(busy) if busy is not None and 0 <= busy <= 100 else None,
            temperature_c=celsius(self._temperature.number()),
            temperature_limit_c=celsius(self._temperature_limit.number()),
            power_w=watts[0] / 1e6 if watts else None,
            power_limit_w=limit / 1e6 if (limit := _size(self._power_limit)) else None,
            fan_percent=percent(self._fan.number(), 255),
            clock_hz=_size(self._clocks[0]),
            memory_clock_hz=_size(self._clocks[1]),
        )


def _size(file: KeptFile) -> int | None:
    number = file.number()
    return number if number is not None and 0 <= number < LARGEST else None


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


def _name(device: Path) -> str:
    # Only cards for workstations and servers have a name.
    if name := read_line(device / "product_name"):
        return name
    number = read_line(device / "device") or ""
    known = re.fullmatch(r"0x([0-9a-f]{4})", number)
    return f"AMD GPU {known[1]}" if known else "AMD GPU"
