"""``GET /admin/resources``: the machine and its loaded models, now or over time."""

from __future__ import annotations

import msgspec
from aiohttp import web

from cyber_inference_tui.http.api import ServiceApi
from cyber_inference_tui.http.wire import json_answer, number


class Resources:
    """The handler of ``/admin/resources``."""

    def __init__(self, service: ServiceApi) -> None:
        self._service = service

    async def resources(self, request: web.Request) -> web.Response:
        """The latest sample; with ``?history=SECONDS`` those of that time, oldest first."""
        text = request.query.get("history")
        if text is None:
            return json_answer(await self._service.monitoring.latest())
        samples = self._service.monitoring.history(number(text, "history"))
        return json_answer([msgspec.Raw(sample) for sample in samples])
