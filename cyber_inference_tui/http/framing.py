"""Parses the heads of HTTP/1.1 responses, and finds the ends of their bodies (RFC 9112).

Bodies are not decoded: the client gets the bytes that the server sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum, auto
from typing import NamedTuple

MAX_HEAD_BYTES = 64 << 10
_MAX_HELD = 64 << 10
_MAX_LENGTH_DIGITS = 18
_CR, _LF = b"\r\n"
# Field values and chunk extensions hold no control characters but tabs (RFC 9110, 5.5).
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;[^\x00-\x08\x0a-\x1f\x7f]*)?\r")
_PLAIN_CHUNK_SIZE = re.compile(rb"0?([1-9a-fA-F][0-9a-fA-F]{0,6})\r\n")
_MOST_REQUESTS = re.compile(rb"\bmax=([0-9]{1,9})\b", re.IGNORECASE)
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9]\d\d)(?: ([^\r\n]*))?")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([^\r\n]*)")
_SWITCHING_PROTOCOLS = 101

# RFC 9110, 7.6.1: they concern a single connection and are never passed on.
HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization"}
    | {b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"}
)


class BadResponseError(Exception):
    """The server sent something other than an HTTP/1.1 response."""


class Framing(Enum):
    """The sign for the end of a body."""

    NONE = auto()
    LENGTH = auto()
    CHUNKED = auto()
    CLOSE = auto()


class ResponseHead(NamedTuple):
    """A parsed head. ``headers`` are as sent, in order, without those of a single connection."""

    status: int
    reason: bytes
    headers: list[tuple[bytes, bytes]]
    framing: Framing
    length: int
    keep_alive: bool
    most_requests: int | None
    """The number of requests of a connection, if the server announces it."""
    content_type: bytes


def parse_head(head: bytes, method: str) -> ResponseHead:
    """Parse a head (without its empty line) that answers ``method``.

    Raises ``BadResponseError``.
    """
    first, *lines = head.split(b"\r\n")
    match = _STATUS_LINE.fullmatch(first)
    if match is None:
        raise BadResponseError("it did not answer in HTTP/1.1")
    fields = _fields(head, lines)
    status = int(match[2])
    if status == _SWITCHING_PROTOCOLS:
        raise BadResponseError("it switched protocols, although nobody had asked for that")
    keep_alive = match[1] == b"1"
    dropped = HOP_BY_HOP | connection_options(fields)
    framing, length, content_type = Framing.CLOSE, 0, b""
    most_requests = None
    headers = []
    for name, value in fields:
        key = name.lower()
        if key == b"content-length":
            if not value.isdigit() or len(value) > _MAX_LENGTH_DIGITS:
                raise BadResponseError("it sent a broken Content-Length")
            if framing is Framing.LENGTH and int(value) != length:
                raise BadResponseError("it sent two lengths")
            if framing is not Framing.CHUNKED:
                framing, length = Framing.LENGTH, int(value)
        elif key == b"transfer-encoding":
            if value.lower() != b"chunked" or framing is Framing.CHUNKED:
                raise BadResponseError("it used an unknown Transfer-Encoding")
            # The chunks count, also behind a length (RFC 9112, 6.3).
            framing, length = Framing.CHUNKED, 0
        elif key == b"connection":
            options = value.lower()
            keep_alive = b"close" not in options and (keep_alive or b"keep-alive" in options)
        elif key == b"keep-alive" and (most := _MOST_REQUESTS.search(value)):
            most_requests = int(most[1])
        elif key == b"content-type":
            content_type = value.lower()
        if key not in dropped and key != b"content-length":
            headers.append((name, value))
    if framing is Framing.LENGTH or (method == "HEAD" and length):
        headers.append((b"Content-Length", b"%d" % length))
    if method == "HEAD" or status in {204, 304} or status < 200:
        framing = Framing.NONE
    if framing is Framing.CLOSE:
        keep_alive = False
    return ResponseHead(
        status,
        match[3] or b"",
        headers,
        framing,
        length,
        keep_alive,
        most_requests,
        content_type,
    )


def _fields(data: bytes, lines: list[bytes]) -> list[tuple[bytes, bytes]]:
    """Return the names and values of the header ``lines``, all of them in ``data``.

    Raises ``BadResponseError`` if a client could read them in another way.
    """
    if not data.count(b"\r") == data.count(b"\n") == data.count(b"\r\n") or _CONTROL.search(data):
        raise BadResponseError("it sent a broken header line")
    found = []
    for line in lines:
        field = _FIELD.fullmatch(line)
        if field is None:
            raise BadResponseError("it sent a broken header line")
        found.append((field[1], field[2].strip()))
    return found


def connection_options(headers: Iterable[tuple[bytes, bytes]]) -> frozenset[bytes]:
    """Return the words of ``Connection``: among them names of headers that are not passed on."""
    return frozenset(
        word.strip().lower()
        for name, value in headers
        if name.lower() == b"connection"
        for word in value.split(b",")
    )


def check_unfinished_head(data: bytes) -> None:
    """Raise ``BadResponseError`` if ``data`` cannot become a head: it is too long, or not in CRLF.

    Without that, a head whose lines end in line feeds would be awaited for ever.
    """
    if len(data) > MAX_HEAD_BYTES:
        raise BadResponseError("it sent an endless head")
    if data.count(b"\n") != data.count(b"\r\n"):
        raise BadResponseError("it sent a broken header line")


def _is_whole_chunks(data: bytes) -> bool:
    """Return whether this is nothing but whole chunks, as most reads of a stream are."""
    position, size = 0, len(data)
    while position < size:
        match = _PLAIN_CHUNK_SIZE.match(data, position)
        if match is None:
            return False
        position = match.end() + int(match[1], 16) + 2
        if position > size or data[position - 1] != _LF or data[position - 2] != _CR:
            return False
    return True


class BodyScanner:
    """Finds the end of a body, without copying it.

    ``feed`` returns the bytes that can be passed on. With chunked framing and small chunks they end
    at a chunk's boundary, so that the service can still send an error in a chunk of its own if the
    server dies. With ``decode`` they are the content without the chunk framing.
    """

    def __init__(self, framing: Framing, length: int, *, decode: bool = False) -> None:
        self.done = framing is Framing.NONE or (framing is Framing.LENGTH and length == 0)
        self._framing = framing
        self.left = length
        """The missing bytes of the body, or of the current chunk with its line end."""
        self._decode = decode
        self._held = b""

    @property
    def at_boundary(self) -> bool:
        """Return whether another chunk may follow the bytes that were passed on."""
        return self._framing is Framing.CLOSE or (
            self._framing is Framing.CHUNKED and self.left == 0
        )

    def ended(self, reset: bool) -> None:
        """Note the end of the connection, which ends a body without a length unless ``reset``."""
        if self._framing is Framing.CLOSE and not reset:
            self.done = True

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the server, and return those to pass on. Raises ``BadResponseError``."""
        if self._framing is Framing.CHUNKED:
            return self._feed_chunked(data)
        if self._framing is Framing.CLOSE:
            return data
        if self._framing is Framing.NONE or len(data) > self.left:
            raise BadResponseError("it sent more than it had announced")
        self.left -= len(data)
        self.done = self.left == 0
        return data

    def _feed_chunked(self, data: bytes) -> bytes:
        if not (self.left or self._held or self._decode) and _is_whole_chunks(data):
            return data
        data, self._held = self._held + data, b""
        content: list[bytes] = []
        position = 0
        size = len(data)
        while position < size and not self.done:
            if self.left:
                # The chunk's bytes and the CRLF after them.
                step = min(self.left, size - position)
                if self._decode and self.left > 2:
                    content.append(data[position : position + min(step, self.left - 2)])
                for missing, byte in ((2, _CR), (1, _LF)):
                    # Those of the two that are among these bytes.
                    if missing <= self.left < missing + step and (
                        data[position + self.left - missing] != byte
                    ):
                        raise BadResponseError("it sent a broken chunk")
                self.left -= step
                position += step
                continue
            end = data.find(b"\n", position)
            if end < 0:
                break
            match = _CHUNK_SIZE.fullmatch(data, position, end)
            if match is None:
                raise BadResponseError("it sent a broken chunk")
            length = int(match[1], 16)
            if length == 0:
                finish = self._end_of_trailers(data, end + 1)
                if finish < 0:
                    break
                position = finish
                self.done = True
            elif size - end - 1 < length + 2 and size - position <= _MAX_HELD:
                break
            else:
                position = end + 1
                self.left = length + 2
        if self.done and position < size:
            # This data is not passed on, so the client's body is incomplete.
            self.done = False
            raise BadResponseError("it sent more than one response")
        self._held = data[position:]
        if len(self._held) > _MAX_HELD:
            raise BadResponseError("it sent a broken chunk")
        return b"".join(content) if self._decode else data[:position]

    @staticmethod
    def _end_of_trailers(data: bytes, start: int) -> int:
        """Return the end of the body after the last chunk's line; -1 = not received yet."""
        if data.startswith(b"\r\n", start):
            return start + 2
        found = data.find(b"\r\n\r\n", start)
        if found < 0:
            return -1
        trailers = data[start:found]
        _fields(trailers, trailers.split(b"\r\n"))
        return found + 4
