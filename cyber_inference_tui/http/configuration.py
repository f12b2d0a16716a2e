"""The settings over HTTP: read, and changed in the configuration file."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from cyber_inference_tui.http.api import ServiceApi
from cyber_inference_tui.http.wire import (
    decoded,
    flag,
    json_answer,
    raw_tail,
    read_json,
    read_nothing,
)


class _NewValue(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``PUT /admin/config/KEY``."""

    value: Any


class _NewText(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``PUT /admin/config-file``."""

    text: str
    digest: str


class ConfigurationPages:
    """The handlers of ``/admin/config`` and ``/admin/config-file``."""

    def __init__(self, service: ServiceApi) -> None:
        self._service = service

    async def values(self, request: web.Request) -> web.Response:
        """Every setting with its value and where it comes from."""
        return json_answer(self._service.configuration.values())

    async def change(self, request: web.Request) -> web.Response:
        """Change one setting, or tell what that would do."""
        only_check = flag(request, "check", default=False)
        new = await read_json(
            request,
            _NewValue,
            limit=self._service.settings.max_body_size,
            expected='a JSON object {"value": …}',
        )
        key = decoded(raw_tail(request, 2))
        configuration = self._service.configuration
        if only_check:
            return json_answer(await configuration.check(key, new.value))
        return json_answer(await configuration.set(key, new.value))

    async def reset(self, request: web.Request) -> web.Response:
        """Take one setting out of the file."""
        await read_nothing(request, limit=self._service.settings.max_body_size)
        key = decoded(raw_tail(request, 2))
        return json_answer(await self._service.configuration.unset(key))

    async def file(self, request: web.Request) -> web.Response:
        """The whole file."""
        return json_answer(await self._service.configuration.file())

    async def replace(self, request: web.Request) -> web.Response:
        """Replace the whole file, if it is still the one that was read."""
        new = await read_json(
            request,
            _NewText,
            limit=self._service.settings.max_body_size,
            expected='a JSON object {"text": …, "digest": …}',
        )
        return json_answer(await self._service.configuration.set_file(new.text, new.digest))
