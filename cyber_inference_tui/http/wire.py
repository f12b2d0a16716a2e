"""JSON in and out, and query parameters, each read strictly and refused with what was expected."""

from __future__ import annotations

import re
from typing import Any, TypeVar
from urllib.parse import unquote

import msgspec
from aiohttp import web

from cyber_inference_tui.decoding import learned
from cyber_inference_tui.errors import InvalidRequestError
from cyber_inference_tui.http.body import read_body
from cyber_inference_tui.http.fields import without_bom
from cyber_inference_tui.records import to_json

T = TypeVar("T")

_FLAGS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
_NUMBER = re.compile(r"[0-9]{1,19}", re.ASCII)


def json_answer(
    value: Any, *, status: int = 200, headers: dict[str, str] | None = None
) -> web.Response:
    """``value`` (records, lists, dicts) as a JSON answer."""
    return web.Response(
        status=status,
        body=to_json(value),
        content_type="application/json",
        headers={"X-Content-Type-Options": "nosniff", **(headers or {})},
    )


def text_answer(text: str, *, headers: dict[str, str] | None = None) -> web.Response:
    """``text`` as plain text that no browser takes for anything else."""
    return web.Response(
        body=text.encode("utf-8", "replace"),
        content_type="text/plain",
        charset="utf-8",
        headers={"X-Content-Type-Options": "nosniff", **(headers or {})},
    )


async def read_json(request: web.Request, kind: type[T], *, limit: int, expected: str) -> T:
    """The request's JSON body as ``kind``; an empty body counts as ``{}``.

    ``limit`` is in bytes. Raises ``InvalidRequestError`` that names what was ``expected``, or
    what ``read_body`` raises.
    """
    body = await read_body(request, limit)
    try:
        return msgspec.json.decode(without_bom(body) or b"{}", type=learned(kind))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequestError(
            f"The body is not what was expected: {expected} ({error})."
        ) from (None)


class _Nothing(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a write that has nothing to say."""


async def read_nothing(request: web.Request, *, limit: int) -> None:
    """A body that is empty, or an empty JSON object; raises as ``read_json`` does."""
    await read_json(request, _Nothing, limit=limit, expected="nothing, or an empty JSON object")


def flag(request: web.Request, name: str, *, default: bool) -> bool:
    """A query parameter that is 1 or 0. Raises ``InvalidRequestError``."""
    text = request.query.get(name)
    if text is None:
        return default
    value = _FLAGS.get(text.lower())
    if value is None:
        raise InvalidRequestError(f"?{name}= takes 1 or 0.", param=name)
    return value


def number(text: str, name: str) -> int:
    """A parameter that is a whole number, 0 or more. Raises ``InvalidRequestError``."""
    if not _NUMBER.fullmatch(text):
        raise InvalidRequestError(f"{name} takes a whole number, 0 or more.", param=name)
    return int(text)


def raw_tail(request: web.Request, depth: int) -> str:
    """The path behind its first ``depth`` segments, percent-encoding untouched.

    Ids may contain slashes, encoded or not; only the raw path tells where they end.
    """
    return request.raw_path.partition("?")[0].split("/", depth + 1)[depth + 1]


def decoded(raw: str) -> str:
    """A raw piece of a path as text; bytes that are not UTF-8 become replacement characters."""
    return unquote(raw, errors="replace")
