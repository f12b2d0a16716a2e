"""A request's body: read within bounds, looked at for the model's name, changed only where told.

What is not ours to change is passed on byte for byte: defaults are put in front of the client's
own text, and nothing is decoded and encoded again.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web

from cyber_inference_tui.decoding import learned
from cyber_inference_tui.errors import (
    InvalidRequestError,
    RequestTimeoutError,
    RequestTooLargeError,
)
from cyber_inference_tui.http.errors import BrokenBodyError

BODY_TIMEOUT = 60.0
"""Seconds a client may be silent while it sends a body."""

_BOUNDARY = re.compile(r'boundary=(?:"([^"]{1,70})"|([^"\s;,]{1,70}))', re.IGNORECASE)
_FIELD_NAME = re.compile(rb'(?:^|[;\s])name="?([^";\r\n]+)"?', re.IGNORECASE)
_MAX_MODEL_FIELD = 1024


class _Named(msgspec.Struct):
    """The fields a forwarder needs; all others are skipped without being built."""

    model: str | None = None
    stream: Any = None


_decode_named = msgspec.json.Decoder(learned(_Named)).decode
_decode_fields = msgspec.json.Decoder(learned(dict[str, msgspec.Raw])).decode

# What a decoder says of text that is no JSON, or that is nested deeper than its stack.
_BROKEN = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Peek(msgspec.Struct, frozen=True):
    """What a body says: the model's name (``None`` = it does not), and whether it streams."""

    model: str | None = None
    stream: bool = False


async def read_body(request: web.Request, limit: int) -> bytes:
    """The whole body, at most ``limit`` bytes.

    Raises ``RequestTooLargeError`` (before reading where the length is announced) and
    ``RequestTimeoutError``, and ``BrokenBodyError`` for one that cannot be unpacked.
    """
    announced = request.content_length
    if announced is not None and announced > limit:
        raise _too_large(limit)
    if not request.can_read_body:
        return b""
    parts: list[bytes] = []
    size = 0
    content = request.content
    while not content.at_eof():
        try:
            async with asyncio.timeout(BODY_TIMEOUT):
                part = await content.readany()
        except web.RequestPayloadError:
            # There is no more of it: else aiohttp would read on, and log the same error again.
            content.feed_eof()
            raise BrokenBodyError(
                "The request's body is broken, or not compressed as its Content-Encoding says."
            ) from None
        except TimeoutError:
            raise RequestTimeoutError(
                f"The request's body stopped coming for {BODY_TIMEOUT:g} s."
            ) from None
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_large(limit: int) -> RequestTooLargeError:
    return RequestTooLargeError(
        f"The request's body is larger than {limit} bytes.", hint="max_body_size sets the limit."
    )


def peek(body: bytes, content_type: str, *, must_be_object: bool) -> Peek:
    """Look for the model's name in a JSON or multipart body.

    Raises ``InvalidRequestError`` for broken JSON, for a ``model`` that is no string, and for
    anything but an object where ``must_be_object``.
    """
    if not must_be_object and content_type.lower().startswith("multipart/form-data"):
        return Peek(model=_multipart_model(body, content_type))
    if not body:
        if must_be_object:
            raise InvalidRequestError("The request's body is empty: a JSON object was expected.")
        return Peek()
    try:
        named = _decode_named(body)
    except msgspec.ValidationError as error:
        if "$.model" in str(error):
            raise InvalidRequestError("model must be a string.", param="model") from None
        if must_be_object:
            raise InvalidRequestError("The request's body must be a JSON object.") from None
        return Peek()
    except _BROKEN as error:
        raise _not_json(error) from None
    return Peek(model=named.model or None, stream=named.stream is True)


def _multipart_model(body: bytes, content_type: str) -> str | None:
    match = _BOUNDARY.search(content_type)
    if match is None:
        raise InvalidRequestError("The multipart body has no boundary.")
    for part in body.split(b"--" + (match[1] or match[2]).encode("latin-1", "replace"))[1:]:
        head, empty_line, value = part.partition(b"\r\n\r\n")
        if not empty_line or len(head) > 8192:
            continue
        for line in head.split(b"\r\n"):
            if not line.lower().startswith(b"content-disposition:"):
                continue
            name = _FIELD_NAME.search(line.partition(b":")[2])
            if name is not None and name[1] == b"model":
                text = value.removesuffix(b"\r\n")
                if len(text) > _MAX_MODEL_FIELD:
                    raise InvalidRequestError("The model's name is too long.", param="model")
                return text.decode("utf-8", "replace").strip() or None
    return None


def with_defaults(body: bytes, defaults: Mapping[str, Any]) -> bytes:
    """A JSON object with the fields of ``defaults`` that it does not have itself.

    They are put at its beginning; the client's own text stays as it is. A field that the client
    set to ``null`` is set. Raises ``InvalidRequestError`` for anything but an object.
    """
    own = _fields(body)
    missing = {key: value for key, value in defaults.items() if key not in own}
    if not missing:
        return body
    start = body.index(b"{") + 1
    inserted = msgspec.json.encode(missing)[1:-1]
    separator = b"," if own else b""
    return b"".join((body[:start], inserted, separator, body[start:]))


def with_model(body: bytes, model: str) -> bytes:
    """A JSON object with its ``model`` replaced; the values of all other fields stay as sent.

    Raises ``InvalidRequestError`` for anything but an object.
    """
    own = _fields(body)
    return msgspec.json.encode({**own, "model": model})


def _fields(body: bytes) -> dict[str, msgspec.Raw]:
    # Stricter than ``peek``, which passes over text that it does not need.
    try:
        return _decode_fields(body)
    except _BROKEN as error:
        raise _not_json(error) from None


def _not_json(error: Exception) -> InvalidRequestError:
    return InvalidRequestError(f"The request's body is not valid JSON: {error}.")
