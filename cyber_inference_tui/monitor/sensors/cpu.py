"""Reads the load of the processors.

Sources: ``proc_stat(5)``, ``proc_loadavg(5)``, cpufreq's sysfs; psutil without ``/proc``.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from cyber_inference_tui.monitor.kernel_files import (
    KeptFile,
    ProbeTimer,
    entries,
    read_integer,
    read_line,
)
from cyber_inference_tui.monitor.rates import percent
from cyber_inference_tui.records import CpuRecord

_MOST_CORES = 1024
# Some kernels of x86 machines take 10 ms for each of these.
_MOST_FREQUENCIES = 16
_LINE = re.compile(rb"^cpu([0-9]{0,4})[ ]+((?:[0-9]{1,18} ){3,15}[0-9]{1,18})$", re.MULTILINE)
# user nice system idle iowait irq softirq steal; what follows is part of "user" and "nice".
_COLUMNS = 8
_LOAD = re.compile(rb"([0-9]{1,6}\.[0-9]{2}) ([0-9]{1,6}\.[0-9]{2}) ([0-9]{1,6}\.[0-9]{2}) ")

Times = tuple[int, int]
"""Busy ticks, and all ticks."""

_TICK = 0.001
"""The seconds of a tick for psutil's times."""


class CpuSensor:
    """Reads ``proc/stat`` and related files below ``root``."""

    def __init__(self, root: Path = Path("/"), clock: Callable[[], float] = time.monotonic) -> None:
        self._is_this_machine = root == Path("/")
        self._stat = KeptFile(root / "proc/stat")
        self._load = KeptFile(root / "proc/loadavg")
        self._policies = root / "sys/devices/system/cpu/cpufreq"
        self._frequencies: list[KeptFile] = []
        self._limits: tuple[int | None, ...] = ()
        self._groups: tuple[tuple[int, ...], ...] = ()
        self._timer = ProbeTimer(clock)
        self._before: dict[int, Times] = {}

    def read(self) -> CpuRecord | None:
        """Return the load since the last call; ``None`` = nothing can be read."""
        times = cpu_times(self._stat.read() or b"")
        load = load_average(self._load.read() or b"")
        if not times and self._is_this_machine:
            with contextlib.suppress(psutil.Error, OSError):
                times, load = _times_by_psutil(), os.getloadavg()
        before, self._before = self._before, times
        busy = {core: _percent(before.get(core), now) for core, now in times.items()}
        cores = [core for core in times if core >= 0]
        record = CpuRecord(
            percent=busy.get(-1),
            per_core=tuple(busy.get(core) for core in range(max(cores, default=-1) + 1)),
            count=len(cores) or None,
            load_average=load,
            frequencies_hz=tuple(_hertz(file.number()) for file in self._probed()),
            max_frequencies_hz=self._limits,
            frequency_cores=self._groups,
        )
        return None if record == CpuRecord() else record

    def _probed(self) -> list[KeptFile]:
        if self._timer.is_due():
            names = [name for name in entries(self._policies) if name.startswith("policy")]
            self._frequencies = [
                KeptFile(self._policies / name / "scaling_cur_freq")
                for name in names[:_MOST_FREQUENCIES]
            ]
            limits = tuple(
                _hertz(read_integer(self._policies / name / "scaling_max_freq"))
                for name in names[:_MOST_FREQUENCIES]
            )
            self._limits = limits if any(limits) else ()
            groups = tuple(
                _numbers(read_line(self._policies / name / "related_cpus"))
                for name in names[:_MOST_FREQUENCIES]
            )
            self._groups = groups if all(groups) else ()
        return self._frequencies


def _numbers(text: str | None) -> tuple[int, ...]:
    """Return the cores in a policy's list, such as ``0 1 2 3``."""
    words = (text or "").split()[:_MOST_CORES]
    return tuple(int(word) for word in words if word.isascii() and word.isdigit())


def cpu_times(stat: bytes) -> dict[int, Times]:
    """Return the ticks of each core in ``/proc/stat``, and those of all cores under -1."""
    times: dict[int, Times] = {}
    for number, counts in _LINE.findall(stat):
        core = int(number) if number else -1
        ticks = [int(count) for count in counts.split()[:_COLUMNS]]
        if core < _MOST_CORES:
            times[core] = (sum(ticks) - ticks[3] - (ticks[4] if len(ticks) > 4 else 0), sum(ticks))
    return times


def _times_by_psutil() -> dict[int, Times]:
    """Return the same as ``cpu_times``."""
    cores = [
        (int((sum(core) - core.idle) / _TICK), int(sum(core) / _TICK))
        for core in psutil.cpu_times(percpu=True)
    ]
    together = (sum(busy for busy, _ in cores), sum(total for _, total in cores))
    return {-1: together, **dict(enumerate(cores))}


def load_average(content: bytes) -> tuple[float, float, float] | None:
    """Return the three numbers at the start of ``/proc/loadavg``."""
    found = _LOAD.match(content)
    return (float(found[1]), float(found[2]), float(found[3])) if found else None


def _percent(before: Times | None, now: Times) -> float | None:
    if before is None:
        return None
    # The kernel's count of waiting time may decrease a little.
    total = now[1] - before[1]
    return percent(min(max(0, now[0] - before[0]), max(0, total)), total) if total > 0 else None


def _hertz(kilohertz: int | None) -> int | None:
    return kilohertz * 1000 if kilohertz is not None and 0 < kilohertz < 100_000_000 else None
