"""Files of the kernel: kept open, read repeatedly, and never trusted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cyber_inference_tui.monitor.kernel_files import (
    READ_LIMIT,
    KeptFile,
    entries,
    integer,
    line,
    read_bytes,
    read_line,
)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - pathlib counts its own


def test_a_kept_file_follows_its_content(tmp_path: Path) -> None:
    file = tmp_path / "load"
    kept = KeptFile(file)
    assert kept.read() is None
    file.write_text("630\n")
    assert kept.number() == 630
    before = open_files()
    file.write_text("5\n")
    assert kept.number() == 5
    assert open_files() == before
    kept.close()
    assert open_files() == before - 1
    assert kept.number() == 5


def test_a_kept_file_that_is_dropped_is_closed(tmp_path: Path) -> None:
    (tmp_path / "load").write_text("1")
    before = open_files()
    kept = KeptFile(tmp_path / "load")
    kept.read()
    assert open_files() == before + 1
    del kept
    assert open_files() == before


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "none", Path("a\0b")):
        assert read_bytes(path) is None
    assert entries(tmp_path / "pipe") == ()


def test_reading_has_a_limit(tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(b"x" * (READ_LIMIT + 100_000))
    content = read_bytes(tmp_path / "long")
    assert content is not None
    assert READ_LIMIT <= len(content) < READ_LIMIT + 100_000


@pytest.mark.parametrize("size", [0, 1, 3071, 3072, 65_536, 131_072, 200_000])
def test_files_are_read_whole(tmp_path: Path, size: int) -> None:
    content = bytes(i % 251 for i in range(size))
    (tmp_path / "file").write_bytes(content)
    assert read_bytes(tmp_path / "file") == content


def test_a_file_of_the_kernel_that_comes_in_pieces() -> None:
    # Longer than a page, returned a page at a time.
    name = Path("/proc/self/smaps")
    if not name.exists():
        pytest.skip("this kernel has no smaps")
    content = read_bytes(name)
    assert content is not None
    assert len(content) > 8192


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b"42\n", 42),
        (b" -7 ", -7),
        (b"", None),
        (None, None),
        (b"1_000", None),
        (b"+5", None),
        (b"0x10", None),
        (b"4.2", None),
        (b"4 2", None),
        (b"9" * 20, None),
        ("٣".encode(), None),
    ],
)
def test_integers(content: bytes | None, value: int | None) -> None:
    assert integer(content) == value


def test_lines(tmp_path: Path) -> None:
    assert line(b"NVIDIA \x1b[31mOrin\0rest") == "NVIDIA Orin"
    assert line(b"one\ntwo") == "one"
    assert line(b"\0") is None
    assert line(b"  \n") is None
    (tmp_path / "name").write_bytes(b"\xff" * 1000)
    assert len(read_line(tmp_path / "name") or "") < 250


def test_entries_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name in ("card10", "card2", "1-0040", "card", "renderD128"):
        (tmp_path / name).touch()
    assert entries(tmp_path) == ("1-0040", "card", "card2", "card10", "renderD128")
