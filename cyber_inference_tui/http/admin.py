"""The admin endpoints that answer at once: status, models, logs and settings.

Names in paths are looked up, never used as file names.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from cyber_inference_tui.errors import NotFoundError
from cyber_inference_tui.http.api import ServiceApi
from cyber_inference_tui.http.errors import method_not_allowed
from cyber_inference_tui.http.wire import (
    Nothing,
    decoded,
    flag,
    json_answer,
    number,
    raw_tail,
    read_json,
    text_answer,
)
from cyber_inference_tui.records import ModelRecord

DEFAULT_LOG_LINES = 200
MAX_LOG_LINES = 100_000
LOG_POSITION = "X-Last-Event-ID"
"""Header of a log: the newest event there was when it was read, to follow it from there."""


class _NewValue(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``PUT /admin/config/KEY``."""

    value: Any


class Admin:
    """The handlers under ``/admin/``."""

    def __init__(self, service: ServiceApi) -> None:
        self._service = service
        self._actions: dict[str, Callable[[web.Request, str], Awaitable[ModelRecord]]] = {
            "load": self._load,
            "unload": self._unload,
            "pin": self._pin,
            "unpin": self._unpin,
        }

    async def status(self, request: web.Request) -> web.Response:
        """The service in one glance."""
        return json_answer(self._service.status())

    async def queue(self, request: web.Request) -> web.Response:
        """Who waits for a model, in which position, and how long it may take."""
        return json_answer(self._service.queue())

    async def models(self, request: web.Request) -> web.Response:
        """Every local model."""
        return json_answer(self._service.models())

    async def model(self, request: web.Request) -> web.Response:
        """Everything under ``/admin/models/ID``.

        Only a POST has an action, and it is the last segment: so a model may be named ``x/load``.
        """
        raw = raw_tail(request, 2)
        if request.method in {"GET", "HEAD"}:
            return json_answer(self._service.model(decoded(raw)))
        if request.method == "DELETE":
            await self._no_body(request)
            return json_answer(await self._service.delete_model(decoded(raw)))
        raw_id, _, name = raw.rpartition("/")
        if request.method != "POST" or not raw_id:
            raise method_not_allowed(request.method, request.path, ("DELETE", "GET", "HEAD"))
        action = self._actions.get(name)
        if action is None:
            raise NotFoundError(
                f"There is no action {decoded(name)}.",
                hint=f"POST to /admin/models/ID/ and one of {', '.join(self._actions)}.",
            )
        return json_answer(await action(request, decoded(raw_id)))

    async def _load(self, request: web.Request, model_id: str) -> ModelRecord:
        wait = flag(request, "wait", default=True)
        await self._no_body(request)
        return await self._service.load_model(model_id, wait=wait)

    async def _unload(self, request: web.Request, model_id: str) -> ModelRecord:
        force = flag(request, "force", default=False)
        await self._no_body(request)
        return await self._service.unload_model(model_id, force=force)

    async def _pin(self, request: web.Request, model_id: str) -> ModelRecord:
        await self._no_body(request)
        return await self._service.pin(model_id, True)

    async def _unpin(self, request: web.Request, model_id: str) -> ModelRecord:
        await self._no_body(request)
        return await self._service.pin(model_id, False)

    async def log(self, request: web.Request) -> web.Response:
        """The last lines of a log as plain text."""
        text = request.query.get("lines")
        lines = DEFAULT_LOG_LINES if text is None else min(number(text, "lines"), MAX_LOG_LINES)
        # Taken first: a line that arrives meanwhile is told twice rather than never.
        position = self._service.events.last_id
        tail = self._service.log_tail(decoded(raw_tail(request, 2)), lines)
        return text_answer(tail, headers={LOG_POSITION: str(position)})

    async def config(self, request: web.Request) -> web.Response:
        """Every setting with its value and where it comes from."""
        return json_answer(self._service.config())

    async def set_config(self, request: web.Request) -> web.Response:
        """Change one setting."""
        new = await read_json(
            request,
            _NewValue,
            limit=self._service.settings.max_body_size,
            expected='a JSON object {"value": …}',
        )
        key = decoded(raw_tail(request, 2))
        return json_answer(await self._service.set_config(key, new.value))

    async def unknown(self, request: web.Request) -> web.Response:
        """Any other path under ``/admin/`` or ``/ws/``."""
        raise NotFoundError(f"There is no endpoint {request.path}.")

    async def _no_body(self, request: web.Request) -> None:
        await read_json(
            request,
            Nothing,
            limit=self._service.settings.max_body_size,
            expected="nothing, or an empty JSON object",
        )
