"""What a process and its descendants hold in main memory."""

from __future__ import annotations

import re
from pathlib import Path

import psutil

from cyber_inference_tui.monitor.files import entries, integer, read_bytes
from cyber_inference_tui.monitor.memory import ProcessMemory

_MOST_PROCESSES = 256
_MOST_THREADS = 1024
_RSS = re.compile(rb"^(VmRSS|RssAnon|RssFile|RssShmem):\s+([0-9]{1,12}) kB$", re.MULTILINE)


class ProcessReader:
    """Reads the processes below ``root``, which has this process's own ``proc/``."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._proc = root / "proc"
        # psutil looks at this machine only, which a fixture is not.
        self._is_this_machine = root == Path("/")

    def read(self, pid: int) -> ProcessMemory | None:
        """The memory of ``pid`` and its descendants; ``None`` if it is gone.

        Source: ``/proc/PID/status`` (``proc_pid_status(5)``). Memory that a descendant shares
        with its parent is counted in each of them.
        """
        memory = self._one(pid)
        if memory is None:
            return None
        private, mapped = memory.private, memory.mapped
        for child in self._descendants(pid):
            if (memory := self._one(child)) is not None:
                private += memory.private
                mapped += memory.mapped
        return ProcessMemory(private=private, mapped=mapped)

    def _one(self, pid: int) -> ProcessMemory | None:
        status = read_bytes(self._proc / str(pid) / "status")
        rss = {name: int(size) * 1024 for name, size in _RSS.findall(status or b"")}
        try:
            return ProcessMemory(private=rss[b"RssAnon"] + rss[b"RssShmem"], mapped=rss[b"RssFile"])
        except KeyError:
            pass
        # One that has ended and was not waited for has no memory any more, and says nothing of it.
        if not self._is_this_machine or (status is not None and b"VmRSS" not in rss):
            return None
        # Kernels before 4.5 and systems without /proc tell the parts in another way.
        try:
            info = psutil.Process(pid).memory_info()
        except (psutil.Error, OSError, ValueError):
            return None
        shared = min(getattr(info, "shared", 0), info.rss)
        return ProcessMemory(private=info.rss - shared, mapped=shared)

    def _descendants(self, pid: int) -> list[int]:
        found: dict[int, None] = {}
        waiting = [pid]
        while waiting and len(found) < _MOST_PROCESSES:
            for child in self._children(waiting.pop()):
                if child not in found and child != pid:
                    found[child] = None
                    waiting.append(child)
        return list(found)[:_MOST_PROCESSES]

    def _children(self, pid: int) -> list[int]:
        # A child is listed with the thread that started it.
        task = self._proc / str(pid) / "task"
        children: list[int] = []
        told = False
        for thread in entries(task)[:_MOST_THREADS]:
            listed = read_bytes(task / thread / "children")
            told = told or listed is not None
            pids = (integer(word) for word in (listed or b"").split())
            children += [child for child in pids if child is not None and child > 0]
        if told or not self._is_this_machine:
            return children
        try:  # A kernel without CONFIG_PROC_CHILDREN, or no /proc.
            return [child.pid for child in psutil.Process(pid).children()]
        except (psutil.Error, OSError, ValueError):
            return []
