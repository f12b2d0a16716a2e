"""``GET /metrics``: the service's own, or those of a model's server where one is named."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from cyber_inference_tui.http.access import Handler
from cyber_inference_tui.service.metrics import CONTENT_TYPE

if TYPE_CHECKING:
    from cyber_inference_tui.service.service import Service


class MetricsPage:
    """``forward`` answers for a model's server."""

    def __init__(self, service: Service, forward: Handler) -> None:
        self._service = service
        self._forward = forward

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """``?model=`` or ``X-Model`` ask a model's server, which is loaded for it if need be."""
        if request.query.get("model") or request.headers.get("X-Model"):
            return await self._forward(request)
        return web.Response(
            body=await self._service.metrics.scrape(),
            headers={hdrs.CONTENT_TYPE: CONTENT_TYPE, "X-Content-Type-Options": "nosniff"},
        )
