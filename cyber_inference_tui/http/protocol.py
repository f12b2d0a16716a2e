"""The one place where aiohttp's own protocol is bent.

A request that is no HTTP never reaches an application: aiohttp answers it by itself, in HTML or
text, and logs a traceback for what is the client's mistake. Here it gets our error shape. And a
connection on which no whole request ever arrives, which aiohttp keeps for good, is closed. A client
that closes its sending side only, which aiohttp takes for one that left, gets its answer.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from cyber_inference_tui.http.errors import error_response, from_parser, internal_error
from cyber_inference_tui.http.peer import clients_gone

HALF_CLOSED_INTERVAL = 0.5
"""Seconds between two looks at clients that send no more: whether they still read."""
_HALF_CLOSED_PAUSE = 0.1
"""Seconds between two looks where many leave at once: a look reads a list of all sockets."""
HEAD_TIMEOUT = 60.0
"""Seconds a new connection has for the head of its first request."""

_logger = logging.getLogger(__name__)


class _Connection(RequestHandler):
    """A client's connection."""

    __slots__ = ("_half_closed", "_head_timeout", "_head_timer")

    def __init__(
        self, server: web.Server, *, head_timeout: float, half_closed: _HalfClosed, **kwargs: Any
    ) -> None:
        super().__init__(server, **kwargs)
        self._half_closed = half_closed
        self._head_timeout = head_timeout
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for a request, not for ever."""
        super().connection_made(transport)
        self._head_timer = self._loop.call_later(self._head_timeout, self._close_if_silent)

    def connection_lost(self, exc: BaseException | None) -> None:
        """The client left, or was sent away."""
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        self._half_closed.discard(self)
        super().connection_lost(exc)

    def eof_received(self) -> bool | None:  # type: ignore[override] # as asyncio.Protocol has it
        """The client sends no more: keep the connection (``True``) if it waits for an answer."""
        if self._is_idle or self._payload_parser is not None:
            return None
        if not self._half_closed.add(self):
            return None
        if len(self._messages) + (self._waiter is None) == 1:
            # No other request comes behind this one.
            self.close()
        return True

    @property
    def _is_idle(self) -> bool:
        return self._waiter is not None and not self._messages

    def close_if_answered(self) -> None:
        """The client sends no more: end the connection unless there is a whole request."""
        if self._is_idle:
            self.force_close()
            return
        payloads = [payload for _, payload in self._messages]
        if self._current_request is not None:
            payloads.append(self._current_request.content)
        if not all(payload.is_eof() for payload in payloads) and self.transport is not None:
            self.transport.abort()

    def _close_if_silent(self) -> None:
        if self._request_count == 0:
            self.force_close()

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
            problem = from_parser(status, message or "")
        response = error_response(problem, request.path)
        response.force_close()
        return response


class _HalfClosed:
    """Connections whose clients send no more, looked at until they are answered or gone."""

    def __init__(self) -> None:
        self._connections: set[_Connection] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._looked_at = float("-inf")

    def add(self, connection: _Connection) -> bool:
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

    def discard(self, connection: _Connection) -> None:
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


class _Server(web.Server):
    """Makes such connections."""

    head_timeout = HEAD_TIMEOUT

    def __init__(self, *arguments: Any, **kwargs: Any) -> None:
        super().__init__(*arguments, **kwargs)
        self._half_closed = _HalfClosed()

    def __call__(self) -> RequestHandler:
        return _Connection(
            self,
            head_timeout=self.head_timeout,
            half_closed=self._half_closed,
            loop=self._loop,
            **self._kwargs,
        )


class Runner(web.AppRunner):
    """``web.AppRunner`` whose connections answer every error in one shape.

    ``head_timeout`` is in seconds; all else is as with ``web.AppRunner``.
    """

    __slots__ = ("_head_timeout",)

    def __init__(
        self, app: web.Application, *, head_timeout: float = HEAD_TIMEOUT, **kwargs: Any
    ) -> None:
        super().__init__(app, **kwargs)
        self._head_timeout = head_timeout

    async def _make_server(self) -> web.Server:
        plain = await super()._make_server()
        server = _Server(
            plain.request_handler,
            request_factory=plain.request_factory,
            handler_cancellation=plain.handler_cancellation,
            loop=asyncio.get_running_loop(),
            **plain._kwargs,
        )
        server.head_timeout = self._head_timeout
        return server
