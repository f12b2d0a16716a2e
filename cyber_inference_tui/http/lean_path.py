"""The short way for plain requests to loaded models: from their bytes, without aiohttp's objects.

A head is plain if it is that of a POST to a path of the models' servers in HTTP/1.1, with a
``Content-Length`` and nothing that needs care: no other framing, coding, ``Expect``, ``Upgrade`` or
``Origin``, no form, no header twice, no byte that is not printable ASCII, no list in
``Connection``. Every other head, and every request that is to be refused, goes to aiohttp, byte for
byte.

Heads of one client differ only in the digits of their ``Content-Length``. So a head is parsed and
checked once, and then looked up by its other bytes.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from aiohttp import hdrs, web
from multidict import CIMultiDict, CIMultiDictProxy

from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.http.access import Access, AccessRules, local_ip
from cyber_inference_tui.http.answer_head import CONTENT_LENGTH
from cyber_inference_tui.http.body_fields import is_form
from cyber_inference_tui.http.forward import Forwarder
from cyber_inference_tui.http.model_request import ClientSide, RequestHead, passed_on
from cyber_inference_tui.http.quick_forwarding import QuickForwarding
from cyber_inference_tui.http.request_log import Arrival
from cyber_inference_tui.http.target import MODEL_ROUTES, Route

if TYPE_CHECKING:
    from cyber_inference_tui.settings.schema import Settings

_MAX_HEAD = 8000
"""Below aiohttp's limits for a target and for a header."""
_MAX_BODY = 256 << 10
_MAX_HEADERS = 64
_MAX_KNOWN = 256
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ?((?:[!-~](?:[ -~]*[!-~])?)?)")
_NOT_PLAIN = frozenset(
    {"transfer-encoding", "content-encoding", "expect", "upgrade", "origin", "trailer"}
)
_REQUEST_LINES = {
    f"POST {path} HTTP/1.1".encode(): (path, route) for path, route in MODEL_ROUTES.items()
}
_NO_CORS: Mapping[str, str] = MappingProxyType({})


class _KnownHead(NamedTuple):
    """A plain head of a request that is allowed."""

    head: RequestHead
    route: Route
    host: str
    max_body: int


PlainRequest = tuple[_KnownHead, int, int]
"""A plain request: its head, the offset of its body, and its size in bytes."""


class LeanPath:
    """Recognizes plain requests, and forwards them."""

    def __init__(self, access: Access, forwarder: Forwarder) -> None:
        self._access = access
        self.forwarder = forwarder
        self._rules: AccessRules | None = None
        self._known: dict[bytes, _KnownHead | None] = {}

    def now(self) -> Arrival:
        """Return the present time, as that of an arrival."""
        return self.forwarder.now(), self.forwarder.loop.time()

    def read(self, data: bytes, transport: asyncio.Transport) -> PlainRequest | None:
        """Return the plain request at the beginning of ``data``, if there is one.

        It arrived on ``transport``. Its body may be incomplete.
        """
        end = data.find(b"\r\n\r\n", 0, _MAX_HEAD)
        found = CONTENT_LENGTH.search(data, 0, end + 2) if end > 0 else None
        if found is None:
            return None
        rules = self._access.rules
        if rules is not self._rules:
            self._rules = rules
            self._known.clear()
        key = data[: found.start(1)] + data[found.end(1) : end]
        try:
            known = self._known[key]
        except KeyError:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            known = self._known[key] = _parse(key, rules, self.forwarder.service.settings)
        length = int(found[1])
        if known is None or length > known.max_body:
            return None
        if rules.wildcard and not rules.allows_host(known.host, local_ip(transport)):
            return None
        return known, end + 4, end + 4 + length

    def forward(
        self, plain: PlainRequest, data: bytes, client: ClientSide, arrived: Arrival
    ) -> QuickForwarding | None:
        """Return the forwarding of the complete request ``data``; ``None`` if it is refused."""
        (head, route, _, _), start, _ = plain
        body = data[start:]
        targets = self.forwarder.targets
        target = targets.find_unchanged(route, head.named, body)
        if target is None:
            try:
                target = targets.find(route, head, body)
            except CyberError:
                # aiohttp's way answers with this error.
                return None
        return QuickForwarding(self.forwarder, head, client, target, arrived)


LEAN_PATH = web.AppKey("lean_path", LeanPath)


def _parse(head: bytes, rules: AccessRules, settings: Settings) -> _KnownHead | None:
    """Parse a head without the digits of its ``Content-Length``; ``None`` = it is for aiohttp."""
    first, *lines = head.split(b"\r\n")
    path, route = _REQUEST_LINES.get(first, (None, None))
    if path is None or route is None or len(lines) > _MAX_HEADERS:
        return None
    raw: list[tuple[bytes, bytes]] = []
    headers: CIMultiDict[str] = CIMultiDict()
    for line in lines:
        field = _FIELD.fullmatch(line)
        if field is None or (name := field[1].decode()) in headers:
            return None
        raw.append((field[1], field[2]))
        headers[name] = field[2].decode()
    host = headers.get(hdrs.HOST)
    connection = headers.get(hdrs.CONNECTION, "keep-alive").lower()
    if (
        host is None
        or headers.get(hdrs.CONTENT_LENGTH) != ""
        or connection not in {"keep-alive", "close"}
        or any(name in headers for name in _NOT_PLAIN)
        or is_form(headers.get(hdrs.CONTENT_TYPE, ""))
        or not (rules.wildcard or rules.allows_host(host, ""))
        or not rules.allows_key(headers)
    ):
        return None
    request = RequestHead(
        method="POST",
        target=path,
        path=path,
        headers=CIMultiDictProxy(headers),
        is_http11=True,
        keep_alive=connection == "keep-alive",
        passed_on=passed_on(raw, with_keys=bool(settings.api_keys)),
        named=headers.get("X-Model"),
        cors=_NO_CORS,
    )
    return _KnownHead(request, route, host, min(_MAX_BODY, settings.max_body_size))


def message_size(data: bytes) -> float:
    """Return the size of the request at the beginning of ``data``; ``inf`` if it is not certain.

    Bytes of a message that is certain to end there can be followed by a plain request.
    """
    end = data.find(b"\r\n\r\n")
    head = data[: end + 2].lower()
    if (
        end < 0
        or head.startswith((b"\r", b"\n", b"connect"))
        or not head.count(b"\r\n") == head.count(b"\n") == head.count(b"\r")
        or b"transfer-encoding" in head
        or b"upgrade" in head
    ):
        return math.inf
    lengths = head.count(b"content-length")
    if lengths == 0:
        return end + 4
    found = CONTENT_LENGTH.search(head)
    return math.inf if lengths > 1 or found is None else end + 4 + int(found[1])
