"""The first part of a plain request's forwarding, which is all of it for most small requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cyber_inference_tui.http.answer_head import AnswerHead
from cyber_inference_tui.http.client_response import CLOSE, KEEP_ALIVE
from cyber_inference_tui.http.forward import Forwarder, Forwarding
from cyber_inference_tui.http.framing import BodyScanner
from cyber_inference_tui.http.model_request import ClientSide, RequestHead
from cyber_inference_tui.http.request_log import Arrival, finished_record
from cyber_inference_tui.http.server_exchange import server_request
from cyber_inference_tui.http.target import Target
from cyber_inference_tui.http.upstream import UpstreamConnection
from cyber_inference_tui.http.usage import Usage, usage_of
from cyber_inference_tui.records import ActiveRequestRecord, RequestRecord
from cyber_inference_tui.scheduler.lease import Lease
from cyber_inference_tui.scheduler.state import Waiter

_NO_USAGE = Usage()


class QuickForwarding:
    """A request that is sent without a wait, and whose answer comes with one read.

    It can be sent at once if its model is loaded and a connection is idle. Its answer is passed on
    with one write. If anything is different, it becomes a ``Forwarding``, which continues.
    """

    __slots__ = (
        "_arrived",
        "_client",
        "_ended_at",
        "_first_at",
        "_forwarder",
        "_forwarding",
        "_lease",
        "_number",
        "_on_end",
        "_request",
        "_server",
        "_status",
        "_target",
        "_usage",
    )

    def __init__(
        self,
        forwarder: Forwarder,
        request: RequestHead,
        client: ClientSide,
        target: Target,
        arrived: Arrival,
    ) -> None:
        self._forwarder = forwarder
        self._request = request
        self._client = client
        self._target = target
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
        forwarder, target = self._forwarder, self._target
        service = forwarder.service
        self._on_end = on_end
        self._number = service.active.add(self._active)
        retries = forwarder.retry_queue
        if retries.active and retries.is_active(target.model.id):
            return False
        lease = self._lease = service.scheduler.try_acquire(target.model)
        if lease is None:
            return False
        server = self._server = forwarder.pool.of(lease.port).take()
        if server is None:
            return False
        lease.sent()
        head = server_request(self._request, target, lease.port)
        server.begin(self._request.method, head, target.body, self)
        server.server.watch(server, lease, service.settings.stall_timeout)
        return True

    def becomes(self) -> Forwarding:
        """Return the forwarding that continues in its place."""
        forwarding = self._forwarding
        if forwarding is None:
            forwarding = self._forwarding = Forwarding(
                self._forwarder, self._request, self._client, self._target, self._arrived
            )
            forwarding.on_end = self._on_end
            forwarding.adopt(self._number, self._lease, self._server)
        return forwarding

    @property
    def keep_alive(self) -> bool:
        """Whether the client's connection can serve another request."""
        forwarding = self._forwarding
        return self._request.keep_alive if forwarding is None else forwarding.keep_alive

    def leave(self) -> None:
        """End the forwarding, because its client has left."""
        self.becomes().leave()

    def _active(self, number: int, positions: Mapping[Waiter, int]) -> ActiveRequestRecord:
        return self.becomes().active(number, positions)

    # The connection to the server calls these

    def begin(self, head: AnswerHead, length: int, body: bytes) -> BodyScanner | None:
        """Pass on an answer that is complete; leave any other to the forwarding."""
        transport = self._client.transport
        if (
            not body
            or length != len(body)
            or not head.is_plain
            or self._target.is_renamed
            or transport is None
            or transport.is_closing()
        ):
            return self.becomes().begin(head, length, body)
        transport.write(
            b"%bContent-Length: %d\r\n%b%b"
            % (head.lines, length, KEEP_ALIVE if self._request.keep_alive else CLOSE, body)
        )
        self._first_at = self._forwarder.loop.time()
        self._status = head.status
        self._usage = _NO_USAGE
        if self._target.is_work and not head.is_encoded:
            self._usage = usage_of(body, None, events=False)
        return None

    def take(self, data: bytes) -> bool:
        """Take bytes of the body, which a forwarding does in its place."""
        return self.becomes().take(data)

    def end(self, error: Exception | None) -> None:
        """Give everything back after a complete answer."""
        lease, server = self._lease, self._server
        if error is not None or lease is None or server is None:
            self.becomes().end(error)
            return
        usage = self._usage
        if usage is not _NO_USAGE:
            lease.count(usage.tokens_in, usage.tokens_out)
        lease.answered()
        lease.release()
        server.finish()
        self._forwarder.service.active.remove(self._number)
        if self._target.is_work:
            self._ended_at = self._forwarder.loop.time()
            self._forwarder.record(self)
        self._on_end(True)

    # Its record

    @property
    def error_code(self) -> str | None:
        """The code of its error: a server may report one in a successful answer."""
        return None if self._usage.error is None else "server_error"

    def record(self) -> RequestRecord:
        """Return its record, after its end."""
        at, came = self._arrived
        return finished_record(
            self._request,
            self._target,
            self._client.remote,
            at=at,
            status=self._status,
            usage=self._usage,
            first_byte_after=self._first_at - came,
            queue_seconds=0.0,
            seconds=self._ended_at - came,
            error=self._usage.error,
        )
