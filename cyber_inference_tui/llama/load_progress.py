"""How much of its files a server has read so far, where it does not tell by itself.

Linux tells of every process (proc(5)): ``rchar`` in ``/proc/PID/io`` counts what it read by calls,
``read_bytes`` what the disk gave for it (which includes mapped files), and ``RssFile`` in
``/proc/PID/status`` what it has mapped and in memory. Which of them tells of a load depends on how
the server loads. Other systems tell the memory that it has, which grows with what it reads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import psutil

from cyber_inference_tui.kernel import PROC, child_pids

_INTERVAL = 0.25
_MOST = 0.99
"""Only the server's own word is the rest."""
_STEP = 1 << 20
"""Bytes that count as a step. Requests read by a server that hangs in its load are far less."""
_MOST_PROCESSES = 64


class BytesRead(NamedTuple):
    """Bytes that a process and its descendants have read, by three accounts."""

    by_calls: int
    from_disk: int
    mapped: int


def bytes_read(pid: int, proc: Path = PROC) -> BytesRead | None:
    """What ``pid`` and its descendants have read; ``None`` where nothing tells. Blocks."""
    total: BytesRead | None = None
    waiting, seen = [pid], set[int]()
    while waiting and len(seen) < _MOST_PROCESSES:
        process = waiting.pop()
        if process in seen:
            continue
        seen.add(process)
        folder = proc / str(process)
        io, status = _fields(folder / "io"), _fields(folder / "status")
        told = (io.get("rchar"), io.get("read_bytes"), status.get("RssFile"))
        if all(number is None for number in told) and proc == PROC:
            told = (None, None, _resident(process))
        if all(number is None for number in told):
            continue
        before = total or BytesRead(0, 0, 0)
        total = BytesRead(*(a + (b or 0) for a, b in zip(before, told, strict=True)))
        # A command of a person's own is often a script that starts the server proper.
        waiting += child_pids(process, proc)
    return total


def _resident(pid: int) -> int | None:
    """Bytes that the process has in memory, where there is no ``/proc``."""
    try:
        resident: int = psutil.Process(pid).memory_info().rss
    except (psutil.Error, OSError, ValueError):
        return None
    return resident


def _fields(path: Path) -> dict[str, int]:
    """Its lines ``Name: 123`` and ``Name: 123 kB``, in bytes."""
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
    interval: float = _INTERVAL,
) -> None:
    """Call ``moved`` as the process reads on, until cancelled.

    It is called with the share of ``size`` bytes (0 to 0.99, only rising), or with ``None`` where
    the size is not known. Returns at once on a machine that tells nothing.
    """
    told = BytesRead(0, 0, 0)
    while True:
        # In a thread: the kernel may hold up the reader while the process starts its program.
        now = await asyncio.to_thread(bytes_read, pid, proc)
        if now is None:
            return
        if any(new >= old + _STEP for new, old in zip(now, told, strict=True)):
            told = BytesRead(*map(max, now, told))
            moved(min(_MOST, max(told) / size) if size else None)
        await asyncio.sleep(interval)
