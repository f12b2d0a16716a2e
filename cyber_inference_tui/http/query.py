"""Reads query parameters strictly into structs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from msgspec import inspect
from multidict import MultiMapping

from cyber_inference_tui.errors import InvalidRequestError

T = TypeVar("T")

_FLAGS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
_NUMBER = re.compile(r"[0-9]{1,19}", re.ASCII)
_known: dict[Any, Sequence[inspect.Field]] = {}


def read_query(kind: type[T], query: MultiMapping[str]) -> T:
    """Read the parameters of a URL into the struct ``kind``. Unknown parameters are ignored.

    Raises ``InvalidRequestError``.
    """
    values: dict[str, Any] = {}
    for field in _fields(kind):
        name = field.encode_name
        if isinstance(field.type, inspect.VarTupleType):
            values[field.name] = tuple(query.getall(name, []))
        elif name in query:
            values[field.name] = _value(field.type, query[name], name)
        elif field.required:
            raise _missing(name)
    return kind(**values)


def is_asked_for(kind: type[Any], query: MultiMapping[str]) -> bool:
    """Check that the required parameters of ``kind`` are given, and that its flags are 1."""
    return all(
        field.encode_name in query
        and _value(field.type, query[field.encode_name], field.encode_name) is not False
        for field in _fields(kind)
        if field.required
    )


def _fields(kind: Any) -> Sequence[inspect.Field]:
    if kind not in _known:
        described = inspect.type_info(kind)
        _known[kind] = described.fields if isinstance(described, inspect.StructType) else ()
    return _known[kind]


def _value(kind: inspect.Type, text: str, name: str) -> Any:
    match kind:
        case inspect.UnionType(types=(known, inspect.NoneType())):
            return _value(known, text, name)
        case inspect.BoolType():
            return _flag(text, name)
        case inspect.IntType(le=most):
            value = number(text, name)
            return value if most is None else min(value, most)
        case inspect.DateTimeType():
            return _time(text, name)
        case inspect.EnumType(cls=enum):
            try:
                return enum(text.lower())
            except ValueError:
                raise InvalidRequestError(
                    f"{name} takes one of {', '.join(enum)}.", param=name
                ) from None
        case inspect.LiteralType(values=known_words):
            if text not in known_words:
                choices = ", ".join(map(str, known_words))
                raise InvalidRequestError(f"{name} takes one of {choices}.", param=name)
            return text
        case inspect.StrType(min_length=least, max_length=longest):
            if len(text) < (least or 0):
                raise _missing(name)
            if longest is not None and len(text) > longest:
                raise InvalidRequestError(f"{name} takes at most {longest} characters.", param=name)
            return text
    raise TypeError(f"{name} has a type that no query parameter can have: {kind}")


def _missing(name: str) -> InvalidRequestError:
    return InvalidRequestError(f"?{name}= is missing.", param=name)


def _flag(text: str, name: str) -> bool:
    value = _FLAGS.get(text.lower())
    if value is None:
        raise InvalidRequestError(f"?{name}= takes 1 or 0.", param=name)
    return value


def number(text: str, name: str) -> int:
    """Read a whole number, 0 or more. Raises ``InvalidRequestError``."""
    if not _NUMBER.fullmatch(text):
        raise InvalidRequestError(f"{name} takes a whole number, 0 or more.", param=name)
    return int(text)


def _time(text: str, name: str) -> datetime:
    """Read a time in ISO 8601; without a zone it is UTC."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequestError(
            f"{name} takes a time such as 2026-01-31T12:00:00Z.", param=name
        ) from None
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
