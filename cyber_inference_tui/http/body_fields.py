"""Reads and changes the fields of a request's body. Pure.

The rest of the body keeps its bytes: a JSON object is cut at its top-level commas, and only the
pieces that change are replaced. Nothing else is decoded and encoded again.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

import msgspec

from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.errors import InvalidRequestError
from cyber_inference_tui.http.form import FormSearch

Body = bytes | bytearray
"""A body in memory: a large one stays in the buffer in which it has arrived."""
LARGE = 1 << 20
"""Bytes of a large body: others notice the work on it, and it waits for its model in a file."""

BOM = codecs.BOM_UTF8
"""Some editors and PowerShell write it before UTF-8 text. llama-server ignores it."""

_MAX_MODEL_FIELD = 1024
_MAX_FIELDS = 10_000
"""The most fields of an object that is changed: each takes microseconds of the event loop."""

# Possessive, so that they never backtrack: one pass over any text.
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_BLANK = rb"[ \t\r\n]*+"
_OPENING = re.compile(rb"(?:\xef\xbb\xbf)?+" + _BLANK + rb"\{")
_KEY = re.compile(_BLANK + rb"(" + _STRING + rb")" + _BLANK + rb":" + _BLANK, re.DOTALL)
_PLAIN_VALUE = re.compile(_STRING + rb'|[^"\[\]{},\s]++', re.DOTALL)
_TO_BRACKET = re.compile(rb'[^"\[\]{}]*+(?:' + _STRING + rb'[^"\[\]{}]*+)*+([\[\]{}])', re.DOTALL)
_END = re.compile(_BLANK + rb"([,}])")


class NamedFields(msgspec.Struct):
    """The fields that a forwarder needs. The decoder skips all others."""

    model: str | None = None
    stream: Any = None


class _Message(msgspec.Struct):
    role: Any = None


decode_named_fields = msgspec.json.Decoder(thread_safe(NamedFields)).decode
_decode_fields = msgspec.json.Decoder(thread_safe(dict[str, msgspec.Raw])).decode
_decode_messages = msgspec.json.Decoder(thread_safe(list[msgspec.Raw])).decode
_decode_message = msgspec.json.Decoder(thread_safe(_Message)).decode

BROKEN = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""The decoder's errors for invalid JSON, and for JSON nested deeper than its stack."""


class BodyFields(msgspec.Struct, frozen=True):
    """The fields of a body: the model's name, if it has one, and whether it asks for a stream."""

    model: str | None = None
    stream: bool = False
    is_object: bool = False
    """Whether the body is a JSON object."""
    problem: InvalidRequestError | None = None
    """The reason why the fields could not be read."""


def read_fields(body: Body, *, must_be_object: bool, form: FormSearch | None = None) -> BodyFields:
    """Read the model's name and ``stream`` from a JSON body, or from a multipart ``form``.

    Raises ``InvalidRequestError`` for invalid JSON, for a ``model`` that is not a string, and, with
    ``must_be_object``, for anything but an object.
    """
    if not must_be_object and form is not None:
        value = form.field(body)
        return BodyFields(model=None if value is None else _name_in(body[value]))
    if not body:
        if must_be_object:
            raise InvalidRequestError("The request's body is empty: a JSON object was expected.")
        return BodyFields()
    try:
        named = decode_named_fields(without_bom(body))
    except msgspec.ValidationError as error:
        if "$.model" in str(error):
            raise InvalidRequestError("model must be a string.", param="model") from None
        if must_be_object:
            raise InvalidRequestError("The request's body must be a JSON object.") from None
        return BodyFields()
    except BROKEN as error:
        raise _not_json(error, body) from None
    return BodyFields(model=named.model or None, stream=named.stream is True, is_object=True)


def try_read_fields(body: Body, form: FormSearch | None = None) -> BodyFields:
    """Read the fields of any kind of body. A body that cannot be read names no model."""
    if form is not None or _OPENING.match(body):
        try:
            return read_fields(body, must_be_object=False, form=form)
        except InvalidRequestError as error:
            return BodyFields(problem=error)
    return BodyFields()


def without_bom(body: Body) -> Body | memoryview:
    """Return the body without a byte order mark, which is not valid in JSON."""
    return memoryview(body)[len(BOM) :] if body.startswith(BOM) else body


# Changing JSON


def with_fields(
    body: Body,
    *,
    strip: Collection[str] = (),
    defaults: Mapping[str, Any],
    overrides: Mapping[str, Any],
) -> bytes:
    """Return a JSON object without the fields in ``strip``, with ``defaults`` and ``overrides``.

    A default is added if the field is missing; ``null`` is not missing. New fields are added at
    the beginning. If a field occurs twice, the last occurrence counts, as in llama-server. Raises
    ``InvalidRequestError`` for anything but an object.
    """
    try:
        values = _decode_fields(without_bom(body))
    except BROKEN as error:
        raise _not_json(error, body) from None
    opening = _OPENING.match(body)
    start = opening.end() if opening else 0
    members = list(islice(_members(body, start, values), _MAX_FIELDS + 1))
    if len(members) > _MAX_FIELDS:
        raise InvalidRequestError(
            f"The request's JSON object has more than {_MAX_FIELDS} fields.",
            hint="Send each field once.",
        )
    last = {member.name: number for number, member in enumerate(members)}
    kept: list[Body] = []
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


def with_system(body: Body, text: str) -> Body:
    """Return a chat request with a system message in front, unless it begins with its own.

    Anything but a list of messages is left to the model's server, which explains what is wrong.
    """
    try:
        messages = _decode_messages(_decode_fields(without_bom(body))["messages"])
        role = _decode_message(messages[0]).role if messages else None
    except (KeyError, *BROKEN):
        return body
    if role in ("system", "developer"):
        return body
    first = {"role": "system", "content": text}
    return with_fields(body, defaults={}, overrides={"messages": [first, *messages]})


class _Member(NamedTuple):
    """A field of an object, as offsets into its text."""

    name: str
    start: int
    """After the brace or comma in front of the field."""
    value: int
    end: int
    """The end of the value."""
    separator: int
    """The comma or brace after the field."""


def _members(body: Body, position: int, values: Mapping[str, msgspec.Raw]) -> Iterator[_Member]:
    """Yield the fields of a valid JSON object. ``position`` is just after its opening brace.

    ``values`` has the last value of each name. Its length saves a scan of long values.
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


def _value_end(body: Body, position: int) -> int:
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


def with_model_field(body: Body, form: FormSearch, model: str) -> Body:
    """Return a multipart body with another value of its field ``model``."""
    value = form.field(body)
    if value is None:
        return body
    return b"".join((body[: value.start], model.encode(), body[value.stop :]))


def _name_in(value: Body) -> str | None:
    if len(value) > _MAX_MODEL_FIELD:
        raise InvalidRequestError("The model's name is too long.", param="model")
    return value.decode("utf-8", "replace").strip() or None


def _not_json(error: Exception, body: Body) -> InvalidRequestError:
    if body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return InvalidRequestError("The request's body is UTF-16: send JSON as UTF-8.")
    return InvalidRequestError(f"The request's body is not valid JSON: {error}.")
