"""The memory for models, and the part of it that our servers hold.

Sizes are bytes. Swap never counts as free.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from cyber_inference_tui.units import size_text


class GpuMemory(msgspec.Struct, frozen=True, kw_only=True):
    """The memory of a GPU that has its own; GPUs that share main memory are not listed."""

    name: str
    total: int
    free: int
    uuid: str = ""
    """Distinguishes cards with the same name; empty if the driver gives none."""


class ProcessMemory(msgspec.Struct, frozen=True, kw_only=True):
    """The main memory of a server and its children."""

    private: int
    """Anonymous and shared memory, which is free when they exit."""
    mapped: int
    """Pages of mapped files in memory, above all the weights of models."""
    locked: int = 0
    """The part of ``mapped`` that the kernel may not drop (``--mlock``)."""


class MemoryReading(msgspec.Struct, frozen=True, kw_only=True):
    """A reading of all memory at one moment."""

    total: int
    """Main memory, or the limit of the container."""
    available: int
    """The memory that programs can get without swapping."""
    cache: int = 0
    """The part of ``available`` that is now cache, and that the kernel frees on demand."""
    zfs_cache: int = 0
    """The part of ``available`` that is now ZFS's cache, and that ZFS frees on demand."""
    gpus: tuple[GpuMemory, ...] = ()
    """The GPUs that the service's environment makes visible to servers."""
    gpus_by_variable: Mapping[str, tuple[GpuMemory, ...]] = {}
    """The visible GPUs by a model's own ``CUDA_VISIBLE_DEVICES``."""
    processes: Mapping[int, ProcessMemory] = {}
    """By the requested pids; a process that is gone is missing."""


def caches_in_words(cache: int, zfs_cache: int) -> str:
    """Describe the caches that count as available; empty if there are none."""
    caches = ((cache, "file cache"), (zfs_cache, "ZFS cache"))
    return " and ".join(f"{size_text(size)} of {name}" for size, name in caches if size)
