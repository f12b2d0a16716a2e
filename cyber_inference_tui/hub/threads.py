"""Threads for questions that block and cannot be stopped: few, and waited for no longer than told.

Unlike those of ``concurrent.futures`` nobody waits for them at the end of the program: a name
server that does not answer holds a thread for half a minute.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

from cyber_inference_tui.errors import HubUnreachableError

T = TypeVar("T")


class Threads:
    """At most ``most`` threads at once, also of those that nobody waits for any more."""

    def __init__(self, most: int) -> None:
        self._free = threading.BoundedSemaphore(most)

    async def run(self, work: Callable[[], T], *, limit: float) -> T:
        """What ``work`` gives or raises. Raises ``TimeoutError`` after ``limit`` seconds, and
        ``HubUnreachableError`` at once where all threads are still busy with earlier questions."""
        if not self._free.acquire(blocking=False):
            raise HubUnreachableError(
                "Earlier questions to the hub are still without an answer.",
                hint="Try again in a moment.",
            )
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def tell(result: T | None, error: BaseException | None) -> None:
            if answer.done():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(result)  # type: ignore[arg-type]  # one of both is there

        def carry_out() -> None:
            result: T | None = None
            problem: BaseException | None = None
            try:
                result = work()
            except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
                problem = error
            finally:
                self._free.release()
            try:
                loop.call_soon_threadsafe(tell, result, problem)
            except RuntimeError:
                # The loop is closed: nobody waits any more.
                return

        thread = threading.Thread(target=carry_out, name="hub", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            self._free.release()
            raise HubUnreachableError("This machine has no thread left for the hub.") from error
        async with asyncio.timeout(limit):
            return await answer
