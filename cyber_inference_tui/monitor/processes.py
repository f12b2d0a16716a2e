"""Reads the main memory and the processor time of a process and its descendants."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

import msgspec
import psutil

from cyber_inference_tui.kernel import child_pids
from cyber_inference_tui.monitor.kernel_files import integer, read_bytes
from cyber_inference_tui.monitor.memory_reading import ProcessMemory

_TICKS = os.sysconf("SC_CLK_TCK")
_UTIME, _STIME = 11, 12
"""Indexes in ``stat`` after the name."""
_MOST_PROCESSES = 256
# PROC_PID_INIT_INO of include/linux/proc_ns.h: the machine's own pids, not a container's.
_INITIAL_NAMESPACE = "pid:[4026531836]"
_RSS = re.compile(rb"^(VmLck|VmRSS|RssAnon|RssFile|RssShmem):\s+([0-9]{1,12}) kB$", re.MULTILINE)


class ProcessUsage(msgspec.Struct, frozen=True, kw_only=True):
    """The use of a process and its descendants at one moment."""

    pids: tuple[int, ...]
    memory: ProcessMemory
    cpu_ms: int | None = None
    """Their processor time so far, in milliseconds; it falls when a descendant exits."""


class ProcessReader:
    """Reads processes; ``root`` contains this process's own ``proc/``."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._proc = root / "proc"
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
            for child in child_pids(waiting.pop(), self._proc):
                if child not in found and child != pid:
                    found[child] = None
                    waiting.append(child)
        return list(found)[:_MOST_PROCESSES]
