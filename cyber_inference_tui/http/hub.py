"""``/admin/hub`` and ``/admin/downloads``: models on the hub, and those on their way from it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta

from cyber_inference_tui.errors import InvalidRequestError, NotFoundError
from cyber_inference_tui.http.api import ServiceApi
from cyber_inference_tui.http.errors import method_not_allowed
from cyber_inference_tui.http.wire import decoded, flag, json_answer, number, raw_tail, read_json
from cyber_inference_tui.records import DownloadRecord

_Name = Annotated[str, Meta(min_length=1, max_length=1024)]


NEXT_CURSOR = "X-Next-Cursor"


class _Wanted(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST /admin/downloads``."""

    repo: _Name
    filename: _Name | None = None
    revision: _Name | None = None


class _Nothing(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a write that has nothing to say."""


class HubPages:
    """The handlers under ``/admin/hub`` and ``/admin/downloads``."""

    def __init__(self, service: ServiceApi) -> None:
        self._service = service

    async def search(self, request: web.Request) -> web.Response:
        """A page of what a search finds; the header ``X-Next-Cursor`` leads to the next."""
        query = request.query
        found, cursor = await self._service.hub.browse.search(
            query.get("q", ""),
            sort=query.get("sort", "downloads"),
            limit=number(query.get("limit", "30"), "limit"),
            cursor=query.get("cursor") or None,
            author=query.get("author") or None,
        )
        return json_answer(found, headers={NEXT_CURSOR: cursor} if cursor else None)

    async def files(self, request: web.Request) -> web.Response:
        """The models in a repository."""
        repo = request.query.get("repo", "")
        if not repo:
            raise InvalidRequestError("?repo= is missing.", param="repo")
        return json_answer(
            await self._service.hub_files(repo, request.query.get("revision") or None)
        )

    async def downloads(self, request: web.Request) -> web.Response:
        """Every download, the oldest first."""
        return json_answer(self._service.downloads.records())

    async def add(self, request: web.Request) -> web.Response:
        """Queue one; 202 with its record, or with that of the one that is on its way already."""
        wanted = await read_json(
            request,
            _Wanted,
            limit=self._service.settings.max_body_size,
            expected='a JSON object {"repo": …, "filename": …, "revision": …}, '
            "of which only repo is needed",
        )
        record = await self._service.downloads.add(wanted.repo, wanted.filename, wanted.revision)
        return json_answer(record, status=202)

    async def one(self, request: web.Request) -> web.Response:
        """Everything under ``/admin/downloads/ID``."""
        download_id, _, name = raw_tail(request, 2).partition("/")
        download_id = decoded(download_id)
        downloads = self._service.downloads
        if not name and request.method == "DELETE":
            keep = flag(request, "keep", default=False)
            await self._no_body(request)
            return json_answer(await downloads.cancel(download_id, keep=keep))
        if not name:
            raise method_not_allowed(request.method, request.path, ("DELETE",))
        actions: dict[str, Callable[[str], Awaitable[DownloadRecord]]] = {
            "pause": downloads.pause,
            "resume": downloads.resume,
            "retry": downloads.retry,
        }
        if name not in actions:
            raise NotFoundError(
                f"There is no action {decoded(name)}.",
                hint=f"POST to /admin/downloads/ID/ and one of {', '.join(actions)}.",
            )
        if request.method != "POST":
            raise method_not_allowed(request.method, request.path, ("POST",))
        await self._no_body(request)
        return json_answer(await actions[name](download_id))

    async def _no_body(self, request: web.Request) -> None:
        await read_json(
            request,
            _Nothing,
            limit=self._service.settings.max_body_size,
            expected="nothing, or an empty JSON object",
        )
