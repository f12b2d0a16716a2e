"""Reads the energy that the machine uses: often while requests run, otherwise seldom."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from math import inf
from typing import NamedTuple

from cyber_inference_tui.monitor.energy import EnergyMeter, Part
from cyber_inference_tui.monitor.energy_shares import EnergyShares
from cyber_inference_tui.records import EnergyRecord

IDLE_INTERVAL = 10.0
"""Seconds between two readings while no request runs."""
BUSY_INTERVAL = 0.25
"""Seconds between two readings while requests run."""
COOLING_SECONDS = 5.0
"""Seconds after a request in which the power falls, and readings are as frequent as before."""
SHORTEST_INTERVAL = 0.1
"""Seconds after a reading in which the begin and the end of requests cause no other."""
UNMETERED_INTERVAL = 60.0
"""Seconds between two looks at a machine that measures nothing."""
READ_TIMEOUT = 1.0
"""Seconds that a caller waits for a reading."""

_BOOT_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

_logger = logging.getLogger(__name__)

ReadPower = Callable[[], Awaitable[tuple[float, Sequence[Part]]]]
"""Returns what measures power or energy, with the time of ``boot_time`` at which it was read."""


def boot_time() -> float:
    """Return seconds of a clock that goes on while the machine is suspended."""
    return time.clock_gettime(_BOOT_CLOCK)


def in_thread(read: Callable[[], Sequence[Part]]) -> ReadPower:
    """Return a function that calls ``read``, which blocks, in a thread."""

    def timed() -> tuple[float, Sequence[Part]]:
        parts = read()
        return boot_time(), parts

    return lambda: asyncio.to_thread(timed)


class _Moment(NamedTuple):
    at: float
    """By the clock of the readings."""
    now: float
    """By the clock of the event loop."""
    mark: float
    """Of ``EnergyShares``."""

    def towards(self, later: _Moment, at: float) -> _Moment:
        """Return the moment ``at`` between this one and a later one."""
        whole = later.at - self.at
        part = min(max(0.0, (at - self.at) / whole), 1.0) if whole > 0.0 else 1.0
        return _Moment(
            at,
            self.now + part * (later.now - self.now),
            self.mark + part * (later.mark - self.mark),
        )


class EnergyReadings:
    """Reads the meter, and prices the shares of requests with it. ``start`` it, then ``stop`` it.

    ``running`` returns the number of requests at the models' servers. ``read_power`` returns times
    of ``clock``, in seconds.
    """

    def __init__(
        self,
        read_power: ReadPower,
        shares: EnergyShares,
        running: Callable[[], int],
        clock: Callable[[], float] = boot_time,
    ) -> None:
        self._read_power = read_power
        self._shares = shares
        self._running = running
        self._clock = clock
        self._meter = EnergyMeter()
        self._taken_at = self._busy_at = -inf
        self._wake = asyncio.Event()
        self._failing = False
        self._loop_task: asyncio.Task[None] | None = None
        self._taking: asyncio.Task[None] | None = None
        """The reading in progress; there is at most one."""
        self._waiting: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin to read."""
        self._shares.on_edge = self._edge
        self._loop_task = asyncio.create_task(self._run(), name="read the energy")

    async def stop(self) -> None:
        """Stop reading; a reading that is under way in a thread is not awaited."""
        tasks = [task for task in (self._loop_task, self._taking, *self._waiting) if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def record(self) -> EnergyRecord | None:
        """The energy up to the last reading; ``None`` = nothing measures it."""
        return self._meter.record

    async def read(self) -> EnergyRecord | None:
        """Read the meter, and return the energy up to now.

        The difference of two is ``energy_between``. If the machine does not answer in
        ``READ_TIMEOUT``, it is the energy up to the last reading.
        """
        if self._taking is None or self._taking.done():
            self._taking = asyncio.create_task(self._take(), name="an energy reading")
        # Cancelling this wait does not cancel the reading: others may wait for it, too.
        await asyncio.wait({self._taking}, timeout=READ_TIMEOUT)
        return self.record

    def when_read(self, then: Callable[[], None]) -> None:
        """Call ``then`` when the energy of all requests that have ended is known.

        It is called at once if that is so already, or if nothing is measured.
        """
        if self.record is None or self._shares.is_priced:
            then()
            return
        task = asyncio.create_task(self._read_then(then), name="the energy of requests")
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    async def _read_then(self, then: Callable[[], None]) -> None:
        try:
            await asyncio.sleep(self._taken_at + SHORTEST_INTERVAL - self._now())
            await self.read()
        finally:
            then()

    async def _run(self) -> None:
        while True:
            await self.read()
            self._wake.clear()
            try:
                async with asyncio.timeout(self._pause()):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _pause(self) -> float:
        if self.record is None:
            return UNMETERED_INTERVAL
        if self._running():
            self._busy_at = self._now()
        cools = self._now() - self._busy_at < COOLING_SECONDS
        return BUSY_INTERVAL if cools else IDLE_INTERVAL

    def _edge(self) -> None:
        self._busy_at = self._now()
        self._wake.set()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    async def _take(self) -> None:
        shares, meter = self._shares, self._meter
        before = self._moment()
        try:
            at, parts = await self._read_power()
        except Exception:
            # A fault of this machine's sensors must not fill the log.
            if not self._failing:
                _logger.exception("the energy cannot be read")
            self._failing = True
            return
        self._failing = False
        after = self._moment()
        self._taken_at = after.now
        if not parts:
            return
        gaps = meter.gaps
        meter.add(at, parts)
        read = before.towards(after, at)
        shares.add(read.now, read.mark, meter.joules, after_gap=meter.gaps > gaps)
        shares.due = after.now + SHORTEST_INTERVAL

    def _moment(self) -> _Moment:
        now = self._now()
        self._shares.move(now, self._running())
        return _Moment(self._clock(), now, self._shares.mark)
