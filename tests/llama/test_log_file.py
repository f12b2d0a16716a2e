"""Log files on the disk: names that stay in their directory, rotation, and disks that fail."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.llama.log import LogBatch
from cyber_inference_tui.llama.log_file import LogWriter, log_file_name

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


def test_long_ids_that_differ_late_have_different_log_files() -> None:
    assert log_file_name("m" * 500 + "1") != log_file_name("m" * 500 + "2")
    # Nor can another id be made that has the short name of a long one.
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
