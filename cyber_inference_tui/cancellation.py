"""Carry work to its end although whoever waits for it is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def until_done(future: asyncio.Future[T]) -> None:
    """Wait until ``future`` is done, however often the caller is cancelled.

    Its result or error is left to the caller.
    """
    cancelled = False
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            cancelled = True
    if not future.cancelled():
        future.exception()
    if cancelled:
        raise asyncio.CancelledError


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Return the result of ``work``; a cancellation takes effect after its end."""
    task = asyncio.ensure_future(work)
    await until_done(task)
    return task.result()
