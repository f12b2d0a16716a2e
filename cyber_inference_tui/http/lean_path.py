"""The short way for plain requests to loaded models: from their bytes, without aiohttp's objects.

A head is plain if it is that of a POST to a path of the models' servers in HTTP/1.1, with a
``Content-Length`` and nothing that needs care: no other framing, coding, ``Expect``, ``Upgrade`` or
``Origin``, no header of a proxy, no form, no header twice, no byte that is not printable ASCII, no
list in ``Connection``. Every other head, and every request that is to be refused, goes to aiohttp,
byte for byte.

Heads of one client differ only in the digits of their ``Content-Length`` and perhaps in
``X-Request-Id``. So a head is parsed and checked once, and looked up by its other bytes when it
comes with another length for the first time, or with an id. After that it is looked up by all its
bytes, and the target by the name of the model in the body.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from aiohttp import hdrs, web
from multidict import CIMultiDict, CIMultiDictProxy

from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.http.access import Access, AccessRules, ApiKey, local_ip
from cyber_inference_tui.http.answer_head import CONTENT_LENGTH
from cyber_inference_tui.http.body_fields import BROKEN, decode_named_fields
from cyber_inference_tui.http.form import is_form
from cyber_inference_tui.http.forward import Forwarder
from cyber_inference_tui.http.model_request import (
    QuickClient,
    RequestHead,
    passed_on,
    user_agent,
)
from cyber_inference_tui.http.quick_forwarding import PlainTarget, QuickForwarding
from cyber_inference_tui.http.target import MODEL_ROUTES, Route
from cyber_inference_tui.library.catalog import Catalog

if TYPE_CHECKING:
    from cyber_inference_tui.settings.schema import Settings

_MAX_HEAD = 8000
"""Below aiohttp's limits for a target and for a header."""
_MAX_BODY = 256 << 10
_MAX_HEADERS = 64
_MAX_HEADS = 256
_MAX_REQUESTS = 512
_MAX_TARGETS = 64
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ?((?:[!-~](?:[ -~]*[!-~])?)?)")
_NOT_PLAIN = frozenset(
    {"transfer-encoding", "content-encoding", "expect", "upgrade", "origin", "trailer"}
    | {"sec-fetch-site", "forwarded", "x-forwarded-for", "x-real-ip"}
)
_REQUEST_LINES = {
    f"POST {path} HTTP/1.1".encode(): (path, route) for path, route in MODEL_ROUTES.items()
}
_OWN_ID = re.compile(rb"(?i)(\r\nx-request-id: ?)([!-~]{1,128})(?=\r\n)")
_NO_CORS: Mapping[str, str] = MappingProxyType({})


class _KnownHead(NamedTuple):
    """A plain head of a request that is allowed."""

    head: RequestHead
    route: Route
    host: str
    max_body: int


class PlainRequest:
    """A plain head with its ``Content-Length``. All requests with these bytes share it."""

    __slots__ = ("head", "host", "is_counted", "route", "size", "start", "targets")

    def __init__(self, known: _KnownHead, start: int, length: int) -> None:
        self.head, self.route, self.host, _ = known
        self.is_counted = self.head.limits.changes
        """Whether its key has to be checked for each request."""
        self.start = start
        """The offset of the body."""
        self.size = start + length
        """The size of the whole request."""
        self.targets: dict[str | None, PlainTarget] = {}
        """By the name of the model in the body."""


class LeanPath:
    """Recognizes plain requests, and forwards them."""

    def __init__(self, access: Access, forwarder: Forwarder) -> None:
        self._access = access
        self.forwarder = forwarder
        self._models = forwarder.service.models
        self._rules: AccessRules | None = None
        self._catalog: Catalog | None = None
        self._requests: dict[bytes, PlainRequest | None] = {}
        """By the bytes of the head."""
        self._heads: dict[bytes, _KnownHead | None] = {}
        """By the bytes of the head without the digits of its ``Content-Length``."""

    def find(self, data: bytes, client: QuickClient) -> QuickForwarding | None:
        """Return the forwarding of ``data`` if that is a request as there were before: the hot
        path. It has not begun."""
        plain, rules = self._requests.get(data[: data.find(b"\r\n\r\n")]), self._access.rules
        if (
            plain is None
            or plain.size != len(data)
            or rules is not self._rules
            or self._models.catalog is not self._catalog
            or (rules.wildcard and not rules.allows_host(plain.host, local_ip(client.transport)))
        ):
            return None
        body = data[plain.start :]
        try:
            fields = decode_named_fields(body)
        except BROKEN:
            return None
        target = plain.targets.get(fields.model)
        if target is None or (plain.is_counted and not self._counts(plain.head)):
            return None
        arrived = self.forwarder.loop.time()
        return QuickForwarding(target, body, fields.stream is True, client, arrived)

    def read(self, data: bytes, transport: asyncio.Transport) -> PlainRequest | None:
        """Return the plain request at the beginning of ``data``, if there is one.

        It arrived on ``transport``. Its body may be incomplete.
        """
        end = data.find(b"\r\n\r\n", 0, _MAX_HEAD)
        if end <= 0:
            return None
        rules, catalog = self._access.rules, self._models.catalog
        if rules is not self._rules or catalog is not self._catalog:
            self._rules, self._catalog = rules, catalog
            self._requests.clear()
            self._heads.clear()
        try:
            plain = self._requests[data[:end]]
        except KeyError:
            plain = self._read_first(data, end, rules)
        if plain is None:
            return None
        if rules.wildcard and not rules.allows_host(plain.host, local_ip(transport)):
            return None
        return plain

    def _read_first(self, data: bytes, end: int, rules: AccessRules) -> PlainRequest | None:
        """Read a head for the first time, and remember it."""
        found = CONTENT_LENGTH.search(data, 0, end + 2)
        if found is None:
            return None
        key = data[: found.start(1)] + data[found.end(1) : end]
        own = _OWN_ID.search(data, 0, end + 2)
        if own is not None:
            key = key.replace(own[0], own[1], 1)
        try:
            known = self._heads[key]
        except KeyError:
            if len(self._heads) >= _MAX_HEADS:
                self._heads.clear()
            known = self._heads[key] = _parse(key, rules, self.forwarder.service.settings)
        length = int(found[1])
        plain = None
        if known is not None and length <= known.max_body:
            if own is not None:
                known = known._replace(head=known.head._replace(request_id=own[2]))
            plain = PlainRequest(known, end + 4, length)
            if known.route.translator is not None or own is not None:
                # ``find`` would only decode its body in vain, or never see this head again.
                return plain
        if len(self._requests) >= _MAX_REQUESTS:
            self._requests.clear()
        self._requests[data[:end]] = plain
        return plain

    def forward(
        self, plain: PlainRequest, data: bytes, client: QuickClient, arrived: float
    ) -> QuickForwarding | None:
        """Return the forwarding of the complete request ``data``; ``None`` if it is refused.

        It arrived at the time ``arrived`` of the loop. Its target is remembered if it is the same
        for all such requests.
        """
        body = data[plain.start :]
        fields = None
        if plain.route.translator is None:
            # If it is not plain JSON, its target is not remembered.
            with contextlib.suppress(*BROKEN):
                fields = decode_named_fields(body)
        targets = self.forwarder.targets
        try:
            found = targets.find(plain.route, plain.head, body)
            self.forwarder.count(plain.head)
        except CyberError:
            # aiohttp's way answers with this error.
            return None
        target = PlainTarget(self.forwarder, plain.head, found)
        if fields is not None:
            name = fields.model or plain.head.named
            if name is not None and targets.is_unchanged(plain.route, name):
                if len(plain.targets) >= _MAX_TARGETS:
                    plain.targets.clear()
                plain.targets[fields.model] = target
        body_seconds = round(self.forwarder.loop.time() - arrived, 6)
        return QuickForwarding(
            target, found.body, found.stream, client, arrived, body_seconds=body_seconds
        )

    def _counts(self, head: RequestHead) -> bool:
        """Count a request if its key allows it; if not, aiohttp's way answers with the error."""
        try:
            self.forwarder.count(head)
        except CyberError:
            return False
        return True

    def list_requests(self) -> None:
        """Have all requests in progress on the lean path added to the active requests."""
        for receiver in self.forwarder.pool.receivers():
            if isinstance(receiver, QuickForwarding):
                receiver.becomes()


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
    key = rules.key_of(headers) or ApiKey(None)
    request = RequestHead(
        method="POST",
        target=path,
        path=path,
        headers=CIMultiDictProxy(headers),
        is_http11=True,
        keep_alive=connection == "keep-alive",
        passed_on=passed_on(raw),
        named=headers.get("X-Model"),
        cors=_NO_CORS,
        user_agent=user_agent(headers),
        key_name=key.name,
        limits=key.limits,
        from_box=key.box is not None,
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
