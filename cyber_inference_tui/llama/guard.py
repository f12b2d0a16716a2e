"""A shell process that kills our servers when the service is gone: the last guard against orphans.

On Linux a server dies with the service (PR_SET_PDEATHSIG), but its own children may not. macOS has
no such signal: there the guard kills the servers, too. It reads the process groups to watch from a
pipe. When the pipe closes, however the service died, the guard kills the remaining groups and then
runs ``llama.descendants``, which kills processes that had left their group.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from cyber_inference_tui.descriptors import LIMITS_AT_START
from cyber_inference_tui.kernel import PROC, Ruleset, find_prctl
from cyber_inference_tui.llama import descendants
from cyber_inference_tui.llama.descendants import GUARD, MARK, KnownProcess
from cyber_inference_tui.llama.failure import describe_exit

MODEL_UMASK = 0o077
"""The umask of programs that work with a model: their files are private."""

_PR_SET_PDEATHSIG = 1
_OOM_SCORE = Path("/proc/self/oom_score_adj")
_OOM_RAISE = 200
_OOM_MOST = 1000
# A dump of a server contains prompts and keys. One byte is too few for any file, and the kernel
# takes this number as a sign to start no program for dumps, either (fs/coredump.c).
_CORE_BYTES = 0 if resource.getrlimit(resource.RLIMIT_CORE)[1] == 0 else 1
_LIMITS = {
    resource.RLIMIT_NOFILE: LIMITS_AT_START,
    resource.RLIMIT_CORE: (_CORE_BYTES, _CORE_BYTES),
}
_RESTART_PAUSE_MOST = 60.0
_STARTER_LIMIT = 5.0

# "kill -KILL -- -N" fails in dash, which is /bin/sh in Debian: "-s" is portable.
GUARD_SCRIPT = """
trap '' INT TERM HUP
groups=' ' known='' ended=''
while read -r what which; do
  case "$what" in
    add) groups="$groups$which " ;;
    del)
      case "$groups" in
        *" $which "*) groups="${groups%%" $which "*} ${groups#*" $which "}" ;;
      esac ;;
    known) known="$which" ;;
    end) ended=1 ;;
  esac
done
for group in $groups; do kill -s KILL -- "-$group" 2>/dev/null; done
[ -n "$ended" ] || [ "$#" -eq 0 ] || exec "$@" $known
exit 0
"""

_logger = logging.getLogger(__name__)


class ProcessGuard:
    """Owns the guard process: ``start``, ``add`` and ``remove`` process groups, ``stop``.

    ``mark`` is the mark of all children of this run of the service. A guard that was killed is
    replaced.
    """

    def __init__(self, mark: str | None = None) -> None:
        self._mark = mark
        self._process: Process | None = None
        self._groups: dict[int, None] = {}
        self._known: tuple[KnownProcess, ...] = ()
        self._keeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the guard in a session of its own, so that no terminal signal reaches it."""
        process = await self._spawn()
        if process is not None:
            self._keeper = asyncio.create_task(self._keep(process), name="keep a guard")

    async def _spawn(self) -> Process | None:
        sweep: list[str] = []
        environment = {"PATH": os.defpath}
        if self._mark is not None and sys.executable:
            sweep = [sys.executable, "-P", "-m", descendants.__name__, self._mark]
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
            environment[MARK] = f"{self._mark}/{GUARD}"
        try:
            process = self._process = await asyncio.create_subprocess_exec(
                *("/bin/sh", "-c", GUARD_SCRIPT, "guard"),
                *sweep,
                stdin=PIPE,
                stdout=DEVNULL,
                stderr=DEVNULL,
                cwd="/",
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            _logger.warning(
                "no guard ends the servers if this service is killed: cannot run /bin/sh: %s",
                error.strerror,
            )
            return None
        for group in self._groups:
            self._write(f"add {group}")
        self._write_known()
        return process

    async def _keep(self, process: Process) -> None:
        pause = 0.0
        while True:
            code = await process.wait()
            self._process = None
            _logger.warning(
                "the guard (pid %d) that ends the servers if this service is killed %s:"
                " starting another",
                process.pid,
                describe_exit(code),
            )
            # If it cannot be started now, perhaps for want of memory, then later.
            started = None
            while started is None:
                await asyncio.sleep(pause)
                pause = min(_RESTART_PAUSE_MOST, 2 * pause + 1)
                started = await self._spawn()
            process = started

    def add(self, group: int) -> None:
        """Watch a process group."""
        self._groups[group] = None
        self._write(f"add {group}")

    def remove(self, group: int) -> None:
        """Stop watching a group whose processes are gone: its number may be used again."""
        self._groups.pop(group, None)
        self._write(f"del {group}")

    def set_known(self, known: Iterable[KnownProcess]) -> None:
        """Set the processes that have neither a watched group nor a mark."""
        if (new := tuple(known)) != self._known:
            self._known = new
            self._write_known()

    def _write_known(self) -> None:
        self._write(f"known {' '.join(f'{pid}:{started}' for pid, started, _ in self._known)}")

    def _write(self, line: str) -> None:
        if self._process is None or self._process.stdin is None:
            return
        if not self._process.stdin.is_closing():
            self._process.stdin.write(f"{line}\n".encode())

    async def stop(self, timeout: float = 5.0) -> None:
        """Close the pipe; the guard kills the groups that are still listed and exits."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})
        self._write("end")
        process, self._process = self._process, None
        if process is None or process.stdin is None:
            return
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), timeout)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def find_starter(path: str | None) -> tuple[str, ...]:
    """Return the beginning of a command line that has the kernel kill the program with its parent.

    It is setpriv(1) of util-linux 2.33 or later, looked up in ``path``, a ``PATH``. Empty = it is
    not there. Blocks.
    """
    if find_prctl() is None or (program := shutil.which("setpriv", path=path)) is None:
        return ()
    starter = (program, "--pdeathsig", "KILL", "--")
    try:
        done = subprocess.run(
            [*starter, "true"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_STARTER_LIMIT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return starter if done.returncode == 0 else ()


def start_child(
    argv: Sequence[str],
    *,
    starter: Sequence[str] = (),
    ruleset: Ruleset | None = None,
    ended: Callable[[], None] = lambda: None,
    **options: Any,
) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own that dies with this process. Raises ``OSError``.

    The kernel kills the child when this process dies, and rather than this process when memory runs
    out. The child gets the limit of open files that this process started with, and leaves no dump
    of its memory. The first two exist on Linux only (prctl(2), proc_pid_oom_score_adj(5)).

    The request to be killed must come from the child itself. To run code there before its program,
    this process has to be copied, which takes a tenth of the time in which a small model loads. A
    ``starter`` (``find_starter``) does it without a copy, but cannot explain why the program does
    not run, so a program that is not there is started without. If this process dies before it has
    asked, the guard finds the child by its mark. ``options`` are further ones of
    ``subprocess.Popen``.

    A thread of its own starts the child, and calls ``ended`` at its end. A ``ruleset`` confines
    this thread and the child; it does nothing else, because Python may load modules at any time.
    The thread waits because the kernel kills the child when the thread that started it ends.
    """
    started: SimpleQueue[subprocess.Popen[bytes] | Exception] = SimpleQueue()

    def run() -> None:
        try:
            if ruleset is not None:
                ruleset.enter()
            process = _spawn(argv, starter, options)
        except Exception as error:  # noqa: BLE001 - the caller gets it
            started.put(error)
            return
        started.put(process)
        process.wait()
        ended()

    try:
        threading.Thread(target=run, name="run a child", daemon=True).start()
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, "no thread can be started") from error
    if isinstance(process := started.get(), Exception):
        raise process
    # A confined thread may not do this.
    _set_limits(process.pid)
    return process


def _spawn(
    argv: Sequence[str], starter: Sequence[str], options: dict[str, Any]
) -> subprocess.Popen[bytes]:
    options["start_new_session"] = True
    if not starter or not os.access(argv[0], os.X_OK):
        return subprocess.Popen(argv, preexec_fn=_prepare_child(), **options)  # noqa: PLW1509 - it takes no lock
    return subprocess.Popen([*starter, *argv], **options)


def _set_limits(pid: int) -> None:
    """Set the limits of a child that has just been started, and its rank when memory runs out."""
    if (prlimit := getattr(resource, "prlimit", None)) is not None:
        for limit, values in _LIMITS.items():
            with contextlib.suppress(OSError):
                prlimit(pid, limit, values)
    with contextlib.suppress(OSError):
        (PROC / str(pid) / "oom_score_adj").write_bytes(_oom_score())


def _prepare_child() -> Callable[[], None]:
    """Return the function that a copy of this process runs before its program.

    The parent may have died between fork and prctl, so the child checks that.
    """
    prctl = find_prctl()
    parent = os.getpid()
    score = _oom_score()

    def prepare() -> None:
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        for limit, values in _LIMITS.items():
            resource.setrlimit(limit, values)
        if os.getppid() != parent:
            os._exit(1)
        if not score:
            return
        with contextlib.suppress(OSError):
            os.write(os.open(_OOM_SCORE, os.O_WRONLY | os.O_CLOEXEC), score)

    return prepare


def _oom_score() -> bytes:
    """Return the ``oom_score_adj`` of children; empty on systems without it."""
    with contextlib.suppress(OSError, ValueError):
        return b"%d" % min(_OOM_MOST, int(_OOM_SCORE.read_bytes()) + _OOM_RAISE)
    return b""
