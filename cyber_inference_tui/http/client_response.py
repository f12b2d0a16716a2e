"""Writes the answer to a client's request, in a framing that shows its end."""

from __future__ import annotations

import asyncio
import logging

import msgspec
from aiohttp import hdrs, web

from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.errors import CyberError, UpstreamError
from cyber_inference_tui.http.access import cors_headers
from cyber_inference_tui.http.error_responses import (
    RETRY_IN_VAIN,
    ErrorEvents,
    error_event,
    in_anthropic_shape,
    speaks_anthropic,
)
from cyber_inference_tui.http.framing import BodyScanner, Framing, ResponseHead
from cyber_inference_tui.http.name_replacer import NameReplacer
from cyber_inference_tui.http.upstream import Exchange
from cyber_inference_tui.http.usage import BodyTap, Usage

SEND_TIMEOUT = 300.0
"""Seconds a client may leave the answer unread before it counts as gone."""

_MAX_ERROR_BODY = 1 << 20
_EVENT_STREAM = b"text/event-stream"
# Reverse proxies buffer a few KiB of an answer. nginx and proxies that follow its example pass a
# stream on at once if its head has this header:
# https://nginx.org/en/docs/http/ngx_http_proxy_module.html#proxy_buffering
_UNBUFFERED = (b"X-Accel-Buffering", b"no")
_NOT_IMPLEMENTED = 501

_logger = logging.getLogger(__name__)


class ClientResponse:
    """The answer to one request: what the client was sent, and the framing of the rest.

    ``replacer`` restores the model's id if its server uses another name.
    """

    def __init__(
        self, request: web.Request, stream: bool, replacer: NameReplacer | None = None
    ) -> None:
        self._request = request
        self._transport = request.transport
        self._http11 = request.version >= (1, 1)
        self._replacer = replacer
        self._commented = False
        self._scanner: BodyScanner | None = None
        self._head: ResponseHead | None = None
        self._body_tap: BodyTap | None = None
        self._event_stream = False
        self._framing = Framing.NONE
        """The framing that shows the client the end of the body, once the head is written."""
        self._rechunk = False
        """Whether the body is put into our own chunks."""
        self._error_events: ErrorEvents | None = None
        self._held_head = b""
        self._answered = False
        self._most_unsent = 0
        if self._transport is not None:
            self._most_unsent = self._transport.get_write_buffer_limits()[1]
        self.begun = False
        """Whether anything was sent to the client."""
        self.status = 0
        """The HTTP status that the client was sent, once it has begun."""
        self.keep_alive = bool(request.keep_alive)
        self.may_comment = request.method in {"GET", "POST"} and (
            stream or request.headers.get(hdrs.ACCEPT) == "text/event-stream"
        )
        """Whether the client reads Server-Sent Events, so that comments can be sent."""

    @property
    def relayed(self) -> bool:
        """Return whether the client has a part of the answer, so no other server can answer."""
        body_tap = self._body_tap
        return self._answered or (body_tap is not None and body_tap.first_at is not None)

    @property
    def complete(self) -> bool:
        """Return whether the whole answer of the server was passed on."""
        return self._scanner is not None and self._scanner.done

    @property
    def refused(self) -> bool:
        """Return whether the server's answer is an error."""
        return self._head is not None and self._head.status >= 400

    @property
    def first_byte_at(self) -> float | None:
        """The loop's time at the first byte of the answer's body; ``None`` for errors."""
        return None if self._body_tap is None or self.refused else self._body_tap.first_at

    @property
    def says_done(self) -> bool:
        """Return whether the client has the last event. Many clients do not wait for the end."""
        return self._body_tap is not None and self._body_tap.says_done

    def usage(self) -> Usage:
        """Parse the server's figures from the answer. Call it once, at the end."""
        head, body_tap = self._head, self._body_tap
        if head is None or body_tap is None:
            return Usage()
        usage = Usage()
        if not _is_encoded(head):
            events = head.content_type.startswith(_EVENT_STREAM)
            usage = body_tap.usage(events=events)
        if head.status >= 400 and usage.error is None:
            usage = usage._replace(error=f"The model's server answered with status {head.status}.")
        return usage

    def comment(self, text: str) -> None:
        """Send an SSE comment, so that the client does not time out.

        HTTP/1.0 has no chunks: there the stream ends with its connection.
        """
        if not self._commented:
            self._commented = self._event_stream = True
            self._rechunk = self._http11
            self._write_head(
                200,
                b"OK",
                [
                    (b"Content-Type", b"text/event-stream"),
                    (b"Cache-Control", b"no-cache"),
                    _UNBUFFERED,
                ],
                Framing.CHUNKED if self._http11 else Framing.CLOSE,
            )
        self._write_part(f": {text}\n\n".encode())

    def reset(self) -> None:
        """Prepare for the answer of another server, after the first was lost before its answer."""
        self._scanner = self._head = self._body_tap = self._error_events = None
        self._held_head = b""
        self._event_stream = self._commented
        self._rechunk = self._commented and self._http11
        if not self._commented:
            self.keep_alive = bool(self._request.keep_alive)

    async def relay(self, head: ResponseHead, exchange: Exchange) -> None:
        """Pass a whole response to the client.

        The body does not change, except that errors under Anthropic's paths get Anthropic's shape.
        """
        self._head = head
        is_events = head.content_type.startswith(_EVENT_STREAM)
        if self._commented and not (head.status == 200 and is_events):
            await self._relay_as_event(head, exchange)
            return
        translate = speaks_anthropic(self._request.path) and not _is_encoded(head)
        if translate and head.status >= 400 and head.framing is Framing.LENGTH:
            await self._relay_error(head, exchange)
            return
        if translate and is_events:
            self._error_events = ErrorEvents()
        self._event_stream = is_events
        decode = head.framing is Framing.CHUNKED and (
            not self._http11 or self._error_events is not None
        )
        self._scanner = BodyScanner(head.framing, head.length, decode=decode)
        framed = head.framing is Framing.CHUNKED and not decode
        clock = asyncio.get_running_loop().time
        self._body_tap = BodyTap(self._scanner if framed else None, clock=clock)
        # Chunks show the end of a body that ends with its connection. A body after comments keeps
        # their framing, and a body that may change cannot have a length.
        self._rechunk = self._http11 and (
            decode
            or head.framing is Framing.CLOSE
            or (self._commented and head.framing is not Framing.CHUNKED)
            or (self._error_events is not None and head.framing is Framing.LENGTH)
        )
        if not self._commented:
            framing = head.framing
            if self._rechunk:
                framing = Framing.CHUNKED
            elif decode or (self._error_events is not None and framing is Framing.LENGTH):
                framing = Framing.CLOSE
            # A body with a length follows at once: the head is sent together with its first bytes.
            hold = framing is Framing.LENGTH and not self._scanner.done
            self._answered = not hold
            headers = _headers(head, with_length=framing is head.framing)
            self._write_head(head.status, head.reason, headers, framing, hold=hold)
        await exchange.copy(self._scanner, self._take, self._drain)
        rest = b"" if self._error_events is None else self._error_events.rest()
        if self._replacer is not None:
            rest = self._replacer.feed(rest) + self._replacer.rest()
        self._pass(rest)
        self._end_stream()

    async def _relay_error(self, head: ResponseHead, exchange: Exchange) -> None:
        """Pass on an error of the server, in the shape that the client reads."""
        body = await self._collect(head, exchange)
        body = in_anthropic_shape(body, head.status) or body
        headers = _headers(head, with_length=False)
        headers.append((b"Content-Length", b"%d" % len(body)))
        self._write_head(head.status, head.reason, headers, Framing.LENGTH)
        self._write(body)

    async def _relay_as_event(self, head: ResponseHead, exchange: Exchange) -> None:
        """Pass on an answer that is not a stream, after the stream has started with comments."""
        body = (await self._collect(head, exchange)).strip()
        if head.status == 200:
            # Plain JSON as the answer to a streaming request becomes one event.
            self._write_part(b"data: " + body.replace(b"\n", b" ") + b"\n\n")
        else:
            self._write_part(self._event_of(body, head.status))
        self._end_stream()

    async def _collect(self, head: ResponseHead, exchange: Exchange) -> bytes:
        """Return the whole body without its framing, at most ``_MAX_ERROR_BODY`` bytes."""
        parts: list[bytes] = []
        size = 0
        scanner = BodyScanner(head.framing, head.length, decode=True)
        body_tap = BodyTap(None, clock=asyncio.get_running_loop().time)

        def collect(data: bytes) -> bool:
            nonlocal size
            body_tap.take(data)
            size += len(data)
            if size <= _MAX_ERROR_BODY:
                parts.append(data)
            return True

        await exchange.copy(scanner, collect, self._drain)
        self._scanner, self._body_tap, self._answered = scanner, body_tap, True
        body = b"".join(parts)
        return body if self._replacer is None else self._replacer.feed(body) + self._replacer.rest()

    def _event_of(self, body: bytes, status: int) -> bytes:
        """Return the event for an error of the server."""
        path = self._request.path
        try:
            data = msgspec.json.encode(
                msgspec.json.decode(body, type=thread_safe(dict[str, msgspec.Raw]))
            )
        except msgspec.MsgspecError:
            text = body[:500].decode("utf-8", "replace")
            return error_event(UpstreamError(f"The model's server answered {status}: {text}"), path)
        if speaks_anthropic(path):
            return b"event: error\ndata: %b\n\n" % (in_anthropic_shape(data, status) or data)
        return b"data: %b\n\n" % data

    def fail(self, error: CyberError) -> None:
        """Report an error after the start of the answer: as an event if possible, else by a cut."""
        scanner = self._scanner
        at_boundary = scanner is not None and scanner.at_boundary
        sound = self._rechunk or self._framing is Framing.CLOSE or at_boundary
        if self._event_stream and sound and not self.complete:
            event = error_event(error, self._request.path)
            if scanner is not None:
                # The server may have died in the middle of an event of its own.
                event = b"\n\n" + event
            self._rechunk = self._framing is Framing.CHUNKED
            self._write_part(event)
            self._end_stream()
            return
        # In a body with a length, or in the middle of a chunk, only an early end can show it.
        _logger.warning("an answer was cut short: %s", error)
        self.cut()

    def cut(self) -> None:
        """Close the connection, so that the client sees that its answer is incomplete."""
        self.keep_alive = False
        if self._transport is not None:
            self._transport.close()

    def _take(self, data: bytes) -> bool:
        transport = self._transport
        if transport is None or transport.is_closing():
            return True
        if self._error_events is not None:
            data = self._error_events.feed(data)
            if not data:
                return True
        if self._body_tap is not None:
            self._body_tap.take(data)
        if self._replacer is not None:
            data = self._replacer.feed(data)
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
        """Wait until the client has read enough."""
        try:
            async with asyncio.timeout(SEND_TIMEOUT):
                await self._request.writer.drain()
        except TimeoutError:
            # Not close(): that would wait forever for the client to read.
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
        hold: bool = False,
    ) -> None:
        self.status, self._framing = status, framing
        if framing is Framing.CLOSE:
            self.keep_alive = False
        lines = [b"HTTP/1.1 %d %b\r\n" % (status, reason)]
        lines += [b"%b: %b\r\n" % header for header in headers]
        for name, value in cors_headers(self._request).items():
            lines.append(f"{name}: {value}\r\n".encode("latin-1"))
        if framing is Framing.CHUNKED:
            lines.append(b"Transfer-Encoding: chunked\r\n")
        lines.append(b"Connection: keep-alive\r\n" if self.keep_alive else b"Connection: close\r\n")
        lines.append(b"\r\n")
        if hold:
            self._held_head = b"".join(lines)
            return
        self.begun = True
        self._write(b"".join(lines))

    def _write_part(self, data: bytes) -> None:
        self._write(b"%x\r\n%b\r\n" % (len(data), data) if self._rechunk else data)

    def _end_stream(self) -> None:
        """Write the last chunk, if the chunks are our own."""
        if self._rechunk:
            self._write(b"0\r\n\r\n")

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)


def _headers(head: ResponseHead, *, with_length: bool) -> list[tuple[bytes, bytes]]:
    """Return the server's headers in the form that the client gets."""
    found = [
        (name, value)
        for name, value in head.headers
        if not _is_cors(name) and (with_length or name.lower() != b"content-length")
    ]
    if head.content_type.startswith(_EVENT_STREAM):
        if all(name.lower() != b"x-accel-buffering" for name, _ in found):
            found.append(_UNBUFFERED)
    elif head.status == _NOT_IMPLEMENTED:
        # Clients repeat requests with a 5xx status, which is useless for this one.
        found.append(RETRY_IN_VAIN)
    return found


def _is_cors(name: bytes) -> bool:
    # The service decides which sites may read an answer, not the model's server.
    return name.lower().startswith(b"access-control-")


def _is_encoded(head: ResponseHead) -> bool:
    return any(
        name.lower() == b"content-encoding" and value.lower() != b"identity"
        for name, value in head.headers
    )
