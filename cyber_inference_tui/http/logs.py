"""The admin endpoints of the logs: which there are, the end of one as text, and any part of one."""

from __future__ import annotations

from aiohttp import web

from cyber_inference_tui.errors import InvalidRequestError
from cyber_inference_tui.http.api import ServiceApi
from cyber_inference_tui.http.wire import decoded, json_answer, number, raw_tail, text_answer
from cyber_inference_tui.records import LogLevel

DEFAULT_TAIL = 200
MAX_TAIL = 100_000
DEFAULT_LINES = 1_000
MAX_LINES = 5_000
MAX_TEXT = 256
"""Characters that may be searched for."""

LOG_POSITION = "X-Last-Event-ID"
"""Header of a log: the newest event there was when it was read, to follow it from there."""


class LogReader:
    """The handlers of ``/admin/logs`` and ``/admin/log-lines``."""

    def __init__(self, service: ServiceApi) -> None:
        self._service = service

    async def all(self, request: web.Request) -> web.Response:
        """Every log."""
        return json_answer(self._service.logs.records())

    async def tail(self, request: web.Request) -> web.Response:
        """The last lines of a log as plain text."""
        lines = _number(request, "lines")
        # Taken first: a line that arrives meanwhile is told twice rather than never.
        position = self._service.events.last_id
        tail = await self._service.log_tail(
            decoded(raw_tail(request, 2)), DEFAULT_TAIL if lines is None else min(lines, MAX_TAIL)
        )
        return text_answer(tail, headers={LOG_POSITION: str(position)})

    async def lines(self, request: web.Request) -> web.Response:
        """A part of a log, with numbers, times and levels."""
        limit = _number(request, "limit")
        text = request.query.get("q", "")
        if len(text) > MAX_TEXT:
            raise InvalidRequestError(f"q takes at most {MAX_TEXT} characters.", param="q")
        page = await self._service.logs.page(
            self._service.log_id(decoded(raw_tail(request, 2))),
            before=_number(request, "before"),
            after=_number(request, "after"),
            limit=DEFAULT_LINES if limit is None else min(limit, MAX_LINES),
            level=_level(request),
            text=text,
        )
        return json_answer(page)


def _number(request: web.Request, name: str) -> int | None:
    text = request.query.get(name)
    return None if text is None else number(text, name)


def _level(request: web.Request) -> LogLevel | None:
    text = request.query.get("level")
    if text is None:
        return None
    try:
        return LogLevel(text.lower())
    except ValueError:
        raise InvalidRequestError(
            f"level takes one of {', '.join(LogLevel)}.", param="level"
        ) from None
