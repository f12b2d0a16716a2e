"""Raw connections to the models' servers, reused for one exchange at a time.

llama-server (cpp-httplib) closes a connection after 100 requests and after 5 s without a request,
and each open connection occupies one of its threads. So only a few idle connections are kept, for a
shorter time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import cast

from cyber_inference_tui.http.framing import (
    MAX_HEAD_BYTES,
    BadResponseError,
    BodyScanner,
    ResponseHead,
    parse_head,
)

_IDLE_SECONDS = 4.0
_MAX_IDLE = 4
_MAX_USES = 90
_CONNECT_TIMEOUT = 10.0

Sink = Callable[[bytes], bool]
"""Takes bytes of a body. Returns ``False`` to pause until the client has read enough."""


class UpstreamLostError(Exception):
    """The connection ended before the response; ``untouched`` means before its first byte."""

    def __init__(self, *, untouched: bool) -> None:
        super().__init__("the connection to the model's server was lost")
        self.untouched = untouched


class Exchange:
    """A request and its response on a connection."""

    def __init__(self, connection: UpstreamConnection, method: str) -> None:
        loop = asyncio.get_running_loop()
        self._connection = connection
        self._method = method
        self._buffer = b""
        self._head: asyncio.Future[ResponseHead] = loop.create_future()
        self._keep_alive = False
        self._scanner: BodyScanner | None = None
        self._sink: Sink | None = None
        self._wake: asyncio.Future[None] | None = None
        self._error: Exception | None = None
        self._touched = False
        self.has_new_bytes = False
        """Whether bytes have arrived since the last ``take_new_bytes``."""
        self.paused = False
        """Whether reading is paused, because the client is slower than the server."""

    async def head(self) -> ResponseHead:
        """Wait for the response's head. Raises ``UpstreamLostError`` or ``BadResponseError``.

        The body stays unread until ``copy``.
        """
        return await self._head

    async def copy(
        self, scanner: BodyScanner, sink: Sink, drain: Callable[[], Awaitable[None]]
    ) -> None:
        """Pass the body to ``sink`` as it arrives, until its end.

        If the sink asks for a pause, ``drain`` is awaited before more is read. Raises
        ``UpstreamLostError``, ``BadResponseError`` and the errors of ``drain``.
        """
        self._scanner = scanner
        self._sink = sink
        rest, self._buffer = self._buffer, b""
        if rest:
            self._pass_on(rest)
        self._connection.resume_reading()
        while not scanner.done and self._error is None:
            if self.paused:
                await drain()
                # The server could not send before, so its time limit starts now.
                self.paused, self.has_new_bytes = False, True
                self._connection.resume_reading()
            else:
                self._wake = asyncio.get_running_loop().create_future()
                await self._wake
        if not scanner.done and self._error is not None:
            raise self._error

    def finish(self) -> None:
        """End the exchange. Keep the connection if it can serve another, otherwise close it."""
        # After an error, such as excess bytes, the next bytes may not be the next answer.
        complete = self._scanner is not None and self._scanner.done and self._error is None
        self._connection.exchange_over(reusable=complete and self._keep_alive)

    def received(self, data: bytes) -> None:
        """Take bytes from the server (called by the connection)."""
        self.has_new_bytes = True
        if self._sink is not None:
            self._pass_on(data)
            return
        self._buffer += data
        if not self._head.done():
            self._take_head()
        if self._head.done():
            self._connection.pause_reading()

    def take_new_bytes(self) -> bool:
        """Return whether bytes have arrived since the last call."""
        heard, self.has_new_bytes = self.has_new_bytes, False
        self._touched = self._touched or heard
        return heard

    def fail(self, error: Exception) -> None:
        """End the exchange: the waiting caller gets ``error``."""
        if not self._head.done():
            self._head.set_exception(error)
            # Mark it as retrieved, because the caller may be gone.
            self._head.exception()
        self._error = self._error or error
        self._wake_up()

    def _take_head(self) -> None:
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            try:
                head = parse_head(self._buffer[:end], self._method)
            except BadResponseError as error:
                self._head.set_exception(error)
                return
            self._buffer = self._buffer[end + 4 :]
            if head.status >= 200:
                self._keep_alive = head.keep_alive
                self._head.set_result(head)
                return
            # 100 Continue and other interim answers are not for the client.
        if len(self._buffer) > MAX_HEAD_BYTES:
            self._head.set_exception(BadResponseError("it sent an endless head"))

    def _pass_on(self, data: bytes) -> None:
        if self._scanner is None or self._sink is None or self._error is not None:
            return
        try:
            data = self._scanner.feed(data)
        except BadResponseError as error:
            self._error = error
            self._wake_up()
            return
        if data and not self._sink(data):
            self.paused = True
            self._connection.pause_reading()
            self._wake_up()
        if self._scanner.done:
            self._wake_up()

    def lost(self, reset: bool) -> None:
        """Note the end of the connection (called by the connection)."""
        if self._scanner is not None:
            self._scanner.ended(reset)
        self.fail(UpstreamLostError(untouched=not (self.has_new_bytes or self._touched)))

    def _wake_up(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)


class UpstreamConnection(asyncio.Protocol):
    """A TCP connection to a model's server."""

    def __init__(self, pool: ConnectionPool, port: int) -> None:
        self._pool = pool
        self._port = port
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._uses = 0
        self._idle_timer: asyncio.TimerHandle | None = None
        self._reading = True

    @property
    def reused(self) -> bool:
        """Return whether it has served a request before the current one."""
        return self._uses > 1

    @property
    def usable(self) -> bool:
        """Return whether a request can be sent now."""
        return self._transport is not None and not self._transport.is_closing()

    def begin(self, method: str, head: bytes, body: bytes) -> Exchange:
        """Send a request."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        self._uses += 1
        exchange = self._exchange = Exchange(self, method)
        if self._transport is None:
            exchange.lost(reset=True)
            return exchange
        if len(body) < 16_384:
            self._transport.write(head + body)
        else:
            self._transport.writelines((head, body))
        return exchange

    def exchange_over(self, *, reusable: bool) -> None:
        """Keep the connection for the next exchange, or close it."""
        self._exchange = None
        if self._transport is None:
            return
        if reusable and self._uses < _MAX_USES and self.usable and self._pool.keep(self):
            self.resume_reading()
            loop = asyncio.get_running_loop()
            self._idle_timer = loop.call_later(_IDLE_SECONDS, self.close)
        else:
            # Not close(): that would first send the rest of a large request body. The server must
            # notice at once that nobody reads its answer.
            self._transport.abort()

    def close(self) -> None:
        """Close the idle connection."""
        self._pool.forget(self)
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        if self._transport is not None:
            self._transport.close()

    @property
    def port(self) -> int:
        """The server's port."""
        return self._port

    def pause_reading(self) -> None:
        """Stop reading, because the client is slower."""
        if self._reading and self.usable and self._transport is not None:
            self._reading = False
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Continue to read."""
        if not self._reading and self.usable and self._transport is not None:
            self._reading = True
            self._transport.resume_reading()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        if self._exchange is not None:
            self._exchange.received(data)
        else:
            # Unexpected bytes: the next answer could not be trusted.
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        self._transport = None
        self._pool.forget(self)
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        if self._exchange is not None:
            self._exchange.lost(reset=exc is not None)


class ConnectionPool:
    """A few idle connections for each port, the most recently used first."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._idle: dict[int, deque[UpstreamConnection]] = {}

    async def connect(self, port: int, *, fresh: bool = False) -> UpstreamConnection:
        """Return a connection to the server on ``port``, with ``fresh`` a new connection.

        Raises ``OSError`` (also ``TimeoutError``) if it cannot connect.
        """
        idle = self._idle.get(port)
        while idle and not fresh:
            connection = idle.pop()
            if connection.usable:
                return connection
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(_CONNECT_TIMEOUT):
            _, connection = await loop.create_connection(
                lambda: UpstreamConnection(self, port), self._host, port
            )
        return connection

    def keep(self, connection: UpstreamConnection) -> bool:
        """Keep a connection for the next request; return ``False`` if there are enough."""
        idle = self._idle.setdefault(connection.port, deque())
        if len(idle) >= _MAX_IDLE:
            return False
        idle.append(connection)
        return True

    def forget(self, connection: UpstreamConnection) -> None:
        """Remove a connection that is closed or about to be."""
        idle = self._idle.get(connection.port)
        if idle is not None and connection in idle:
            idle.remove(connection)
            if not idle:
                del self._idle[connection.port]

    def close(self) -> None:
        """Close all idle connections."""
        for connection in [one for idle in self._idle.values() for one in idle]:
            connection.close()
