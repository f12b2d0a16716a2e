"""Sample the machine and its models: often while somebody watches, otherwise seldom."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Collection
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.llama.http_get import ServerAddress
from cyber_inference_tui.llama.slots import Task, ask_slots
from cyber_inference_tui.monitor.processes import ProcessUsage
from cyber_inference_tui.monitor.ring import RECENT, SampleRing
from cyber_inference_tui.records import EnergyRecord, ResourceSample, to_json
from cyber_inference_tui.scheduler.state import ModelState
from cyber_inference_tui.service.events import EventBus
from cyber_inference_tui.service.listing import disk_paths
from cyber_inference_tui.service.model_usage import (
    SLOTS_TIMEOUT,
    AskSlots,
    ProcessMeter,
    TokenMeters,
    compose_usage,
    loaded_models,
)
from cyber_inference_tui.settings.load import CurrentSettings

TOPIC = "resources"
UNWATCHED_INTERVAL = 10.0
"""Seconds between samples while nobody watches."""
WATCHED_SECONDS = 10.0
"""Seconds for which a client counts as watching after a question or after reading events."""
ANSWER_TIMEOUT = 5.0
"""Seconds that a question waits for a new sample."""

_CHECK_INTERVAL = 1.0
_ROUNDING = 0.001
"""The loop's timers may be so much early."""
_LONGEST = RECENT.total_seconds()

_logger = logging.getLogger(__name__)


ReadMachine = Callable[[], ResourceSample]
"""Samples the machine. Blocks."""


async def _ask_slots(server: ServerAddress) -> tuple[Task, ...] | None:
    return await ask_slots(server, SLOTS_TIMEOUT)


class Monitoring:
    """Publishes every sample as an event and keeps it in a ring. ``start`` it, then ``stop`` it.

    ``make_sampler`` is called in a thread with the paths whose disks to sample, again when they
    change; ``states`` is called for each sample. ``now`` returns the time of day, ``clock``
    monotonic seconds, ``sleep`` sleeps seconds of that clock, and ``ask`` asks a server for its
    tasks. ``on_sample`` gets each sample. ``energy`` returns the energy so far.
    """

    def __init__(
        self,
        *,
        current: CurrentSettings,
        make_sampler: Callable[[tuple[Path, ...]], ReadMachine],
        states: Callable[[], Collection[ModelState]],
        events: EventBus,
        now: Callable[[], datetime],
        on_sample: Callable[[ResourceSample], None] = lambda sample: None,
        energy: Callable[[], EnergyRecord | None] = lambda: None,
        ask: AskSlots = _ask_slots,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._current = current
        self._make_sampler = make_sampler
        self._states = states
        self._events = events
        self._now = now
        self._on_sample = on_sample
        self._energy = energy
        self._clock = clock
        self._sleep = sleep
        self._ring: SampleRing[bytes] = SampleRing()
        self._tokens = TokenMeters(ask, clock)
        self._sampler: tuple[tuple[Path, ...], ReadMachine] | None = None
        self._processes: ProcessMeter | None = None
        self._latest: ResourceSample | None = None
        self._taken_at = float("-inf")
        self._asked_at = float("-inf")
        self._failing = False
        self._stopped = False
        self._loop_task: asyncio.Task[None] | None = None
        self._taking: asyncio.Task[None] | None = None
        """The sample in progress; there is at most one."""

    def start(self) -> None:
        """Begin to sample."""
        self._loop_task = asyncio.create_task(self._run(), name="sample the machine")

    async def stop(self) -> None:
        """Stop sampling; a reading that is under way in a thread is not awaited."""
        self._stopped = True
        tasks = [task for task in (self._loop_task, self._taking) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._tokens.close()

    @property
    def last(self) -> ResourceSample | None:
        """The latest sample, however old. Reading it does not count as watching."""
        return self._latest

    async def latest(self, max_age: float = math.inf) -> ResourceSample:
        """Return the latest sample, or a new one if that is older than two intervals.

        ``max_age`` is another limit, in seconds. Raises ``CyberError`` if there is no sample yet
        and none is made in ``ANSWER_TIMEOUT``.
        """
        self._asked_at = self._clock()
        age = self._clock() - self._taken_at
        if not self._stopped and age > min(2 * self._interval, max_age):
            await self._take(ANSWER_TIMEOUT)
        if self._latest is None:
            raise CyberError("The machine has not been read yet.", hint="Try again.")
        return self._latest

    def history(self, seconds: float) -> list[bytes]:
        """Return the samples of the last ``seconds``, oldest first, each as JSON on one line."""
        self._asked_at = self._clock()
        return self._ring.since(self._now() - timedelta(seconds=min(seconds, _LONGEST)))

    async def _run(self) -> None:
        while True:
            await self._take()
            while (left := self._taken_at + self._pause() - self._clock()) > _ROUNDING:
                # In short steps: a client may begin to watch, and the setting may change.
                await self._sleep(min(left, _CHECK_INTERVAL))

    @property
    def _interval(self) -> float:
        return self._current.settings.sample_interval

    def _pause(self) -> float:
        """Return the seconds from one sample to the next."""
        asked = self._clock() - self._asked_at < WATCHED_SECONDS
        watched = asked or self._events.has_readers(TOPIC, WATCHED_SECONDS)
        return self._interval if watched else max(UNWATCHED_INTERVAL, self._interval)

    async def _take(self, timeout: float | None = None) -> None:
        """Wait for a new sample, or that in progress; ``timeout`` is in seconds."""
        if self._taking is None or self._taking.done():
            self._taking = asyncio.create_task(self._sample(), name="a sample")
        # Cancelling this wait does not cancel the sample: others may wait for it, too.
        await asyncio.wait({self._taking}, timeout=timeout)

    async def _sample(self) -> None:
        began = self._clock()
        try:
            sample = await self._read()
        except Exception:
            # A fault of this machine's sensors must not stop the service.
            if not self._failing:
                _logger.exception("the machine cannot be read")
            self._failing = True
            self._taken_at = began
            return
        self._failing = False
        self._latest = sample
        self._taken_at = began
        encoded = to_json(sample)
        self._ring.add(sample.at, encoded)
        self._on_sample(sample)
        self._events.publish(TOPIC, encoded)

    async def _read(self) -> ResourceSample:
        models = loaded_models(self._states())
        pids = [model.pid for model in models]
        disks = disk_paths(self._current.settings)
        tokens = await self._tokens.read(models)
        sample, processes, ours = await asyncio.to_thread(self._read_machine, disks, pids)
        gpus = sample.gpus if ours else ()
        return msgspec.structs.replace(
            sample,
            energy=self._energy(),
            models=compose_usage(models, processes, gpus, tokens),
        )

    def _read_machine(
        self, disks: tuple[Path, ...], pids: Collection[int]
    ) -> tuple[ResourceSample, dict[int, tuple[ProcessUsage, float | None]], bool]:
        """Read the machine. Blocks; runs in one thread at a time."""
        if self._sampler is None or self._sampler[0] != disks:
            self._sampler = disks, self._make_sampler(disks)
        if self._processes is None:
            self._processes = ProcessMeter(self._clock)
        sample = self._sampler[1]()
        return sample, self._processes.read(pids), self._processes.sees_the_drivers_pids
