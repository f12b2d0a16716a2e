"""Tracks and kills the processes that descend from a child of ours, wherever they moved.

A server is often started by a script. A process that the script starts may leave its process group
and session, or give up its parent on purpose (a daemon). It is found by any of these:

* its parents: on Linux this process is a child subreaper (``prctl(2)``), so orphans become our
  children and not init's;
* its session, as long as it stays in its server's session;
* ``MARK``, an environment variable that children inherit;
* an earlier look: a process stays known by its pid and start time.

Functions that look at processes block: call them in a thread. ``python -m
cyber_inference_tui.llama.descendants MARK [PID:STARTED …]`` kills the processes that a killed
service left behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple

import psutil

from cyber_inference_tui.backoff import LookTimer
from cyber_inference_tui.kernel import child_pids, find_prctl

MARK = "CYBER_CHILD_OF"
"""The variable that marks our children. Its value is ``DIRECTORY/RUN`` for a run of the service on
a data directory, with ``/ID`` appended for each child and all below it."""
GUARD = "guard"
"""The ``/ID`` of a guard, which outlives its service for a moment."""

_PR_SET_CHILD_SUBREAPER = 36
_PR_GET_CHILD_SUBREAPER = 37
_SAME_START = 2.0
"""Seconds. On Linux a start time is exact; other systems give the time of the boot in whole
seconds. No pid is used again within so short a time."""
_SWEEP_TIMEOUT = 20.0
_LOOK_LEAST, _LOOK_MOST = 4.0, 60.0
"""Seconds between looks at the descendants of a server that has loaded."""


def start_of(process: psutil.Process) -> float:
    """Return the start time of a process, in seconds since the boot. Raises ``psutil.Error``.

    The time of day would change when the clock is set.
    """
    return process.create_time() - psutil.boot_time()


class KnownProcess(NamedTuple):
    """A process that was seen: its pid, start time (``start_of``) and program name."""

    pid: int
    started: float
    name: str = ""

    @classmethod
    def of(cls, process: psutil.Process) -> KnownProcess:
        """Describe ``process``. Raises ``psutil.NoSuchProcess``."""
        return cls(process.pid, start_of(process), process.name())

    def find(self) -> psutil.Process | None:
        """Return the process if it still exists, but not a later process with its pid."""
        try:
            process = psutil.Process(self.pid)
            same = abs(start_of(process) - self.started) <= _SAME_START
        except (psutil.Error, OSError):
            return None
        return process if same else None


class KillResult(NamedTuple):
    """The result of an attempt to kill processes."""

    found: tuple[KnownProcess, ...] = ()
    """Processes that were running."""
    left: tuple[KnownProcess, ...] = ()
    """Processes that did not die: they hang in the kernel, or belong to another user."""


def run_mark(data_dir: Path) -> str:
    """Make a mark for one run of the service on ``data_dir``."""
    run = secrets.token_hex(4)
    try:
        # Not the path: in a container another directory may have the same path.
        status = data_dir.stat()
    except OSError:
        return f"{secrets.token_hex(8)}/{run}"
    return f"{status.st_dev:x}.{status.st_ino:x}/{run}"


def directory_mark(mark: str) -> str:
    """Return the part of a mark that all runs on its data directory share."""
    return mark.partition("/")[0]


def marked(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for one more child, with its own mark below its parent's."""
    mark = f"{environment.get(MARK, '')}/{secrets.token_hex(4)}"
    return {**environment, MARK: mark}


def signal_group(group: int, number: signal.Signals) -> None:
    """Send a signal to a process group, if it still exists."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def adopt_orphans() -> None:
    """Become the parent of orphaned descendants; do nothing without ``prctl``."""
    if (prctl := find_prctl()) is not None:
        prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _adopts() -> bool:
    found = ctypes.c_int()
    prctl = find_prctl()
    if prctl is None or prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(found), 0, 0, 0) != 0:
        return False
    return bool(found.value)


def reap(before: frozenset[psutil.Process]) -> frozenset[psutil.Process]:
    """Reap adopted children that have exited; return the children that have exited now.

    ``before`` is the result of the last call. Only its processes are reaped: a child that this
    program started is reaped by its own code as soon as it exits.
    """
    ended = set()
    for pid in child_pids(os.getpid()):
        with contextlib.suppress(psutil.NoSuchProcess):
            child = psutil.Process(pid)
            if child.status() != psutil.STATUS_ZOMBIE:
                continue
            if child in before:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(child.pid, os.WNOHANG)
            else:
                ended.add(child)
    return frozenset(ended)


class Family:
    """A child of ours and all its descendants. ``mark`` is the mark in the child's environment.

    Between ``claim`` and ``end``, adopted processes without any trace of their origin may count as
    descendants.
    """

    _claimants: ClassVar[set[Family]] = set()

    def __init__(self, pid: int, mark: str) -> None:
        self.pid = pid
        self.mark = mark
        self.strays: tuple[KnownProcess, ...] = ()
        """Descendants without the mark, and adopted processes that may be descendants, as of the
        last ``look``. After our end nothing else links them to the service."""
        self.roots: tuple[int, ...] = (pid,)
        """The child, and descendants that are no longer below it in the process tree."""
        self.loads = False
        """Whether the child is still starting: most scripts start their processes then."""
        self._started = time.time() - psutil.boot_time()
        with contextlib.suppress(psutil.Error):
            self._started = start_of(psutil.Process(pid))
        self._known: dict[psutil.Process, None] = {}
        self._timer = LookTimer(least=_LOOK_LEAST, most=_LOOK_MOST)

    def is_due(self) -> bool:
        """Return whether to ``look`` again: at growing intervals while nothing changes."""
        return self._timer.is_due()

    @property
    def pids(self) -> tuple[int, ...]:
        """Return the child and its descendants, as of the last ``look``."""
        return (self.pid, *(one.pid for one in self._known))

    def claim(self) -> None:
        """Count adopted processes of unknown origin as descendants from now on.

        Only processes younger than the child count, and only while the child starts or no other
        child can have started them.
        """
        self.loads = True
        self._claimants.add(self)

    def look(self, *, everywhere: bool = False) -> list[psutil.Process]:
        """Return the present descendants, without the child itself.

        With ``everywhere`` the marks of all processes are read: without a subreaper, descendants
        may be below init.
        """
        me = psutil.Process()
        others = {one.pid for one in tuple(self._claimants) if one is not self}
        candidates = dict.fromkeys([*_below(me.pid, others), *self._known])
        if everywhere:
            candidates |= dict.fromkeys(one for one in psutil.process_iter() if one != me)
        found: dict[int, psutil.Process] = {}
        strays, roots = [], [self.pid]
        # Parents come before their children.
        for process in candidates:
            if process.pid == self.pid:
                continue
            with contextlib.suppress(psutil.Error, OSError):
                below = process.ppid() in {self.pid, *found}
                if not (below or self._belongs(process, me)):
                    if self._may_have_lost(process, me):
                        strays.append(KnownProcess.of(process))
                    continue
                found[process.pid] = process
                if not _has_mark(process, self.mark) and process.status() != psutil.STATUS_ZOMBIE:
                    strays.append(KnownProcess.of(process))
                if not below:
                    roots.append(process.pid)
        self._timer.note_look(changed=set(self._known) != set(found.values()))
        self._known = dict.fromkeys(found.values())
        self.strays, self.roots = tuple(strays), tuple(roots)
        return list(found.values())

    def _belongs(self, process: psutil.Process, me: psutil.Process) -> bool:
        return (
            _has_mark(process, self.mark)
            or (process in self._known and process.is_running())
            or os.getsid(process.pid) == self.pid
            or (self._may_have_lost(process, me) and not self._doubts(process))
        )

    def _may_have_lost(self, process: psutil.Process, me: psutil.Process) -> bool:
        """Return whether a process is adopted, younger than the child, and of unknown origin."""
        if self not in self._claimants:
            return False
        if process.ppid() != me.pid or start_of(process) < self._started:
            return False
        if os.getsid(process.pid) == os.getsid(0):
            return False
        try:
            environment = process.environ()
        except psutil.AccessDenied:
            return True
        # Between fork and exec a child of ours still has our own environment.
        return MARK not in environment and environment != me.environ()

    def _doubts(self, process: psutil.Process) -> bool:
        """Return whether another child may have started a process of unknown origin."""
        if self.loads:
            return False
        # Process 1 also adopts processes that a user starts in its container.
        others = (one for one in tuple(self._claimants) if one is not self)
        return os.getpid() == 1 or any(one._started <= start_of(process) for one in others)

    def orphans(self) -> tuple[KnownProcess, ...]:
        """Return running processes adopted when the child ended. Fast enough for the loop."""
        me = psutil.Process()
        found = []
        for pid in child_pids(me.pid):
            with contextlib.suppress(psutil.Error, OSError):
                process = psutil.Process(pid)
                if pid != self.pid and self._belongs(process, me) and _runs(process):
                    found.append(KnownProcess.of(process))
        return tuple(found)

    def end(self, timeout: float) -> KillResult:
        """SIGKILL all descendants and wait until they are gone, at most ``timeout`` seconds."""
        everywhere = not _adopts()
        try:
            return _end_all(lambda: self.look(everywhere=everywhere), timeout)
        finally:
            self._claimants.discard(self)


def sweep(mark: str, known: Iterable[KnownProcess], timeout: float) -> KillResult:
    """Kill every process with the mark ``mark`` or one below it, ``known`` ones, and all below."""
    seen = list(known)
    spared = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}

    def find() -> list[psutil.Process]:
        found = dict.fromkeys(one for one in psutil.process_iter() if _has_mark(one, mark))
        found |= dict.fromkeys(process for one in seen if (process := one.find()) is not None)
        for process in list(found):
            with contextlib.suppress(psutil.Error):
                found |= dict.fromkeys(process.children(recursive=True))
        return [process for process in found if process.pid not in spared]

    return _end_all(find, timeout)


def _below(pid: int, spared: Collection[int]) -> Iterator[psutil.Process]:
    """Yield the descendants of a process, parents first, except those of ``spared``.

    psutil examines every process of the machine for that.
    """
    waiting = deque(child_pids(pid))
    seen = set(spared)
    while waiting:
        if (one := waiting.popleft()) in seen:
            continue
        seen.add(one)
        with contextlib.suppress(psutil.Error):
            yield psutil.Process(one)
            waiting += child_pids(one)


def _has_mark(process: psutil.Process, mark: str) -> bool:
    try:
        found = process.environ().get(MARK, "")
    except (psutil.Error, OSError):
        return False
    return (found == mark or found.startswith(f"{mark}/")) and not found.endswith(f"/{GUARD}")


def _end_all(find: Callable[[], list[psutil.Process]], timeout: float) -> KillResult:
    """Kill the processes that ``find`` returns until it returns none: they may be forking."""
    deadline = time.monotonic() + timeout
    ended: dict[psutil.Process, KnownProcess] = {}
    denied: set[psutil.Process] = set()
    while True:
        killed = []
        for process in find():
            if process in denied or not _runs(process):
                continue
            with contextlib.suppress(psutil.NoSuchProcess):
                ended[process] = KnownProcess.of(process)
                try:
                    process.kill()
                except psutil.AccessDenied:
                    denied.add(process)
                else:
                    killed.append(process)
        _, left = psutil.wait_procs(killed, max(0.0, deadline - time.monotonic()))
        if left or not killed or time.monotonic() >= deadline:
            return KillResult(
                tuple(ended.values()), tuple(ended[process] for process in (*denied, *left))
            )


def in_words(processes: Iterable[KnownProcess]) -> str:
    """Return names and pids as text for a log."""
    return ", ".join(f"{process.name} (pid {process.pid})" for process in processes)


def _runs(process: psutil.Process) -> bool:
    """Return whether a process still runs. A child of ours that has exited is reaped."""
    try:
        if process.status() != psutil.STATUS_ZOMBIE:
            return True
        if process.ppid() == os.getpid():
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process.pid, os.WNOHANG)
    except psutil.NoSuchProcess:
        pass
    return False


def _main(mark: str, *known: str) -> None:
    words = (word.partition(":") for word in known)
    sweep(
        mark, [KnownProcess(int(pid), float(started)) for pid, _, started in words], _SWEEP_TIMEOUT
    )


if __name__ == "__main__":
    _main(*sys.argv[1:])
