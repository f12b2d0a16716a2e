"""The search for the model's name in multipart forms."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.errors import InvalidRequestError
from cyber_inference_tui.http.body_fields import BodyFields, read_fields, with_model_field
from cyber_inference_tui.http.form import FormSearch, is_form

ABC = "multipart/form-data; boundary=abc"


def fields(body: bytes, kind: str = ABC, *, piece: int | None = None) -> BodyFields:
    """Return the fields of a form that arrives in pieces of this size."""
    assert is_form(kind)
    form = FormSearch(kind)
    if piece is not None:
        arrived = bytearray()
        for at in range(0, len(body), piece):
            arrived += body[at : at + piece]
            form.look(arrived)
    return read_fields(body, must_be_object=False, form=form)


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
        found = fields(body, f"{kind}; {parameter}")
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
    found = fields(body)
    assert found.model == model


def test_a_file_is_no_name_where_there_is_a_name() -> None:
    file = part("model", b"\x00" * 2000, more='; filename="voice.bin"')
    for parts in ((file, MODEL), (MODEL, file)):
        body = multipart("abc", *parts)
        assert fields(body) == BodyFields(model="whisper/small")
        assert with_model_field(body, FormSearch(ABC), "tiny") == body.replace(MODEL[1], b"tiny")


def test_a_form_inside_a_file_of_a_form_is_not_read() -> None:
    file = part("file", multipart("abcd", part("model", b"inner")), more='; filename="x"')
    body = multipart("abc", file, MODEL)
    assert fields(body) == BodyFields(model="whisper/small")


def test_lines_of_a_form_may_end_with_lf_alone() -> None:
    for parts in ((MODEL, LANGUAGE), (LANGUAGE, MODEL)):
        body = multipart("abc", *parts).replace(b"\r\n", b"\n")
        assert fields(body) == BodyFields(model="whisper/small")
        assert with_model_field(body, FormSearch(ABC), "tiny") == body.replace(MODEL[1], b"tiny")


def test_broken_forms() -> None:
    with pytest.raises(InvalidRequestError, match="boundary"):
        fields(multipart("abc", MODEL), "multipart/form-data")
    with pytest.raises(InvalidRequestError, match="too long"):
        fields(multipart("abc", part("model", b"x" * 2000)))
    with pytest.raises(InvalidRequestError, match="JSON"):
        # A form is an error if JSON is required.
        read_fields(multipart("abc", MODEL), must_be_object=True, form=FormSearch(ABC))
    for body in (b"", b"--abc", b"--abc--", b"--abc\r\n\r\n\r\n--abc--", multipart("other", MODEL)):
        assert fields(body) == BodyFields()


@given(st.binary(max_size=80))
def test_any_form_is_read_or_refused(data: bytes) -> None:
    for body in (data, b"--abc\r\nContent-Disposition:" + data, b"--abc" + data + b"\r\n--abc"):
        fields(body)


def test_only_the_name_in_a_form_is_replaced() -> None:
    body = multipart("abc", AUDIO, part("x", b"whisper/small"), MODEL, LANGUAGE)
    new = with_model_field(body, FormSearch(ABC), "modèle")
    assert new == body.replace(b'"model"\r\n\r\nwhisper/small', '"model"\r\n\r\nmodèle'.encode())
    assert with_model_field(multipart("abc", AUDIO), FormSearch(ABC), "x") == multipart(
        "abc", AUDIO
    )


def test_a_delimiter_inside_a_line_is_content() -> None:
    body = multipart("abc", part("file", b'x--abc\r\nContent-Disposition: y; name="model"'), MODEL)
    assert fields(body).model == "whisper/small"


def test_a_form_of_parts_without_end_is_refused() -> None:
    kind = "multipart/form-data; boundary=x"
    with pytest.raises(InvalidRequestError, match="parts"):
        fields(b"--x\r\n\r\n" + b"\r\n--x\r\n\r\n" * 100_000, kind)


FORMS = [
    multipart("abc", AUDIO, MODEL, LANGUAGE),
    multipart("abc", AUDIO, MODEL, LANGUAGE).replace(b"\r\n", b"\n"),
    b"preamble\r\n" + multipart("abc", LANGUAGE, MODEL),
    multipart("abc", part("file", multipart("abcd", part("model", b"inner"))), MODEL),
    multipart("abc", part("file", b"\r\n--ab\n--abx\n--abc--x")),
    b"--abc" + b" " * 100 + multipart("abc", MODEL)[5:],
    b"--abc" + b" " * 101 + multipart("abc", MODEL)[5:],
]


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("body", FORMS, ids=range(len(FORMS)))
def test_a_form_in_pieces_is_the_same_form(body: bytes, piece: int) -> None:
    assert fields(body, piece=piece) == fields(body)


@given(st.lists(st.sampled_from([b"\r\n", b"\n", b"--abc", b"--", b" ", b"x", b"\n--abc\n"])))
def test_any_form_in_pieces_is_the_same_form(parts: list[bytes]) -> None:
    head = b'Content-Disposition: form-data; name="model"\n\n'
    body = b"--abc\n".join((b"".join(parts[::2]) + b"\n", head + b"".join(parts[1::2])))
    for piece in (1, 5):
        assert fields(body, piece=piece) == fields(body)


def test_no_byte_of_a_form_is_searched_twice() -> None:
    class Counted(bytearray):
        searched = 0

        def find(self, what: bytes, start: int) -> int:  # type: ignore[override]
            found = super().find(what, start)
            Counted.searched += (len(self) if found < 0 else found + len(what)) - start
            return found

    form, body = FormSearch(ABC), Counted()
    for _ in range(1000):
        body += b"\n--ab" * 100
        form.look(body)
    assert len(body) <= Counted.searched < len(body) + 1000 * len("\n--abc")
