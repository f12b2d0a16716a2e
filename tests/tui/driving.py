"""Runs the app on a fake client, without a terminal."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from textual.pilot import Pilot

from cyber_inference_tui.tui.app import CyberApp
from cyber_inference_tui.tui.launch import Launch, Leave
from tests import waiting
from tests.tui.fake_client import FakeClient
from tests.tui.world import NOW, World

LAUNCH = Launch(now=lambda: NOW, ticking=False, rate=50.0)
"""A clock that stands still, and no wait between updates."""
WIDE = (120, 40)
SMALL = (80, 24)


def app_on(client: FakeClient, **changes: Any) -> CyberApp:
    """The app; ``changes`` of ``LAUNCH``."""
    return CyberApp(client, replace(LAUNCH, **changes))


@asynccontextmanager
async def running(
    world: World | FakeClient, *, size: tuple[int, int] = WIDE, **changes: Any
) -> AsyncIterator[tuple[CyberApp, FakeClient, Pilot[Leave]]]:
    """The app, once it shows what the service tells."""
    client = world if isinstance(world, FakeClient) else FakeClient(world)
    app = app_on(client, **changes)
    async with app.run_test(size=size, notifications=True) as pilot:
        await until(pilot, lambda: client.streams > 0 or not client.up or bool(client.password))
        await pilot.pause()
        yield app, client, pilot


async def until(pilot: Pilot[Any], condition: Callable[[], bool]) -> None:
    """Let the app work until ``condition`` holds, and all that it has begun by then is done."""
    await pilot.pause()
    await waiting.until(condition, interval=0.02, what="what the app was to show")
    await pilot.pause()


def screen_text(app: CyberApp) -> str:
    """What is on the screen, line by line, without colours."""
    width = app.size.width
    strips = app.screen._compositor.render_strips(app.size)
    return "\n".join("".join(part.text for part in strip)[:width].rstrip() for strip in strips)
