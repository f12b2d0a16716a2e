"""The one place where aiohttp's own protocol is bent: what cannot be parsed gets our error shape.

A request that is no HTTP never reaches an application: aiohttp answers it by itself, in HTML or
text, and logs a traceback for what is the client's mistake.
"""

from __future__ import annotations

import asyncio
import logging

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from cyber_inference_tui.http.errors import error_response, from_parser, internal_error

_logger = logging.getLogger(__name__)


class _Connection(RequestHandler):
    """A client's connection."""

    __slots__ = ()

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

    def __call__(self) -> RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """``web.AppRunner`` whose connections answer every error in one shape."""

    __slots__ = ()

    async def _make_server(self) -> web.Server:
        plain = await super()._make_server()
        return _Server(
            plain.request_handler,
            request_factory=plain.request_factory,
            handler_cancellation=plain.handler_cancellation,
            loop=asyncio.get_running_loop(),
            **plain._kwargs,
        )
