"""The palette: every command by its name."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from cyber_inference_tui.records import ModelStatus, endpoints
from cyber_inference_tui.tui.chrome import PAGES
from cyber_inference_tui.tui.commands import Command, matching, other_page_commands, page_commands
from cyber_inference_tui.tui.dialogs.palette import Palette
from cyber_inference_tui.tui.key_table import THIS_PAGE, key_lines
from cyber_inference_tui.tui.widgets.live_table import LiveTable
from tests.tui.driving import running, screen_text, until
from tests.tui.fake_client import FakeClient
from tests.tui.fake_hosts import BOX, OLD, hosts_of
from tests.tui.world import busy_world


def keys(text: str) -> list[str]:
    """The keys that type a text."""
    return ["space" if letter == " " else letter for letter in text]


async def test_the_palette_has_every_action_of_each_page() -> None:
    async with running(busy_world()) as (app, _, pilot):
        actions = {}
        for number, page in enumerate(PAGES, 1):
            await pilot.press(str(number))
            await until(pilot, lambda: app.screen.is_mounted)
            assert app.current_mode == page.mode
            lines = {line.does for line in key_lines(app.screen) if line.group == THIS_PAGE}
            found = {command.name for command in page_commands(app)}
            found |= {command.name for command in other_page_commands(app, page.mode)}
            moves = {"Back", "Close", "Next", "Previous", "Show all", "Details", "Leave field"}
            assert (lines - moves) | {"Help", "Quit", "Theme"} <= found
            actions[page.title] = found
        # Those of other pages have the page's name.
        assert {"Requests: Totals", "Logs: Split", "Hub: Search"} <= actions["Chat"]


async def test_the_palette_finds_models_settings_and_themes() -> None:
    async with running(busy_world()) as (app, client, pilot):
        await pilot.press("colon", *keys("load 32b"), "enter")
        await until(pilot, lambda: any(call[0] == "load" for call in client.calls))
        await pilot.press("ctrl+p", *keys("setting idle"))
        await until(pilot, lambda: "Setting model_idle_timeout" in screen_text(app))
        await pilot.press("enter")
        await until(pilot, lambda: app.current_mode == "settings")
        table = app.screen.query_one("#table", LiveTable)
        await until(pilot, lambda: table.cursor_key == "model_idle_timeout")
        # The last command comes first.
        await pilot.press("ctrl+p")
        await until(pilot, lambda: isinstance(app.screen, Palette))
        rows = app.screen.query_one(LiveTable).rows
        assert rows[0].key == "Setting model_idle_timeout"


class LateSettings(FakeClient):
    """A service that says its settings only when ``told`` is set."""

    def __init__(self) -> None:
        super().__init__(busy_world())
        self.told = asyncio.Event()

    async def call(self, endpoint: Any, *args: Any, **options: Any) -> Any:
        if endpoint is endpoints.CONFIG:
            await self.told.wait()
        return await super().call(endpoint, *args, **options)


async def test_the_cursor_is_on_the_best_command_when_it_comes_late() -> None:
    client = LateSettings()
    async with running(client) as (app, _, pilot):
        await pilot.press("ctrl+p", *keys("setting idle"))
        await until(pilot, lambda: "Settings: Edit file" in screen_text(app))
        table = app.screen.query_one(LiveTable)
        client.told.set()
        await until(pilot, lambda: "Setting model_idle_timeout" in screen_text(app))
        assert table.cursor_key == table.rows[0].key == "Setting model_idle_timeout"


async def test_a_setting_is_under_the_cursor_when_the_settings_come_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = LateSettings()
    client.told.set()
    async with running(client) as (app, _, pilot):
        await pilot.press("ctrl+p", *keys("setting idle"))
        await until(pilot, lambda: "Setting model_idle_timeout" in screen_text(app))
        client.told.clear()
        # Keys do not wait for them so long.
        monkeypatch.setattr("cyber_inference_tui.tui.key_queue._LIMIT", 0.5)
        await pilot.press("enter")
        await until(pilot, lambda: "Waiting for the service." in screen_text(app))
        await until(pilot, lambda: app._keys._task is None)
        client.told.set()
        await until(pilot, lambda: "model_idle_timeout" in screen_text(app))
        assert app.screen.query_one("#table", LiveTable).cursor_key == "model_idle_timeout"


async def test_a_theme_is_shown_while_it_is_chosen() -> None:
    saved: list[str] = []
    async with running(busy_world(), save_theme=saved.append) as (app, _, pilot):
        before = app.theme
        await pilot.press("ctrl+p", *keys("theme dracula"))
        await until(pilot, lambda: app.theme == "dracula")
        await pilot.press("escape")
        await until(pilot, lambda: app.theme == before)
        await pilot.press("ctrl+p", *keys("theme dracula"), "enter")
        await until(pilot, lambda: saved == ["dracula"])
        assert app.theme == "dracula"
        await pilot.press("7", "t", *keys("nord"))
        await until(pilot, lambda: app.theme == "nord")
        await pilot.press("escape")
        await until(pilot, lambda: app.theme == "dracula")


async def test_an_action_of_another_page_opens_it() -> None:
    async with running(busy_world()) as (app, _, pilot):
        await pilot.press("ctrl+p", *keys("requests totals"), "enter")
        await until(pilot, lambda: app.current_mode == "requests")
        await until(pilot, lambda: "by model" in screen_text(app).lower())


async def test_unloading_a_busy_model_asks_as_its_key_does() -> None:
    async with running(busy_world()) as (app, client, pilot):
        await pilot.press("colon", *keys("unload qwen3-4b"), "enter")
        await until(pilot, lambda: "It is serving 2 requests" in screen_text(app))
        assert app.current_mode == "models"
        assert not [call for call in client.calls if call[0] == "unload"]
        await pilot.press("c", "7", "colon", *keys("theme"))
        await until(pilot, lambda: isinstance(app.screen, Palette))
        names = [row.key for row in app.screen.query_one(LiveTable).rows]
        assert names.count("Theme") == 1


async def test_the_palette_unloads_all_idle_models() -> None:
    async with running(busy_world()) as (app, client, pilot):
        client.set_model("qwen3-4b-q4_k_m", in_flight=0, queued=0)
        client.set_model("phi-4-mini-q4_k_m", status=ModelStatus.LOADED, error=None)
        idle = {"qwen3-4b-q4_k_m", "phi-4-mini-q4_k_m"}  # the third loaded model is pinned
        await until(pilot, lambda: app.snapshot.models[2].status is ModelStatus.LOADED)
        await pilot.press("ctrl+p", *keys("unload all"), "enter")
        await until(
            pilot,
            lambda: {c[1] for c in client.calls if c[0] == "unload"} == idle,
        )


async def test_the_palette_switches_hosts(tmp_path: Path) -> None:
    async with running(busy_world(), hosts=hosts_of(tmp_path, OLD)) as (app, _, pilot):
        await pilot.press("ctrl+p", *keys("host"))
        await until(pilot, lambda: "Host this machine" in screen_text(app))
        names = {row.key for row in app.screen.query_one(LiveTable).rows}
        assert f"Host {BOX}" in names
        assert "Host old:8337" not in names  # it is the one that the app shows
        await pilot.press(*keys(" box"), "enter")
    assert app.next_host == BOX


async def test_a_copied_curl_command_never_has_the_key() -> None:
    client = FakeClient(busy_world())
    client.api_key = "s3cret"
    async with running(client) as (app, _, pilot):
        await pilot.press("ctrl+p", *keys("curl nomic"), "enter")
        await until(pilot, lambda: "takes the key from $OPENAI_API_KEY" in screen_text(app))
        command = app.clipboard
        assert "s3cret" not in command
        assert '"Authorization: Bearer $OPENAI_API_KEY"' in command
        assert f"{client.url}/v1/embeddings" in command
        client.api_key = ""
        await pilot.press("ctrl+p", *keys("curl qwen3-4b"), "enter")
        await until(pilot, lambda: "/v1/chat/completions" in app.clipboard)
        assert "Authorization" not in app.clipboard


def test_words_are_found_in_any_order_and_gaps() -> None:
    names = ["Load qwen3-4b", "Unload qwen3-4b", "Details of qwen3-4b", "Setting load_timeout"]
    commands = [Command(name, lambda: None, about="loaded") for name in names]

    def found(typed: str, *recent: str) -> list[str]:
        return [one.name for one in matching(commands, typed, recent)]

    assert found("qwen load")[0] == "Load qwen3-4b"
    assert found("ldt") == ["Setting load_timeout"]
    assert found("zebra") == []
    assert found("") == names
    assert found("", names[3], names[1])[:2] == [names[3], names[1]]


async def test_the_palette_has_the_actions_of_the_focused_pane() -> None:
    async with running(busy_world()) as (app, client, pilot):
        await pilot.press("3", "right_square_bracket")
        await until(pilot, lambda: "x Cancel" in screen_text(app))
        await pilot.press("ctrl+p", *keys("pause"))
        await until(pilot, lambda: "pause the download" in screen_text(app))
        await pilot.press("enter")
        await until(pilot, lambda: ("pause_download", "d1") in client.calls)
