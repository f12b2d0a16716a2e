"""Writes the answer to a client's request, in a framing that shows its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import msgspec

from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.errors import CyberError, UpstreamError
from cyber_inference_tui.http.answer_head import (
    CLOSE,
    EVENT_STREAM,
    KEEP_ALIVE,
    UNBUFFERED,
    AnswerHead,
)
from cyber_inference_tui.http.body_tap import BodyTap
from cyber_inference_tui.http.box_place import LeadingComments, is_refusal
from cyber_inference_tui.http.error_responses import (
    ErrorEvents,
    as_event,
    error_event,
    in_shape_of,
    speaks_anthropic,
)
from cyber_inference_tui.http.framing import BadResponseError, BodyScanner, Framing
from cyber_inference_tui.http.model_request import ClientSide, RequestHead, wants_events
from cyber_inference_tui.http.name_replacer import NameReplacer
from cyber_inference_tui.http.translation import JSON_HEAD, Translation
from cyber_inference_tui.http.upstream import UpstreamConnection
from cyber_inference_tui.http.usage import Usage

SEND_TIMEOUT = 300.0
"""Seconds a client may leave the answer unread before it counts as gone."""

_MAX_ERROR_BODY = 1 << 20
_MAX_TRANSLATED_BODY = 256 << 20
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nCache-Control: no-cache\r\n" + UNBUFFERED

_logger = logging.getLogger(__name__)


class ClientResponse:
    """The answer to one request: what the client was sent, and the framing of the rest.

    ``replacer`` restores the model's id if its server uses another name, and ``translation`` makes
    the answer one of another API. ``begin``, ``take`` and ``end`` are called by the exchange as the
    server's bytes arrive. Without a translation the body does not change, except that errors under
    Anthropic's paths get Anthropic's shape.
    """

    # The beginnings of a request's values. Most requests change few of them.
    _commented = False
    _scanner: BodyScanner | None = None
    _head: AnswerHead | None = None
    _body_tap: BodyTap | None = None
    _event_stream = False
    _framing = Framing.NONE
    """The framing that shows the client the end of the body, once the head is written."""
    _rechunk = False
    """Whether the body is put into our own chunks."""
    _error_events: ErrorEvents | None = None
    _collected: _CollectedBody | None = None
    """The body, if the client gets it in another form once it is complete."""
    _comments: LeadingComments | None = None
    """The comments before the answer of another box."""
    _held_head = b""
    _answered = False
    _server: UpstreamConnection | None = None
    _unread_timer: asyncio.TimerHandle | None = None
    _unread_since = 0.0
    stall_seconds = 0.0
    """Seconds in which the client did not take what was ready for it."""
    begun = False
    """Whether anything was sent to the client."""
    status = 0
    """The HTTP status that the client was sent, once it has begun."""
    from_box = False
    """Whether another box answers. Its comments do not begin the answer: as long as there is
    nothing else, a third one may answer."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        request: RequestHead,
        client: ClientSide,
        *,
        request_id: bytes,
        stream: bool,
        replacer: NameReplacer | None,
        translation: Translation | None,
    ) -> None:
        self._loop = loop
        self._request = request
        self._client = client
        self._request_id = request_id
        self._stream = stream
        self._translation = translation
        self._replacer: NameReplacer | Translation | None = replacer
        """Changes the parts of the body as they pass."""
        self._transport = client.transport
        self.keep_alive = request.keep_alive

    @property
    def may_comment(self) -> bool:
        """Return whether the client reads a stream, in which the service can say that it waits."""
        if self._translation is not None:
            return self._stream
        request = self._request
        return request.method in {"GET", "POST"} and (self._stream or wants_events(request))

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
    def refusal(self) -> bytes | None:
        """The body of the server's error, if the client gets it in another form."""
        collected = self._collected
        is_error = collected is not None and collected.head.status >= 400
        return collected.body() if collected is not None and is_error else None

    @property
    def refused_by_box(self) -> AnswerHead | None:
        """The head of the answer with which another box refuses, if a third one may answer."""
        collected = self._collected
        refuses = self.from_box and collected is not None and is_refusal(collected.head.status)
        return collected.head if refuses and collected is not None else None

    @property
    def first_byte_at(self) -> float | None:
        """The loop's time at the first byte of the answer's body; ``None`` for errors."""
        if self.refused:
            return None
        return None if self._body_tap is None else self._body_tap.first_at

    @property
    def says_done(self) -> bool:
        """Return whether the client has the last event. Many clients do not wait for the end."""
        return self._body_tap is not None and self._body_tap.says_done

    @property
    def tokens_so_far(self) -> int | None:
        """The tokens of a stream so far; ``None`` if that is not known."""
        head, body_tap = self._head, self._body_tap
        if head is None or body_tap is None or head.is_encoded or not head.is_events:
            return None
        return None if head.status >= 400 else body_tap.tokens_so_far()

    def usage(self) -> Usage:
        """Parse the server's figures from the answer. Call it once, at the end."""
        head, body_tap = self._head, self._body_tap
        if head is None or body_tap is None:
            return Usage()
        usage = Usage() if head.is_encoded else body_tap.usage(events=head.is_events)
        whole = usage.error is None and (self.complete or body_tap.says_done)
        # What the server has reported of an answer that was cut is not all of it.
        if (not whole or usage.tokens_out is None) and (tokens := self.tokens_so_far):
            counted = True if tokens != usage.tokens_out else None
            usage = usage._replace(tokens_out=tokens, tokens_counted=counted)
        if head.status >= 400 and usage.error is None:
            usage = usage._replace(error=f"The model's server answered with status {head.status}.")
        return usage

    def comment(self, text: str) -> None:
        """Send an SSE comment, so that the client does not time out.

        A translated stream has no comments, but parts without text. HTTP/1.0 has no chunks: there
        the stream ends with its connection.
        """
        translation = self._translation
        if not self._commented:
            self._commented = self._event_stream = True
            self._rechunk = self._request.is_http11
            framing = Framing.CHUNKED if self._request.is_http11 else Framing.CLOSE
            self._held_head = b""
            kind = EVENT_STREAM if translation is None else translation.stream_type
            self._write_head(200, _STREAM_HEAD % kind, framing)
        comment = f": {text}\n\n".encode()
        self._write_part(comment if translation is None else translation.waiting())

    def reset(self) -> None:
        """Prepare for the answer of another server, after the first was lost before its answer."""
        self._scanner = self._head = self._body_tap = self._error_events = self._collected = None
        self._comments = None
        self._held_head = b""
        self._event_stream = self._commented
        self._rechunk = self._commented and self._request.is_http11
        if not self._commented:
            self.keep_alive = self._request.keep_alive

    # The answer of a server

    def begin(self, head: AnswerHead, length: int, server: UpstreamConnection) -> BodyScanner:
        """Take the head of the answer. Return the scanner for the body."""
        self._head, self._server = head, server
        clock, translation = self._loop.time, self._translation
        shapes_errors = (head.is_events or head.status >= 400) and (
            not head.is_encoded and speaks_anthropic(self._request.path)
        )
        if not (head.status == 200 and head.is_events) and (
            self._commented
            or translation is not None
            or (self.from_box and is_refusal(head.status))
            or (shapes_errors and head.status >= 400 and head.framing is Framing.LENGTH)
        ):
            scanner = BodyScanner(head.framing, length, decode=True)
            is_answer = translation is not None and head.status == 200
            limit = _MAX_TRANSLATED_BODY if is_answer else _MAX_ERROR_BODY
            self._collected = _CollectedBody(head, scanner, limit, clock)
            return scanner
        if translation is not None:
            self._replacer = translation
        elif shapes_errors and head.is_events:
            self._error_events = ErrorEvents()
        self._event_stream = head.is_events
        if self.from_box and head.is_events and head.status == 200 and not head.is_encoded:
            self._comments = LeadingComments()
        is_chunked = head.framing is Framing.CHUNKED
        may_change = (
            translation is not None or self._error_events is not None or self._reads_comments
        )
        decode = is_chunked and (not self._request.is_http11 or may_change)
        scanner = self._scanner = BodyScanner(head.framing, length, decode=decode)
        self._body_tap = BodyTap(scanner if is_chunked and not decode else None, clock=clock)
        # Chunks show the end of a body that ends with its connection. A body after comments keeps
        # their framing, and a body that may change cannot have a length.
        self._rechunk = self._request.is_http11 and (
            decode
            or head.framing is Framing.CLOSE
            or (self._commented and not is_chunked)
            or (may_change and head.framing is Framing.LENGTH)
        )
        if not self._commented:
            framing = head.framing
            if self._rechunk:
                framing = Framing.CHUNKED
            elif decode or (may_change and framing is Framing.LENGTH):
                framing = Framing.CLOSE
            # A body with a length follows at once: the head is sent together with its first bytes.
            hold = (framing is Framing.LENGTH or self._reads_comments) and not scanner.done
            self._answered = not hold
            lines = head.lines
            if translation is not None:
                lines = _STREAM_HEAD % translation.stream_type
            if head.has_length and framing is head.framing:
                lines += b"Content-Length: %d\r\n" % length
            self._write_head(head.status, lines, framing, hold=hold)
        return scanner

    def take(self, data: bytes) -> bool:
        """Take bytes of the body. Return ``False`` if the client has to read first.

        Hot path: called for every chunk.
        """
        if self._collected is not None:
            self._collected.take(data)
            return True
        transport = self._transport
        if transport is None or transport.is_closing():
            return True
        if self._comments is not None:
            data = self._take_comments(self._comments, data)
            if not data:
                return True
        if self._error_events is not None:
            data = self._error_events.feed(data)
            if not data:
                return True
        if self._body_tap is not None:
            self._body_tap.take(data)
        if self._replacer is not None:
            data = self._replacer.feed(data)
        if self._held_head or self._rechunk or not data:
            self._pass(data)
        else:
            transport.write(data)
        if self._client.writing_paused:
            self._wait_for_client()
            return False
        return True

    @property
    def _reads_comments(self) -> bool:
        return self._comments is not None

    def _take_comments(self, comments: LeadingComments, data: bytes) -> bytes:
        """Pass on the comments before an answer, and return what is not one."""
        said, data = comments.feed(data)
        for text in said:
            self.comment(text)
        if data:
            self._comments = None
        return data

    def end(self) -> None:
        """Write what is left once the server's answer is complete.

        Raises ``BadResponseError`` if another box has sent a stream without an event.
        """
        if self._collected is not None:
            self._write_collected(self._collected)
            return
        if self._reads_comments:
            raise BadResponseError("its stream has no event")
        rest = b"" if self._error_events is None else self._error_events.rest()
        if self._replacer is not None:
            rest = self._replacer.feed(rest) + self._replacer.rest()
        self._pass(rest)
        self._end_stream()

    def _write_collected(self, collected: _CollectedBody) -> None:
        head, translation = collected.head, self._translation
        body, lines, is_translated = collected.body(), head.lines, False
        if translation is not None and head.status == 200:
            body, lines, is_translated = translation.whole(body), JSON_HEAD, True
        elif self._replacer is not None:
            body = self._replacer.feed(body) + self._replacer.rest()
        self._scanner, self._body_tap, self._answered = collected.scanner, collected.tap, True
        if not self._commented:
            if head.status != 200:
                # An error of the server, in the shape that the client reads.
                body = in_shape_of(self._request.path, body, head.status) or body
            lines += b"Content-Length: %d\r\n" % len(body)
            self._write_head(head.status, lines, Framing.LENGTH)
            self._write(body)
            return
        # The stream has started with comments, and the answer is not a stream.
        if is_translated:
            self._write_part(body + b"\n")
        elif head.status == 200:
            # Plain JSON as the answer to a streaming request becomes one event.
            self._write_part(b"data: " + body.strip().replace(b"\n", b" ") + b"\n\n")
        else:
            self._write_part(self._event_of(body.strip(), head.status))
        self._end_stream()

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
        return as_event(in_shape_of(path, data, status) or data, path)

    # The client

    def _wait_for_client(self) -> None:
        """Continue when the client has read enough, or end the answer after ``SEND_TIMEOUT``."""
        self._client.on_writable = self._resume
        self._unread_since = self._loop.time()
        self._unread_timer = self._loop.call_later(SEND_TIMEOUT, self._give_up)

    def _resume(self) -> None:
        self.stop_waiting()
        if self._server is not None:
            self._server.resume()

    def _give_up(self) -> None:
        self.stop_waiting()
        # Not close(): that would wait forever for the client to read.
        if self._transport is not None:
            self._transport.abort()
        if self._server is not None:
            self._server.fail(
                UpstreamError(f"The client did not read its answer for {SEND_TIMEOUT:g} s.")
            )

    def stop_waiting(self) -> None:
        """Do not wait for the client any longer. Call it at the end."""
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None
            self.stall_seconds += self._loop.time() - self._unread_since
            self._client.on_writable = None

    def fail(self, error: CyberError) -> None:
        """Report an error after the start of the answer: as an event if possible, else by a cut."""
        scanner = self._scanner
        at_boundary = scanner is not None and scanner.at_boundary
        sound = self._rechunk or self._framing is Framing.CLOSE or at_boundary
        if self._event_stream and sound and not self.complete:
            event = error_event(error, self._request.path)
            if scanner is not None and self._translation is None:
                # The server may have died in the middle of an event of its own.
                event = b"\n\n" + event
            self._rechunk = self._framing is Framing.CHUNKED
            self._write_part(event)
            self._end_stream()
            return
        # In a body with a length, or in the middle of a chunk, only an early end can show it.
        _logger.warning("an answer was cut short: %s (%s)", error, self._request_id.decode())
        self.cut()

    def cut(self) -> None:
        """Close the connection, so that the client sees that its answer is incomplete."""
        self.keep_alive = False
        if self._transport is not None:
            self._transport.close()

    def _write_head(
        self, status: int, lines: bytes, framing: Framing, *, hold: bool = False
    ) -> None:
        self.status, self._framing = status, framing
        if framing is Framing.CLOSE:
            self.keep_alive = False
        if self._request.cors:
            cors = [f"{name}: {value}\r\n" for name, value in self._request.cors.items()]
            lines += "".join(cors).encode("latin-1")
        if framing is Framing.CHUNKED:
            lines += b"Transfer-Encoding: chunked\r\n"
        lines += b"%b%b\r\n\r\n" % (KEEP_ALIVE if self.keep_alive else CLOSE, self._request_id)
        if hold:
            self._held_head = lines
            return
        self.begun = True
        self._write(lines)

    def _pass(self, data: bytes) -> None:
        transport = self._transport
        if not data or transport is None or transport.is_closing():
            return
        head, self._held_head = self._held_head, b""
        if head:
            self.begun = self._answered = True
        if self._rechunk:
            transport.writelines((b"%b%x\r\n" % (head, len(data)), data, b"\r\n"))
        else:
            transport.write(head + data if head else data)

    def _write_part(self, data: bytes) -> None:
        self._write(b"%x\r\n%b\r\n" % (len(data), data) if self._rechunk else data)

    def _end_stream(self) -> None:
        """Write the last chunk, if the chunks are our own."""
        if self._rechunk:
            self._write(b"0\r\n\r\n")

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)


class _CollectedBody:
    """A body without its framing. Bytes beyond the limit are dropped."""

    def __init__(
        self, head: AnswerHead, scanner: BodyScanner, limit: int, clock: Callable[[], float]
    ) -> None:
        self.head = head
        self.scanner = scanner
        self.tap = BodyTap(None, clock=clock)
        self._parts: list[bytes] = []
        self._left = limit

    def take(self, data: bytes) -> None:
        """Take the next bytes."""
        self.tap.take(data)
        self._left -= len(data)
        if self._left >= 0:
            self._parts.append(data)

    def body(self) -> bytes:
        """Return the bytes so far."""
        return b"".join(self._parts)
