"""Files are read without blocking and replaced whole; a full disk is explained in a sentence."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from cyber_inference_tui.files import (
    has_no_room,
    read_file,
    read_tail,
    replace_file,
    write_problem,
)


def test_a_file_is_read_up_to_its_bound(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    assert read_file(path, 4) == b"0123"
    assert read_file(path, 100) == b"0123456789"
    (tmp_path / "link").symlink_to(path)
    assert read_file(tmp_path / "link", 100) == b"0123456789"
    assert read_file(Path("/dev/null"), 100) == b""


def test_the_end_of_a_file_is_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one\ntwo\nthree")
    assert read_tail(path, 100) == b"one\ntwo\nthree"
    assert read_tail(path, 12) == b"two\nthree"
    assert read_tail(path, 6) == b"three"
    assert read_tail(path, 3) == b""


@pytest.mark.parametrize("read", [read_file, read_tail])
def test_what_is_no_file_is_said_and_not_waited_for(
    read: Callable[[Path, int], bytes], tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "a fifo")
    (tmp_path / "a device").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "a socket"))
        for kind in ("a fifo", "a device", "a socket"):
            with pytest.raises(OSError, match=f"it is {kind}, not a file"):
                read(tmp_path / kind, 10)
    with pytest.raises(IsADirectoryError, match="Is a directory"):
        read(tmp_path, 10)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "missing", 10)


def test_what_a_disk_refuses_has_a_way_out() -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert write_problem(Path("/d/f"), full) == (
        "/d/f cannot be written: No space left on device. "
        "Make room on that disk, for example with delete-model."
    )
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        assert has_no_room(OSError(number, "x"))
    denied = OSError(errno.EACCES, "Permission denied")
    assert not has_no_room(denied)
    assert write_problem(Path("/f"), denied).endswith(
        "Permission denied. Check who may write there."
    )


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o666])
def test_a_file_is_replaced_with_its_mode(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o640)
    replace_file(path, b"new", mode=mode, flush=True)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == mode
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_a_failed_replacement_keeps_the_old_file(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "old").touch()
    with pytest.raises(OSError, match="directory"):
        replace_file(folder, b"new")
    assert [one.name for one in tmp_path.iterdir()] == ["folder"]
    assert [one.name for one in folder.iterdir()] == ["old"]
