"""The terminal app's tests use a fake client: here it and a real service do the same, call by call,
and the app is driven on both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar

import pytest
from textual.pilot import Pilot

from cyber_inference_tui.client.service_client import ServiceClient
from cyber_inference_tui.errors import ModelNotFoundError, NoServiceError, NotFoundError
from cyber_inference_tui.records import ModelDetails, ModelStatus, SettingEffect, endpoints, queries
from cyber_inference_tui.tui.app import CyberApp
from cyber_inference_tui.tui.app_options import AppOptions
from tests.real.conftest import Starter
from tests.tui.driving import screen_text, until
from tests.tui.fake_client import FakeClient
from tests.tui.world import World, line, model, setting, status
from tests.waiting import LIMIT

T = TypeVar("T")
KINDS = ["fake", "real"]
LINES = ["line one", "line two", "line three"]
Serving = Callable[[], Any]


def small_world() -> World:
    """What the real service has: two models that nobody asked yet, and a log."""
    models = {name: model(name, status=ModelStatus.UNLOADED) for name in ("a", "b")}
    return World(
        status=status(),
        models=models,
        logs={
            "service": [line(0, "listening")],
            "a": [line(number, f"line {number}") for number in range(4)],
        },
        details={
            name: ModelDetails(model=one, command=("llama-server", "--model", one.path or ""))
            for name, one in models.items()
        },
        config={
            "max_queue": setting("max_queue", 128),
            "host": setting("host", "127.0.0.1", live=False),
        },
    )


@pytest.fixture(params=KINDS)
def serving(request: pytest.FixtureRequest, starter: Starter) -> Serving:
    """Opens the client; ``stop`` takes its service away."""

    @asynccontextmanager
    async def fake() -> AsyncIterator[tuple[ServiceClient, Callable[[], Any]]]:
        client = FakeClient(small_world())
        yield client, client.stop

    @asynccontextmanager
    async def real() -> AsyncIterator[tuple[ServiceClient, Callable[[], Any]]]:
        service = await asyncio.to_thread(starter.fake, {"a": {"load_lines": LINES}, "b": {}})
        async with ServiceClient(service.url) as client:
            yield client, service.stop

    return fake if request.param == "fake" else real


async def soon(look: Callable[[], Awaitable[T | None]]) -> T:
    """The first true answer."""
    async with asyncio.timeout(LIMIT):
        while not (found := await look()):
            await asyncio.sleep(0.02)
    return found


async def test_models(serving: Serving) -> None:
    async with serving() as (client, _):
        assert [one.id for one in await client.call(endpoints.MODELS)] == ["a", "b"]
        assert (await client.call(endpoints.LOAD, "a", timeout=30)).status is ModelStatus.LOADED
        assert (await client.call(endpoints.DETAILS, "a")).model.status is ModelStatus.LOADED
        assert (await client.call(endpoints.PIN, "a")).pinned
        assert not (await client.call(endpoints.UNPIN, "a")).pinned
        assert (await client.call(endpoints.UNLOAD, "a", timeout=30)).status is ModelStatus.UNLOADED
        for endpoint in (
            endpoints.LOAD,
            endpoints.UNLOAD,
            endpoints.DELETE_MODEL,
            endpoints.DETAILS,
        ):
            with pytest.raises(ModelNotFoundError):
                await client.call(endpoint, "nobody")


async def test_events_tell_what_was_done(serving: Serving) -> None:
    async with serving() as (client, _):
        after = (await client.call(endpoints.STATUS)).last_event_id
        seen: list[bytes] = []

        async def follow() -> None:
            async with aclosing(client.events(("model",), after=after)) as events:
                async for event in events:
                    assert event.topic == "model"
                    seen.append(event.data)

        follower = asyncio.create_task(follow())
        # The fake forgets what nobody followed.
        await asyncio.sleep(0.3)
        await client.call(endpoints.LOAD, "b", timeout=30)

        async def told() -> bool:
            return any(b'"loaded"' in data and b'"id":"b"' in data for data in seen)

        await soon(told)
        follower.cancel()
        await asyncio.gather(follower, return_exceptions=True)


async def test_settings(serving: Serving) -> None:
    async with serving() as (client, _):
        assert (await client.check_config("max_queue", 64)).effect is SettingEffect.NOW
        assert (
            await client.check_config("host", "127.0.0.2")
        ).effect is SettingEffect.RESTARTS_SERVICE
        changed = await client.call(endpoints.SET_CONFIG, "max_queue", body=queries.NewValue(64))
        assert (changed.value, changed.source) == (64, "file")
        assert (await client.call(endpoints.UNSET_CONFIG, "max_queue")).value == 128
        with pytest.raises(NotFoundError):
            await client.check_config("no_such_key", 1)
        with pytest.raises(NotFoundError):
            await client.call(endpoints.SET_CONFIG, "no_such_key", body=queries.NewValue(1))


async def test_logs(serving: Serving) -> None:
    async with serving() as (client, _):
        await client.call(endpoints.LOAD, "a", timeout=30)
        assert {"service", "a"} <= {log.id for log in await client.call(endpoints.LOGS)}
        page = await client.call(endpoints.LOG_LINES, "a")
        numbers = [one.number for one in page.lines]
        assert numbers == list(range(page.log.first, page.log.first + len(numbers)))
        from_one = await client.call(
            endpoints.LOG_LINES, "a", query=queries.LinesQuery(after=1, limit=2)
        )
        assert [one.number for one in from_one.lines] == [1, 2]
        assert from_one.searched_to == 3
        until_two = await client.call(endpoints.LOG_LINES, "a", query=queries.LinesQuery(before=2))
        assert [one.number for one in until_two.lines] == [0, 1]
        found = await client.call(
            endpoints.LOG_LINES, "a", query=queries.LinesQuery(q=page.lines[2].text.upper())
        )
        assert 2 in [one.number for one in found.lines]
        assert not (
            await client.call(
                endpoints.LOG_LINES, "a", query=queries.LinesQuery(q="not in any line")
            )
        ).lines
        with pytest.raises(ModelNotFoundError):
            await client.call(endpoints.LOG_LINES, "nobody")


async def test_an_answer_streams(serving: Serving) -> None:
    async with serving() as (client, _):
        question = [{"role": "user", "content": "Hello"}]
        deltas = []
        async with aclosing(client.chat("a", question, sampling={"max_tokens": 5})) as answer:
            async for delta in answer:
                deltas.append(delta)  # noqa: PERF401 - closed in between, if it fails
        assert "".join(delta.text for delta in deltas)
        assert [delta.finish_reason for delta in deltas if delta.finish_reason]
        with pytest.raises(ModelNotFoundError):
            await anext(client.chat("nobody", question))


async def test_downloads_and_hub(serving: Serving) -> None:
    async with serving() as (client, _):
        assert await client.call(endpoints.DOWNLOADS) == []
        for endpoint in (
            endpoints.PAUSE_DOWNLOAD,
            endpoints.RESUME_DOWNLOAD,
            endpoints.RETRY_DOWNLOAD,
        ):
            with pytest.raises(NotFoundError):
                await client.call(endpoint, "nothing")


async def test_nobody_is_there(serving: Serving) -> None:
    async with serving() as (client, stop):
        await client.call(endpoints.MODELS)
        await asyncio.to_thread(stop)
        for endpoint in (
            endpoints.STATUS,
            endpoints.MODELS,
            endpoints.LOGS,
            endpoints.DOWNLOADS,
        ):
            with pytest.raises(NoServiceError):
                await client.call(endpoint)


async def _drive(app: CyberApp, pilot: Pilot[Any]) -> None:
    await until(pilot, lambda: "unloaded" in screen_text(app))
    await pilot.press("2")
    await until(pilot, lambda: "FITS" in screen_text(app))
    await pilot.press("p")
    await until(pilot, lambda: any(one.pinned for one in app.snapshot.models))
    await pilot.press("enter")
    await until(pilot, lambda: "COMMAND" in screen_text(app))
    await pilot.press("escape", "4")
    await until(pilot, lambda: "follows" in screen_text(app))
    await pilot.press("7")
    await until(pilot, lambda: "max_queue" in screen_text(app))
    await pilot.press("slash", *"max_queue", "enter", "enter", *"99", "enter")
    await until(pilot, lambda: "max_queue is saved" in screen_text(app))
    await pilot.press("6")
    await until(pilot, lambda: "Write to try a model." in screen_text(app))
    await pilot.press("enter", *"Hi", "enter")
    await until(pilot, lambda: "tok" in screen_text(app))
    await pilot.press("escape", "5", "1")
    await until(pilot, lambda: app.current_mode == "dashboard")


async def test_the_app_is_driven_on_both(serving: Serving) -> None:
    async with serving() as (client, stop):
        app = CyberApp(client, AppOptions())
        async with app.run_test(size=(120, 40), notifications=True) as pilot:
            await _drive(app, pilot)
            await asyncio.to_thread(stop)
            await until(pilot, lambda: "no connection" in screen_text(app))
