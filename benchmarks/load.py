"""The load generator: raw asyncio connections, so that it costs little beside what it measures."""

from __future__ import annotations

import asyncio
import json
import random
import time
from typing import Any, cast


def request_bytes(path: str, body: dict[str, Any] | None = None) -> bytes:
    """A whole HTTP/1.1 request; ``POST`` with a body, else ``GET``."""
    if body is None:
        return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    data = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


class _Reader(asyncio.Protocol):
    """Collects one answer; ``done`` is its end, ``first`` the moment of the first content."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self.done: asyncio.Future[None] = loop.create_future()
        self.first = 0.0
        self.status = 0
        self.chunks = 0
        self.data = b""
        self.total = -1
        self.until_close = False
        self.tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.done.done():
            return
        if self.until_close and exc is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(exc or ConnectionError("closed in the middle of an answer"))

    def expect(self) -> None:
        self.done = asyncio.get_running_loop().create_future()
        self.first, self.status, self.chunks, self.data, self.total = 0.0, 0, 0, b"", -1
        self.until_close = False
        self.tail = b""

    def data_received(self, data: bytes) -> None:
        if not self.status:
            self.data += data
            end = self.data.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self.data[:end].lower()
            self.status = int(head.split(b" ", 2)[1])
            at = head.find(b"content-length:")
            if at >= 0:
                self.total = end + 4 + int(head[at + 15 :].split(b"\r\n", 1)[0])
            self.until_close = self.total < 0 and b"transfer-encoding: chunked" not in head
            data = self.data[end + 4 :]
        elif self.total >= 0:
            self.data += data
        if self.total >= 0:
            if len(self.data) >= self.total and not self.done.done():
                self.done.set_result(None)
            return
        # Not an exact count (an event may lie across two reads), but the end is checked.
        self.chunks += data.count(b"data: ")
        if not self.first and b"data: " in data:
            self.first = time.perf_counter()
        self.tail = (self.tail + data)[-5:] if len(data) < 5 else data[-5:]
        if self.tail == b"0\r\n\r\n" and not self.done.done():
            self.done.set_result(None)


class Connection:
    """One keep-alive connection."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._reader: _Reader | None = None

    async def ask(self, request: bytes, limit: float = 120.0) -> tuple[int, float, float, int]:
        """``(status, seconds to the first event, seconds in all, events)`` of one request."""
        loop = asyncio.get_running_loop()
        reader = self._reader
        if reader is None or reader.transport is None or reader.transport.is_closing():
            _, reader = await loop.create_connection(_Reader, *self._address)
            self._reader = reader
        reader.expect()
        began = time.perf_counter()
        assert reader.transport is not None
        reader.transport.write(request)
        async with asyncio.timeout(limit):
            await reader.done
        ended = time.perf_counter()
        first = (reader.first or ended) - began
        return reader.status, first, ended - began, reader.chunks

    @property
    def body(self) -> bytes:
        """The last answer, where it came with a length."""
        return self._reader.data if self._reader else b""

    def close(self) -> None:
        if self._reader is not None and self._reader.transport is not None:
            self._reader.transport.abort()
        self._reader = None


async def streams(port: int, request: bytes, count: int) -> int:
    """``count`` streams at once; the events that came. Raises when one fails."""
    connections = [Connection("127.0.0.1", port) for _ in range(count)]

    async def one(number: int, connection: Connection) -> int:
        await asyncio.sleep(number * 0.0007)  # out of step, as real ones are
        status, _, _, events = await connection.ask(request)
        if status != 200:
            raise RuntimeError(f"status {status}")
        return events

    try:
        return sum(await asyncio.gather(*(one(n, c) for n, c in enumerate(connections))))
    finally:
        for connection in connections:
            connection.close()


async def latencies(
    targets: dict[str, tuple[int, bytes]], rounds: int, pause: float
) -> dict[str, list[float]]:
    """Seconds per request for each target (port, request), on one connection each.

    In every round each target is asked once, in an order that changes; ``pause`` seconds before
    each request let the last one's aftermath end; with 0 they follow back to back.
    """
    order = random.Random(1)
    connections = {name: Connection("127.0.0.1", port) for name, (port, _) in targets.items()}
    taken: dict[str, list[float]] = {name: [] for name in targets}
    names = list(targets)
    for number in range(rounds + 50):
        order.shuffle(names)
        for name in names:
            if pause:
                await asyncio.sleep(pause)
            try:
                status, _, seconds, _ = await connections[name].ask(targets[name][1])
            except ConnectionError as error:
                # llama-server closes a connection after 100 requests; asked again at once, that
                # may be seen only now. Its router does the same; nobody else is excused.
                if name not in {"direct", "router"}:
                    raise ConnectionError(f"{name}: {error}") from error
                continue
            if status != 200:
                raise RuntimeError(f"{name}: status {status}: {connections[name].body[-500:]!r}")
            if number >= 50:
                taken[name].append(seconds)
    for connection in connections.values():
        connection.close()
    return taken
