"""Output of any bytes, in any chunks, as bounded lines."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.llama.log_lines import (
    MAX_LINE_BYTES,
    LineSplitter,
    clean_output,
    without_protocol,
)
from cyber_inference_tui.text import MAX_CHARACTERS, clean_line

CUT = b" [line cut]"

byte_streams = st.lists(
    st.one_of(
        st.binary(max_size=30),
        st.sampled_from([b"\n", b"\r", b"\r\n", b"\n\n", b"\r\r\n", b"line", b"\xff\xfe"]),
        st.integers(-20, 20).map(lambda extra: b"x" * (MAX_LINE_BYTES + extra)),
        st.just(b"y" * (3 * MAX_LINE_BYTES)),
    ),
    max_size=12,
).map(b"".join)


def split(chunks: list[bytes]) -> list[bytes]:
    splitter = LineSplitter()
    lines = b""
    for chunk in chunks:
        lines += splitter.feed(chunk)
        assert len(splitter._rest) <= MAX_LINE_BYTES
    lines += splitter.flush()
    assert not lines or lines.endswith(b"\n")
    return lines.split(b"\n")[:-1]


def expected(stream: bytes) -> list[bytes]:
    lines = stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    if not lines[-1]:
        lines.pop()
    return [line if len(line) <= MAX_LINE_BYTES else line[:MAX_LINE_BYTES] + CUT for line in lines]


@given(byte_streams, st.data())
def test_lines_do_not_depend_on_the_chunks_and_stay_in_bounds(
    stream: bytes, data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    edges = [0, *cuts, len(stream)]
    chunks = [stream[a:b] for a, b in itertools.pairwise(edges)]
    lines = split(chunks)
    assert lines == expected(stream)
    assert all(len(line) <= MAX_LINE_BYTES + len(CUT) for line in lines)


@given(st.binary(max_size=60))
def test_single_bytes_give_the_same_lines(stream: bytes) -> None:
    assert split([bytes([byte]) for byte in stream]) == expected(stream)


def test_a_line_end_cut_in_two_makes_no_empty_line() -> None:
    assert split([b"one\r", b"\ntwo\r", b"three"]) == [b"one", b"two", b"three"]


def test_protocol_lines_are_separated_from_log_lines() -> None:
    message = b'cmd_child_to_router:state:{"state":"ready"}'
    log = b"0.00.1 I srv cmd_child_to_router:\n"
    assert without_protocol(log) == (log, [])
    assert without_protocol(log + message + b"\n" + log) == (2 * log, [message])


some_lines = st.lists(
    st.one_of(
        st.binary(max_size=12).map(lambda line: line.replace(b"\n", b"")),
        st.integers(-3, 3).map(lambda extra: b"x" * (MAX_CHARACTERS + extra)),
        st.integers(-3, 3).map(lambda extra: "ü".encode() * (MAX_CHARACTERS + extra)),
        st.just(b"0.00.123.456 I srv  update_slots: all slots are idle"),
        st.sampled_from((b"\ttop_k = 40\t", b"\t" * (MAX_CHARACTERS // 4 + 1))),
    ),
    max_size=8,
)


@given(some_lines)
def test_lines_cleaned_together_are_the_same_as_one_by_one(lines: list[bytes]) -> None:
    expected = [clean_line(line.decode("utf-8", "replace")) for line in lines]
    cleaned = clean_output(b"".join(line + b"\n" for line in lines))
    assert cleaned.decode().split("\n") == [*expected, ""]
