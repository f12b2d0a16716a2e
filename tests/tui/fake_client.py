"""A client without a service: answers from a ``World``, and notes what it was asked to do.

Its answers are given to the endpoints of the table, as those of the service are: mypy checks what
each takes and gives, and what it gives goes through JSON.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from cyber_inference_tui.client.completions import ChatDelta
from cyber_inference_tui.client.service_client import ServiceClient
from cyber_inference_tui.client.sse import ServerEvent
from cyber_inference_tui.errors import (
    AdminLoginError,
    CyberError,
    ModelNotFoundError,
    NoServiceError,
    NotFoundError,
)
from cyber_inference_tui.http.routing import Answerer, Call, WithHeaders
from cyber_inference_tui.records import (
    ConfigCheckRecord,
    ConfigValueRecord,
    DownloadRecord,
    DownloadStatus,
    HubFilesRecord,
    HubModelRecord,
    InstallRecord,
    InstallState,
    LlamaServerRecord,
    LoginRecord,
    LogLevel,
    LogPage,
    LogRecord,
    ModelDetails,
    ModelRecord,
    ModelStatus,
    RequestRecord,
    SettingEffect,
    StatusRecord,
    endpoints,
    to_json,
)
from cyber_inference_tui.records.endpoints import NEXT_CURSOR, Endpoint
from cyber_inference_tui.records.queries import LinesQuery, RequestQuery, SearchQuery
from tests.tui.world import World

_LEVELS = list(LogLevel)


Q = TypeVar("Q")
B = TypeVar("B")
A = TypeVar("A")


class FakeClient(ServiceClient):
    """A ``ServiceClient`` whose calls do not leave the process.

    ``calls`` holds what was asked for that changes something, in order. An error in ``fail`` is
    raised by the method of that name. ``up`` is ``False`` while there is no service; use ``stop``
    and ``start`` to end event streams as well. ``password`` has to be given first where it is set.
    """

    def __init__(self, world: World) -> None:
        super().__init__("http://127.0.0.1:8337")
        self.world = world
        self.calls: list[tuple[Any, ...]] = []
        self.fail: dict[str, CyberError] = {}
        self.password = ""
        self.restarts: tuple[str, ...] = ()
        """The models that a change of a setting which applies at once loads anew."""
        self.up = True
        self.chat_pace = asyncio.Event()
        """Cleared: a streamed answer waits before each of its pieces but the first."""
        self.chat_pace.set()
        self.first_piece = asyncio.Event()
        """Cleared: an answer tells why it waits, and goes on waiting."""
        self.first_piece.set()
        self.chats_open = 0
        """Streamed answers that nobody has closed."""
        self.searches: list[tuple[str, str, str | None]] = []
        """What the hub was searched for: text, order, cursor."""
        self.hub_pace = asyncio.Event()
        """Cleared: the hub does not answer."""
        self.hub_pace.set()
        self._logged_in = False
        self._streams: set[asyncio.Queue[ServerEvent | None]] = set()
        self._last_id = 100
        self._answers: dict[Endpoint[Any, Any, Any], Answerer[Any, Any, Any]] = {}
        self._register()

    def _register(self) -> None:
        """What each endpoint is answered by."""
        answer = self.answer
        world = self.world
        answer(endpoints.STATUS, lambda call: self.status())
        answer(endpoints.RESOURCES, lambda call: self._shown("resources", world.samples[-1]))
        answer(
            endpoints.RESOURCE_HISTORY,
            lambda call: self._shown("resource_history", list(world.samples)),
        )
        answer(endpoints.PROBLEMS, lambda call: self._shown("problems", list(world.problems)))
        answer(endpoints.MEMORY, lambda call: self._shown("memory_room", list(world.rooms)))
        answer(endpoints.INSTALLATION, lambda call: self._shown("install_state", world.install))
        answer(endpoints.INSTALL, lambda call: self.install(call.body.source))
        answer(endpoints.CANCEL_INSTALL, lambda call: self.cancel_install())
        answer(endpoints.ADD_DEMO, lambda call: self.add_demo())
        answer(endpoints.MODELS, lambda call: self._shown("models", list(world.models.values())))
        answer(endpoints.DETAILS, lambda call: self.details(call.name))
        answer(endpoints.LOAD, lambda call: self.load(call.name, wait=call.query.wait))
        answer(endpoints.UNLOAD, lambda call: self.unload(call.name, force=call.query.force))
        answer(endpoints.PIN, lambda call: self.pin(call.name, True))
        answer(endpoints.UNPIN, lambda call: self.pin(call.name, False))
        answer(endpoints.DELETE_MODEL, lambda call: self.delete(call.name))
        answer(
            endpoints.SESSIONS,
            lambda call: self._shown(
                "sessions",
                [one for one in world.sessions if call.query.model in {None, one.model}],
            )[: call.query.limit],
        )
        answer(
            endpoints.ACTIVE_REQUESTS,
            lambda call: self._shown("active_requests", list(world.active)),
        )
        answer(endpoints.REQUESTS, lambda call: self.requests(call.query))
        answer(endpoints.TOTALS, lambda call: self._shown("totals", list(world.totals)))
        answer(endpoints.LOGS, lambda call: self._shown("logs", [*map(self._log, world.logs)]))
        answer(endpoints.LOG_LINES, lambda call: self.log_lines(call.name, call.query))
        answer(endpoints.CONFIG, lambda call: self._shown("config", list(world.config.values())))
        answer(endpoints.SET_CONFIG, lambda call: self.set_config(call.name, call.body.value))
        answer(endpoints.CHECK_CONFIG, lambda call: self.checked(call.name, call.body.value))
        answer(endpoints.UNSET_CONFIG, lambda call: self.unset_config(call.name))
        answer(endpoints.SEARCH, lambda call: self.found(call.query))
        answer(endpoints.HUB_FILES, lambda call: self.hub_files(call.query.repo))
        answer(
            endpoints.DOWNLOADS,
            lambda call: self._shown("downloads", list(world.downloads.values())),
        )
        answer(endpoints.DOWNLOAD, lambda call: self.download(call.body.repo, call.body.filename))
        answer(
            endpoints.CANCEL_DOWNLOAD,
            lambda call: self.cancel_download(call.name, keep=call.query.keep),
        )
        change = self._change_download
        answer(
            endpoints.PAUSE_DOWNLOAD,
            lambda call: change("pause_download", call.name, DownloadStatus.PAUSED),
        )
        answer(
            endpoints.RESUME_DOWNLOAD,
            lambda call: change("resume_download", call.name, DownloadStatus.QUEUED),
        )
        answer(
            endpoints.RETRY_DOWNLOAD,
            lambda call: change("retry_download", call.name, DownloadStatus.QUEUED),
        )

    def answer(self, endpoint: Endpoint[Q, B, A], answer: Answerer[Q, B, A]) -> None:
        self._answers[endpoint] = answer

    async def call_with_headers(
        self,
        endpoint: Endpoint[Q, B, A],
        name: str = "",
        *,
        query: Q | None = None,
        body: B | None = None,
        timeout: float | None = None,
    ) -> tuple[A, Mapping[str, str]]:
        query = endpoint.query() if query is None else query
        body = endpoint.body() if body is None else body
        result = self._answers[endpoint](Call(name, query, body))
        if inspect.isawaitable(result):
            result = await result
        reply: WithHeaders[Any] = (
            result if isinstance(result, WithHeaders) else WithHeaders(result, {})
        )
        return msgspec.json.decode(to_json(reply.value), type=endpoint.answer), reply.headers

    # What tests do with it

    def publish(self, topic: str, record: Any) -> None:
        """Tell everyone who follows."""
        self._last_id += 1
        event = ServerEvent(id=self._last_id, topic=topic, data=to_json(record))
        for stream in self._streams:
            stream.put_nowait(event)

    def set_model(self, model_id: str, **changes: Any) -> ModelRecord:
        """Change a model, and tell of it."""
        record = msgspec.structs.replace(self.world.models[model_id], **changes)
        self.world.models[model_id] = record
        self.publish("model", record)
        return record

    def stop(self) -> None:
        """The service is gone."""
        self.up = False
        for stream in self._streams:
            stream.put_nowait(None)

    def start(self, **changes: Any) -> None:
        """The service is there again; ``changes`` of its status, such as another pid."""
        self.up = True
        self.world.status = msgspec.structs.replace(self.world.status, **changes)

    @property
    def streams(self) -> int:
        """How many follow the events."""
        return len(self._streams)

    def _ask(self, name: str) -> None:
        if not self.up:
            raise NoServiceError(f"No service answers at {self.url} (connection refused).")
        if self.password and not self._logged_in:
            raise AdminLoginError("The service wants its admin password.")
        if name in self.fail:
            raise self.fail[name]

    def _shown(self, name: str, value: A) -> A:
        self._ask(name)
        return value

    def _do(self, name: str, *arguments: Any) -> None:
        self._ask(name)
        self.calls.append((name, *arguments))

    def _model(self, model_id: str) -> ModelRecord:
        try:
            return self.world.models[model_id]
        except KeyError:
            raise ModelNotFoundError(f"There is no model {model_id}.") from None

    # What it answers

    async def login(self, password: str) -> LoginRecord:
        self.calls.append(("login", password))
        if password != self.password:
            raise AdminLoginError("The password is wrong.")
        self._logged_in = True
        return LoginRecord(access_token="token", expires_in=60)

    async def status(self) -> StatusRecord:
        self._ask("status")
        return msgspec.structs.replace(self.world.status, last_event_id=self._last_id)

    async def install(self, source: str) -> InstallRecord:
        self._do("install", source)
        self.world.install = msgspec.structs.replace(
            self.world.install, state=InstallState.RUNNING, source=source, step="downloading"
        )
        return self.world.install

    async def cancel_install(self) -> InstallRecord:
        self._do("cancel_install")
        self.world.install = msgspec.structs.replace(
            self.world.install, state=InstallState.CANCELLED, step=None
        )
        return self.world.install

    async def add_demo(self) -> ModelRecord:
        self._do("add_demo")
        record = ModelRecord(id="demo", size_bytes=5_000_000, origin="demo")
        self.world.models = dict(sorted({**self.world.models, "demo": record}.items()))
        self.publish("model", record)
        return record

    async def events(
        self,
        topics: Collection[str] = (),
        *,
        after: int | None = None,
        patience: float = 30.0,
        on_lost: Callable[[], None] = lambda: None,
        logs: Collection[str] = (),
    ) -> AsyncGenerator[ServerEvent, None]:
        self._ask("events")
        stream: asyncio.Queue[ServerEvent | None] = asyncio.Queue()
        self._streams.add(stream)
        try:
            while True:
                event = await stream.get()
                if event is None:
                    on_lost()
                    raise NoServiceError("The stream broke off.")
                if topics and event.topic not in {*topics, "gap"}:
                    continue
                if event.topic == "log" and msgspec.json.decode(event.data)["id"] not in (
                    logs or self.world.logs
                ):
                    continue
                yield event
        finally:
            self._streams.discard(stream)

    async def details(self, model_id: str) -> ModelDetails:
        self._ask("details")
        record = self._model(model_id)
        found = self.world.details.get(model_id) or ModelDetails(model=record)
        return msgspec.structs.replace(found, model=record)

    async def load(self, model_id: str, *, wait: bool) -> ModelRecord:
        self._do("load", model_id)
        self._model(model_id)
        if wait:
            return self.set_model(model_id, status=ModelStatus.LOADED, progress=None)
        return self.set_model(model_id, status=ModelStatus.LOADING, progress=0.0)

    async def unload(self, model_id: str, *, force: bool) -> ModelRecord:
        self._do("unload", model_id, force)
        self._model(model_id)
        return self.set_model(model_id, status=ModelStatus.UNLOADED, memory_bytes=None)

    async def pin(self, model_id: str, pinned: bool) -> ModelRecord:
        self._do("pin", model_id, pinned)
        self._model(model_id)
        return self.set_model(model_id, pinned=pinned)

    async def delete(self, model_id: str) -> ModelRecord:
        self._do("delete", model_id)
        record = self._model(model_id)
        del self.world.models[model_id]
        self.publish("model", {"id": model_id, "status": None})
        return record

    async def requests(self, query: RequestQuery) -> list[RequestRecord]:
        self._ask("requests")
        return [
            one
            for one in self.world.requests
            if (query.before is None or one.id < query.before)
            and query.model in {None, one.model}
            and query.failed in {None, one.status >= 400 or one.error is not None}
        ][: query.limit]

    def _log(self, name: str) -> LogRecord:
        lines = self.world.logs.get(name)
        if lines is None:
            raise ModelNotFoundError(f"There is no model {name}.")
        errors = [one.number for one in lines if one.level is LogLevel.ERROR]
        return LogRecord(
            id=name,
            first=lines[0].number if lines else 0,
            end=lines[-1].number + 1 if lines else 0,
            last_at=lines[-1].at if lines else None,
            last_error=errors[-1] if errors else None,
            runs=self.world.runs.get(name, ()),
        )

    async def log_lines(self, source: str, query: LinesQuery) -> LogPage:
        self._ask("log_lines")
        log = self._log(source)
        least = 0 if query.level is None else _LEVELS.index(query.level)
        lines = [
            one
            for one in self.world.logs[source]
            if (query.before is None or one.number < query.before)
            and (query.after is None or one.number >= query.after)
            and _LEVELS.index(one.level) >= least
            and query.q.lower() in one.text.lower()
        ]
        forwards = query.after is not None
        reached = log.end if forwards else log.first
        if len(lines) > query.limit:
            lines = lines[: query.limit] if forwards else lines[-query.limit :]
            reached = lines[-1].number + 1 if forwards else lines[0].number
        return LogPage(log=log, lines=tuple(lines), searched_to=reached)

    async def checked(self, key: str, value: Any) -> ConfigCheckRecord:
        self._ask("check_config")
        if key.startswith("models."):
            return ConfigCheckRecord(
                key=key, value=value, effect=SettingEffect.RESTARTS_MODELS, models=(_table(key),)
            )
        known = self._setting(key)
        effect = SettingEffect.NOW if known.live else SettingEffect.RESTARTS_SERVICE
        if known.source in {"env", "flag"}:
            effect = SettingEffect.OVERRIDDEN
        elif self.restarts and known.live:
            effect = SettingEffect.RESTARTS_MODELS
        return ConfigCheckRecord(key=key, value=value, effect=effect, models=self.restarts)

    def _setting(self, key: str) -> ConfigValueRecord:
        try:
            return self.world.config[key]
        except KeyError:
            raise NotFoundError(f"There is no setting {key}.") from None

    async def set_config(self, key: str, value: Any) -> ConfigValueRecord:
        self._do("set_config", key, value)
        if key.startswith("models."):
            return ConfigValueRecord(key=key, value=value, source="file", default=None, help="")
        source = self._setting(key).source
        source = source if source in {"env", "flag"} else "file"
        record = msgspec.structs.replace(self._setting(key), value=value, source=source)
        self.world.config[key] = record
        if key == "llama_server_path" and source == "file":
            self._use_llama_server(value)
        self.publish("config", {"error": None})
        return record

    def _use_llama_server(self, path: str) -> None:
        there = path.startswith("/opt/")
        problem = f"llama_server_path is {path}, but there is no such file."
        self.world.status = msgspec.structs.replace(
            self.world.status,
            llama_server=LlamaServerRecord(
                path=path if there else None, problem=None if there else problem
            ),
        )

    async def unset_config(self, key: str) -> ConfigValueRecord:
        self._do("unset_config", key)
        if key.startswith("models."):
            return ConfigValueRecord(key=key, value=None, source="default", default=None, help="")
        known = self._setting(key)
        record = msgspec.structs.replace(known, value=known.default, source="default")
        self.world.config[key] = record
        self.publish("config", {"error": None})
        return record

    async def found(self, query: SearchQuery) -> WithHeaders[list[HubModelRecord]]:
        self.searches.append((query.q, query.sort, query.cursor))
        await self.hub_pace.wait()
        self._ask("hub_search")
        found = [one for one in self.world.found if query.q.lower() in one.repo.lower()]
        start = int(query.cursor or 0)
        end = start + query.limit
        return WithHeaders(found[start:end], {NEXT_CURSOR: str(end)} if end < len(found) else {})

    async def hub_files(self, repo: str) -> list[HubFilesRecord]:
        await self.hub_pace.wait()
        self._ask("hub_files")
        return list(self.world.hub_files.get(repo, []))

    async def download(self, repo: str, filename: str | None) -> DownloadRecord:
        self._do("download", repo, filename)
        record = DownloadRecord(
            id=f"d{len(self.world.downloads) + 1}",
            repo=repo,
            filename=filename,
            status=DownloadStatus.QUEUED,
        )
        return self._set_download(record)

    def _set_download(self, record: DownloadRecord) -> DownloadRecord:
        self.world.downloads[record.id] = record
        self.publish("download", record)
        return record

    def _one_download(self, download_id: str) -> DownloadRecord:
        try:
            return self.world.downloads[download_id]
        except KeyError:
            raise NotFoundError(f"There is no download {download_id}.") from None

    def _change_download(self, name: str, download_id: str, new: DownloadStatus) -> DownloadRecord:
        self._do(name, download_id)
        known = self._one_download(download_id)
        return self._set_download(msgspec.structs.replace(known, status=new, error=None))

    async def cancel_download(self, download_id: str, *, keep: bool) -> DownloadRecord:
        self._do("cancel_download", download_id, keep)
        known = self._one_download(download_id)
        return self._set_download(
            msgspec.structs.replace(known, status=DownloadStatus.CANCELLED, error=None)
        )

    async def chat(
        self,
        model: str,
        messages: Sequence[Mapping[str, Any]],
        *,
        sampling: Mapping[str, Any] | None = None,
    ) -> AsyncGenerator[ChatDelta, None]:
        self._do("chat", model, [dict(one) for one in messages], dict(sampling or {}))
        self._model(model)
        self.chats_open += 1
        try:
            if self.world.models[model].status is not ModelStatus.LOADED:
                yield ChatDelta(waiting=f"loading {model} 42%")
            await self.first_piece.wait()
            for piece in self.world.thinking:
                yield ChatDelta(thinking=piece)
            for number, piece in enumerate(self.world.answer):
                if number:
                    await self.chat_pace.wait()
                yield ChatDelta(text=piece)
            yield ChatDelta(
                finish_reason="stop",
                tokens_in=12,
                tokens_out=len(self.world.answer),
                tokens_per_second=21.4,
            )
        finally:
            self.chats_open -= 1


def _table(key: str) -> str:
    return key.removeprefix("models.").rpartition(".")[0].strip('"')
