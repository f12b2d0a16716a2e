"""``ServiceClient``: the service's admin API as typed calls."""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Collection,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import msgspec

from cyber_inference_tui.client.completions import ChatDelta, chat_delta
from cyber_inference_tui.client.events import (
    MAX_EVENT_BYTES,
    ServerEvent,
    follow_events,
    query,
)
from cyber_inference_tui.client.transport import Transport, failure_reason
from cyber_inference_tui.errors import (
    CyberError,
    NoServiceError,
)
from cyber_inference_tui.records import (
    ActiveRequestRecord,
    ConfigCheckRecord,
    ConfigFileRecord,
    ConfigValueRecord,
    DownloadRecord,
    HubFilesRecord,
    HubModelRecord,
    InstallRecord,
    LogLevel,
    LogPage,
    LogRecord,
    MemoryRoom,
    ModelDetails,
    ModelRecord,
    ModelTotals,
    ProblemRecord,
    RequestRecord,
    ResourceSample,
    SessionRecord,
    StatusRecord,
    WaitingRecord,
)
from cyber_inference_tui.text import clean_line

if TYPE_CHECKING:
    import httpx
else:
    from cyber_inference_tui.client.late import httpx

T = TypeVar("T")

EMBEDDING_WAIT = 600.0
"""Seconds that vectors may take, the load of their model included."""
STREAM_SILENCE = 90.0
"""Seconds without a byte after which an event stream counts as lost and is opened again."""
LOG_POSITION = "X-Last-Event-ID"
"""Header of a log answer: the last event its text already contains."""


class LogTail(msgspec.Struct, frozen=True, kw_only=True):
    """The last lines of a log. ``event_id`` is the event after which new lines follow."""

    lines: tuple[str, ...]
    event_id: int | None = None


class ServiceClient(Transport):
    """The calls of a service; what they travel on is ``Transport``'s, and so are their errors."""

    async def status(self) -> StatusRecord:
        """The service in one glance."""
        return await self._get("/admin/status", StatusRecord)

    async def resources(self) -> ResourceSample:
        """The machine and its loaded models now."""
        return await self._get("/admin/resources", ResourceSample)

    async def resource_history(self, seconds: int) -> list[ResourceSample]:
        """The samples of the last ``seconds`` that are kept, oldest first."""
        params = {"history": str(seconds)}
        return await self._call("GET", "/admin/resources", list[ResourceSample], params=params)

    async def install_state(self) -> InstallRecord:
        """How getting a llama-server stands, and which ways there are."""
        return await self._get("/admin/install", InstallRecord)

    async def install(self, source: str = "auto") -> InstallRecord:
        """Begin to get one; ``ConflictError`` while one is being got."""
        return await self._call("POST", "/admin/install", InstallRecord, json={"from": source})

    async def cancel_install(self) -> InstallRecord:
        """End that; nothing to do where none is running."""
        return await self._call("DELETE", "/admin/install", InstallRecord)

    async def add_demo(self) -> ModelRecord:
        """Add the built-in model to the service until it ends; its record."""
        return await self._post("/admin/demo", ModelRecord)

    async def models(self) -> list[ModelRecord]:
        """All local models, in the service's order."""
        return await self._get("/admin/models", list[ModelRecord])

    async def model(self, name: str) -> ModelRecord:
        """One model by its id or an alias."""
        return await self._get(f"/admin/models/{quote(name, safe='')}", ModelRecord)

    async def details(self, name: str) -> ModelDetails:
        """Everything there is to know of one model, by its id or an alias."""
        return await self._get(_model_path(name, "details"), ModelDetails)

    async def problems(self) -> list[ProblemRecord]:
        """Files and settings that are no models, and why."""
        return await self._get("/admin/problems", list[ProblemRecord])

    async def memory_room(self) -> list[MemoryRoom]:
        """The memory that models may have: the machine's, and that of its GPUs together."""
        return await self._get("/admin/memory", list[MemoryRoom])

    async def load(
        self, model_id: str, *, wait: bool = True, timeout: float | None = None
    ) -> ModelRecord:
        """Load a model. With ``wait`` the answer comes when it is ready or has failed."""
        path = _model_path(model_id, "load")
        return await self._post(path, ModelRecord, {} if wait else {"wait": "0"}, timeout)

    async def unload(
        self, model_id: str, *, force: bool = False, timeout: float | None = None
    ) -> ModelRecord:
        """Unload a model after its requests have finished, or at once with ``force``."""
        path = _model_path(model_id, "unload")
        return await self._post(path, ModelRecord, {"force": "1"} if force else {}, timeout)

    async def pin(self, model_id: str, pinned: bool) -> ModelRecord:
        """Keep a model from being evicted and idled out, or allow it again."""
        return await self._post(_model_path(model_id, "pin" if pinned else "unpin"), ModelRecord)

    async def delete(self, model_id: str) -> ModelRecord:
        """Delete a model's files (under ``models_dir`` only)."""
        return await self._call("DELETE", f"/admin/models/{quote(model_id, safe='')}", ModelRecord)

    async def config(self) -> list[ConfigValueRecord]:
        """Every setting with its effective value and source."""
        return await self._get("/admin/config", list[ConfigValueRecord])

    async def set_config(self, key: str, value: Any) -> ConfigValueRecord:
        """Change one setting in the service's file; of a model's table see ``model_key.py``."""
        return await self._call("PUT", _key_path(key), ConfigValueRecord, json={"value": value})

    async def check_config(self, key: str, value: Any) -> ConfigCheckRecord:
        """What ``set_config`` would do; raises what it would raise, and changes nothing."""
        body, query = {"value": value}, {"check": "1"}
        return await self._call("PUT", _key_path(key), ConfigCheckRecord, params=query, json=body)

    async def unset_config(self, key: str) -> ConfigValueRecord:
        """Take one setting out of the service's file, so that its default holds again."""
        return await self._call("DELETE", _key_path(key), ConfigValueRecord)

    async def config_file(self) -> ConfigFileRecord:
        """The service's configuration file; secrets masked."""
        return await self._get("/admin/config-file", ConfigFileRecord)

    async def set_config_file(self, text: str, digest: str) -> ConfigFileRecord:
        """Replace the service's configuration file, if it is still the one of ``digest``.

        Raises ``ConfigError`` with one line for every mistake, and ``ConflictError``.
        """
        body = {"text": text, "digest": digest}
        return await self._call("PUT", "/admin/config-file", ConfigFileRecord, json=body)

    async def requests(
        self,
        *,
        limit: int = 100,
        before: int | None = None,
        model: str | None = None,
        failed: bool | None = None,
        since: datetime | None = None,
    ) -> list[RequestRecord]:
        """Finished requests, newest first; the next page is ``before`` the last one's id.

        ``limit`` is at most 1,000.
        """
        params = _choice(limit, before, model, since)
        if failed is not None:
            params["failed"] = "1" if failed else "0"
        return await self._call("GET", "/admin/requests", list[RequestRecord], params=params)

    async def sessions(
        self,
        *,
        limit: int = 100,
        before: int | None = None,
        model: str | None = None,
        since: datetime | None = None,
    ) -> list[SessionRecord]:
        """Sessions, newest first, chosen as ``requests`` are."""
        params = _choice(limit, before, model, since)
        return await self._call("GET", "/admin/sessions", list[SessionRecord], params=params)

    async def queue(self) -> list[WaitingRecord]:
        """Every request that waits for its model."""
        return await self._get("/admin/queue", list[WaitingRecord])

    async def active_requests(self) -> list[ActiveRequestRecord]:
        """Every request that is not finished, the oldest first."""
        return await self._get("/admin/requests/active", list[ActiveRequestRecord])

    async def totals(self) -> list[ModelTotals]:
        """Sums over the requests that the history keeps, by model."""
        return await self._get("/admin/totals", list[ModelTotals])

    async def hub_search(
        self,
        q: str,
        *,
        sort: str = "downloads",
        limit: int = 30,
        cursor: str | None = None,
        author: str | None = None,
    ) -> tuple[list[HubModelRecord], str | None]:
        """A page of models on the hub, and the cursor of the next one (``None`` = the last page).

        ``sort`` is ``downloads``, ``likes``, ``trending`` or ``new``; ``limit`` at most 100.
        """
        asked = {"q": q, "sort": sort, "limit": str(limit), "cursor": cursor, "author": author}
        params = {key: value for key, value in asked.items() if value is not None}
        path = "/admin/hub/search"
        body, headers = await self._bytes("GET", path, params=params)
        return self._decoded(body, list[HubModelRecord], path), headers.get("X-Next-Cursor")

    async def hub_files(self, repo: str, revision: str | None = None) -> list[HubFilesRecord]:
        """The models in a repository on the hub, and how they would fit where the service runs."""
        params = {"repo": repo} | ({"revision": revision} if revision else {})
        return await self._call("GET", "/admin/hub/files", list[HubFilesRecord], params=params)

    async def downloads(self) -> list[DownloadRecord]:
        """Every download that the service knows, the oldest first."""
        return await self._get("/admin/downloads", list[DownloadRecord])

    async def download(
        self, repo: str, filename: str | None = None, revision: str | None = None
    ) -> DownloadRecord:
        """Have a model downloaded; the record of the download, which may be on its way already."""
        wanted = {"repo": repo, "filename": filename, "revision": revision}
        body = {key: value for key, value in wanted.items() if value is not None}
        return await self._call("POST", "/admin/downloads", DownloadRecord, json=body)

    async def cancel_download(self, download_id: str, keep: bool = False) -> DownloadRecord:
        """End a download and remove what is there of it, unless ``keep``.

        One that is done, or was cancelled before, is taken from the list.
        """
        path = f"/admin/downloads/{quote(download_id, safe='')}"
        params = {"keep": "1"} if keep else {}
        return await self._call("DELETE", path, DownloadRecord, params=params)

    async def pause_download(self, download_id: str) -> DownloadRecord:
        """Stop a download for now."""
        return await self._post(_download_path(download_id, "pause"), DownloadRecord)

    async def resume_download(self, download_id: str) -> DownloadRecord:
        """Go on with a paused download."""
        return await self._post(_download_path(download_id, "resume"), DownloadRecord)

    async def retry_download(self, download_id: str) -> DownloadRecord:
        """Try a failed or cancelled download again."""
        return await self._post(_download_path(download_id, "retry"), DownloadRecord)

    async def log(self, source: str, lines: int) -> LogTail:
        """The last ``lines`` lines of a model's log, or of the service's (id ``service``)."""
        path = f"/admin/logs/{quote(source, safe='')}"
        body, headers = await self._bytes("GET", path, params={"lines": str(lines)})
        text = body.decode("utf-8", "replace")
        position = headers.get(LOG_POSITION, "")
        return LogTail(
            # Not splitlines(): a separator such as U+2028 inside a line is not a new line.
            lines=tuple(text.removesuffix("\n").split("\n")) if text else (),
            event_id=int(position) if position.isdecimal() else None,
        )

    async def logs(self) -> list[LogRecord]:
        """Every log that has begun."""
        return await self._get("/admin/logs", list[LogRecord])

    async def log_lines(
        self,
        log_id: str,
        *,
        before: int | None = None,
        after: int | None = None,
        limit: int = 1000,
        level: LogLevel | None = None,
        q: str | None = None,
    ) -> LogPage:
        """At most ``limit`` lines (5,000 at most) of a log, in order.

        Without a number they are the newest. ``before`` gives those nearest below that number,
        ``after`` those from that number on, both together those between, from the lower end.
        ``level`` is the least; ``q`` is in each line, in any case. The page before this one
        is ``before`` the number ``searched_to``, the page behind it ``after`` that number.
        """
        chosen = {"limit": limit, "before": before, "after": after, "level": level, "q": q}
        params = {key: str(value) for key, value in chosen.items() if value is not None}
        return await self._call(
            "GET", f"/admin/log-lines/{quote(log_id, safe='')}", LogPage, params=params
        )

    def events(
        self,
        topics: Collection[str] = (),
        *,
        after: int | None = None,
        logs: Collection[str] = (),
        patience: float = 30.0,
        on_lost: Callable[[], None] = lambda: None,
    ) -> AsyncGenerator[ServerEvent, None]:
        """Events of ``topics`` without end; see ``follow_events``. Close it with ``aclosing``.

        ``logs`` are the ids of the logs of which ``log`` events are wanted; none means all.
        """

        def open_stream(last: int | None) -> Any:
            return self._open_events(topics, logs, last)

        return follow_events(open_stream, after=after, patience=patience, on_lost=on_lost)

    @asynccontextmanager
    async def _open_events(
        self, topics: Collection[str], logs: Collection[str], last: int | None
    ) -> AsyncIterator[httpx.Response]:
        headers = {"Accept": "text/event-stream"}
        if last is not None:
            headers["Last-Event-ID"] = str(last)
        async with self._stream(
            "GET",
            "/admin/events",
            params=query(topics, logs),
            headers=headers,
            timeout=self._limits(STREAM_SILENCE),
        ) as response:
            kind = clean_line(response.headers.get("content-type", ""), limit=60)
            if not kind.startswith("text/event-stream"):
                raise self._stranger(f"it answers {kind or 'nothing'} where events should be")
            yield response

    async def chat(
        self,
        model: str,
        messages: Sequence[Mapping[str, Any]],
        *,
        sampling: Mapping[str, Any] | None = None,
    ) -> AsyncGenerator[ChatDelta, None]:
        """A model's answer to ``messages``, streamed; ``sampling`` goes into the request as it is.

        Loads the model if need be. Close it with ``aclosing``: that ends the request.
        """
        body = {
            **(sampling or {}),
            "model": model,
            "messages": list(messages),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        try:
            async with self._stream(
                "POST",
                "/v1/chat/completions",
                json=body,
                headers={"Accept": "text/event-stream"},
                timeout=self._limits(STREAM_SILENCE),
            ) as response:
                async for line in _lines(response):
                    delta = chat_delta(line)
                    if delta is not None:
                        yield delta
        except httpx.TransportError as error:
            raise NoServiceError(
                f"The answer of {self.url} broke off ({failure_reason(error)})."
            ) from error

    async def embed(self, model: str, texts: Sequence[str]) -> list[list[float]]:
        """The vector of each text, by a model that makes them."""
        body = {"model": model, "input": list(texts)}
        answer = await self._call(
            "POST", "/v1/embeddings", _Embeddings, json=body, limit=EMBEDDING_WAIT
        )
        return [one.embedding for one in sorted(answer.data, key=lambda one: one.index)]


def _key_path(key: str) -> str:
    return f"/admin/config/{quote(key, safe='')}"


class _Embedding(msgspec.Struct):
    embedding: list[float]
    index: int = 0


class _Embeddings(msgspec.Struct):
    data: list[_Embedding]


async def _lines(response: httpx.Response) -> AsyncGenerator[str, None]:
    """The lines of an event stream; one alone may have ``MAX_EVENT_BYTES``."""
    rest = b""
    async for chunk in response.aiter_bytes():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.decode("utf-8", "replace").rstrip("\r")
        if len(rest) > MAX_EVENT_BYTES:
            raise CyberError(f"The service sent a line of more than {MAX_EVENT_BYTES} bytes.")


def _model_path(model_id: str, action: str) -> str:
    return f"/admin/models/{quote(model_id, safe='')}/{action}"


def _download_path(download_id: str, action: str) -> str:
    return f"/admin/downloads/{quote(download_id, safe='')}/{action}"


def _choice(
    limit: int, before: int | None, model: str | None, since: datetime | None
) -> dict[str, str]:
    """The query of a list of past things."""
    chosen = {
        "limit": str(limit),
        "before": None if before is None else str(before),
        "model": model,
        "since": None if since is None else since.isoformat(),
    }
    return {key: value for key, value in chosen.items() if value is not None}
