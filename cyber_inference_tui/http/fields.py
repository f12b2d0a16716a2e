"""The fields of a request's body: read for the model's name, changed where rules say so. Pure.

What is not to be changed keeps its bytes: a JSON object is cut at its top-level commas, and only
the pieces at fault are replaced; nothing is decoded and encoded again.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from cyber_inference_tui.decoding import learned
from cyber_inference_tui.errors import InvalidRequestError

BOM = b"\xef\xbb\xbf"
"""What some editors and PowerShell put in front of UTF-8; llama-server passes over it."""

_BOUNDARY = re.compile(r'boundary=(?:"([^"]{1,70})"|([^"\s;,]{1,70}))', re.IGNORECASE)
_FIELD_NAME = re.compile(rb'(?:^|[;\s])name="?([^";\r\n]+)"?', re.IGNORECASE)
_MAX_MODEL_FIELD = 1024
_MAX_PARTS = 1000
_MAX_PART_HEAD = 8192

# Possessive, so that they never step back: one pass over the text, whatever it is.
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_BLANK = rb"[ \t\r\n]*+"
_OPENING = re.compile(rb"(?:\xef\xbb\xbf)?+" + _BLANK + rb"\{")
_KEY = re.compile(_BLANK + rb"(" + _STRING + rb")" + _BLANK + rb":" + _BLANK, re.DOTALL)
_PLAIN_VALUE = re.compile(_STRING + rb'|[^"\[\]{},\s]++', re.DOTALL)
_TO_BRACKET = re.compile(rb'[^"\[\]{}]*+(?:' + _STRING + rb'[^"\[\]{}]*+)*+([\[\]{}])', re.DOTALL)
_END = re.compile(_BLANK + rb"([,}])")


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
    is_object: bool = False
    """Whether the body is a JSON object."""


def peek(body: bytes, content_type: str, *, must_be_object: bool) -> Peek:
    """Look for the model's name in a JSON or multipart body.

    Raises ``InvalidRequestError`` for broken JSON, for a ``model`` that is no string, and for
    anything but an object where ``must_be_object``.
    """
    if not must_be_object and _is_form(content_type):
        value = _model_field(body, content_type)
        return Peek(model=None if value is None else _name_in(body[value]))
    if not body:
        if must_be_object:
            raise InvalidRequestError("The request's body is empty: a JSON object was expected.")
        return Peek()
    try:
        named = _decode_named(without_bom(body))
    except msgspec.ValidationError as error:
        if "$.model" in str(error):
            raise InvalidRequestError("model must be a string.", param="model") from None
        if must_be_object:
            raise InvalidRequestError("The request's body must be a JSON object.") from None
        return Peek()
    except _BROKEN as error:
        raise _not_json(error) from None
    return Peek(model=named.model or None, stream=named.stream is True, is_object=True)


def glance(body: bytes, content_type: str) -> Peek:
    """As ``peek``, for a body of any kind: one that names no model is the engine's to judge."""
    if _is_form(content_type) or _OPENING.match(body):
        try:
            return peek(body, content_type, must_be_object=False)
        except InvalidRequestError:
            pass
    return Peek()


def without_bom(body: bytes) -> bytes | memoryview:
    """The body behind its byte order mark, which JSON itself does not know."""
    return memoryview(body)[len(BOM) :] if body.startswith(BOM) else body


# Changing JSON


def with_fields(
    body: bytes,
    *,
    strip: Collection[str] = (),
    defaults: Mapping[str, Any],
    overrides: Mapping[str, Any],
) -> bytes:
    """A JSON object without the fields in ``strip``, then with ``defaults``, then ``overrides``.

    A default is added where the object has no such field; one that is ``null`` is there. New
    fields stand at its beginning. Of a field that occurs twice the last occurrence counts, as for
    llama-server. Raises ``InvalidRequestError`` for anything but an object.
    """
    try:
        values = _decode_fields(without_bom(body))
    except _BROKEN as error:
        raise _not_json(error) from None
    opening = _OPENING.match(body)
    start = opening.end() if opening else 0
    members = list(_members(body, start, values))
    last = {member.name: number for number, member in enumerate(members)}
    kept: list[bytes] = []
    for number, one in enumerate(members):
        if one.name in overrides:
            if last[one.name] == number:
                new = msgspec.json.encode(overrides[one.name])
                kept.append(body[one.start : one.value] + new + body[one.end : one.separator])
        elif one.name not in strip:
            kept.append(body[one.start : one.separator])
    missing = {
        name: value
        for name, value in {**defaults, **overrides}.items()
        if name not in last or (name in strip and name not in overrides)
    }
    if missing:
        kept.insert(0, msgspec.json.encode(missing)[1:-1])
    separator = members[-1].separator if members else start
    return b"".join((body[:start], b",".join(kept), body[separator:]))


class _Member(NamedTuple):
    """A field of an object, by offsets into its text."""

    name: str
    start: int
    """Behind the brace or comma in front of it."""
    value: int
    end: int
    """Of its value."""
    separator: int
    """The comma or brace behind it."""


def _members(body: bytes, position: int, values: Mapping[str, msgspec.Raw]) -> Iterator[_Member]:
    """The fields of the valid JSON object whose brace is in front of ``position``.

    ``values`` has the last value of each name: where that is what stands there, its length is
    known, and long texts need not be looked through.
    """
    while key := _KEY.match(body, position):
        name: str = msgspec.json.decode(key[1])
        text = bytes(values[name])
        known = text[:1] in {b'"', b"[", b"{"} and body.startswith(text, key.end())
        end = key.end() + len(text) if known else _value_end(body, key.end())
        closing = _END.match(body, end)
        if closing is None:
            break
        yield _Member(name, position, key.end(), end, closing.start(1))
        if closing[1] == b"}":
            return
        position = closing.end()


def _value_end(body: bytes, position: int) -> int:
    if plain := _PLAIN_VALUE.match(body, position):
        return plain.end()
    depth = 0
    while bracket := _TO_BRACKET.match(body, position):
        position = bracket.end()
        depth += 1 if bracket[1] in b"[{" else -1
        if depth == 0:
            break
    return position


# Forms


def with_model_field(body: bytes, content_type: str, model: str) -> bytes:
    """A multipart body with the value of its field ``model`` replaced."""
    value = _model_field(body, content_type)
    if value is None:
        return body
    return b"".join((body[: value.start], model.encode(), body[value.stop :]))


def _is_form(content_type: str) -> bool:
    return content_type.lower().startswith("multipart/form-data")


def _name_in(value: bytes) -> str | None:
    if len(value) > _MAX_MODEL_FIELD:
        raise InvalidRequestError("The model's name is too long.", param="model")
    return value.decode("utf-8", "replace").strip() or None


def _model_field(body: bytes, content_type: str) -> slice | None:
    """Where the value of the field ``model`` stands; raises ``InvalidRequestError``."""
    for head, value in _parts(body, content_type):
        for line in head.split(b"\r\n"):
            if not line.lower().startswith(b"content-disposition:"):
                continue
            name = _FIELD_NAME.search(line.partition(b":")[2])
            if name is not None and name[1] == b"model":
                return value
    return None


def _parts(body: bytes, content_type: str) -> Iterator[tuple[bytes, slice]]:
    """Each part's head, and where its content stands (RFC 2046, 5.1.1)."""
    match = _BOUNDARY.search(content_type)
    if match is None:
        raise InvalidRequestError("The multipart body has no boundary.")
    delimiter = b"\r\n--" + (match[1] or match[2]).encode("latin-1", "replace")
    # The first one may stand at the very beginning, without the line end.
    at_start = body.startswith(delimiter[2:])
    start = len(delimiter) - 2 if at_start else _behind(delimiter, body, 0)
    for _ in range(_MAX_PARTS):
        following = -1 if start < 0 else _behind(delimiter, body, start)
        if following < 0:
            return
        end = following - len(delimiter)
        head_end = body.find(b"\r\n\r\n", start, min(end, start + _MAX_PART_HEAD))
        if head_end >= 0:
            yield body[start:head_end], slice(head_end + 4, end)
        start = following
    raise InvalidRequestError(f"The multipart body has more than {_MAX_PARTS} parts.")


def _behind(delimiter: bytes, body: bytes, start: int) -> int:
    found = body.find(delimiter, start)
    return found if found < 0 else found + len(delimiter)


def _not_json(error: Exception) -> InvalidRequestError:
    return InvalidRequestError(f"The request's body is not valid JSON: {error}.")
