"""The admin endpoints that answer at once: status and models.

Names in paths are looked up, never used as file names.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable

from aiohttp import web

from cyber_inference_tui.errors import ModelNotFoundError, NotFoundError
from cyber_inference_tui.http.api import ServiceApi
from cyber_inference_tui.http.errors import method_not_allowed
from cyber_inference_tui.http.wire import (
    decoded,
    flag,
    json_answer,
    raw_tail,
    read_nothing,
)
from cyber_inference_tui.records import ModelDetails, ModelRecord


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

    async def memory(self, request: web.Request) -> web.Response:
        """The memory that models may have."""
        return json_answer(self._service.models.room())

    async def active(self, request: web.Request) -> web.Response:
        """Every request that is not finished."""
        return json_answer(self._service.active_requests())

    async def models(self, request: web.Request) -> web.Response:
        """Every local model."""
        return json_answer(self._service.models.records())

    async def problems(self, request: web.Request) -> web.Response:
        """Files and settings that are no models, and why."""
        return json_answer(self._service.models.problems())

    async def model(self, request: web.Request) -> web.Response:
        """Everything under ``/admin/models/ID``.

        Only a POST has an action, and it is the last segment: so a model may be named ``x/load``.
        Of a GET a last segment ``details`` asks for more, unless it is a part of a model's name.
        """
        raw = raw_tail(request, 2)
        if request.method in {"GET", "HEAD"}:
            return json_answer(await self._read(raw))
        if request.method == "DELETE":
            await self._no_body(request)
            return json_answer(await self._service.models.delete(decoded(raw)))
        raw_id, _, name = raw.rpartition("/")
        if request.method != "POST" or not raw_id:
            allow = (
                "DELETE",
                "GET",
                "HEAD",
                *(("POST",) if raw_id and name in self._actions else ()),
            )
            raise method_not_allowed(request.method, request.path, allow)
        action = self._actions.get(name)
        if action is None:
            raise NotFoundError(
                f"There is no action {decoded(name)}.",
                hint=f"POST to /admin/models/ID/ and one of {', '.join(self._actions)}.",
            )
        return json_answer(await action(request, decoded(raw_id)))

    async def _read(self, raw: str) -> ModelRecord | ModelDetails:
        raw_id, _, name = raw.rpartition("/")
        if name != "details" or not raw_id:
            return self._service.models.record(decoded(raw))
        whole = decoded(raw)
        with contextlib.suppress(ModelNotFoundError):
            record = self._service.models.record(whole)
            if whole in {record.id, *record.aliases}:
                return record
        return await self._service.models.details(decoded(raw_id))

    async def _load(self, request: web.Request, model_id: str) -> ModelRecord:
        wait = flag(request, "wait", default=True)
        await self._no_body(request)
        return await self._service.models.load(model_id, wait=wait)

    async def _unload(self, request: web.Request, model_id: str) -> ModelRecord:
        force = flag(request, "force", default=False)
        await self._no_body(request)
        return await self._service.models.unload(model_id, force=force)

    async def _pin(self, request: web.Request, model_id: str) -> ModelRecord:
        await self._no_body(request)
        return await self._service.models.pin(model_id, True)

    async def _unpin(self, request: web.Request, model_id: str) -> ModelRecord:
        await self._no_body(request)
        return await self._service.models.pin(model_id, False)

    async def unknown(self, request: web.Request) -> web.Response:
        """Any other path under ``/admin/`` or ``/ws/``."""
        raise NotFoundError(f"There is no endpoint {request.path}.")

    async def _no_body(self, request: web.Request) -> None:
        await read_nothing(request, limit=self._service.settings.max_body_size)
