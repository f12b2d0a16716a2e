"""Read a response's body in blocks, while more of it arrives."""

from __future__ import annotations

import asyncio
import zlib
from collections import deque
from collections.abc import Sequence
from typing import Final, Protocol, cast

import aiohttp
from aiohttp import hdrs

from cyber_inference_tui.hub.block_writer import MAX_BLOCKS

ENOUGH: Final = 256 * 1024
"""Bytes that make a block worth hashing and writing."""
_BLOCK: Final = 2 << 20
"""Bytes that may arrive while earlier ones are written."""


class Body(Protocol):
    """A body to read: call ``wait`` and ``take`` alternately."""

    async def wait(self) -> bool:
        """Wait for a block or the rest of the body, and return whether there is anything to take.

        Raises ``TimeoutError`` if no byte arrived for too long, ``aiohttp.ClientError`` and
        ``OSError``. The bytes that arrived before an error can still be taken.
        """
        ...

    def take(self) -> Sequence[bytes | memoryview]:
        """Return the bytes that have arrived; ``MAX_BLOCKS`` more takes reuse their memory."""
        ...


def body_of(answer: aiohttp.ClientResponse, stall_timeout: float) -> Body:
    """Return the fast reader if the body's length is known, else aiohttp's."""
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
    # This also stops aiohttp's read timeout.
    connection.protocol.pause_reading()
    return _DirectBody(connection.transport, early, left, stall_timeout)


class _AiohttpBody:
    """Reads through aiohttp, which gives many small pieces and copies each twice."""

    def __init__(self, content: aiohttp.StreamReader, early: Sequence[bytes] = ()) -> None:
        self._content = content
        self._bytes_here = list(early)
        self._size = sum(map(len, early))

    async def wait(self) -> bool:
        while self._size < ENOUGH:
            # Every other method of the reader joins and copies the pieces.
            data, boundary = await self._content.readchunk()
            if not data and not boundary:
                break
            self._bytes_here.append(data)
            self._size += len(data)
        return self._size > 0

    def take(self) -> Sequence[bytes]:
        here, self._bytes_here, self._size = self._bytes_here, [], 0
        return here


class _DirectBody(asyncio.BufferedProtocol):
    """Reads from the connection into blocks of its own, after aiohttp has parsed the head.

    aiohttp learns of the connection's end and closes it: the connection is not used again.
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
        self._spare_blocks = deque(memoryview(bytearray(size)) for _ in range(MAX_BLOCKS))
        self._filled = 0
        self._last_byte_at = self._loop.time()
        self._lost: aiohttp.ClientPayloadError | None = None
        self._waiter: asyncio.Future[None] | None = None
        # uvloop chooses how to read when reading starts.
        transport.pause_reading()
        transport.set_protocol(self)
        transport.resume_reading()

    async def wait(self) -> bool:
        while not self._enough:
            if self._lost is not None:
                raise self._lost
            self._waiter = self._loop.create_future()
            try:
                async with asyncio.timeout_at(self._last_byte_at + self._stall_timeout):
                    await self._waiter
            except TimeoutError:
                if self._loop.time() >= self._last_byte_at + self._stall_timeout:
                    raise
            finally:
                self._waiter = None
        return bool(self._early or self._filled)

    def take(self) -> Sequence[bytes | memoryview]:
        here: list[bytes | memoryview] = [*self._early, self._block[: self._filled]]
        self._spare_blocks.append(self._block)
        self._block = self._spare_blocks.popleft()
        self._early, self._filled = [], 0
        self._last_byte_at = self._loop.time()
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
        self._last_byte_at = self._loop.time()
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
    """Decompresses ``body``: some servers send gzip whatever the request accepts."""

    def __init__(self, body: Body) -> None:
        self._body = body
        self._gzip = zlib.decompressobj(wbits=31)
        self._packed = b""
        self._bytes_here = b""

    async def wait(self) -> bool:
        """Wait for bytes; see ``Body.wait``."""
        while not self._bytes_here:
            try:
                self._bytes_here = self._gzip.decompress(self._packed, _BLOCK)
            except zlib.error as error:
                raise aiohttp.ClientPayloadError("the body is not valid gzip") from error
            self._packed = self._gzip.unconsumed_tail or self._gzip.unused_data
            if self._gzip.eof and self._packed:
                # A gzip file may have several members:
                # https://www.rfc-editor.org/rfc/rfc1952#section-2.2
                self._gzip = zlib.decompressobj(wbits=31)
            elif not self._bytes_here and not self._packed:
                if not await self._body.wait():
                    if not self._gzip.eof:
                        raise aiohttp.ClientPayloadError("the gzip body ended too early")
                    return False
                self._packed = b"".join(self._body.take())
        return True

    def take(self) -> Sequence[bytes]:
        """Return the decompressed bytes; see ``Body.take``."""
        here, self._bytes_here = self._bytes_here, b""
        return [here] if here else []
