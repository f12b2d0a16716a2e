"""The header reader: the content of good files, and an error for each bad one."""

from __future__ import annotations

import os
import struct
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cyber_inference_tui.errors import GGUFError
from cyber_inference_tui.gguf.reader import read_beginning, read_header
from tests.gguf.headers import array, entry, raw, tensor, text, write_gguf

from .demo_file import demo_bytes

U32 = struct.Struct("<I").pack


def read(tmp_path: Path, data: bytes) -> object:
    path = tmp_path / "x.gguf"
    path.write_bytes(data)
    return read_header(path)


def test_a_whole_file(tmp_path: Path) -> None:
    header = read_header(write_gguf(tmp_path / "a.gguf"))
    assert header.version == 3
    assert header.values["general.architecture"] == "llama"
    assert header.values["llama.block_count"] == 2
    assert header.tensors.count == 2
    assert header.tensors.parameters == 64 + 3 * 64
    assert header.tensors.size_by_type == {"F32": 256, "Q8_0": 3 * 68}


def test_version_2_reads_the_same(tmp_path: Path) -> None:
    header = read_header(write_gguf(tmp_path / "a.gguf"))
    data = bytearray((tmp_path / "a.gguf").read_bytes())
    data[4:8] = U32(2)
    (tmp_path / "b.gguf").write_bytes(data)
    second = read_header(tmp_path / "b.gguf")
    assert (second.values, second.tensors) == (header.values, header.tensors)


def test_every_type_of_value(tmp_path: Path) -> None:
    numbers = "BbHhIif?QqdX"
    kinds = [0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12]
    entries = [
        entry(f"k{kind}", kind, struct.pack(f"<{code}", 1))
        for kind, code in zip(kinds, numbers, strict=False)
    ]
    entries.append(entry("s", 8, text("ä")))
    entries.append(entry("small", 9, array(4, 3, struct.pack("<3I", 1, 2, 3))))
    entries.append(entry("large", 9, array(0, 5000, bytes(5000))))
    entries.append(entry("words", 9, array(8, 2, text("a") + text("bc"))))
    nested = array(8, 1, text("x")) + array(4, 1, U32(7))
    entries.append(entry("nested", 9, array(9, 2, nested)))
    entries.append(entry("last", 4, U32(9)))
    path = tmp_path / "x.gguf"
    path.write_bytes(raw(entries))
    header = read_header(path)
    assert all(header.values[f"k{kind}"] == 1 for kind in kinds)
    assert header.values["s"] == "ä"
    assert header.values["small"] == (1, 2, 3)
    assert header.values["last"] == 9
    assert not {"large", "words", "nested"} & header.values.keys()
    lengths = {"small": 3, "large": 5000, "words": 2, "nested": 2}
    assert header.array_lengths == lengths


def test_a_long_vocabulary_is_counted_across_chunks(tmp_path: Path) -> None:
    words = b"".join(text(f"word{number}") for number in range(60_000))
    entries = [entry("tokens", 9, array(8, 60_000, words)), entry("after", 4, U32(5))]
    path = tmp_path / "x.gguf"
    path.write_bytes(raw(entries))
    header = read_header(path)
    assert header.array_lengths == {"tokens": 60_000}
    assert header.values == {"after": 5}


HUGE = 2**63
BAD = {
    "empty": b"",
    "short": b"GGUF\3\0\0\0",
    "other magic": b"GGML" + bytes(60),
    "version 1": raw(version=1),
    "version 4": raw(version=4),
    "big-endian": struct.pack(">4sIQQ", b"GGUF", 3, 0, 0) + bytes(32),
    "many tensors": raw(tensor_count=HUGE),
    "many entries": raw(entry_count=HUGE),
    "one entry too few": raw([entry("a", 4, U32(1))], entry_count=6),
    "one tensor too few": raw([], [tensor([4])], tensor_count=2, data=bytes(16)),
    "unknown value type": raw([entry("a", 99, U32(1))]),
    "a truth of 2": raw([entry("a", 7, b"\2")]),
    "key beyond the file": raw([struct.pack("<Q", HUGE) + b"a"]),
    "long key": raw([entry("k" * 70_000, 4, U32(1))]),
    "string beyond the file": raw([text("a") + U32(8) + struct.pack("<Q", HUGE)]),
    "array beyond the file": raw([entry("a", 9, array(4, HUGE, b""))]),
    "strings beyond the file": raw([entry("a", 9, array(8, HUGE, b""))]),
    "string in an array beyond": raw([entry("a", 9, array(8, 2, struct.pack("<QQ", HUGE, 0)))]),
    "array of unknown type": raw([entry("a", 9, array(77, 1, bytes(8)))]),
    "arrays without end": raw([entry("a", 9, array(9, HUGE, b""))]),
    "three levels of arrays": raw([entry("a", 9, array(9, 1, array(9, 1, array(4, 0, b""))))]),
    "same key twice": raw([entry("a", 4, U32(1)), entry("a", 4, U32(2))]),
    "alignment 0": raw([entry("general.alignment", 4, U32(0))]),
    "alignment 3": raw([entry("general.alignment", 4, U32(3))]),
    "alignment as text": raw([entry("general.alignment", 8, text("32"))]),
    "many dimensions": raw([], [tensor([1], claimed=2**31)]),
    "overflowing shape": raw([], [tensor([2**32, 2**32])]),
    "long tensor name": raw([], [tensor([1], name="n" * 5000)], data=bytes(4)),
    "misaligned tensor": raw([], [tensor([4], offset=5)], data=bytes(32)),
    "partial block": raw([], [tensor([33], kind=8)], data=bytes(100)),
    "tensor beyond the file": raw([], [tensor([1024])], data=bytes(100)),
    "offset beyond the file": raw([], [tensor([1], offset=2**62)], data=bytes(100)),
    "too much metadata": raw([entry(f"k{i}", 8, text("x" * 200_000)) for i in range(30)]),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
def test_every_error_is_a_sentence(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(GGUFError) as caught:
        read(tmp_path, data)
    assert caught.value.message.isprintable()


def test_no_file_a_folder_and_a_pipe_are_errors_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "none", tmp_path, tmp_path / "pipe", Path("nul\0byte")):
        with pytest.raises(GGUFError):
            read_header(path)


def test_cut_anywhere_it_is_an_error(tmp_path: Path) -> None:
    data = write_gguf(tmp_path / "whole.gguf").read_bytes()
    last = len(data.rstrip(b"\0"))
    for length in range(0, last, 7):
        with pytest.raises(GGUFError):
            read(tmp_path, data[:length])


@pytest.fixture(scope="module")
def demo() -> bytes:
    return demo_bytes()


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(
        st.tuples(st.integers(0, 40_000), st.binary(min_size=1, max_size=9)), min_size=1, max_size=5
    )
)
def test_a_damaged_real_header_is_read_or_refused(
    tmp_path: Path, demo: bytes, changes: list[tuple[int, bytes]]
) -> None:
    data = bytearray(demo)
    for place, change in changes:
        data[place : place + len(change)] = change
    try:
        read(tmp_path, bytes(data))
    except GGUFError as error:
        assert error.message


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(
    counts=st.tuples(
        st.integers(0, 2**64 - 1) | st.integers(0, 5), st.integers(0, 2**64 - 1) | st.integers(0, 5)
    ),
    rest=st.binary(max_size=400),
)
def test_noise_behind_a_good_start_is_read_or_refused(
    tmp_path: Path, counts: tuple[int, int], rest: bytes
) -> None:
    try:
        read(tmp_path, struct.pack("<4sIQQ", b"GGUF", 3, *counts) + rest)
    except GGUFError as error:
        assert error.message


values = st.deferred(
    lambda: st.one_of(
        st.tuples(st.sampled_from([0, 1, 7]), st.binary(min_size=1, max_size=1)),
        st.tuples(st.sampled_from([4, 5, 6]), st.binary(min_size=4, max_size=4)),
        st.tuples(st.just(8), st.binary(max_size=40).map(text)),
        st.tuples(
            st.just(9),
            st.lists(st.binary(max_size=5), max_size=6).map(
                lambda items: array(8, len(items), b"".join(map(text, items)))
            ),
        ),
    )
)


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.binary(max_size=30), values, max_size=8))
def test_any_well_formed_header_is_read_whole(
    tmp_path: Path, entries: dict[bytes, tuple[int, bytes]]
) -> None:
    parts = [entry(key, kind, value) for key, (kind, value) in entries.items()]
    path = tmp_path / "x.gguf"
    path.write_bytes(raw([*parts, entry("the end", 4, U32(42))]))
    try:
        assert read_header(path).values["the end"] == 42
    except GGUFError as error:
        assert "twice" in error.message or "truth" in error.message or "alignment" in error.message


def test_memory_stays_small_whatever_a_file_claims(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    words = b"".join(text("w" * 40) for _ in range(100_000))
    path.write_bytes(
        raw([entry("tokens", 9, array(8, 100_000, words)), entry("long", 8, text("x" * 3_000_000))])
    )
    with path.open("r+b") as file:
        file.truncate(8 * 2**30)  # sparse
    tracemalloc.start()
    header = read_header(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert header.array_lengths["tokens"] == 100_000
    assert peak < 4 * 2**20


def test_the_beginning_of_a_file_has_the_first_keys() -> None:
    whole = demo_bytes()
    values = read_beginning(whole[:4096]).values
    assert values["general.architecture"] == "llama"
    assert values["llama.block_count"] == 1
    assert "tokenizer.ggml.eos_token_id" not in values


@pytest.mark.parametrize("length", [0, 10, 23, 24, 40])
def test_too_little_of_a_file_is_an_error(length: int) -> None:
    with pytest.raises(GGUFError):
        read_beginning(demo_bytes()[:length])


def test_every_beginning_of_a_file_is_read_or_refused() -> None:
    whole = demo_bytes()[:3000]
    known = -1
    for length in range(0, len(whole), 7):
        try:
            values = read_beginning(whole[:length]).values
        except GGUFError:
            assert known <= 0
            continue
        assert len(values) >= known
        known = len(values)
    assert known > 10


def test_an_array_that_is_cut_off_has_its_length() -> None:
    lengths = read_beginning(demo_bytes()[:3000]).array_lengths
    assert lengths == {"tokenizer.ggml.tokens": 956}
