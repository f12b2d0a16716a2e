"""Notice changes of a file by polling, which also works on network disks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from cyber_inference_tui.storage import begin

_Stamp = tuple[int, int, int] | None


class FileWatch:
    """Compares a file's state with that of the last look. Blocks, though shortly."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = self._look()

    def changed(self) -> bool:
        """Return whether the file was written, replaced or removed since the last look."""
        stamp = self._look()
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        return True

    async def wait(self, interval: float) -> None:
        """Return when the file has changed; look every ``interval`` seconds.

        A thread of its own looks. To wake the event loop and a thread of its pool for each look
        would take four times the processor time.
        """
        stop = threading.Event()

        def look_often() -> None:
            while not stop.wait(interval) and not self.changed():
                pass

        try:
            await asyncio.wrap_future(await _begun(look_often, interval))
        finally:
            stop.set()

    def _look(self) -> _Stamp:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino


async def _begun(work: Callable[[], None], pause: float) -> Future[None]:
    """Run ``work`` in a thread, as soon as the system has one."""
    while True:
        try:
            return begin(work)
        except RuntimeError:
            await asyncio.sleep(pause)
