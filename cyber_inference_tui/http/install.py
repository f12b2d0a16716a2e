"""The admin endpoints that get a llama-server, and the built-in model."""

from __future__ import annotations

from typing import Literal

import msgspec
from aiohttp import web

from cyber_inference_tui.http.api import ServiceApi
from cyber_inference_tui.http.wire import json_answer, read_json, read_nothing


class _Wish(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST /admin/install``."""

    source: Literal["auto", "github", "debian", "source"] = msgspec.field(
        default="auto", name="from"
    )


class Installing:
    """The handlers of ``/admin/install`` and ``/admin/demo``."""

    def __init__(self, service: ServiceApi) -> None:
        self._service = service

    async def state(self, request: web.Request) -> web.Response:
        """How getting a llama-server stands, and the ways there are."""
        return json_answer(await self._service.installation.state())

    async def start(self, request: web.Request) -> web.Response:
        """Begin to get one."""
        wish = await read_json(
            request,
            _Wish,
            limit=self._service.settings.max_body_size,
            expected='a JSON object {"from": "auto", "github", "debian" or "source"}',
        )
        return json_answer(await self._service.installation.start(wish.source), status=202)

    async def cancel(self, request: web.Request) -> web.Response:
        """End that."""
        await self._no_body(request)
        return json_answer(await self._service.installation.cancel())

    async def demo(self, request: web.Request) -> web.Response:
        """Add the built-in model."""
        await self._no_body(request)
        return json_answer(await self._service.models.add_demo())

    async def _no_body(self, request: web.Request) -> None:
        await read_nothing(request, limit=self._service.settings.max_body_size)
