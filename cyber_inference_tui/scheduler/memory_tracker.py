"""The memory, read when it matters, and what our servers hold of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable

from cyber_inference_tui.monitor.memory_reading import MemoryReading
from cyber_inference_tui.scheduler.memory import Amount, Memory, held_by, memory_of, slack
from cyber_inference_tui.scheduler.state import MemoryReader, ModelState
from cyber_inference_tui.scheduler.views import Awaited
from cyber_inference_tui.settings.schema import Settings

RETURN_PATIENCE = 5.0
"""Seconds that the memory of an ended server is waited for."""
_READ_LIMIT = 10.0
"""Seconds a reading may take; a driver that hangs must not hold up loads for ever."""

_logger = logging.getLogger(__name__)


class MemoryTracker:
    """What is known of the memory: the last reading, and what happened since.

    ``reader`` ``None`` = the machine's memory plays no part.
    """

    def __init__(self, reader: MemoryReader | None) -> None:
        self._reader = reader
        self._reading = asyncio.Lock()
        self.memory = Memory(at=float("-inf"), room=None if reader is None else Amount())
        self.reading: MemoryReading | None = None
        """The last one."""
        self.changed_at = 0.0
        """When a server was last started or ended."""
        self.awaited: Awaited | None = None
        self._expected: Memory | None = None
        """The memory at the last reading, with what was started and ended since."""

    def expected(self) -> Memory:
        """The memory as it is when all is back that is on its way: the last reading, with what
        was started and ended since."""
        return self._expected or self.memory

    def server_started(self, state: ModelState, now: float) -> None:
        """A server has taken its memory."""
        self.changed_at = now
        if state.footprint is None:
            return
        former = state.gives
        state.gives = held_by(state.footprint, None, cards=self.memory.cards).gives
        taken = state.gives - former
        if self._expected is not None:
            self._expected = self._expected.with_more(Amount() - taken, _visible(state))
        if self.awaited is not None:
            self.awaited = Awaited(room=self.awaited.room - taken, until=self.awaited.until)

    def server_ended(self, state: ModelState, now: float) -> None:
        """A server is gone, or a load was given up or failed: its memory is to come back."""
        self.changed_at = now
        gives, state.gives = state.gives, Amount()
        if self._expected is None:
            return
        self._expected = self._expected.with_more(gives, _visible(state))
        room = self._expected.room
        if room is not None:
            # Other programs go on taking and giving memory: some of it may be missing.
            missing = Amount(slack(gives.host), slack(gives.device))
            self.awaited = Awaited(room=room - missing, until=now + RETURN_PATIENCE)

    async def read(self, states: Iterable[ModelState], settings: Settings) -> MemoryReading | None:
        """Read the memory and note what each server holds."""
        if self._reader is None:
            return None
        at = asyncio.get_running_loop().time()
        there = {state.server.pid: state for state in states if state.server is not None}
        reading = await self.look(tuple(there))
        if reading is None:
            self.memory = Memory(at=at, room=None)
            self._expected = None
            return None
        self.reading = reading
        held = []
        for pid, state in there.items():
            gone = state.server is None or state.server.pid != pid
            if state.footprint is not None and not gone:
                one = held_by(state.footprint, reading.processes.get(pid), cards=bool(reading.gpus))
                state.gives = one.gives
                held.append(one)
        self.memory = memory_of(
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
        room, awaited = self.memory.room, self.awaited
        if awaited is not None and room is not None and room.holds(awaited.room):
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
    def is_read(self) -> bool:
        """Whether the memory plays a part."""
        return self._reader is not None


def _visible(state: ModelState) -> str | None:
    return state.need.visible if state.need else None
