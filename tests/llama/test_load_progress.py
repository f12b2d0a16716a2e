"""The bytes that a process has read: from files in the kernel's format, and of a real process."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from cyber_inference_tui.llama.load_progress import BytesRead, bytes_read, follow_load
from tests.waiting import LIMIT
from tests.without_linux import run_without_linux

MIB = 1 << 20


def show(
    proc: Path, pid: int, *, rchar: int = 0, read: int = 0, mapped: int = 0, children: str = ""
) -> None:
    """Write a process's files like the kernel."""
    folder = proc / str(pid)
    (folder / "task" / str(pid)).mkdir(parents=True, exist_ok=True)
    (folder / "io").write_text(f"rchar: {rchar}\nwchar: 9999999999\nread_bytes: {read}\n")
    (folder / "status").write_text(
        f"Name:\tserver: x\nPid:\t{pid}\nRssAnon:\t 99999 kB\nRssFile:\t{mapped // 1024:8} kB\n"
    )
    (folder / "task" / str(pid) / "children").write_text(children)


def test_three_accounts_are_read(tmp_path: Path) -> None:
    show(tmp_path, 7, rchar=5 * MIB, read=2 * MIB, mapped=MIB)
    assert bytes_read(7, tmp_path) == BytesRead(5 * MIB, 2 * MIB, MIB)


def test_descendants_count_too_each_once(tmp_path: Path) -> None:
    show(tmp_path, 7, rchar=MIB, children="8 9 ")
    show(tmp_path, 8, rchar=2 * MIB, children="10 7")
    show(tmp_path, 10, mapped=4 * MIB)
    # 9 has just ended.
    assert bytes_read(7, tmp_path) == BytesRead(3 * MIB, 0, 4 * MIB)


def test_a_machine_without_counts(tmp_path: Path) -> None:
    assert bytes_read(7, tmp_path) is None
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "io").write_bytes(b"\xff\x00 nonsense\nrchar: many\n: 3\n")
    assert bytes_read(7, tmp_path) is None


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_real_process_is_seen_reading(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(bytes(8 * MIB))
    script = "import sys; open(sys.argv[1], 'rb').read(); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", script, str(tmp_path / "model")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        read = bytes_read(process.pid)
        process.communicate()
    assert read is not None
    assert 8 * MIB < read.by_calls < 100 * MIB
    assert read.mapped > 0


def test_without_linux_the_memory_of_a_process_and_its_children_counts() -> None:
    script = "import sys; held = b'x' * int(sys.argv[1]); print(flush=True); sys.stdin.read()"
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', *sys.argv[1:]])"
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", child, script, str(64 * MIB)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        output = run_without_linux(
            "from cyber_inference_tui.llama.load_progress import bytes_read\n"
            "print(*bytes_read(int(sys.argv[1])), bytes_read(2**22 - 3))",
            str(process.pid),
        )
        process.communicate()
    by_calls, from_disk, mapped, gone = output.split()
    assert (by_calls, from_disk, gone) == ("0", "0", "None")
    assert 64 * MIB < int(mapped) < 200 * MIB


class Follower:
    """Follows a process whose progress the tests control."""

    def __init__(self, proc: Path) -> None:
        self.proc = proc
        self.shares: list[float | None] = []
        self.moved = asyncio.Event()

    def move(self, share: float | None) -> None:
        self.shares.append(share)
        self.moved.set()

    async def next(self, *, rchar: int = 0, mapped: int = 0) -> float | None:
        """Return the share that is reported after this progress."""
        self.moved.clear()
        show(self.proc, 7, rchar=rchar, mapped=mapped)
        async with asyncio.timeout(LIMIT):
            await self.moved.wait()
        return self.shares[-1]


async def test_the_share_rises_with_the_bytes_read_and_never_reaches_the_end(
    tmp_path: Path,
) -> None:
    follower = Follower(tmp_path)
    show(tmp_path, 7, rchar=5)
    task = asyncio.ensure_future(
        follow_load(7, 100 * MIB, follower.move, proc=tmp_path, interval=0.001)
    )
    assert await follower.next(rchar=20 * MIB) == pytest.approx(0.2)
    # Another count that is still lower is a sign of life, but does not reduce the share.
    assert await follower.next(rchar=20 * MIB, mapped=10 * MIB) == pytest.approx(0.2)
    # Less than before, and a few bytes more, are no progress.
    show(tmp_path, 7, rchar=MIB)
    show(tmp_path, 7, rchar=20 * MIB + 1000)
    assert await follower.next(mapped=50 * MIB) == pytest.approx(0.5)
    assert await follower.next(rchar=400 * MIB) == pytest.approx(0.99)
    assert len(follower.shares) == 4
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_without_a_size_there_are_only_signs_of_life(tmp_path: Path) -> None:
    follower = Follower(tmp_path)
    show(tmp_path, 7)
    task = asyncio.ensure_future(follow_load(7, None, follower.move, proc=tmp_path, interval=0.001))
    assert await follower.next(rchar=20 * MIB) is None
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_machine_without_counts_is_not_asked_again(tmp_path: Path) -> None:
    async with asyncio.timeout(LIMIT):
        await follow_load(7, 1, lambda _: None, proc=tmp_path)
