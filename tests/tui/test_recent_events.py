"""Recent events in the app: read at the start, with their own times, and announced everywhere."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from cyber_inference_tui.records import DownloadStatus, ModelStatus, ServiceEvent
from cyber_inference_tui.terminal.charset import ASCII
from cyber_inference_tui.tui.chrome import PAGES
from tests.tui.driving import running, screen_text, until
from tests.tui.fake_client import FakeClient
from tests.tui.world import NOW, busy_world

FAILED = "phi-4-mini-q4_k_m"


def fail(client: FakeClient, times: int) -> None:
    """Have a model fail so often."""
    for _ in range(times):
        client.set_model(FAILED, status=ModelStatus.QUEUED, queued=1, error=None)
        client.set_model(FAILED, status=ModelStatus.LOADING)
        client.set_model(FAILED, status=ModelStatus.FAILED, queued=0, error="it crashed")


def download(client: FakeClient, **changes: Any) -> None:
    """Publish the download with changes, after a state of it that the service knows."""
    record = client.world.downloads["d1"]
    for one in (record, msgspec.structs.replace(record, **changes)):
        client.publish("download", one)


async def test_an_app_shows_what_happened_before_it_began() -> None:
    client = FakeClient(busy_world())
    events = client.service.events
    events._now = lambda: NOW - timedelta(hours=1, minutes=2, seconds=3)
    fail(client, 12)
    async with running(client) as (app, _, pilot):
        await until(pilot, lambda: "EVENTS" in screen_text(app))
        assert [(one.text, one.count) for one in app.snapshot.recent_events] == [
            ("it crashed", 12),
            ("started", 1),
        ]
        row = next(line for line in screen_text(app).splitlines() if "✖ ×12" in line)  # noqa: RUF001
        assert "11:02:28" in row
        fail(client, 1)
        await until(pilot, lambda: "✖ ×13" in screen_text(app))  # noqa: RUF001
        assert len(app.snapshot.recent_events) == 2


async def test_the_number_of_failures_is_ascii_where_all_is() -> None:
    client = FakeClient(busy_world())
    fail(client, 3)
    async with running(client, charset=ASCII) as (app, _, pilot):
        await until(pilot, lambda: "x x3 it" in screen_text(app))
        assert app.snapshot.recent_events[0].count == 3


async def test_what_happened_without_a_connection_has_its_own_time() -> None:
    async with running(busy_world()) as (app, client, pilot):
        client.stop()
        await until(pilot, lambda: not app.snapshot.live)
        client.service.events._now = lambda: NOW - timedelta(minutes=30)
        fail(client, 2)
        client.start()
        await until(pilot, lambda: app.snapshot.live)
        await until(pilot, lambda: "11:34:31" in screen_text(app))
        assert app.snapshot.recent_events[0].count == 2


async def test_events_of_a_service_before_its_restart_stay() -> None:
    async with running(busy_world()) as (app, client, pilot):
        fail(client, 1)
        await until(pilot, lambda: app.snapshot.recent_events[0].text == "it crashed")
        client.stop()
        await until(pilot, lambda: not app.snapshot.live)
        client.service.events.recent = ()
        client.start(pid=4712)
        await until(pilot, lambda: app.snapshot.live)
        texts = [one.text for one in app.snapshot.recent_events]
        assert texts == ["started", "it crashed", "loading", "queued: 1 request waits", "started"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.mode)
async def test_the_end_of_a_download_is_announced_on_every_page(page: Any) -> None:
    async with running(busy_world(), first_page=page.mode) as (app, client, pilot):
        download(client, status=DownloadStatus.FAILED, error="The disk is full.")
        await until(
            pilot, lambda: "was not downloaded: The disk is full. 3 and ] show" in words(app)
        )
        download(client, status=DownloadStatus.DONE, model_id="qwen3-8b")
        await until(pilot, lambda: "qwen3-8b was downloaded, 4.70 GiB. 2 shows it." in words(app))
        assert [one.severity for one in app._notifications] == ["error", "information"]
        texts = [one.text for one in app.snapshot.recent_events]
        assert texts[:2] == ["was downloaded, 4.70 GiB", "was not downloaded: The disk is full."]


async def test_the_end_of_an_installation_is_announced() -> None:
    async with running(busy_world(), first_page="chat") as (app, client, pilot):
        client.publish("service", ServiceEvent(state="install failed", message="no compiler."))
        shown = "llama-server was not installed: no compiler. 4 shows its log."
        await until(pilot, lambda: shown in words(app))


async def test_what_ended_without_a_connection_is_announced_and_old_events_are_not() -> None:
    client = FakeClient(busy_world())
    download(client, status=DownloadStatus.FAILED, error="The disk is full.")
    async with running(client) as (app, _, pilot):
        await until(pilot, lambda: len(app.snapshot.recent_events) == 2)
        assert not app._notifications
        client.stop()
        await until(pilot, lambda: not app.snapshot.live)
        download(client, status=DownloadStatus.DONE, model_id="qwen3-8b")
        client.start()
        await until(pilot, lambda: "qwen3-8b was downloaded" in words(app))
        assert len(app._notifications) == 1


def words(app: Any) -> str:
    """The texts of all notifications."""
    return "\n".join(one.message for one in app._notifications)
