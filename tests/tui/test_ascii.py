"""A terminal without Unicode gets only ASCII on every page."""

from __future__ import annotations

from functools import partial

import pytest

from cyber_inference_tui.terminal.charset import ASCII
from cyber_inference_tui.tui.app import CyberApp
from tests.tui.driving import SMALL, WIDE, running, screen_text, until
from tests.tui.world import busy_world, line, request


@pytest.mark.parametrize("size", [SMALL, WIDE])
async def test_every_sign_is_ascii(size: tuple[int, int]) -> None:
    world = busy_world()
    world.logs["service"] = [line(number, f"line {number} {'x' * 200}") for number in range(500)]
    world.requests = [request(number) for number in range(200, 0, -1)]
    async with running(world, size=size, charset=ASCII) as (app, _, pilot):
        for keys in ("1", "4", "5", "t", "6"):
            await pilot.press(keys)
            scrolls = keys in {"4", "5"}
            await until(pilot, partial(drawn, app, "#" if scrolls else ""))
            assert not {sign for sign in screen_text(app) if not sign.isascii()}, keys


def drawn(app: CyberApp, text: str) -> bool:
    return text in screen_text(app)
