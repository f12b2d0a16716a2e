"""The admin endpoints that look back: finished requests, ended sessions, sums by model."""

from __future__ import annotations

from datetime import UTC, datetime

from aiohttp import web

from cyber_inference_tui.errors import InvalidRequestError
from cyber_inference_tui.http.api import ServiceApi
from cyber_inference_tui.http.wire import flag, json_answer, number

DEFAULT_RECORDS = 100
MAX_RECORDS = 1000


class PastRecords:
    """The handlers of ``/admin/requests``, ``/admin/sessions`` and ``/admin/totals``."""

    def __init__(self, service: ServiceApi) -> None:
        self._service = service

    async def requests(self, request: web.Request) -> web.Response:
        """Finished requests, newest first."""
        failed = flag(request, "failed", default=False) if "failed" in request.query else None
        return json_answer(
            await self._service.history.requests(
                limit=_limit(request),
                before=_before(request),
                model=request.query.get("model"),
                failed=failed,
                since=_since(request),
            )
        )

    async def sessions(self, request: web.Request) -> web.Response:
        """Sessions, newest first."""
        return json_answer(
            await self._service.sessions(
                limit=_limit(request),
                before=_before(request),
                model=request.query.get("model"),
                since=_since(request),
            )
        )

    async def totals(self, request: web.Request) -> web.Response:
        """Requests, failures and tokens, by model."""
        return json_answer(await self._service.history.totals())


def _limit(request: web.Request) -> int:
    text = request.query.get("limit")
    return DEFAULT_RECORDS if text is None else min(number(text, "limit"), MAX_RECORDS)


def _before(request: web.Request) -> int | None:
    text = request.query.get("before")
    return None if text is None else number(text, "before")


def _since(request: web.Request) -> datetime | None:
    """A time in ISO 8601; without a zone it is UTC."""
    text = request.query.get("since")
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequestError(
            "since takes a time such as 2026-01-31T12:00:00Z.", param="since"
        ) from None
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
