"""Runs blocking calls on files whose storage may hang: a dead network mount, a dying disk.

Such a call cannot be cancelled, so each gets its own daemon thread. A caller stops waiting after a
time, hanging calls fill no thread pool, and the program exits without them.
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
"""The reason shown for a folder whose storage hangs."""
LIMIT: Final = 3.0
"""Seconds for small calls: a status, a header."""
START_LIMIT: Final = 10.0
"""Seconds for calls that the service needs to start."""
_MOST: Final = 32


def begin(work: Callable[[], T]) -> Future[T]:
    """Run ``work`` in a daemon thread. Raises ``RuntimeError`` if no thread can be started."""
    future: Future[T] = Future()
    # From now on it cannot be cancelled.
    future.set_running_or_notify_cancel()

    def carry_out() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - the caller of result() gets it
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=carry_out, name="storage", daemon=True).start()
    return future


class Storages:
    """Runs calls on folders, at most ``most`` at once on each, including abandoned ones.

    While a call on a folder hangs, other calls on it fail at once.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._running: dict[Path, list[tuple[Future[Any], float]]] = {}
        """By folder, each call with the time from which on it counts as hanging."""

    def ask(self, folder: Path, work: Callable[[], T], limit: float = LIMIT) -> T:
        """Run ``work``, which uses ``folder`` and blocks; return its result or raise its error.

        Raises ``StorageError`` after ``limit`` seconds, and at once while an earlier call on this
        folder hangs or ``most`` of them are not done.
        """
        future = self._begin(folder, work, limit)
        concurrent.futures.wait((future,), limit)
        return self._result(folder, future)

    async def ask_async(self, folder: Path, work: Callable[[], T], limit: float = LIMIT) -> T:
        """Do the same as ``ask`` without blocking the event loop."""
        import asyncio  # noqa: PLC0415 - not for --help

        future = self._begin(folder, work, limit)
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def wake(_: Future[T]) -> None:
            # If the loop is closed, nobody waits any more.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(done.set)

        future.add_done_callback(wake)
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
    """Exit the process after ``seconds`` at the latest, even if something hangs.

    ``first`` is called just before.
    """

    def end() -> None:
        time.sleep(seconds)
        first()
        os._exit(code)

    threading.Thread(target=end, name="end", daemon=True).start()


def touch(files: Iterable[Path]) -> None:
    """Return when the storage of the files answers, with success or an error. Blocks."""
    for path in files:
        with contextlib.suppress(OSError, ValueError):
            path.stat()


def silent_storage(folder: Path) -> StorageError:
    """Return the error for a folder that does not answer."""
    return StorageError(
        f"{clean_line(str(folder))} does not answer.", hint="Is its disk or network mount there?"
    )
