"""The memory, read when it matters, and what our servers hold of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable

from cyber_inference_tui.monitor.memory import MemoryReading
from cyber_inference_tui.scheduler.free_memory import (
    Amount,
    FreeMemory,
    free_memory,
    slack,
    used_memory,
)
from cyber_inference_tui.scheduler.state import ModelState
from cyber_inference_tui.scheduler.views import AwaitedMemory
from cyber_inference_tui.settings.schema import Settings

RETURN_PATIENCE = 5.0
"""Seconds that the memory of an ended server is waited for."""
_READ_LIMIT = 10.0
"""Seconds a reading may take; a driver that hangs must not hold up loads for ever."""

ReadMemory = Callable[[Collection[int]], Awaitable[MemoryReading | None]]
"""Reads the machine's memory and how much of it these processes and their children use; returns
``None`` where the machine does not report it."""

_logger = logging.getLogger(__name__)


class MemoryTracker:
    """What is known of the memory: the last reading, and what happened since.

    ``reader`` ``None`` = the machine's memory plays no part.
    """

    def __init__(self, reader: ReadMemory | None) -> None:
        self._reader = reader
        self._reading = asyncio.Lock()
        self.memory = FreeMemory(at=float("-inf"), free=None if reader is None else Amount())
        self.reading: MemoryReading | None = None
        """The last one."""
        self.changed_at = 0.0
        """When a server was last started or ended."""
        self.awaited: AwaitedMemory | None = None
        self._expected: FreeMemory | None = None
        """The memory at the last reading, with what was started and ended since."""

    def expected(self) -> FreeMemory:
        """The memory as it is when all is back that is on its way: the last reading, with what
        was started and ended since."""
        return self._expected or self.memory

    def server_started(self, state: ModelState, now: float) -> None:
        """A server has taken its memory."""
        self.changed_at = now
        if state.footprint is None:
            return
        former = state.freed_on_unload
        state.freed_on_unload = used_memory(
            state.footprint, None, cards=self.memory.cards
        ).freed_on_unload
        taken = state.freed_on_unload - former
        if self._expected is not None:
            self._expected = self._expected.plus(Amount() - taken, _visible(state))
        if self.awaited is not None:
            self.awaited = AwaitedMemory(free=self.awaited.free - taken, until=self.awaited.until)

    def server_ended(self, state: ModelState, now: float) -> None:
        """A server is gone, or a load was given up or failed: its memory is to come back."""
        self.changed_at = now
        freed, state.freed_on_unload = state.freed_on_unload, Amount()
        if self._expected is None:
            return
        self._expected = self._expected.plus(freed, _visible(state))
        room = self._expected.free
        if room is not None:
            # Other programs go on taking and giving memory: some of it may be missing.
            missing = Amount(slack(freed.host), slack(freed.device))
            self.awaited = AwaitedMemory(free=room - missing, until=now + RETURN_PATIENCE)

    async def read(self, states: Iterable[ModelState], settings: Settings) -> MemoryReading | None:
        """Read the memory and note what each server holds."""
        if self._reader is None:
            return None
        at = asyncio.get_running_loop().time()
        there = {state.server.pid: state for state in states if state.server is not None}
        reading = await self.look(tuple(there))
        if reading is None:
            self.memory = FreeMemory(at=at, free=None)
            self._expected = None
            return None
        self.reading = reading
        held = []
        for pid, state in there.items():
            gone = state.server is None or state.server.pid != pid
            if state.footprint is not None and not gone:
                one = used_memory(
                    state.footprint, reading.processes.get(pid), cards=bool(reading.gpus)
                )
                state.freed_on_unload = one.freed_on_unload
                held.append(one)
        self.memory = free_memory(
            reading,
            held,
            at=at,
            max_percent=settings.max_memory_percent,
            max_gpu_percent=settings.max_gpu_memory_percent,
        )
        if at >= self.changed_at:
            self._compare(at)
        return reading

    async def look(self, pids: Collection[int]) -> MemoryReading | None:
        """Read the memory, and what the processes ``pids`` hold of it; nothing is noted."""
        if self._reader is None:
            return None
        try:
            async with asyncio.timeout(_READ_LIMIT), self._reading:
                return await self._reader(pids)
        except TimeoutError:
            _logger.warning("the memory could not be read within %g s", _READ_LIMIT)
            return None

    def _compare(self, at: float) -> None:
        """A reading of everything as it is: has come back what was to?"""
        room, awaited = self.memory.free, self.awaited
        if awaited is not None and room is not None and room.covers(awaited.free):
            awaited = self.awaited = None
        if awaited is None or at >= awaited.until:
            self._expected = self.memory

    def give_up_waiting(self, now: float) -> None:
        """Somebody acts by the last reading: what has not come back by now is not waited for."""
        if self.awaited is None or now < self.awaited.until:
            return
        if now < self.awaited.until + RETURN_PATIENCE:
            _logger.warning(
                "the memory of ended servers was not seen to be back after %g s: going on",
                RETURN_PATIENCE,
            )
        self.awaited = None

    @property
    def is_enabled(self) -> bool:
        """Whether the memory plays a part."""
        return self._reader is not None


def _visible(state: ModelState) -> str | None:
    return state.need.visible if state.need else None
