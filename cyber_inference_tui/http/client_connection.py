"""The one place where aiohttp's own protocol is bent.

A request that is no HTTP never reaches an application: aiohttp answers it by itself, in HTML or
text, and logs a traceback for what is the client's mistake. Here it gets our error shape. A
connection on which no whole request ever arrives, which aiohttp keeps for good, is closed. A target
in absolute form becomes a path and a ``Host`` before anything looks at it. There are never more
connections than the limit of open files allows. And a client that closes its sending side only,
which aiohttp takes for one that left, gets its answer.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any, cast

from aiohttp import StreamReader, hdrs, web
from aiohttp.http_parser import RawRequestMessage
from aiohttp.web_protocol import RequestHandler
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from cyber_inference_tui.errors import TooManyConnectionsError
from cyber_inference_tui.http.error_responses import (
    MAX_FIELD_BYTES,
    MAX_HEADERS,
    MAX_TARGET_BYTES,
    error_body,
    error_response,
    from_parser,
    internal_error,
)
from cyber_inference_tui.http.peer import clients_gone

HALF_CLOSED_INTERVAL = 0.5
"""Seconds between two looks at clients that send no more: whether they still read."""
_HALF_CLOSED_PAUSE = 0.1
"""Seconds between two looks where many leave at once: a look reads a list of all sockets."""
HEAD_TIMEOUT = 60.0
"""Seconds a new connection has for the head of its first request."""

_LINGER = 2.0
"""Seconds in which what a client still sends is read and dropped, after its last answer."""
_WARNING_INTERVAL = 60.0
_ABSOLUTE = re.compile(r"https?://([^/?#]*)([^#]*)(?:#.*)?", re.IGNORECASE | re.DOTALL)

_logger = logging.getLogger(__name__)


def in_origin_form(message: RawRequestMessage) -> RawRequestMessage:
    """A request for ``http://host/path`` as one for ``/path`` whose ``Host`` is ``host``.

    The name in the target counts, whatever ``Host`` says (RFC 9112, 3.2.2). Any other target is
    left as it is.
    """
    absolute = _ABSOLUTE.fullmatch(message.path)
    if absolute is None:
        return message
    host, path = absolute.groups()
    path = path if path.startswith("/") else f"/{path}"
    plain, _, query = path.partition("?")
    headers = CIMultiDict(message.headers)
    headers[hdrs.HOST] = host
    raw_headers = [one for one in message.raw_headers if one[0].lower() != b"host"]
    raw_headers.append((b"Host", host.encode("utf-8", "surrogateescape")))
    return message._replace(
        path=path,
        url=URL.build(path=plain, query_string=query, encoded=True),
        headers=CIMultiDictProxy(headers),
        raw_headers=tuple(raw_headers),
    )


class _LastResponse(web.Response):
    """Ends a connection whose client may still be sending.

    Closed at once, with bytes unread, the connection would be reset, and the client might never
    see this answer (RFC 9112, 9.6).
    """

    async def write_eof(self, data: bytes = b"") -> None:
        """Send the answer and our end of the connection; wait a moment for the client's."""
        transport = self._req.transport if self._req is not None else None
        await super().write_eof(data)
        if transport is not None and transport.can_write_eof():
            transport.write_eof()
            # Cancelled when the client is gone.
            await asyncio.sleep(_LINGER)


class _ClientConnection(RequestHandler):
    """A client's connection."""

    __slots__ = ("_answered", "_body", "_head_timer")

    _manager: _LimitedServer | None

    def __init__(self, server: _LimitedServer, **kwargs: Any) -> None:
        super().__init__(server, **kwargs)
        self._answered = 0
        self._body: StreamReader | None = None
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for a request, not for ever."""
        super().connection_made(transport)
        server = cast("_LimitedServer", self._manager)
        if not server.make_room():
            cast("asyncio.Transport", transport).write(_refusal())
            self.force_close()
            return
        server.idle[self] = None
        self._head_timer = self._loop.call_later(server.head_timeout, self._close_if_silent)

    def connection_lost(self, exc: BaseException | None) -> None:
        """The client left, or was sent away."""
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        if self._manager is not None:
            self._manager.idle.pop(self, None)
            self._manager.half_closed.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """With its whole head here a request is begun: its connection is in use."""
        super().data_received(data)
        if self._messages and self._manager is not None:
            self._manager.idle.pop(self, None)

    def eof_received(self) -> bool | None:  # type: ignore[override] # as asyncio.Protocol has it
        """The client sends no more: keep the connection (``True``) if it waits for an answer."""
        unanswered = self._request_count - self._answered
        if self._manager is None or not unanswered or not self._is_whole:
            return None
        if not self._manager.half_closed.add(self):
            return None
        if unanswered == 1:
            # No other request comes behind this one.
            self.close()
        return True

    def close_if_answered(self) -> None:
        """The client sends no more: end the connection unless there is a whole request."""
        if self._request_count == self._answered:
            self.force_close()
        elif not self._is_whole and self.transport is not None:
            self.transport.abort()

    @property
    def _is_whole(self) -> bool:
        """Whether every body has come to its end, that of a request answered before it included."""
        bodies = [payload for _, payload in self._messages]
        bodies += [] if self._body is None else [self._body]
        return self._payload_parser is None and all(body.is_eof() for body in bodies)

    async def _handle_request(
        self,
        request: web.BaseRequest,
        start_time: float | None,
        request_handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
    ) -> tuple[web.StreamResponse, bool]:
        self._body = request.content
        try:
            return await super()._handle_request(request, start_time, request_handler)
        finally:
            self._answered += 1
            if self._manager is not None and not self._messages and self.transport is not None:
                self._manager.idle[self] = None

    def _close_if_silent(self) -> None:
        if self._request_count == 0:
            self.force_close()

    def log_exception(self, *args: Any, **kwargs: Any) -> None:
        """Log a defect; that the rest of a refused body is broken is none."""
        if not isinstance(kwargs.get("exc_info"), web.RequestPayloadError):
            super().log_exception(*args, **kwargs)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what no handler answered; it ends the connection."""
        if request.writer.output_size > 0 or isinstance(exc, ConnectionError):
            # An answer is under way, or nobody is there to take one.
            raise ConnectionAbortedError
        if status >= 500:
            _logger.error("a request failed", exc_info=exc)
            problem = internal_error()
        else:
            _logger.debug("not HTTP from %s: %s", request.remote, message)
            problem = from_parser(exc)
        # Nothing that follows can be told apart any more: it is dropped as it comes.
        self._close = True
        response = error_response(problem, request.path, kind=_LastResponse)
        response.force_close()
        # aiohttp takes what it could not parse for HTTP/1.0, where this goes without saying.
        response.headers[hdrs.CONNECTION] = "close"
        return response


class _HalfClosedConnections:
    """Connections whose clients send no more, looked at until they are answered or gone."""

    def __init__(self) -> None:
        self._connections: set[_ClientConnection] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._looked_at = float("-inf")

    def add(self, connection: _ClientConnection) -> bool:
        """Look after ``connection``; ``False`` if its client is gone already."""
        now = asyncio.get_running_loop().time()
        transport = connection.transport
        if transport is None:
            return False
        if now >= self._looked_at + _HALF_CLOSED_PAUSE:
            self._looked_at = now
            if clients_gone([transport]):
                return False
        elif self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._connections.add(connection)
        self._look_later(_HALF_CLOSED_PAUSE)
        return True

    def discard(self, connection: _ClientConnection) -> None:
        """It is closed."""
        self._connections.discard(connection)

    def _look_later(self, pause: float = HALF_CLOSED_INTERVAL) -> None:
        if self._timer is None and self._connections:
            self._timer = asyncio.get_running_loop().call_later(pause, self._look)

    def _look(self) -> None:
        self._timer = None
        self._looked_at = asyncio.get_running_loop().time()
        transports = [one.transport for one in self._connections if one.transport is not None]
        for transport in clients_gone(list(transports)):
            cast("asyncio.Transport", transport).abort()
        for connection in list(self._connections):
            connection.close_if_answered()
        self._look_later()


class _LimitedServer(web.Server):
    """Makes such connections, and knows which of them are idle."""

    head_timeout = HEAD_TIMEOUT
    most_connections: int | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.idle: dict[_ClientConnection, None] = {}
        """Those without a request, the one that was used longest ago first."""
        self.half_closed = _HalfClosedConnections()
        """Those whose clients send no more."""
        self._warned: float | None = None

    def make_room(self) -> bool:
        """Whether a new connection, counted already, may stay: an idle one is closed for it."""
        if self.most_connections is None or len(self._connections) <= self.most_connections:
            return True
        for connection in self.idle:
            del self.idle[connection]
            connection.force_close()
            return True
        now = self._loop.time()
        if self._warned is None or now - self._warned >= _WARNING_INTERVAL:
            self._warned = now
            _logger.warning(
                "a client is turned away: all %d connections are in use, and the limit of open"
                " files allows no more",
                self.most_connections,
            )
        return False

    def __call__(self) -> RequestHandler:
        return _ClientConnection(self, loop=self._loop, **self._kwargs)


def _refusal() -> bytes:
    error = TooManyConnectionsError("The service has no connection left.", hint="Try again later.")
    body = error_body(error, "/")
    return (
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n"
        b"Content-Length: %d\r\nConnection: close\r\n\r\n%b"
    ) % (len(body), body)


class Runner(web.AppRunner):
    """``web.AppRunner`` whose connections answer every error in one shape.

    ``head_timeout`` is in seconds. ``most_connections`` may be open at once: those without a
    request make room for new ones, those with one are never cut. All else is as with
    ``web.AppRunner``.
    """

    __slots__ = ("_head_timeout", "_most_connections")

    def __init__(
        self,
        app: web.Application,
        *,
        head_timeout: float = HEAD_TIMEOUT,
        most_connections: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            app,
            # Bodies are unpacked by ``read_body``, in one place and with answers of our own.
            auto_decompress=False,
            max_line_size=MAX_TARGET_BYTES,
            max_field_size=MAX_FIELD_BYTES,
            max_headers=MAX_HEADERS,
            **kwargs,
        )
        self._head_timeout = head_timeout
        self._most_connections = most_connections

    async def _make_server(self) -> web.Server:
        plain = await super()._make_server()
        make_request = plain.request_factory

        def make(message: RawRequestMessage, *rest: Any) -> web.BaseRequest:
            return make_request(in_origin_form(message), *rest)

        server = _LimitedServer(
            plain.request_handler,
            request_factory=make,
            handler_cancellation=plain.handler_cancellation,
            loop=asyncio.get_running_loop(),
            **plain._kwargs,
        )
        server.head_timeout = self._head_timeout
        server.most_connections = self._most_connections
        return server
