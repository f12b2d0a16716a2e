"""The first part of a plain request's forwarding, which is all of it for most small requests."""

from __future__ import annotations

import msgspec

from cyber_inference_tui.http.answer_head import CLOSE, KEEP_ALIVE, AnswerHead, WholeAnswer
from cyber_inference_tui.http.body_fields import Body
from cyber_inference_tui.http.forward import Forwarder, Forwarding
from cyber_inference_tui.http.framing import BodyScanner
from cyber_inference_tui.http.model_request import QuickClient, RequestHead
from cyber_inference_tui.http.request_id import new_id
from cyber_inference_tui.http.server_connections import ServerConnections
from cyber_inference_tui.http.server_exchange import server_request
from cyber_inference_tui.http.target import Target
from cyber_inference_tui.http.translation import JSON_HEAD
from cyber_inference_tui.http.upstream import UpstreamConnection
from cyber_inference_tui.http.usage import NO_USAGE, usage_of_whole
from cyber_inference_tui.records import RequestRecord
from cyber_inference_tui.scheduler.places import Places
from cyber_inference_tui.service.prompt_prefixes import LEAST_BYTES, Difference

_NO_MORE = NO_USAGE[2:]


class PlainTarget:
    """The common part of requests with the same head, length and model."""

    __slots__ = (
        "connections",
        "forwarder",
        "is_changed",
        "is_remote",
        "is_work",
        "keep_alive",
        "model",
        "path",
        "places",
        "request",
        "server_head",
        "translation",
    )

    connections: ServerConnections
    """The connections to the server of ``places``."""
    server_head: bytes
    """The head of the requests to it, up to their ids."""

    def __init__(self, forwarder: Forwarder, request: RequestHead, target: Target) -> None:
        self.forwarder = forwarder
        self.request = request
        self.model = target.model
        self.path = target.path
        self.is_work = target.is_work
        self.is_remote = target.is_remote
        self.translation = target.translation
        """That of the only request, if there is one."""
        self.is_changed = target.is_renamed or target.translation is not None
        """Whether answers do not pass byte for byte."""
        self.keep_alive = request.keep_alive
        self.places: Places | None = None
        """The places at the model's server when it was last looked up."""

    def target(self, body: Body | memoryview, stream: bool) -> Target:
        """Return the target of a request."""
        return Target(
            self.model, self.path, body, stream, self.is_work, self.translation, self.is_remote
        )

    def find_server(self, body: Body | memoryview) -> bool:
        """Look up the model's server, for requests with bodies of this length.

        Return ``False`` if there is none.
        """
        forwarder = self.forwarder
        places = self.places = forwarder.service.scheduler.places(
            self.model, self.request.limits.priority
        )
        if places is None:
            return False
        address = places.server.address
        self.connections = forwarder.pool.of(address)
        self.server_head = server_request(self.request, self.target(body, False), address)
        return True

    def translated(self, answer: WholeAnswer, body: bytes) -> tuple[bytes, bytes] | None:
        """Return the head, up to the request's id, and the body of the answer to a translated
        request; ``None`` = a forwarding has to do it.

        Raises ``BadResponseError``.
        """
        translation = self.translation
        if (
            translation is None
            or translation.idle_timeout is not None
            or answer.status != 200
            or answer.is_encoded
        ):
            return None
        translated = translation.whole(body)
        end = KEEP_ALIVE if self.keep_alive else CLOSE
        return b"%bContent-Length: %d\r\n%b" % (JSON_HEAD, len(translated), end), translated


class QuickForwarding:
    """A request that is sent without a wait, and whose answer comes with one read.

    It can be sent at once if its model is loaded and a connection is idle. Its answer is passed on
    with one write. If anything is different, it becomes a ``Forwarding``, which continues.
    """

    __slots__ = (
        "_arrived",
        "_begin",
        "_body",
        "_body_seconds",
        "_client",
        "_differs",
        "_end",
        "_ended_at",
        "_forwarding",
        "_places",
        "_request_id",
        "_server",
        "_status",
        "_stream",
        "_target",
        "_usage",
    )

    _status: int
    _ended_at: float
    _begin: float
    """The mark of ``EnergyShares`` when it took its place."""
    _end: float
    """The mark when it gave it back."""

    def __init__(
        self,
        target: PlainTarget,
        body: Body | memoryview,
        stream: bool,
        client: QuickClient,
        arrived: float,
        *,
        body_seconds: float | None = None,
    ) -> None:
        self._target = target
        self._body_seconds = body_seconds
        self._request_id = target.request.request_id or new_id()
        self._body = body
        self._stream = stream
        self._client = client
        self._arrived = arrived
        self._forwarding: Forwarding | None = None
        """The forwarding that continues in its place, once it needs one."""
        self._places: Places | None = None
        """The model's places, once the request has taken one of them."""
        self._server: UpstreamConnection | None = None
        """The connection to the server, once the request has a place."""
        self._differs: Difference | None = None

    def start(self) -> bool:
        """Send the request if that needs no wait. If not, return ``False``: it needs a task.

        The client is called at the end of the answer.
        """
        target, body, now = self._target, self._body, self._arrived
        forwarder, places = target.forwarder, target.places
        if forwarder.retry_queue.active and forwarder.retry_queue.is_active(target.model.id):
            return False
        if places is None or not target.connections.idle or not self._take(places):
            # The server may be another one now.
            if not target.find_server(body):
                return False
            places = target.places
            if places is None or not target.connections.idle or not self._take(places):
                return False
        connections = target.connections
        self._places = places
        self._begin = places.mark
        server = self._server = connections.take_idle()
        head = b"%b%b\r\n\r\n" % (target.server_head, self._request_id)
        server.begin("POST", head, body, self, now)
        if connections.watched is not places.server:
            connections.watch(places, forwarder.service.settings.stall_timeout)
        if target.is_work and len(body) >= LEAST_BYTES:
            model_id, request = target.model.id, target.request
            self._differs = forwarder.difference(model_id, request, self._client, body)
        return True

    def _take(self, places: Places) -> bool:
        """Take a place if the server accepts the request now, and no other box is quicker."""
        if self._target.forwarder.service.peers.has_models and places.slots_are_busy:
            return False
        return places.take(self._arrived)

    def becomes(self) -> Forwarding:
        """Return the forwarding that continues in its place."""
        forwarding = self._forwarding
        if forwarding is None:
            target, server = self._target, self._server
            forwarding = self._forwarding = Forwarding(
                target.forwarder,
                target.request,
                self._client,
                target.target(self._body, self._stream),
                self._arrived,
                request_id=self._request_id,
                body_seconds=self._body_seconds,
                differs=self._differs,
            )
            forwarding.quick_client = self._client
            if server is not None and self._places is not None:
                forwarding.adopt(self._places.lease(self._arrived, self._begin), server)
        return forwarding

    def leave(self) -> None:
        """End the forwarding, because its client has left."""
        self.becomes().leave()

    # The connection to the server calls these

    def take_whole(self, data: bytes) -> bool:
        """Pass on an answer that is complete, and end: the hot path."""
        target, client, server, places = self._target, self._client, self._server, self._places
        transport = client.transport
        if server is None or places is None or transport is None or transport.is_closing():
            return False
        heads = server.server.heads
        answer = heads.whole.get(data[: data.find(b"\r\n\r\n")]) or heads.read_whole(data)
        if answer is None or answer.size != len(data):
            return False
        body, keep_alive = data[answer.start :], target.keep_alive
        if target.is_changed:
            translated = target.translated(answer, body)
            if translated is None:
                return False
            head, shown = translated
        else:
            head, shown = answer.kept_head if keep_alive else answer.closing_head, body
        transport.write(b"%b%b\r\n\r\n%b" % (head, self._request_id, shown))
        forwarder = target.forwarder
        now, usage = forwarder.loop.time(), NO_USAGE
        if target.is_work:
            if not answer.is_encoded:
                usage = usage_of_whole(body)
            self._status, self._ended_at, self._usage = answer.status, now, usage
            # It is kept until its record is made.
            self._server, self._places, self._body = None, None, b""
        server.complete(now, answer.most_requests)
        self._end = places.give_back(self._arrived, now, usage.tokens_in, usage.tokens_out)
        if target.is_work:
            forwarder.finished.add(self)
        client.answered(now, keep_alive)
        return True

    def begin(self, head: AnswerHead, length: int) -> BodyScanner:
        """Take the head of the answer, which a forwarding does in its place."""
        return self.becomes().begin(head, length)

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
        target, usage = self._target, self._usage
        # The answer came with one read, so its first byte is at its end.
        seconds = int((self._ended_at - self._arrived) * 1e6 + 0.5) / 1e6
        joules = target.forwarder.energy.joules(self._begin, self._end)
        record = RequestRecord(
            at=target.forwarder.time_of(self._arrived),
            model=target.model.id,
            path=target.request.path,
            status=self._status,
            stream=self._stream,
            tokens_in=usage.tokens_in,
            tokens_out=usage.tokens_out,
            time_to_first_token_seconds=seconds,
            duration_seconds=seconds,
            client=self._client.remote or None,
            user_agent=target.request.user_agent,
            key_name=target.request.key_name,
            port=self._client.local_port,
            request_id=self._request_id.decode(),
            energy_j=None if joules is None else round(joules, 6),
        )
        # With more than 15 names, a call takes three times as long. Embeddings have no more.
        differs = self._differs
        if self._body_seconds is None and usage[2:] == _NO_MORE and differs is None:
            return record
        speed = usage.tokens_per_second
        return msgspec.structs.replace(
            record,
            tokens_per_second=None if speed is None else round(speed, 6),
            tokens_cached=usage.tokens_cached,
            tokens_drafted=usage.tokens_drafted,
            tokens_accepted=usage.tokens_accepted,
            body_seconds=self._body_seconds,
            prompt_seconds=usage.prompt_seconds,
            answer_seconds=usage.answer_seconds,
            prompt_differs_at=None if differs is None else differs.at,
            prompt_differs_in=None if differs is None else differs.part,
            error=usage.error,
        )
