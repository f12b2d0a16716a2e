"""The loop that samples, in virtual time: the clock jumps when nobody has anything to do."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.records import (
    CpuRecord,
    DeviceRecord,
    MemoryRecord,
    ResourceSample,
    SwapRecord,
)
from cyber_inference_tui.service.events import EventBus
from cyber_inference_tui.service.monitoring import Monitoring
from cyber_inference_tui.settings.load import CurrentSettings, LoadedSettings
from cyber_inference_tui.settings.schema import Settings

START = datetime(2026, 1, 31, 12, tzinfo=UTC)


class World:
    """Time that passes only in the loop's own sleeps, and a machine with switches."""

    def __init__(self, interval: float = 1.0) -> None:
        self.now = 1000.0
        self.current = CurrentSettings(LoadedSettings(Settings(), {}, Path("/config.toml")))
        self.set(sample_interval=interval, data_dir=Path("/a"), models_dir=Path("/a"))
        self.samples: list[float] = []
        self.made: list[tuple[Path, ...]] = []
        self.fails = False
        self.gate: threading.Event | None = None
        self.inside = 0
        self.most_inside = 0
        self.each_sleep: Callable[[], object] = lambda: None
        self.events = EventBus(first_id=1, clock=lambda: self.now)
        self.monitoring = Monitoring(
            current=self.current,
            make_sampler=self.make,
            states=list,
            events=self.events,
            now=self.time,
            clock=lambda: self.now,
            sleep=self.sleep,
        )
        self.budget = 0.0
        self.turn = asyncio.Event()
        self.at_rest = asyncio.Event()

    def set(self, **changes: Any) -> None:
        settings = msgspec.structs.replace(self.current.settings, **changes)
        self.current.replace(msgspec.structs.replace(self.current.loaded, settings=settings))

    def make(self, disks: Collection[Path]) -> Callable[[], ResourceSample]:
        self.made.append(tuple(disks))
        return self.sample

    def time(self) -> datetime:
        return START + timedelta(seconds=self.now - 1000)

    def sample(self) -> ResourceSample:
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        try:
            if self.gate is not None:
                assert self.gate.wait(30)
            self.samples.append(self.now - 1000)
            if self.fails:
                raise OSError("no sensors")
            return ResourceSample(
                at=self.time(),
                device=DeviceRecord(),
                cpu=CpuRecord(),
                memory=MemoryRecord(),
                swap=SwapRecord(),
            )
        finally:
            self.inside -= 1

    async def sleep(self, seconds: float) -> None:
        """Let time pass as far as the test allows it."""
        while self.budget < seconds - 1e-9:
            self.at_rest.set()
            await self.turn.wait()
            self.turn.clear()
        self.budget -= seconds
        self.now += seconds
        self.each_sleep()

    async def pass_time(self, seconds: float) -> None:
        """Return when the loop sleeps beyond ``seconds`` from now."""
        self.budget += seconds
        self.at_rest.clear()
        self.turn.set()
        async with asyncio.timeout(60):
            await self.at_rest.wait()

    async def __aenter__(self) -> World:
        self.monitoring.start()
        async with asyncio.timeout(60):
            await self.at_rest.wait()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self.gate is not None:
            self.gate.set()
        await self.monitoring.stop()


async def test_it_samples_seldom_while_nobody_watches() -> None:
    async with World() as world:
        await world.pass_time(30)
        assert world.samples == [0, 10, 20, 30]


async def test_a_question_makes_it_sample_often_for_a_while() -> None:
    async with World() as world:
        await world.pass_time(15)
        assert (await world.monitoring.latest()).at == START + timedelta(seconds=15)
        await world.pass_time(30)
    # Watched for 10 s; then 10 s after the last one.
    assert world.samples == [0, 10, *range(15, 25), 34, 44]


async def test_a_reader_makes_it_sample_often_until_it_leaves() -> None:
    async with World() as world:
        seen: list[str] = []

        async def read() -> None:
            async for batch in world.events.subscribe({"resources", "model"}):
                seen.extend(msgspec.json.decode(event.json)["at"] for event in batch)

        reader = asyncio.create_task(read())
        await asyncio.sleep(0)
        await world.pass_time(5)
        assert world.samples == [0, 1, 2, 3, 4, 5]
        assert len(seen) == 5
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
        await world.pass_time(40)
    assert world.samples[6:] == [*range(6, 15), 24, 34, 44]


async def test_a_reader_of_other_topics_is_none() -> None:
    async with World() as world:
        other = asyncio.create_task(anext(world.events.subscribe({"log"})))
        await asyncio.sleep(0)
        await world.pass_time(10)
        other.cancel()
        await asyncio.gather(other, return_exceptions=True)
    assert world.samples == [0, 10]


async def test_a_changed_interval_applies_after_a_second_at_most() -> None:
    async with World() as world:
        await world.monitoring.latest()
        world.set(sample_interval=0.5)
        await world.pass_time(2)
        assert world.samples == [0, 1, 1.5, 2]
        world.set(sample_interval=20.0)
        await world.pass_time(30)
    assert world.samples == [0, 1, 1.5, 2, 22]


async def test_a_fresh_answer_is_the_one_there_is_and_an_old_one_is_replaced() -> None:
    async with World() as world:
        await world.monitoring.latest()
        assert world.samples == [0]
        await world.pass_time(9)
        world.now += 2
        assert (await world.monitoring.latest()).at == START + timedelta(seconds=9)
        world.now += 0.5
        assert (await world.monitoring.latest()).at == START + timedelta(seconds=11.5)
        world.now += 0.5
        assert (await world.monitoring.latest(0.5)).at == START + timedelta(seconds=11.5)
        assert (await world.monitoring.latest(0.4)).at == START + timedelta(seconds=12)


async def test_samples_that_last_long_never_pile_up() -> None:
    async with World() as world:
        world.gate = threading.Event()
        world.now += 5
        asking = [asyncio.create_task(world.monitoring.latest()) for _ in range(5)]
        await asyncio.sleep(0)
        world.gate.set()
        answers = await asyncio.gather(*asking)
        assert {answer.at for answer in answers} == {START + timedelta(seconds=5)}
    assert world.samples == [0, 5]
    assert world.most_inside == 1


async def test_errors_are_logged_once_and_stop_nothing(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.fails = True
    with caplog.at_level(logging.ERROR):
        async with world:
            with pytest.raises(CyberError):
                await world.monitoring.latest()
            await world.pass_time(3)
            assert len(world.samples) >= 3
            world.fails = False
            await world.pass_time(1)
            await world.monitoring.latest()
    assert [record.message for record in caplog.records] == ["the machine cannot be read"]


async def test_the_history_is_what_was_published() -> None:
    async with World() as world:
        published = world.events.subscribe({"resources"}, after=0)
        await world.pass_time(40)
        history = world.monitoring.history(25)
        assert [msgspec.json.decode(sample)["at"] for sample in history] == [
            "2026-01-31T12:00:20Z",
            "2026-01-31T12:00:30Z",
            "2026-01-31T12:00:40Z",
        ]
        assert [event.json for event in published.take()][-3:] == history
        assert len(world.monitoring.history(10**18)) == 5
        assert world.monitoring.history(0) == history[-1:]


async def test_the_disks_are_those_of_the_settings() -> None:
    async with World() as world:
        await world.pass_time(10)
        world.set(models_dir=Path("/a"), model_dirs=(Path("/b"),))
        await world.pass_time(20)
    assert world.made == [(Path("/a"),), (Path("/a"), Path("/b"))]


async def test_after_its_end_it_reads_nothing() -> None:
    async with World() as world:
        pass
    world.now += 100
    assert (await world.monitoring.latest()).at == START
    assert world.samples == [0]
