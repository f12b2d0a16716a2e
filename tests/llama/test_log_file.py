"""Log files on the disk: names that stay in their directory, rotation, and disks that fail."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.llama.log_file import (
    RESTORED_BYTES,
    LogWriter,
    id_of_log_file,
    log_file_name,
    read_earlier_lines,
    read_earlier_logs,
)
from cyber_inference_tui.llama.log_ring import LogBatch

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

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


@given(hostile)
def test_a_name_gives_its_id_or_nothing(model_id: str) -> None:
    assert id_of_log_file(log_file_name(model_id)) in {model_id, None}


def test_names_that_contain_their_id() -> None:
    for model_id in ("m", "sub/Name Q4_K_M", ".x", "Straße"):
        assert id_of_log_file(log_file_name(model_id)) == model_id
    assert id_of_log_file(log_file_name("m" * 500)) is None
    assert id_of_log_file("service.log") is None


def test_long_ids_that_differ_late_have_different_log_files() -> None:
    assert log_file_name("m" * 500 + "1") != log_file_name("m" * 500 + "2")
    # No other id has the shortened name of a long id.
    short = log_file_name("m" * 500).removesuffix(".log")
    assert log_file_name(short) != f"{short}.log"


def test_plain_ids_are_legible() -> None:
    assert log_file_name("Qwen3-8B Q4_K_M") == "Qwen3-8B Q4_K_M.log"


# Files


def lines(*some: str) -> LogBatch:
    return LogBatch(0, NOW, list(some), bytes(len(some)))


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
    # Not started yet: the queue fills up, as with a hanging disk.
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


def test_text_after_a_part_of_a_line_is_a_new_line(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_bytes(b"2026-01-01T00:00:00.000000Z cut of")
    for text in ("one", "two"):
        writer = LogWriter(tmp_path)
        writer.start()
        writer.write("a.log", lines(text))
        writer.stop()
    assert [text for _, text in read_earlier_lines(tmp_path / "a.log")] == ["cut of", "one", "two"]


# Earlier runs


def test_the_lines_of_earlier_runs_are_read_with_their_times(
    writer: LogWriter, tmp_path: Path
) -> None:
    for number in range(8):
        writer.write("a.log", lines(f"{number} " + "x" * 60))
    writer.stop()
    assert (tmp_path / "logs/a.log.2").exists()
    found = read_earlier_lines(tmp_path / "logs/a.log")
    numbers = [int(text.split()[0]) for _, text in found]
    assert numbers == list(range(numbers[0], 8))
    assert {at for at, _ in found} == {NOW}
    # A missing file in between does not hide the others.
    (tmp_path / "logs/a.log.1").unlink()
    left = [int(text.split()[0]) for _, text in read_earlier_lines(tmp_path / "logs/a.log")]
    assert left[0] == numbers[0]
    assert left[-1] == 7
    (tmp_path / "logs/a.log").unlink()
    assert read_earlier_lines(tmp_path / "logs/a.log")


def test_damaged_lines_are_survived(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    data = b"no time yet\n2026-01-02T03:04:05.000000Z one\xff\n[3 lines dropped]\n\n"
    path.write_bytes(data + b"2026-99-02T03:04:05.000000Z odd\n" + b"\0" * 50 + b"\nend")
    found = read_earlier_lines(path)
    assert {at for at, _ in found} == {NOW}
    assert [text.strip("\0") for _, text in found] == [
        "one\ufffd",
        "[3 lines dropped]",
        "",
        "2026-99-02T03:04:05.000000Z odd",
        "",
        "end",
    ]


def test_so_much_is_read_and_no_more(tmp_path: Path) -> None:
    line = f"{NOW:%Y-%m-%dT%H:%M:%S.%f}Z ".encode() + b"x" * 1000 + b"\n"
    now = tmp_path.stat().st_mtime
    for number in range(12):
        path = tmp_path / f"{number}.log"
        path.write_bytes(line * 1_200)
        os.utime(path, (now - number, now - number))
    found = read_earlier_logs(tmp_path)
    # The newest lines.
    assert sorted(found, key=lambda name: int(name[:-4]))[:4] == [f"{n}.log" for n in range(4)]
    assert "9.log" not in found
    assert max(map(len, found.values())) == RESTORED_BYTES // len(line)
    huge = tmp_path / "0.log"
    huge.write_bytes(line + b"y" * (2 * RESTORED_BYTES))
    assert read_earlier_lines(huge) == []


def test_files_that_are_no_logs_of_ours_are_left_out(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.log")
    (tmp_path / "folder.log").mkdir()
    (tmp_path / "empty.log").touch()
    (tmp_path / "service-output.log").write_text("12:00:00 W said\nlistening on\n")
    (tmp_path / "note.txt").write_text("2026-01-02T03:04:05.000000Z x\n")
    (tmp_path / "m.log").write_text("2026-01-02T04:04:05.000000Z x\n")
    assert read_earlier_logs(tmp_path) == {"m.log": [(NOW + timedelta(hours=1), "x")]}
    assert read_earlier_logs(tmp_path / "missing") == {}
