"""The hot path: a request for a model in, the model's server's own bytes out.

For a loaded model a request costs one look at its JSON, one look-up in the scheduler, and then
bytes are written from the server's connection straight to the client's transport, with
back-pressure both ways. The lease that keeps the model loaded ends with the last byte.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Protocol
from urllib.parse import unquote

import msgspec
from aiohttp import hdrs, web

from cyber_inference_tui.errors import (
    CyberError,
    InvalidRequestError,
    MethodNotAllowedError,
    ModelNotFoundError,
    NotFoundError,
    ShuttingDownError,
    UpstreamError,
)
from cyber_inference_tui.http.access import cors_headers
from cyber_inference_tui.http.body import Peek, peek, read_body, with_defaults, with_model
from cyber_inference_tui.http.errors import error_event
from cyber_inference_tui.http.framing import (
    HOP_BY_HOP,
    BadResponseError,
    BodyScanner,
    Framing,
    ResponseHead,
)
from cyber_inference_tui.http.routes import Kind, kind_of, methods_of
from cyber_inference_tui.http.upstream import ConnectionPool, Exchange, UpstreamLostError
from cyber_inference_tui.library.catalog import Catalog, LocalModel
from cyber_inference_tui.llama.launch import SERVER_HOST
from cyber_inference_tui.records import ModelStatus
from cyber_inference_tui.scheduler.scheduler import Scheduler
from cyber_inference_tui.scheduler.state import Lease
from cyber_inference_tui.settings.schema import Settings

FIRST_COMMENT_AFTER = 2.0
COMMENT_INTERVAL = 4.0
SEND_TIMEOUT = 300.0
"""Seconds a client may leave the answer unread before it counts as gone."""

_EXIT_NOTICE = 0.5
_MAX_ERROR_BODY = 1 << 20
_DROPPED = HOP_BY_HOP | {b"host", b"content-length", b"expect"}
# The body is passed on as it was read, and these are undone in reading.
_UNDONE_CODINGS = frozenset({b"gzip", b"deflate", b"br", b"zstd"})
_KEYS = frozenset({b"authorization", b"x-api-key"})
_BODYLESS = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})

_logger = logging.getLogger(__name__)


class ForwardsFor(Protocol):
    """What the forwarder needs of the service."""

    @property
    def settings(self) -> Settings:
        """The settings in force."""

    catalog: Catalog
    scheduler: Scheduler


class _Written(web.StreamResponse):
    """Tells aiohttp that the answer is on the transport already."""

    def __init__(self, *, keep_alive: bool) -> None:
        super().__init__()
        self._stays_open = keep_alive

    @property
    def keep_alive(self) -> bool | None:
        """Whether the connection serves another request."""
        return self._stays_open

    async def prepare(self, request: web.BaseRequest) -> None:
        """Nothing: the head is written."""

    async def write_eof(self, data: object = b"") -> None:
        """Nothing: the end is written."""


class _Target(msgspec.Struct):
    """Where a request goes."""

    model: LocalModel
    path: str
    """Path and query as the server gets them, percent-encoding untouched."""
    body: bytes
    stream: bool


class Forwarder:
    """Answers every model endpoint. ``close`` it when the service ends."""

    def __init__(self, service: ForwardsFor) -> None:
        self._service = service
        self._pool = ConnectionPool(SERVER_HOST)

    async def close(self) -> None:
        """Close the idle connections."""
        self._pool.close()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Find the model, get a place at it, pass the request on and its answer back."""
        target = await self._target(request)
        answer = _Answer(request, target.stream)
        try:
            lease = self._service.scheduler.try_acquire(target.model)
            if lease is None:
                lease = await self._wait_for_place(target, answer)
            with lease:
                await self._exchange(request, target, lease, answer)
        except CyberError as error:
            if not answer.begun:
                raise
            answer.fail(error)
        except Exception:
            if not answer.begun:
                raise
            # A defect of ours; a second answer inside the first would make it worse.
            _logger.exception("forwarding %s failed", target.path)
            answer.cut()
        return _Written(keep_alive=answer.keep_alive)

    # Which model

    async def _target(self, request: web.Request) -> _Target:
        raw_path, _, query = request.raw_path.partition("?")
        settings = self._service.settings
        named: LocalModel | None = None
        if raw_path.startswith("/upstream/"):
            named, raw_path = self._upstream_model(raw_path.removeprefix("/upstream/"))
        path = unquote(raw_path)
        if named is None:
            self._check_route(request, path)
        kind = kind_of(path)
        body = await read_body(request, settings.max_body_size)
        found = Peek()
        if request.method not in _BODYLESS or body:
            content_type = request.headers.get(hdrs.CONTENT_TYPE, "")
            if named is None or kind is Kind.INFERENCE:
                found = peek(body, content_type, must_be_object=kind is Kind.INFERENCE)
        model = named or self._resolve(
            found.model or request.query.get("model") or request.headers.get("X-Model")
        )
        if kind is Kind.INFERENCE and body:
            if model.settings.request_defaults:
                body = with_defaults(body, model.settings.request_defaults)
            if model.settings.command and found.model and found.model != model.id:
                body = with_model(body, model.id)
        full_path = f"{raw_path}?{query}" if query else raw_path
        return _Target(model, full_path, body, found.stream)

    def _upstream_model(self, rest: str) -> tuple[LocalModel, str]:
        """``ID/PATH`` taken apart; ids may contain slashes, so the longest id that exists wins."""
        end = len(rest)
        while end > 0:
            with contextlib.suppress(ModelNotFoundError):
                return self._service.catalog.resolve(unquote(rest[:end])), rest[end:] or "/"
            end = rest.rfind("/", 0, end)
        raise self._unknown(unquote(rest.partition("/")[0]))

    def _unknown(self, name: str) -> CyberError:
        try:
            self._service.catalog.resolve(name)
        except CyberError as error:
            return error
        return ModelNotFoundError(f"There is no model {name}.")

    def _check_route(self, request: web.Request, path: str) -> None:
        methods = methods_of(path)
        if not methods:
            # A server of the user's own may serve more than llama-server does.
            if path.startswith("/v1/") and self._has_custom_models():
                return
            raise NotFoundError(
                f"There is no endpoint {path}.",
                hint="Any path of a model's server is under /upstream/MODEL/.",
            )
        if request.method not in methods:
            raise MethodNotAllowedError(
                f"{path} is asked with {' or '.join(sorted(methods))}, not {request.method}."
            )

    def _has_custom_models(self) -> bool:
        return any(model.settings.command for model in self._service.catalog.models.values())

    def _resolve(self, name: str | None) -> LocalModel:
        catalog = self._service.catalog
        if name:
            return catalog.resolve(name)
        loaded = self._service.scheduler.loaded_ids
        if len(loaded) == 1:
            return catalog.resolve(loaded[0])
        raise InvalidRequestError(
            "The request names no model, and "
            + ("none is loaded." if not loaded else f"{len(loaded)} are loaded."),
            hint='Name one in the field "model", in ?model= or in the header X-Model.',
            param="model",
        )

    # A place at the model

    async def _wait_for_place(self, target: _Target, answer: _Answer) -> Lease:
        scheduler = self._service.scheduler
        if not answer.may_comment:
            return await scheduler.acquire(target.model)
        waiting = asyncio.ensure_future(scheduler.acquire(target.model))
        try:
            pause = FIRST_COMMENT_AFTER
            while not (await asyncio.wait({waiting}, timeout=pause))[0]:
                answer.comment(self._progress_of(target.model))
                pause = COMMENT_INTERVAL
        except BaseException:
            waiting.cancel()
            # It may have got its place in this very moment: then that is given back.
            with contextlib.suppress(asyncio.CancelledError, CyberError):
                (await waiting).release()
            raise
        return waiting.result()

    def _progress_of(self, model: LocalModel) -> str:
        state = self._service.scheduler.state(model.id)
        if state is None or state.status is not ModelStatus.LOADING:
            return f"queued {model.id}"
        done = "" if state.progress is None else f" {state.progress:.0%}"
        return f"loading {model.id}{done}"

    # The exchange

    async def _exchange(
        self, request: web.Request, target: _Target, lease: Lease, answer: _Answer
    ) -> None:
        head = self._request_head(request, target, lease.port)
        fresh = False
        while True:
            try:
                connection = await self._pool.connect(lease.port, fresh=fresh)
            except OSError:
                raise await self._upstream_error(lease, "its server does not answer") from None
            exchange = connection.begin(request.method, head, target.body)
            try:
                response = await exchange.head()
                await answer.relay(response, exchange)
            except UpstreamLostError as error:
                if connection.reused and error.untouched and not fresh:
                    # The server closed a kept connection in the moment we used it again; it
                    # cannot have begun to work on a request that it never answered a byte to.
                    fresh = True
                    continue
                raise await self._upstream_error(
                    lease, "its server closed the connection"
                ) from None
            except BadResponseError as error:
                raise await self._upstream_error(lease, str(error)) from None
            finally:
                exchange.finish()
            return

    async def _upstream_error(self, lease: Lease, what: str) -> CyberError:
        """Why the server failed the request; its exit is noticed a moment after its connection."""
        if self._service.scheduler.closing:
            return ShuttingDownError("The service is shutting down.")
        await lease.wait_exited(_EXIT_NOTICE)
        if lease.server_exited:
            what = lease.failure()
        return UpstreamError(f"{lease.model_id} failed to answer: {what}.")

    def _request_head(self, request: web.Request, target: _Target, port: int) -> bytes:
        dropped = _DROPPED | _KEYS if self._service.settings.api_keys else _DROPPED
        lines = [
            f"{request.method} {target.path} HTTP/1.1\r\nHost: {SERVER_HOST}:{port}\r\n".encode()
        ]
        lines += [
            b"%b: %b\r\n" % (name, value)
            for name, value in request.raw_headers
            if name.lower() not in dropped
            and not (name.lower() == b"content-encoding" and value.lower() in _UNDONE_CODINGS)
        ]
        if target.body or request.method not in _BODYLESS:
            lines.append(b"Content-Length: %d\r\n" % len(target.body))
        lines.append(b"\r\n")
        return b"".join(lines)


class _Answer:
    """The client's side of one request: what has been said, and how the rest is framed."""

    def __init__(self, request: web.Request, stream: bool) -> None:
        self._request = request
        self._transport = request.transport
        self._http11 = request.version >= (1, 1)
        self._commented = False
        self._scanner: BodyScanner | None = None
        self._event_stream = False
        self._rechunk = False
        self._held_head = b""
        self.begun = False
        self.keep_alive = bool(request.keep_alive)
        self.may_comment = stream and self._http11 and request.method == "POST"

    def comment(self, text: str) -> None:
        """An SSE comment, so that the client sees that its request is alive."""
        if not self._commented:
            self._commented = self._event_stream = self._rechunk = True
            self._write_head(
                200,
                b"OK",
                [(b"Content-Type", b"text/event-stream"), (b"Cache-Control", b"no-cache")],
                Framing.CHUNKED,
            )
        self._write_chunk(f": {text}\n\n".encode())

    async def relay(self, head: ResponseHead, exchange: Exchange) -> None:
        """Pass a response on, whole."""
        is_events = head.content_type.startswith(b"text/event-stream")
        if self._commented and not (head.status == 200 and is_events):
            await self._relay_as_event(head, exchange)
            return
        self._event_stream = is_events
        decode = head.framing is Framing.CHUNKED and not self._http11
        self._scanner = BodyScanner(head.framing, head.length, decode=decode)
        # A body that ends with its connection gets a framing in which its end can be seen, and
        # one behind comments keeps to theirs.
        self._rechunk = self._http11 and (
            head.framing is Framing.CLOSE
            or (self._commented and head.framing is not Framing.CHUNKED)
        )
        if decode or (head.framing is Framing.CLOSE and not self._http11):
            self.keep_alive = False
        if not self._commented:
            framing = Framing.CHUNKED if self._rechunk else head.framing
            headers = [one for one in head.headers if not _is_cors(one[0])]
            # A body with a length is on its way already: its beginning goes out with the head.
            hold = framing is Framing.LENGTH and not self._scanner.done
            self._write_head(head.status, head.reason, headers, framing, decode=decode, hold=hold)
        await exchange.copy(self._scanner, self._take, self._drain)
        if self._rechunk:
            self._write(b"0\r\n\r\n")

    async def _relay_as_event(self, head: ResponseHead, exchange: Exchange) -> None:
        """The stream has begun with comments already, and the server answers with an error."""
        parts: list[bytes] = []
        size = 0

        def collect(data: bytes) -> bool:
            nonlocal size
            size += len(data)
            if size <= _MAX_ERROR_BODY:
                parts.append(data)
            return True

        scanner = BodyScanner(head.framing, head.length, decode=True)
        await exchange.copy(scanner, collect, self._drain)
        body = b"".join(parts).strip()
        if head.status == 200:
            # It answered a streaming request with plain JSON: that is one event.
            self._write_chunk(b"data: " + body.replace(b"\n", b" ") + b"\n\n")
        else:
            try:
                data = msgspec.json.encode(msgspec.json.decode(body, type=dict[str, msgspec.Raw]))
                self._write_chunk(b"data: " + data + b"\n\n")
            except msgspec.MsgspecError:
                text = body[:500].decode("utf-8", "replace")
                error = UpstreamError(f"The model's server answered {head.status}: {text}")
                self._write_chunk(error_event(error, self._request.path))
        self._write(b"0\r\n\r\n")

    def fail(self, error: CyberError) -> None:
        """Something went wrong after the answer had begun: say so in the stream, or cut it."""
        scanner = self._scanner
        sound = self._rechunk or (scanner is not None and scanner.at_boundary)
        if self._event_stream and sound and not (scanner is not None and scanner.done):
            event = error_event(error, self._request.path)
            if scanner is not None:
                # The server may have died in the middle of an event of its own.
                event = b"\n\n" + event
            if self._http11:
                self._write_chunk(event)
                self._write(b"0\r\n\r\n")
            else:
                self._write(event)
            return
        # A body with a length, or in the middle of a chunk: an early end is the only honest sign.
        _logger.warning("an answer was cut short: %s", error)
        self.cut()

    def cut(self) -> None:
        """End the connection: the client sees that its answer is not whole."""
        self.keep_alive = False
        if self._transport is not None:
            self._transport.close()

    def _take(self, data: bytes) -> bool:
        transport = self._transport
        if transport is None or transport.is_closing():
            return True
        if self._held_head:
            data, self._held_head, self.begun = self._held_head + data, b"", True
        if self._rechunk:
            transport.writelines((b"%x\r\n" % len(data), data, b"\r\n"))
        else:
            transport.write(data)
        return transport.get_write_buffer_size() <= transport.get_write_buffer_limits()[1]

    async def _drain(self) -> None:
        """Wait until the client has read enough of what was written."""
        try:
            async with asyncio.timeout(SEND_TIMEOUT):
                await self._request.writer.drain()
        except TimeoutError:
            # Nothing more can be said to it, and what is written already would wait for ever.
            if self._transport is not None:
                self._transport.abort()
            raise UpstreamError(
                f"The client did not read its answer for {SEND_TIMEOUT:g} s."
            ) from None

    def _write_head(
        self,
        status: int,
        reason: bytes,
        headers: list[tuple[bytes, bytes]],
        framing: Framing,
        *,
        decode: bool = False,
        hold: bool = False,
    ) -> None:
        lines = [b"HTTP/1.1 %d %b\r\n" % (status, reason)]
        lines += [b"%b: %b\r\n" % header for header in headers]
        for name, value in cors_headers(self._request).items():
            lines.append(f"{name}: {value}\r\n".encode("latin-1"))
        if framing is Framing.CHUNKED and not decode:
            lines.append(b"Transfer-Encoding: chunked\r\n")
        lines.append(b"Connection: keep-alive\r\n" if self.keep_alive else b"Connection: close\r\n")
        lines.append(b"\r\n")
        if hold:
            self._held_head = b"".join(lines)
            return
        self.begun = True
        self._write(b"".join(lines))

    def _write_chunk(self, data: bytes) -> None:
        self._write(b"%x\r\n%b\r\n" % (len(data), data))

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)


def _is_cors(name: bytes) -> bool:
    # Which sites may read an answer is the service's to say, not the model server's.
    return name.lower().startswith(b"access-control-")
