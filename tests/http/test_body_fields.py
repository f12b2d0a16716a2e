from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.errors import InvalidRequestError
from cyber_inference_tui.http.body_fields import (
    BOM,
    BodyFields,
    read_fields,
    try_read_fields,
    with_fields,
)

# From Python 3.14 on, only the size of the stack limits the recursion of C code.
DEPTH = 1_000_000
DEEP = b"[" * DEPTH

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
json_objects = st.dictionaries(st.text(max_size=8), json_values, max_size=6)


def refused(body: bytes, *, must_be_object: bool = True) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        read_fields(body, must_be_object=must_be_object)
    return caught.value


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'{"model":"a/b"}', BodyFields(model="a/b")),
        (
            b' \r\n{ "x": {"model": "inner"}, "model" : "a", "stream": true } ',
            BodyFields("a", True),
        ),
        (b'{"model":"\\u0061\\u00e9"}', BodyFields(model="a\u00e9")),
        ('{"model":"é"}'.encode(), BodyFields(model="é")),
        (b'{"model":"first","model":"last"}', BodyFields(model="last")),
        (b'{"model":null}', BodyFields()),
        (b'{"model":""}', BodyFields()),
        (b"{}", BodyFields()),
        (b'{"stream":1}', BodyFields()),
        (b'{"stream":"true"}', BodyFields()),
        (b'{"stream":null,"model":"a"}', BodyFields(model="a")),
        (b'{"stream":{"deep":[true]}}', BodyFields()),
        (b'{"Model":"a","STREAM":true}', BodyFields()),
    ],
)
def test_fields_of_json_bodies(body: bytes, found: BodyFields) -> None:
    found = msgspec.structs.replace(found, is_object=True)
    for text in (body, BOM + body):
        for must_be_object in (True, False):
            assert read_fields(text, must_be_object=must_be_object) == found
        assert try_read_fields(text) == found


@pytest.mark.parametrize("value", [b"1", b"true", b"[]", b'["a"]', b"{}", b'{"a":1}', b"1.5"])
def test_a_model_of_a_wrong_type_is_named(value: bytes) -> None:
    for must_be_object in (True, False):
        error = refused(b'{"x":1,"model":' + value + b"}", must_be_object=must_be_object)
        assert error.param == "model"
        assert "string" in error.message


@pytest.mark.parametrize("body", [b"[]", b'[{"model":"a"}]', b'"a"', b"1", b"null", b"true"])
def test_only_an_object_asks_for_output(body: bytes) -> None:
    assert "object" in refused(body).message
    assert read_fields(body, must_be_object=False) == BodyFields()


def test_no_body_is_no_object() -> None:
    assert "empty" in refused(b"").message
    assert read_fields(b"", must_be_object=False) == BodyFields()


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b'{"model":"a"',
        b'{"model":"a"}}',
        b'{"model":"a"}{"model":"b"}',
        b"{'model':'a'}",
        b'{"model":"a",}',
        b'{"model":\xff}',
        b'{"model":"\xff"}',
        b'{"model":"\\ud800"}',
        b'\xef\xbb\xbf\xef\xbb\xbf{"model":"a"}',
        b' \xef\xbb\xbf{"model":"a"}',
        b"\xef\xbb\xbf",
        b"model=a",
        b"\x00",
        b"   ",
        b"NaN",
        '{"model":"a"}'.encode("utf-16"),
    ],
)
def test_broken_json_is_refused(body: bytes) -> None:
    for must_be_object in (True, False):
        assert "JSON" in refused(body, must_be_object=must_be_object).message


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":' * DEPTH,
        b'{"model":"a","x":' + DEEP + b"]" * DEPTH + b"}",
        b'{"stream":' + DEEP + b"]" * DEPTH + b"}",
        b'{"model":' + DEEP,
    ],
    ids=["objects", "another field", "stream", "model"],
)
def test_nesting_without_end_is_refused(body: bytes) -> None:
    refused(body)
    refused(body, must_be_object=False)


@pytest.mark.parametrize("coding", ["utf-16", "utf-16-be", "utf-16-le"])
def test_json_in_utf_16_is_named_in_the_error(coding: str) -> None:
    mark = "" if coding == "utf-16" else "\ufeff"
    with pytest.raises(InvalidRequestError, match="is UTF-16: send JSON as UTF-8"):
        read_fields((mark + '{"model":"a"}').encode(coding), must_be_object=True)


@given(st.binary(max_size=60), st.booleans())
def test_any_bytes_are_read_or_refused(body: bytes, must_be_object: bool) -> None:
    for text in (body, b'{"model":"' + body + b'"}', b'{"' + body + b'":1}'):
        try:
            read_fields(text, must_be_object=must_be_object)
        except InvalidRequestError:
            continue


# Changes


def changed(body: bytes, **rules: Any) -> bytes:
    return with_fields(body, **{"defaults": {}, "overrides": {}, **rules})


@pytest.mark.parametrize(
    ("body", "defaults", "expected"),
    [
        (b"{}", {"a": 1}, b'{"a":1}'),
        (b" { } ", {"a": 1}, b' {"a":1 } '),
        (b'{"x": 1.0e0}', {"a": [1]}, b'{"a":[1],"x": 1.0e0}'),
        (b'\n{"a":null}', {"a": 1, "b": 2}, b'\n{"b":2,"a":null}'),
        (b'{"\\u0061":0}', {"a": 1}, b'{"\\u0061":0}'),
        (b'{"a":0,"a":1}', {"a": 2}, b'{"a":0,"a":1}'),
        (b'{"a":0}', {}, b'{"a":0}'),
        (BOM + b'{"a":0}', {"b": 1}, BOM + b'{"b":1,"a":0}'),
    ],
)
def test_defaults_are_added_in_front(
    body: bytes, defaults: dict[str, Any], expected: bytes
) -> None:
    assert changed(body, defaults=defaults) == expected


@pytest.mark.parametrize(
    ("body", "overrides", "expected"),
    [
        (b'{"t": 1 , "x" :[1, 2] }', {"t": 0}, b'{"t": 0 , "x" :[1, 2] }'),
        (b'{"x":1}', {"t": {"a": []}}, b'{"t":{"a":[]},"x":1}'),
        (b'{"t":1,"x":{"t":2},"t":3}', {"t": 0}, b'{"x":{"t":2},"t":0}'),
        (b'{"\\u0074":"\\"t\\"","x":"}"}', {"t": True}, b'{"\\u0074":true,"x":"}"}'),
        (b'{"n":12345678901234567890123,"t":1}', {"t": 0}, b'{"n":12345678901234567890123,"t":0}'),
        (b'{"n":1.10E2,"t":[{"t":[]}],"y":"\\\\"}', {"t": 0}, b'{"n":1.10E2,"t":0,"y":"\\\\"}'),
        (BOM + b'{"t":1}', {"t": 0}, BOM + b'{"t":0}'),
        (b'{"t":0}', {"t": 0}, b'{"t":0}'),
    ],
)
def test_overrides_win_in_place(body: bytes, overrides: dict[str, Any], expected: bytes) -> None:
    assert changed(body, overrides=overrides) == expected


@pytest.mark.parametrize(
    ("body", "strip", "expected"),
    [
        (b'{"a":1,"b":2,"c":3}', ["b"], b'{"a":1,"c":3}'),
        (b'{ "a":1, "b":2 }', ["b"], b'{ "a":1 }'.replace(b" }", b"}")),
        (b'{"a":1,"b":{"a":2},"a":3}', ["a"], b'{"b":{"a":2}}'),
        (b'{"a":1}', ["a", "z"], b"{}"),
        (b'{"b" : 1}', ["a"], b'{"b" : 1}'),
    ],
)
def test_names_are_taken_out(body: bytes, strip: list[str], expected: bytes) -> None:
    assert changed(body, strip=strip) == expected


def test_strip_comes_first_then_defaults_then_overrides() -> None:
    rules = {"strip": ["a", "b"], "defaults": {"a": 1, "c": 1}, "overrides": {"b": 2, "c": 2}}
    assert json.loads(changed(b'{"a":0,"b":0,"c":0,"d":0}', **rules)) == {
        "a": 1,
        "b": 2,
        "c": 2,
        "d": 0,
    }


@given(
    json_objects,
    json_objects,
    json_objects,
    st.lists(st.text(max_size=8)),
    st.sampled_from([None, 1, "\t"]),
)
def test_rules_hold_for_any_object(
    own: dict[str, Any],
    defaults: dict[str, Any],
    overrides: dict[str, Any],
    strip: list[str],
    indent: int | str | None,
) -> None:
    body = json.dumps(own, ensure_ascii=indent is None, indent=indent).encode("utf-8")
    left = {name: value for name, value in own.items() if name not in strip}
    new = changed(body, defaults=defaults, overrides=overrides, strip=strip)
    assert json.loads(new) == {**defaults, **left, **overrides}
    if not (set(strip) | set(overrides)) & set(own) and not overrides:
        assert new.endswith(body[1:])
    assert changed(body) == body


@pytest.mark.parametrize("rules", [{"defaults": {"t": 1}}, {"overrides": {"model": "other"}}])
@pytest.mark.parametrize("body", [b"", b"[]", b'{"\xff":1}', b'{"\\ud800":1}', b"--form--"])
def test_other_bodies_are_refused(body: bytes, rules: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError):
        changed(body, **rules)


def test_an_object_of_fields_without_end_is_not_changed() -> None:
    body = b"{" + b'"a":1,' * 10_000 + b'"model":"m"}'
    assert read_fields(body, must_be_object=True).model == "m"
    with pytest.raises(InvalidRequestError, match="more than 10000 fields"):
        changed(body, overrides={"model": "other"})


@given(st.binary(max_size=60))
def test_other_bodies_name_no_model(body: bytes) -> None:
    assert try_read_fields(b"\x00" + body) == BodyFields()
    found = try_read_fields(b'{"model":1,' + body)
    assert (found.model, found.is_object) == (None, False)
    assert found.problem is not None
