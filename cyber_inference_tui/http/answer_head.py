"""The head of a server's answer, in the form that the client gets it.

All answers of a server have the same head, apart from the digits of their ``Content-Length``. So
heads are parsed once and then looked up by their other bytes, and by all bytes once an answer of
this length has come whole.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from cyber_inference_tui.http.error_responses import RETRY_IN_VAIN
from cyber_inference_tui.http.framing import Framing, ResponseHead, parse_head

CONTENT_LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: ?([0-9]{1,15})\r\n")
"""The usual form of this header, with its digits. Every other form is parsed in full."""

EVENT_STREAM = b"text/event-stream"
# Reverse proxies buffer a few KiB of an answer. nginx and proxies that follow its example pass a
# stream on at once if its head has this header:
# https://nginx.org/en/docs/http/ngx_http_proxy_module.html#proxy_buffering
UNBUFFERED = b"X-Accel-Buffering: no\r\n"
_NOT_IMPLEMENTED = 501
_MAX_KNOWN = 256
_MAX_WHOLE = 512
_MANY_REQUESTS = 1000
"""The requests of a connection if nothing is announced, as in nginx."""


class AnswerHead(NamedTuple):
    """The head of an answer."""

    status: int
    framing: Framing
    has_length: bool
    """Whether it announces a length, which an answer to HEAD does without a body."""
    most_requests: int
    """The number of requests of a connection with such an answer; 0 = it is closed after it."""
    is_events: bool
    is_encoded: bool
    """Whether its body has a content coding, so that it cannot be read here."""
    lines: bytes
    """The status line and the headers for the client, without the length."""
    is_plain: bool
    """Whether its body has a length and passes unchanged, for any client."""


KEEP_ALIVE = b"Connection: keep-alive\r\nX-Request-Id: "
CLOSE = b"Connection: close\r\nX-Request-Id: "
"""The last lines of a head. The request's id and an empty line follow."""


class WholeAnswer:
    """The common part of answers with the same head. They come whole and pass unchanged."""

    __slots__ = (
        "closing_head",
        "is_encoded",
        "kept_head",
        "most_requests",
        "size",
        "start",
        "status",
    )

    def __init__(self, head: AnswerHead, start: int, length: int) -> None:
        self.start = start
        """The offset of the body."""
        self.size = start + length
        """The size of the whole answer."""
        self.status = head.status
        self.is_encoded = head.is_encoded
        self.most_requests = head.most_requests
        lines = b"%bContent-Length: %d\r\n" % (head.lines, length)
        self.kept_head = lines + KEEP_ALIVE
        """The head for a client whose connection is kept, up to the request's id."""
        self.closing_head = lines + CLOSE


class AnswerHeads:
    """Parses the heads of answers, and remembers a limited number of them."""

    def __init__(self) -> None:
        self._known: dict[bytes, AnswerHead] = {}
        self.whole: dict[bytes, WholeAnswer] = {}
        """By the bytes of the head."""

    def read_whole(self, data: bytes) -> WholeAnswer | None:
        """Return the answer to a POST whose head is in ``data``, and remember it.

        ``None`` if the head is not complete, or such an answer does not pass unchanged. Raises
        ``BadResponseError``.
        """
        end = data.find(b"\r\n\r\n")
        if end < 0:
            return None
        head, length = self.parse(data, end, "POST")
        if not head.is_plain or not length:
            return None
        if len(self.whole) >= _MAX_WHOLE:
            self.whole.clear()
        answer = self.whole[data[:end]] = WholeAnswer(head, end + 4, length)
        return answer

    def parse(self, data: bytes, end: int, method: str) -> tuple[AnswerHead, int]:
        """Parse the head in front of ``end``, where its empty line begins.

        Return it and the length that it announces. Raises ``BadResponseError``.
        """
        if method == "HEAD":
            parsed = parse_head(data[:end], method)
            return _answer_head(parsed), parsed.length
        found = CONTENT_LENGTH.search(data, 0, end + 2)
        if found is None:
            key, length = data[:end], 0
        else:
            key, length = data[: found.start(1)] + data[found.end(1) : end], int(found[1])
        known = self._known.get(key)
        if known is not None:
            return known, length if known.has_length else 0
        parsed = parse_head(data[:end], method)
        head = _answer_head(parsed)
        if key.lower().count(b"content-length") == (found is not None):
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known[key] = head
        return head, parsed.length


def _most_requests(head: ResponseHead) -> int:
    if not head.keep_alive:
        return 0
    if head.most_requests is None:
        return _MANY_REQUESTS
    # llama-server (cpp-httplib) announces 100. Some are left out in case it counts in another way.
    return min(_MANY_REQUESTS, head.most_requests * 9 // 10)


def _answer_head(head: ResponseHead) -> AnswerHead:
    lines = [b"HTTP/1.1 %d %b\r\n" % (head.status, head.reason)]
    has_length = is_encoded = is_unbuffered = False
    for name, value in head.headers:
        key = name.lower()
        if key == b"content-length":
            has_length = True
        # The service decides which sites may read an answer and how a request is called, not the
        # model's server.
        elif not key.startswith(b"access-control-") and key != b"x-request-id":
            lines.append(b"%b: %b\r\n" % (name, value))
        is_encoded |= key == b"content-encoding" and value.lower() != b"identity"
        is_unbuffered |= key == b"x-accel-buffering"
    is_events = head.content_type.startswith(EVENT_STREAM)
    if is_events and not is_unbuffered:
        lines.append(UNBUFFERED)
    elif not is_events and head.status == _NOT_IMPLEMENTED:
        # Clients repeat requests with a 5xx status, which is useless for this one.
        lines.append(b"%b: %b\r\n" % RETRY_IN_VAIN)
    return AnswerHead(
        head.status,
        head.framing,
        has_length,
        _most_requests(head),
        is_events,
        is_encoded,
        b"".join(lines),
        head.framing is Framing.LENGTH and head.status < 400 and not is_events,
    )
