"""Log files on the disk: names that stay in their directory, rotation, and disks that fail."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.llama import log_files
from cyber_inference_tui.llama.log import Log
from cyber_inference_tui.llama.log_files import (
    LogFiles,
    LogLimits,
    file_stem,
    find_files,
    id_of_stem,
    open_log,
    open_logs,
    rename_former_files,
)
from cyber_inference_tui.llama.log_level import ERROR
from cyber_inference_tui.llama.log_reading import LineFilter, Span, encode_lines, read_lines
from cyber_inference_tui.llama.log_writer import LogWriter
from cyber_inference_tui.records import LogLevel, NumberedLine
from tests.waiting import LIMIT

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
    name = f"{file_stem(model_id)}.000000000.log"
    directory = Path("/data/logs")
    assert (directory / name).parent == directory
    assert Path(directory / name).name == name
    assert "/" not in name
    assert "\x00" not in name
    assert not name.startswith(".") or not model_id
    assert len(name.encode()) <= 240
    assert file_stem(model_id) != "service"


@given(hostile, hostile)
def test_different_ids_have_different_log_files(one: str, other: str) -> None:
    assert (file_stem(one) == file_stem(other)) == (one == other)


@given(hostile)
def test_a_name_gives_its_id_or_nothing(model_id: str) -> None:
    assert id_of_stem(file_stem(model_id)) in {model_id, None}


def test_names_that_contain_their_id() -> None:
    for model_id in ("m", "sub/Name Q4_K_M", ".x", "Straße"):
        assert id_of_stem(file_stem(model_id)) == model_id
    assert id_of_stem(file_stem("m" * 500)) is None
    assert id_of_stem("service") is None


def test_long_ids_that_differ_late_have_different_log_files() -> None:
    assert file_stem("m" * 500 + "1") != file_stem("m" * 500 + "2")
    # No other id has the shortened name of a long id.
    short = file_stem("m" * 500)
    assert file_stem(short) != short


def test_plain_ids_are_legible() -> None:
    assert file_stem("Qwen3-8B Q4_K_M") == "Qwen3-8B Q4_K_M"


# Files


def a_log(
    folder: Path, *, max_size: int = 16 << 20, keep: int = 3, kept_bytes: int = 65_536
) -> Log:
    files = open_log(folder, "m")
    files.limits = lambda: LogLimits(max_size, keep)
    return Log(now=lambda: NOW, files=files, kept_bytes=kept_bytes)


def last_texts(spans: Sequence[Span], count: int) -> list[str]:
    return [line.text for line in read_lines(spans, limit=count)[0]]


def all_lines(log: Log) -> list[NumberedLine]:
    return read_lines(log.snapshot(), limit=10**6)[0]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_lines_are_in_the_file_with_their_time(tmp_path: Path) -> None:
    log = a_log(tmp_path)
    log.add(["one", "zwei ü"])
    log.add(["I fine", "  and more"], LogLevel.ERROR)
    log.add(["W known"], LogLevel.WARNING)
    log.save()
    assert (tmp_path / "m.000000000.log").read_text(encoding="utf-8").splitlines() == [
        "2026-01-02T03:04:05.000000Z one",
        "2026-01-02T03:04:05.000000Z zwei ü",
        "2026-01-02T03:04:05.000000Z/E I fine",
        "2026-01-02T03:04:05.000000Z/E   and more",
        "2026-01-02T03:04:05.000000Z W known",
    ]
    assert [(line.text, line.level.value) for line in all_lines(a_log(tmp_path))] == [
        ("one", "info"),
        ("zwei ü", "info"),
        ("I fine", "error"),
        ("  and more", "error"),
        ("W known", "warning"),
    ]


def test_a_full_file_is_followed_by_another_and_only_so_many_are_kept(tmp_path: Path) -> None:
    log = a_log(tmp_path, max_size=300, kept_bytes=1)
    for number in range(40):
        log.add([f"{number} " + "x" * 60])
        log.save()
    assert names(tmp_path) == ["m.000000033.log", "m.000000036.log", "m.000000039.log"]
    assert all(path.stat().st_size <= 300 for path in tmp_path.iterdir())
    assert log.first == 33
    assert [line.number for line in all_lines(a_log(tmp_path))] == list(range(33, 40))
    # Smaller limits apply to the next file.
    log = a_log(tmp_path, max_size=1, keep=1)
    log.add(["next"])
    log.save()
    assert names(tmp_path) == ["m.000000040.log"]


def test_a_line_that_was_cut_off_by_a_crash_stays_a_line(tmp_path: Path) -> None:
    log = a_log(tmp_path)
    log.add(["one", "two"])
    log.save()
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-2])
    for text in ("three", "four"):
        log = a_log(tmp_path)
        log.add([text])
        log.save()
    expected = [(0, "one"), (1, "tw"), (2, "three"), (3, "four")]
    assert [(line.number, line.text) for line in all_lines(log)] == expected
    assert [(line.number, line.text) for line in all_lines(a_log(tmp_path))] == expected
    # In a file that is full.
    path.write_bytes(path.read_bytes()[:-2])
    log = a_log(tmp_path, max_size=10)
    log.add(["five"])
    log.save()
    assert [line.text for line in all_lines(a_log(tmp_path))][-2:] == ["fou", "five"]


def test_damaged_files_are_read(tmp_path: Path) -> None:
    data = b"no time yet\n2026-01-02T03:04:05.000000Z one\xff\n[3 lines dropped]\n\n"
    data += b"2026-99-02T03:04:05.000000Z odd\x1b[31m\n" + b"\0" * 50
    data += b"\n2026-01-02T03:04:05.000000Z/\nend"
    (tmp_path / "m.000000005.log").write_bytes(data)
    (tmp_path / "m.000000002.log").touch()
    lines = all_lines(a_log(tmp_path))
    assert [(line.number, line.text) for line in lines] == [
        (5, "no time yet"),
        (6, "one\ufffd"),
        (7, "[3 lines dropped]"),
        (8, ""),
        (9, "odd"),
        (10, ""),
        (11, ""),
        (12, "end"),
    ]
    assert {line.at for line in lines[1:]} == {NOW}


@pytest.mark.parametrize("change", ["delete", "empty", "replace"])
def test_a_file_that_somebody_changes_harms_no_later_line(tmp_path: Path, change: str) -> None:
    log = a_log(tmp_path)
    log.add(["one", "two"])
    log.save()
    (path,) = tmp_path.iterdir()
    if change == "delete":
        path.unlink()
    else:
        path.write_bytes(b"" if change == "empty" else b"x" * 1_000 + b"\n")
    log.add(["three"])
    log.save()
    log.add(["four"])
    log.save()
    assert last_texts(log.snapshot(), 2) == ["three", "four"]
    assert last_texts(log.files.spans if log.files else (), 2) == ["three", "four"]


def test_files_that_are_no_logs_of_ours_are_left_out(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.000000000.log")
    (tmp_path / "folder.000000000.log").mkdir()
    (tmp_path / "empty.000000000.log").touch()
    (tmp_path / "service-output.log").write_text("12:00:00 W said\nlistening on\n")
    (tmp_path / "a.00.log").touch()
    (tmp_path / "a.000000007.log").write_text("2026-01-02T04:04:05.000000Z x\n")
    logs = open_logs(tmp_path)
    assert {name: (len(files.spans), files.end) for name, files in logs.items()} == {
        "a": (1, 8),
        "empty": (0, 0),
    }
    assert find_files(tmp_path / "missing") == {}


def test_lines_of_large_logs_of_earlier_runs_are_not_counted(tmp_path: Path) -> None:
    data = encode_lines(b"0123456789" * 10 + b"\n", NOW)
    for name, age in (("new", 1), ("old", 2)):
        path = tmp_path / f"{name}.000000000.log"
        path.write_bytes(data * 1_000)
        os.utime(path, (1e9 - age, 1e9 - age))
    size = path.stat().st_size
    logs = open_logs(tmp_path, size + 1)
    assert logs["new"].end == 1_000
    log = Log(now=lambda: NOW, files=logs["old"])
    assert log.end >= 1_000
    log.add(["more"])
    log.save()
    lines = all_lines(log)
    assert [line.number for line in lines[:1_000]] == list(range(1_000))
    assert (len(lines), lines[-1].text) == (1_001, "more")
    # The file of the earlier run is complete now.
    assert open_logs(tmp_path)["old"].end == log.end
    assert len(all_lines(Log(now=lambda: NOW, files=open_log(tmp_path, "old")))) == 1_001


def test_files_of_earlier_versions_are_taken_over(tmp_path: Path) -> None:
    line = "2026-01-02T03:04:05.000000Z"
    (tmp_path / "m.log").write_text(f"{line} one\n{line} --- starting: x\n")
    (tmp_path / "m.log.1").write_text(f"{line} before\n")
    (tmp_path / "n.log").write_text(f"{line} former\n")
    (tmp_path / "n.000000000.log").write_text(f"{line} present\n")
    (tmp_path / "service-output.log").write_text("12:00:00 W said\n")
    (tmp_path / "service-output.log.1").write_text("")
    (tmp_path / "folder.log").mkdir()
    for _ in range(2):
        rename_former_files(tmp_path)
        assert names(tmp_path) == [
            "folder.log",
            "m.000000000.log",
            "n.000000000.log",
            "service-output.log",
            "service-output.log.1",
        ]
    files = open_log(tmp_path, "m")
    assert (files.end, files.runs, files.last_at) == (2, [(1, NOW)], NOW)
    rename_former_files(tmp_path / "missing")


# Disks that fail


class Disk:
    """Stands in for ``os.write``: a disk that takes ``room`` bytes."""

    def __init__(self) -> None:
        self.room = 0
        self._write = os.write

    def write(self, file: int, data: memoryview) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self._write(file, data[: self.room])
        self.room -= written
        return written


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    made = Disk()
    monkeypatch.setattr(log_files, "os", SimpleNamespace(**{**vars(os), "write": made.write}))
    return made


def test_a_disk_that_becomes_full_takes_whole_lines_or_none(tmp_path: Path, disk: Disk) -> None:
    log = a_log(tmp_path)
    log.add(["one"])
    for room in (0, 10):
        disk.room = room
        with pytest.raises(OSError, match="No space left"):
            log.save()
        assert names(tmp_path) == []
    disk.room = 50
    log.save()
    (path,) = tmp_path.iterdir()
    before = path.read_bytes()
    log.add(["two", "three"])
    with pytest.raises(OSError, match="No space left"):
        log.save()
    assert path.read_bytes() == before
    assert last_texts(log.snapshot(), 9) == ["one", "two", "three"]
    disk.room = 1_000
    log.save()
    assert last_texts(a_log(tmp_path).snapshot(), 9) == ["one", "two", "three"]


def test_lost_lines_are_counted_once_however_often_the_disk_fails(
    tmp_path: Path, disk: Disk
) -> None:
    log = Log(now=lambda: NOW, files=open_log(tmp_path, "m"), kept_bytes=300, most_bytes=600)
    for number in range(100):
        log.add([f"E failed {number} {'x' * 100}"])
        # Room for a notice, but not for a line.
        disk.room = 100
        with pytest.raises(OSError, match="No space left"):
            log.save()
    disk.room = 10_000
    log.save()
    first, *others = all_lines(a_log(tmp_path))
    assert first.text == f"--- {first.number + 1} lines are missing: the disk was full or too slow"
    assert [line.number for line in others] == list(range(first.number + 1, 100))
    errors, _ = read_lines(log.snapshot(), limit=100, wanted=LineFilter(rank=ERROR))
    assert [line.number for line in errors] == [line.number for line in others]


def test_lines_are_written_once_if_the_oldest_file_cannot_be_deleted(tmp_path: Path) -> None:
    log = a_log(tmp_path, max_size=1, keep=1)
    log.add(["one"])
    log.save()
    (path,) = tmp_path.iterdir()
    path.unlink()
    path.mkdir()
    for text in ("two", "three"):
        log.add([text])
        log.save()
        log.save()
    assert names(tmp_path) == ["m.000000000.log", "m.000000002.log"]
    assert last_texts(a_log(tmp_path).snapshot(), 9) == ["three"]


def test_a_disk_that_hangs_stops_neither_the_log_nor_its_readers_nor_the_end(
    tmp_path: Path,
) -> None:
    writes, goes_on = threading.Event(), threading.Event()

    class Hanging(LogFiles):
        def append(self, lines: Span) -> None:
            writes.set()
            assert goes_on.wait(LIMIT)
            super().append(lines)

    log = Log(now=lambda: NOW, files=Hanging(tmp_path, "m"), kept_bytes=1_000, most_bytes=10_000)
    writer = LogWriter(tmp_path)
    writer.start()
    log.add(["first"])
    writer.wake(log)
    assert writes.wait(LIMIT)
    for number in range(1_000):
        log.add([f"line {number}"])
        writer.wake(log)
    assert last_texts(log.snapshot(), 2) == ["line 998", "line 999"]
    assert 9_000 < sum(len(span.data) for span in log.memory()) < 11_000
    writer.stop(timeout=0.01)
    assert names(tmp_path) == []
    goes_on.set()
    writer.stop(LIMIT)
    first, notice, *others = all_lines(log)
    assert (first.text, others[-1].text) == ("first", "line 999")
    lost = notice.number
    assert notice.text == f"--- {lost} lines are missing: the disk was full or too slow"
    assert [line.number for line in others] == list(range(lost + 1, 1_001))


# The thread that writes


def test_a_log_is_written_when_the_writer_is_woken(tmp_path: Path) -> None:
    log = Log(now=lambda: NOW, files=LogFiles(tmp_path / "logs", "m"))
    writer = LogWriter(tmp_path / "logs")
    writer.start()
    for number in range(100):
        log.add([f"line {number}"])
        writer.wake(log)
    writer.stop()
    assert (tmp_path / "logs").stat().st_mode & 0o077 == 0
    assert [line.text for line in all_lines(a_log(tmp_path / "logs"))] == [
        f"line {number}" for number in range(100)
    ]


def test_a_disk_that_fails_is_reported_once_and_gets_the_lines_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "logs"
    log = Log(now=lambda: NOW, files=LogFiles(folder, "m"))
    writer = LogWriter(folder)
    writer.start()
    folder.rmdir()
    for number in range(5):
        log.add([f"line {number}"])
        writer.wake(log)
    writer.stop()
    assert [record.getMessage() for record in caplog.records] == [
        f"{folder / 'm.000000000.log'} cannot be written: No such file or directory. Check who may "
        "write there. Its newest lines are only in memory."
    ]
    folder.mkdir()
    log.save()
    assert len(all_lines(a_log(folder))) == 5


def test_stopping_a_writer_that_was_never_started_is_nothing(tmp_path: Path) -> None:
    LogWriter(tmp_path).stop()
