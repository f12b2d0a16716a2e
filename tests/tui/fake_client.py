"""A client without a service: answers from a ``World``, and notes what it was asked to do."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from cyber_inference_tui.client.completions import ChatDelta
from cyber_inference_tui.client.events import ServerEvent
from cyber_inference_tui.errors import (
    AdminLoginError,
    CyberError,
    ModelNotFoundError,
    NoServiceError,
    NotFoundError,
)
from cyber_inference_tui.records import (
    ActiveRequestRecord,
    ConfigCheckRecord,
    ConfigFileRecord,
    ConfigValueRecord,
    DownloadRecord,
    DownloadStatus,
    HubFilesRecord,
    HubModelRecord,
    InstallRecord,
    InstallState,
    LlamaServerRecord,
    LogLevel,
    LogPage,
    LogRecord,
    MemoryRoom,
    ModelDetails,
    ModelRecord,
    ModelStatus,
    ModelTotals,
    ProblemRecord,
    RequestRecord,
    ResourceSample,
    SessionRecord,
    SettingEffect,
    StatusRecord,
    to_json,
)
from tests.tui.world import World

_LEVELS = list(LogLevel)


class FakeClient:
    """Implements ``client.protocol.Client``.

    ``calls`` holds what was asked for that changes something, in order. An error in ``fail`` is
    raised by the method of that name. ``up`` is ``False`` while there is no service; use ``stop``
    and ``start`` to end event streams as well. ``password`` has to be given first where it is set.
    """

    def __init__(self, world: World) -> None:
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

    @property
    def url(self) -> str:
        return "http://127.0.0.1:8337"

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

    def _do(self, name: str, *arguments: Any) -> None:
        self._ask(name)
        self.calls.append((name, *arguments))

    def _model(self, model_id: str) -> ModelRecord:
        try:
            return self.world.models[model_id]
        except KeyError:
            raise ModelNotFoundError(f"There is no model {model_id}.") from None

    # The protocol

    async def login(self, password: str) -> None:
        self.calls.append(("login", password))
        if password != self.password:
            raise AdminLoginError("The password is wrong.")
        self._logged_in = True

    async def status(self) -> StatusRecord:
        self._ask("status")
        return msgspec.structs.replace(self.world.status, last_event_id=self._last_id)

    async def resources(self) -> ResourceSample:
        self._ask("resources")
        return self.world.samples[-1]

    async def resource_history(self, seconds: int) -> list[ResourceSample]:
        self._ask("resource_history")
        return list(self.world.samples)

    async def problems(self) -> list[ProblemRecord]:
        self._ask("problems")
        return list(self.world.problems)

    async def memory_room(self) -> list[MemoryRoom]:
        self._ask("memory_room")
        return list(self.world.rooms)

    async def install_state(self) -> InstallRecord:
        self._ask("install_state")
        return self.world.install

    async def install(self, source: str = "auto") -> InstallRecord:
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
        logs: Sequence[str] = (),
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

    async def models(self) -> list[ModelRecord]:
        self._ask("models")
        return list(self.world.models.values())

    async def details(self, model_id: str) -> ModelDetails:
        self._ask("details")
        record = self._model(model_id)
        found = self.world.details.get(model_id) or ModelDetails(model=record)
        return msgspec.structs.replace(found, model=record)

    async def load(
        self, model_id: str, *, wait: bool = True, timeout: float | None = None
    ) -> ModelRecord:
        self._do("load", model_id)
        self._model(model_id)
        if wait:
            return self.set_model(model_id, status=ModelStatus.LOADED, progress=None)
        return self.set_model(model_id, status=ModelStatus.LOADING, progress=0.0)

    async def unload(
        self, model_id: str, *, force: bool = False, timeout: float | None = None
    ) -> ModelRecord:
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

    async def sessions(
        self,
        *,
        limit: int = 100,
        before: int | None = None,
        model: str | None = None,
        since: datetime | None = None,
    ) -> list[SessionRecord]:
        self._ask("sessions")
        return [one for one in self.world.sessions if model in {None, one.model}][:limit]

    async def active_requests(self) -> list[ActiveRequestRecord]:
        self._ask("active_requests")
        return list(self.world.active)

    async def requests(
        self,
        *,
        limit: int = 100,
        before: int | None = None,
        model: str | None = None,
        failed: bool | None = None,
        since: datetime | None = None,
    ) -> list[RequestRecord]:
        self._ask("requests")
        return [
            one
            for one in self.world.requests
            if (before is None or one.id < before)
            and model in {None, one.model}
            and (failed is None or failed == (one.status >= 400 or one.error is not None))
        ][:limit]

    async def totals(self) -> list[ModelTotals]:
        self._ask("totals")
        return list(self.world.totals)

    async def logs(self) -> list[LogRecord]:
        self._ask("logs")
        return [self._log(name) for name in self.world.logs]

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

    async def log_lines(
        self,
        source: str,
        *,
        before: int | None = None,
        after: int | None = None,
        limit: int = 1000,
        level: LogLevel | None = None,
        q: str | None = None,
    ) -> LogPage:
        self._ask("log_lines")
        log = self._log(source)
        least = 0 if level is None else _LEVELS.index(level)
        lines = [
            one
            for one in self.world.logs[source]
            if (before is None or one.number < before)
            and (after is None or one.number >= after)
            and _LEVELS.index(one.level) >= least
            and (q is None or q.lower() in one.text.lower())
        ]
        forwards = after is not None
        reached = log.end if forwards else log.first
        if len(lines) > limit:
            lines = lines[:limit] if forwards else lines[-limit:]
            reached = lines[-1].number + 1 if forwards else lines[0].number
        return LogPage(log=log, lines=tuple(lines), searched_to=reached)

    async def config(self) -> list[ConfigValueRecord]:
        self._ask("config")
        return list(self.world.config.values())

    async def check_config(self, key: str, value: Any) -> ConfigCheckRecord:
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

    async def config_file(self) -> ConfigFileRecord:
        self._ask("config_file")
        text = self.world.config_text
        digest = hashlib.sha256(text.encode()).hexdigest()
        path = self.world.status.config_path or "config.toml"
        return ConfigFileRecord(path=path, text=text, digest=digest)

    async def set_config_file(self, text: str, digest: str) -> ConfigFileRecord:
        self._do("set_config_file", text)
        self.world.config_text = text
        return await self.config_file()

    async def hub_search(
        self, q: str, *, sort: str = "downloads", limit: int = 30, cursor: str | None = None
    ) -> tuple[list[HubModelRecord], str | None]:
        self.searches.append((q, sort, cursor))
        await self.hub_pace.wait()
        self._ask("hub_search")
        found = [one for one in self.world.found if q.lower() in one.repo.lower()]
        start = int(cursor or 0)
        more = str(start + limit) if start + limit < len(found) else None
        return found[start : start + limit], more

    async def hub_files(self, repo: str, revision: str | None = None) -> list[HubFilesRecord]:
        await self.hub_pace.wait()
        self._ask("hub_files")
        return list(self.world.hub_files.get(repo, []))

    async def downloads(self) -> list[DownloadRecord]:
        self._ask("downloads")
        return list(self.world.downloads.values())

    async def download(
        self, repo: str, filename: str | None = None, revision: str | None = None
    ) -> DownloadRecord:
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

    async def cancel_download(self, download_id: str, *, keep: bool = False) -> DownloadRecord:
        self._do("cancel_download", download_id, keep)
        known = self._one_download(download_id)
        return self._set_download(
            msgspec.structs.replace(known, status=DownloadStatus.CANCELLED, error=None)
        )

    async def pause_download(self, download_id: str) -> DownloadRecord:
        return self._change_download("pause_download", download_id, DownloadStatus.PAUSED)

    async def resume_download(self, download_id: str) -> DownloadRecord:
        return self._change_download("resume_download", download_id, DownloadStatus.QUEUED)

    async def retry_download(self, download_id: str) -> DownloadRecord:
        return self._change_download("retry_download", download_id, DownloadStatus.QUEUED)

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

    async def embed(self, model: str, texts: Sequence[str]) -> list[list[float]]:
        self._do("embed", model, list(texts))
        await self.first_piece.wait()
        return [[float(len(text)), 1.0, 0.5] for text in texts]


def _table(key: str) -> str:
    return key.removeprefix("models.").rpartition(".")[0].strip('"')
