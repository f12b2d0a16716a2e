"""What a subprocess writes and how it ends, with all its descendants, handed to its owner."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from typing import Protocol, cast

import psutil

from cyber_inference_tui.llama.descendants import Family, KillResult, KnownProcess, signal_group

KILL_TIMEOUT = 10.0
"""Seconds that a process has to be gone after SIGKILL."""
_LAST_OUTPUT_SECONDS = 1.0

_logger = logging.getLogger(__name__)


class ProcessOwner(Protocol):
    """Who owns a subprocess."""

    def started(self, output: PipeProtocol) -> None:
        """It runs."""

    def received(self, fd: int, data: bytes) -> None:
        """Output has come, on 1 or 2."""

    def left(self) -> None:
        """The process itself is gone; its descendants may not be."""

    def ended(self, returncode: int, descendants: KillResult) -> None:
        """It and its descendants are gone and its pipes are drained.

        A negative ``returncode`` = that signal ended it. ``descendants`` are those that it left
        behind, and those of them that cannot be ended.
        """


class PipeProtocol(asyncio.SubprocessProtocol):
    """Hands a subprocess's output and end to its ``listener``, and ends what it leaves behind.

    ``mark`` is the one in the subprocess's environment.
    """

    def __init__(self, listener: ProcessOwner, mark: str) -> None:
        self._listener = listener
        self._mark = mark
        self._drained = False
        self._orphans: tuple[KnownProcess, ...] = ()
        self._clearing: asyncio.Task[KillResult] | None = None
        self.transport: asyncio.SubprocessTransport
        self.family: Family

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It runs (called by asyncio, as all below)."""
        self.transport = cast("asyncio.SubprocessTransport", transport)
        self.family = Family(self.transport.get_pid(), self._mark)
        self._listener.started(self)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Pass its output on."""
        self._listener.received(fd, data)

    def process_exited(self) -> None:
        """A grandchild may hold the pipes open for ever; the last output gets a moment."""
        self._listener.left()
        if self._clearing is None:
            # At once: what is left may end by itself before its output is drained.
            with contextlib.suppress(OSError, psutil.Error):
                self._orphans = self.family.orphans()
        asyncio.get_running_loop().call_later(_LAST_OUTPUT_SECONDS, self._drain)

    def connection_lost(self, exc: Exception | None) -> None:
        """It has ended, and its pipes are drained."""
        self._drain()

    def clear(self) -> asyncio.Task[KillResult]:
        """End its descendants. Only for a process that is gone."""
        if self._clearing is None:
            self._clearing = asyncio.ensure_future(self._end_descendants())
        return self._clearing

    async def _end_descendants(self) -> KillResult:
        try:
            ended = await asyncio.to_thread(self.family.end, KILL_TIMEOUT)
            return KillResult(tuple(dict.fromkeys((*self._orphans, *ended.found))), ended.left)
        except Exception:
            # No descriptor is left, or a defect of ours: its owner must not be kept waiting.
            _logger.exception("what process %d started cannot be looked for", self.family.pid)
            signal_group(self.family.pid, signal.SIGKILL)
            return KillResult()

    def _drain(self) -> None:
        if self._drained:
            return
        self._drained = True
        returncode = self.transport.get_returncode()
        self.transport.close()
        code = -signal.SIGKILL if returncode is None else returncode

        def over(clearing: asyncio.Task[KillResult]) -> None:
            self._listener.ended(code, KillResult() if clearing.cancelled() else clearing.result())

        self.clear().add_done_callback(over)
