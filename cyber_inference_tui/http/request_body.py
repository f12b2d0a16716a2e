"""Reads and decompresses the bodies of requests, within bounds."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Iterable, Iterator

from aiohttp import StreamReader, hdrs, web

from cyber_inference_tui.errors import (
    RequestTimeoutError,
    RequestTooLargeError,
    UnsupportedMediaTypeError,
)
from cyber_inference_tui.http.body_fields import LARGE, Body
from cyber_inference_tui.http.body_limits import BodyLimits, BodyShare
from cyber_inference_tui.http.error_responses import BrokenBodyError
from cyber_inference_tui.http.form import FormSearch
from cyber_inference_tui.text import clean_line

_STEP = 1 << 18
"""Bytes decompressed before the event loop runs other tasks: about a millisecond."""
_CODINGS = frozenset({"gzip", "x-gzip", "deflate"})
_MAX_CODINGS = 3


async def read_body(
    request: web.Request, share: BodyShare, limit: int, form: FormSearch | None = None
) -> Body:
    """Return the whole body, decompressed, of at most ``limit`` bytes.

    ``share`` grows as the body arrives, and ``form`` searches it meanwhile. Raises
    ``RequestTooLargeError`` and ``BodyMemoryError`` (before reading, if the request has a
    ``Content-Length``), ``UnsupportedMediaTypeError`` for an unknown ``Content-Encoding``,
    ``RequestTimeoutError``, and ``BrokenBodyError`` for a body that cannot be decompressed. aiohttp
    must not decompress it first (``auto_decompress``).
    """
    if not request.can_read_body:
        return b""
    limit = min(limit, share.limits.memory)
    decoders = _decoders(request, limit)
    announced = request.content_length
    if announced is not None:
        if announced > limit:
            raise _too_large(limit)
        share.check(announced)
    body = bytearray()
    size = 0
    began = asyncio.get_running_loop().time()
    while not request.content.at_eof():
        part = await _next_part(request.content, share.limits, began, size)
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        if decoders:
            async for piece in _unpacked(part, decoders, share.limits.turns):
                body += piece
                share.resize(len(body))
        else:
            body += part
            share.resize(len(body))
        if form is not None:
            form.look(body)
    if any(decoder.unfinished for decoder in decoders):
        raise _badly_packed()
    # A copy of a large one would hold up the event loop.
    return body if len(body) >= LARGE else bytes(body)


async def _next_part(content: StreamReader, limits: BodyLimits, began: float, size: int) -> bytes:
    """Return the next part of a body that began at a time of the loop and has ``size`` bytes."""
    silent_from = asyncio.get_running_loop().time() + limits.timeout
    slow_from = began + limits.timeout + size / limits.least_rate
    try:
        async with asyncio.timeout_at(min(silent_from, slow_from)):
            return await content.readany()
    except web.RequestPayloadError:
        # Mark the end. Otherwise aiohttp reads on and logs the same error again.
        content.feed_eof()
        raise BrokenBodyError("The request's body is broken.") from None
    except TimeoutError:
        if silent_from <= slow_from:
            text = f"No part of the request's body arrived for {limits.timeout:g} s."
        else:
            text = f"The request's body took longer than {limits.least_rate:g} bytes a second."
        raise RequestTimeoutError(text, hint="Send the request again.") from None


async def _unpacked(
    part: bytes, decoders: list[_Decoder], turns: asyncio.Lock
) -> AsyncIterator[bytes]:
    """Yield the content of a part of the body in pieces, each in a turn of its own."""
    pieces: Iterator[bytes] = iter((part,))
    for decoder in decoders:
        pieces = decoder.unpacked(pieces)
    piece: bytes | None = b""
    while piece is not None:
        yield piece
        async with turns:
            try:
                piece = next(pieces, None)
            except zlib.error:
                raise _badly_packed() from None
            await asyncio.sleep(0)


def _badly_packed() -> BrokenBodyError:
    return BrokenBodyError(
        "The request's body is broken, or not compressed as its Content-Encoding says."
    )


def _too_large(limit: int) -> RequestTooLargeError:
    return RequestTooLargeError(
        f"The request's body is larger than {limit} bytes.", hint="max_body_size sets the limit."
    )


def _decoders(request: web.Request, limit: int) -> list[_Decoder]:
    """Return decoders for the content codings, in the order of decoding (RFC 9110, 8.4)."""
    headers = request.headers.getall(hdrs.CONTENT_ENCODING, ())
    names = [one.strip().lower() for header in headers for one in header.split(",")]
    codings = [name for name in names if name not in {"", "identity"}]
    unknown = next((one for one in codings if one not in _CODINGS), None)
    if unknown is not None or len(codings) > _MAX_CODINGS:
        shown = clean_line(unknown or ", ".join(codings), limit=40)
        raise UnsupportedMediaTypeError(
            f"A body with Content-Encoding: {shown} is not supported.",
            hint="Send it uncompressed, or with gzip or deflate.",
        )
    return [_Decoder(gzipped=coding != "deflate", limit=limit) for coding in reversed(codings)]


class _Decoder:
    """Decompresses one content coding, to at most ``limit`` bytes."""

    def __init__(self, *, gzipped: bool, limit: int) -> None:
        self._gzipped = gzipped
        self._left = limit
        self._limit = limit
        self._stream: zlib._Decompress | None = None
        self._begun = False

    def unpacked(self, parts: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the content of ``parts`` in steps, some of them empty. Raises ``zlib.error``."""
        for part in parts:
            rest = part
            while True:
                step = b""
                if self._stream is None and rest:
                    self._stream = self._begin(rest)
                if self._stream is not None:
                    step = self._stream.decompress(rest, _STEP)
                    rest = self._stream.unconsumed_tail
                    if self._stream.eof:
                        # Several compressed members may follow each other (RFC 1952, 2.2).
                        rest, self._stream = self._stream.unused_data, None
                self._left -= len(step)
                if self._left < 0:
                    raise _too_large(self._limit)
                yield step
                if not rest and len(step) < _STEP:
                    break

    @property
    def unfinished(self) -> bool:
        """Return whether the compressed data has not ended yet."""
        return self._stream is not None

    def _begin(self, data: bytes) -> zlib._Decompress:
        if self._gzipped:
            return zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        if self._begun:
            raise zlib.error("data after the end")
        self._begun = True
        # Some clients leave out the zlib header that RFC 9110, 8.4.1.2, requires.
        is_zlib = data[0] & 0x0F == zlib.DEFLATED
        return zlib.decompressobj(wbits=zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS)
