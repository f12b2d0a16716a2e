"""The files of a running service, on disks that refuse to take them."""

from __future__ import annotations

import errno
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cyber_inference_tui.errors import ConflictError, CyberError
from cyber_inference_tui.service.runtime import (
    RUNTIME_FILE,
    DataDirectoryLock,
    RuntimeRecord,
    data_directory_holder,
    read_runtime_file,
    write_runtime_file,
)


def record(pid: int = 1) -> RuntimeRecord:
    return RuntimeRecord(
        pid=pid, url="http://127.0.0.1:1", version="1", started_at=datetime(2026, 1, 1, tzinfo=UTC)
    )


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk: no new files, but existing files can be overwritten."""
    there = os.open

    def refuse(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT and not os.path.lexists(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return there(path, flags, mode)

    monkeypatch.setattr(os, "open", refuse)


@pytest.mark.usefixtures("full")
def test_a_full_disk_keeps_no_service_from_starting(tmp_path: Path) -> None:
    with DataDirectoryLock(tmp_path) as lock:
        assert lock.problem is not None
        assert f"{tmp_path / 'service.lock'} cannot be written: No space left" in lock.problem
        assert "Make room" in lock.problem


def test_a_lock_that_is_there_holds_on_a_full_disk(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    (tmp_path / "service.lock").write_text("1234567\n")
    request.getfixturevalue("full")
    with DataDirectoryLock(tmp_path) as lock:
        assert lock.problem is None
        assert data_directory_holder(tmp_path) == os.getpid()
        with pytest.raises(ConflictError, match=f"pid {os.getpid()}"):
            DataDirectoryLock(tmp_path).__enter__()
    assert data_directory_holder(tmp_path) is None


def test_a_directory_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CyberError, match="Cannot write to the data directory"):
        DataDirectoryLock(tmp_path / "file").__enter__()


def test_on_a_full_disk_the_runtime_file_of_a_crash_is_written_over(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    write_runtime_file(tmp_path, record(pid=1_234_567))
    request.getfixturevalue("full")
    write_runtime_file(tmp_path, record(pid=2))
    assert read_runtime_file(tmp_path) == record(pid=2)
    assert [path.name for path in tmp_path.iterdir()] == [RUNTIME_FILE]


@pytest.mark.usefixtures("full")
def test_a_runtime_file_without_room_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        write_runtime_file(tmp_path, record())
    assert list(tmp_path.iterdir()) == []


def test_a_runtime_file_that_is_a_fifo_says_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / RUNTIME_FILE)
    assert read_runtime_file(tmp_path) is None
    write_runtime_file(tmp_path, record())
    assert read_runtime_file(tmp_path) == record()
