"""The selected model's log on a wide dashboard."""

from __future__ import annotations

from cyber_inference_tui.records import LogEvent, LogLine
from cyber_inference_tui.tui.pages.dashboard.board import Board
from cyber_inference_tui.tui.pages.dashboard.log_tail import LogTail
from tests.tui.driving import running, screen_text, until
from tests.tui.fake_client import FakeClient
from tests.tui.world import NOW, streaming_world

ROOMY = (160, 52)
QWEN, FAILED = "qwen3-4b-q4_k_m", "phi-4-mini-q4_k_m"


def write(client: FakeClient, source: str, first: int, *texts: str) -> None:
    lines = tuple(LogLine(at=NOW, text=text) for text in texts)
    client.publish("log", LogEvent(id=source, first=first, lines=lines))


async def test_it_follows_the_log_of_the_selected_model() -> None:
    async with running(streaming_world(), size=ROOMY) as (app, client, pilot):
        await until(pilot, lambda: "busy" in screen_text(app))
        app.screen.query_one(Board).models.move_to(QWEN)
        await until(pilot, lambda: "done (119)" in screen_text(app))
        await until(pilot, lambda: client.streams == 2)
        assert f"LOG  {QWEN}" in screen_text(app)
        write(client, QWEN, 120, "one more line")
        await until(pilot, lambda: "one more line" in screen_text(app))
        await pilot.press("j")
        await until(pilot, lambda: f"LOG  {FAILED}" in screen_text(app))
        await until(pilot, lambda: "error loading model" in screen_text(app))
        assert "one more line" not in screen_text(app)
        assert client.streams == 2


async def test_a_moving_cursor_opens_no_logs() -> None:
    async with running(streaming_world(), size=ROOMY) as (app, client, pilot):
        await until(pilot, lambda: client.streams == 2)
        board = app.screen.query_one(Board)
        opened: list[str] = []

        def note(source: str) -> None:
            opened.append(source)

        app.screen.watch(app.screen.query_one(LogTail), "source", note, init=False)
        for name in ("nomic-embed-text-v2", FAILED, QWEN):
            board.models.move_to(name)
            board.redraw()
        await until(pilot, lambda: "done (119)" in screen_text(app))
        assert opened == [QWEN]


async def test_it_ends_with_the_page_and_begins_with_it_again() -> None:
    async with running(streaming_world(), size=ROOMY) as (_, client, pilot):
        await until(pilot, lambda: client.streams == 2)
        await pilot.press("2")
        await until(pilot, lambda: client.streams == 1)
        await pilot.press("1")
        await until(pilot, lambda: client.streams == 2)
        await pilot.press("space")
        await until(pilot, lambda: client.streams == 1)
        await pilot.press("space")
        await until(pilot, lambda: client.streams == 2)
        await pilot.resize_terminal(120, 52)
        await until(pilot, lambda: client.streams == 1)


async def test_it_reads_the_log_again_after_the_service_was_away() -> None:
    async with running(streaming_world(), size=ROOMY) as (app, client, pilot):
        await until(pilot, lambda: "busy" in screen_text(app))
        app.screen.query_one(Board).models.move_to(QWEN)
        await until(pilot, lambda: client.streams == 2 and "done (119)" in screen_text(app))
        client.stop()
        await until(pilot, lambda: "no connection" in screen_text(app))
        assert "done (119)" in screen_text(app)
        del client.world.logs[QWEN]
        client.start(pid=777)
        await until(pilot, lambda: "Nothing has been written to this log yet." in screen_text(app))
        assert "done (119)" not in screen_text(app)
