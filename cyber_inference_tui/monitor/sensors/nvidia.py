"""Reads NVIDIA GPUs through their driver's library (the NVML API reference)."""

from __future__ import annotations

from typing import Any

from cyber_inference_tui.monitor.gpu_memory import is_integrated, is_tegra, tells_its_load
from cyber_inference_tui.monitor.nvml import Nvml
from cyber_inference_tui.records import GpuRecord
from cyber_inference_tui.text import clean_line

_MOST_PROCESSES = 256
# nvmlTemperatureSensors_t and nvmlClockType_t.
_GPU_TEMPERATURE = 0
_GRAPHICS_CLOCK = 0
_MEMORY_CLOCK = 2


class NvidiaSensor:
    """Reads all GPUs of ``nvml``. A divided GPU (MIG) is read as a whole."""

    def __init__(self, nvml: Nvml) -> None:
        self._nvml = nvml

    def read(self) -> tuple[GpuRecord, ...] | None:
        """Return all GPUs by index; ``None`` = there is none."""
        handles = self._nvml.gpus()
        return tuple(self._gpu(handle) for handle in handles if handle is not None) or None

    def _gpu(self, handle: Any) -> GpuRecord:
        nvml = self._nvml
        name = clean_line(nvml.text("nvmlDeviceGetName", handle) or "", limit=100) or "NVIDIA GPU"
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
        power = nvml.number("nvmlDeviceGetPowerUsage", handle)
        heat = nvml.number("nvmlDeviceGetTemperature", handle, _GPU_TEMPERATURE)
        return GpuRecord(
            name=name,
            utilization_percent=record.utilization_percent,
            memory_total=total,
            memory_used=used,
            temperature_c=float(heat) if heat is not None and heat < 250 else None,
            power_w=power / 1000 if power is not None and power < 10_000_000 else None,
            shared_memory=shared,
            clock_hz=self._clock(handle, _GRAPHICS_CLOCK),
            memory_clock_hz=self._clock(handle, _MEMORY_CLOCK),
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

    def _clock(self, handle: Any, kind: int) -> int | None:
        megahertz = self._nvml.number("nvmlDeviceGetClockInfo", handle, kind)
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


def _integer(value: object, most: int | None = None) -> int | None:
    # NVML_VALUE_NOT_AVAILABLE is 2 to the power of 64, less 1.
    if not isinstance(value, int) or not 0 <= value < 1 << 63:
        return None
    return value if most is None or value <= most else None
