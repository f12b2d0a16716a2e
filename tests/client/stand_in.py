"""A small service that speaks the admin API, with switches for what it answers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from aiohttp import web

from cyber_inference_tui.records import (
    InstallRecord,
    InstallState,
    LlamaServerRecord,
    LoginRecord,
    LogPage,
    ModelRecord,
    ModelStatus,
    ModelTotals,
    RequestRecord,
    ResourceSample,
    SessionRecord,
    StatusRecord,
)


class StandIn:
    """Change its attributes, then ask it. ``requests`` holds what arrived, in order."""

    def __init__(self) -> None:
        self.port = 0
        self.models: dict[str, ModelRecord] = {}
        self.logs: dict[str, str] = {}
        self.install = InstallRecord()
        self.pages: dict[str, LogPage] = {}
        """What ``log-lines`` answers, by the log's id."""
        self.samples: list[ResourceSample] = []
        self.past: dict[str, list[RequestRecord] | list[SessionRecord] | list[ModelTotals]] = {}
        """What ``requests``, ``sessions`` and ``totals`` answer."""
        self.answers: dict[tuple[str, str], Any] = {}
        """What any other request is answered, by its method, path and query."""
        self.llama_path: str | None = "/opt/llama-server"
        self.devices_problem: str | None = None
        self.load_error: tuple[int, dict[str, Any]] | None = None
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.password = ""
        """When set, everything wants a token: one of ``tokens``."""
        self.tokens: list[str] = []
        self.login_error: tuple[int, str, str] | None = None
        self.history: list[tuple[int, str, bytes]] = []
        self.log_position = True
        self.streams_opened: list[str | None] = []
        self.drop_after: int | None = None
        """Close an event stream once it has sent this many events (then serve normally)."""
        self.end_after: int | None = None
        self.end_with = (503, "shutting_down", "The service is stopping.")
        """How event streams are refused after ``end_after`` were opened; the last one is cut."""
        self.on_log: Callable[[], object] = lambda: None
        """Called once a log's tail has been read."""
        self.on_events: Callable[[], object] = lambda: None
        """Called once an event stream has been opened."""
        self.load_after_events = 0
        """A load is answered once this many events were sent (0: at once)."""
        self._sent = 0
        self._news: asyncio.Condition | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def publish(self, topic: str, data: Any) -> None:
        """Send one event to all streams; callable from any thread."""
        self.history.append((len(self.history) + 1, topic, msgspec.json.encode(data)))
        if self._loop is not None and self._news is not None:
            asyncio.run_coroutine_threadsafe(self._wake(), self._loop)

    async def _wake(self) -> None:
        assert self._news is not None
        async with self._news:
            self._news.notify_all()

    def _app(self) -> web.Application:
        app = web.Application(middlewares=[self._check])
        app.router.add_post("/admin/login", self._login)
        app.router.add_get("/admin/status", self._status)
        app.router.add_get("/admin/resources", self._resources)
        app.router.add_get("/admin/install", self._install)
        app.router.add_post("/admin/install", self._install)
        app.router.add_delete("/admin/install", self._install)
        app.router.add_post("/admin/demo", self._demo)
        app.router.add_get("/admin/models", self._models)
        app.router.add_get("/admin/models/{id:.+}", self._model)
        app.router.add_post("/admin/models/{id:.+}/load", self._load)
        app.router.add_post("/admin/models/{id:.+}/unload", self._unload)
        app.router.add_get("/admin/logs", self._logs)
        app.router.add_get("/admin/logs/{id:.+}", self._log)
        app.router.add_get("/admin/log-lines/{id:.+}", self._log_lines)
        app.router.add_get("/admin/{list:requests|sessions|totals}", self._past)
        app.router.add_get("/admin/events", self._events)
        return app

    @web.middleware
    async def _check(self, request: web.Request, handler: Any) -> web.StreamResponse:
        body = await request.read()
        self.requests.append((request.method, request.path_qs, dict(request.headers), body))
        offered = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.password and offered not in self.tokens and request.path != "/admin/login":
            return error(401, "admin_login_required", "This needs a login.")
        if request.method == "POST" and request.content_type != "application/json":
            return error(415, "unsupported_media_type", "Send JSON.")
        if (request.method, request.raw_path) in self.answers:
            return as_json(self.answers[request.method, request.raw_path])
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _login(self, request: web.Request) -> web.Response:
        if self.login_error is not None:
            return error(*self.login_error)
        if (await request.json())["password"] != self.password:
            return error(401, "invalid_admin_password", "The admin password is wrong.")
        self.tokens.append(f"token-{len(self.tokens)}")
        return as_json(LoginRecord(access_token=self.tokens[-1], expires_in=60))

    async def _status(self, request: web.Request) -> web.Response:
        loaded = [m for m in self.models.values() if m.status is ModelStatus.LOADED]
        return as_json(
            StatusRecord(
                version="9.9.9",
                pid=4242,
                uptime_seconds=7503.2,
                host="127.0.0.1",
                port=self.port,
                llama_server=LlamaServerRecord(
                    path=self.llama_path, version="b9999", devices_problem=self.devices_problem
                ),
                models_loaded=len(loaded),
                requests_in_flight=3,
                requests_queued=1,
            )
        )

    async def _resources(self, request: web.Request) -> web.Response:
        return as_json(self.samples if "history" in request.query else self.samples[-1])

    async def _install(self, request: web.Request) -> web.Response:
        if request.method == "POST":
            wish = msgspec.json.decode(await request.read(), type=dict[str, str])
            self.install = InstallRecord(state=InstallState.RUNNING, source=wish["from"])
        elif request.method == "DELETE":
            self.install = InstallRecord(state=InstallState.CANCELLED)
        return as_json(self.install)

    async def _demo(self, request: web.Request) -> web.Response:
        return as_json(self.models.setdefault("demo", ModelRecord(id="demo")))

    async def _models(self, request: web.Request) -> web.Response:
        return as_json(list(self.models.values()))

    async def _model(self, request: web.Request) -> web.Response:
        name = request.match_info["id"].casefold()
        for model in self.models.values():
            if name in {model.id.casefold(), *(alias.casefold() for alias in model.aliases)}:
                return as_json(model)
        return error(404, "model_not_found", f"There is no model {name}.")

    async def _load(self, request: web.Request) -> web.Response:
        if self.load_error is not None:
            status, body = self.load_error
            return web.json_response({"error": body}, status=status)
        assert self._news is not None
        async with self._news:
            await self._news.wait_for(lambda: self._sent >= self.load_after_events)
        return self._change(request, ModelStatus.LOADED, port=8338)

    async def _unload(self, request: web.Request) -> web.Response:
        return self._change(request, ModelStatus.UNLOADED, port=None)

    def _change(self, request: web.Request, status: ModelStatus, **more: Any) -> web.Response:
        name = request.match_info["id"]
        if name not in self.models:
            return error(404, "model_not_found", f"There is no model {name}.")
        changed = msgspec.structs.replace(self.models[name], status=status, **more)
        self.models[name] = changed
        return as_json(changed)

    async def _past(self, request: web.Request) -> web.Response:
        return as_json(self.past.get(request.match_info["list"], []))

    async def _log(self, request: web.Request) -> web.Response:
        name = request.match_info["id"]
        if name not in self.logs:
            return error(404, "model_not_found", f"There is no model {name}.")
        lines = self.logs[name].splitlines(keepends=True)
        count = int(request.query.get("lines", "200"))
        headers = {"X-Last-Event-ID": str(len(self.history))} if self.log_position else {}
        text = "".join(lines[len(lines) - count :] if count < len(lines) else lines)
        self.on_log()
        return web.Response(text=text, headers=headers)

    async def _logs(self, request: web.Request) -> web.Response:
        return as_json([page.log for page in self.pages.values()])

    async def _log_lines(self, request: web.Request) -> web.Response:
        return as_json(self.pages[request.match_info["id"]])

    async def _events(self, request: web.Request) -> web.StreamResponse:
        last = request.headers.get("Last-Event-ID")
        at = int(last) if last is not None else len(self.history)
        self.streams_opened.append(last)
        if self.end_after is not None and len(self.streams_opened) > self.end_after:
            return error(*self.end_with)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b": hello\n\n")
        self.on_events()
        topics = request.query.get("topics", "").split(",")
        sent = 0
        assert self._news is not None
        while True:
            while at < len(self.history):
                number, topic, data = self.history[at]
                at += 1
                if topic not in topics and topic != "gap":
                    continue
                await response.write(
                    f"id: {number}\nevent: {topic}\n".encode() + b"data: " + data + b"\n\n"
                )
                sent += 1
                async with self._news:
                    self._sent += 1
                    self._news.notify_all()
                if self.drop_after is not None and sent >= self.drop_after:
                    self.drop_after = None
                    assert request.transport is not None
                    request.transport.abort()
                    return response
            if len(self.streams_opened) == self.end_after:
                return response
            async with self._news:
                if at >= len(self.history):
                    await self._news.wait()

    async def _serve(self, ready: threading.Event, stop: asyncio.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Condition()
        runner = web.AppRunner(self._app(), handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        ready.set()
        await stop.wait()
        await runner.cleanup()

    @contextmanager
    def running(self) -> Iterator[StandIn]:
        """Serve on a port of the kernel's, on a thread and loop of its own."""
        ready = threading.Event()
        stop = asyncio.Event()
        thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready, stop)))
        thread.start()
        try:
            assert ready.wait(10)
            yield self
        finally:
            assert self._loop is not None
            self._loop.call_soon_threadsafe(stop.set)
            thread.join(10)


def as_json(value: Any) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


def error(status: int, code: str, message: str) -> web.Response:
    body = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    headers = {"Retry-After": "7"} if status == 429 else {}
    return web.json_response({"error": body}, status=status, headers=headers)
