"""Runs the app on a fake client, without a terminal."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

from textual.pilot import Pilot
from textual.screen import Screen

from cyber_inference_tui.tui.app import CyberApp
from cyber_inference_tui.tui.app_options import AfterExit, AppOptions
from tests import waiting
from tests.fakes.service import World
from tests.tui.fake_client import FakeClient
from tests.tui.world import NOW

LAUNCH = AppOptions(now=lambda: NOW, ticking=False, rate=50.0)
"""A fixed clock and no delay between updates."""
WIDE = (120, 40)
SMALL = (80, 24)


def app_on(client: FakeClient, **changes: Any) -> CyberApp:
    """Return an app with ``changes`` of ``LAUNCH``; it makes only its first page at the start."""
    options = replace(LAUNCH, **changes)
    with mock.patch.object(CyberApp, "DEFAULT_MODE", options.first_page):
        return CyberApp(client, options)


@asynccontextmanager
async def running(
    world: World | FakeClient, *, size: tuple[int, int] = WIDE, **changes: Any
) -> AsyncIterator[tuple[CyberApp, FakeClient, Pilot[AfterExit]]]:
    """Run the app until it shows the state of the service."""
    client = world if isinstance(world, FakeClient) else FakeClient(world)
    app = app_on(client, **changes)

    def is_ready() -> bool:
        follows = app.snapshot.live and client.streams > 0
        return follows or not client.up or bool(client.password)

    with painted_at_pauses():
        async with app.run_test(size=size, notifications=True) as pilot:
            await until(pilot, is_ready)
            yield app, client, pilot


@contextmanager
def painted_at_pauses() -> Iterator[None]:
    """Paint at ``pilot.pause`` instead of each frame, which saves a third of a test's time."""
    paint = Screen._compositor_refresh
    pause = Pilot.pause

    def later(screen: Screen[Any]) -> None:
        if screen is not screen.app.screen:
            paint(screen)
            return
        screen._dirty_widgets.clear()  # their regions are known
        screen.app._update_mouse_over(screen)

    async def painting_pause(pilot: Pilot[Any], delay: float | None = None) -> None:
        await pause(pilot, delay)
        screen = pilot.app.screen
        if screen._compositor._dirty_regions:
            paint(screen)

    with (
        mock.patch.object(Screen, "_compositor_refresh", later),
        mock.patch.object(Pilot, "pause", painting_pause),
    ):
        yield


async def until(pilot: Pilot[Any], condition: Callable[[], bool]) -> None:
    """Let the app run until ``condition`` holds and its pending work is done."""
    await pilot.pause()
    await waiting.until(condition, interval=0.02, what="what the app was to show")
    await pilot.pause()


def screen_text(app: CyberApp) -> str:
    """Return the screen as text without colours."""
    width = app.size.width
    strips = app.screen._compositor.render_strips(app.size)
    return "\n".join("".join(part.text for part in strip)[:width].rstrip() for strip in strips)
