"""Notice changes of files by polling, which also works on network disks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from cyber_inference_tui.storage import begin

_Stamp = tuple[int, int, int] | None


class FileWatch:
    """Compares the state of files with that of the last look. Blocks, though shortly."""

    def __init__(self, *paths: Path) -> None:
        self._paths = paths
        self._stamps = self._look()

    def changed(self) -> bool:
        """Return whether a file was written, replaced or removed since the last look."""
        stamps = self._look()
        if stamps == self._stamps:
            return False
        self._stamps = stamps
        return True

    async def wait(self, interval: float) -> None:
        """Return when a file has changed; look every ``interval`` seconds.

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

    def _look(self) -> list[_Stamp]:
        return [_stamp(path) for path in self._paths]


def _stamp(path: Path) -> _Stamp:
    try:
        status = path.stat()
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
