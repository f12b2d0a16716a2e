"""The watch for servers that answer the health check, but do not work."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from cyber_inference_tui.llama.standstill import (
    Look,
    StandstillLimits,
    look_at,
    stood_still,
    watch_standstill,
)
from tests.waiting import LIMIT

TICKS = os.sysconf("SC_CLK_TCK")
STILL = Look(ticks=1000, faults=7, states=b"SSSS", waits_in=b"futex_do_wait")
LIMITS = StandstillLimits(interval=0.0, looks=3, timeout=1.0, strikes=2)


@pytest.mark.parametrize(
    ("changes", "still"),
    [
        ({}, True),
        ({"waits_in": b"futex_wait_queue_me"}, True),
        ({"ticks": 1000 + TICKS // 50}, True),  # half a percent of a core
        ({"ticks": 1000 + TICKS // 20}, False),
        ({"faults": 8}, False),
        ({"states": b"SSRS"}, False),
        ({"states": b"SDSS"}, False),
        ({"states": b"TTTT"}, False),
        ({"waits_in": b"poll_schedule_timeout.constprop.0"}, False),
        ({"waits_in": b"dma_fence_default_wait"}, False),
        ({"waits_in": b"0"}, False),
        ({"waits_in": b""}, False),
    ],
)
def test_only_a_process_that_does_nothing_stands_still(
    changes: dict[str, Any], still: bool
) -> None:
    assert stood_still(STILL, STILL._replace(**changes), 4.0) is still


def test_without_two_looks_nothing_is_known() -> None:
    assert not stood_still(None, STILL, 4.0)
    assert not stood_still(STILL, None, 4.0)


def test_a_look_sees_work() -> None:
    before = look_at(os.getpid())
    assert before is not None
    while time.process_time() < (before.ticks + 10) / TICKS:
        pass
    after = look_at(os.getpid())
    assert after is not None
    assert after.ticks >= before.ticks + 9
    # The main thread, which looks, runs.
    assert b"R" in after.states
    assert not stood_still(before, after, 0.1)


def test_a_process_that_is_gone_and_a_system_without_proc_show_nothing(tmp_path: Path) -> None:
    assert look_at(1 << 30) is None
    assert look_at(os.getpid(), tmp_path) is None


def answering(*answers: bool) -> tuple[Callable[[float], Awaitable[bool]], list[float]]:
    """Give prepared answers of ``/slots``, then none."""
    asked: list[float] = []

    async def answer(timeout: float) -> bool:
        asked.append(timeout)
        return len(asked) <= len(answers) and answers[len(asked) - 1]

    return answer, asked


async def test_a_standstill_is_one_of_the_process_and_of_its_main_thread() -> None:
    looks = 0

    def look() -> Look:
        nonlocal looks
        looks += 1
        return STILL

    answer, asked = answering()
    async with asyncio.timeout(LIMIT):
        await watch_standstill(look, answer, limits=LIMITS, busy=lambda: True)
    # The first look has nothing before it; the main thread is asked at the last ones only.
    assert (looks, asked) == (1 + 3 + 2, [1.0, 1.0])


@pytest.mark.parametrize("answers", [(True,), (False, True)])
async def test_an_answer_of_the_main_thread_begins_the_count_again(
    answers: tuple[bool, ...],
) -> None:
    answer, asked = answering(*answers)
    async with asyncio.timeout(LIMIT):
        await watch_standstill(lambda: STILL, answer, limits=LIMITS, busy=lambda: True)
    assert len(asked) == len(answers) + 2


async def test_work_begins_the_count_again_and_an_idle_server_is_not_looked_at() -> None:
    work = STILL._replace(ticks=2000)
    script = [STILL, STILL, STILL, work]
    looks: list[Look] = []
    asked_busy = 0

    def busy() -> bool:
        # Idle once, after the script; then it stands still.
        nonlocal asked_busy
        asked_busy += len(looks) == len(script)
        return asked_busy != 1

    def look() -> Look:
        looks.append(script[len(looks)] if len(looks) < len(script) else work)
        return looks[-1]

    answer, asked = answering()
    async with asyncio.timeout(LIMIT):
        await watch_standstill(look, answer, limits=LIMITS, busy=busy)
    assert len(asked) == 2
    assert len(looks) == len(script) + 1 + 3 + 2


async def test_a_thread_that_runs_for_a_moment_is_looked_at_again() -> None:
    looks = 0

    def look() -> Look:
        nonlocal looks
        looks += 1
        return STILL._replace(states=b"SSRS") if looks % 2 else STILL

    answer, asked = answering()
    async with asyncio.timeout(LIMIT):
        await watch_standstill(look, answer, limits=LIMITS, busy=lambda: True)
    assert len(asked) == 2
