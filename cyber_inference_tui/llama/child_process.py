"""Runs a child, and passes its output and its end, with all its descendants, to its owner."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import psutil

from cyber_inference_tui.kernel import Ruleset
from cyber_inference_tui.llama.descendants import (
    MARK,
    Family,
    KillResult,
    KnownProcess,
    signal_group,
)
from cyber_inference_tui.llama.guard import start_child
from cyber_inference_tui.llama.output_pipe import OutputPipe

KILL_TIMEOUT = 10.0
"""Seconds for a process to disappear after SIGKILL."""
_LAST_OUTPUT_SECONDS = 1.0

_logger = logging.getLogger(__name__)


async def wait_killed(exited: asyncio.Future[int], pid: int) -> int:
    """Wait for the end of a process that was killed; return its exit code.

    Raises ``TimeoutError`` if it survives.
    """
    await asyncio.wait({exited}, timeout=2 * KILL_TIMEOUT)
    if not exited.done():
        raise TimeoutError(f"process {pid} does not die (it hangs in the kernel)")
    return exited.result()


class ProcessOwner(Protocol):
    """The owner of a subprocess."""

    def started(self, child: ChildProcess) -> None:
        """Handle the start of the process."""

    def received(self, fd: int, data: bytes) -> None:
        """Handle output on file descriptor 1 or 2."""

    def left(self) -> None:
        """Handle the exit of the process itself; descendants may still run."""

    def ended(self, returncode: int, descendants: KillResult) -> None:
        """Handle the end of the process, all descendants and all output.

        A negative ``returncode`` is the signal that killed the process. ``descendants`` are the
        processes that it left behind, and those of them that cannot be killed.
        """


class ChildProcess:
    """A child in a session of its own, whose output and end are passed to ``owner``.

    Its remaining descendants are killed. It is started by ``subprocess``, not by the event loop:
    uvloop copies this process for a start, and its pipes are sockets, which hold some hundred lines
    and count each as a kilobyte.
    """

    def __init__(self, owner: ProcessOwner) -> None:
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._drained = False
        self._has_left = False
        self._failed = False
        """It was started, but is not known to its owner."""
        self._orphans: tuple[KnownProcess, ...] = ()
        self._clearing: asyncio.Task[KillResult] | None = None
        self._pipes: tuple[OutputPipe, ...] = ()
        self._process: subprocess.Popen[bytes]
        self.family: Family

    @classmethod
    def spawn(
        cls,
        owner: ProcessOwner,
        argv: Sequence[str],
        environment: Mapping[str, str],
        *,
        starter: Sequence[str] = (),
        with_stdin: bool = False,
        folder: Path | None = None,
        umask: int = -1,
        ruleset: Ruleset | None = None,
    ) -> None:
        """Start a process. Raises ``OSError`` if it cannot be run.

        ``environment`` has its mark, ``starter`` and ``ruleset`` are those of ``start_child``. The
        ``umask`` -1 is that of this process.
        """
        child = cls(owner)
        process: subprocess.Popen[bytes] | None = None
        try:
            for fd in (1, 2):
                received = partial(owner.received, fd)
                child._pipes += (OutputPipe(received, child._drain_if_over),)
            stdout, stderr = child._pipes
            process = child._process = start_child(
                argv,
                starter=starter,
                ruleset=ruleset,
                ended=child._wake,
                stdin=subprocess.PIPE if with_stdin else subprocess.DEVNULL,
                stdout=stdout.write_end,
                stderr=stderr.write_end,
                env=environment,
                cwd=folder,
                bufsize=0,
                umask=umask,
            )
            # It reads files, for which we may have no descriptor.
            child.family = Family(process.pid, environment[MARK])
        except BaseException:
            if process is not None:
                child._failed = True
                signal_group(process.pid, signal.SIGKILL)
                child.close_stdin()
            for pipe in child._pipes:
                pipe.abandon()
            raise
        if (stdin := child._process.stdin) is not None:
            os.set_blocking(stdin.fileno(), False)
        owner.started(child)
        for pipe in child._pipes:
            pipe.start()

    def _wake(self) -> None:
        """Handle the end of the process, in the thread that waited for it."""
        # If the loop is closed, nobody waits any more.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._exited)

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, if it still exists."""
        self._process.send_signal(number)

    def write(self, data: bytes) -> None:
        """Write a few bytes to its stdin, if it still reads them."""
        if (stdin := self._process.stdin) is not None and not stdin.closed:
            with contextlib.suppress(OSError):
                stdin.write(data)

    def close_stdin(self) -> None:
        """Close its stdin."""
        if self._process.stdin is not None:
            self._process.stdin.close()

    def gather(self) -> None:
        """Read the output in large pieces from now on, some milliseconds late."""
        for pipe in self._pipes:
            pipe.gathers = True

    def _exited(self) -> None:
        """Wait a moment for the last output: a grandchild may hold the pipes open for ever."""
        if self._failed:
            return
        self._has_left = True
        for pipe in self._pipes:
            pipe.finish()
        self._owner.left()
        if self._clearing is None:
            # Now: remaining processes may exit before the output is drained.
            with contextlib.suppress(OSError, psutil.Error):
                self._orphans = self.family.orphans()
        self._loop.call_later(_LAST_OUTPUT_SECONDS, self._drain)
        self._drain_if_over()

    def clear(self) -> asyncio.Task[KillResult]:
        """Kill its descendants, once the process itself is gone."""
        if self._clearing is None:
            self._clearing = asyncio.ensure_future(self._end_descendants())
        return self._clearing

    async def _end_descendants(self) -> KillResult:
        try:
            ended = await asyncio.to_thread(self.family.end, KILL_TIMEOUT)
            return KillResult(tuple(dict.fromkeys((*self._orphans, *ended.found))), ended.left)
        except Exception:
            # We have no free descriptor, or a bug: the owner must not wait for ever.
            _logger.exception("cannot look for the descendants of process %d", self.family.pid)
            signal_group(self.family.pid, signal.SIGKILL)
            return KillResult()

    def _drain_if_over(self) -> None:
        if self._has_left and all(pipe.closed for pipe in self._pipes):
            self._drain()

    def _drain(self) -> None:
        if self._drained:
            return
        self._drained = True
        for pipe in self._pipes:
            pipe.close()
        self.close_stdin()

        def over(clearing: asyncio.Task[KillResult]) -> None:
            code = self._process.returncode
            self._owner.ended(code, KillResult() if clearing.cancelled() else clearing.result())

        self.clear().add_done_callback(over)
