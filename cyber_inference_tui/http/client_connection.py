"""Connections of clients: the only place that changes aiohttp's own protocol.

- aiohttp answers invalid HTTP in HTML or text, and logs a traceback. Here the client gets an error
  in the usual shape.
- aiohttp keeps a connection without a complete request forever. Here it is closed.
- A target in absolute form becomes a path and a ``Host`` before any check.
- There are never more connections than the limit of open files allows.
- aiohttp drops a client that closes only its sending side. Here it gets its answer.
- Plain requests to loaded models take the lean path, without aiohttp's objects.
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
from cyber_inference_tui.http.forward import Forwarding
from cyber_inference_tui.http.half_closed import HalfClosedConnections
from cyber_inference_tui.http.lean_path import LEAN_PATH, LeanPath, message_size
from cyber_inference_tui.http.quick_forwarding import QuickForwarding
from cyber_inference_tui.http.request_log import Arrival

HEAD_TIMEOUT = 60.0
"""Seconds in which a new connection must send the head of its first request."""

_EARLY_SECONDS = 1.0
"""Seconds after which aiohttp gets a plain request whose body is not complete."""
_MAX_LATER = 256 << 10
_LINGER = 2.0
"""Seconds for which a client's further bytes are read and dropped after its last answer."""
_WARNING_INTERVAL = 60.0
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
        if transport is not None and transport.can_write_eof():
            transport.write_eof()
            # aiohttp cancels this when the client is gone.
            await asyncio.sleep(_LINGER)


class _ClientConnection(RequestHandler):
    """A client's connection.

    A request that arrives while the connection is idle may take the lean path. As long as it is
    under way, the bytes behind it are kept. If it needs a task, aiohttp gets its bytes after all,
    and the forwarder's handler finds the forwarding that has begun here.
    """

    __slots__ = (
        "_answered",
        "_arrived",
        "_begun",
        "_body",
        "_early",
        "_early_timer",
        "_forwarding",
        "_head_timer",
        "_is_last",
        "_later",
        "_left",
        "_plain",
        "on_writable",
        "remote",
    )

    _manager: _LimitedServer | None

    def __init__(self, server: _LimitedServer, **kwargs: Any) -> None:
        super().__init__(server, **kwargs)
        self._answered = 0
        self._body: StreamReader | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        self._left = 0.0
        """The missing bytes of aiohttp's message; infinite if they are not certain."""
        self._early = b""
        """The beginning of a plain request whose body is not complete."""
        self._early_timer: asyncio.TimerHandle | None = None
        self._arrived: Arrival | None = None
        self._forwarding: QuickForwarding | None = None
        """The forwarding on the lean path."""
        self._plain = b""
        """Its request."""
        self._later = b""
        """The bytes behind its request."""
        self._is_last = False
        """Whether the client has closed its sending side behind its request."""
        self._begun: Forwarding | None = None
        """A forwarding that began on the lean path, for aiohttp's handler."""
        self.on_writable: Callable[[], None] | None = None
        self.remote: str | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start to wait for the first request, with a time limit."""
        super().connection_made(transport)
        address = transport.get_extra_info("peername")
        self.remote = str(address[0]) if isinstance(address, tuple) else address
        server = cast("_LimitedServer", self._manager)
        if not server.make_room():
            cast("asyncio.Transport", transport).write(_refusal())
            self.force_close()
            return
        server.idle[self] = None
        self._head_timer = self._loop.call_later(server.head_timeout, self._close_if_silent)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection, and end what is under way."""
        for timer in (self._head_timer, self._early_timer):
            if timer is not None:
                timer.cancel()
        self._head_timer = self._early_timer = None
        if self._manager is not None:
            self._manager.idle.pop(self, None)
            self._manager.half_closed.discard(self)
        self._leave()
        super().connection_lost(exc)

    def resume_writing(self) -> None:
        """Continue an answer for which the client was too slow."""
        super().resume_writing()
        if self.on_writable is not None:
            self.on_writable()

    def data_received(self, data: bytes) -> None:
        """Forward a plain request, or leave the bytes to aiohttp."""
        if self._forwarding is not None:
            self._keep(data)
            return
        lean = self._manager.lean if self._manager is not None else None
        is_idle = not self._left and self._request_count == self._answered
        if lean is None or not is_idle or not data or self._close or self._force_close:
            self._feed(data)
            return
        if self._early:
            data = self._early + data
        transport = self.transport
        plain = lean.read(data, transport) if transport is not None else None
        if plain is not None and len(data) < plain[2]:
            self._wait_for_body(data, lean)
            return
        arrived = self._arrived or lean.now()
        if self._early:
            self._end_early()
        forwarding = None
        if plain is not None and len(data) == plain[2]:
            forwarding = lean.forward(plain, data, self, arrived)
        if forwarding is None:
            self._feed(data)
            return
        self._forwarding, self._plain = forwarding, data
        self._request_count += 1
        self._request_in_progress = True
        if self._manager is not None:
            self._manager.idle.pop(self, None)
        if not forwarding.start(self._forwarded):
            self._hand_over(forwarding)

    def _wait_for_body(self, data: bytes, lean: LeanPath) -> None:
        """Keep the beginning of a plain request, whose body is not complete."""
        if not self._early:
            self._arrived = lean.now()
            self._early_timer = self._loop.call_later(_EARLY_SECONDS, self._feed_early)
        self._early = data

    def _feed(self, data: bytes) -> None:
        """Let aiohttp take the bytes. The connection is in use once a head is complete."""
        if data and not self._left and self._request_count == self._answered:
            self._left = message_size(data)
        self._left -= len(data)
        super().data_received(data)
        if self._messages and self._manager is not None:
            self._manager.idle.pop(self, None)

    def _feed_early(self) -> None:
        """Let aiohttp wait for the rest of a body."""
        early = self._early
        self._end_early()
        self._feed(early)

    def _end_early(self) -> None:
        self._early, self._arrived = b"", None
        if self._early_timer is not None:
            self._early_timer.cancel()
            self._early_timer = None

    def _keep(self, data: bytes) -> None:
        """Keep bytes until the present request is answered; too many stay in the kernel."""
        self._later += data
        if len(self._later) > _MAX_LATER and self.transport is not None:
            self.transport.pause_reading()

    def _take_later(self) -> bytes:
        later, self._later = self._later, b""
        if len(later) > _MAX_LATER and self.transport is not None:
            self.transport.resume_reading()
        return later

    def _forwarded(self, complete: bool) -> None:
        """Wait for the next request, or have aiohttp continue an answer that is not complete."""
        forwarding = self._forwarding
        if forwarding is None:
            return
        if not complete:
            self._hand_over(forwarding)
            return
        self._forwarding, self._plain = None, b""
        self._answered += 1
        self._request_in_progress = False
        if self._handler_waiter is not None:
            self._end_progress()
        if self._is_last and self._later:
            # What follows is answered before the connection ends.
            self._is_last = False
        if not forwarding.keep_alive or self._is_last or self._close or self._force_close:
            self.force_close()
            return
        if self.transport is None or self._manager is None:
            return
        self._manager.idle[self] = None
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._keepalive_handle is None:
            super()._process_keepalive()
        if self._later:
            self.data_received(self._take_later())

    def _hand_over(self, forwarding: QuickForwarding) -> None:
        """Let aiohttp's handler continue the forwarding, which needs a task."""
        self._end_progress()
        if self._close or self._force_close or self.transport is None:
            # aiohttp takes no more requests.
            self._leave()
            self.force_close()
            return
        plain, self._plain = self._plain, b""
        self._begun, self._forwarding = forwarding.becomes(), None
        self._request_count -= 1
        self._feed(plain)
        if self._later:
            self._feed(self._take_later())
        elif self._is_last:
            self.close()

    def take_begun(self) -> Forwarding | None:
        """Return the forwarding of the request that aiohttp's handler got, if it has begun."""
        begun, self._begun = self._begun, None
        return begun

    def _leave(self) -> None:
        """End the forwarding that no task runs."""
        forwarding = self._forwarding or self._begun
        self._forwarding = self._begun = None
        if forwarding is not None:
            forwarding.leave()

    def _end_progress(self) -> None:
        """Let aiohttp's shutdown continue, which waits for requests."""
        self._request_in_progress = False
        if self._handler_waiter is not None and not self._handler_waiter.done():
            self._handler_waiter.set_result(None)

    def _process_keepalive(self) -> None:
        # aiohttp takes a connection on the lean path for idle.
        self._keepalive_handle = None
        if self._forwarding is None:
            super()._process_keepalive()

    def eof_received(self) -> bool | None:  # type: ignore[override] # as asyncio.Protocol has it
        """Keep the connection (``True``) of a half-closed client that waits for an answer."""
        unanswered = self._request_count - self._answered
        if self._manager is None or not unanswered or not self._is_whole:
            return None
        if not self._manager.half_closed.add(self):
            return None
        if self._forwarding is not None:
            self._is_last = True
        elif unanswered == 1:
            # This is the last request.
            self.close()
        return True

    def close_if_answered(self) -> None:
        """End the half-closed connection, unless a complete request waits for its answer."""
        if self._request_count == self._answered:
            self.force_close()
        elif not self._is_whole and self.transport is not None:
            self.transport.abort()

    @property
    def _is_whole(self) -> bool:
        """Return whether all bodies are complete, including those of requests answered early."""
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
            # If it was refused after all, as by changed settings.
            self._leave()
            if self._manager is not None and not self._messages and self.transport is not None:
                self._manager.idle[self] = None

    def _close_if_silent(self) -> None:
        if self._request_count == 0:
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
            _logger.error("a request failed", exc_info=exc)
            problem = internal_error()
        else:
            _logger.debug("not HTTP from %s: %s", request.remote, message)
            problem = from_parser(exc)
        # The following bytes cannot be split into requests, so they are dropped.
        self._close = True
        response = error_response(problem, request.path, kind=_LastResponse)
        response.force_close()
        # aiohttp assumes HTTP/1.0 for an invalid request, and would leave this header out.
        response.headers[hdrs.CONNECTION] = "close"
        return response


class _LimitedServer(web.Server):
    """Creates the connections, limits their number, and knows the idle connections."""

    head_timeout = HEAD_TIMEOUT
    most_connections: int | None = None
    lean: LeanPath | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.idle: dict[_ClientConnection, None] = {}
        """The connections without a request, the least recently used first."""
        self.half_closed = HalfClosedConnections()
        """The connections whose clients send no more."""
        self._warned: float | None = None

    def make_room(self) -> bool:
        """Close an idle connection for a new one if needed; ``False`` if all are in use."""
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
                "refusing a client: all %d connections are in use, and the limit of open files"
                " allows no more",
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
    """A ``web.AppRunner`` with the connections of this module.

    ``head_timeout`` is in seconds. At most ``most_connections`` are open at once: idle connections
    are closed for new ones, connections with a request never are. The other parameters are those
    of ``web.AppRunner``.
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
            # ``read_body`` decompresses bodies, with our own errors.
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
        server.lean = self.app.get(LEAN_PATH)
        return server
