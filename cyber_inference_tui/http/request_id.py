"""The ids of requests: each answer has one in its header ``X-Request-Id``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from random import Random

from aiohttp import web

REQUEST_ID = "X-Request-Id"

_SANE = re.compile(r"[!-~]{1,128}")
_KEY = web.RequestKey("request_id", bytes)
# Nobody has to be unable to guess an id, and this takes a tenth of the time of a UUID.
_random_bits = Random().getrandbits  # noqa: S311


def new_id() -> bytes:
    """Return the id for a request that has none: 16 hexadecimal digits."""
    return b"%016x" % _random_bits(64)


def own_id(headers: Mapping[str, str]) -> bytes | None:
    """Return the id that the client sends: up to 128 visible ASCII characters; else ``None``."""
    text = headers.get(REQUEST_ID)
    return None if text is None or _SANE.fullmatch(text) is None else text.encode()


def id_of(request: web.BaseRequest) -> bytes:
    """Return the id of aiohttp's request, which gets one when it is first asked for."""
    known = request.get(_KEY)
    if known is None:
        known = request[_KEY] = own_id(request.headers) or new_id()
    return known


def set_id(request: web.Request, request_id: bytes) -> None:
    """Set the id of a request that began without aiohttp."""
    request[_KEY] = request_id
