"""Sends the events of the bus to clients, as Server-Sent Events and over WebSockets.

The format of Server-Sent Events is that of the HTML standard, section "Server-sent events".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from aiohttp import WSCloseCode, WSMsgType, hdrs, web

from cyber_inference_tui.errors import InvalidRequestError
from cyber_inference_tui.http.access import has_key, limits_of
from cyber_inference_tui.http.query import number
from cyber_inference_tui.http.router_api import RouterEvents
from cyber_inference_tui.service.events import TOPICS, Event, Subscription
from cyber_inference_tui.service.live_figures import TOPIC as LIVE

if TYPE_CHECKING:
    from cyber_inference_tui.service.service import Service

HEARTBEAT = 15.0
SEND_TIMEOUT = 60.0
"""Seconds after which a client that does not read is disconnected. It can resume later."""

STATUS_TOPICS = frozenset({"model", "service", "request", "resources"})

_CLOSE_TIMEOUT = 2.0
_MAX_MESSAGE = 4096
MAX_CHOSEN_LOGS = 100


_logger = logging.getLogger(__name__)


class EventStreams:
    """The handlers of ``/admin/events``, ``/models/sse``, ``/ws/logs`` and ``/ws/status``.

    ``heartbeat`` and ``send_timeout`` are in seconds. ``admits`` checks whether the login of a
    request is still valid: a stream ends with its login.
    """

    def __init__(
        self,
        service: Service,
        *,
        heartbeat: float = HEARTBEAT,
        send_timeout: float = SEND_TIMEOUT,
        admits: Callable[[web.Request], bool],
    ) -> None:
        self._service = service
        self._heartbeat = heartbeat
        self._send_timeout = send_timeout
        self._admits = admits

    async def sse(self, request: web.Request) -> web.StreamResponse:
        """Answer ``GET /admin/events?topics=a,b``; ``Last-Event-ID`` resumes a stream."""
        named = [name.strip() for name in request.query.get("topics", "").split(",")]
        topics = frozenset(filter(None, named)) or TOPICS
        subscription = self._subscribe(request, topics, self._logs(request, topics))
        return await self._stream(request, subscription, _as_sse, self._admits)

    async def models(self, request: web.Request) -> web.StreamResponse:
        """Answer ``GET /models/sse``: loads and unloads, as llama-server's router sends them.

        A stream ends with its API key.
        """
        encode = RouterEvents(self._service.models, limits_of(request)).encode
        subscription = self._service.events.subscribe({"model"})
        return await self._stream(request, subscription, encode, has_key)

    async def _stream(
        self,
        request: web.Request,
        subscription: Subscription,
        encode: Callable[[Event], bytes],
        admits: Callable[[web.Request], bool],
    ) -> web.StreamResponse:
        """Send events as ``encode`` writes them, while ``admits`` accepts the request."""
        response = web.StreamResponse(
            headers={
                hdrs.CONTENT_TYPE: "text/event-stream",
                hdrs.CACHE_CONTROL: "no-store",
                "X-Accel-Buffering": "no",
                "X-Content-Type-Options": "nosniff",
            }
        )
        await response.prepare(request)
        try:
            await self._send(response, b": connected\n\n")
            while True:
                batch: Sequence[Event] = ()
                try:
                    async with asyncio.timeout(self._heartbeat):
                        batch = await anext(subscription)
                except TimeoutError:
                    pass  # no events: send a heartbeat
                except StopAsyncIteration:
                    break
                if not admits(request):
                    break
                data = b"".join(map(encode, batch))
                if data or not batch:
                    await self._send(response, data or b":\n\n")
        except ConnectionError:
            _logger.debug("a client of the event stream left")
        except TimeoutError:
            _logger.info("a client did not read its events for %g s", self._send_timeout)
            if request.transport is not None:
                request.transport.abort()
        return response

    def _logs(self, request: web.Request, topics: frozenset[str]) -> frozenset[str] | None:
        """Return the logs that ``?log=ID`` names, which may be repeated; ``None`` for all."""
        names = request.query.getall("log", [])
        if names and "log" not in topics:
            raise InvalidRequestError("log=ID needs the topic log.", param="log")
        if len(names) > MAX_CHOSEN_LOGS:
            raise InvalidRequestError(
                f"At most {MAX_CHOSEN_LOGS} logs can be named; leave log out for all.", param="log"
            )
        return frozenset(map(self._service.log_id, names)) if names else None

    async def _send(self, response: web.StreamResponse, data: bytes) -> None:
        async with asyncio.timeout(self._send_timeout):
            await response.write(data)

    async def logs(self, request: web.Request) -> web.StreamResponse:
        """Answer ``GET /ws/logs[?id=ID]``: new lines of all logs, or of a single log."""
        wanted = request.query.get("id")
        logs = None if wanted is None else frozenset({self._service.log_id(wanted)})
        return await self._websocket(request, frozenset({"log"}), logs)

    async def status(self, request: web.Request) -> web.StreamResponse:
        """Answer ``GET /ws/status``: models, requests, resources and the service itself."""
        return await self._websocket(request, STATUS_TOPICS)

    async def _websocket(
        self, request: web.Request, topics: frozenset[str], logs: frozenset[str] | None = None
    ) -> web.StreamResponse:
        subscription = self._subscribe(request, topics, logs)
        socket = web.WebSocketResponse(
            heartbeat=self._heartbeat,
            timeout=_CLOSE_TIMEOUT,
            max_msg_size=_MAX_MESSAGE,
            compress=False,
        )
        if not socket.can_prepare(request).ok:
            raise InvalidRequestError(
                f"{request.path} is a WebSocket.", hint="The same events are at /admin/events."
            )
        await socket.prepare(request)
        sender = asyncio.create_task(
            self._send_all(request, socket, subscription),
            name=f"events to {request.remote}",
        )
        try:
            # Clients send no messages, but reading answers pings and notices when they leave.
            async for _ in socket:
                pass
        finally:
            sender.cancel()
            (outcome,) = await asyncio.gather(sender, return_exceptions=True)
            if isinstance(outcome, Exception) and not isinstance(outcome, ConnectionError):
                _logger.error("sending events failed", exc_info=outcome)
        return socket

    async def _send_all(
        self, request: web.Request, socket: web.WebSocketResponse, subscription: Subscription
    ) -> None:
        async for batch in subscription:
            if not self._admits(request):
                await socket.close(code=WSCloseCode.POLICY_VIOLATION, message=b"the login is over")
                return
            for event in batch:
                await socket.send_frame(_as_message(event), WSMsgType.TEXT)
        await socket.close(code=WSCloseCode.GOING_AWAY, message=b"the service is stopping")

    def _subscribe(
        self, request: web.Request, topics: frozenset[str], logs: frozenset[str] | None
    ) -> Subscription:
        # The header is newer: a browser that reconnects keeps its URL.
        last = request.headers.get("Last-Event-ID") or request.query.get("last_event_id")
        after = number(last, "last_event_id") if last else None
        if LIVE in topics:
            self._service.live.look_soon()
        try:
            return self._service.events.subscribe(topics, after, logs=logs)
        except ValueError as error:
            raise InvalidRequestError(
                f"The request names an {error}; the topics are {', '.join(sorted(TOPICS))}.",
                param="topics",
            ) from None


def _as_sse(event: Event) -> bytes:
    return b"event: %b\nid: %d\ndata: %b\n\n" % (event.topic.encode(), event.id, event.json)


def _as_message(event: Event) -> bytes:
    return b'{"event":"%b","id":%d,"data":%b}' % (event.topic.encode(), event.id, event.json)
