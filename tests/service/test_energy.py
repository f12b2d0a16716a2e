"""The energy of requests by a scripted curve of power, in virtual time."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import msgspec
import pytest

from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.monitor.energy import Part, energy_between
from cyber_inference_tui.records import EnergyRecord, RequestRecord
from cyber_inference_tui.service.energy import (
    BUSY_INTERVAL,
    COOLING_SECONDS,
    IDLE_INTERVAL,
    READ_TIMEOUT,
    SHORTEST_INTERVAL,
    EnergyReadings,
)
from cyber_inference_tui.service.finished_requests import FinishedRequests
from cyber_inference_tui.service.metric_counters import Noted
from tests.scheduler.virtual import World, model, now, run
from tests.service.history_records import request

A, B = model("a"), model("b")
REQUESTS = ((A, 10.0, 16.0), (A, 12.3, 20.0), (B, 15.0, 22.0))
"""They overlap; each with its begin and its end."""
END = 50.0
STEP = 0.001


def curve(at: float) -> float:
    """The power in W: 5 at rest, and more with ripples and ramps while requests run."""
    rise = min(max(0.0, (at - 10.0) / 0.5), 1.0)
    fall = min(max(0.0, (22.5 - at) / 0.5), 1.0)
    return 5.0 + min(rise, fall) * (20.0 + 3.0 * math.sin(at * math.pi / 2))


def integral(begin: float, end: float, watts: Callable[[float], float]) -> float:
    steps = round((end - begin) / STEP)
    return sum(watts(begin + (number + 0.5) * STEP) for number in range(steps)) * STEP


def share(begin: float, end: float) -> float:
    def watts(at: float) -> float:
        return curve(at) / sum(since <= at < until for _, since, until in REQUESTS)

    return integral(begin, end, watts)


class Meter:
    """Measures the board's power, or counts the processor's energy, and notes when."""

    def __init__(self, watts: Callable[[float], float], *, counts: bool) -> None:
        self.watts = watts
        self.counts = counts
        self.joules = self.counted_to = 0.0
        self.read_at: list[float] = []
        self.parts: Sequence[Part] | None = None
        """In place of the curve."""
        self.hangs = False
        self.delays: Iterator[float] = itertools.repeat(0.001)
        """Seconds until each reading; a negative number is a defect."""

    async def read(self) -> tuple[float, Sequence[Part]]:
        self.read_at.append(now())
        if self.hangs:
            await asyncio.sleep(3600)
        delay = next(self.delays)
        if delay < 0:
            raise ValueError("a defect")
        await asyncio.sleep(delay)
        if self.parts is not None:
            return now(), self.parts
        if self.counts:
            self.joules += integral(self.counted_to, now(), self.watts)
            self.counted_to = now()
            return now(), (Part("CPU", counter_j=self.joules),)
        return now(), (Part("board", watts=self.watts(now())),)


class Metered:
    """A scheduler over virtual servers with a meter; all requests end in ``noted``."""

    def __init__(self, watts: Callable[[float], float] = curve, *, counts: bool = False) -> None:
        self.world = World(model_idle_timeout=0)
        self.meter = Meter(watts, counts=counts)
        self.scheduler = self.world.scheduler
        self.readings = EnergyReadings(
            self.meter.read, self.scheduler.energy, lambda: self.scheduler.in_flight, clock=now
        )
        self.noted: list[Noted] = []
        self.finished = FinishedRequests(self.noted.extend, when_due=self.readings.when_read)

    async def use(self, asked: LocalModel, begin: float, end: float) -> None:
        await asyncio.sleep(begin - now())
        lease = await self.scheduler.acquire(asked)
        await asyncio.sleep(end - now())
        marks = lease.release()
        assert marks is not None
        self.finished.add(_Finished(marks, self.scheduler.energy.joules))

    async def __aenter__(self) -> Metered:
        self.readings.start()
        await self.scheduler.load(A)
        await self.scheduler.load(B)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.readings.stop()
        await self.scheduler.close()

    def energies(self) -> list[float | None]:
        return [record.energy_j for record, _ in self.noted]


class _Finished:
    error_code = None

    def __init__(
        self, marks: tuple[float, float], joules: Callable[[float, float], float | None]
    ) -> None:
        self._marks, self._joules = marks, joules

    def record(self) -> RequestRecord:
        return msgspec.structs.replace(request(1), energy_j=self._joules(*self._marks))


@pytest.mark.parametrize("counts", [False, True])
def test_requests_by_a_scripted_curve(counts: bool) -> None:
    async def main() -> None:
        async with Metered(counts=counts) as metered:
            async with asyncio.TaskGroup() as group:
                for asked in REQUESTS:
                    group.create_task(metered.use(*asked))
            await asyncio.sleep(END - now())
            total = await metered.readings.read()
        # They end in the order of the list.
        found = metered.energies()
        assert found == [pytest.approx(share(begin, end), rel=0.01) for _, begin, end in REQUESTS]
        assert total is not None
        assert (total.covers, total.gaps) == (("CPU" if counts else "board",), 0)
        assert total.joules == pytest.approx(integral(0.0, END, curve), rel=0.01)
        rest = integral(0.0, 10.0, curve) + integral(22.0, END, curve)
        assert sum(one for one in found if one) + rest == pytest.approx(total.joules, rel=0.01)

    run(main())


def test_a_counter_sees_what_a_short_request_takes() -> None:
    async def main() -> None:
        async with Metered(lambda at: 30.0 if 40.0 <= at < 40.2 else 5.0, counts=True) as metered:
            await metered.use(A, 40.0, 40.2)
            await asyncio.sleep(1.0)
            assert metered.energies() == [pytest.approx(6.0, rel=0.01)]

    run(main())


def test_the_time_of_a_reading_counts_and_not_that_of_the_question() -> None:
    async def main() -> None:
        async with Metered(lambda at: 20.0, counts=True) as metered:
            metered.meter.delays = itertools.cycle((0.15, 0.001))
            await metered.use(A, 10.0, 10.4)
            await asyncio.sleep(1.0)
            assert metered.energies() == [pytest.approx(8.0, rel=0.01)]

    run(main())


def test_the_meter_is_read_often_while_requests_run_and_otherwise_seldom() -> None:
    async def main() -> None:
        async with Metered() as metered:
            await metered.use(A, 20.0, 25.0)
            await asyncio.sleep(60.0 - now())
            during = [at for at in metered.meter.read_at if 20.0 <= at <= 25.0]
            rest = 25.0 + COOLING_SECONDS
            cooling = [at for at in metered.meter.read_at if 25.0 < at <= rest]
            after = [at for at in metered.meter.read_at if at > rest]
            assert during[0] == 20.0
            assert len(during) == pytest.approx(5.0 / BUSY_INTERVAL, abs=2)
            assert len(cooling) == pytest.approx(COOLING_SECONDS / BUSY_INTERVAL, abs=2)
            assert len(after) == pytest.approx((60.0 - rest) / IDLE_INTERVAL, abs=1)

    run(main())


def test_many_short_requests_cause_a_bounded_number_of_readings() -> None:
    async def main() -> None:
        async with Metered() as metered:
            for number in range(200):
                await metered.use(A, 20.0 + number * 0.01, 20.005 + number * 0.01)
            most = 2.0 / SHORTEST_INTERVAL + 2.0 / BUSY_INTERVAL + 1
            assert len([at for at in metered.meter.read_at if at >= 20.0]) <= most
            await asyncio.sleep(1.0)
            assert None not in metered.energies()
            assert len(metered.noted) == 200

    run(main())


def test_without_a_meter_records_do_not_wait_and_have_no_energy() -> None:
    async def main() -> None:
        metered = Metered()
        metered.meter.parts = ()
        async with metered:
            await metered.use(A, 10.0, 12.0)
            await asyncio.sleep(0.03)
            assert metered.energies() == [None]
            assert await metered.readings.read() is None
            await asyncio.sleep(110.0 - now())
        assert len(metered.meter.read_at) <= 4

    run(main())


def test_a_meter_that_hangs_delays_records_but_loses_none() -> None:
    async def main() -> None:
        async with Metered() as metered:
            await asyncio.sleep(9.0)
            metered.meter.hangs = True
            await metered.use(A, 10.0, 12.0)
            await asyncio.sleep(READ_TIMEOUT + 0.5)
            assert metered.energies() == [None]

    run(main())


def test_a_request_that_begins_during_a_reading_is_measured_from_then_on() -> None:
    async def main() -> None:
        async with Metered(lambda at: 20.0) as metered:
            await asyncio.sleep(33.0 - now())
            metered.meter.delays = itertools.repeat(0.2)
            reading = asyncio.create_task(metered.readings.read())
            await metered.use(A, 33.1, 35.0)
            await reading
            during = [at for at in metered.meter.read_at if 33.1 < at < 35.0]
            assert len(during) >= 4

    run(main())


def test_a_fault_of_a_sensor_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with Metered() as metered:
            await asyncio.sleep(8.0)
            metered.meter.delays = itertools.repeat(-1.0)
            await metered.use(A, 10.0, 12.0)
            await asyncio.sleep(1.0)
            assert metered.energies() == [None]
            metered.meter.delays = itertools.repeat(0.001)
            await metered.use(A, 20.0, 22.0)
            await asyncio.sleep(1.0)
            assert metered.energies()[1] is not None

    run(main())
    assert caplog.text.count("the energy cannot be read") == 1


def test_the_end_of_the_service_does_not_lose_records() -> None:
    async def main() -> None:
        async with Metered() as metered:
            await asyncio.sleep(10.0)
            metered.meter.hangs = True
            await metered.use(A, now(), now() + 1.0)
            await asyncio.sleep(0.1)
            assert metered.noted == []
        assert len(metered.noted) == 1

    run(main())


def test_the_energy_between_two_moments() -> None:
    async def main() -> None:
        async with Metered() as metered:
            await asyncio.sleep(20.0 - now())
            before = await metered.readings.read()
            await metered.use(A, now(), now() + 1.0)
            after = await metered.readings.read()
            assert isinstance(after, EnergyRecord)
            expected = integral(20.0, 21.0, curve)
            assert energy_between(before, after) == pytest.approx(expected, rel=0.01)

    run(main())
