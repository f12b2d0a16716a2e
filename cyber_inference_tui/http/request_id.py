"""The ids of requests: each answer has one in its header ``X-Request-Id``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import count
from secrets import randbits

from aiohttp import web

REQUEST_ID = "X-Request-Id"

_SANE = re.compile(r"[!-~]{1,128}")
_KEY = web.RequestKey("request_id", bytes)
# An id need not be hard to guess, only unlike those of other services. It has 16 digits.
_numbers = count(randbits(62) | 1 << 63)


def new_id() -> bytes:
    """Return the id for a request that has none: 16 hexadecimal digits."""
    return b"%x" % next(_numbers)


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
