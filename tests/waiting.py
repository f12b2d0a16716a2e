"""Waiting for what a test needs: for the thing itself, with a limit that a loaded machine keeps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

import psutil

LIMIT = 60.0
"""Seconds; only a test that fails ever waits so long."""

_T = TypeVar("_T")


def eventually(
    look: Callable[[], _T | None],
    *,
    limit: float = LIMIT,
    interval: float = 0.01,
    what: str = "the awaited state",
) -> _T:
    """The first true value of ``look()``; fails after ``limit`` seconds."""
    deadline = time.monotonic() + limit
    while not (value := look()):
        assert time.monotonic() < deadline, f"{what} did not come within {limit:g} s"
        time.sleep(interval)
    return value


async def until(
    look: Callable[[], _T | None],
    *,
    limit: float = LIMIT,
    interval: float = 0.01,
    what: str = "the awaited state",
) -> _T:
    """``eventually``, while the event loop goes on."""
    deadline = time.monotonic() + limit
    while not (value := look()):
        assert time.monotonic() < deadline, f"{what} did not come within {limit:g} s"
        await asyncio.sleep(interval)
    return value


def is_alive(process: psutil.Process | int) -> bool:
    """Whether a process (or the one with this pid) still runs.

    A zombie does not: it has ended, and only its parent has yet to notice.
    """
    try:
        process = psutil.Process(process) if isinstance(process, int) else process
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
