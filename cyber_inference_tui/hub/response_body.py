"""The body of an answer: bytes that are taken in blocks, while more of them come."""

from __future__ import annotations

import asyncio
import zlib
from collections import deque
from collections.abc import Sequence
from typing import Final, Protocol, cast

import aiohttp
from aiohttp import hdrs

from cyber_inference_tui.hub.block_writer import AT_ONCE

ENOUGH: Final = 256 * 1024
"""Bytes that are worth being hashed and written."""
_BLOCK: Final = 2 << 20
"""Bytes that may come while what was taken before is written."""


class Body(Protocol):
    """Use ``wait`` and ``take`` in turns."""

    async def wait(self) -> bool:
        """Until there is enough to take, or the rest; whether there is anything.

        Raises ``TimeoutError`` if no byte came for too long, ``aiohttp.ClientError`` and
        ``OSError``. What came before can be taken all the same.
        """
        ...

    def take(self) -> Sequence[bytes | memoryview]:
        """What is here. Its memory is used again by the take after the next ``AT_ONCE``."""
        ...


def body_of(answer: aiohttp.ClientResponse, stall_timeout: float) -> Body:
    """The fast way where the length is known, over TLS and proxies, too; else aiohttp's."""
    connection = answer.connection
    if (
        answer.content_length is None
        or hdrs.TRANSFER_ENCODING in answer.headers
        or answer.content.is_eof()
        or connection is None
        or connection.transport is None
        or connection.protocol is None
    ):
        return _AiohttpBody(answer.content)
    early = []
    while data := answer.content.read_nowait():
        early.append(data)
    if answer.content.is_eof():
        return _AiohttpBody(answer.content, early)
    left = answer.content_length - answer.content.total_bytes
    # Stops its clock as well.
    connection.protocol.pause_reading()
    return _DirectBody(connection.transport, early, left, stall_timeout)


class _AiohttpBody:
    """As aiohttp hands it on, in many small pieces, each copied twice."""

    def __init__(self, content: aiohttp.StreamReader, early: Sequence[bytes] = ()) -> None:
        self._content = content
        self._here = list(early)
        self._size = sum(map(len, early))

    async def wait(self) -> bool:
        while self._size < ENOUGH:
            # As it came: any other way of reading joins and copies.
            data, boundary = await self._content.readchunk()
            if not data and not boundary:
                break
            self._here.append(data)
            self._size += len(data)
        return self._size > 0

    def take(self) -> Sequence[bytes]:
        here, self._here, self._size = self._here, [], 0
        return here


class _DirectBody(asyncio.BufferedProtocol):
    """Has the connection read into blocks of its own, past aiohttp, which has read the head.

    aiohttp hears of the end of the connection, and closes it: it is not used again.
    """

    def __init__(
        self, transport: asyncio.Transport, early: list[bytes], left: int, stall_timeout: float
    ) -> None:
        self._transport = transport
        self._former = cast("asyncio.Protocol", transport.get_protocol())
        self._loop = asyncio.get_running_loop()
        self._early = early
        self._left = left
        self._stall_timeout = stall_timeout
        size = min(_BLOCK, left)
        self._block = memoryview(bytearray(size))
        self._others = deque(memoryview(bytearray(size)) for _ in range(AT_ONCE))
        self._filled = 0
        self._heard_at = self._loop.time()
        self._lost: aiohttp.ClientPayloadError | None = None
        self._waiter: asyncio.Future[None] | None = None
        # uvloop chooses the way to read when it begins to.
        transport.pause_reading()
        transport.set_protocol(self)
        transport.resume_reading()

    async def wait(self) -> bool:
        while not self._enough:
            if self._lost is not None:
                raise self._lost
            self._waiter = self._loop.create_future()
            try:
                async with asyncio.timeout_at(self._heard_at + self._stall_timeout):
                    await self._waiter
            except TimeoutError:
                if self._loop.time() >= self._heard_at + self._stall_timeout:
                    raise
            finally:
                self._waiter = None
        return bool(self._early or self._filled)

    def take(self) -> Sequence[bytes | memoryview]:
        here: list[bytes | memoryview] = [*self._early, self._block[: self._filled]]
        self._others.append(self._block)
        self._block = self._others.popleft()
        self._early, self._filled = [], 0
        self._heard_at = self._loop.time()
        if self._left and not self._transport.is_closing():
            self._transport.resume_reading()
        return here

    @property
    def _enough(self) -> bool:
        return self._filled >= ENOUGH or bool(self._early) or not self._left

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._block[self._filled : self._filled + self._left]

    def buffer_updated(self, nbytes: int) -> None:
        self._filled += nbytes
        self._left -= nbytes
        self._heard_at = self._loop.time()
        if not self._left or self._filled == len(self._block):
            self._transport.pause_reading()
        if self._enough:
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = aiohttp.ClientPayloadError("the connection has ended")
        self._lost.__cause__ = exc
        self._wake()
        self._former.connection_lost(exc)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class GzipBody:
    """The body that ``body`` is, packed by gzip; some servers pack whatever was asked for."""

    def __init__(self, body: Body) -> None:
        self._body = body
        self._gzip = zlib.decompressobj(wbits=31)
        self._packed = b""
        self._here = b""

    async def wait(self) -> bool:
        """As ``Body`` has it."""
        while not self._here:
            try:
                self._here = self._gzip.decompress(self._packed, _BLOCK)
            except zlib.error as error:
                raise aiohttp.ClientPayloadError("it is not packed as it says") from error
            self._packed = self._gzip.unconsumed_tail or self._gzip.unused_data
            if self._gzip.eof and self._packed:
                # https://www.rfc-editor.org/rfc/rfc1952#section-2.2: several members in a row.
                self._gzip = zlib.decompressobj(wbits=31)
            elif not self._here and not self._packed:
                if not await self._body.wait():
                    if not self._gzip.eof:
                        raise aiohttp.ClientPayloadError("the packed body has ended too early")
                    return False
                self._packed = b"".join(self._body.take())
        return True

    def take(self) -> Sequence[bytes]:
        """As ``Body`` has it."""
        here, self._here = self._here, b""
        return [here] if here else []
