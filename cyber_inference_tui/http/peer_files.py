"""Sends model files of this box to other boxes."""

from __future__ import annotations

import asyncio
import os
import re
import select
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from aiohttp import hdrs, web

from cyber_inference_tui.errors import FileNotReadyError, NotFoundError
from cyber_inference_tui.http.access import is_box
from cyber_inference_tui.http.json_io import NOSNIFF
from cyber_inference_tui.http.query import read_query
from cyber_inference_tui.records.queries import FileQuery

if TYPE_CHECKING:
    from cyber_inference_tui.service.service import Service

T = TypeVar("T")

AT_ONCE = 3
"""Files that are sent at the same time: those that one download takes at once."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_BLOCK = 1 << 20
"""Bytes that are read and then encrypted at once."""
_STEP = 16 << 20
"""Bytes that ``sendfile`` sends before the key is checked again, at most."""
_STEP_SECONDS = 1.0
_STALL_SECONDS = 60.0
"""Seconds without a byte after which the other box counts as gone."""


class PeerFiles:
    """The handler of ``GET /peers/files/{sha256}``."""

    def __init__(self, service: Service) -> None:
        self._service = service
        # Threads of its own: a disk that hangs holds up nothing else.
        self._executor = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="send")
        self._sending = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Send a file or the part that ``Range`` names (RFC 9110, 14)."""
        sha256 = request.match_info["sha256"]
        if not _SHA256.fullmatch(sha256):
            raise NotFoundError("That is no SHA-256.")
        size = read_query(FileQuery, request.query).size
        path = await self._service.shared_files.find(sha256, size)
        if self._sending >= AT_ONCE:
            raise FileNotReadyError(f"This box sends {self._sending} files already.")
        tag = f'"{sha256}"'
        headers = {
            hdrs.ETAG: tag,
            hdrs.ACCEPT_RANGES: "bytes",
            hdrs.CONTENT_TYPE: "application/octet-stream",
            **NOSNIFF,
        }
        status, start, stop = 200, 0, size
        if hdrs.RANGE in request.headers and request.headers.get(hdrs.IF_RANGE, tag) == tag:
            try:
                start, stop, _ = request.http_range.indices(size)
            except ValueError:
                start = size
            if start >= size:
                headers[hdrs.CONTENT_RANGE] = f"bytes */{size}"
                return web.Response(status=416, headers=headers)
            status = 206
            headers[hdrs.CONTENT_RANGE] = f"bytes {start}-{stop - 1}/{size}"
        response = web.StreamResponse(status=status, headers=headers)
        response.content_length = stop - start
        if request.method == "HEAD":
            await response.prepare(request)
            return response
        self._sending += 1
        try:
            await self._send(request, response, path, start, stop)
        finally:
            self._sending -= 1
        return response

    async def _send(
        self,
        request: web.Request,
        response: web.StreamResponse,
        path: Path,
        start: int,
        stop: int,
    ) -> None:
        try:
            file = await self._in_thread(partial(path.open, "rb", buffering=0))
        except OSError as error:
            raise NotFoundError("The file cannot be read now.") from error
        with file:
            try:
                step = await self._begin(request, response, file.fileno())
                loop = asyncio.get_running_loop()
                moved_at = loop.time()
                while start < stop:
                    sent = await step(start, stop)
                    start += sent
                    now = loop.time()
                    moved_at = now if sent else moved_at
                    if now - moved_at >= _STALL_SECONDS or not is_box(request):
                        raise ConnectionAbortedError("the other box does not read, or is removed")
            except OSError:
                # In the middle of an answer, only an early end can show the error.
                if request.transport is not None:
                    request.transport.abort()
                raise ConnectionAbortedError from None

    async def _begin(
        self, request: web.Request, response: web.StreamResponse, file: int
    ) -> Callable[[int, int], Awaitable[int]]:
        """Send the head. Return a function that sends some of the bytes from ``start`` to ``stop``
        and returns how many."""
        transport = request.transport
        if transport is None:
            raise ConnectionAbortedError

        # The threads have descriptors of their own: they may outlive the request.
        async def encrypted(start: int, stop: int) -> int:
            stop = min(stop, start + _BLOCK)
            data = await self._in_thread(partial(_read, os.dup(file), start, stop))
            async with asyncio.timeout(_STALL_SECONDS):
                await response.write(data)
            return len(data)

        async def plain(start: int, stop: int) -> int:
            wire = os.dup(transport.get_extra_info("socket").fileno())
            stop = min(stop, start + _STEP)
            return await self._in_thread(partial(_send, wire, os.dup(file), start, stop))

        if transport.get_extra_info("ssl_object") is not None:
            # The other box reads one block while the next is read and encrypted.
            transport.set_write_buffer_limits(4 * _BLOCK, _BLOCK)
            await response.prepare(request)
            return encrypted
        # The head has to leave the transport before the kernel sends the file behind it.
        transport.set_write_buffer_limits(0)
        writer = await response.prepare(request)
        if writer is not None:
            async with asyncio.timeout(_STALL_SECONDS):
                await writer.drain()
        return plain

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Run ``work``, which blocks; raises ``TimeoutError`` if its disk hangs."""
        async with asyncio.timeout(_STALL_SECONDS):
            return await asyncio.get_running_loop().run_in_executor(self._executor, work)


def _read(file: int, start: int, stop: int) -> bytes:
    """Read a part of the file that ``file`` refers to, and close it. Raises ``OSError``."""
    try:
        data = os.pread(file, stop - start, start)
    finally:
        os.close(file)
    if not data:
        raise OSError("the file has become shorter")
    return data


def _send(wire: int, file: int, start: int, stop: int) -> int:
    """Send bytes over a socket that does not block, for a second at most; return how many.

    Closes both descriptors. Raises ``OSError``.
    """
    begun = start
    poll = select.poll()
    poll.register(wire, select.POLLOUT)
    until = time.monotonic() + _STEP_SECONDS
    try:
        while start < stop and (left := until - time.monotonic()) > 0:
            try:
                sent = os.sendfile(wire, file, start, stop - start)
            except BlockingIOError:
                poll.poll(left * 1000)
                continue
            if not sent:
                raise OSError("the file has become shorter")
            start += sent
    finally:
        os.close(wire)
        os.close(file)
    return start - begun
