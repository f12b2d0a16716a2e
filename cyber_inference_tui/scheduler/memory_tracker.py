"""Keeps the last reading of the memory, and the changes by servers since then."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable

from cyber_inference_tui.monitor.memory_reading import MemoryReading
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
"""Seconds to wait until the memory of an ended server is free."""
_READ_LIMIT = 10.0
"""The time limit of a reading, in seconds; a driver that hangs must not stop all loads."""

ReadMemory = Callable[[Collection[int]], Awaitable[MemoryReading | None]]
"""Reads the machine's memory and how much of it these processes and their children use; returns
``None`` where the machine does not report it."""

_logger = logging.getLogger(__name__)


class MemoryTracker:
    """Keeps the state of the memory. Without a ``reader``, memory has no influence on decisions."""

    def __init__(self, reader: ReadMemory | None) -> None:
        self._reader = reader
        self._reading = asyncio.Lock()
        self.memory = FreeMemory(at=float("-inf"), free=None if reader is None else Amount())
        self.reading: MemoryReading | None = None
        """The last reading."""
        self.changed_at = 0.0
        """The time of the last start or end of a server."""
        self.awaited: AwaitedMemory | None = None
        self._expected: FreeMemory | None = None
        """The memory of the last reading, changed by the starts and ends of servers since then."""

    def expected(self) -> FreeMemory:
        """Return the memory when that of all ended servers is free again."""
        return self._expected or self.memory

    def server_started(self, state: ModelState, now: float) -> None:
        """Count the memory of a new server."""
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
        """Expect the memory of an ended server, or of an ended load, to become free."""
        self.changed_at = now
        freed, state.freed_on_unload = state.freed_on_unload, Amount()
        if self._expected is None:
            return
        self._expected = self._expected.plus(freed, _visible(state))
        free = self._expected.free
        if free is not None:
            # Other programs allocate memory meanwhile, so some of it may be missing.
            missing = Amount(slack(freed.host), slack(freed.device))
            self.awaited = AwaitedMemory(free=free - missing, until=now + RETURN_PATIENCE)

    async def read(self, states: Iterable[ModelState], settings: Settings) -> MemoryReading | None:
        """Read the memory and note how much each server uses."""
        if self._reader is None:
            return None
        at = asyncio.get_running_loop().time()
        servers = {state.server.pid: state for state in states if state.server is not None}
        reading = await self.read_processes(tuple(servers))
        if reading is None:
            self.memory = FreeMemory(at=at, free=None)
            self._expected = None
            return None
        self.reading = reading
        cards = bool(reading.gpus)
        used = []
        for pid, state in servers.items():
            is_gone = state.server is None or state.server.pid != pid
            if state.footprint is not None and not is_gone:
                used.append(used_memory(state.footprint, reading.processes.get(pid), cards=cards))
                state.freed_on_unload = used[-1].freed_on_unload
        self.memory = free_memory(
            reading,
            used,
            at=at,
            max_percent=settings.max_memory_percent,
            max_gpu_percent=settings.max_gpu_memory_percent,
        )
        if at >= self.changed_at:
            self._compare(at)
        return reading

    async def read_processes(self, pids: Collection[int]) -> MemoryReading | None:
        """Read the memory and the part of these processes, without keeping it."""
        if self._reader is None:
            return None
        try:
            async with asyncio.timeout(_READ_LIMIT), self._reading:
                return await self._reader(pids)
        except TimeoutError:
            _logger.warning("the memory could not be read within %g s", _READ_LIMIT)
            return None

    def _compare(self, at: float) -> None:
        """Check whether a reading shows the awaited memory as free."""
        free, awaited = self.memory.free, self.awaited
        if awaited is not None and free is not None and free.covers(awaited.free):
            awaited = self.awaited = None
        if awaited is None or at >= awaited.until:
            self._expected = self.memory

    def give_up_waiting(self, now: float) -> None:
        """Stop waiting for memory that is overdue, because of an action by the last reading."""
        if self.awaited is None or now < self.awaited.until:
            return
        if now < self.awaited.until + RETURN_PATIENCE:
            _logger.warning(
                "the memory of ended servers was not seen to be back after %g s: going on",
                RETURN_PATIENCE,
            )
        self.awaited = None
        if self.memory.at >= self.changed_at:
            # Otherwise the next end of a server would have to return this memory as well.
            self._expected = self.memory

    @property
    def is_enabled(self) -> bool:
        """True if there is a reader."""
        return self._reader is not None


def _visible(state: ModelState) -> str | None:
    return state.need.visible if state.need else None
