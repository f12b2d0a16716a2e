"""The figures of requests in progress, in virtual time."""

from __future__ import annotations

import asyncio
import itertools
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from cyber_inference_tui.records import (
    ActiveRequestRecord,
    LiveRequests,
    RequestPhase,
    RequestRecord,
)
from cyber_inference_tui.service.events import EventBus
from cyber_inference_tui.service.live_figures import LiveFigures
from tests.scheduler.virtual import now, run

AT = datetime(2026, 1, 31, 12, tzinfo=UTC)


def active(number: int, tokens: int | None, **more: Any) -> ActiveRequestRecord:
    return ActiveRequestRecord(
        number=number,
        at=AT,
        model="m",
        path="/v1/chat/completions",
        phase=RequestPhase.ANSWERING if tokens else RequestPhase.PROCESSING,
        tokens_out=tokens,
        request_id=f"id-{number}",
        **more,
    )


def ended(number: int, tokens: int, seconds: float) -> RequestRecord:
    return RequestRecord(
        at=AT,
        model="m",
        path="/v1/chat/completions",
        status=200,
        tokens_out=tokens,
        answer_seconds=seconds,
        duration_seconds=seconds,
        request_id=f"id-{number}",
    )


class World:
    """Requests in progress, and a reader."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.present: list[ActiveRequestRecord] = []
        self.looks = 0
        self.bus = EventBus(clock=loop.time)
        self.measured: dict[str, float] = {}
        self.live = LiveFigures(self.bus, records=self._look, measured=lambda: self.measured)
        self.got: list[tuple[float, LiveRequests]] = []

    def _look(self) -> list[ActiveRequestRecord]:
        self.looks += 1
        return list(self.present)

    async def read(self) -> None:
        """Read the events until cancelled."""
        async for batch in self.bus.subscribe({"request"}):
            self.got += [(now(), msgspec.json.decode(one.json, type=LiveRequests)) for one in batch]


def test_figures_come_while_they_change_and_at_most_four_times_a_second() -> None:
    async def scenario() -> None:
        world = World()
        reader = asyncio.create_task(world.read())
        await asyncio.sleep(0)
        world.present = [active(1, 1), active(2, None)]
        world.live.look_soon()
        for tokens in range(1, 400):
            world.present[0] = active(1, tokens, tokens_per_second=20.0)
            await asyncio.sleep(0.05)
        times = [at for at, _ in world.got]
        assert min(b - a for a, b in itertools.pairwise(times)) > 0.249
        assert len(times) == pytest.approx(80, abs=2)
        figures = world.got[-1][1]
        assert [(one.number, one.phase) for one in figures.live] == [
            (1, RequestPhase.ANSWERING),
            (2, RequestPhase.PROCESSING),
        ]
        assert figures.live[0].tokens_out == pytest.approx(395, abs=6)
        assert figures.tokens_per_second == {"m": pytest.approx(20.0, rel=0.05)}
        # Once the model is silent its speed falls to nothing, and then nothing more is sent.
        await asyncio.sleep(10)
        count = len(world.got)
        assert world.got[-1][1].tokens_per_second == {}
        await asyncio.sleep(60)
        assert len(world.got) == count
        # The end of the last request is the last event, and nothing looks any more.
        world.present = []
        await asyncio.sleep(1)
        assert world.got[-1][1] == LiveRequests(live=())
        looks = world.looks
        await asyncio.sleep(60)
        assert (world.looks, len(world.got)) == (looks, count + 1)
        reader.cancel()

    run(scenario())


def test_nobody_looks_while_nobody_reads() -> None:
    async def scenario() -> None:
        world = World()
        world.present = [active(1, 5)]
        world.live.look_soon()
        world.live.note([ended(2, 5, 1.0)])
        await asyncio.sleep(60)
        assert world.looks == 0
        assert world.bus.rings["request"].end == 0
        # A reader who comes later gets the figures of what was in progress before.
        reader = asyncio.create_task(world.read())
        world.live.look_soon()
        await asyncio.sleep(1)
        assert world.got[0][1].live[0].tokens_out == 5
        # One who has left gets nothing.
        reader.cancel()
        await asyncio.sleep(5)
        looks = world.looks
        await asyncio.sleep(60)
        assert world.looks == looks

    run(scenario())


def test_the_speed_of_a_model_includes_answers_that_have_ended() -> None:
    async def scenario() -> None:
        world = World()
        reader = asyncio.create_task(world.read())
        await asyncio.sleep(0)
        # Ten short answers a second, of which none is seen in progress.
        for number in range(1, 81):
            world.live.note([ended(number, 4, 0.05)])
            await asyncio.sleep(0.1)
        assert world.got[-1][1].tokens_per_second == {"m": pytest.approx(40.0, rel=0.05)}
        # A stream that was seen counts once, also the tokens after the last look.
        await asyncio.sleep(10)
        world.present = [active(0, 100, tokens_per_second=100.0)]
        world.live.look_soon()
        await asyncio.sleep(0.3)
        world.present = []
        world.live.note([ended(0, 110, 1.1)])
        await asyncio.sleep(0.3)
        speed = world.got[-1][1].tokens_per_second["m"]
        assert speed == pytest.approx(110 / 1.25, rel=0.05)
        reader.cancel()

    run(scenario())


def test_answers_that_come_as_a_whole_have_the_speed_that_their_server_reports() -> None:
    async def scenario() -> None:
        world = World()
        reader = asyncio.create_task(world.read())
        await asyncio.sleep(0)
        world.measured = {"m": 30.0, "other": 20.0}
        world.present = [active(1, None)]
        world.live.look_soon()
        await asyncio.sleep(5)
        assert world.got[-1][1].tokens_per_second == {"m": 30.0}
        world.present, world.measured = [], {}
        world.live.note([ended(1, 150, 5.0)])
        await asyncio.sleep(0.3)
        assert world.got[-1][1].tokens_per_second == {"m": pytest.approx(30.0, rel=0.1)}
        # The prompt of a stream is no reason to believe a sample.
        world.measured = {"m": 50.0}
        world.present = [active(2, None, stream=True)]
        await asyncio.sleep(10)
        assert world.got[-1][1].tokens_per_second == {}
        reader.cancel()

    run(scenario())


def test_many_requests_are_sent_less_often() -> None:
    async def scenario() -> None:
        world = World()
        reader = asyncio.create_task(world.read())
        await asyncio.sleep(0)
        world.live.look_soon()
        for tokens in range(1, 200):
            world.present = [active(number, tokens) for number in range(256)]
            await asyncio.sleep(0.05)
        times = [at for at, _ in world.got]
        assert min(b - a for a, b in itertools.pairwise(times)) > 0.999
        reader.cancel()

    run(scenario())
