"""Server-Sent Events: a parser, and a reader that reconnects.

The format is that of the HTML standard, section "Server-sent events". Only ``\\n`` and ``\\r\\n``
end a line here, because JSON data may contain every other separator.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, aclosing
from typing import TYPE_CHECKING

import msgspec

from cyber_inference_tui.backoff import backoff
from cyber_inference_tui.errors import CyberError, NoServiceError, ShuttingDownError

if TYPE_CHECKING:
    import httpx

MAX_EVENT_BYTES = 8 * 1024 * 1024
FIRST_DELAY = 0.2
LONGEST_DELAY = 5.0


class ServerEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event, or a comment between events."""

    id: int | None = None
    """The sequence number, if the event has one."""
    topic: str = "message"
    data: bytes = b""
    """JSON."""
    comment: str | None = None
    """The text of a comment, which has nothing else; ``None`` for events."""


class EventParser:
    """Turns chunks of bytes, cut anywhere, into events and comments.

    Keeps at most ``limit`` bytes of an unfinished event.
    """

    def __init__(self, *, limit: int = MAX_EVENT_BYTES) -> None:
        self._limit = limit
        self._rest = b""
        self._id: int | None = None
        self._topic = ""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> Iterator[ServerEvent]:
        """Yield the events and comments that ``chunk`` completes.

        Raises ``CyberError`` for an event of more than ``limit`` bytes.
        """
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
        elif not name:
            return ServerEvent(comment=value.decode("utf-8", "replace").strip())
        return None

    def _finish(self) -> ServerEvent | None:
        event = None
        if self._data:
            event = ServerEvent(
                id=self._id, topic=self._topic or "message", data=b"\n".join(self._data)
            )
        self._id, self._topic, self._data, self._size = None, "", [], 0
        return event


async def read_events(response: httpx.Response) -> AsyncGenerator[ServerEvent, None]:
    """Yield the events and comments of an answer as they arrive."""
    parser = EventParser()
    async for chunk in response.aiter_bytes():
        for event in parser.feed(chunk):
            yield event


OpenStream = Callable[[int | None], "AbstractAsyncContextManager[httpx.Response]"]
"""Requests the stream after an event id; raises ``CyberError`` if the service refuses."""


async def follow_events(
    open_stream: OpenStream,
    *,
    after: int | None = None,
    patience: float = 30.0,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    clock: Callable[[], float] = time.monotonic,
    on_lost: Callable[[], None] = lambda: None,
) -> AsyncGenerator[ServerEvent, None]:
    """Yield events without end, over as many connections as needed.

    ``after`` is the id of the last known event; each new connection resumes behind the last event
    seen. If the first connection fails, its error is raised at once. Lost connections are opened
    again, with growing pauses, for ``patience`` seconds; then ``NoServiceError`` is raised.
    ``on_lost`` is called each time a working connection is lost.
    """
    last = after
    failures = 0
    lost_at: float | None = None
    connected = False
    while True:
        problem: CyberError | None = None
        try:
            async with open_stream(last) as response, aclosing(read_events(response)) as events:
                connected = True
                async for event in events:
                    lost_at, failures = None, 0
                    if event.comment is None:
                        last = last if event.id is None else event.id
                        yield event
        except (NoServiceError, ShuttingDownError) as error:
            if not connected:
                raise
            problem = error
        if lost_at is None:
            lost_at = clock()
            on_lost()
        elif clock() - lost_at >= patience:
            raise problem or NoServiceError("The service ends its event stream at once.")
        failures += 1
        await sleep(backoff(FIRST_DELAY, LONGEST_DELAY, failures))
