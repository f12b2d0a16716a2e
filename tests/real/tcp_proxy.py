"""A TCP proxy between two boxes, with faults: partition, delay, loss, slowness, resets and lies.

Faults of answers are for boxes that talk HTTP without TLS: only then can the proxy tell the stream
of updates from requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from dataclasses import dataclass
from typing import Any, Literal, Self

from tests.waiting import LIMIT

_RESET = struct.pack("ii", 1, 0)
_READ = 256 << 10
_SENT_AGAIN_AFTER = 0.3
"""Seconds until TCP sends a lost piece again, about."""
_HEADS = (b"GET ", b"POST ")


@dataclass(frozen=True)
class Fault:
    """What happens to an answer: after ``after`` bytes of it the connection ends as ``how`` says.

    ``after`` = -1: as soon as the request begins. ``instead`` comes in place of the answer.
    """

    how: Literal["reset", "close", "silence"] = "reset"
    after: int = 0
    instead: bytes = b""


class TcpProxy:
    """Listens on ``host`` and passes everything on to ``target``. Use it as ``with``."""

    def __init__(self, host: str, target: tuple[str, int]) -> None:
        self._target = target
        self.fault: Fault | None = None
        """What happens to every answer but the stream of updates."""
        self.delay = 0.0
        """Seconds that each piece is late, in both directions."""
        self.loss = 0.0
        """The part of the pieces that come late, as TCP sends again what was lost."""
        self.rate = 0.0
        """Bytes a second of answers; 0 = no limit."""
        self.passed = bytearray()
        """All bytes that were passed on, in both directions."""
        self.requests = 0
        """The requests so far, but not those for the stream of updates and for pairing."""
        self._connections: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._open = asyncio.Event()
        self._open.set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._do(asyncio.start_server(self._serve, host, 0, limit=_READ))
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://{host}:{port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(LIMIT)
        self._loop.close()

    def _do(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(LIMIT)

    async def _close(self) -> None:
        self._server.close()
        for one in list(self._connections):
            one.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def part(self) -> None:
        """Pass no byte any more, and close nothing: a partition."""
        self._loop.call_soon_threadsafe(self._open.clear)

    def join(self) -> None:
        """End the partition."""
        self._loop.call_soon_threadsafe(self._open.set)

    def cut(self) -> None:
        """Close all connections at once."""
        self._loop.call_soon_threadsafe(self._cut)

    def _cut(self) -> None:
        for one in self._connections:
            one.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._open.wait()
            await self._pass(reader, writer)
        except (OSError, EOFError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self._connections.discard(task)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(*self._target, limit=_READ)
        sent = 0
        """Bytes of the present answer that were passed on."""
        is_request = False

        async def ask() -> None:
            nonlocal sent, is_request
            while data := await reader.read(_READ):
                await self._hold()
                if data.startswith(_HEADS):
                    is_request, sent = b" /peers/" not in data[:16], 0
                    self.requests += is_request
                if is_request and self.fault is not None and self.fault.after < 0:
                    await self._end(self.fault, writer)
                self.passed += data
                back.write(data)
                await back.drain()

        async def answer() -> None:
            nonlocal sent
            while data := await there.read(_READ):
                await self._hold()
                fault = self.fault if is_request else None
                if fault is not None:
                    data = (fault.instead or data)[: max(0, fault.after - sent)]
                for start in range(0, len(data), 64 if self.rate else _READ):
                    piece = data[start : start + (64 if self.rate else _READ)]
                    self.passed += piece
                    writer.write(piece)
                    if self.rate:
                        await asyncio.sleep(len(piece) / self.rate)
                await writer.drain()
                sent += len(data)
                if fault is not None and (sent >= fault.after or fault.instead):
                    await self._end(fault, writer)

        both = asyncio.create_task(ask()), asyncio.create_task(answer())
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in both:
                one.cancel()
            await asyncio.gather(*both, return_exceptions=True)
            for side in (writer, back):
                with contextlib.suppress(OSError):
                    side.close()

    async def _hold(self) -> None:
        lost = self.loss > 0 and random.random() < self.loss
        if late := self.delay + lost * _SENT_AGAIN_AFTER:
            await asyncio.sleep(late)
        await self._open.wait()

    async def _end(self, fault: Fault, writer: asyncio.StreamWriter) -> None:
        if fault.how == "silence":
            await asyncio.Event().wait()
        if fault.how == "reset":
            connection: socket.socket = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()
        raise EOFError
