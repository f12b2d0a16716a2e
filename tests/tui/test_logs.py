"""The Logs page: following, going anywhere in a log, several side by side."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from textual import events
from textual.pilot import Pilot
from textual.widgets import Input, Static

from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.records import LogEvent, LogLevel, LogLine, LogRun
from cyber_inference_tui.tui.app import CyberApp
from cyber_inference_tui.tui.pages.logs.page import LogsPage
from cyber_inference_tui.tui.pages.logs.pane import LogPane
from cyber_inference_tui.tui.pages.logs.title import PaneState, title_content
from cyber_inference_tui.tui.widgets.live_table import LiveTable
from tests.tui.driving import SMALL, running, screen_text, until
from tests.tui.fake_client import FakeClient
from tests.tui.world import NOW, ago, busy_world, line

on_page = partial(running, first_page="logs")

QWEN = "qwen3-4b-q4_k_m"


async def on_log(pilot: Pilot[Any], app: CyberApp, source: str) -> LogPane:
    """Open the page with the end of ``source``."""
    if app.current_mode != "logs":
        await pilot.press("4")
    await until(pilot, lambda: isinstance(app.screen, LogsPage) and "LOG" in screen_text(app))
    page = app.screen
    assert isinstance(page, LogsPage)
    page.open(source)
    pane = page.query_one(LogPane)
    client = app.client
    assert isinstance(client, FakeClient)
    await until(pilot, lambda: bool(pane.view.lines) and client.streams == 2)
    return pane


def write(client: FakeClient, source: str, *texts: str, level: LogLevel = LogLevel.INFO) -> None:
    """Let a process write lines."""
    log = client.world.logs[source]
    first = log[-1].number + 1
    log += [line(first + place, text, level) for place, text in enumerate(texts)]
    lines = tuple(LogLine(at=NOW, text=text, level=level) for text in texts)
    client.publish("log", LogEvent(id=source, first=first, lines=lines))


def title(app: CyberApp) -> str:
    """The title of the log."""
    return str(app.screen.query_one(".pane-title", Static).content)


async def stopped(pilot: Any, app: Any, client: FakeClient) -> None:
    """Stop the service, until both the app and the pane could not connect to it."""
    await until(pilot, lambda: app.snapshot.live and client.streams == 2)
    refused = client.connections.refused
    client.stop()
    await until(pilot, lambda: client.connections.refused >= refused + 2)
    await until(pilot, lambda: "no connection" in screen_text(app))


async def test_it_follows_what_is_written() -> None:
    async with running(busy_world()) as (app, client, pilot):
        pane = await on_log(pilot, app, QWEN)
        assert "(119)" in screen_text(app)
        write(client, QWEN, "a new line")
        write(client, "service", "of another log")
        await until(pilot, lambda: "a new line" in screen_text(app))
        assert "of another log" not in screen_text(app)
        assert "following" in screen_text(app)
        # Space stands still, and G follows again.
        await pilot.press("space")
        await until(pilot, lambda: "paused: G follows" in screen_text(app))
        write(client, QWEN, "one", "two")
        await until(pilot, lambda: "+2 new" in screen_text(app))
        assert "  two" not in screen_text(app)
        await pilot.press("G")
        await until(pilot, lambda: "two" in screen_text(app) and "following" in screen_text(app))
        # Hostile lines are harmless.
        write(client, QWEN, "[/oops] \x1b[2J\x9b31m\u202eevil\u202c " + "x" * 100_000)
        await until(pilot, lambda: "[/oops] evil" in screen_text(app))
        shown = screen_text(app)
        assert not any(sign in shown for sign in "\x1b\x9b\u202e")
        # An error is shown.
        client.fail["log_lines"] = CyberError("The log is on fire.")
        await pilot.press("e")
        await until(pilot, lambda: "The log is on fire." in screen_text(app))
        client.fail.clear()
        # The level hides less serious lines.
        await pilot.press("l", "l")
        await until(pilot, lambda: "warning and worse" in screen_text(app))
        await until(pilot, lambda: len(pane.view.lines) == 1)
        assert "context is nearly full" in screen_text(app)
        write(client, QWEN, "only a word")
        write(client, QWEN, "a failure", level=LogLevel.ERROR)
        await until(pilot, lambda: "a failure" in screen_text(app))
        assert "only a word" not in screen_text(app)


async def test_a_hidden_page_reads_nothing_and_keeps_its_place() -> None:
    async with on_page(busy_world()) as (app, client, pilot):
        pane = await on_log(pilot, app, QWEN)
        await pilot.press("7")
        await until(pilot, lambda: client.streams == 1)
        write(client, QWEN, "written meanwhile")
        await pilot.press("4")
        await until(pilot, lambda: "written meanwhile" in screen_text(app))
        # The place is kept.
        await pilot.press("g")
        await until(pilot, lambda: not pane.view.following)
        top = pane.view.top_number
        await pilot.press("question_mark")
        await until(pilot, lambda: client.streams == 1)
        await pilot.press("escape")
        await until(pilot, lambda: client.streams == 2)
        assert not pane.view.following
        assert pane.view.top_number == top
        await pilot.press("7")
        await until(pilot, lambda: client.streams == 1)
        write(client, QWEN, "one", "two", "three")
        await pilot.press("4")
        await until(pilot, lambda: "+3 new" in screen_text(app))
        assert pane.view.top_number == top
        await pilot.press("G")
        await until(pilot, lambda: " three" in screen_text(app))
        # More than a page came.
        await pilot.press("space")
        await until(pilot, lambda: not pane.view.following)
        await pilot.press("7")
        await until(pilot, lambda: client.streams == 1)
        write(client, QWEN, *(f"line {number}" for number in range(5000)))
        await pilot.press("4")
        await until(pilot, lambda: "+5,000 new" in screen_text(app))
        await pilot.press("G")
        await until(pilot, lambda: "line 4999" in screen_text(app))
        assert "following" in screen_text(app)


async def test_search_goes_from_match_to_match() -> None:
    async with on_page(busy_world()) as (app, client, pilot):
        pane = await on_log(pilot, app, QWEN)
        await pilot.press("slash", *"NEARLY")
        assert isinstance(app.focused, Input)
        assert not app.focused.cursor_blink
        await pilot.press("enter")
        await until(pilot, lambda: pane.view.target == 90)
        assert "/NEARLY  1 of 1" in screen_text(app)
        await pilot.press("n")
        await until(pilot, lambda: "again from the top" in screen_text(app))
        await pilot.press("escape")
        await until(pilot, lambda: "/NEARLY" not in screen_text(app))
        assert "again" not in screen_text(app)
        await pilot.press("slash", *"(11", "enter")
        await until(pilot, lambda: pane.view.target == 119)
        assert "/(11  11 of 11" in screen_text(app)
        await pilot.press("N")
        await until(pilot, lambda: pane.view.target == 118)
        assert "10 of 11" in screen_text(app)
        # It goes round both ends.
        await pilot.press("n", "n")
        await until(pilot, lambda: pane.view.target == 11)
        assert "1 of 11" in screen_text(app)
        assert "again from the top" in screen_text(app)
        await pilot.press("N")
        await until(pilot, lambda: "again from the end" in screen_text(app))
        assert pane.view.target == 119
        # New matches count.
        write(client, QWEN, "(11) too", "(12)")
        await until(pilot, lambda: "11 of 12" in screen_text(app))
        await pilot.press("slash", *"no such text", "enter")
        await until(pilot, lambda: "no such text  no match" in screen_text(app))


async def test_more_matches_than_are_counted() -> None:
    world = busy_world()
    world.logs[QWEN] = [line(number, f"line {number}") for number in range(2500)]
    async with on_page(world) as (app, _, pilot):
        pane = await on_log(pilot, app, QWEN)
        await pilot.press("slash", *"line", "enter")
        await until(pilot, lambda: "1 of 1,000+ from the end" in screen_text(app))
        # The first match is far before those that are counted.
        await pilot.press("n")
        await until(pilot, lambda: pane.view.target == 0)
        await pilot.press("n", "n", "N")
        await until(pilot, lambda: pane.view.target == 1)
        assert "1,000+ matches" in screen_text(app)
        pane.view.run(pane.view._show_around(1500))
        await until(pilot, lambda: pane.view.target == 1500)
        await pilot.press("N")
        await until(pilot, lambda: "1,001 of 2,000+ from the end" in screen_text(app))
        assert pane.view.target == 1499


async def test_a_filter_shows_only_lines_with_a_text_and_keeps_the_place() -> None:
    world = busy_world()
    world.logs[QWEN] = [
        line(number, f"{'even' if number % 2 == 0 else 'odd'} {number} ") for number in range(4000)
    ]
    async with on_page(world) as (app, client, pilot):
        pane = await on_log(pilot, app, QWEN)
        await pilot.press("ampersand", *"EVEN 39")
        await until(pilot, lambda: "odd" not in screen_text(app) and "&EVEN 39" in screen_text(app))
        await pilot.press("enter")
        await until(pilot, lambda: app.focused is pane.view)
        write(client, QWEN, "an odd line", "even 39 again")
        await until(pilot, lambda: "even 39 again" in screen_text(app))
        assert "an odd line" not in screen_text(app)
        assert "following" in screen_text(app)
        # A search looks at these lines only.
        await pilot.press("slash", *"3990", "enter")
        await until(pilot, lambda: "/3990  1 of 1" in screen_text(app))
        assert pane.view.target == 3990
        await pilot.press("escape")
        await until(pilot, lambda: "/3990" not in screen_text(app))
        top = pane.view.top_number
        assert 3900 < top < 3990
        await pilot.press("escape")
        await until(pilot, lambda: "odd 3" in screen_text(app) and "&" not in title(app))
        assert pane.view.top_number == top
        assert not pane.view.following
        await pilot.press("ampersand", *"nothing like this", "enter")
        await until(pilot, lambda: "No line has the text nothing like this." in screen_text(app))
        await pilot.press("escape")
        await until(pilot, lambda: pane.view.top_number == top)


async def test_another_level_keeps_the_place() -> None:
    world = busy_world()
    world.logs[QWEN] = [
        line(number, f"line {number}", LogLevel.WARNING if number % 10 == 7 else LogLevel.INFO)
        for number in range(5000)
    ]
    async with on_page(world) as (app, _, pilot):
        pane = await on_log(pilot, app, QWEN)
        await pilot.press("slash", *"line 2222", "enter")
        await until(pilot, lambda: pane.view.target == 2222)
        await pilot.press("escape")
        top = pane.view.top_number
        await pilot.press("l", "l")
        await until(pilot, lambda: "warning and worse" in screen_text(app))
        await until(pilot, lambda: pane.view.top_number == top - top % 10 + 7)
        assert not pane.view.following
        assert [one.number for one in pane.view.lines] == list(range(7, 5000, 10))
        # Back at all levels the same line is at the top, not the warning after it.
        await pilot.press("l", "l")
        await until(pilot, lambda: "warning" not in screen_text(app) and "error" not in title(app))
        await until(pilot, lambda: pane.view.top_number == top)
        # Lines after the place lead to the end, and the view follows again.
        await pilot.press("G")
        await until(pilot, lambda: "line 4999" in screen_text(app) and pane.view.following)
        await pilot.press("l")
        await until(pilot, lambda: "info and worse" in screen_text(app))
        assert pane.view.following


async def test_search_finds_what_lies_far_before_the_window() -> None:
    world = busy_world()
    world.logs[QWEN] = [line(number, f"line {number}") for number in range(5000)]
    async with on_page(world) as (app, _, pilot):
        pane = await on_log(pilot, app, QWEN)
        assert pane.view.first_number == 4000
        await pilot.press("slash", *"line 1234", "enter")
        await until(pilot, lambda: pane.view.target == 1234)
        assert "line 1234" in screen_text(app)
        await pilot.press("g")
        await until(pilot, lambda: pane.view.first_number < 734)
        await pilot.press("G")
        await until(pilot, lambda: "line 4999" in screen_text(app))


async def test_to_the_last_error_and_to_the_runs() -> None:
    world = busy_world()
    world.runs[QWEN] = (
        LogRun(first=0, started_at=ago(9000)),
        LogRun(first=40, started_at=ago(3604)),
    )
    async with on_page(world) as (app, client, pilot):
        pane = await on_log(pilot, app, QWEN)
        await pilot.press("left_square_bracket")
        await until(pilot, lambda: pane.view.target == 40)
        await pilot.press("left_square_bracket")
        await until(pilot, lambda: pane.view.target == 0)
        await pilot.press("left_square_bracket")
        await until(pilot, lambda: "no run starts before" in screen_text(app))
        await pilot.press("right_square_bracket")
        await until(pilot, lambda: pane.view.target == 40)
        await pilot.press("e")
        await until(pilot, lambda: "no error in this log" in screen_text(app))
        write(client, QWEN, "it broke", level=LogLevel.ERROR)
        await pilot.press("e")
        await until(pilot, lambda: pane.view.target == 120)


async def test_keys_for_runs_begin_where_the_user_looks() -> None:
    world = busy_world()
    world.logs[QWEN] = [line(number, f"line {number}") for number in range(500)]
    world.runs[QWEN] = tuple(
        LogRun(first=first, started_at=ago(9000 - first)) for first in (0, 200, 400, 480)
    )
    async with on_page(world) as (app, _, pilot):
        pane = await on_log(pilot, app, QWEN)
        # The newest run begins in sight. Keys that arrive together each go a run further.
        for _ in range(2):
            app.post_message(events.Key("left_square_bracket", "["))
        await until(pilot, lambda: pane.view.target == 400)
        await pilot.press("G", "left_square_bracket")
        await until(pilot, lambda: pane.view.target == 480)
        await pilot.press("g", "right_square_bracket")
        await until(pilot, lambda: pane.view.target == 200)


async def test_a_search_from_the_keyboard_begins_where_the_user_looks() -> None:
    world = busy_world()
    world.logs[QWEN] = [
        line(number, "match" if number % 100 == 50 else "line") for number in range(500)
    ]
    async with on_page(world) as (app, _, pilot):
        pane = await on_log(pilot, app, QWEN)
        await pilot.press("slash", *"match", "enter")
        await until(pilot, lambda: pane.view.target == 450)
        await pilot.press("g", "n")
        await until(pilot, lambda: pane.view.target == 50)
        await pilot.press("G", "N")
        await until(pilot, lambda: pane.view.target == 450)


async def test_logs_side_by_side() -> None:
    async with on_page(busy_world()) as (app, _, pilot):
        await on_log(pilot, app, "service")
        await pilot.press("b", "j", "s")
        await until(pilot, lambda: len(app.screen.query(LogPane)) == 2)
        await until(pilot, lambda: "main: server is listening" in screen_text(app))
        assert "loading gemma" in screen_text(app)
        # Those of a search come first.
        await pilot.press("slash", "m", "enter")
        await until(pilot, lambda: "n Next" in screen_text(app))
        # The log under the cursor is opened, or else the next one.
        assert app.screen.query_one(LiveTable).cursor_key == "nomic-embed-text-v2"
        await pilot.press("b", "s")
        await until(pilot, lambda: "This log is open already." in screen_text(app))
        # A log of the list replaces the one that had the focus, whose title shows that.
        await pilot.press("j", "enter")
        await until(pilot, lambda: "load_tensors" in screen_text(app))
        first, second = app.screen.query(LogPane)
        assert (first.source, second.source) == ("service", "phi-4-mini-q4_k_m")
        assert second.query_one(".pane-title").styles.background.a > 0
        await pilot.press("tab")
        await until(pilot, lambda: first.view.has_focus)
        assert first.query_one(".pane-title").styles.background.a > 0
        assert second.query_one(".pane-title").styles.background.a == 0
        await pilot.press("s")
        await until(pilot, lambda: len(app.screen.query(LogPane)) == 3)
        await pilot.press("s")
        await until(pilot, lambda: "3 logs are open" in screen_text(app))
        await pilot.press("f")
        await until(pilot, lambda: sum(pane.display for pane in app.screen.query(LogPane)) == 1)
        assert not app.screen.query_one(LiveTable).display
        await pilot.press("f", "x", "x")
        await until(pilot, lambda: len(app.screen.query(LogPane)) == 1)
        assert app.screen.query_one(LiveTable).cursor_key == "service"
        await pilot.press("x")
        await pilot.pause()
        assert len(app.screen.query(LogPane)) == 1
        # The list makes room for several.
        sources = app.screen.query_one("#sources")
        assert sources.display
        await pilot.press("b", "j", "s")
        await until(pilot, lambda: len(app.screen.query(LogPane)) == 2)
        await until(pilot, lambda: not sources.display)
        await pilot.press("b")
        await until(pilot, lambda: sources.display and sources.has_focus)
        await pilot.press("b")
        await until(pilot, lambda: not sources.display)
        await pilot.press("x")
        await until(pilot, lambda: sources.display)


async def test_copy_and_save(tmp_path: Path) -> None:
    async with on_page(busy_world()) as (app, _, pilot):
        await on_log(pilot, app, "service")
        await pilot.press("c")
        await until(pilot, lambda: app.clipboard.endswith("loading gemma-3-4b-it-q4_k_m"))
        path = tmp_path / "saved.log"
        await pilot.press("ctrl+s")
        await until(pilot, lambda: "Save the log of service" in screen_text(app))
        app.screen.query_one("Input").value = str(path)  # type: ignore[attr-defined]
        await pilot.press("enter")
        await until(pilot, lambda: "Saved 3 lines to" in screen_text(app))
        assert path.read_text().count("\n") == 3
        await pilot.press("ctrl+s")
        await until(pilot, lambda: "Save the log of service" in screen_text(app))
        app.screen.query_one("Input").value = str(path)  # type: ignore[attr-defined]
        await pilot.press("enter")
        await until(pilot, lambda: "exists already" in screen_text(app))
        await pilot.press("end", "2", "enter")
        await until(pilot, lambda: "Save the log of service" not in screen_text(app))
        assert path.with_name("saved.log2").exists()


async def test_without_a_connection_the_page_does_not_say_that_there_are_no_logs() -> None:
    async with running(busy_world()) as (app, client, pilot):
        client.stop()
        await until(pilot, lambda: "no connection" in screen_text(app))
        await pilot.press("4")
        await until(pilot, lambda: screen_text(app).count("Waiting for the service.") == 2)
        client.start()
        await until(pilot, lambda: "loading gemma-3-4b-it-q4_k_m" in screen_text(app))
        await until(pilot, lambda: "Waiting for the service." not in screen_text(app))


async def test_it_goes_on_after_the_service_was_away() -> None:
    async with on_page(busy_world()) as (app, client, pilot):
        pane = await on_log(pilot, app, QWEN)
        await stopped(pilot, app, client)
        assert pane.view.lines
        client.world.logs[QWEN].append(line(120, "after the pause"))
        client.start()
        await until(pilot, lambda: "after the pause" in screen_text(app))
        # What is read stays when another service comes.
        await pilot.press("g")
        await until(pilot, lambda: not pane.view.following)
        before = pane.view.lines
        await stopped(pilot, app, client)
        client.world.logs[QWEN] = [line(0, "a new life")]
        client.start(pid=4712)
        await until(pilot, lambda: "from before the restart" in screen_text(app))
        write(client, QWEN, "goes on")
        await pilot.pause(0.5)
        assert pane.view.lines == before
        await pilot.press("G")
        await until(pilot, lambda: "goes on" in screen_text(app))
        assert "a new life" in screen_text(app)
        assert "restart" not in screen_text(app)


async def test_an_empty_log_says_why() -> None:
    world = busy_world()
    failed = "phi-4-mini-q4_k_m"
    world.logs[failed] = []
    async with on_page(world) as (app, client, pilot):
        await on_log(pilot, app, QWEN)
        await pilot.press("l", "l", "l")
        await until(pilot, lambda: "No line has level error" in screen_text(app))
        page = app.screen
        assert isinstance(page, LogsPage)
        page.open(failed)
        await until(pilot, lambda: "The server wrote nothing." in screen_text(app))
        assert str(client.world.models[failed].error)[:20] in screen_text(app)


async def test_long_lines_are_read_to_their_end() -> None:
    async with on_page(busy_world(), size=SMALL) as (app, client, pilot):
        # The log is chosen from the list.
        await on_log(pilot, app, "service")
        await pilot.press("b", "j", "j", "enter")
        await until(pilot, lambda: "load_tensors: loading" in screen_text(app))
        await on_log(pilot, app, QWEN)
        write(client, QWEN, "begins " + "x" * 100 + " ends", "中" * 60 + "wide")
        await until(pilot, lambda: "begins" in screen_text(app))
        assert "ends" not in screen_text(app)
        await pilot.press(*["right"] * 9)
        await until(pilot, lambda: "xx ends" in screen_text(app))
        await pilot.press(*["left"] * 9)
        await until(pilot, lambda: "begins" in screen_text(app))
        await pilot.press("slash", *"wide", "enter")
        await until(pilot, lambda: "中wide" in screen_text(app))


def test_a_narrow_title_says_less() -> None:
    state = PaneState(source=QWEN, search="task", place="3 of 17", following=False, new_lines=1200)
    assert str(title_content(state, 90, "…").plain).endswith(
        "3 of 17   paused, +1,200 new: G follows"
    )
    narrow = title_content(state, 50, "…").plain
    assert narrow.endswith("3 of 17  paused, +1,200 new")
    assert len(narrow) == 50


async def test_a_long_name_leaves_room_for_what_matters() -> None:
    world = busy_world()
    name = "中文模型-a-very-long-model-name-that-nobody-would-write-down-twice-2024-11-instruct"
    world.logs[name] = [line(0, "hello")]
    async with on_page(world, size=SMALL) as (app, _, pilot):
        await on_log(pilot, app, name)
        assert "following" in screen_text(app)
        await pilot.press("space")
        await until(pilot, lambda: "paused: G follows" in screen_text(app))


@pytest.mark.parametrize("level", [None, LogLevel.WARNING])
async def test_g_goes_to_the_first_line_of_a_long_log(level: LogLevel | None) -> None:
    world = busy_world()
    world.logs[QWEN] = [
        line(number, f"text {number}", LogLevel.WARNING if number % 2 else LogLevel.INFO)
        for number in range(5, 9000)
    ]
    async with on_page(world) as (app, _, pilot):
        pane = await on_log(pilot, app, QWEN)
        if level is not None:
            await pilot.press("l", "l")
            await until(pilot, lambda: "warning" in screen_text(app) and bool(pane.view.lines))
        await pilot.press("slash", *"text 8", "enter")
        await until(pilot, lambda: pane.view.target is not None)
        await pilot.press("g")
        await until(pilot, lambda: pane.view.top_number == 5)
        assert not pane.view.following
        # The end is as near, and paging on from the first line leaves no line out.
        await pilot.press("G")
        await until(pilot, lambda: "text 8999" in screen_text(app))
        await pilot.press("home")
        await until(pilot, lambda: pane.view.top_number == 5)
        before = pane.view.end_number
        await pilot.press(*["pagedown"] * 40)
        await until(pilot, lambda: pane.view.end_number > before)
        numbers = [one.number for one in pane.view.lines]
        assert numbers == list(range(5, numbers[-1] + 1, 1 if level is None else 2))
