"""Reads the main memory and the processor time of a process and its descendants."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import psutil

from cyber_inference_tui.backoff import LookTimer
from cyber_inference_tui.kernel import child_pids
from cyber_inference_tui.monitor.kernel_files import integer, read_bytes
from cyber_inference_tui.monitor.memory_reading import ProcessMemory

_TICKS = os.sysconf("SC_CLK_TCK")
_UTIME, _STIME = 11, 12
"""Indexes in ``stat`` after the name."""
_MOST_PROCESSES = 256
_MANY_THREADS = 32
_LONGEST_PAUSE = 60.0
"""Seconds; see ``ProcessReader``."""
_MOST_KNOWN = 1024
# PROC_PID_INIT_INO of include/linux/proc_ns.h: the machine's own pids, not a container's.
_INITIAL_NAMESPACE = "pid:[4026531836]"
_THREADS = re.compile(rb"^Threads:\s+([0-9]{1,9})$", re.MULTILINE)
_RSS = re.compile(rb"^(VmLck|VmRSS|RssAnon|RssFile|RssShmem):\s+([0-9]{1,12}) kB$", re.MULTILINE)


class ProcessUsage(msgspec.Struct, frozen=True, kw_only=True):
    """The use of a process and its descendants at one moment."""

    pids: tuple[int, ...]
    memory: ProcessMemory
    cpu_ms: int | None = None
    """Their processor time so far, in milliseconds; it falls when a descendant exits."""


class ProcessReader:
    """Reads processes; ``root`` contains this process's own ``proc/``.

    To find the children of a process takes a file for each of its threads, and a llama-server has
    hundreds. So those of a process with many are looked up at growing intervals of ``clock`` while
    they stay the same. Scripts have few threads: their children are always the present ones.
    """

    def __init__(self, root: Path = Path("/"), clock: Callable[[], float] = time.monotonic) -> None:
        self._proc = root / "proc"
        self._clock = clock
        self._children_of: dict[int, _Children] = {}
        # psutil reads only this machine, not a fixture.
        self._is_this_machine = root == Path("/")

    def read(self, pid: int) -> ProcessMemory | None:
        """Return the memory of ``pid`` and its descendants; ``None`` = it is gone.

        Source: ``/proc/PID/status`` (``proc_pid_status(5)``). Memory that processes share counts in
        each of them.
        """
        memory = self._one(pid)
        return None if memory is None else self._sum(memory, self._descendants(pid))

    def usage(self, pid: int) -> ProcessUsage | None:
        """Return the memory and the processor time; ``None`` = it is gone.

        Source of the times: ``/proc/PID/stat`` (``proc_pid_stat(5)``).
        """
        memory = self._one(pid)
        if memory is None:
            return None
        descendants = self._descendants(pid)
        times = [self._cpu_ms(one) for one in (pid, *descendants)]
        return ProcessUsage(
            pids=(pid, *descendants),
            memory=self._sum(memory, descendants),
            cpu_ms=None if times[0] is None else sum(time or 0 for time in times),
        )

    def pids_are_the_machines(self) -> bool:
        """Return whether our pids are those of the whole machine, which drivers report.

        In a container with its own pids they are not.
        """
        try:
            return (self._proc / "self" / "ns" / "pid").readlink().name == _INITIAL_NAMESPACE
        except OSError:
            return False

    def _sum(self, memory: ProcessMemory, descendants: Iterable[int]) -> ProcessMemory:
        found = [memory, *filter(None, map(self._one, descendants))]
        return ProcessMemory(
            private=sum(one.private for one in found),
            mapped=sum(one.mapped for one in found),
            locked=sum(one.locked for one in found),
        )

    def _cpu_ms(self, pid: int) -> int | None:
        stat = read_bytes(self._proc / str(pid) / "stat")
        # A name may contain anything, even a parenthesis; numbers follow the last one.
        fields = (stat or b"").rpartition(b")")[2].split()
        if len(fields) > _STIME:
            user, system = integer(fields[_UTIME]), integer(fields[_STIME])
            if user is not None and system is not None and user >= 0 and system >= 0:
                return (user + system) * 1000 // _TICKS
        if stat is not None or not self._is_this_machine:
            return None
        try:  # A system without /proc.
            times = psutil.Process(pid).cpu_times()
        except (psutil.Error, OSError, ValueError):
            return None
        return int((times.user + times.system) * 1000)

    def _one(self, pid: int) -> ProcessMemory | None:
        status = read_bytes(self._proc / str(pid) / "status")
        rss = {name: int(size) * 1024 for name, size in _RSS.findall(status or b"")}
        try:
            return ProcessMemory(
                private=rss[b"RssAnon"] + rss[b"RssShmem"],
                mapped=rss[b"RssFile"],
                # ``--mlock`` locks only the weights; other locked memory is not counted here.
                locked=min(rss.get(b"VmLck", 0), rss[b"RssFile"]),
            )
        except KeyError:
            pass
        # A zombie has no memory, and no fields for it.
        if not self._is_this_machine or (status is not None and b"VmRSS" not in rss):
            return None
        # Kernels before 4.5 and systems without /proc need another source for the parts.
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
        threads = _THREADS.search(read_bytes(self._proc / str(pid) / "status") or b"")
        if threads is None or int(threads[1]) < _MANY_THREADS:
            return child_pids(pid, self._proc)
        known = self._children_of.pop(pid, None) or _Children(self._clock)
        # The last one looked up is the last in the dictionary.
        self._children_of[pid] = known
        if len(self._children_of) > _MOST_KNOWN:
            del self._children_of[next(iter(self._children_of))]
        if known.timer.is_due():
            former, known.pids = known.pids, child_pids(pid, self._proc)
            known.timer.note_look(changed=known.pids != former)
        return known.pids


class _Children:
    """The children of a process with many threads."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.pids: list[int] = []
        self.timer = LookTimer(most=_LONGEST_PAUSE, clock=clock)
