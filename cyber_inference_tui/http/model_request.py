"""A request to a model, as the forwarder sees it: made by aiohttp, or read from its bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

from aiohttp import hdrs, web

from cyber_inference_tui.http.access import ApiKey, client_address, cors_headers, key_of
from cyber_inference_tui.http.framing import HOP_BY_HOP, connection_options
from cyber_inference_tui.http.request_id import id_of
from cyber_inference_tui.records import KeyLimits
from cyber_inference_tui.records.keys import NO_LIMITS
from cyber_inference_tui.text import clean_line

if TYPE_CHECKING:
    from cyber_inference_tui.http.forward import Forwarding

# The body is passed on decompressed, and a server has a key of its own. With a conversation's id,
# llama-server would continue to generate after the client has left, for a later request to
# /v1/stream, unknown to the service. X-Queue-Timeout is between boxes.
_DROPPED = HOP_BY_HOP | {
    b"host",
    b"content-length",
    b"content-encoding",
    b"expect",
    b"authorization",
    b"x-api-key",
    b"x-conversation-id",
    b"x-queue-timeout",
    b"x-request-id",
}
_MAX_USER_AGENT = 200


class ClientSide(Protocol):
    """A client's connection, as far as a forwarding needs it."""

    transport: asyncio.Transport | None
    remote: str | None
    """The client's address."""
    local_port: int | None
    """The service's port that it called."""
    on_writable: Callable[[], None] | None
    """Called when the client has read enough after ``writing_paused``."""

    @property
    def writing_paused(self) -> bool:
        """Whether the client reads more slowly than the answer is written."""

    def take_begun(self) -> Forwarding | None:
        """Return the forwarding of the present request, if it has begun without aiohttp."""


class QuickClient(ClientSide, Protocol):
    """A client's connection, which waits for the answer of a quick forwarding."""

    def answered(self, now: float, keep_alive: bool) -> None:
        """Note that the whole answer is written, at this time of the loop.

        ``keep_alive``: the connection can serve another request.
        """

    def needs_task(self) -> None:
        """Note the end of an exchange without a complete answer: only a task can go on."""


class RequestHead(NamedTuple):
    """The head of a request. One object may belong to many requests with the same head."""

    method: str
    target: str
    """Path and query, as sent."""
    path: str
    """The path, decoded."""
    headers: Mapping[str, str]
    is_http11: bool
    keep_alive: bool
    passed_on: bytes
    """The lines that the model's server gets, without ``Host`` and ``Content-Length``."""
    named: str | None
    """The model that the query or a header names."""
    cors: Mapping[str, str]
    """The CORS headers of the answer."""
    user_agent: str | None = None
    """The client's program, as it calls itself."""
    key_name: str | None = None
    """The name of its API key."""
    client: str | None = None
    """The client's address; ``None`` = that of its connection."""
    limits: KeyLimits = NO_LIMITS
    """The limits of its API key."""
    request_id: bytes | None = None
    """Its id; ``None`` = each request with this head gets its own."""
    from_box: bool = False
    """Whether another box has sent it, for a client of its own: it goes no further."""


def client_of(request: web.Request) -> ClientSide:
    """Return the client's connection, which is one of ``client_connection``."""
    return cast("ClientSide", request.protocol)


def head_of(request: web.Request) -> RequestHead:
    """Return the head of aiohttp's request."""
    key = key_of(request) or ApiKey(None)
    return RequestHead(
        request.method,
        request.raw_path,
        request.path,
        request.headers,
        request.version >= (1, 1),
        bool(request.keep_alive),
        passed_on(request.raw_headers),
        request.query.get("model") or request.headers.get("X-Model"),
        cors_headers(request),
        user_agent(request.headers),
        key.name,
        client_address(request),
        key.limits,
        id_of(request),
        key.box is not None,
    )


def user_agent(headers: Mapping[str, str]) -> str | None:
    """Return the name that the client's program gives itself, cleaned."""
    return clean_line(headers.get(hdrs.USER_AGENT, ""), limit=_MAX_USER_AGENT) or None


def passed_on(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the lines of the headers that the model's server gets."""
    headers = list(headers)
    dropped = _DROPPED | connection_options(headers)
    return b"".join(
        [b"%b: %b\r\n" % (name, value) for name, value in headers if name.lower() not in dropped]
    )


def wants_events(head: RequestHead) -> bool:
    """Return whether the client says that it reads nothing but Server-Sent Events."""
    return head.headers.get(hdrs.ACCEPT) == "text/event-stream"
