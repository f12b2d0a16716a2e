"""Reads the machine's main memory, or the part that a container may use.

On macOS the source is vm_stat(1). psutil reads the same counters, but counts free and *inactive*
pages as available. Inactive pages include programs' own data, which would have to be compressed or
swapped out, and exclude cached files that were read recently. The scheduler decides with this
number which models fit, so it must mean the same as on Linux.
"""

from __future__ import annotations

import os
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
_PARKED = re.compile(rb"^ +count: +([0-9]{1,15})$", re.MULTILINE)

_PAGE_SIZE = re.compile(r"page size of ([0-9]{1,7}) bytes")
_PAGES = re.compile(r'^"?([A-Za-z][A-Za-z -]{0,40}?)"?:\s+([0-9]{1,15})\.$', re.MULTILINE)


class MainMemoryReading(msgspec.Struct, frozen=True, kw_only=True):
    """Main memory at one moment, in bytes."""

    total: int
    """The memory of the machine, or the limit of the container or service if that is smaller."""
    available: int | None
    """The memory that programs can get without swapping; ``None`` = a limit hides its use."""
    cache: int = 0
    """The part of ``available`` that is now cache, and that the kernel frees on demand."""
    zfs_cache: int = 0
    """The part of ``available`` that is now ZFS's cache, and that ZFS frees on demand."""


class MainMemory:
    """Reads ``proc/meminfo`` of ``root``, and the group limits of this process in ``container``.

    Each core keeps pages that were freed on it (``proc/zoneinfo``), and ``MemAvailable`` counts
    them as used: after the end of a large program some hundred MB, and for many seconds.

    ZFS keeps its cache (ARC) outside the page cache, so ``MemAvailable`` counts it as used. The
    cache shrinks to its minimum, ``c_min``, when programs need memory (``arcstats`` of OpenZFS).

    The two paths differ only if ``root`` is a mount of the host's files in a container: the memory
    is the host's, and the limit is the container's.

    A machine without ``/proc`` is read by ``read_by_psutil``.
    """

    def __init__(self, root: Path = Path("/"), container: Path = Path("/")) -> None:
        self._is_this_machine = root == Path("/")
        self._meminfo = KeptFile(root / "proc/meminfo")
        zoneinfo = root / "proc/zoneinfo"
        # LXCFS puts a file of the container's own over ``meminfo``, and none over ``zoneinfo``.
        is_of_same_machine = _same_device(root / "proc/meminfo", zoneinfo)
        self._zoneinfo = KeptFile(zoneinfo) if is_of_same_machine else None
        self._arc = KeptFile(root / "proc/spl/kstat/zfs/arcstats")
        self._cgroup = CgroupMemory(container)

    def read(self) -> MainMemoryReading | None:
        """Return a reading; ``None`` = the machine does not report its memory."""
        fields = meminfo(self._meminfo.read() or b"")
        total, available = fields.get("MemTotal"), _available(fields)
        if not total or available is None:
            return read_by_psutil() if self._is_this_machine else None
        cache = max(0, available - fields.get("MemFree", available))
        if self._zoneinfo is not None:
            available = min(available + parked(self._zoneinfo.read() or b""), total)
        zfs_cache = min(_zfs_cache(self._arc.read() or b""), max(0, total - available))
        reading = MainMemoryReading(
            total=total,
            available=min(available + zfs_cache, total),
            cache=cache,
            zfs_cache=zfs_cache,
        )
        for bound in self._cgroup.limits(total):
            reading = _within(reading, bound)
        return reading


def read_by_psutil() -> MainMemoryReading | None:
    """Return a reading without ``/proc``; ``None`` = there is no source."""
    try:
        memory = psutil.virtual_memory()
    except (psutil.Error, OSError, RuntimeError, ValueError):
        return None
    reading = vm_stat(output_of("vm_stat") or "", memory.total) if on_macos() else None
    return reading or MainMemoryReading(
        total=memory.total, available=min(memory.available, memory.total)
    )


def vm_stat(output: str, total: int) -> MainMemoryReading | None:
    """Parse the output of macOS's ``vm_stat`` on a machine with ``total`` bytes.

    Available are the free pages, the file-backed ones (which include those read ahead,
    "speculative") and the purgeable ones: Activity Monitor counts these as neither used nor wired.
    Weights in use by a GPU are wired, so they are not included. ``None`` = the output has another
    form.
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
    """Return the complete fields of ``/proc/meminfo`` in bytes (``proc_meminfo(5)``)."""
    return {name.decode(): int(size) * 1024 for name, size in _FIELD.findall(content)}


def parked(zoneinfo: bytes) -> int:
    """Return the bytes of free pages that cores keep, by ``/proc/zoneinfo`` (``mm/vmstat.c``)."""
    return sum(map(int, _PARKED.findall(zoneinfo))) * os.sysconf("SC_PAGE_SIZE")


def _same_device(*paths: Path) -> bool:
    try:
        return len({path.stat().st_dev for path in paths}) == 1
    except OSError:
        return False


def _within(reading: MainMemoryReading, bound: MemoryLimit) -> MainMemoryReading:
    """Apply one more limit to ``reading``."""
    total = min(reading.total, bound.limit)
    if bound.used is None or reading.available is None:
        return MainMemoryReading(total=total, available=None)
    room = max(0, bound.limit - bound.used)
    if room >= reading.available:
        return msgspec.structs.replace(reading, total=total)
    # ZFS's cache belongs to no group, so it does not count against this limit.
    return MainMemoryReading(total=total, available=room, cache=min(room, bound.reclaimable))


def _zfs_cache(arcstats: bytes) -> int:
    fields = {name: int(size) for name, size in _ARC_FIELD.findall(arcstats)}
    return max(0, fields.get(b"size", 0) - fields.get(b"c_min", 0))


def _available(fields: Mapping[str, int]) -> int | None:
    if (available := fields.get("MemAvailable")) is not None:
        return available
    # Kernels before 3.14 count shared memory as cache, but it cannot be dropped.
    needed = [fields.get(name) for name in ("MemFree", "Cached", "Shmem")]
    free, cached, shared = needed
    if free is None or cached is None or shared is None:
        return None
    return max(0, free + cached - shared)
