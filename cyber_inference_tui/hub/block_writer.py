"""Write blocks to a partial file in a thread, while more blocks arrive."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Final

from cyber_inference_tui.hub.partial import Checkpoint, Partial

MAX_BLOCKS: Final = 2
"""One block is written and one waits, so that the thread need not wait for the event loop."""


class BlockWriter:
    """Writes blocks in the order of ``put``, in one thread at a time and in none while it is idle.

    Await ``finish`` in the end. After a failure nothing more is written.
    """

    def __init__(self, partial: Partial, executor: Executor) -> None:
        self.checkpoint: Checkpoint | None = None
        """The state of the file after the last block."""
        self._partial = partial
        self._executor = executor
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._blocks: deque[Sequence[memoryview]] = deque()
        self._working: asyncio.Future[None] | None = None
        self._notifier = asyncio.Event()

    def put(self, block: Sequence[memoryview]) -> None:
        """Queue a block, after ``ready``. Keep its memory until ``MAX_BLOCKS`` more were put."""
        with self._lock:
            self._blocks.append(block)
            idle = len(self._blocks) == 1
        if idle:
            self._working = self._loop.run_in_executor(self._executor, self._work)
            self._working.add_done_callback(lambda _: self._notifier.set())

    async def ready(self) -> None:
        """Wait until one more block can be queued. Raises the error of ``Partial.write``."""
        await self._until(MAX_BLOCKS - 1)

    async def finish(self) -> None:
        """Wait until all blocks are written. Raises the error of ``Partial.write``."""
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
            self.checkpoint = self._partial.checkpoint()
            # A block stays queued until it is written: ``put`` starts a thread for the first.
            with self._lock:
                self._blocks.popleft()
                left = bool(self._blocks)
            self._loop.call_soon_threadsafe(self._notifier.set)
