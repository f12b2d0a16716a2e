"""Blocking calls on files whose storage may hang: a network mount without its server, a dying disk.

Such a call cannot be ended. It gets a daemon thread of its own: whoever waits gives up after a
time, no pool of threads fills up with such calls, and the program ends without them.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final, TypeVar

from cyber_inference_tui.errors import StorageError
from cyber_inference_tui.text import clean_line

T = TypeVar("T")

SILENT: Final = "it does not answer (look for its disk or network mount)"
"""What is wrong with a folder whose storage hangs."""
LIMIT: Final = 3.0
"""Seconds to wait for small questions: a status, a header."""
START_LIMIT: Final = 10.0
"""Seconds to wait for what a service cannot start without."""
_MOST: Final = 32


def begin(work: Callable[[], T]) -> Future[T]:
    """Run ``work`` in a daemon thread. Raises ``RuntimeError`` where there is no thread left."""
    future: Future[T] = Future()
    # From here on nobody can cancel it.
    future.set_running_or_notify_cancel()

    def carry_out() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=carry_out, name="storage", daemon=True).start()
    return future


class Storages:
    """Calls on folders, at most ``most`` at once on each, also of those that nobody waits for.

    While a call on a folder hangs, others on it fail at once.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._running: dict[Path, list[tuple[Future[Any], float]]] = {}
        """By folder, each with the time at which it counts as one that hangs."""

    def ask(self, folder: Path, work: Callable[[], T], limit: float = LIMIT) -> T:
        """What ``work`` gives or raises; it uses ``folder`` and blocks.

        Raises ``StorageError`` after ``limit`` seconds, and at once while an earlier call on this
        folder hangs or ``most`` of them are not done.
        """
        future = self._begin(folder, work, limit)
        concurrent.futures.wait((future,), limit)
        return self._result(folder, future)

    async def ask_async(self, folder: Path, work: Callable[[], T], limit: float = LIMIT) -> T:
        """As ``ask``, without blocking the event loop."""
        import asyncio  # noqa: PLC0415 - not for --help

        future = self._begin(folder, work, limit)
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def tell(_: Future[T]) -> None:
            # The loop may be closed: then nobody waits any more.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(done.set)

        future.add_done_callback(tell)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit):
                await done.wait()
        return self._result(folder, future)

    def _begin(self, folder: Path, work: Callable[[], T], limit: float) -> Future[T]:
        now = time.monotonic()
        with self._lock:
            self._running = {
                at: left
                for at, calls in self._running.items()
                if (left := [one for one in calls if not one[0].done()])
            }
            running = self._running.setdefault(folder, [])
            if len(running) >= self._most or any(due <= now for _, due in running):
                raise silent_storage(folder)
            future = begin(work)
            running.append((future, now + limit))
        return future

    @staticmethod
    def _result(folder: Path, future: Future[T]) -> T:
        if not future.done():
            raise silent_storage(folder)
        return future.result()


def end_process_within(
    seconds: float, code: int = 0, *, first: Callable[[], None] = lambda: None
) -> None:
    """Have the process end after ``seconds`` at the latest, whatever hangs; just before, ``first``
    is called."""

    def end() -> None:
        time.sleep(seconds)
        first()
        os._exit(code)

    threading.Thread(target=end, name="end", daemon=True).start()


def touch(files: Iterable[Path]) -> None:
    """Return when their storage answers, whatever it says. Blocks."""
    for path in files:
        with contextlib.suppress(OSError, ValueError):
            path.stat()


def silent_storage(folder: Path) -> StorageError:
    """The error for a folder that does not answer."""
    return StorageError(
        f"{clean_line(str(folder))} does not answer.", hint="Is its disk or network mount there?"
    )
