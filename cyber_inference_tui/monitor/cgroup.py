"""Reads the limits of main memory of this process's control group, or of its container.

Sources: the kernel's ``cgroup-v2.rst`` and ``cgroup-v1/memory.rst``, and ``cgroups(7)``.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import msgspec

from cyber_inference_tui.monitor.kernel_files import KeptFile, integer, read_bytes

_DEEPEST = 32


class _Version(msgspec.Struct, frozen=True, kw_only=True):
    """The names of the same values in one version of control groups."""

    limit: str
    usage: str
    prefix: str
    """The prefix of fields in ``memory.stat`` that include the groups below (version 1)."""
    all_files: str
    dirty: str
    writeback: str


_V2 = _Version(
    limit="memory.max",
    usage="memory.current",
    prefix="",
    all_files="file",
    dirty="file_dirty",
    writeback="file_writeback",
)
_V1 = _Version(
    limit="memory.limit_in_bytes",
    usage="memory.usage_in_bytes",
    prefix="total_",
    all_files="cache",
    dirty="dirty",
    writeback="writeback",
)


class MemoryLimit(msgspec.Struct, frozen=True, kw_only=True):
    """A limit of main memory, and its use, in bytes."""

    limit: int
    used: int | None
    """Without ``reclaimable``; ``None`` = the group does not report it."""
    reclaimable: int = 0
    """File cache and kernel caches that the kernel frees before it refuses memory."""


class CgroupMemory:
    """The memory limits of this process: its own group's and those of the groups above.

    ``root`` contains this process's own ``proc/`` and ``sys/fs/cgroup``. The groups are looked up
    once: a process stays in its group.
    """

    def __init__(self, root: Path) -> None:
        mount = root / "sys/fs/cgroup"
        v1 = mount / "memory"
        own_v1, own_v2 = _own_groups(read_bytes(root / "proc/self/cgroup") or b"")
        self._groups = [
            *(_Group(folder, _V2) for folder in _upwards(mount, own_v2)),
            *(_Group(folder, _V1) for folder in _upwards(v1, own_v1)),
        ]

    def limits(self, total: int) -> list[MemoryLimit]:
        """Return the limits below ``total``, the machine's memory (in bytes)."""
        found = (group.read(total) for group in self._groups)
        return [limit for limit in found if limit is not None]


class _Group:
    def __init__(self, folder: Path, version: _Version) -> None:
        self._limit = KeptFile(folder / version.limit)
        self._usage = KeptFile(folder / version.usage)
        self._stat = KeptFile(folder / "memory.stat")
        self._version = version

    def read(self, total: int) -> MemoryLimit | None:
        # "max" is not a number; version 1 writes a number beyond any machine's memory for "none".
        limit = self._limit.number()
        if limit is None or not 0 <= limit < total:
            return None
        usage = self._usage.number()
        if usage is None:
            return MemoryLimit(limit=limit, used=None)
        reclaimable = min(usage, _reclaimable(self._stat.read() or b"", self._version))
        return MemoryLimit(limit=limit, used=usage - reclaimable, reclaimable=reclaimable)


def _reclaimable(stat: bytes, version: _Version) -> int:
    """Return the bytes that the kernel frees in a group before it refuses memory.

    These are pages of files, whether used once (``inactive_file``) or repeatedly (``active_file``),
    without pages that must be written first, and the reclaimable part of the kernel's own caches.
    Shared memory and locked pages are in other lists. If the lists and the sum of all file pages
    without shared memory differ, the smaller one counts.
    """
    words = (entry.split() for entry in stat.splitlines())
    fields = {pair[0].decode("latin-1"): integer(pair[1]) for pair in words if len(pair) == 2}

    def field(name: str) -> int:
        return max(0, fields.get(version.prefix + name) or 0)

    known: list[int] = []
    if version.prefix + "inactive_file" in fields or version.prefix + "active_file" in fields:
        known.append(field("inactive_file") + field("active_file"))
    if version.prefix + version.all_files in fields:
        known.append(max(0, field(version.all_files) - field("shmem")))
    files = min(known, default=0)
    unwritten = field(version.dirty) + field(version.writeback)
    return max(0, files - unwritten) + field("slab_reclaimable")


def _own_groups(content: bytes) -> tuple[str, str]:
    """Return our paths below the mounts of version 1's memory controller and of version 2."""
    v1 = v2 = "/"
    for entry in content.decode("utf-8", "surrogateescape").splitlines()[:64]:
        number, _, rest = entry.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            v2 = path
        elif "memory" in controllers.split(","):
            v1 = path
    return v1, v2


def _upwards(mount: Path, path: str) -> list[Path]:
    """Return the group's directory and those above it, up to the mount's own.

    Missing directories are harmless: in a container without its own group namespace the path is the
    host's, and only the mount's own directory exists.
    """
    parts = [part for part in PurePosixPath(path).parts if part not in {"/", "..", "."}]
    parts = [part for part in parts if "\0" not in part][:_DEEPEST]
    return [mount.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]
