"""Reads the free and total memory of GPUs with their own memory."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from cyber_inference_tui.monitor.memory_reading import GpuMemory
from cyber_inference_tui.monitor.nvml import Nvml
from cyber_inference_tui.records import GpuRecord
from cyber_inference_tui.text import clean_line

_MOST_INSTANCES = 16
# NVML's names for GPUs in a chip whose memory they share: "Orin (nvgpu)", "NVIDIA Thor",
# "NVIDIA GB10".
_TEGRA = re.compile(r"\b(?:nvgpu|Tegra|Xavier|Orin|Thor)\b", re.IGNORECASE)
_OTHERS = re.compile(r"\bGB10\b", re.IGNORECASE)


def is_tegra(name: str | None) -> bool:
    """Return whether NVML's name for a GPU is a Jetson's.

    NVML's values for a Jetson's memory, clocks and power are meaningless.
    """
    return name is not None and _TEGRA.search(name) is not None


def tells_its_load(name: str) -> bool:
    """Return whether NVML reports a Jetson's load and processes: on Thor, not before."""
    return "thor" in name.lower()


def is_integrated(name: str | None) -> bool:
    """Return whether NVML's name for a GPU is that of a GPU that shares main memory."""
    return is_tegra(name) or (name is not None and _OTHERS.search(name) is not None)


def nvidia_memory(nvml: Nvml, visible: Sequence[str] | None) -> list[GpuMemory]:
    """Return the memory of the NVIDIA GPUs that CUDA programs see.

    ``visible`` is a result of ``nvml.visible_gpus``. On a divided GPU (MIG), a program sees the
    first instance unless another is named.
    """
    handles = nvml.gpus()
    if visible is None:
        chosen: Iterable[Any] = handles
    else:
        chosen = _chosen(nvml, handles, visible)
    found = (_memory(nvml, handle) for handle in chosen if handle is not None)
    return [memory for memory in found if memory is not None]


def amd_memory(gpus: Iterable[GpuRecord]) -> list[GpuMemory]:
    """Return the memory of the AMD GPUs that have their own."""
    return [
        GpuMemory(
            name=gpu.name,
            total=gpu.memory_total,
            free=gpu.memory_total - gpu.memory_used,
            uuid=f"amd-{number}",
        )
        for number, gpu in enumerate(gpus)
        if not gpu.shared_memory and gpu.memory_total and gpu.memory_used is not None
    ]


def _chosen(nvml: Nvml, handles: Sequence[Any], visible: Sequence[str]) -> list[Any]:
    chosen: dict[str, Any] = {}
    for word in visible:
        if word.isdigit():
            index = int(word)
            handle = handles[index] if index < len(handles) else None
        else:
            parts = word.startswith("MIG-")
            pool = [p for h in handles for p in _instances(nvml, h)] if parts else handles
            handle = _by_uuid(nvml, pool, word)
        if handle is None:
            break  # like CUDA, which also hides the entries after an unknown one
        chosen.setdefault(nvml.text("nvmlDeviceGetUUID", handle) or word, handle)
    return list(chosen.values())


def _by_uuid(nvml: Nvml, handles: Iterable[Any], start: str) -> Any | None:
    for handle in handles:
        if handle is not None:
            uuid = nvml.text("nvmlDeviceGetUUID", handle)
            if uuid is not None and uuid.startswith(start):
                return handle
    return None


def _instances(nvml: Nvml, handle: Any) -> list[Any]:
    """Return the handles of a GPU's MIG instances; none if it is not divided."""
    mode = nvml.call("nvmlDeviceGetMigMode", handle)
    if handle is None or not isinstance(mode, list | tuple) or not mode or mode[0] != 1:
        return []
    count = min(nvml.number("nvmlDeviceGetMaxMigDeviceCount", handle) or 0, _MOST_INSTANCES)
    found = (nvml.call("nvmlDeviceGetMigDeviceHandleByIndex", handle, i) for i in range(count))
    return [instance for instance in found if instance is not None]


def _memory(nvml: Nvml, handle: Any) -> GpuMemory | None:
    name = nvml.text("nvmlDeviceGetName", handle)
    if is_integrated(name):
        return None
    instances = _instances(nvml, handle)
    info = nvml.call("nvmlDeviceGetMemoryInfo", instances[0] if instances else handle)
    total, free = getattr(info, "total", None), getattr(info, "free", None)
    if (
        not isinstance(total, int)
        or not isinstance(free, int)
        or not 0 <= free <= total
        or not total
    ):
        return None
    return GpuMemory(
        name=clean_line(name or "NVIDIA GPU", limit=100),
        total=total,
        free=free,
        uuid=nvml.text("nvmlDeviceGetUUID", handle) or "",
    )
