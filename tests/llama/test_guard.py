"""The guard: watched groups end with the owner, however it ends; no other process does."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from cyber_inference_tui.descriptors import LIMITS_AT_START
from cyber_inference_tui.kernel import PROC
from cyber_inference_tui.llama.guard import ProcessGuard, find_starter, start_child
from tests.llama.children import wait_gone
from tests.waiting import eventually, is_alive, until


@pytest.fixture
def sleepers() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Start processes that lead their own groups."""
    started = [subprocess.Popen(["sleep", "1000"], start_new_session=True) for _ in range(3)]
    yield started
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
async def guard() -> AsyncIterator[ProcessGuard]:
    made = ProcessGuard()
    await made.start()
    yield made
    await made.stop()


async def test_stopping_it_kills_only_watched_groups(
    guard: ProcessGuard, sleepers: list[subprocess.Popen[bytes]]
) -> None:
    watched, removed, stranger = sleepers
    guard.add(watched.pid)
    guard.add(removed.pid)
    guard.remove(removed.pid)
    guard.remove(stranger.pid)
    await guard.stop()
    assert watched.wait(60) == -9
    assert removed.poll() is stranger.poll() is None


async def test_a_group_removed_after_others_came_and_went_stays_removed(
    guard: ProcessGuard, sleepers: list[subprocess.Popen[bytes]]
) -> None:
    first, second, third = (process.pid for process in sleepers)
    guard.add(first)
    guard.remove(third)
    guard.add(second)
    guard.remove(first)
    guard.remove(first)
    guard.remove(second)
    guard.add(third)
    await guard.stop()
    assert sleepers[2].wait(60) == -9
    assert [process.poll() for process in sleepers[:2]] == [None, None]


async def test_a_guard_that_was_killed_harms_nobody(guard: ProcessGuard) -> None:
    assert guard._process is not None
    guard._process.kill()
    await guard._process.wait()
    for number in range(20):
        guard.add(2**22 + number)
        await asyncio.sleep(0)


async def test_a_guard_that_was_killed_is_replaced(
    sleepers: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = ProcessGuard()
    await made.start()
    first = made._process
    assert first is not None
    made.add(sleepers[0].pid)
    start, failures = asyncio.create_subprocess_exec, iter(range(1))

    async def start_at_second_try(*args: Any, **options: Any) -> asyncio.subprocess.Process:
        for _ in failures:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return await start(*args, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start_at_second_try)
    first.kill()
    second = await until(lambda: made._process if made._process is not first else None)
    assert second.pid != first.pid
    await made.stop()
    assert sleepers[0].wait(60) == -9
    assert next(failures, None) is None


async def test_without_a_start_it_does_nothing() -> None:
    guard = ProcessGuard()
    guard.add(2**22)
    guard.remove(2**22)
    await guard.stop()


OWNER = """
import asyncio, subprocess, sys
from cyber_inference_tui.descriptors import LIMITS_AT_START
from cyber_inference_tui.kernel import PROC
from cyber_inference_tui.llama.guard import ProcessGuard, find_starter, start_child

async def main():
    guard = ProcessGuard()
    await guard.start()
    child = subprocess.Popen(["sleep", "1000"], start_new_session=True, stdout=subprocess.DEVNULL)
    guard.add(child.pid)
    await asyncio.sleep(0)
    print(child.pid, guard._process.pid, flush=True)
    sys.stdin.read()
    END

asyncio.run(main())
"""


@pytest.mark.parametrize("end", ["import os; os.kill(os.getpid(), 9)", "import os; os._exit(1)"])
def test_however_its_owner_ends_the_watched_end_and_so_does_the_guard(end: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER.replace("END", end)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as owner:
        assert owner.stdout is not None
        child, guard = map(int, owner.stdout.readline().split())
        assert is_alive(child)
        owner.communicate()
    assert wait_gone(child)
    assert wait_gone(guard)


def write(path: Path, text: str, *, mode: int) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


STARTER = find_starter(os.defpath)
STARTERS = pytest.mark.parametrize(
    "starter",
    [
        (),
        pytest.param(
            STARTER, marks=pytest.mark.skipif(not STARTER, reason="setpriv is too old or missing")
        ),
    ],
    ids=["copied", "setpriv"],
)
PARENT = """
import sys
from cyber_inference_tui.llama.guard import start_child
child = start_child(["/bin/sleep", "1000"], starter=sys.argv[1:])
print(child.pid, flush=True)
sys.stdin.read()
"""


@STARTERS
def test_a_child_dies_with_its_parent(starter: tuple[str, ...]) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, *starter],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        # After this the request to be killed has been made.
        eventually(lambda: (PROC / str(child) / "comm").read_text() == "sleep\n")
        parent.kill()
    assert wait_gone(child)


@STARTERS
def test_a_child_has_the_first_limit_of_files_and_is_first_to_die_without_memory(
    starter: tuple[str, ...],
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512) - 1, hard))
    try:
        with start_child(
            ["/bin/sh", "-c", "read word; ulimit -n; cat /proc/$$/oom_score_adj"],
            starter=starter,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as child:
            assert os.getsid(child.pid) == child.pid
            output, _ = child.communicate(b"go\n")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    limit, score = map(int, output.split())
    assert limit == LIMITS_AT_START[0]
    assert score == min(1000, int((PROC / "self/oom_score_adj").read_text()) + 200)


@STARTERS
def test_why_a_program_does_not_run_is_always_known(
    starter: tuple[str, ...], tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError):
        start_child([str(tmp_path / "none")], starter=starter)
    plain = write(tmp_path / "plain", "", mode=0o644)
    with pytest.raises(PermissionError):
        start_child([str(plain)], starter=starter)


def test_other_programs_of_that_name_are_not_used(tmp_path: Path) -> None:
    assert find_starter(str(tmp_path)) == ()
    # busybox has a setpriv without that option.
    write(tmp_path / "setpriv", "#!/bin/sh\nexit 1\n", mode=0o755)
    assert find_starter(str(tmp_path)) == ()
    write(tmp_path / "setpriv", "not a program", mode=0o755)
    assert find_starter(str(tmp_path)) == ()
