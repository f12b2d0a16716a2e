"""Connections of clients: the only place that changes aiohttp's own protocol.

- aiohttp answers invalid HTTP in HTML or text, and logs a traceback. Here the client gets an error
  in the usual shape.
- aiohttp waits forever for the rest of a head. Here the connection is closed.
- The body of a refused request is not read, and its connection is closed.
- A target in absolute form becomes a path and a ``Host`` before any check, and a call of the web
  page's becomes one of the API.
- The number of connections has limits, in all and from one address.
- aiohttp drops a client that closes only its sending side. Here it gets its answer.
- Plain requests to loaded models take the lean path, without aiohttp's objects.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import Awaitable, Callable
from typing import Any, cast

from aiohttp import StreamReader, hdrs, web
from aiohttp.http_parser import RawRequestMessage
from aiohttp.web_protocol import RequestHandler, _ErrInfo
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from cyber_inference_tui.errors import CyberError, TooManyConnectionsError
from cyber_inference_tui.http.connection_limit import ConnectionLimit
from cyber_inference_tui.http.error_responses import (
    MAX_FIELD_BYTES,
    MAX_HEADERS,
    MAX_TARGET_BYTES,
    SERVER_NAME,
    BrokenBodyError,
    error_body,
    error_response,
    from_parser,
    internal_error,
)
from cyber_inference_tui.http.half_closed import HalfClosedConnections
from cyber_inference_tui.http.lean_connection import LeanConnection
from cyber_inference_tui.http.lean_path import LEAN_PATH, LeanPath
from cyber_inference_tui.http.request_id import REQUEST_ID, id_of, new_id
from cyber_inference_tui.http.tls import ServerCertificate, TlsListener
from cyber_inference_tui.http.web_page import as_api_call
from cyber_inference_tui.service.extra_ports import Stop
from cyber_inference_tui.sockets import BACKLOG

HEAD_TIMEOUT = 10.0
"""Seconds for the head of a request, from the connection or the first byte on."""

_LINGER = 2.0
"""Seconds for which a client's further bytes are read and dropped after its last answer."""
_ABSOLUTE = re.compile(r"https?://([^/?#]*)([^#]*)(?:#.*)?", re.IGNORECASE | re.DOTALL)

_logger = logging.getLogger(__name__)


def in_origin_form(message: RawRequestMessage) -> RawRequestMessage:
    """Turn a request for ``http://host/path`` into one for ``/path`` with ``Host: host``.

    The host in the target replaces the ``Host`` header (RFC 9112, 3.2.2). Other targets do not
    change.
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
    """A response that ends a connection whose client may still be sending.

    If the connection were closed with unread bytes, it would be reset, and the client might never
    see this response (RFC 9112, 9.6).
    """

    async def write_eof(self, data: bytes = b"") -> None:
        """Send the response, close the sending side, and wait a moment for the client."""
        transport = self._req.transport if self._req is not None else None
        await super().write_eof(data)
        if transport is not None:
            if transport.can_write_eof():
                transport.write_eof()
            # aiohttp cancels this when the client is gone.
            await asyncio.sleep(_LINGER)


def refusal(request: web.Request, error: CyberError) -> web.Response:
    """Return the answer to a refused request. The rest of its body is neither read nor unpacked."""
    if not request.can_read_body and not isinstance(error, BrokenBodyError):
        return error_response(error, request.path)
    cast("LeanConnection", request.protocol).drop_rest()
    return _last_response(error, request.path)


def _last_response(error: CyberError, path: str) -> web.Response:
    response = error_response(error, path, kind=_LastResponse)
    response.force_close()
    return response


class _ClientConnection(LeanConnection):
    """A client's connection."""

    __slots__ = ("_body", "_head_timer", "_in_head")

    _manager: _LimitedServer | None

    def __init__(self, server: _LimitedServer, **kwargs: Any) -> None:
        super().__init__(server, server.lean, **kwargs)
        self._body: StreamReader | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        self._in_head = False
        """Whether a part of a head has come, to a connection that was idle."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start to wait for the first request, with a time limit."""
        super().connection_made(transport)
        error = cast("_LimitedServer", self._manager).limit.add(self)
        if error is not None:
            cast("asyncio.Transport", transport).write(_refusal(error))
            self.force_close()
            return
        self._limit_head(self._close_if_silent)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection."""
        self._end_head()
        if self._manager is not None:
            self._manager.limit.remove(self)
            self._manager.half_closed.discard(self)
        super().connection_lost(exc)

    def _feed(self, data: bytes) -> None:
        """Let aiohttp take the bytes, and limit the time of a head that has begun."""
        count, was_idle = self._request_count, not self.unanswered and self._is_whole
        super()._feed(data)
        if self._request_count != count:
            self._end_head()
            self._fail_broken_body()
        elif was_idle and data and not self._in_head:
            self._in_head = True
            self._limit_head(self.force_close)

    def _fail_broken_body(self) -> None:
        """Fail a body with wrong framing at once; aiohttp would wait for the rest of it."""
        if self._messages and isinstance(self._messages[-1][0], _ErrInfo):
            for body in self._bodies:
                if not body.is_eof():
                    self._close = True
                    body.set_exception(web.RequestPayloadError("its framing is broken"))

    def _limit_head(self, close: Callable[[], None]) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
        server = cast("_LimitedServer", self._manager)
        self._head_timer = self._loop.call_later(server.head_timeout, close)

    def _end_head(self) -> None:
        self._in_head = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def eof_received(self) -> bool | None:  # type: ignore[override] # as asyncio.Protocol has it
        """Keep the connection (``True``) of a half-closed client that waits for an answer."""
        if self._manager is None or not self.unanswered or not self._is_whole:
            return None
        if self.transport is None or not self.transport.can_write_eof():
            # TLS closes both sides.
            return None
        if not self._manager.half_closed.add(self):
            return None
        if self.is_lean:
            self.end_after_answer()
        elif self.unanswered == 1:
            # This is the last request.
            self.close()
        return True

    def close_if_answered(self) -> None:
        """End the half-closed connection, unless a complete request waits for its answer."""
        if not self.unanswered:
            self.force_close()
        elif not self._is_whole and self.transport is not None:
            self.transport.abort()

    @property
    def _is_whole(self) -> bool:
        """Return whether all bodies are complete, including those of requests answered early."""
        return self._payload_parser is None and all(body.is_eof() for body in self._bodies)

    @property
    def _bodies(self) -> list[StreamReader]:
        bodies = [payload for _, payload in self._messages]
        return bodies if self._body is None else [*bodies, self._body]

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
            self.note_answer()

    def _close_if_silent(self) -> None:
        if not (self.was_used or self.unanswered):
            self.force_close()

    def log_exception(self, *args: Any, **kwargs: Any) -> None:
        """Log a defect. A broken rest of a refused body is not a defect."""
        if not isinstance(kwargs.get("exc_info"), web.RequestPayloadError):
            super().log_exception(*args, **kwargs)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the answer to a request that no handler answered. It ends the connection."""
        if request.writer.output_size > 0 or isinstance(exc, ConnectionError):
            # An answer has started, or the client is gone.
            raise ConnectionAbortedError
        if status >= 500:
            _logger.error("a request failed (%s)", id_of(request).decode(), exc_info=exc)
            problem = internal_error()
        else:
            _logger.debug("not HTTP from %s: %s", request.remote, message)
            problem = from_parser(exc)
        # The following bytes cannot be split into requests, so they are dropped.
        self._close = True
        response = _last_response(problem, request.path)
        # aiohttp assumes HTTP/1.0 for an invalid request, and would leave this header out.
        response.headers[hdrs.CONNECTION] = "close"
        response.headers[hdrs.SERVER] = SERVER_NAME
        response.headers[REQUEST_ID] = id_of(request).decode()
        return response


class _LimitedServer(web.Server):
    """Creates the connections within limits."""

    head_timeout = HEAD_TIMEOUT
    lean: LeanPath | None = None
    limit: ConnectionLimit

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.half_closed = HalfClosedConnections()
        """The connections whose clients send no more."""

    def __call__(self) -> RequestHandler:
        return _ClientConnection(self, loop=self._loop, **self._kwargs)


def _refusal(error: TooManyConnectionsError) -> bytes:
    body = error_body(error, "/")
    return (
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n"
        b"Content-Length: %d\r\nConnection: close\r\nX-Request-Id: %b\r\n\r\n%b"
    ) % (len(body), new_id(), body)


class Runner(web.AppRunner):
    """A ``web.AppRunner`` with the connections of this module.

    ``head_timeout`` is in seconds. ``most_connections`` and ``most_of_one`` are those of
    ``ConnectionLimit``. The other parameters are those of ``web.AppRunner``.
    """

    __slots__ = ("_head_timeout", "_most_connections", "_most_of_one")

    def __init__(
        self,
        app: web.Application,
        *,
        head_timeout: float = HEAD_TIMEOUT,
        most_connections: int | None = None,
        most_of_one: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            app,
            # ``read_body`` decompresses bodies, with our own errors.
            auto_decompress=False,
            max_line_size=MAX_TARGET_BYTES,
            max_field_size=MAX_FIELD_BYTES,
            max_headers=MAX_HEADERS,
            **kwargs,
        )
        self._head_timeout = head_timeout
        self._most_connections = most_connections
        self._most_of_one = most_of_one

    async def accept(
        self, listener: socket.socket, certificate: ServerCertificate | None = None
    ) -> Stop:
        """Accept connections on a listening socket, with TLS if there is a ``certificate``.

        Call it after ``setup``. The result stops accepting; running answers continue.
        """
        if certificate is not None:
            return TlsListener(listener, certificate.context, cast("web.Server", self.server)).stop
        site = web.SockSite(self, listener, backlog=BACKLOG)
        await site.start()
        return site.stop

    async def _make_server(self) -> web.Server:
        plain = await super()._make_server()
        make_request = plain.request_factory

        def make(message: RawRequestMessage, *rest: Any) -> web.BaseRequest:
            return make_request(as_api_call(in_origin_form(message)), *rest)

        server = _LimitedServer(
            plain.request_handler,
            request_factory=make,
            handler_cancellation=plain.handler_cancellation,
            loop=asyncio.get_running_loop(),
            **plain._kwargs,
        )
        server.head_timeout = self._head_timeout
        server.limit = ConnectionLimit(
            self._most_connections, self._most_of_one, asyncio.get_running_loop().time
        )
        server.lean = self.app.get(LEAN_PATH)
        return server
