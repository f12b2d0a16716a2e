"""``python -m tests.tui.pictures``: take the pictures of the documentation.

The app makes them of a staged service (see ``staged_service``), after five minutes of requests, so
that the graphs are full. A test takes them without that wait and compares the committed ones.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from textual.pilot import Pilot

from cyber_inference_tui.client.service_client import ServiceClient
from cyber_inference_tui.tui.app import CyberApp
from cyber_inference_tui.tui.app_options import AfterExit, AppOptions
from tests.tui.animated_svg import picture
from tests.tui.driving import screen_text, until
from tests.tui.staged_service import LOADING, Stage, staged

PLACE = Path(__file__).parents[2] / "docs" / "pictures"
STILLS = (
    *("dashboard", "models", "connect", "palette", "hub", "hub-card", "logs"),
    *("requests", "chat", "chat-compare", "settings", "machine"),
)
TOUR = "tour"
SIZE = (120, 36)
TOUR_SIZE = (100, 30)
FULL_GRAPHS = 300.0
"""Seconds."""
FOLDER = Path("/tmp/staged")
_QUESTION = "What fills my disk?"


class Camera:
    """An app on the service, which types and takes pictures."""

    def __init__(self, app: CyberApp, pilot: Pilot[AfterExit], place: Path) -> None:
        self.app = app
        self.pilot = pilot
        self.place = place

    async def sees(self, *texts: str) -> None:
        """Wait until all texts are on the screen."""
        try:
            await until(self.pilot, lambda: all(text in screen_text(self.app) for text in texts))
        except AssertionError as error:
            raise AssertionError(f"not all of {texts} in\n{screen_text(self.app)}") from error

    async def types(self, *keys: str) -> None:
        """Press keys; a word is typed letter by letter after a space."""
        for key in keys:
            letters = key[1:] if key.startswith(" ") else ""
            await self.pilot.press(*([{" ": "space"}.get(one, one) for one in letters] or [key]))

    async def shoot(self, name: str, *texts: str) -> None:
        """Take a picture once all texts are on the screen."""
        await self.sees(*texts)
        # The page below a dialog may come a moment later.
        await until(self.pilot, lambda: "JetPack" in self.app.export_screenshot())
        self.write(name, [(self.app.export_screenshot(), 1.0)])

    def write(self, name: str, frames: Sequence[tuple[str, float]]) -> None:
        """Write a picture."""
        svg = picture(frames, (self.app.size.width, self.app.size.height))
        (self.place / f"{name}.svg").write_text(svg, "utf-8")


async def take(folder: Path, place: Path, *, wait: float = 0.0) -> None:
    """Take all pictures into ``place``; the service gets ``folder``, and ``wait`` seconds first."""
    async with staged(folder) as (stage, client):
        app = CyberApp(client, AppOptions())
        async with app.run_test(size=SIZE) as pilot:
            await until(pilot, lambda: app.snapshot.live)
            await asyncio.sleep(wait)
            await _stills(Camera(app, pilot, place), stage)
        await _tour(client, place)


async def _stills(camera: Camera, stage: Stage) -> None:
    app = camera.app
    await camera.types("3")
    await camera.sees("fits", "too big")
    await until(camera.pilot, lambda: "–" not in screen_text(app))  # noqa: RUF001
    await camera.shoot("hub")
    await camera.types("i")
    await camera.shoot("hub-card", "usual choice")
    await camera.types("escape", "1")
    late = asyncio.create_task(stage.ask("llm/0.27", LOADING, "Review this.", 40))

    def is_loading() -> bool:
        found = (model.progress or 0 for model in app.snapshot.models)
        return max(found, default=0) > 0.3

    await until(camera.pilot, is_loading)
    await camera.shoot("dashboard", "◐ loading", "✖ failed", "TOKENS/S")
    slow = asyncio.create_task(stage.slow_request())
    await camera.types("2", "G")
    await camera.shoot("models", "COMMAND", "qwen3 · ")
    await camera.types("C")
    await camera.shoot("connect", "RECENT CLIENTS", "opencode")
    await camera.types("escape", "1", ":", " qwen3")
    await camera.shoot("palette", "Chat with qwen3-4b-q4_k_m")
    await camera.types("escape", "4")
    await camera.sees("LOG")
    await camera.types("b", "G", "enter")
    await camera.shoot("logs", "print_timing")
    await slow
    await camera.types("5", "/", " aider", "enter")
    await camera.shoot("requests", "a cold prompt")
    await camera.types("escape", ":", " chat qwen3", "enter")
    await until(camera.pilot, lambda: app.current_mode == "chat")
    await camera.types("enter", " " + _QUESTION, "enter")
    await camera.shoot("chat", "frees the space", "tok/s · first")
    await camera.types("escape", "a", " gemma", "enter")
    await camera.shoot("chat-compare", "network drives", "fastest")
    await camera.types("escape", "7")
    await camera.shoot("settings", "model_idle_timeout")
    await camera.types("8")
    await camera.shoot("machine", "POWER", "TEMPERATURE")
    await late


async def _tour(client: ServiceClient, place: Path) -> None:
    """Take the animation: the dashboard, a question, and why a request was slow."""
    app = CyberApp(client, AppOptions())
    frames: list[tuple[str, float]] = []
    async with app.run_test(size=TOUR_SIZE) as pilot:
        camera = Camera(app, pilot, place)

        def keep(seconds: float) -> None:
            frames.append((app.export_screenshot(), seconds))

        await camera.sees("answering")
        for _ in range(4):
            sample = app.snapshot.sample
            await until(pilot, lambda: app.snapshot.sample is not sample)  # noqa: B023
            keep(1.0)
        await camera.types(":", " chat with")
        await camera.sees("Chat with qwen3-4b-q4_k_m", "Chat with gemma-3-4b-it-q4_k_m")
        keep(1.6)
        await camera.types("  qwen3", "enter")
        await until(pilot, lambda: app.current_mode == "chat")
        await camera.types("enter", " " + _QUESTION)
        keep(1.4)
        await camera.types("enter")
        for words in ("directories", "sort -h", "Two places", "journalctl", ".cache", "lsof"):
            await camera.sees(words)
            keep(0.5)
        await camera.sees("frees the space")
        keep(1.6)
        await camera.types("escape", "a", " gemma", "enter")
        for words in ("quickest way", "Install", "ncdu -x /", "arrow keys", "network drives"):
            await camera.sees(words)
            keep(0.5)
        await camera.sees("fastest")
        keep(2.4)
        await camera.types("escape", "5", "/", " aider", "enter", "enter")
        await camera.sees("a cold prompt")
        keep(5.0)
        camera.write(TOUR, frames)


def main() -> None:
    """Take the pictures in the documentation again."""
    if FOLDER.exists():
        sys.exit(f"{FOLDER} exists: remove it, or wait until another run has ended.")
    try:
        asyncio.run(take(FOLDER, PLACE, wait=FULL_GRAPHS))
    finally:
        shutil.rmtree(FOLDER, ignore_errors=True)


if __name__ == "__main__":
    main()
