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
    with_model_field,
)

JSON = "application/json"
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
        read_fields(body, JSON, must_be_object=must_be_object)
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
    # Content-Type does not matter: curl -d calls everything a form.
    found = msgspec.structs.replace(found, is_object=True)
    for content_type in (JSON, "application/x-www-form-urlencoded", ""):
        for text in (body, BOM + body):
            for must_be_object in (True, False):
                assert read_fields(text, content_type, must_be_object=must_be_object) == found
            assert try_read_fields(text, content_type) == found


@pytest.mark.parametrize("value", [b"1", b"true", b"[]", b'["a"]', b"{}", b'{"a":1}', b"1.5"])
def test_a_model_of_a_wrong_type_is_named(value: bytes) -> None:
    for must_be_object in (True, False):
        error = refused(b'{"x":1,"model":' + value + b"}", must_be_object=must_be_object)
        assert error.param == "model"
        assert "string" in error.message


@pytest.mark.parametrize("body", [b"[]", b'[{"model":"a"}]', b'"a"', b"1", b"null", b"true"])
def test_only_an_object_asks_for_output(body: bytes) -> None:
    assert "object" in refused(body).message
    assert read_fields(body, JSON, must_be_object=False) == BodyFields()


def test_no_body_is_no_object() -> None:
    assert "empty" in refused(b"").message
    assert read_fields(b"", JSON, must_be_object=False) == BodyFields()


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
        read_fields((mark + '{"model":"a"}').encode(coding), JSON, must_be_object=True)


@given(st.binary(max_size=60), st.booleans())
def test_any_bytes_are_read_or_refused(body: bytes, must_be_object: bool) -> None:
    for text in (body, b'{"model":"' + body + b'"}', b'{"' + body + b'":1}'):
        try:
            read_fields(text, JSON, must_be_object=must_be_object)
        except InvalidRequestError:
            continue


# Multipart


def part(name: str, value: bytes, *, more: str = "") -> tuple[str, bytes]:
    return f'form-data; name="{name}"{more}', value


def multipart(boundary: str, *parts: tuple[str, bytes]) -> bytes:
    pieces = [
        f"--{boundary}\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + value + b"\r\n"
        for disposition, value in parts
    ]
    return b"".join([*pieces, f"--{boundary}--\r\n".encode()])


AUDIO = part(
    "file",
    b'RIFF\r\n\r\n--name="model"\r\n\x00\xff',
    more='; filename="model.wav"\r\nContent-Type: audio/wav',
)
LANGUAGE = part("language", b"en")
MODEL = part("model", b"whisper/small")


@pytest.mark.parametrize(
    "parts", [(MODEL, AUDIO, LANGUAGE), (AUDIO, MODEL, LANGUAGE), (AUDIO, LANGUAGE, MODEL)]
)
@pytest.mark.parametrize(
    ("boundary", "parameter"),
    [
        ("----WebKitFormBoundary7MA4", "boundary=----WebKitFormBoundary7MA4"),
        ("abc", 'boundary="abc"'),
        ("a b:c=d", 'boundary="a b:c=d"'),
        ("a,b", 'boundary="a,b"'),
        ("abc", "charset=utf-8; Boundary=abc"),
        ("abc", "boundary=abc; charset=utf-8"),
        ("abc", "boundary=abc ; charset=utf-8"),
        ("x" * 70, "boundary=" + "x" * 70),
        ("x" * 100, 'boundary="' + "x" * 100 + '"'),
        ("abc", "boundary = abc"),
        ("abc", "xboundary=x; boundary=abc"),
        ('a"b', 'boundary="a\\"b"'),
    ],
)
def test_the_model_is_found_in_any_place(
    parts: tuple[tuple[str, bytes], ...], boundary: str, parameter: str
) -> None:
    body = multipart(boundary, *parts)
    for kind in ("multipart/form-data", "Multipart/Form-Data"):
        found = read_fields(body, f"{kind}; {parameter}", must_be_object=False)
        assert found == BodyFields(model="whisper/small")


@pytest.mark.parametrize(
    ("disposition", "value", "model"),
    [
        ('form-data; name="model"', "modèle".encode(), "modèle"),
        ("form-data; name=model", b"a", "a"),
        ('form-data;name="model"', b"a", "a"),
        ('form-data; NAME="model"', b"a", "a"),
        ('form-data; filename="x"; name="model"', b"a", "a"),
        ('form-data; name="model"', b" a\r\n", "a"),
        ('form-data; name="model"', b"", None),
        ('form-data; name="model"', b"\xff", "\ufffd"),
        ('form-data; filename="model"', b"a", None),
        ('form-data; name="model_name"', b"a", None),
        ('form-data; name="mo', b"a", None),
        ('form-data; name = "model"', b"a", "a"),
        ('form-data; filename="x; name=model"; name="file"', b"a", None),
        ('form-data; filename="\\"; name=\\"model\\""; name="file"', b"a", None),
    ],
)
def test_fields_of_a_form(disposition: str, value: bytes, model: str | None) -> None:
    body = multipart("abc", (disposition, value))
    found = read_fields(body, "multipart/form-data; boundary=abc", must_be_object=False)
    assert found.model == model


def test_a_file_is_no_name_where_there_is_a_name() -> None:
    kind = "multipart/form-data; boundary=abc"
    file = part("model", b"\x00" * 2000, more='; filename="voice.bin"')
    for parts in ((file, MODEL), (MODEL, file)):
        body = multipart("abc", *parts)
        assert read_fields(body, kind, must_be_object=False) == BodyFields(model="whisper/small")
        assert with_model_field(body, kind, "tiny") == body.replace(MODEL[1], b"tiny")


def test_a_form_inside_a_file_of_a_form_is_not_read() -> None:
    kind = "multipart/form-data; boundary=abc"
    file = part("file", multipart("abcd", part("model", b"inner")), more='; filename="x"')
    body = multipart("abc", file, MODEL)
    assert read_fields(body, kind, must_be_object=False) == BodyFields(model="whisper/small")


def test_lines_of_a_form_may_end_with_lf_alone() -> None:
    kind = "multipart/form-data; boundary=abc"
    for parts in ((MODEL, LANGUAGE), (LANGUAGE, MODEL)):
        body = multipart("abc", *parts).replace(b"\r\n", b"\n")
        assert read_fields(body, kind, must_be_object=False) == BodyFields(model="whisper/small")
        assert with_model_field(body, kind, "tiny") == body.replace(MODEL[1], b"tiny")


def test_broken_forms() -> None:
    kind = "multipart/form-data; boundary=abc"
    with pytest.raises(InvalidRequestError, match="boundary"):
        read_fields(multipart("abc", MODEL), "multipart/form-data", must_be_object=False)
    with pytest.raises(InvalidRequestError, match="too long"):
        read_fields(multipart("abc", part("model", b"x" * 2000)), kind, must_be_object=False)
    with pytest.raises(InvalidRequestError, match="JSON"):
        # A form is an error if JSON is required.
        read_fields(multipart("abc", MODEL), kind, must_be_object=True)
    for body in (b"", b"--abc", b"--abc--", b"--abc\r\n\r\n\r\n--abc--", multipart("other", MODEL)):
        assert read_fields(body, kind, must_be_object=False) == BodyFields()


@given(st.binary(max_size=80))
def test_any_form_is_read_or_refused(data: bytes) -> None:
    kind = "multipart/form-data; boundary=abc"
    for body in (data, b"--abc\r\nContent-Disposition:" + data, b"--abc" + data + b"\r\n--abc"):
        read_fields(body, kind, must_be_object=False)


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


def test_only_the_name_in_a_form_is_replaced() -> None:
    kind = "multipart/form-data; boundary=abc"
    body = multipart("abc", AUDIO, part("x", b"whisper/small"), MODEL, LANGUAGE)
    new = with_model_field(body, kind, "modèle")
    assert new == body.replace(b'"model"\r\n\r\nwhisper/small', '"model"\r\n\r\nmodèle'.encode())
    assert with_model_field(multipart("abc", AUDIO), kind, "x") == multipart("abc", AUDIO)


def test_a_delimiter_inside_a_line_is_content() -> None:
    kind = "multipart/form-data; boundary=abc"
    body = multipart("abc", part("file", b'x--abc\r\nContent-Disposition: y; name="model"'), MODEL)
    assert read_fields(body, kind, must_be_object=False).model == "whisper/small"


def test_a_form_of_parts_without_end_is_refused() -> None:
    kind = "multipart/form-data; boundary=x"
    with pytest.raises(InvalidRequestError, match="parts"):
        read_fields(b"--x\r\n\r\n" + b"\r\n--x\r\n\r\n" * 100_000, kind, must_be_object=False)


@given(st.binary(max_size=60))
def test_other_bodies_name_no_model(body: bytes) -> None:
    assert try_read_fields(b"\x00" + body, JSON) == BodyFields()
    found = try_read_fields(b'{"model":1,' + body, "")
    assert (found.model, found.is_object) == (None, False)
    assert found.problem is not None
