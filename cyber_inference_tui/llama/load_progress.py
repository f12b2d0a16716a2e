"""Measures how much of its files a server has read, for servers that report no progress.

Linux counts for every process (proc(5)): ``rchar`` in ``/proc/PID/io`` its reads by calls,
``read_bytes`` its reads from the disk (mapped files included), and ``RssFile`` in
``/proc/PID/status`` its mapped pages in memory. The server's way of loading decides which count
grows. On other systems only the memory of the process is known; it grows during the load.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import psutil

from cyber_inference_tui.kernel import PROC, child_pids

INTERVAL = 0.25
"""Seconds between two looks."""
SLOW_INTERVAL = 1.0
"""The same for a server that reports its progress itself."""
_MOST = 0.99
"""The last percent is reserved for the report of the server itself."""
_STEP = 1 << 20
"""Bytes that count as progress. The requests that a hung server reads are far smaller."""
_MOST_PROCESSES = 64


class BytesRead(NamedTuple):
    """Bytes that a process and its descendants have read, by three counts."""

    by_calls: int
    from_disk: int
    mapped: int


def bytes_read(pid: int, proc: Path = PROC) -> BytesRead | None:
    """Return the bytes read by ``pid`` and its descendants; ``None`` = unknown. Blocks."""
    total: BytesRead | None = None
    waiting, seen = [pid], set[int]()
    while waiting and len(seen) < _MOST_PROCESSES:
        process = waiting.pop()
        if process in seen:
            continue
        seen.add(process)
        folder = proc / str(process)
        io, status = _fields(folder / "io"), _fields(folder / "status")
        counts = (io.get("rchar"), io.get("read_bytes"), status.get("RssFile"))
        if all(number is None for number in counts) and proc == PROC:
            counts = (None, None, _resident(process))
        if all(number is None for number in counts):
            continue
        before = total or BytesRead(0, 0, 0)
        total = BytesRead(*(a + (b or 0) for a, b in zip(before, counts, strict=True)))
        # A user's command is often a script that starts the real server.
        waiting += child_pids(process, proc)
    return total


def _resident(pid: int) -> int | None:
    """Return the bytes that the process has in memory, for systems without ``/proc``."""
    try:
        resident: int = psutil.Process(pid).memory_info().rss
    except (psutil.Error, OSError, ValueError):
        return None
    return resident


def _fields(path: Path) -> dict[str, int]:
    """Return the lines ``Name: 123`` and ``Name: 123 kB`` of a file, in bytes."""
    found: dict[str, int] = {}
    try:
        text = path.read_text("ascii", "replace")
    except OSError:
        return found
    for line in text.splitlines():
        name, _, value = line.partition(":")
        words = value.split()
        if words and words[0].isdecimal():
            found[name] = int(words[0]) * (1024 if words[1:] == ["kB"] else 1)
    return found


async def follow_load(
    pid: int,
    size: int | None,
    moved: Callable[[float | None], None],
    *,
    proc: Path = PROC,
    interval: float = INTERVAL,
) -> None:
    """Call ``moved`` as the process reads on, until cancelled.

    The argument is the share of ``size`` bytes (0 to 0.99, only rising), or ``None`` if the size is
    unknown. Returns on a system without such counts.
    """
    reported = BytesRead(0, 0, 0)
    while True:
        await asyncio.sleep(interval)
        # In a thread: the kernel may hold up the reader while the process starts its program.
        now = await asyncio.to_thread(bytes_read, pid, proc)
        if now is None:
            return
        if any(new >= old + _STEP for new, old in zip(now, reported, strict=True)):
            reported = BytesRead(*map(max, now, reported))
            moved(min(_MOST, max(reported) / size) if size else None)
