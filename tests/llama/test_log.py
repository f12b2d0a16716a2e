"""Output of any bytes, in any chunks, as bounded clean lines; and log files on the disk."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.llama.log import (
    MAX_LINE_BYTES,
    LineSplitter,
    LogRing,
    LogWriter,
    is_protocol_line,
    log_file_name,
)
from cyber_inference_tui.records import LogLine

CUT = b" [line cut]"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

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
    lines = []
    for chunk in chunks:
        lines += splitter.feed(chunk)
        assert len(splitter._rest) <= MAX_LINE_BYTES
    return lines + splitter.flush()


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


def test_protocol_lines_are_told_from_log_lines() -> None:
    assert is_protocol_line(b'cmd_child_to_router:state:{"state":"ready"}')
    assert not is_protocol_line(b"0.00.1 I srv cmd_child_to_router:")


# The ring


def ring(**bounds: int) -> LogRing:
    return LogRing(now=lambda: NOW, **bounds)


def texts(lines: tuple[LogLine, ...]) -> list[str]:
    return [line.text for line in lines]


@given(
    st.lists(st.lists(st.text(max_size=40), max_size=5), max_size=20),
    st.integers(1, 8),
    st.integers(1, 200),
)
def test_a_ring_keeps_the_last_lines_within_its_bounds(
    batches: list[list[str]], max_lines: int, max_bytes: int
) -> None:
    log = ring(max_lines=max_lines, max_bytes=max_bytes)
    seen: list[str] = []
    log.listeners.append(lambda batch: seen.extend(texts(batch)))
    for batch in batches:
        log.add(batch)
        kept = texts(log.tail(10**6))
        assert len(kept) == len(log) <= max_lines
        assert sum(map(len, kept)) <= max_bytes
        assert kept == seen[len(seen) - len(kept) :]
    assert len(seen) == sum(map(len, batches))


def test_a_ring_cleans_what_enters_it() -> None:
    log = ring()
    log.add(
        ["\x1b[31mred\x1b[0m \x9b1mbold\x07", "a\tb\x00", "right\u202eleft", "\x1b]0;title\x07ok"]
    )
    assert texts(log.tail(9)) == ["red bold", "a    b", "rightleft", "ok"]


@given(st.binary(max_size=200))
def test_no_control_sequence_survives_any_bytes(stream: bytes) -> None:
    log = ring()
    log.add(line.decode("utf-8", "replace") for line in split([stream]))
    for text in texts(log.tail(10**6)):
        assert not set(text) & {*map(chr, range(32)), *map(chr, range(127, 160))}


def test_the_tail_of_nothing_is_nothing() -> None:
    log = ring()
    log.add(["one", "two"])
    assert log.tail(0) == log.tail(-1) == ()
    assert texts(log.tail(1)) == ["two"]


def test_a_mark_has_what_came_since_and_nothing_after_it_was_closed() -> None:
    log = ring()
    log.add(["before"])
    mark = log.mark()
    log.add(["one"])
    log.add(["two", "three"])
    mark.close()
    mark.close()
    log.add(["after"])
    assert mark.lines() == ("one", "two", "three")
    assert log.listeners == []


def test_a_mark_is_bounded_too() -> None:
    log = ring()
    mark = log.mark()
    log.add(str(number) for number in range(10_000))
    assert len(mark.lines()) == 400
    assert mark.lines()[-1] == "9999"


# Names of log files

hostile = st.one_of(
    st.text(max_size=400),
    st.text(st.characters(codec=None), max_size=100),
    st.sampled_from(["service", "%73ervice", ".", "..", "../../etc/passwd", "/", "a/../b", ".x"]),
    st.text("./\\%~\x00 a", max_size=12),
)


@given(hostile)
def test_a_log_file_stays_in_its_directory_whatever_the_id(model_id: str) -> None:
    name = log_file_name(model_id)
    directory = Path("/data/logs")
    assert (directory / name).parent == directory
    assert Path(directory / name).name == name
    assert "/" not in name
    assert "\x00" not in name
    assert not name.startswith(".") or not model_id
    assert len(name.encode()) <= 240
    assert name != "service.log"


@given(hostile, hostile)
def test_different_ids_have_different_log_files(one: str, other: str) -> None:
    assert (log_file_name(one) == log_file_name(other)) == (one == other)


def test_long_ids_that_differ_late_have_different_log_files() -> None:
    assert log_file_name("m" * 500 + "1") != log_file_name("m" * 500 + "2")
    # Nor can another id be made that has the short name of a long one.
    short = log_file_name("m" * 500).removesuffix(".log")
    assert log_file_name(short) != f"{short}.log"


def test_plain_ids_are_legible() -> None:
    assert log_file_name("Qwen3-8B Q4_K_M") == "Qwen3-8B Q4_K_M.log"


# Files


def lines(*some: str) -> tuple[LogLine, ...]:
    return tuple(LogLine(at=NOW, text=text) for text in some)


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[LogWriter]:
    made = LogWriter(tmp_path / "logs", max_file=200, keep=2)
    made.start()
    yield made
    made.stop()


def test_lines_reach_the_file_with_their_time(writer: LogWriter, tmp_path: Path) -> None:
    writer.write("a.log", lines("one", "zwei ü"))
    writer.write("a.log", lines("three"))
    writer.stop()
    assert (tmp_path / "logs/a.log").read_text(encoding="utf-8").splitlines() == [
        "2026-01-02T03:04:05.000000Z one",
        "2026-01-02T03:04:05.000000Z zwei ü",
        "2026-01-02T03:04:05.000000Z three",
    ]
    assert (tmp_path / "logs").stat().st_mode & 0o077 == 0


def test_a_file_is_rotated_and_only_so_many_are_kept(writer: LogWriter, tmp_path: Path) -> None:
    for number in range(40):
        writer.write("a.log", lines(f"{number} " + "x" * 60))
    writer.stop()
    files = sorted(path.name for path in (tmp_path / "logs").iterdir())
    assert files == ["a.log", "a.log.1", "a.log.2"]
    assert all(path.stat().st_size <= 400 for path in (tmp_path / "logs").iterdir())
    assert " 39 " in (tmp_path / "logs/a.log").read_text()


def test_a_disk_that_is_too_slow_loses_lines_and_says_so(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path / "logs", max_pending=250)
    # Not started yet: nothing is taken from the queue, as with a disk that hangs.
    for number in range(10):
        writer.write("a.log", lines(f"{number} " + "x" * 60))
    writer.start()
    writer.stop()
    written = (tmp_path / "logs/a.log").read_text().splitlines()
    assert len(written) == 2
    writer = LogWriter(tmp_path / "logs", max_pending=10)
    writer.stop()


def test_an_unwritable_directory_is_said_once_and_harms_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = LogWriter(tmp_path / "logs")
    writer.start()
    (tmp_path / "logs").rmdir()
    for _ in range(5):
        writer.write("a.log", lines("lost"))
    writer.stop()
    assert [record.getMessage() for record in caplog.records] == [
        f"cannot write the log file {tmp_path / 'logs/a.log'}: No such file or directory"
    ]


def test_stopping_a_writer_that_was_never_started_is_nothing(tmp_path: Path) -> None:
    LogWriter(tmp_path).stop()
