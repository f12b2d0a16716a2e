"""Typed text: its limits, and the focus of its field while the page around it changes."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
from textual import events
from textual.pilot import Pilot
from textual.widgets import Input, Static, TextArea
from textual.worker import WorkerState

from cyber_inference_tui.errors import InvalidRequestError
from cyber_inference_tui.records import queries
from cyber_inference_tui.tui.app import CyberApp
from cyber_inference_tui.tui.key_queue import OPENING, KeyQueue
from cyber_inference_tui.tui.pages.chat.page import ChatPage
from cyber_inference_tui.tui.pages.logs.pane import LogPane
from cyber_inference_tui.tui.setting_text import parse
from cyber_inference_tui.tui.widgets.message_input import MessageInput
from tests.tui.driving import SMALL, WIDE, running, screen_text, until
from tests.tui.fake_client import FakeClient
from tests.tui.world import busy_world, model

FIELDS = {
    "dashboard filter": ("1", "slash"),
    "models filter": ("2", "slash"),
    "hub search": ("3", "slash"),
    "log search": ("4", "slash"),
    "save path": ("4", "ctrl+s"),
    "requests filter": ("5", "slash"),
    "message": ("6", "i"),
    "model choice": ("6", "m"),
    "sampling": ("6", "s", "tab"),
    "system prompt": ("6", "s"),
    "settings filter": ("7", "slash"),
    "value": ("7", "enter"),
    "theme": ("7", "t"),
    "palette": ("ctrl+p",),
}


async def opened(app: CyberApp, pilot: Pilot[Any], *keys: str) -> Input | TextArea:
    """Press the keys, and return the field that they open."""
    if keys[0] == "7":
        await pilot.press("7")
        await until(pilot, lambda: "default_context_size" in screen_text(app))
    await pilot.press(*keys)
    await until(pilot, lambda: isinstance(app.focused, Input | TextArea))
    field = app.focused
    assert isinstance(field, Input | TextArea)
    return field


def typed(field: Input | TextArea) -> str:
    return field.value if isinstance(field, Input) else field.text


@pytest.mark.parametrize("name", FIELDS)
async def test_a_paste_over_the_limit_is_refused_and_the_text_stays(name: str) -> None:
    async with running(busy_world()) as (app, _, pilot):
        field = await opened(app, pilot, *FIELDS[name])
        if isinstance(field, Input):
            field.value = ""
        await pilot.press(*"ab")
        app.post_message(events.Paste("x" * 200_000))
        await until(pilot, lambda: "This field takes at most" in screen_text(app))
        assert typed(field) == "ab"


async def test_a_full_line_says_so_once() -> None:
    async with running(busy_world()) as (app, _, pilot):
        field = await opened(app, pilot, "2", "slash")
        assert isinstance(field, Input)
        field.value = "x" * 256
        await pilot.press("end", *"yyy")
        await until(pilot, lambda: "takes at most 256 characters" in screen_text(app))
        assert field.value == "x" * 256
        assert len(app._notifications) == 1


@pytest.mark.parametrize("name", FIELDS)
async def test_a_field_keeps_focus_and_text_in_a_terminal_that_was_too_small(name: str) -> None:
    async with running(busy_world()) as (app, _, pilot):
        field = await opened(app, pilot, *FIELDS[name])
        await pilot.press(*"ab")
        before = typed(field)
        for size in ((40, 10), SMALL, WIDE):
            await pilot.resize_terminal(*size)
            await pilot.pause()
            assert app.focused is field
        await pilot.press("q")
        await until(pilot, lambda: typed(field) == before + "q")


@pytest.mark.parametrize("name", FIELDS)
async def test_an_empty_field_is_still_open_after_a_look_at_another_window(name: str) -> None:
    async with running(busy_world()) as (app, _, pilot):
        field = await opened(app, pilot, *FIELDS[name])
        app.post_message(events.AppBlur())
        await pilot.press("q")
        await until(pilot, lambda: "q" in typed(field))
        assert app.focused is field


async def test_page_keys_are_off_while_the_page_is_not_seen() -> None:
    async with running(busy_world(), first_page="models") as (app, client, pilot):
        await until(pilot, lambda: "phi-4-mini" in screen_text(app))
        await pilot.resize_terminal(40, 10)
        await until(pilot, lambda: "too small" in screen_text(app))
        await pilot.press("p", "u", "x")
        await pilot.resize_terminal(*WIDE)
        await until(pilot, lambda: "too small" not in screen_text(app))
        assert not client.calls


async def test_a_filter_keeps_its_table_when_the_details_lose_their_room() -> None:
    async with running(busy_world(), first_page="models") as (app, _, pilot):
        await pilot.press("enter")
        field = await opened(app, pilot, "slash")
        await pilot.press(*"qw")
        await pilot.resize_terminal(*SMALL)
        await pilot.pause()
        await pilot.press("e")
        await until(pilot, lambda: typed(field) == "qwe" and app.focused is field)
        assert "MODEL" in screen_text(app)


async def test_a_filter_keeps_the_board_when_the_last_model_goes() -> None:
    world = dataclasses.replace(busy_world(), models={"last": model("last")}, active=[])
    async with running(world) as (app, client, pilot):
        field = await opened(app, pilot, "slash")
        await pilot.press("l")
        client.world.models.clear()
        client.publish("model", {"id": "last"})
        await until(pilot, lambda: not app.snapshot.models)
        await pilot.press("a")
        await until(pilot, lambda: typed(field) == "la" and app.focused is field)


async def test_a_message_stays_when_its_model_goes() -> None:
    world = dataclasses.replace(busy_world(), models={"last": model("last")})
    async with running(world, first_page="chat") as (app, client, pilot):
        field = await opened(app, pilot, "6", "i")
        await pilot.press(*"hi")
        client.world.models.clear()
        client.publish("model", {"id": "last"})
        await until(pilot, lambda: not app.snapshot.models)
        await pilot.press("q")
        await until(pilot, lambda: typed(field) == "hiq" and app.focused is field)


@pytest.mark.parametrize(("text", "cell"), [("abc", 3), ("日本語ab", 8), ("x" * 200, None)])
async def test_the_terminals_cursor_is_on_the_caret(text: str, cell: int | None) -> None:
    async with running(busy_world(), first_page="models") as (app, _, pilot):
        field = await opened(app, pilot, "slash")
        assert isinstance(field, Input)
        field.value = text
        field.cursor_position = len(text)
        await pilot.pause()
        left = field.content_region.x
        assert app.cursor_position.y == field.content_region.y
        right = field.content_region.right - 1
        assert app.cursor_position.x == (right if cell is None else left + cell)
        await pilot.press("home")
        await pilot.pause()
        assert app.cursor_position.x == left


async def test_dropped_keys_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cyber_inference_tui.tui.key_queue._CAPACITY", 3)
    dropped: list[bool] = []
    async with running(busy_world(), first_page="models") as (app, _, _pilot):
        queue = KeyQueue(app, lambda: dropped.append(True))
        taken = [queue.admits(events.Key(key, key)) for key in "jjjjj"]
        assert taken == [True, False, False, False, False]
        assert [event.key for event in queue._waiting if isinstance(event, events.Key)] == [*"jjj"]
        assert dropped == [True]


def press_at_once(app: CyberApp, *keys: str) -> None:
    """Press keys that arrive in one packet."""
    characters = {"slash": "/", "left_square_bracket": "["}
    for key in keys:
        character = characters.get(key, key if len(key) == 1 else None)
        app.post_message(events.Key(key, character))


async def test_keys_behind_a_value_wait_until_it_is_saved() -> None:
    async with running(busy_world()) as (app, client, pilot):
        await opened(app, pilot, "7", "enter")
        press_at_once(app, "ctrl+u", *"4096", "enter", "G", "enter", *"nord", "enter")
        await until(pilot, lambda: len(client.calls) == 2)
        assert client.calls == [
            ("set_config", "default_context_size", 4096),
            ("set_config", "theme", "nord"),
        ]


async def test_keys_behind_a_form_wait_until_it_is_saved() -> None:
    async with running(busy_world(), first_page="models") as (app, client, pilot):
        await until(pilot, lambda: "phi-4-mini" in screen_text(app))
        press_at_once(app, "e", "ctrl+u", *"4096", "ctrl+s", "p")
        await until(pilot, lambda: len(client.calls) == 2)
        assert [call[0] for call in client.calls] == ["set_config", "pin"]


async def test_keys_behind_a_password_wait_for_the_page() -> None:
    client = FakeClient(busy_world())
    client.password = "sesame"
    async with running(client) as (app, _, pilot):
        await until(pilot, lambda: isinstance(app.focused, Input))
        press_at_once(app, *"sesame", "enter", "2")
        await until(pilot, lambda: app.snapshot.live)
        assert app.current_mode == "models"


async def test_keys_behind_a_search_are_for_what_it_finds() -> None:
    async with running(busy_world(), first_page="hub") as (app, client, pilot):
        await until(pilot, lambda: "unsloth/Qwen3-8B-GGUF" in screen_text(app))
        press_at_once(app, "slash", *"gemma", "enter", "enter")
        await until(pilot, lambda: "QUANT" in screen_text(app))
        assert client.searches[-1][0] == "gemma"
        assert "gemma" in str(app.screen.query_one("#title", Static).content)


async def test_keys_behind_details_wait_for_them() -> None:
    async with running(busy_world(), first_page="models") as (app, _, pilot):
        await until(pilot, lambda: "phi-4-mini" in screen_text(app))
        press_at_once(app, "enter", "y")
        await until(pilot, lambda: "llama-server" in app.clipboard)


async def test_keys_behind_a_page_wait_for_its_rows() -> None:
    async with running(busy_world()) as (app, client, pilot):
        press_at_once(app, "7", "G", "enter", *"nord", "enter")
        await until(pilot, lambda: client.calls == [("set_config", "theme", "nord")])
        press_at_once(app, "4", "b", "G", "enter")
        await until(
            pilot, lambda: any(one.source != "service" for one in app.screen.query(LogPane))
        )


async def test_keys_behind_a_chat_are_its_message() -> None:
    async with running(busy_world(), first_page="chat") as (app, _, pilot):
        await until(pilot, lambda: "Write to try" in screen_text(app))
        page = app.screen
        assert isinstance(page, ChatPage)
        page.choose("phi-4-mini-q4_k_m")
        assert isinstance(app.focused, MessageInput)  # now, because the next key is near


async def test_keys_wait_only_once_for_what_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(busy_world()) as (app, _, pilot):
        go_on = asyncio.Event()
        slow = app.run_worker(go_on.wait(), group=OPENING)
        monkeypatch.setattr("cyber_inference_tui.tui.key_queue._LIMIT", 0.5)
        await pilot.press("2")
        await until(pilot, lambda: app.current_mode == "models" and app._keys._task is None)
        monkeypatch.setattr("cyber_inference_tui.tui.key_queue._LIMIT", 1000.0)
        press_at_once(app, "3", "1")
        await until(pilot, lambda: app.current_mode == "dashboard")
        # It goes on, and ends.
        go_on.set()
        await until(pilot, lambda: slow.state is WorkerState.SUCCESS)


async def saving(app: CyberApp, pilot: Pilot[Any], path: str) -> None:
    field = await opened(app, pilot, "4", "ctrl+s")
    assert isinstance(field, Input)
    field.value = path
    await pilot.press("enter")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("~nosuchuser/x.log", "there is no user 'nosuchuser'"),
        ("/nosuchfolder/x.log", "no such file or directory"),
        (f"/tmp/{'x' * 300}.log", "file name too long"),
        ("/proc/x.log", "Not saved"),
        ("/tmp", "/tmp exists already"),
    ],
)
async def test_a_path_that_cannot_be_written_is_told_and_kept(path: str, reason: str) -> None:
    async with running(busy_world()) as (app, _, pilot):
        await saving(app, pilot, path)
        await until(pilot, lambda: reason in screen_text(app))
        field = app.focused
        assert isinstance(field, Input)
        assert field.value == path


async def test_without_a_home_directory_a_full_path_saves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # neither HOME nor an entry
    async with running(busy_world()) as (app, _, pilot):
        field = await opened(app, pilot, "4", "ctrl+s")
        assert typed(field) == "~/service.log"
        await pilot.press("enter")
        await until(pilot, lambda: "there is no home directory" in screen_text(app))
        assert isinstance(field, Input)
        field.value = str(tmp_path / "saved.log")
        await pilot.press("enter")
        await until(pilot, lambda: "Saved 3 lines" in screen_text(app))


async def test_a_log_that_is_saved_halfway_leaves_no_file(tmp_path: Path) -> None:
    async with running(busy_world(), first_page="logs") as (app, client, pilot):
        await until(pilot, lambda: "LOG" in screen_text(app))
        path = tmp_path / "saved.log"
        client.fail["log_lines"] = InvalidRequestError("the log is gone")
        await saving(app, pilot, str(path))
        await until(pilot, lambda: "the log is gone" in screen_text(app))
        assert not path.exists()


async def test_a_key_for_a_model_that_went_away_does_not_reach_its_neighbour() -> None:
    world = dataclasses.replace(
        busy_world(), models={name: model(name) for name in ("one", "two", "zoo")}, active=[]
    )
    async with running(world, first_page="models") as (app, client, pilot):
        await until(pilot, lambda: "two" in screen_text(app))
        await pilot.press("j")
        del client.world.models["two"]
        client.publish("model", {"id": "two"})
        await until(pilot, lambda: app.snapshot.model("two") is None)
        await pilot.press("l", "p", "x", "e")
        assert not client.calls
        assert len(app.screen_stack) == 1, "no question and no form"
        await pilot.press("j", "p")
        await until(pilot, lambda: client.calls == [("pin", "zoo", True)])


async def test_a_text_that_no_request_can_carry_is_refused_with_a_sentence() -> None:
    async with FakeClient(busy_world()) as client:
        with pytest.raises(InvalidRequestError, match="cannot be sent"):
            await client.search(queries.SearchQuery(q="x" * 70_000))
        with pytest.raises(InvalidRequestError, match="cannot be sent"):
            await client.check_config("theme", "\ud800")


@pytest.mark.parametrize("text", ['{"a": NaN}', '{"a": 1e999}', '{"a": "\\ud800"}', '{"a" 1}'])
def test_a_table_that_is_no_json_is_refused_in_plain_words(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="Type a table in JSON"):
        parse(text, {})
