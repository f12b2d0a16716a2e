"""The watch for servers that answer the health check, but do not work."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from cyber_inference_tui.llama.http_get import ServerAddress
from cyber_inference_tui.llama.standstill import (
    Look,
    StandstillLimits,
    is_free,
    look_at,
    stood_still,
    watch_standstill,
)
from tests.llama.children import HOST
from tests.waiting import LIMIT, until

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
    """Say whether the server is free as prepared, then that it is not."""
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
    # The first look has nothing before it; it is asked at the last ones only.
    assert (looks, asked) == (1 + 3 + 2, [1.0, 1.0])


@pytest.mark.parametrize("answers", [(True,), (False, True)])
async def test_a_server_that_is_free_does_not_stand_still(
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


@pytest.mark.parametrize(
    ("answer", "free"),
    [
        (b'HTTP/1.1 200 OK\r\n\r\n[{"id":0,"is_processing":false}]', True),
        (b'HTTP/1.1 200 OK\r\n\r\n[{"id":0,"is_processing":true}]', False),
        (b'HTTP/1.1 501 Not Implemented\r\n\r\n{"error":{}}', True),
        (None, False),
    ],
)
async def test_a_server_is_free_if_it_says_so(answer: bytes | None, free: bool) -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        asked = await reader.readuntil(b"\r\n\r\n")
        if answer is not None:
            writer.write(answer)
        elif b"/slots" in asked:
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n[]")
        else:
            await reader.read()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        connections -= 1

    async with await asyncio.start_server(serve, HOST, 0) as server:
        port = server.sockets[0].getsockname()[1]
        timeout = 0.05 if answer is None else LIMIT
        assert await is_free(ServerAddress(HOST, port, "key"), timeout) is free
        await until(lambda: not connections)


async def test_a_port_without_a_listener_is_for_the_check_of_its_health() -> None:
    with closing(socket.create_server((HOST, 0))) as listener:
        port = listener.getsockname()[1]
    assert await is_free(ServerAddress(HOST, port, "key"), LIMIT)
