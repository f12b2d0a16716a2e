"""Carry work to its end although whoever waits for it is cancelled, or end it from elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
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


@asynccontextmanager
async def until_called(calls: set[Callable[[], None]]) -> AsyncIterator[None]:
    """End the block with ``TimeoutError`` as soon as the call that it adds to ``calls`` is made.

    The call may be made again. It is removed at the end of the block.
    """
    async with asyncio.timeout(None) as limit:

        def end() -> None:
            if not limit.expired():
                limit.reschedule(asyncio.get_running_loop().time())

        calls.add(end)
        try:
            yield
        finally:
            calls.discard(end)
