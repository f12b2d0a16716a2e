"""Requests, and the reader of their answers, which checks them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any, NamedTuple, cast


class Request(NamedTuple):
    """A request, and the text that the body of its answer must contain."""

    data: bytes
    expected: bytes
    mark: bytes = b"data: "
    """The text that is once in each event of a stream."""


def request(path: str, body: dict[str, Any] | None = None, expected: bytes = b"") -> Request:
    """Return an HTTP/1.1 request: ``POST`` with a body, else ``GET``."""
    return Request(request_bytes(path, body), expected)


def request_bytes(path: str, body: dict[str, Any] | None = None) -> bytes:
    """Return the bytes of such a request."""
    if body is None:
        return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    data = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


def _nothing() -> None:
    pass


class AnswerReader(asyncio.Protocol):
    """Reads one answer after the other; ``ended`` is called at the end of each.

    ``fault`` is why there is no whole answer. ``first`` is the moment of the first event, and
    ``events`` their number; ``body`` is kept of answers without events.
    """

    def __init__(self, ended: Callable[[], None]) -> None:
        self._ended = ended
        self.transport: asyncio.Transport | None = None
        self.used = False
        self.fault: Exception | None = None
        self._busy = False

    def ask(self, asked: Request) -> None:
        """Send a request."""
        self._busy = True
        self._mark = asked.mark
        self._head = b""
        self._length: int | None = None
        self._tail = b""
        self.first = 0.0
        self.status = self.events = 0
        self.body = b""
        if self.transport is None:
            raise ConnectionError("closed before a request")
        self.transport.write(asked.data)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self._busy:
            if self.status and self._until_close and exc is None:
                self._end()
            else:
                self.fault = exc or ConnectionError("closed before the end of an answer")
                self._ended()

    def close(self) -> None:
        """Close the connection at once."""
        self._ended = _nothing
        if self.transport is not None:
            self.transport.abort()

    @property
    def unanswered(self) -> bool:
        """Whether a used connection was closed before any byte of an answer came."""
        return self.fault is not None and self.used and not self._head

    def data_received(self, data: bytes) -> None:
        if not self._busy:
            self.fault = ValueError(f"more than one answer: {data[:200]!r}")
            return
        if not self.status:
            self._head += data
            head, end, data = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            self._read_head(head.lower())
        if self._length is None:
            self._read_events(data)
            return
        self.body += data
        if len(self.body) >= self._length:
            self._end()

    def _read_events(self, data: bytes) -> None:
        joined = self._tail + data
        if (found := joined.count(self._mark)) and not self.first:
            self.first = time.perf_counter()
        self.events += found
        self._tail = joined[-len(self._mark) + 1 :]
        if not self.events:
            self.body += data
        if not self._until_close and self._tail.endswith(b"0\r\n\r\n"):
            self._end()

    def _read_head(self, head: bytes) -> None:
        self.status = int(head[9:12])
        length = head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
        self._length = int(length) if length else None
        self._closes = b"\r\nconnection: close" in head
        self._until_close = not length and b"\r\ntransfer-encoding: chunked" not in head

    def _end(self) -> None:
        self._busy, self.used = False, True
        if self._closes and self.transport is not None:
            self.transport.abort()
            self.transport = None
        self._ended()


def check(reader: AnswerReader, asked: Request) -> None:
    """Raise what is wrong with the answer that was read."""
    if reader.fault is not None:
        raise reader.fault
    if reader.status != 200 or (not reader.events and asked.expected not in reader.body):
        raise RuntimeError(f"status {reader.status}: {reader.body[:500]!r}")
