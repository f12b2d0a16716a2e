"""The processes that descend from a child of ours, wherever they went.

A server is often a script. What it starts may leave its process group and its session, or lose its
parent on purpose (a daemon). It is found all the same, by any of these:

* its parents: on Linux this process is a child subreaper (``prctl(2)``), so a process whose parent
  ends becomes our child and not init's;
* its session, as long as it stays in that of its server;
* ``MARK``, an environment variable that children inherit;
* what was seen of it before: a process stays known by its pid and start time.

Functions that look at processes block: call them in a thread.
``python -m cyber_inference_tui.llama.descendants MARK [PID:STARTED …]`` ends what is left of a
service that was killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple

import psutil

from cyber_inference_tui.kernel import child_pids, find_prctl

MARK = "CYBER_CHILD_OF"
"""The variable that marks our children. Its value is ``DIRECTORY/RUN`` for a run of the service on
a data directory, with ``/ID`` appended for one child and all below it."""
GUARD = "guard"
"""The ``/ID`` of a guard, which is to outlive its service for a moment."""

_PR_SET_CHILD_SUBREAPER = 36
_PR_GET_CHILD_SUBREAPER = 37
_SAME_START = 2.0
"""Seconds. On Linux a start time is exact; elsewhere the time of the boot is in whole seconds. That
a pid comes round again so fast does not happen."""
_SWEEP_TIMEOUT = 20.0


def start_of(process: psutil.Process) -> float:
    """When the process started, in seconds since the machine did; raises ``psutil.Error``.

    The time of day would change with a clock that is set.
    """
    return process.create_time() - psutil.boot_time()


class KnownProcess(NamedTuple):
    """A process that was seen: its pid, when it started (``start_of``), its program's name."""

    pid: int
    started: float
    name: str = ""

    @classmethod
    def of(cls, process: psutil.Process) -> KnownProcess:
        """What to know of ``process``; raises ``psutil.NoSuchProcess``."""
        return cls(process.pid, start_of(process), process.name())

    def find(self) -> psutil.Process | None:
        """That very process, if it is still there; not another one with its pid."""
        try:
            process = psutil.Process(self.pid)
            same = abs(start_of(process) - self.started) <= _SAME_START
        except (psutil.Error, OSError):
            return None
        return process if same else None


class KillResult(NamedTuple):
    """What came of an attempt to end processes."""

    found: tuple[KnownProcess, ...] = ()
    """Those that were running."""
    left: tuple[KnownProcess, ...] = ()
    """Those that did not die: they hang in the kernel, or belong to another user."""


def run_mark(data_dir: Path) -> str:
    """A mark for one run of the service on ``data_dir``."""
    run = secrets.token_hex(4)
    try:
        # Not the path: in a container another directory may have the same one.
        status = data_dir.stat()
    except OSError:
        return f"{secrets.token_hex(8)}/{run}"
    return f"{status.st_dev:x}.{status.st_ino:x}/{run}"


def directory_mark(mark: str) -> str:
    """The part of a mark that all runs on its data directory share."""
    return mark.partition("/")[0]


def marked(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for one more child, with a mark of its own below that of its parent."""
    mark = f"{environment.get(MARK, '')}/{secrets.token_hex(4)}"
    return {**environment, MARK: mark}


def signal_group(group: int, number: signal.Signals) -> None:
    """Send a signal to a process group, if it still exists."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def adopt_orphans() -> None:
    """Become the parent of descendants whose parent ends; nothing where there is no ``prctl``."""
    if (prctl := find_prctl()) is not None:
        prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _adopts() -> bool:
    found = ctypes.c_int()
    prctl = find_prctl()
    if prctl is None or prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(found), 0, 0, 0) != 0:
        return False
    return bool(found.value)


def reap(before: frozenset[psutil.Process]) -> frozenset[psutil.Process]:
    """Wait for adopted children that have ended; returns the children that have ended now.

    ``before`` is what the last call returned. Nobody else waits for what it holds: whoever starts
    a child here waits for it as soon as it ends.
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
    """A child of ours and all that descends from it. ``mark`` is the one it was started with.

    Between ``claim`` and ``end`` it is also where adopted processes may come from that tell nothing
    of their origin.
    """

    _claimants: ClassVar[set[Family]] = set()

    def __init__(self, pid: int, mark: str) -> None:
        self.pid = pid
        self.mark = mark
        self.strays: tuple[KnownProcess, ...] = ()
        """Descendants without the mark, and adopted processes that may be some, as of the last
        ``look``: after our end, nobody could tell whose they are."""
        self.roots: tuple[int, ...] = (pid,)
        """The child, and descendants that do not have it above them any more."""
        self.loads = False
        """Whether the child is still at its start, when most scripts start what they start."""
        self._started = time.time() - psutil.boot_time()
        with contextlib.suppress(psutil.Error):
            self._started = start_of(psutil.Process(pid))
        self._known: dict[psutil.Process, None] = {}

    def claim(self) -> None:
        """From now on take an adopted process of unknown origin for a descendant, if it is younger
        than the child, and the child loads or nobody else can have started it."""
        self.loads = True
        self._claimants.add(self)

    def look(self, *, everywhere: bool = False) -> list[psutil.Process]:
        """Its descendants now, without the child itself.

        With ``everywhere`` the marks of all processes are read: without a subreaper, descendants
        may be below init.
        """
        me = psutil.Process()
        candidates = dict.fromkeys([*me.children(recursive=True), *self._known])
        if everywhere:
            candidates |= dict.fromkeys(one for one in psutil.process_iter() if one != me)
        found: dict[int, psutil.Process] = {}
        strays, roots = [], [self.pid]
        # A parent stands before its children.
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
        """Whether it is adopted, younger than the child, and tells nothing of where it is from."""
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
        # Between its fork and its program a child of ours still has our own environment.
        return MARK not in environment and environment != me.environ()

    def _doubts(self, process: psutil.Process) -> bool:
        """Whether somebody else may have started a process of unknown origin."""
        if self.loads:
            return False
        # Process 1 adopts what a person starts in its container, too.
        others = (one for one in tuple(self._claimants) if one is not self)
        return os.getpid() == 1 or any(one._started <= start_of(process) for one in others)

    def orphans(self) -> tuple[KnownProcess, ...]:
        """Those that run on and were adopted when the child ended. Quick enough for the loop."""
        me = psutil.Process()
        found = []
        for pid in child_pids(me.pid):
            with contextlib.suppress(psutil.Error, OSError):
                process = psutil.Process(pid)
                if pid != self.pid and self._belongs(process, me) and _runs(process):
                    found.append(KnownProcess.of(process))
        return tuple(found)

    def end(self, timeout: float) -> KillResult:
        """SIGKILL to all descendants; returns when they are gone, at most after ``timeout`` s."""
        everywhere = not _adopts()
        try:
            return _end_all(lambda: self.look(everywhere=everywhere), timeout)
        finally:
            self._claimants.discard(self)


def sweep(mark: str, known: Iterable[KnownProcess], timeout: float) -> KillResult:
    """End every process whose mark is ``mark`` or below it, those ``known``, and all below them."""
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


def _has_mark(process: psutil.Process, mark: str) -> bool:
    try:
        found = process.environ().get(MARK, "")
    except (psutil.Error, OSError):
        return False
    return (found == mark or found.startswith(f"{mark}/")) and not found.endswith(f"/{GUARD}")


def _end_all(find: Callable[[], list[psutil.Process]], timeout: float) -> KillResult:
    """Kill what ``find`` finds, again and again until it finds nothing: they may be forking."""
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
    """Names and pids, for a log."""
    return ", ".join(f"{process.name} (pid {process.pid})" for process in processes)


def _runs(process: psutil.Process) -> bool:
    """Whether it has not ended. One that has, and is our child, is waited for."""
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
