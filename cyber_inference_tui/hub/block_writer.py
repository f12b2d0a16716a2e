"""Blocks on their way to a partial file: written in a thread while more of them come."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Final

from cyber_inference_tui.hub.partial import Checkpoint, Partial

AT_ONCE: Final = 2
"""One is written and one waits, so that the thread need not wait for the event loop."""


class BlockWriter:
    """Writes in the order of ``put``, in one thread at a time and in none while there is nothing.

    ``finish`` has to be awaited in the end. Nothing is written after a failure.
    """

    def __init__(self, partial: Partial, executor: Executor) -> None:
        self.mark: Checkpoint | None = None
        """How far it was after the last block."""
        self._partial = partial
        self._executor = executor
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._blocks: deque[Sequence[memoryview]] = deque()
        self._working: asyncio.Future[None] | None = None
        self._notifier = asyncio.Event()

    def put(self, block: Sequence[memoryview]) -> None:
        """Have a block written, after ``room``. It is in use until ``AT_ONCE`` more were put."""
        with self._lock:
            self._blocks.append(block)
            idle = len(self._blocks) == 1
        if idle:
            self._working = self._loop.run_in_executor(self._executor, self._work)
            self._working.add_done_callback(lambda _: self._notifier.set())

    async def room(self) -> None:
        """Until there is room for one more. Raises what ``Partial.write`` raised."""
        await self._until(AT_ONCE - 1)

    async def finish(self) -> None:
        """Until all are written. Raises what ``Partial.write`` raised."""
        await self._until(0)

    async def _until(self, most: int) -> None:
        while True:
            if self._working is not None and self._working.done():
                self._working.result()
            if len(self._blocks) <= most:
                return
            self._notifier.clear()
            await self._notifier.wait()

    def _work(self) -> None:
        left = True
        while left:
            self._partial.write(self._blocks[0])
            self.mark = self._partial.mark()
            # It stays in its place until it is written, so that ``put`` knows of this thread.
            with self._lock:
                self._blocks.popleft()
                left = bool(self._blocks)
            self._loop.call_soon_threadsafe(self._notifier.set)
