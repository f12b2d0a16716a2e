"""A small service with canned answers, on a thread of its own, for the tests of commands."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from aiohttp import web

from cyber_inference_tui.errors import CyberError, ModelNotFoundError
from cyber_inference_tui.http.body_limits import BODY_LIMITS, BodyLimits
from cyber_inference_tui.http.error_responses import error_response
from cyber_inference_tui.http.routing import RouteTable, WithHeaders
from cyber_inference_tui.records import (
    ClientRecord,
    LlamaServerRecord,
    LoginRecord,
    ModelRecord,
    ModelStatus,
    PortRecord,
    StatusRecord,
    endpoints,
)
from cyber_inference_tui.records.endpoints import LOG_POSITION
from cyber_inference_tui.settings.schema import Settings
from tests.waiting import LIMIT


class StandIn:
    """Set its attributes, then send requests. ``requests`` has all requests, in order."""

    def __init__(self) -> None:
        self.port = 0
        self.models: dict[str, ModelRecord] = {}
        self.logs: dict[str, str] = {}
        self.answers: dict[tuple[str, str], Any] = {}
        """Answers to any requests, by method, path and query."""
        self.llama_path: str | None = "/opt/llama-server"
        self.devices_problem: str | None = None
        self.extra_ports: tuple[PortRecord, ...] = ()
        self.clients: list[ClientRecord] = []
        self.load_error: CyberError | None = None
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.password = ""
        """If set, every request needs one of ``tokens``."""
        self.tokens: list[str] = []
        self.history: list[tuple[int, str, bytes]] = []
        self.streams_opened: list[str | None] = []
        self.drop_after: int | None = None
        """The number of events after which the next event stream is cut, once."""
        self.end_after: int | None = None
        self.end_with = (503, "shutting_down", "The service is stopping.")
        """The refusal of further event streams after ``end_after``; the last open stream is cut."""
        self.on_log: Callable[[], object] = lambda: None
        """Called when the tail of a log has been read."""
        self.on_events: Callable[[], object] = lambda: None
        """Called when an event stream has been opened."""
        self.load_after_events = 0
        """A load is answered after this many events."""
        self._sent = 0
        self._notifier: asyncio.Condition | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def publish(self, topic: str, data: Any) -> None:
        """Send one event to all streams; callable from any thread."""
        self.history.append((len(self.history) + 1, topic, msgspec.json.encode(data)))
        if self._loop is not None and self._notifier is not None:
            asyncio.run_coroutine_threadsafe(self._wake(), self._loop)

    async def _wake(self) -> None:
        assert self._notifier is not None
        async with self._notifier:
            self._notifier.notify_all()

    def _app(self) -> web.Application:
        table = RouteTable(lambda: 1 << 20, lambda name: False, lambda headers: True)
        answer = table.answer
        answer(endpoints.STATUS, lambda call: self._status())
        answer(endpoints.CLIENTS, lambda call: self.clients)
        answer(endpoints.MODELS, lambda call: list(self.models.values()))
        answer(endpoints.MODEL, lambda call: self._model(call.name))
        answer(endpoints.LOAD, lambda call: self._load(call.name))
        answer(
            endpoints.UNLOAD,
            lambda call: self._change(call.name, ModelStatus.UNLOADED, port=None),
        )
        answer(endpoints.LOG_TAIL, lambda call: self._log(call.name, call.query.lines))
        table.handle(endpoints.LOGIN, self._login)
        table.handle(endpoints.EVENTS, self._events)
        app = web.Application(middlewares=[self._check])
        app[BODY_LIMITS] = BodyLimits(Settings)
        table.register(app)
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
        try:
            answer: web.StreamResponse = await handler(request)
        except CyberError as problem:
            return error_response(problem, request.path)
        return answer

    async def _login(self, request: web.Request) -> web.Response:
        if (await request.json())["password"] != self.password:
            return error(401, "invalid_admin_password", "The admin password is wrong.")
        self.tokens.append(f"token-{len(self.tokens)}")
        return as_json(LoginRecord(access_token=self.tokens[-1], expires_in=60))

    def _status(self) -> StatusRecord:
        loaded = [m for m in self.models.values() if m.status is ModelStatus.LOADED]
        return StatusRecord(
            version="9.9.9",
            pid=4242,
            uptime_seconds=7503.2,
            host="127.0.0.1",
            port=self.port,
            extra_ports=self.extra_ports,
            llama_server=LlamaServerRecord(
                path=self.llama_path, version="b9999", devices_problem=self.devices_problem
            ),
            models_loaded=len(loaded),
            requests_in_flight=3,
            requests_queued=1,
        )

    def _model(self, name: str) -> ModelRecord:
        for model in self.models.values():
            known = {model.id.casefold(), *(alias.casefold() for alias in model.aliases)}
            if name.casefold() in known:
                return model
        raise ModelNotFoundError(f"There is no model {name}.")

    async def _load(self, name: str) -> ModelRecord:
        if self.load_error is not None:
            raise self.load_error
        assert self._notifier is not None
        async with self._notifier:
            await self._notifier.wait_for(lambda: self._sent >= self.load_after_events)
        return self._change(name, ModelStatus.LOADED, port=8338)

    def _change(self, name: str, status: ModelStatus, **more: Any) -> ModelRecord:
        if name not in self.models:
            raise ModelNotFoundError(f"There is no model {name}.")
        self.models[name] = msgspec.structs.replace(self.models[name], status=status, **more)
        return self.models[name]

    def _log(self, name: str, count: int) -> WithHeaders[str]:
        if name not in self.logs:
            raise ModelNotFoundError(f"There is no model {name}.")
        lines = self.logs[name].splitlines(keepends=True)
        headers = {LOG_POSITION: str(len(self.history))}
        text = "".join(lines[len(lines) - count :] if count < len(lines) else lines)
        self.on_log()
        return WithHeaders(text, headers)

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
        assert self._notifier is not None
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
                async with self._notifier:
                    self._sent += 1
                    self._notifier.notify_all()
                if self.drop_after is not None and sent >= self.drop_after:
                    self.drop_after = None
                    assert request.transport is not None
                    request.transport.abort()
                    return response
            if len(self.streams_opened) == self.end_after:
                return response
            async with self._notifier:
                if at >= len(self.history):
                    await self._notifier.wait()

    async def _serve(self, ready: threading.Event, stop: asyncio.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._notifier = asyncio.Condition()
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
        """Serve on a free port, on a thread with its own loop."""
        ready = threading.Event()
        stop = asyncio.Event()
        thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready, stop)))
        thread.start()
        try:
            assert ready.wait(LIMIT)
            yield self
        finally:
            assert self._loop is not None
            self._loop.call_soon_threadsafe(stop.set)
            thread.join(LIMIT)


def as_json(value: Any) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


def error(status: int, code: str, message: str) -> web.Response:
    body = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    headers = {"Retry-After": "7"} if status == 429 else {}
    return web.json_response({"error": body}, status=status, headers=headers)
