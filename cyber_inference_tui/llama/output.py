"""What a subprocess writes and how it ends, handed to its owner."""

from __future__ import annotations

import asyncio
import signal
from typing import Protocol, cast

_LAST_OUTPUT_SECONDS = 1.0


class Listener(Protocol):
    """Who owns a subprocess."""

    def received(self, fd: int, data: bytes) -> None:
        """Output has come, on 1 or 2."""

    def ended(self, returncode: int) -> None:
        """It is gone and its pipes are drained; negative = that signal ended it."""


class Output(asyncio.SubprocessProtocol):
    """Hands a subprocess's output and end to its ``listener``."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._transport: asyncio.SubprocessTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It runs (called by asyncio, as all below)."""
        self._transport = cast("asyncio.SubprocessTransport", transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Pass its output on."""
        self._listener.received(fd, data)

    def process_exited(self) -> None:
        """A grandchild may hold the pipes open for ever; the last output gets a moment."""
        asyncio.get_running_loop().call_later(_LAST_OUTPUT_SECONDS, self._finish)

    def connection_lost(self, exc: Exception | None) -> None:
        """It has ended, and its pipes are drained."""
        self._finish()

    def _finish(self) -> None:
        if self._transport is None:
            return
        transport, self._transport = self._transport, None
        returncode = transport.get_returncode()
        transport.close()
        self._listener.ended(-signal.SIGKILL if returncode is None else returncode)
