"""Server-Sent Events as the service sends them: the parser, and a reader that reconnects.

The format is the one of the HTML standard, section "Server-sent events"; only ``\\n`` and
``\\r\\n`` end a line here, because JSON data may hold any other separator.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, aclosing
from typing import TYPE_CHECKING

import msgspec

from cyber_inference_tui.errors import CyberError, NoServiceError, ShuttingDownError

if TYPE_CHECKING:
    import httpx
else:
    from cyber_inference_tui.client.lazy_httpx import httpx

MAX_EVENT_BYTES = 8 * 1024 * 1024
FIRST_DELAY = 0.2
LONGEST_DELAY = 5.0


class ServerEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event: ``id`` is its sequence number (if it has one), ``data`` its JSON."""

    id: int | None = None
    topic: str = "message"
    data: bytes = b""


class EventParser:
    """Turns chunks of bytes, cut anywhere, into events. Memory is bounded by ``limit`` bytes."""

    def __init__(self, *, limit: int = MAX_EVENT_BYTES) -> None:
        self._limit = limit
        self._rest = b""
        self._id: int | None = None
        self._topic = ""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> Iterator[ServerEvent]:
        """The events completed by ``chunk``. Raises ``CyberError`` when one exceeds the limit."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            event = self._line(line.removesuffix(b"\r"))
            if event is not None:
                yield event
        self._check(len(self._rest))

    def _check(self, more: int) -> None:
        if self._size + more > self._limit:
            raise CyberError(f"The service sent an event of more than {self._limit} bytes.")

    def _line(self, line: bytes) -> ServerEvent | None:
        if not line:
            return self._finish()
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._check(len(value))
            self._size += len(value)
            self._data.append(value)
        elif name == b"event":
            self._topic = value.decode("utf-8", "replace")
        elif name == b"id" and value.isdigit() and len(value) < 20:
            self._id = int(value)
        return None  # comments (an empty name) keep the connection alive and say nothing

    def _finish(self) -> ServerEvent | None:
        event = None
        if self._data:
            event = ServerEvent(
                id=self._id, topic=self._topic or "message", data=b"\n".join(self._data)
            )
        self._id, self._topic, self._data, self._size = None, "", [], 0
        return event


OpenStream = Callable[[int | None], "AbstractAsyncContextManager[httpx.Response]"]
"""Asks for the stream after an event id; raises ``CyberError`` for an answer that refuses."""


async def follow_events(
    open_stream: OpenStream,
    *,
    after: int | None = None,
    patience: float = 30.0,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    clock: Callable[[], float] = time.monotonic,
    on_lost: Callable[[], None] = lambda: None,
) -> AsyncGenerator[ServerEvent, None]:
    """Events, without end, over as many connections as it takes.

    ``after`` is the id of the last event already known; each new connection resumes behind the
    last one seen. A first connection that fails raises at once. Later ones are tried again, with
    growing pauses, for ``patience`` seconds; then the ``NoServiceError`` is raised. ``on_lost``
    is called once each time a connection that worked is lost.
    """
    last = after
    delay = FIRST_DELAY
    lost_at: float | None = None
    connected = False
    while True:
        problem: CyberError | None = None
        try:
            async with open_stream(last) as response:
                connected = True
                parser = EventParser()
                async with aclosing(_chunks(response)) as chunks:
                    async for chunk in chunks:
                        lost_at, delay = None, FIRST_DELAY  # bytes arrive: all is well again
                        for event in parser.feed(chunk):
                            last = last if event.id is None else event.id
                            yield event
        except (NoServiceError, ShuttingDownError) as error:
            if not connected:
                raise
            problem = error
        except httpx.TransportError as error:
            problem = NoServiceError(f"The service's event stream broke off: {error}.")
        if lost_at is None:
            lost_at = clock()
            on_lost()
        elif clock() - lost_at >= patience:
            raise problem or NoServiceError("The service ends its event stream at once.")
        await sleep(delay)
        delay = min(delay * 2, LONGEST_DELAY)


async def _chunks(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    async for chunk in response.aiter_bytes():
        yield chunk
