"""Passes the output and the end of a subprocess, and of all its descendants, to its owner."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol, cast

import psutil

from cyber_inference_tui.llama.descendants import (
    MARK,
    Family,
    KillResult,
    KnownProcess,
    signal_group,
)
from cyber_inference_tui.llama.guard import prepare_child
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

    def started(self, output: PipeProtocol) -> None:
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


class PipeProtocol(asyncio.SubprocessProtocol):
    """Passes a subprocess's output and end to ``listener``, and kills its remaining descendants.

    ``mark`` is the mark in the subprocess's environment. Its output comes by our own pipes, because
    those of uvloop are sockets: a socket holds some hundred lines, and counts each as a kilobyte.
    """

    def __init__(self, listener: ProcessOwner, mark: str) -> None:
        self._listener = listener
        self._mark = mark
        self._drained = False
        self._has_left = False
        self._orphans: tuple[KnownProcess, ...] = ()
        self._clearing: asyncio.Task[KillResult] | None = None
        self._pipes: tuple[OutputPipe, ...] = ()
        self.transport: asyncio.SubprocessTransport
        self.family: Family

    @classmethod
    async def spawn(
        cls,
        listener: ProcessOwner,
        argv: Sequence[str],
        environment: Mapping[str, str],
        **options: Any,
    ) -> None:
        """Start a process in a session of its own. Raises ``OSError`` if it cannot be run.

        ``environment`` has its mark; ``options`` are further ones of ``subprocess.Popen``.
        """
        protocol = cls(listener, environment[MARK])
        try:
            for fd in (1, 2):
                received = partial(listener.received, fd)
                protocol._pipes += (OutputPipe(received, protocol._drain_if_over),)
            stdout, stderr = protocol._pipes
            await asyncio.get_running_loop().subprocess_exec(
                lambda: protocol,
                *argv,
                stdout=stdout.write_end,
                stderr=stderr.write_end,
                env=environment,
                start_new_session=True,
                preexec_fn=prepare_child(),
                **options,
            )
        except BaseException:
            for pipe in protocol._pipes:
                pipe.abandon()
            raise
        for pipe in protocol._pipes:
            pipe.start()

    def gather(self) -> None:
        """Read the output in large pieces from now on, some milliseconds late."""
        for pipe in self._pipes:
            pipe.gathers = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Handle the start (called by asyncio, like all methods below)."""
        self.transport = cast("asyncio.SubprocessTransport", transport)
        self.family = Family(self.transport.get_pid(), self._mark)
        self._listener.started(self)

    def process_exited(self) -> None:
        """Wait a moment for the last output: a grandchild may hold the pipes open for ever."""
        self._has_left = True
        for pipe in self._pipes:
            pipe.finish()
        self._listener.left()
        if self._clearing is None:
            # Now: remaining processes may exit before the output is drained.
            with contextlib.suppress(OSError, psutil.Error):
                self._orphans = self.family.orphans()
        asyncio.get_running_loop().call_later(_LAST_OUTPUT_SECONDS, self._drain)
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
        returncode = self.transport.get_returncode()
        self.transport.close()
        code = -signal.SIGKILL if returncode is None else returncode

        def over(clearing: asyncio.Task[KillResult]) -> None:
            self._listener.ended(code, KillResult() if clearing.cancelled() else clearing.result())

        self.clear().add_done_callback(over)
