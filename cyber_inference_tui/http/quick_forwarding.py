"""The first part of a plain request's forwarding, which is all of it for most small requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cyber_inference_tui.http.answer_head import AnswerHead
from cyber_inference_tui.http.client_response import CLOSE, KEEP_ALIVE
from cyber_inference_tui.http.forward import Forwarder, Forwarding
from cyber_inference_tui.http.framing import BodyScanner
from cyber_inference_tui.http.model_request import ClientSide, RequestHead
from cyber_inference_tui.http.server_exchange import server_request
from cyber_inference_tui.http.target import Target
from cyber_inference_tui.http.upstream import UpstreamConnection
from cyber_inference_tui.http.usage import Usage, usage_of_whole
from cyber_inference_tui.records import ActiveRequestRecord, RequestRecord
from cyber_inference_tui.scheduler.lease import Lease
from cyber_inference_tui.scheduler.state import Waiter

_NO_USAGE = Usage()


class PlainTarget:
    """What requests with the same head, length and model have in common."""

    __slots__ = (
        "forwarder",
        "is_renamed",
        "is_work",
        "model",
        "path",
        "port",
        "request",
        "server_head",
    )

    def __init__(self, forwarder: Forwarder, request: RequestHead, target: Target) -> None:
        self.forwarder = forwarder
        self.request = request
        self.model = target.model
        self.path = target.path
        self.is_work = target.is_work
        self.is_renamed = target.is_renamed
        self.port = 0
        """The port of the model's server at the last request."""
        self.server_head = b""
        """The head of that request."""

    def target(self, body: bytes, stream: bool) -> Target:
        """Return the target of a request."""
        return Target(self.model, self.path, body, stream, self.is_work)


class QuickForwarding:
    """A request that is sent without a wait, and whose answer comes with one read.

    It can be sent at once if its model is loaded and a connection is idle. Its answer is passed on
    with one write. If anything is different, it becomes a ``Forwarding``, which continues.
    """

    __slots__ = (
        "_arrived",
        "_body",
        "_client",
        "_ended_at",
        "_forwarding",
        "_lease",
        "_number",
        "_on_end",
        "_server",
        "_status",
        "_stream",
        "_target",
        "_usage",
    )

    def __init__(
        self,
        target: PlainTarget,
        body: bytes,
        stream: bool,
        client: ClientSide,
        arrived: float,
    ) -> None:
        self._target = target
        self._body = body
        self._stream = stream
        self._client = client
        self._arrived = arrived
        self._forwarding: Forwarding | None = None
        """What it has become."""
        self._lease: Lease | None = None
        self._server: UpstreamConnection | None = None

    def start(self, on_end: Callable[[bool], None]) -> bool:
        """Send the request if that needs no wait. If not, return ``False``.

        ``on_end`` is called with ``True`` at the end of the answer. It is called with ``False`` if
        the answer is not complete and only a task can go on, as if ``start`` had returned
        ``False``: then ``run`` what this ``becomes``.
        """
        target, body = self._target, self._body
        forwarder = target.forwarder
        service = forwarder.service
        self._on_end = on_end
        self._number = service.active.add(self)
        retries = forwarder.retry_queue
        if retries.active and retries.is_active(target.model.id):
            return False
        lease = self._lease = service.scheduler.try_acquire(target.model)
        if lease is None:
            return False
        port = lease.port
        connections = forwarder.pool.of(port)
        server = self._server = connections.take()
        if server is None:
            return False
        if target.port != port:
            target.port = port
            whole = target.target(body, self._stream)
            target.server_head = server_request(target.request, whole, port)
        lease.sent()
        server.begin("POST", target.server_head, body, self)
        connections.watch(lease, service.settings.stall_timeout)
        return True

    def becomes(self) -> Forwarding:
        """Return the forwarding that continues in its place."""
        forwarding = self._forwarding
        if forwarding is None:
            target = self._target
            forwarding = self._forwarding = Forwarding(
                target.forwarder,
                target.request,
                self._client,
                target.target(self._body, self._stream),
                self._arrived,
            )
            forwarding.on_end = self._on_end
            forwarding.adopt(self._number, self._lease, self._server)
        return forwarding

    @property
    def keep_alive(self) -> bool:
        """Whether the client's connection can serve another request."""
        forwarding = self._forwarding
        return self._target.request.keep_alive if forwarding is None else forwarding.keep_alive

    def leave(self) -> None:
        """End the forwarding, because its client has left."""
        self.becomes().leave()

    def active(self, number: int, positions: Mapping[Waiter, int]) -> ActiveRequestRecord:
        """Return the record of the running request."""
        return self.becomes().active(number, positions)

    # The connection to the server calls these

    def begin(self, head: AnswerHead, length: int, body: bytes) -> BodyScanner | None:
        """Pass on a complete answer and end; leave any other answer to the forwarding."""
        target, lease, server = self._target, self._lease, self._server
        transport = self._client.transport
        if (
            not body
            or length != len(body)
            or not head.is_plain
            or target.is_renamed
            or transport is None
            or transport.is_closing()
            or lease is None
            or server is None
        ):
            return self.becomes().begin(head, length, body)
        transport.write(
            b"%bContent-Length: %d\r\n%b%b"
            % (head.lines, length, KEEP_ALIVE if target.request.keep_alive else CLOSE, body)
        )
        forwarder = target.forwarder
        now = forwarder.loop.time()
        usage = _NO_USAGE
        if target.is_work:
            if not head.is_encoded:
                usage = usage_of_whole(body)
            self._status, self._ended_at, self._usage = head.status, now, usage
            # It is kept until its record is made.
            self._lease = self._server = None
            self._body = b""
            forwarder.finished.add(self)
        lease.finish(usage.tokens_in, usage.tokens_out)
        server.complete(now)
        forwarder.service.active.remove(self._number)
        self._on_end(True)
        return None

    def take(self, data: bytes) -> bool:
        """Take bytes of the body, which a forwarding does in its place."""
        return self.becomes().take(data)

    def end(self, error: Exception | None) -> None:
        """Note the end without an answer, as a forwarding does in its place."""
        self.becomes().end(error)

    # Its record

    @property
    def error_code(self) -> str | None:
        """The code of its error: a server may report one in a successful answer."""
        return None if self._usage.error is None else "server_error"

    def record(self) -> RequestRecord:
        """Return its record, after its end."""
        target, usage, speed = self._target, self._usage, self._usage.tokens_per_second
        # The answer came with one read, so its first byte is at its end.
        seconds = round(self._ended_at - self._arrived, 6)
        return RequestRecord(
            at=target.forwarder.time_of(self._arrived),
            model=target.model.id,
            path=target.path,
            status=self._status,
            stream=self._stream,
            tokens_in=usage.tokens_in,
            tokens_out=usage.tokens_out,
            tokens_per_second=None if speed is None else round(speed, 6),
            time_to_first_token_seconds=seconds,
            duration_seconds=seconds,
            client=self._client.remote or None,
            user_agent=target.request.user_agent,
            key_name=target.request.key_name,
            port=self._client.local_port,
            error=usage.error,
        )
