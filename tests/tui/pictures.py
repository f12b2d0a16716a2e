"""``python -m tests.tui.pictures LLAMA_SERVER``: take the pictures of the documentation.

The app itself makes them, on a real service with three models that are copies of the built-in one
and a minute of real requests to them. Takes two minutes.
"""

from __future__ import annotations

import asyncio
import re
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from textual.pilot import Pilot

from cyber_inference_tui.client.service_client import ServiceClient
from cyber_inference_tui.gguf.demo import write_demo
from cyber_inference_tui.tui.app import CyberApp
from cyber_inference_tui.tui.app_options import AppOptions
from tests.real.service_process import ServiceProcess
from tests.tui.driving import screen_text, until

PLACE = Path(__file__).parent.parent.parent / "docs" / "pictures"
SIZE = (120, 34)
BUSY_SECONDS = 75
PLACES: dict[str, str] = {}
"""Paths on this machine, and their replacement in the pictures."""
QUESTIONS = (
    "Tell me about the sea.",
    "What do you know of the stars?",
    "Does it rain?",
    "Who are you?",
)
_RANDOM = 8
"""Characters that ``tempfile`` adds to a prefix."""
_BUILD = "llama.cpp/build/bin/release-with-debug-info-and-tests-for-this-very-machine"
# The page that shows an SVG may not load fonts from elsewhere, and need not: any fixed one will do.
_FONTS = re.compile(r"@font-face \{.*?\}\n?", re.DOTALL)


async def main(llama_server: Path) -> None:
    data_dir = "/home/me/.local/share/cyber-inference-tui"
    # Of the same length, so that all text after it keeps its position.
    prefix = "cyber".ljust(len(data_dir) - len("/tmp//data") - _RANDOM, "-")
    with tempfile.TemporaryDirectory(prefix=prefix, dir="/tmp") as name:
        folder = Path(name)
        real = f"{llama_server.resolve().parent}/llama-"
        room = len(real) - len("/opt//llama-")
        PLACES[real] = f"/opt/{_BUILD[:room].ljust(room, '_')}/llama-"
        PLACES[f"{name}/data"] = data_dir
        PLACES[f"{name}/config.toml"] = "/home/me/.config/cyber-inference-tui/config.toml"
        models = folder / "data" / "models"
        models.mkdir(parents=True)
        for model in ("sea-stories-q8_0", "night-sky-q8_0"):
            write_demo(models / f"{model}.gguf")
        service = ServiceProcess(
            folder,
            {
                "llama_server_path": str(llama_server),
                "llama_server_base_port": 0,
                "llama_threads": 1,
                "models": {"sea-stories-q8_0": {"pinned": True, "aliases": ["sea"]}},
            },
            arguments=("--demo",),
        ).start()
        try:
            async with ServiceClient(service.url) as client:
                busy = asyncio.create_task(_ask(client))
                await _take(client)
                busy.cancel()
                with suppress(asyncio.CancelledError):
                    await busy
        finally:
            service.stop()


async def _ask(client: ServiceClient) -> None:
    """Requests, one after the other, to two of the models."""
    number = 0
    while True:
        model = ("demo", "sea-stories-q8_0")[number % 2]
        question = QUESTIONS[number % len(QUESTIONS)]
        async for _ in client.chat(model, [{"role": "user", "content": question}]):
            pass
        number += 1
        await asyncio.sleep(0.3)


async def _take(client: ServiceClient) -> None:
    app = CyberApp(client, AppOptions())
    async with app.run_test(size=SIZE, notifications=False) as pilot:
        await until(pilot, lambda: app.snapshot.live)
        await asyncio.sleep(BUSY_SECONDS)
        await _shoot(app, pilot, "dashboard", "MODEL")
        await pilot.press("2")
        await until(pilot, lambda: "FITS" in screen_text(app))
        await pilot.press("G", "enter")
        await _shoot(app, pilot, "models", "COMMAND")
        await pilot.press("C")
        await _shoot(app, pilot, "connect", "RECENT CLIENTS")
        await pilot.press("escape")
        await pilot.press("4")
        await until(pilot, lambda: "LOG" in screen_text(app))
        await pilot.press("b", "j", "j", "enter")
        await _shoot(app, pilot, "logs", "slot")
        await pilot.press("5")
        await _shoot(app, pilot, "requests", "chat")
        await pilot.press("6")
        await until(pilot, lambda: app.current_mode == "chat")
        await pilot.press("enter", *"Tell", "space", *"me", "space", *"about", "space", *"it")
        await pilot.press("enter")
        await asyncio.sleep(4)
        await _shoot(app, pilot, "chat", "tok")
        await pilot.press("escape", "7")
        await _shoot(app, pilot, "settings", "SETTING")


async def _shoot(app: CyberApp, pilot: Pilot[Any], name: str, text: str) -> None:
    await until(pilot, lambda: text in screen_text(app))
    await asyncio.sleep(1.5)
    PLACE.mkdir(parents=True, exist_ok=True)
    svg = _FONTS.sub("", app.export_screenshot(title=f"cyber-inference-tui: {name}"))
    for path, instead in PLACES.items():
        svg = svg.replace(path, instead)
        for end in range(len(path) - 1, len("/home/"), -1):  # where a table cuts it
            svg = svg.replace(f"{path[:end]}…", f"{instead[:end]}…")
    (PLACE / f"{name}.svg").write_text(svg.replace("Fira Code", "monospace"), "utf-8")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]).resolve()))
