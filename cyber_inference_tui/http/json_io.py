"""Reads JSON bodies strictly, and writes JSON and text responses."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from aiohttp import web

from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.errors import InvalidRequestError
from cyber_inference_tui.http.body_fields import without_bom
from cyber_inference_tui.http.body_limits import BODY_LIMITS
from cyber_inference_tui.http.request_body import read_body
from cyber_inference_tui.records import to_json

T = TypeVar("T")

NOSNIFF = {"X-Content-Type-Options": "nosniff"}
"""Keeps browsers from guessing another content type."""


def json_answer(
    value: Any, *, status: int = 200, headers: dict[str, str] | None = None
) -> web.Response:
    """Return ``value`` (records, lists, dicts) as a JSON response."""
    return web.Response(
        status=status,
        body=to_json(value),
        content_type="application/json",
        headers={**NOSNIFF, **(headers or {})},
    )


def text_answer(text: str, *, headers: dict[str, str] | None = None) -> web.Response:
    """Return ``text`` as a response of plain text."""
    return web.Response(
        body=text.encode("utf-8", "replace"),
        content_type="text/plain",
        charset="utf-8",
        headers={**NOSNIFF, **(headers or {})},
    )


async def read_json(request: web.Request, kind: type[T], *, limit: int) -> T:
    """Read the request's JSON body as the struct ``kind``. An empty body counts as ``{}``.

    ``limit`` is in bytes. Raises ``InvalidRequestError`` that names the expected fields, and the
    errors of ``read_body``.
    """
    with request.app[BODY_LIMITS].share() as share:
        body = await read_body(request, share, limit)
    try:
        return msgspec.json.decode(without_bom(body) or b"{}", type=thread_safe(kind))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequestError(f"The body must be {_expected(kind)} ({error}).") from (None)


def _expected(kind: type[Any]) -> str:
    fields = msgspec.structs.fields(kind)
    if not fields:
        return "empty, or an empty JSON object"
    needed = [field.encode_name for field in fields if field.required]
    shape = ", ".join(f'"{field.encode_name}": …' for field in fields)
    some = (
        ""
        if len(needed) == len(fields)
        else f", where {', '.join(needed) or 'no field'} is required"
    )
    return f"a JSON object {{{shape}}}{some}"
