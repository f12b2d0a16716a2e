"""The past of the machine: samples for minutes, rows for days, across restarts and clocks."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cyber_inference_tui.records import (
    CpuRecord,
    DeviceRecord,
    DiskRecord,
    FanRecord,
    GpuPoint,
    GpuRecord,
    MemoryRecord,
    ModelUsage,
    ResourceSample,
    SwapRecord,
    ThrottleReason,
    Trend,
    TrendMark,
    TrendPoint,
)
from cyber_inference_tui.records.queries import TrendQuery
from cyber_inference_tui.service.history import History
from cyber_inference_tui.service.trend_points import Minute
from cyber_inference_tui.service.trends import Trends
from tests.service.history_records import open_history, request, stored_minutes

START = datetime(2026, 3, 4, 12, tzinfo=UTC)
HOUR = TrendQuery(seconds=3600, points=60)


class World:
    """Trends, and a machine whose figures a test sets."""

    def __init__(self, history: History, now: datetime = START) -> None:
        self.now = now
        self.trends = Trends(history, now=lambda: self.now)

    def sample(self, cpu: float = 50.0, /, **rates: float) -> None:
        """A sample now, and a second passes."""
        usages = (ModelUsage(id=name, pid=1, tokens_per_second=rates[name]) for name in rates)
        self.add(cpu=CpuRecord(percent=cpu), models=tuple(usages))

    def add(self, **fields: Any) -> None:
        base: dict[str, Any] = {
            "at": self.now,
            "device": DeviceRecord(),
            "cpu": CpuRecord(),
            "memory": MemoryRecord(),
            "swap": SwapRecord(),
        }
        self.trends.add(ResourceSample(**{**base, **fields}))
        self.now += timedelta(seconds=1)

    async def cpu(self, query: TrendQuery) -> list[tuple[float, float | None]]:
        """The load by seconds since the start."""
        trend = await self.trends.read(query)
        return [((one.at - START).total_seconds(), one.cpu_percent) for one in trend.points]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.sqlite3"


@asynccontextmanager
async def world_at(path: Path, now: datetime = START) -> AsyncIterator[World]:
    """A run of the service, from ``now``."""
    async with open_history(path, now=lambda: now) as history:
        world = World(history, now)
        yield world
        world.trends.close()


async def test_a_point_has_all_that_the_machine_reports(path: Path) -> None:
    async with world_at(path) as world:
        world.add(
            cpu=CpuRecord(percent=12.5),
            memory=MemoryRecord(total=100, used=60),
            swap=SwapRecord(total=10, used=2),
            zram=SwapRecord(total=10, used=3),
            gpus=(
                GpuRecord(
                    name="A",
                    utilization_percent=80.0,
                    memory_used=5,
                    memory_total=8,
                    temperature_c=71.0,
                    power_w=120.5,
                    clock_hz=1_500_000_000,
                ),
                GpuRecord(name="B"),
            ),
            temperatures={"cpu": 55.0, "tj": 61.0, "off": None},
            power={"total": 17.5, "VDD_CPU": 4.0},
            fan=FanRecord(percent=42.0),
            disks=(DiskRecord(path="/models", percent=33.0), DiskRecord(path="/", percent=90.0)),
            models=(
                ModelUsage(id="plum", pid=1, tokens_per_second=40.0),
                ModelUsage(id="fig", pid=2, tokens_per_second=0.0),
                ModelUsage(id="kiwi", pid=3),
            ),
        )
        trend = await world.trends.read(TrendQuery())
    assert trend == Trend(
        step_seconds=1.0,
        points=(
            TrendPoint(
                at=START,
                cpu_percent=12.5,
                memory_used=60,
                memory_total=100,
                swap_used=5,
                disk_percent=33.0,
                power_w=17.5,
                temperature_c=71.0,
                fan_percent=42.0,
                gpus=(
                    GpuPoint(
                        utilization_percent=80.0,
                        memory_used=5,
                        memory_total=8,
                        temperature_c=71.0,
                        power_w=120.5,
                        clock_hz=1_500_000_000,
                    ),
                    GpuPoint(),
                ),
                tokens_per_second={"plum": 40.0},
            ),
        ),
    )


async def test_a_short_span_has_seconds_and_leaves_out_empty_periods(path: Path) -> None:
    async with world_at(path) as world:
        for second in range(3):
            world.sample(float(second))
        world.now += timedelta(seconds=7)
        world.sample(10.0)
        assert await world.cpu(TrendQuery()) == [(0, 0.0), (1, 1.0), (2, 2.0), (10, 10.0)]
        pairs = TrendQuery(seconds=300, points=150)
        assert await world.cpu(pairs) == [(0, 0.5), (2, 2.0), (10, 10.0)]
        world.now = START + timedelta(seconds=20)
        assert await world.cpu(TrendQuery(seconds=12, points=12)) == [(10, 10.0)]
        assert len(await world.cpu(TrendQuery(seconds=0, points=0))) == 0


async def test_periods_are_means_and_of_memory_the_highest(path: Path) -> None:
    async with world_at(path) as world:
        for used, load in ((10, 30.0), (40, 50.0), (20, 10.0)):
            gpu = GpuRecord(name="A", utilization_percent=load, memory_used=used)
            world.add(memory=MemoryRecord(used=used), gpus=(gpu,), power={"total": load})
        (point,) = (await world.trends.read(HOUR)).points
    assert (point.at, point.memory_used, point.power_w) == (START, 40, 30.0)
    assert point.gpus == (GpuPoint(utilization_percent=30.0, memory_used=40),)


async def test_a_minute_is_watched_in_part_only(path: Path) -> None:
    async with world_at(path) as world:
        for _ in range(10):
            world.sample(100.0)
        for second in range(10, 60, 10):
            world.now = START + timedelta(seconds=second)
            world.sample(40.0)
        assert await world.cpu(HOUR) == [(0, 50.0)]


async def test_rates_of_models_are_means_over_the_whole_period(path: Path) -> None:
    async with world_at(path) as world:
        world.sample(plum=60.0)
        world.sample(plum=30.0, fig=10.0)
        world.sample()
        (point,) = (await world.trends.read(HOUR)).points
    assert point.tokens_per_second == {"plum": 30.0, "fig": 3.33}


async def test_first_tokens_are_the_median_of_streams(path: Path) -> None:
    async with world_at(path) as world:
        for first in (0.1, 0.2, 5.0):
            record = request(stream=True, time_to_first_token_seconds=first)
            world.trends.note_requests([record, request(time_to_first_token_seconds=90.0)])
        world.sample()
        world.trends.note_requests([request(stream=True, time_to_first_token_seconds=9.0)])
        world.sample()
        world.sample()
        short = (await world.trends.read(TrendQuery())).points
        (minute,) = (await world.trends.read(HOUR)).points
    assert [point.first_token_seconds for point in short] == [0.2, 9.0, None]
    # Not the median of the medians.
    assert minute.first_token_seconds == 2.6


async def test_minutes_are_kept_across_restarts(path: Path) -> None:
    async with world_at(path) as world:
        for minute in range(25):
            world.now = START + timedelta(minutes=minute)
            world.sample(float(minute))
            world.sample(float(minute) + 1)
        # Written in batches, as SD cards like it.
        await world.trends.read(HOUR)
        assert len(stored_minutes(path)) == 20
        before = await world.cpu(HOUR)
        assert before == [(60 * minute, minute + 0.5) for minute in range(25)]
    restart = START + timedelta(minutes=40)
    async with world_at(path, restart) as world:
        assert await world.cpu(HOUR) == before
        world.sample(99.0)
        assert await world.cpu(HOUR) == [*before, (2400, 99.0)]
        assert await world.cpu(TrendQuery(seconds=3600, points=6)) == [
            (0, 5.0),
            (600, 15.0),
            (1200, 22.5),
            (2400, 99.0),
        ]


async def test_a_clock_that_is_set_back_replaces_what_comes_again(path: Path) -> None:
    async with world_at(path) as world:
        for minute in range(30):
            world.now = START + timedelta(minutes=minute)
            world.sample(1.0)
        world.now = START + timedelta(minutes=10)
        world.sample(2.0)
        assert await world.cpu(HOUR) == [*((60 * minute, 1.0) for minute in range(10)), (600, 2.0)]
        world.now = START + timedelta(minutes=11)
        world.sample(2.0)
        assert (await world.cpu(HOUR))[-2:] == [(600, 2.0), (660, 2.0)]
    minutes = stored_minutes(path)
    assert len(minutes) == len(set(minutes)) == 30


async def test_a_clock_that_starts_years_off_disturbs_nothing(path: Path) -> None:
    async with world_at(path, datetime(1970, 1, 1, tzinfo=UTC)) as world:
        world.sample(1.0)
        world.now = datetime(2090, 1, 1, tzinfo=UTC)
        world.sample(2.0)
        world.now = START
        world.sample(3.0)
        assert await world.cpu(TrendQuery()) == [(0, 3.0)]
        assert await world.cpu(TrendQuery(seconds=7 * 86400)) == [(-240, 3.0)]


async def test_a_week_is_kept_and_downsampled(path: Path) -> None:
    first = START - timedelta(days=8)
    async with world_at(path, START) as world:
        for quarter in range(8 * 96):
            world.now = first + timedelta(minutes=15 * quarter)
            world.sample(float(quarter))
        world.now = START
    async with world_at(path, START) as world:
        trend = await world.trends.read(TrendQuery(seconds=7 * 86400, points=300))
        assert len(stored_minutes(path)) == 7 * 96
    assert trend.step_seconds == 34 * 60
    assert len(trend.points) <= 300
    assert START - timedelta(days=7) <= trend.points[0].at < START - timedelta(days=7, hours=-1)


async def test_marks_are_kept_for_long_and_short_spans(path: Path) -> None:
    def mark(minutes: float, text: str) -> TrendMark:
        at = START + timedelta(minutes=minutes)
        return TrendMark(at=at, kind="loaded", subject="plum", text=text)

    old, new = mark(-30, "loaded, uses 3 GiB"), mark(-1, "loaded")
    async with world_at(path) as world:
        for one in (mark(-90, "too early"), old, new, mark(5, "too late")):
            world.trends.mark(one)
        assert (await world.trends.read(TrendQuery())).marks == (new,)
        assert (await world.trends.read(HOUR)).marks == (old, new)
    async with world_at(path) as world:
        assert (await world.trends.read(HOUR)).marks == (old, new)


async def test_damaged_minutes_are_left_out(path: Path) -> None:
    async with world_at(path) as world:
        world.now += timedelta(minutes=4)
        world.sample(4.0)
    async with open_history(path) as history:
        for number, point in enumerate((b"", b"{", b"\xff", b'{"at": "2026-03-04T12:01:00"}')):
            history.add(Minute(at=START + timedelta(minutes=number), point=point))
        assert await World(history, START + timedelta(minutes=5)).cpu(HOUR) == [(240, 4.0)]


async def test_without_a_history_there_are_still_the_last_minutes(tmp_path: Path) -> None:
    async with world_at(tmp_path / "none") as world:
        pass
    history = History(Path("/proc/none/history.sqlite3"), now=lambda: START)
    await history.start()
    world = World(history)
    world.sample(1.0)
    assert await world.cpu(TrendQuery()) == await world.cpu(HOUR) == [(0, 1.0)]
    await history.stop()


async def test_a_part_that_is_slowed_down_gets_a_mark_when_that_begins(path: Path) -> None:
    hot = GpuRecord(name="A", throttled_by=(ThrottleReason.TEMPERATURE, ThrottleReason.POWER))
    cool = GpuRecord(name="B", throttled_by=(ThrottleReason.POWER,))
    async with world_at(path) as world:
        for _ in range(3):
            world.add(gpus=(cool, hot), throttling={"board": (ThrottleReason.CURRENT,)})
        world.now += timedelta(seconds=30)
        world.add(gpus=(cool, hot))
        world.now += timedelta(minutes=2)
        world.add(gpus=(hot,), throttling={"cpu": (ThrottleReason.TEMPERATURE,)})
        marks = (await world.trends.read(TrendQuery())).marks
    heat = "slowed down: it is too hot"
    assert sorted((mark.at, mark.kind, mark.subject, mark.text) for mark in marks) == [
        (START, "throttled", "GPU 1", heat),
        (START, "throttled", "board", "slowed down: it draws too much current"),
        (START + timedelta(seconds=154), "throttled", "CPU", heat),
        (START + timedelta(seconds=154), "throttled", "GPU", heat),
    ]


async def test_the_number_of_marks_is_bounded(path: Path) -> None:
    crash = TrendMark(at=START, kind="failed", subject="plum", text="crashed")
    async with open_history(path, now=lambda: START) as history:
        for _ in range(3):
            history.add_all([crash] * 5000)
            await history.flush()
    async with open_history(path, now=lambda: START) as history:
        assert len(await history.marks(START, START)) == 1000
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM marks").fetchone() == (10_000,)
