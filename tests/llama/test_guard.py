"""The guard: watched groups end with the owner, however it ends; no other process does."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from cyber_inference_tui.llama.guard import ProcessGuard
from tests.llama.children import wait_gone
from tests.waiting import is_alive


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


async def test_without_a_start_it_does_nothing() -> None:
    guard = ProcessGuard()
    guard.add(2**22)
    guard.remove(2**22)
    await guard.stop()


OWNER = """
import asyncio, subprocess, sys
from cyber_inference_tui.llama.guard import ProcessGuard

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
