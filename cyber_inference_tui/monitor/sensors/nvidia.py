"""Reads NVIDIA GPUs through their driver's library (the NVML API reference)."""

from __future__ import annotations

from typing import Any

from cyber_inference_tui.monitor.energy import Part
from cyber_inference_tui.monitor.gpu_memory import is_integrated, is_tegra, tells_its_load
from cyber_inference_tui.monitor.nvml import Nvml
from cyber_inference_tui.records import GpuRecord, ThrottleReason
from cyber_inference_tui.text import clean_line

_MOST_PROCESSES = 256
# nvmlTemperatureSensors_t and nvmlClockType_t.
_GPU_TEMPERATURE = 0
_GRAPHICS_CLOCK = 0
_MEMORY_CLOCK = 2
_SLOWDOWN = 1  # nvmlTemperatureThresholds_t
# nvmlClocksEventReasons; it is no reason that a GPU is idle or that its owner chose a clock.
_REASONS = {
    0x04: ThrottleReason.POWER,
    0x08: ThrottleReason.HARDWARE,
    0x20: ThrottleReason.TEMPERATURE,
    0x40: ThrottleReason.TEMPERATURE,
    0x80: ThrottleReason.HARDWARE,
}
_HARD_HEAT = 0x48
"""The bit for heat in hardware comes with that for any slowdown of hardware."""


class NvidiaSensor:
    """Reads all GPUs of ``nvml``. A divided GPU (MIG) is read as a whole."""

    def __init__(self, nvml: Nvml) -> None:
        self._nvml = nvml

    def read(self) -> tuple[GpuRecord, ...] | None:
        """Return all GPUs by index; ``None`` = there is none."""
        handles = self._nvml.gpus()
        return tuple(self._gpu(handle) for handle in handles if handle is not None) or None

    def read_energy(self) -> list[Part]:
        """Return the energy or the power of each GPU, which is faster than ``read``."""
        parts = [self._part(handle) for handle in self._nvml.gpus() if handle is not None]
        return [part for part in parts if part is not None]

    def _part(self, handle: Any) -> Part | None:
        name = self._name(handle)
        if is_tegra(name):
            return None
        # From Volta on there is a counter, in mJ since the driver was loaded.
        millijoules = self._nvml.number("nvmlDeviceGetTotalEnergyConsumption", handle)
        if millijoules is not None:
            return Part(name, counter_j=millijoules / 1000)
        watts = _watts(self._nvml.number("nvmlDeviceGetPowerUsage", handle))
        return None if watts is None else Part(name, watts=watts)

    def _name(self, handle: Any) -> str:
        text = self._nvml.text("nvmlDeviceGetName", handle) or ""
        return clean_line(text, limit=100) or "NVIDIA GPU"

    def _gpu(self, handle: Any) -> GpuRecord:
        nvml = self._nvml
        name = self._name(handle)
        if is_tegra(name) and not tells_its_load(name):
            return GpuRecord(name=name, shared_memory=True)
        rates = nvml.call("nvmlDeviceGetUtilizationRates", handle)
        busy = _integer(getattr(rates, "gpu", None), 100)
        record = GpuRecord(
            name=name,
            utilization_percent=float(busy) if busy is not None else None,
            shared_memory=True,
            processes=self._processes(handle),
        )
        if is_tegra(name):
            return record
        total, used, shared = self._memory(name, handle)
        heat = nvml.number("nvmlDeviceGetTemperature", handle, _GPU_TEMPERATURE)
        heat_limit = nvml.number("nvmlDeviceGetTemperatureThreshold", handle, _SLOWDOWN)
        fan = nvml.number("nvmlDeviceGetFanSpeed", handle)
        return GpuRecord(
            name=name,
            utilization_percent=record.utilization_percent,
            memory_total=total,
            memory_used=used,
            temperature_c=_celsius(heat),
            temperature_limit_c=_celsius(heat_limit),
            power_w=_watts(nvml.number("nvmlDeviceGetPowerUsage", handle)),
            power_limit_w=_watts(nvml.number("nvmlDeviceGetEnforcedPowerLimit", handle)),
            fan_percent=float(fan) if fan is not None and fan <= 100 else None,
            throttled_by=self._reasons(handle),
            shared_memory=shared,
            clock_hz=self._clock("nvmlDeviceGetClockInfo", handle, _GRAPHICS_CLOCK),
            max_clock_hz=self._clock("nvmlDeviceGetMaxClockInfo", handle, _GRAPHICS_CLOCK),
            memory_clock_hz=self._clock("nvmlDeviceGetClockInfo", handle, _MEMORY_CLOCK),
            processes=record.processes,
        )

    def _memory(self, name: str, handle: Any) -> tuple[int | None, int | None, bool | None]:
        """Return total and used memory, and whether it is the machine's; ``None`` = unknown."""
        if is_integrated(name):
            return None, None, True
        info = self._nvml.call("nvmlDeviceGetMemoryInfo", handle)
        if info is None:
            unsupported = self._nvml.is_unsupported("nvmlDeviceGetMemoryInfo", handle)
            return None, None, True if unsupported else None
        total = _integer(getattr(info, "total", None))
        if total == 0:
            return None, None, True
        return total, _integer(getattr(info, "used", None), total), False if total else None

    def _reasons(self, handle: Any) -> tuple[ThrottleReason, ...]:
        # Its later name is missing in older versions of the library.
        bits = self._nvml.number("nvmlDeviceGetCurrentClocksThrottleReasons", handle) or 0
        if bits & _HARD_HEAT == _HARD_HEAT:
            bits ^= 0x08
        return tuple(sorted({reason for bit, reason in _REASONS.items() if bits & bit}))

    def _clock(self, function: str, handle: Any, kind: int) -> int | None:
        megahertz = self._nvml.number(function, handle, kind)
        return megahertz * 1_000_000 if megahertz is not None and megahertz < 100_000 else None

    def _processes(self, handle: Any) -> dict[int, int | None] | None:
        """Return bytes by pid; a process that computes and draws is in both lists."""
        computing = self._nvml.call("nvmlDeviceGetComputeRunningProcesses", handle)
        if not isinstance(computing, list | tuple):
            return None
        drawing = self._nvml.call("nvmlDeviceGetGraphicsRunningProcesses", handle)
        listed = [*computing, *(drawing if isinstance(drawing, list | tuple) else ())]
        found: dict[int, int | None] = {}
        for process in listed[:_MOST_PROCESSES]:
            pid = _integer(getattr(process, "pid", None))
            used = _integer(getattr(process, "usedGpuMemory", None))
            if pid is not None and found.get(pid) is None:
                found[pid] = used
        return found


def _celsius(degrees: int | None) -> float | None:
    return float(degrees) if degrees is not None and degrees < 250 else None


def _watts(milliwatts: int | None) -> float | None:
    return milliwatts / 1000 if milliwatts is not None and milliwatts < 10_000_000 else None


def _integer(value: object, most: int | None = None) -> int | None:
    # NVML_VALUE_NOT_AVAILABLE is 2 to the power of 64, less 1.
    if not isinstance(value, int) or not 0 <= value < 1 << 63:
        return None
    return value if most is None or value <= most else None
