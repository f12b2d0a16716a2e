"""The app itself: following the service, moving between pages, leaving."""

from __future__ import annotations

import asyncio
import re
from functools import partial
from pathlib import Path

import pytest
from textual import events
from textual.widgets import Input, TextArea

from cyber_inference_tui.tui.app import CyberApp
from cyber_inference_tui.tui.chrome import PAGES
from cyber_inference_tui.tui.key_queue import OPENING
from cyber_inference_tui.tui.pages.no_service import NoService
from cyber_inference_tui.tui.pages.page import Page
from cyber_inference_tui.tui.terminal_driver import TerminalDriver
from tests.tui.driving import SMALL, app_on, running, screen_text, until
from tests.tui.fake_client import FakeClient
from tests.tui.world import busy_world, empty_world


async def test_a_click_on_a_tab_opens_its_page() -> None:
    async with running(busy_world()) as (app, _, pilot):
        await pilot.click("PageTabs", offset=(17, 0))
        await until(pilot, lambda: app.current_mode == "models")


async def test_the_service_goes_and_comes_back() -> None:
    async with running(busy_world()) as (app, client, pilot):
        assert app.snapshot.live
        assert "up 3 d 04:12" in screen_text(app)
        client.stop()
        await until(pilot, lambda: "no connection" in screen_text(app))
        assert len(app.snapshot.models) == 5
        client.start(pid=4712)
        await until(pilot, lambda: app.snapshot.live)
        assert app.snapshot.recent_events[0].text == "started"
        await until(pilot, lambda: "no connection" not in screen_text(app))


async def test_a_password_is_asked_for_until_it_is_right() -> None:
    client = FakeClient(empty_world())
    client.password = "opensesame"
    async with running(client) as (app, _, pilot):
        await until(pilot, lambda: "Admin password" in screen_text(app))
        await pilot.press(*"wrong", "enter")
        await until(pilot, lambda: "The admin password is wrong." in screen_text(app))
        await pilot.press(*"opensesame", "enter")
        await until(pilot, lambda: app.snapshot.live)
        assert ("login", "opensesame") in client.calls


async def test_a_refused_password_is_kept_and_can_be_replaced() -> None:
    client = FakeClient(empty_world())
    client.password = "opensesame"
    async with running(client) as (app, _, pilot):
        await until(pilot, lambda: isinstance(app.focused, Input))
        line = app.focused
        assert isinstance(line, Input)
        await pilot.press(*"wrong", "enter")
        await until(pilot, lambda: "The admin password is wrong." in screen_text(app))
        assert line.value == "wrong"
        shown = screen_text(app)
        assert shown.index("•••••") < shown.index("is wrong") < shown.index("logs in")
        await pilot.press(*"open")
        assert line.value == "open"


async def test_what_opens_while_the_terminal_has_no_focus_takes_keys() -> None:
    client = FakeClient(busy_world())
    async with running(client) as (app, _, pilot):
        await pilot.press("2", "slash", "p")
        line = app.focused
        assert isinstance(line, Input)
        app.post_message(events.AppBlur())
        await pilot.pause()
        client.password = "opensesame"
        client.stop()
        client.start()
        client.token = ""
        await until(pilot, lambda: "Admin password" in screen_text(app))
        app.post_message(events.AppFocus())
        await pilot.press(*"opensesame", "enter")
        await until(pilot, lambda: app.focused is line)


@pytest.mark.parametrize(
    ("keys", "shown"),
    [
        ("?", "leave the app"),
        ("q", "Stop the service as well?"),
        ("2e", "config.toml"),
        ("2u", "Unload"),
        ("4\x13", "Save the log"),
        ("6m", "part of a name"),
        ("6s", "Sampling options"),
        ("7t", "cyber-light"),
        ("\x10", "part of a command"),
    ],
)
async def test_a_dialog_dims_the_page_behind_it(keys: str, shown: str) -> None:
    names = {"?": "question_mark", "\x13": "ctrl+s", "\x10": "ctrl+p"}
    async with running(busy_world(), owned=True) as (app, _, pilot):
        for key in keys:
            await pilot.press(names.get(key, key))
            await until(pilot, lambda: app.screen.is_mounted)
        await until(pilot, lambda: not isinstance(app.screen, Page) and shown in screen_text(app))
        assert "up 3 d" in screen_text(app).splitlines()[0]
        assert app.screen.styles.background.a < 1


async def test_events_change_what_is_known() -> None:
    async with running(busy_world()) as (app, client, pilot):
        client.set_model("qwen3-32b-q4_k_m", pinned=True)
        await until(pilot, lambda: app.snapshot.recent_events[0].text == "pinned")
        client.publish("model", {"id": "qwen3-32b-q4_k_m", "status": None})
        await until(pilot, lambda: app.snapshot.model("qwen3-32b-q4_k_m") is None)


async def test_a_download_that_is_forgotten_goes_from_the_list() -> None:
    async with running(busy_world()) as (app, client, pilot):
        assert [one.id for one in app.snapshot.downloads] == ["d1"]
        client.publish("download", {"id": "d1", "status": None})
        await until(pilot, lambda: not app.snapshot.downloads)
        assert app.snapshot.live


async def test_a_terminal_that_is_too_small_says_so() -> None:
    async with running(busy_world(), size=(50, 12)) as (app, _, pilot):
        assert "too small" in screen_text(app)
        await pilot.resize_terminal(*SMALL)
        await until(pilot, lambda: "too small" not in screen_text(app))


async def test_quitting_asks_only_when_something_of_ours_would_be_lost() -> None:
    async with running(busy_world(), owned=True) as (app, _, pilot):
        await pilot.press("q")
        await until(pilot, lambda: "Stop the service as well?" in screen_text(app))
        await pilot.press("escape")
        await until(pilot, lambda: "Stop the service" not in screen_text(app))
        await pilot.press("q")
        await until(pilot, lambda: "c Cancel" in screen_text(app))
        await pilot.press("c")
        await until(pilot, lambda: "Stop the service" not in screen_text(app))
        await pilot.press("q")
        await until(pilot, lambda: "Stop the service" in screen_text(app))
        await pilot.press("s")
    assert app.return_value == "stop"
    async with running(empty_world(), owned=True) as (app, _, pilot):
        await pilot.press("q")
    assert app.return_value == "stop"
    async with running(busy_world()) as (app, _, pilot):
        await pilot.press("q")
    assert app.return_value == "keep"


async def test_help_is_made_from_the_bindings() -> None:
    async with running(busy_world()) as (app, _, pilot):
        await pilot.press("question_mark")
        await until(pilot, lambda: "Everywhere" in screen_text(app))
        assert "leave the app" in screen_text(app)
        await pilot.press("escape")
        await until(pilot, lambda: "Everywhere" not in screen_text(app))


async def test_what_is_pasted_into_a_line_is_harmless() -> None:
    async with running(busy_world()) as (app, _, pilot):
        for keys in (("2", "slash"), ("7", "slash"), ("3", "slash"), ("1", "ctrl+p")):
            await pilot.press(*keys)
            await until(pilot, lambda: isinstance(app.focused, Input))
            line = app.focused
            assert isinstance(line, Input)
            assert "ctrl+p" in keys or not line.cursor_blink, "twice a second to the terminal"
            app.post_message(events.Paste("one\x1b[2J\ntwo\u202e\n"))
            await until(pilot, partial(has_text, line))
            assert line.value == "one two", keys
            await pilot.press("escape")
            await until(pilot, partial(is_left, line))


def has_text(line: Input) -> bool:
    return bool(line.value)


def is_left(line: Input) -> bool:
    return not line.has_focus


async def test_messages_show_no_markup_and_no_control_characters() -> None:
    async with running(busy_world()) as (app, _, pilot):
        app.show_message("[bold]plain[/] \x1b]52;c;aGVsbG8=\x07and \x1b[2Jquiet")
        await until(pilot, lambda: "[bold]plain[/] and quiet" in screen_text(app))


async def test_a_fault_of_the_app_is_one_sentence_and_a_file(tmp_path: Path) -> None:
    client = FakeClient(busy_world())
    path = tmp_path / "logs" / "crash.txt"
    app = app_on(client, crash_path=path)
    with pytest.raises(ZeroDivisionError):
        async with app.run_test() as pilot:
            secret = "a password in a local variable"  # noqa: F841
            app.call_later(lambda: 1 / 0)
            await pilot.pause(0.1)
    assert "ZeroDivisionError" in path.read_text()
    assert "a password" not in path.read_text()
    assert app.return_code == 1


async def test_the_box_that_keeps_a_password_is_empty_until_it_is_ticked() -> None:
    client = FakeClient(empty_world())
    client.password = "opensesame"
    kept: list[str] = []
    async with running(client, save_password=kept.append) as (app, _, pilot):
        await until(pilot, lambda: "[ ] store it in a file" in screen_text(app))
        await pilot.press("tab", "space")
        await until(pilot, lambda: "[x] store it in a file" in screen_text(app))
        await pilot.press("shift+tab", *"opensesame", "enter")
        await until(pilot, lambda: app.snapshot.live)
        assert kept == ["opensesame"]


@pytest.mark.parametrize("page", "237")
async def test_keys_that_come_before_a_page_is_there_are_not_taken_for_text(page: str) -> None:
    async with running(busy_world()) as (app, _, pilot):
        for key in (page, "1", page, "2"):
            app.post_message(events.Key(key, key))
        await until(pilot, lambda: app.current_mode == "models" and app.screen.is_mounted)
        await pilot.press(page)
        await until(pilot, lambda: app.screen.is_mounted)
        assert not any(line.value for line in app.screen.query(Input))
        assert not any(line.text for line in app.screen.query(TextArea))


async def test_a_service_that_never_answered_is_one_state_on_every_page() -> None:
    client = FakeClient(busy_world())
    client.stop()
    async with running(client, attached=True, size=SMALL) as (app, _, pilot):
        for page in PAGES:
            await pilot.press(page.key)
            await until(pilot, lambda: isinstance(app.focused, NoService))
            assert app.current_mode == page.mode
            shown = screen_text(app)
            for part in (
                "No service answers at http://127.0.0.1:8337 (",
                "Trying again",
                "cyber-inference-tui --attach ssh://user@host",
                "cyber-inference-tui serve",
            ):
                assert part in shown, page
            assert not re.search(r"No requests|reading|no log yet|no model|EVENTS", shown), page
            # Keys of the hidden page do nothing.
            for key in ("slash", "i", "s", "enter", "e", "x", "tab"):
                await pilot.press(key)
            assert isinstance(app.focused, NoService)
            assert isinstance(app.screen, Page)
        await pilot.press("c")
        assert app.clipboard == "cyber-inference-tui --attach ssh://user@host"
        client.start()
        await pilot.press("r")
        await until(pilot, lambda: app.snapshot.live)
        for page in PAGES:
            await pilot.press(page.key)
            await until(pilot, lambda: app.focused is not None)
            assert app.current_mode == page.mode
            assert "No service" not in screen_text(app)
            assert not isinstance(app.focused, NoService)
            assert app.focused is not None
            assert app.focused.is_on_screen, page
        assert app.clipboard.endswith(" ssh://user@host"), "keys of pages are back"


async def test_keys_that_arrive_together_reach_what_the_first_of_them_opens() -> None:
    async with running(busy_world()) as (app, _, pilot):
        for key in ("2", "slash", *"phi"):
            app.post_message(events.Key(key, "/" if key == "slash" else key))
        await until(pilot, lambda: isinstance(app.focused, Input) and app.focused.value == "phi")
        assert app.current_mode == "models"


async def test_keys_do_not_wait_for_a_page_that_was_left_before_it_opened() -> None:
    async with running(busy_world()) as (app, _, pilot):
        await app.open_log("service")
        await app.switch_mode("models")
        await until(pilot, lambda: all(worker.group != OPENING for worker in app.workers))
        await pilot.press("3")
        await until(pilot, lambda: app.current_mode == "hub")


async def test_a_fault_while_keys_are_read_ends_the_app_with_1(tmp_path: Path) -> None:
    class Broken(TerminalDriver):
        def __init__(self, app: CyberApp) -> None:
            self._app = app

        def run_input_thread(self) -> None:
            raise OSError("the terminal is gone")

    app = app_on(FakeClient(busy_world()), crash_path=tmp_path / "crash.txt")
    with pytest.raises(OSError, match="the terminal is gone"):
        async with app.run_test() as pilot:
            await asyncio.to_thread(Broken(app)._run_input_thread)
            await pilot.pause(0.1)
    assert app.return_code == 1
    assert "the terminal is gone" in (tmp_path / "crash.txt").read_text()


async def test_narrow_tabs_are_whole_words_and_can_be_clicked() -> None:
    async with running(busy_world(), size=(60, 20)) as (app, _, pilot):
        await until(pilot, lambda: "7 Settings" in screen_text(app))
        line = screen_text(app).splitlines()[1]
        assert line.split() == [
            *("1", "Dash", "2", "Models", "3", "Hub", "4", "Logs"),
            *("5", "Requests", "6", "Chat", "7", "Settings"),
        ]
        await pilot.click("PageTabs", offset=(line.index("Settings"), 0))
        await until(pilot, lambda: app.current_mode == "settings")


async def test_ctrl_c_says_which_key_quits() -> None:
    async with running(busy_world(), first_page="models") as (app, _, pilot):
        await pilot.press("ctrl+c")
        await until(pilot, lambda: "q quits." in screen_text(app))
        app.clear_notifications()
        await pilot.press("slash", "ctrl+c")
        await until(pilot, lambda: "^q quits." in screen_text(app))
