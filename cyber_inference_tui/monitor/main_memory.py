"""The machine's main memory, or what a container may use of it.

macOS is asked through vm_stat(1). psutil reads the same counters, but calls free and *inactive*
pages available. Inactive pages include programs' own data, which would have to be compressed or
swapped out, and leave out cached files that were read just now. The scheduler decides by this
number what fits, so it has to mean the same as on Linux.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import msgspec
import psutil

from cyber_inference_tui.kernel import on_macos, output_of
from cyber_inference_tui.monitor.cgroup import CgroupMemory, MemoryLimit
from cyber_inference_tui.monitor.kernel_files import KeptFile

_FIELD = re.compile(rb"^([A-Za-z0-9_()]{1,64}):[ \t]+([0-9]{1,12}) kB$", re.MULTILINE)
_ARC_FIELD = re.compile(rb"^(size|c_min)\s+[0-9]+\s+([0-9]{1,18})$", re.MULTILINE)


_PAGE_SIZE = re.compile(r"page size of ([0-9]{1,7}) bytes")
_PAGES = re.compile(r'^"?([A-Za-z][A-Za-z -]{0,40}?)"?:\s+([0-9]{1,15})\.$', re.MULTILINE)


class MainMemoryReading(msgspec.Struct, frozen=True, kw_only=True):
    """Main memory at one moment, in bytes."""

    total: int
    """What there is, or the limit of the container or service if that is smaller."""
    available: int | None
    """What programs can get without swapping; ``None`` if a limit hides how much is taken."""
    cache: int = 0
    """The part of ``available`` that is cache now, and that the kernel gives back on demand."""
    zfs_cache: int = 0
    """The part of ``available`` that ZFS caches now, and gives back on demand."""


class MainMemory:
    """Reads ``proc/meminfo`` of ``root``, and the group limits of this process in ``container``.

    ZFS keeps its cache (ARC) outside the page cache, so that ``MemAvailable`` counts it as taken.
    It shrinks to its minimum, ``c_min``, when programs need memory (``arcstats`` of OpenZFS).

    The two differ only where ``root`` is a mount of the host's files in a container: the memory
    is the host's, the limit is the container's.

    Where this machine itself has no ``/proc`` it is ``read_by_psutil``.
    """

    def __init__(self, root: Path = Path("/"), container: Path = Path("/")) -> None:
        self._is_this_machine = root == Path("/")
        self._meminfo = KeptFile(root / "proc/meminfo")
        self._arc = KeptFile(root / "proc/spl/kstat/zfs/arcstats")
        self._cgroup = CgroupMemory(container)

    def read(self) -> MainMemoryReading | None:
        """The reading, or ``None`` where the machine does not tell."""
        fields = meminfo(self._meminfo.read() or b"")
        total, available = fields.get("MemTotal"), _available(fields)
        if not total or available is None:
            return read_by_psutil() if self._is_this_machine else None
        zfs_cache = min(_zfs_cache(self._arc.read() or b""), max(0, total - available))
        reading = MainMemoryReading(
            total=total,
            available=min(available + zfs_cache, total),
            cache=max(0, available - fields.get("MemFree", available)),
            zfs_cache=zfs_cache,
        )
        for bound in self._cgroup.limits(total):
            reading = _within(reading, bound)
        return reading


def read_by_psutil() -> MainMemoryReading | None:
    """The reading where there is no ``/proc``; ``None`` if nothing tells."""
    try:
        memory = psutil.virtual_memory()
    except (psutil.Error, OSError, RuntimeError, ValueError):
        return None
    told = vm_stat(output_of("vm_stat") or "", memory.total) if on_macos() else None
    return told or MainMemoryReading(
        total=memory.total, available=min(memory.available, memory.total)
    )


def vm_stat(output: str, total: int) -> MainMemoryReading | None:
    """What ``vm_stat`` of macOS prints, on a machine with ``total`` bytes.

    Available are the free pages, the file-backed ones (those read ahead, "speculative", are among
    them) and the purgeable ones: what Activity Monitor calls neither used nor wired. Weights that a
    GPU uses are wired, so they are not among these. ``None`` = the output is not understood.
    """
    size = _PAGE_SIZE.search(output)
    pages = {name: int(count) for name, count in _PAGES.findall(output)}
    cached = [pages.get(name) for name in ("File-backed pages", "Pages purgeable")]
    free = pages.get("Pages free")
    if size is None or free is None:
        return None
    cache = sum(count or 0 for count in cached) * int(size[1])
    available = min(free * int(size[1]) + cache, total)
    return MainMemoryReading(total=total, available=available, cache=min(cache, available))


def meminfo(content: bytes) -> Mapping[str, int]:
    """The fields of ``/proc/meminfo`` that are whole, in bytes (``proc_meminfo(5)``)."""
    return {name.decode(): int(size) * 1024 for name, size in _FIELD.findall(content)}


def _within(reading: MainMemoryReading, bound: MemoryLimit) -> MainMemoryReading:
    """``reading`` as it is under one more limit."""
    total = min(reading.total, bound.limit)
    if bound.used is None or reading.available is None:
        return MainMemoryReading(total=total, available=None)
    room = max(0, bound.limit - bound.used)
    if room >= reading.available:
        return msgspec.structs.replace(reading, total=total)
    # ZFS's cache belongs to no group, so that it takes nothing from this limit.
    return MainMemoryReading(total=total, available=room, cache=min(room, bound.reclaimable))


def _zfs_cache(arcstats: bytes) -> int:
    fields = {name: int(size) for name, size in _ARC_FIELD.findall(arcstats)}
    return max(0, fields.get(b"size", 0) - fields.get(b"c_min", 0))


def _available(fields: Mapping[str, int]) -> int | None:
    if (available := fields.get("MemAvailable")) is not None:
        return available
    # Kernels before 3.14. Shared memory is counted as cache there, but cannot be dropped.
    needed = [fields.get(name) for name in ("MemFree", "Cached", "Shmem")]
    free, cached, shared = needed
    if free is None or cached is None or shared is None:
        return None
    return max(0, free + cached - shared)
