"""The machine's main memory, or what a container may use of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from cyber_inference_tui.monitor.cgroup import CgroupMemory
from cyber_inference_tui.monitor.files import KeptFile

_FIELD = re.compile(rb"^([A-Za-z0-9_()]{1,64}):[ \t]+([0-9]{1,12}) kB$", re.MULTILINE)


class MainMemoryReading(msgspec.Struct, frozen=True, kw_only=True):
    """Main memory at one moment, in bytes."""

    total: int
    """What there is, or the limit of the container or service if that is smaller."""
    available: int | None
    """What programs can get without swapping; ``None`` if a limit hides how much is taken."""


class MainMemory:
    """Reads ``proc/meminfo`` of ``root``, and the group limits of this process in ``container``.

    The two differ only where ``root`` is a mount of the host's files in a container: the memory
    is the host's, the limit is the container's.
    """

    def __init__(self, root: Path = Path("/"), container: Path = Path("/")) -> None:
        self._meminfo = KeptFile(root / "proc/meminfo")
        self._cgroup = CgroupMemory(container)

    def read(self) -> MainMemoryReading | None:
        """The reading, or ``None`` where the machine does not tell."""
        fields = meminfo(self._meminfo.read() or b"")
        total, available = fields.get("MemTotal"), _available(fields)
        if not total or available is None:
            return None
        bounds = self._cgroup.limits(total)
        rooms = [max(0, bound.limit - bound.used) for bound in bounds if bound.used is not None]
        return MainMemoryReading(
            total=min(total, *(bound.limit for bound in bounds)) if bounds else total,
            available=min(available, total, *rooms) if len(rooms) == len(bounds) else None,
        )


def meminfo(content: bytes) -> Mapping[str, int]:
    """The fields of ``/proc/meminfo`` that are whole, in bytes (``proc_meminfo(5)``)."""
    return {name.decode(): int(size) * 1024 for name, size in _FIELD.findall(content)}


def _available(fields: Mapping[str, int]) -> int | None:
    if (available := fields.get("MemAvailable")) is not None:
        return available
    # Kernels before 3.14. Shared memory is counted as cache there, but cannot be dropped.
    needed = [fields.get(name) for name in ("MemFree", "Cached", "Shmem")]
    free, cached, shared = needed
    if free is None or cached is None or shared is None:
        return None
    return max(0, free + cached - shared)
