"""A raw connection to a model's server, for one request and its response at a time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol, cast

from cyber_inference_tui.http.answer_head import AnswerHead
from cyber_inference_tui.http.body_fields import Body
from cyber_inference_tui.http.framing import BadResponseError, BodyScanner, check_unfinished_head

if TYPE_CHECKING:
    from cyber_inference_tui.http.server_connections import ServerConnections

_MAX_INTERIM = 16
"""Interim answers to a request. Go's client takes 5."""


class UpstreamLostError(Exception):
    """The connection ended before the response; ``untouched`` means before its first byte."""

    def __init__(self, *, untouched: bool) -> None:
        super().__init__("the connection to the model's server was lost")
        self.untouched = untouched


class Receiver(Protocol):
    """Takes the response of an exchange. Every method is called as the bytes arrive."""

    def take_whole(self, data: bytes) -> bool:
        """Take a response that is complete in the first bytes, if the receiver can use it so.

        Then call ``complete`` and return ``True``.
        """

    def begin(self, head: AnswerHead, length: int) -> BodyScanner:
        """Take the head and the announced length; return the scanner of the body."""

    def take(self, data: bytes) -> bool:
        """Take bytes of the body. Return ``False`` to pause until ``resume``."""

    def end(self, error: Exception | None) -> None:
        """Note the end of the response; an ``error`` means that it is not complete.

        It is an ``UpstreamLostError``, a ``BadResponseError``, an error given to ``fail``, or one
        that another method of the receiver raised.
        """


class UpstreamConnection(asyncio.Protocol):
    """A TCP connection to a model's server, with the exchange that is under way.

    An exchange is a request and its response. It lasts from ``begin`` to ``finish``.
    """

    __slots__ = (
        "_buffer",
        "_interim_count",
        "_is_complete",
        "_is_over",
        "_is_touched",
        "_method",
        "_most_uses",
        "_reading",
        "_scanner",
        "_transport",
        "has_new_bytes",
        "kept",
        "paused",
        "receiver",
        "server",
        "since",
        "uses",
    )

    def __init__(self, server: ServerConnections) -> None:
        self.server = server
        self._transport: asyncio.Transport | None = None
        self._reading = True
        self.uses = 0
        """The requests that were sent on it."""
        self.kept = False
        """Whether it was idle, so that the server may have closed it before the present request."""
        self.since = 0.0
        """The time since which it is idle; in an exchange, that of its last byte or later."""
        self.receiver: Receiver | None = None
        self._method = ""
        self._scanner: BodyScanner | None = None
        self._buffer = b""
        self._is_over = self._is_complete = self._is_touched = False
        self._interim_count = 0
        self._most_uses = 0
        """The number of requests that it can serve; 0 = it is closed after the present one."""
        self.has_new_bytes = False
        """Whether bytes have arrived since the last ``take_new_bytes``."""
        self.paused = False
        """Whether reading is paused, because the client is slower than the server."""

    @property
    def usable(self) -> bool:
        """Return whether a request can be sent now."""
        return self._transport is not None and not self._transport.is_closing()

    # An exchange

    def begin(
        self, method: str, head: bytes, body: Body | memoryview, receiver: Receiver, now: float
    ) -> None:
        """Send a request. The receiver gets the response."""
        self.since, self.receiver, self._method = now, receiver, method
        self.has_new_bytes = self._is_over = self._is_complete = False
        self.uses += 1
        transport = self._transport
        if transport is None:
            self.server.loop.call_soon(self.connection_lost, None)
        elif len(body) < 16_384:
            transport.write(head + body)
        else:
            transport.writelines((head, body))

    def data_received(self, data: bytes) -> None:
        """Take bytes from the server. Hot path: called for every read."""
        self.has_new_bytes = True
        receiver = self.receiver
        if receiver is None:
            # Unexpected bytes: the next answer could not be trusted.
            self.close()
            return
        if self._is_over:
            self._most_uses = 0
            return
        try:
            scanner = self._scanner
            if scanner is None:
                if self._buffer:
                    data, self._buffer = self._buffer + data, b""
                elif receiver.take_whole(data):
                    return
                is_complete = self._take_heads(data, receiver)
            else:
                data = scanner.feed(data)
                is_complete = scanner.done
                if data and not receiver.take(data) and not is_complete:
                    self._pause()
        except Exception as error:  # noqa: BLE001 - whoever waits for the end of the exchange logs it
            self._end(error)
        else:
            if is_complete:
                self._end(None)

    def _take_heads(self, data: bytes, receiver: Receiver) -> bool:
        """Take the head, if it is here, and the bytes behind it; return whether that is all."""
        while (end := data.find(b"\r\n\r\n")) >= 0:
            head, length = self.server.heads.parse(data, end, self._method)
            data = data[end + 4 :]
            if head.status < 200:
                # 100 Continue and other interim answers are not for the client.
                self._interim_count += 1
                if self._interim_count > _MAX_INTERIM:
                    raise BadResponseError("it sent interim answers without end")
                continue
            self._interim_count = 0
            self._most_uses = head.most_requests
            scanner = self._scanner = receiver.begin(head, length)
            # It may have left its place to another.
            receiver = self.receiver or receiver
            if scanner.done:
                # Bytes behind an answer without a body: it is complete all the same.
                self._most_uses = 0 if data else self._most_uses
            elif data:
                data = scanner.feed(data)
                if data and not receiver.take(data) and not scanner.done:
                    self._pause()
            return scanner.done
        check_unfinished_head(data)
        self._buffer = data
        return False

    def take_new_bytes(self) -> bool:
        """Return whether bytes have arrived since the last call."""
        heard, self.has_new_bytes = self.has_new_bytes, False
        self._is_touched = self._is_touched or heard
        return heard

    def fail(self, error: Exception) -> None:
        """End the exchange with ``error``, unless it is over."""
        if not self._is_over:
            self._end(error)

    def _end(self, error: Exception | None) -> None:
        self._is_over, self._is_complete = True, error is None
        if self.receiver is not None:
            self.receiver.end(error)

    def complete(self, now: float, most_uses: int) -> None:
        """End and finish an exchange whose receiver has taken the whole response: the hot path.

        The connection can serve ``most_uses`` requests; 0 = it is closed.
        """
        server = self.server
        server.heard, self.receiver = now, None
        left = most_uses - self.uses
        if left > 0:
            server.keep(self, now)
            if left == 1:
                # The next one is there when this one has served its last request.
                server.open_spare()
        elif self._transport is not None:
            self._transport.abort()

    def finish(self, now: float) -> None:
        """Forget the exchange. Keep the connection if it can serve another, otherwise close it."""
        server, transport = self.server, self._transport
        if self.has_new_bytes:
            server.heard = now
        self.receiver, self._scanner, self._buffer = None, None, b""
        self._is_touched = self.paused = False
        if transport is None:
            return
        left = self._most_uses - self.uses
        if self._is_complete and left > 0 and not transport.is_closing():
            server.keep(self, now)
            if not self._reading:
                self._resume_reading()
            if left == 1:
                # The next one is there when this one has served its last request.
                server.open_spare()
        else:
            # Not close(): that would first send the rest of a large request body. The server must
            # notice at once that nobody reads its answer.
            transport.abort()

    # Reading

    def _pause(self) -> None:
        self.paused = True
        if self._reading and self.usable and self._transport is not None:
            self._reading = False
            self._transport.pause_reading()

    def resume(self) -> None:
        """Continue to read after a pause."""
        if self.paused:
            # The server could not send before, so its time limit starts now.
            self.paused, self.has_new_bytes = False, True
            self._resume_reading()

    def _resume_reading(self) -> None:
        if not self._reading and self.usable and self._transport is not None:
            self._reading = True
            self._transport.resume_reading()

    # The connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast("asyncio.Transport", transport)
        self.server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        self._transport = None
        self.server.lost(self)
        if self.receiver is None or self._is_over:
            return
        if self._scanner is not None:
            self._scanner.ended(reset=exc is not None)
            if self._scanner.done:
                self._end(None)
                return
        self._end(UpstreamLostError(untouched=not (self.has_new_bytes or self._is_touched)))

    def close(self) -> None:
        """Close the idle connection."""
        self.server.forget(self)
        if self._transport is not None:
            self._transport.close()
