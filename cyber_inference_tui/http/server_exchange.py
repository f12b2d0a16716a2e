"""A request at a model's server: its place, its connection, and its answer as that arrives."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from cyber_inference_tui.errors import CyberError, ShuttingDownError
from cyber_inference_tui.http.answer_head import AnswerHead
from cyber_inference_tui.http.body_fields import Body
from cyber_inference_tui.http.body_limits import BodyShare
from cyber_inference_tui.http.box_place import BoxPlace, BoxRefusedError, without_way
from cyber_inference_tui.http.client_response import ClientResponse
from cyber_inference_tui.http.framing import BodyScanner
from cyber_inference_tui.http.model_request import ClientSide, QuickClient, RequestHead
from cyber_inference_tui.http.request_log import RequestLog
from cyber_inference_tui.http.retry_queue import Retry
from cyber_inference_tui.http.target import BODYLESS, Target
from cyber_inference_tui.http.upstream import UpstreamConnection
from cyber_inference_tui.llama.http_get import ServerAddress
from cyber_inference_tui.records import ActiveRequestRecord
from cyber_inference_tui.scheduler.lease import Lease
from cyber_inference_tui.scheduler.state import Waiter
from cyber_inference_tui.service.prompt_prefixes import Difference

if TYPE_CHECKING:
    from cyber_inference_tui.http.forward import Forwarder


def server_request(request: RequestHead, target: Target, server: ServerAddress) -> bytes:
    """Return the head of a request to the server, up to its id; an empty line follows."""
    length, passed_on = b"", request.passed_on
    if target.translation is not None:
        # The request is the service's own, whatever the client says about its body and answer.
        passed_on = b"Content-Type: application/json\r\n"
    if target.body or request.method not in BODYLESS:
        length = b"Content-Length: %d\r\n" % len(target.body)
    return b"%b %b HTTP/1.1\r\n%b%b%bX-Request-Id: " % (
        request.method.encode(),
        target.path.encode(),
        server.headers,
        passed_on,
        length,
    )


class ShorterRequest(Exception):  # noqa: N818 - it is no error
    """The request has to be sent again with this body."""

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self.body = body


class ServerExchange:
    """One request, its answer, and what they hold: a lease and a connection.

    Without a task, ``quick_client`` is called at the end.
    """

    _lease: Lease | BoxPlace | None = None
    _retry: Retry | None = None
    _server: UpstreamConnection | None = None
    """The connection to the server, from the request to the end of the answer."""
    _error: Exception | None = None
    _has_ended = False
    """Whether the answer has ended, with ``_error`` if there is one."""
    _wake: asyncio.Future[None] | None = None
    _share: BodyShare | None = None
    """The memory of its body, once a task runs this exchange."""
    quick_client: QuickClient | None = None
    """The client, as long as no task runs this exchange."""

    def __init__(
        self,
        forwarder: Forwarder,
        request: RequestHead,
        client: ClientSide,
        target: Target,
        arrived: float,
        *,
        request_id: bytes,
        body_seconds: float | None,
        differs: Difference | None,
    ) -> None:
        self.request_id = request_id
        self._shared = forwarder
        self._service = forwarder.service
        self._request = request
        self._target = target
        self._answer = ClientResponse(
            forwarder.loop,
            request,
            client,
            request_id=request_id,
            stream=target.stream,
            replacer=target.replacer,
            translation=target.translation,
        )
        self.take = self._answer.take
        """Takes bytes of the body (called by the connection)."""
        self._log = RequestLog(
            request,
            client,
            target,
            self._answer,
            request_id=request_id,
            at=forwarder.time_of(arrived),
            arrived=arrived,
            body_seconds=body_seconds,
            differs=differs,
            clock=forwarder.loop.time,
            energy=forwarder.energy,
        )
        self._number = self._service.active.add(self)

    def adopt(self, lease: Lease, server: UpstreamConnection) -> None:
        """Continue a request that has a place, and is sent."""
        self._lease, self._server = lease, server
        server.receiver = self

    def active(self, number: int, positions: Mapping[Waiter, int]) -> ActiveRequestRecord:
        """Return the record of the running request."""
        return self._log.active(number, positions)

    def leave(self) -> None:
        """End a forwarding that no task runs, because its client has left."""
        self._client_gone()
        self._close()

    def _send(self, lease: Lease | BoxPlace, server: UpstreamConnection) -> None:
        target = self._target
        request = self._request
        now, more = self._shared.loop.time(), b""
        self._answer.from_box = isinstance(lease, BoxPlace)
        if isinstance(lease, BoxPlace):
            request = request._replace(passed_on=without_way(request.passed_on))
            more = lease.limit_line(now)
        head = b"%b%b\r\n%b\r\n" % (
            server_request(request, target, lease.address),
            self.request_id,
            more,
        )
        lease.sent()
        if target.translation is not None:
            target.translation.sent()
        self._server, self._error, self._has_ended = server, None, False
        server.begin(self._request.method, head, target.body, self, now)
        server.server.watch(lease, lease.stall_seconds(self._service.settings))

    def _set_body(self, body: Body | memoryview) -> None:
        """Replace the body. Only one in memory counts."""
        self._target = msgspec.structs.replace(self._target, body=body)
        if self._share is not None:
            self._share.resize(0 if isinstance(body, memoryview) else len(body))

    def take_whole(self, data: bytes) -> bool:
        """Leave the first bytes to ``begin`` and ``take`` (called by the connection)."""
        return False

    def begin(self, head: AnswerHead, length: int) -> BodyScanner:
        """Take the head of the answer (called by the connection)."""
        if self._lease is not None:
            self._lease.begun()
        if self._retry is not None:
            self._retry.end()
        server = self._server
        if server is None:
            raise RuntimeError("an answer without a request")
        scanner = self._answer.begin(head, length, server)
        if self._share is not None and self._share.size:
            self.take = self._take_first
            self._drop_body()
        return scanner

    def _take_first(self, data: bytes) -> bool:
        """Take bytes of the answer until the client has some of them."""
        goes_on = self._answer.take(data)
        self._drop_body()
        return goes_on

    def _drop_body(self) -> None:
        """Drop the request's body once no other server can get it: a long answer needs none."""
        if self._answer.relayed:
            self.take = self._answer.take
            self._set_body(b"")

    def end(self, error: Exception | None) -> None:
        """Note the end of the answer (called by the connection)."""
        if error is None:
            try:
                self._shorten()
                self._check_box()
                self._answer.end()
            except Exception as defect:  # noqa: BLE001 - ``run`` raises it
                error = defect
        self._error, self._has_ended = error, True
        client, self.quick_client = self.quick_client, None
        if client is not None:
            if error is not None:
                client.needs_task()
                return
            if self._lease is not None:
                self._lease.answered()
            self._close()
            client.answered(self._shared.loop.time(), self._answer.keep_alive)
        elif self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def _shorten(self) -> None:
        """Raise ``ShorterRequest`` if the server has refused a request that can be shortened."""
        translation, refusal = self._target.translation, self._answer.refusal
        if translation is not None and refusal is not None:
            body = translation.shortened(self._target.body, refusal)
            if body is not None:
                raise ShorterRequest(body)

    def _check_box(self) -> None:
        """Raise ``BoxRefusedError`` if another box cannot answer now, so that a third one may."""
        head = self._answer.refused_by_box
        if head is not None:
            raise BoxRefusedError(head.status, self._answer.refusal or b"")

    async def _wait_for_end(self) -> None:
        """Wait until the answer is complete, or raise why it is not."""
        if not self._has_ended:
            self._wake = self._shared.loop.create_future()
            await self._wake
        if self._error is not None:
            raise self._error

    def _end_exchange(self) -> None:
        server, self._server = self._server, None
        if server is None:
            return
        self._answer.stop_waiting()
        server.finish(self._shared.loop.time())

    def _release(self) -> None:
        """Give the place at the model back."""
        lease, self._lease = self._lease, None
        if lease is None:
            return
        if self._target.is_work or self._answer.refused:
            usage = self._log.usage = self._answer.usage()
            lease.count(usage.tokens_in, usage.tokens_out)
        translation = self._target.translation
        if translation is not None and translation.idle_timeout is not None:
            lease.keep_loaded(translation.idle_timeout)
        if isinstance(lease, Lease):
            self._log.marks = lease.release()
        else:
            self._log.marks = None
            lease.release()

    def _close(self) -> None:
        """Give everything back, and record the request."""
        self.quick_client = None
        self._end_exchange()
        self._release()
        self._service.active.remove(self._number)
        self._log.end()
        if self._target.is_work or self._answer.refused or self._log.failed:
            self._shared.finished.add(self._log)

    def _client_gone(self) -> None:
        """Note that the client has left, or that the service ends."""
        if self._service.scheduler.closing:
            self._log.error = ShuttingDownError("The service is shutting down.")
        elif isinstance(self._error, CyberError):
            # It was disconnected because of this.
            self._log.error = self._error
        elif not (self._answer.complete or self._answer.says_done):
            self._log.client_left = True
        self._answer.cut()
