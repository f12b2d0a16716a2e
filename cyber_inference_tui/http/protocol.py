"""The one place where aiohttp's own protocol is bent.

A request that is no HTTP never reaches an application: aiohttp answers it by itself, in HTML or
text, and logs a traceback for what is the client's mistake. Here it gets our error shape. And a
connection on which no whole request ever arrives, which aiohttp keeps for good, is closed. A target
in absolute form becomes a path and a ``Host`` before anything looks at it.
"""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Any

from aiohttp import hdrs, web
from aiohttp.http_parser import RawRequestMessage
from aiohttp.web_protocol import RequestHandler
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from cyber_inference_tui.http.errors import error_response, from_parser, internal_error

HEAD_TIMEOUT = 60.0
"""Seconds a new connection has for the head of its first request."""

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


class _Connection(RequestHandler):
    """A client's connection."""

    __slots__ = ("_head_timeout", "_head_timer")

    def __init__(self, server: web.Server, *, head_timeout: float, **kwargs: Any) -> None:
        super().__init__(server, **kwargs)
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
        super().connection_lost(exc)

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


class _Server(web.Server):
    """Makes such connections."""

    head_timeout = HEAD_TIMEOUT

    def __call__(self) -> RequestHandler:
        return _Connection(self, head_timeout=self.head_timeout, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """``web.AppRunner`` whose connections answer every error in one shape.

    ``head_timeout`` is in seconds; all else is as with ``web.AppRunner``.
    """

    __slots__ = ("_head_timeout",)

    def __init__(
        self, app: web.Application, *, head_timeout: float = HEAD_TIMEOUT, **kwargs: Any
    ) -> None:
        # Bodies are unpacked by ``read_body``, in one place and with answers of our own.
        super().__init__(app, auto_decompress=False, **kwargs)
        self._head_timeout = head_timeout

    async def _make_server(self) -> web.Server:
        plain = await super()._make_server()
        make_request = plain.request_factory

        def make(message: RawRequestMessage, *rest: Any) -> web.BaseRequest:
            return make_request(in_origin_form(message), *rest)

        server = _Server(
            plain.request_handler,
            request_factory=make,
            handler_cancellation=plain.handler_cancellation,
            loop=asyncio.get_running_loop(),
            **plain._kwargs,
        )
        server.head_timeout = self._head_timeout
        return server
