"""Answers in lines of JSON, as Ollama sends the progress of long calls."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from aiohttp import web

from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.http.error_responses import error_body
from cyber_inference_tui.http.json_io import NOSNIFF, json_answer
from cyber_inference_tui.records import to_json

SEND_TIMEOUT = 60.0
"""Seconds after which a client that does not read is disconnected."""

Lines = AsyncGenerator[dict[str, Any], None]
"""Yields lines; raises ``CyberError`` where the call fails."""

_logger = logging.getLogger(__name__)


async def answer_lines(
    request: web.Request, lines: Lines, *, stream: bool | None
) -> web.StreamResponse:
    """Answer with the lines as they come; if ``stream`` is false, with the last one alone.

    An error becomes the last line, because the answer has begun; without a stream it is raised.
    """
    async with aclosing(lines):
        if stream is False:
            last: dict[str, Any] = {}
            async for line in lines:
                last = line
            return json_answer(last)
        response = web.StreamResponse(headers=NOSNIFF)
        response.content_type = "application/x-ndjson"
        await response.prepare(request)
        try:
            try:
                async for line in lines:
                    await _send(response, to_json(line))
            except CyberError as error:
                await _send(response, error_body(error, request.path))
        except TimeoutError:
            _logger.info("a client did not read its answer for %g s", SEND_TIMEOUT)
            if request.transport is not None:
                request.transport.abort()
        return response


async def _send(response: web.StreamResponse, line: bytes) -> None:
    async with asyncio.timeout(SEND_TIMEOUT):
        await response.write(line + b"\n")
