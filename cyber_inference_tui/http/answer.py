"""The client's side of one request: its answer on the transport, in a framing that can end well."""

from __future__ import annotations

import asyncio
import logging

import msgspec
from aiohttp import web

from cyber_inference_tui.decoding import learned
from cyber_inference_tui.errors import CyberError, UpstreamError
from cyber_inference_tui.http.access import cors_headers
from cyber_inference_tui.http.errors import error_event
from cyber_inference_tui.http.framing import BodyScanner, Framing, ResponseHead
from cyber_inference_tui.http.renaming import Renaming
from cyber_inference_tui.http.upstream import Exchange
from cyber_inference_tui.http.usage import Passage, Usage

SEND_TIMEOUT = 300.0
"""Seconds a client may leave the answer unread before it counts as gone."""

_MAX_ERROR_BODY = 1 << 20
_EVENT_STREAM = b"text/event-stream"

_logger = logging.getLogger(__name__)


class Answer:
    """The client's side of one request: what has been said, and how the rest is framed.

    ``renaming`` puts the model's id where its server cannot say it.
    """

    def __init__(
        self, request: web.Request, stream: bool, renaming: Renaming | None = None
    ) -> None:
        self._request = request
        self._transport = request.transport
        self._http11 = request.version >= (1, 1)
        self._renaming = renaming
        self._commented = False
        self._scanner: BodyScanner | None = None
        self._head: ResponseHead | None = None
        self._passage: Passage | None = None
        self._event_stream = False
        self._rechunk = False
        self._held_head = b""
        self._answered = False
        self._most_unsent = 0
        if self._transport is not None:
            self._most_unsent = self._transport.get_write_buffer_limits()[1]
        self.begun = False
        """Whether anything was said to the client."""
        self.status = 0
        """The HTTP status that the client was sent, once it has begun."""
        self.keep_alive = bool(request.keep_alive)
        self.may_comment = stream and self._http11 and request.method == "POST"

    @property
    def relayed(self) -> bool:
        """Whether the client has anything of the server's answer: then no other can give one."""
        passage = self._passage
        return self._answered or (passage is not None and passage.first_at is not None)

    @property
    def complete(self) -> bool:
        """Whether the server's answer passed to its end."""
        return self._scanner is not None and self._scanner.done

    @property
    def refused(self) -> bool:
        """Whether the server's answer is an error."""
        return self._head is not None and self._head.status >= 400

    @property
    def first_byte_at(self) -> float | None:
        """When the answer's body began to pass, in the loop's time; ``None`` for an error's."""
        return None if self._passage is None or self.refused else self._passage.first_at

    @property
    def says_done(self) -> bool:
        """The client has the stream's last event: many do not wait for the end of the body."""
        return self._passage is not None and self._passage.says_done

    def usage(self) -> Usage:
        """What the server said of its answer; read anew at each call, so ask at the end."""
        head, passage = self._head, self._passage
        if head is None or passage is None:
            return Usage()
        usage = Usage()
        if not _is_encoded(head):
            events = head.content_type.startswith(_EVENT_STREAM)
            usage = passage.usage(events=events)
        if head.status >= 400 and usage.error is None:
            usage = usage._replace(error=f"The model's server answered with status {head.status}.")
        return usage

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

    def forget(self) -> None:
        """Its server is lost and nothing it said is with the client: another one will answer."""
        self._scanner = self._head = self._passage = None
        self._held_head = b""
        self._event_stream = self._rechunk = self._commented
        self.keep_alive = bool(self._request.keep_alive)

    async def relay(self, head: ResponseHead, exchange: Exchange) -> None:
        """Pass a response on, whole."""
        self._head = head
        is_events = head.content_type.startswith(_EVENT_STREAM)
        if self._commented and not (head.status == 200 and is_events):
            await self._relay_as_event(head, exchange)
            return
        self._event_stream = is_events
        decode = head.framing is Framing.CHUNKED and not self._http11
        self._scanner = BodyScanner(head.framing, head.length, decode=decode)
        framed = head.framing is Framing.CHUNKED and not decode
        clock = asyncio.get_running_loop().time
        self._passage = Passage(self._scanner if framed else None, clock=clock)
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
            self._answered = not hold
            self._write_head(head.status, head.reason, headers, framing, decode=decode, hold=hold)
        await exchange.copy(self._scanner, self._take, self._drain)
        if self._renaming is not None:
            self._pass(self._renaming.rest())
        if self._rechunk:
            self._write(b"0\r\n\r\n")

    async def _relay_as_event(self, head: ResponseHead, exchange: Exchange) -> None:
        """The stream has begun with comments already, and the server answers with an error."""
        parts: list[bytes] = []
        size = 0
        scanner = BodyScanner(head.framing, head.length, decode=True)
        passage = Passage(None, clock=asyncio.get_running_loop().time)

        def collect(data: bytes) -> bool:
            nonlocal size
            passage.take(data)
            size += len(data)
            if size <= _MAX_ERROR_BODY:
                parts.append(data)
            return True

        await exchange.copy(scanner, collect, self._drain)
        self._passage, self._answered = passage, True
        body = b"".join(parts).strip()
        if self._renaming is not None:
            body = self._renaming.of(body) + self._renaming.rest()
        if head.status == 200:
            # It answered a streaming request with plain JSON: that is one event.
            self._write_chunk(b"data: " + body.replace(b"\n", b" ") + b"\n\n")
        else:
            try:
                data = msgspec.json.encode(
                    msgspec.json.decode(body, type=learned(dict[str, msgspec.Raw]))
                )
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
        if self._passage is not None:
            self._passage.take(data)
        if self._renaming is not None:
            data = self._renaming.of(data)
        self._pass(data)
        return transport.get_write_buffer_size() <= self._most_unsent

    def _pass(self, data: bytes) -> None:
        transport = self._transport
        if not data or transport is None or transport.is_closing():
            return
        if self._held_head:
            data, self._held_head, self.begun = self._held_head + data, b"", True
        if self._rechunk:
            transport.writelines((b"%x\r\n" % len(data), data, b"\r\n"))
        else:
            transport.write(data)

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
        self.status = status
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


def _is_encoded(head: ResponseHead) -> bool:
    return any(
        name.lower() == b"content-encoding" and value.lower() != b"identity"
        for name, value in head.headers
    )
