"""How much memory there is for models, and how much of it our servers hold.

Sizes are bytes. Swap never counts as room.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from cyber_inference_tui.units import size_text


class GpuMemory(msgspec.Struct, frozen=True, kw_only=True):
    """The memory of one GPU that has its own (one that shares the machine's is not listed)."""

    name: str
    total: int
    free: int
    uuid: str = ""
    """Tells two cards of the same name apart; empty where the driver gives none."""


class ProcessMemory(msgspec.Struct, frozen=True, kw_only=True):
    """What one server and its children hold in main memory."""

    private: int
    """Anonymous and shared memory: what the kernel gets back when they end."""
    mapped: int
    """Pages of files that are in memory for them, the weights of models above all."""
    locked: int = 0
    """The part of ``mapped`` that the kernel may not drop (``--mlock``)."""


class MemoryReading(msgspec.Struct, frozen=True, kw_only=True):
    """All of it at one moment."""

    total: int
    """Main memory, or what the container may use of it."""
    available: int
    """What programs can get without swapping."""
    cache: int = 0
    """The part of ``available`` that is cache now, and that the kernel gives back on demand."""
    zfs_cache: int = 0
    """The part of ``available`` that ZFS caches now, and gives back on demand."""
    gpus: tuple[GpuMemory, ...] = ()
    """Those that the service's environment lets servers see."""
    gpus_by_variable: Mapping[str, tuple[GpuMemory, ...]] = {}
    """Those that a model sees with this value as its own ``CUDA_VISIBLE_DEVICES``."""
    processes: Mapping[int, ProcessMemory] = {}
    """By the pids that were asked for; one that is gone is missing."""


def caches_in_words(cache: int, zfs_cache: int) -> str:
    """The caches that count as available, for a person; empty where there are none."""
    caches = ((cache, "file cache"), (zfs_cache, "ZFS cache"))
    return " and ".join(f"{size_text(size)} of {name}" for size, name in caches if size)
