"""The feed: following a service that is quiet, frozen or broken."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from cyber_inference_tui.client.service_client import ServiceClient
from cyber_inference_tui.errors import UpstreamError
from cyber_inference_tui.records import (
    LiveRequest,
    LiveRequests,
    RequestPhase,
    RequestRecord,
    endpoints,
)
from cyber_inference_tui.records.endpoints import Endpoint
from cyber_inference_tui.tui.app_options import AppOptions
from cyber_inference_tui.tui.chrome import STALE_SECONDS, status_line
from cyber_inference_tui.tui.feed import RATES_KEPT, Feed
from cyber_inference_tui.tui.snapshot import Link, Snapshot
from tests.tui.fake_client import FakeClient
from tests.tui.world import busy_world, streaming_world
from tests.waiting import LIMIT


class FreezingClient(FakeClient):
    """A service that answers no more while ``frozen``, as one that was stopped by a signal."""

    def __init__(self) -> None:
        super().__init__(busy_world())
        self.answers = asyncio.Event()
        self.answers.set()
        self.asked = 0

    async def call_with_headers(
        self, endpoint: Endpoint[Any, Any, Any], *arguments: Any, **options: Any
    ) -> tuple[Any, Mapping[str, str]]:
        if endpoint is endpoints.STATUS:
            self.asked += 1
            await self.answers.wait()
        return await super().call_with_headers(endpoint, *arguments, **options)


class Clock:
    """Time that passes while somebody sleeps."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    async def sleep(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        await asyncio.sleep(0)


@asynccontextmanager
async def followed(client: ServiceClient, clock: Clock) -> AsyncIterator[Feed]:
    """Run a feed without a login."""

    async def login() -> None:
        raise AssertionError("no login is needed")

    feed = Feed(
        client,
        on_change=lambda _: None,
        on_login=login,
        now=lambda: clock.now,
        sleep=clock.sleep,
    )
    task = asyncio.create_task(feed.run())
    try:
        yield feed
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def happens(condition: Callable[[], bool]) -> None:
    """Let other tasks run until the condition holds."""
    async with asyncio.timeout(LIMIT):
        while not condition():
            await asyncio.sleep(0)


def header(feed: Feed, clock: Clock) -> str:
    """Return the status line."""
    return status_line(feed.snapshot, AppOptions(), clock.now, 120).plain


async def test_a_program_that_never_answers_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cyber_inference_tui.tui.feed._ANSWER_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        async with ServiceClient(url) as client, followed(client, Clock()) as feed:
            await happens(lambda: feed.snapshot.link is Link.LOST)
            assert "did not answer" in feed.snapshot.problem


async def test_a_service_without_news_is_asked_and_not_called_old() -> None:
    client, clock = FreezingClient(), Clock()
    async with followed(client, clock) as feed:
        await happens(lambda: feed.snapshot.live)
        began = clock.now
        await happens(lambda: clock.now - began > timedelta(seconds=10 * STALE_SECONDS))
        assert feed.snapshot.updated_at is not None
        assert (clock.now - feed.snapshot.updated_at).total_seconds() < STALE_SECONDS
        assert "old" not in header(feed, clock)


async def test_values_of_a_frozen_service_have_their_age() -> None:
    client, clock = FreezingClient(), Clock()
    async with followed(client, clock) as feed:
        await happens(lambda: feed.snapshot.live)
        client.answers.clear()
        asked = client.asked
        await happens(lambda: client.asked > asked)
        # Nothing moves any more but the clock on the wall.
        await clock.sleep(STALE_SECONDS)
        assert "no answer, values" in header(feed, clock)
        client.answers.set()
        await happens(lambda: "old" not in header(feed, clock))
        assert feed.snapshot.live


async def test_one_part_that_fails_is_named_and_the_rest_stays_live() -> None:
    client, clock = FakeClient(busy_world()), Clock()
    async with followed(client, clock) as feed:
        await happens(lambda: feed.snapshot.live and len(feed.snapshot.active) > 0)
        active = feed.snapshot.active
        client.fail["active_requests"] = UpstreamError("The service has a fault.")
        client.fail["memory_room"] = UpstreamError("The service has a fault.")
        client.publish("resources", client.world.samples[-1])
        await happens(lambda: feed.snapshot.outdated == {"live requests", "memory"})
        assert feed.snapshot.live
        assert feed.snapshot.active == active
        assert feed.snapshot.rooms == tuple(client.world.rooms)
        assert "outdated: live requests, memory" in header(feed, clock)
        client.fail.clear()
        client.publish("resources", client.world.samples[-1])
        await happens(lambda: not feed.snapshot.outdated)
        assert "outdated" not in header(feed, clock)


async def test_a_finished_request_is_live_no_longer() -> None:
    client, clock = FakeClient(busy_world()), Clock()
    async with followed(client, clock) as feed:
        await happens(lambda: feed.snapshot.live and len(feed.snapshot.active) > 0)
        over = feed.snapshot.active[0]
        # The service's list may be older than the event about the end of this request.
        client.publish(
            "request",
            RequestRecord(
                at=over.at,
                model=over.model,
                path=over.path,
                status=200,
                duration_seconds=1.0,
                client=over.client,
            ),
        )
        await happens(lambda: over not in feed.snapshot.active)
        began = clock.now
        await happens(lambda: clock.now - began > timedelta(seconds=5))
        assert over not in feed.snapshot.active
        assert len(feed.snapshot.active) == len(client.world.active) - 1


async def test_live_figures_are_taken_twice_a_second_and_at_once_when_requests_change() -> None:
    client, clock = FakeClient(streaming_world()), Clock()

    def publish(tokens: int, *numbers: int) -> None:
        live = tuple(
            LiveRequest(
                number=number,
                phase=RequestPhase.ANSWERING,
                tokens_out=tokens,
                tokens_per_second=float(tokens),
            )
            for number in numbers
        )
        speeds = {"qwen3-4b-q4_k_m": float(tokens)} if tokens else {}
        client.publish("request", LiveRequests(live=live, tokens_per_second=speeds))

    async with followed(client, clock) as feed:
        await happens(lambda: len(feed.snapshot.active) == 8)
        taken: list[int | None] = []
        for tokens in range(1, 101):
            before = clock.now
            publish(tokens, 40, 41)
            await happens(lambda before=before: clock.now > before)  # type: ignore[misc]
            taken.append(feed.snapshot.active[0].tokens_out)
        assert 2 <= len(set(taken)) < 100
        assert len(feed.snapshot.rates[40]) <= RATES_KEPT
        publish(7, 40)
        await happens(lambda: feed.snapshot.speeds == {"qwen3-4b-q4_k_m": 7.0})
        assert set(feed.snapshot.rates) <= {40}
        # Short answers have ended when the figures come: the model has a speed all the same.
        clock.now += timedelta(seconds=1)
        publish(9)
        await happens(lambda: feed.snapshot.speeds_now == {"qwen3-4b-q4_k_m": 9.0})
        # The last figures are taken, however soon they come.
        publish(0)
        await happens(lambda: feed.snapshot.speeds_now == {})


async def test_live_figures_of_an_unknown_request_have_all_read_again() -> None:
    client, clock = FakeClient(streaming_world()), Clock()
    async with followed(client, clock) as feed:
        await happens(lambda: len(feed.snapshot.active) == 8)
        new = msgspec.structs.replace(client.world.active[0], number=99, path="/v1/responses")
        client.world.active.append(new)
        figures = LiveRequest(number=99, phase=RequestPhase.PROCESSING)
        client.publish("request", LiveRequests(live=(figures,)))
        await happens(lambda: len(feed.snapshot.active) == 9)


@pytest.mark.parametrize("lost", [False, True])
def test_the_first_line_fits_and_says_what_is_wrong(lost: bool) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    world = busy_world()
    for attached in (False, True):
        snapshot = Snapshot(
            link=Link.LOST if lost else Link.LIVE,
            updated_at=now - timedelta(seconds=72 if lost else 0),
            status=world.status,
            status_at=now,
            sample=world.samples[-1],
        )
        options = AppOptions(attached=attached, readonly=attached)
        for width in range(58, 200):
            line = status_line(snapshot, options, now, width).plain
            assert len(line) <= width
            if lost:
                assert "no connection, values 1 min 12 s old" in line
            else:
                assert line.endswith(now.strftime("%H:%M:%S"))
                assert "…" not in line  # it leaves out whole facts


async def test_the_time_of_the_next_attempt_is_known_and_can_be_now() -> None:
    client, clock = FakeClient(busy_world()), Clock()
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        if seconds != 0.25:  # between two updates of the screen
            waits.append(seconds)
            await asyncio.Event().wait()

    client.stop()
    clock.sleep = sleep  # type: ignore[method-assign]
    async with followed(client, clock) as feed:
        for pause in (0.5, 1.0, 2.0, 4.0, 5.0, 5.0):
            await happens(lambda: bool(waits))
            assert waits.pop() == pause
            assert feed.snapshot.retry_at == clock.now + timedelta(seconds=pause)
            feed.retry()
        await happens(lambda: bool(waits))
        client.start()
        feed.retry()
        await happens(lambda: feed.snapshot.live)
        assert feed.snapshot.retry_at is None
