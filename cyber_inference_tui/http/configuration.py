"""The settings over HTTP: read, and changed in the configuration file."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from cyber_inference_tui.http.api import ServiceApi
from cyber_inference_tui.http.wire import decoded, json_answer, raw_tail, read_json


class _NewValue(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``PUT /admin/config/KEY``."""

    value: Any


class ConfigurationPages:
    """The handlers of ``/admin/config``."""

    def __init__(self, service: ServiceApi) -> None:
        self._service = service

    async def values(self, request: web.Request) -> web.Response:
        """Every setting with its value and where it comes from."""
        return json_answer(self._service.configuration.values())

    async def change(self, request: web.Request) -> web.Response:
        """Change one setting."""
        new = await read_json(
            request,
            _NewValue,
            limit=self._service.settings.max_body_size,
            expected='a JSON object {"value": …}',
        )
        key = decoded(raw_tail(request, 2))
        return json_answer(await self._service.configuration.set(key, new.value))
