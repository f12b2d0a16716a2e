"""The dialog that says how clients connect: its facts, its copies, and what it hides."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import msgspec
import pytest
from textual.pilot import Pilot

from cyber_inference_tui.connect.connection import AUTO
from cyber_inference_tui.records import ClientRecord, ModelStatus, PortRecord
from cyber_inference_tui.terminal.charset import ASCII, UNICODE
from cyber_inference_tui.tui.app import CyberApp
from cyber_inference_tui.tui.app_options import AfterExit
from cyber_inference_tui.tui.dialogs.connect import ConnectDialog, KindList
from cyber_inference_tui.tui.dialogs.connect_facts import (
    Fact,
    KeyState,
    facts_content,
    key_fact,
    model_names,
)
from cyber_inference_tui.tui.pages.page import Page
from tests.fakes.service import World, make_settings
from tests.tui.driving import SMALL, WIDE, running, screen_text, until
from tests.tui.fake_client import FakeClient
from tests.tui.world import ago, busy_world, empty_world, model, request, setting

KEY = "sk-" + "0123456789abcdef" * 3  # as long as the service makes them
QWEN = "qwen3-4b-q4_k_m"
NARROW = (60, 20)


def caller(agent: str | None, seconds: float, **changes: Any) -> ClientRecord:
    fields: dict[str, Any] = {"key_name": None, "client": "127.0.0.1", "port": 8337, "requests": 12}
    return ClientRecord(user_agent=agent, last_used_at=ago(seconds), **{**fields, **changes})


@asynccontextmanager
async def opened(
    client: World | FakeClient, **options: Any
) -> AsyncIterator[tuple[CyberApp, FakeClient, Pilot[AfterExit]]]:
    """The dialog, opened with its key."""
    async with running(client, **options) as (app, fake, pilot):
        await pilot.press("C")
        await until(pilot, lambda: isinstance(app.screen, ConnectDialog))
        await until(pilot, lambda: "Reading" not in screen_text(app))
        yield app, fake, pilot


async def select(app: CyberApp, pilot: Pilot[AfterExit], title: str) -> None:
    app.screen.query_one(KindList).move_to(title)
    await pilot.pause()


def keyed(world: World, *, wanted: str = KEY, own: str = KEY) -> FakeClient:
    """A client with the key ``own`` of a service that wants another."""
    client = FakeClient(world)
    client.service.settings = make_settings(api_keys=[wanted])
    client.api_key = own
    return client


async def test_it_opens_on_every_page_with_the_model_of_the_page() -> None:
    async with running(busy_world()) as (app, _, pilot):
        for key in "1234567":
            await pilot.press(key)
            await until(pilot, lambda: isinstance(app.screen, Page))
            await pilot.press("C")
            await until(pilot, lambda: "http://127.0.0.1:8337/v1 " in screen_text(app))
            await pilot.press("C")
            await until(pilot, lambda: isinstance(app.screen, Page))
        await pilot.press("2", "g", "j", "C")
        await until(pilot, lambda: "/v1/embeddings" in screen_text(app))
        assert "nomic-embed-text-v2" in screen_text(app)


async def test_it_opens_while_a_text_is_typed() -> None:
    async with running(busy_world(), first_page="chat") as (app, _, pilot):
        await until(pilot, lambda: "Write to try a model." in screen_text(app))
        await pilot.press("enter", "C", "f2")
        await until(pilot, lambda: isinstance(app.screen, ConnectDialog))
        await pilot.press("escape")
        await until(pilot, lambda: "C" in screen_text(app).splitlines()[-2])


async def test_there_is_nothing_to_connect_to_before_the_service_answers() -> None:
    client = FakeClient(busy_world())
    client.stop()
    async with running(client, attached=True) as (app, _, pilot):
        await pilot.press("C")
        await pilot.pause()
        assert isinstance(app.screen, Page)
        assert "Connect" not in screen_text(app).splitlines()[-1]


async def test_each_fact_is_copied_by_its_key() -> None:
    async with opened(busy_world(), first_page="models") as (app, _, pilot):
        await pilot.press("m", *"qwen3-4b", "enter")
        await until(pilot, lambda: "also qwen" in screen_text(app))
        copies = {"a": "http://127.0.0.1:8337/v1", "b": "http://127.0.0.1:8337", "i": QWEN}
        for key, text in copies.items():
            await pilot.press(key)
            await until(pilot, partial(lambda wanted: app.clipboard == wanted, text))
        assert "none needed" in screen_text(app)
        await pilot.press("y", "v")
        await pilot.pause()
        assert app.clipboard == QWEN


async def test_lines_are_copied_by_c_and_enter() -> None:
    async with opened(busy_world(), first_page="models") as (app, _, pilot):
        await pilot.press("c")
        await until(pilot, lambda: app.clipboard.startswith("curl http://127.0.0.1:8337/v1/"))
        await select(app, pilot, "Claude Code")
        await until(pilot, lambda: "export ANTHROPIC_BASE_URL" in screen_text(app))
        await pilot.press("enter")
        await until(pilot, lambda: app.clipboard.endswith("\nclaude\n"))
        assert "Copied the lines for Claude Code." in screen_text(app)


async def test_the_key_is_hidden_until_it_is_asked_for_and_copied_whole() -> None:
    async with opened(keyed(busy_world()), first_page="models") as (app, _, pilot):
        assert KEY not in screen_text(app)
        assert "Bearer ••••••••••••" in screen_text(app)
        await pilot.press("y")
        await until(pilot, lambda: app.clipboard == KEY)
        await pilot.press("c")
        await until(pilot, lambda: f"Bearer {KEY}" in app.clipboard)
        await pilot.press("v")
        await until(pilot, lambda: f"Bearer {KEY}" in screen_text(app))
        await pilot.press("v")
        await until(pilot, lambda: KEY not in screen_text(app))
        await pilot.press("v", "escape", "C")
        await until(pilot, lambda: "Bearer ••••••••••••" in screen_text(app))
        assert KEY not in screen_text(app)


@pytest.mark.parametrize(("own", "word"), [("", "needed: one"), ("another", "refused: not one")])
async def test_a_key_that_the_service_refuses_is_in_no_line(own: str, word: str) -> None:
    async with opened(keyed(busy_world(), own=own)) as (app, _, pilot):
        await until(pilot, lambda: word in screen_text(app))
        assert "Replace KEY by one of the service's keys" in screen_text(app)
        await pilot.press("y", "c")
        await until(pilot, lambda: "Bearer KEY" in app.clipboard)


async def test_aliases_and_auto_are_names_to_choose() -> None:
    async with opened(busy_world(), first_page="models") as (app, _, pilot):
        await pilot.press("m")
        await until(pilot, lambda: f"alias of {QWEN}" in screen_text(app))
        assert f"now {QWEN}" in screen_text(app)
        await pilot.press(*"auto", "enter")
        await until(pilot, lambda: '{"model": "auto"' in screen_text(app))
        await pilot.press("m", *"qwen", "enter", "c")
        await until(pilot, lambda: '{"model": "qwen' in app.clipboard)


async def test_the_default_model_and_the_aliases_of_auto_are_known() -> None:
    world = empty_world()
    world.models = {name: model(name) for name in ("one", "two")}
    async with opened(world, first_page="models") as (app, client, pilot):
        for key, value in (("default_model", "two"), ('models."auto".aliases', ["gpt-4o"])):
            client.world.config[key] = setting(key, value)
        client.publish("config", {"error": None})
        dialog = app.screen
        assert isinstance(dialog, ConnectDialog)
        await until(pilot, lambda: bool(dialog._auto.aliases))
        await pilot.press("m", *"gpt")
        await until(pilot, lambda: "now two" in screen_text(app))
        await pilot.press("enter", "c")
        await until(pilot, lambda: '{"model": "gpt-4o"' in app.clipboard)


def test_models_that_cannot_answer_have_no_name_here() -> None:
    loaded = model("b", status=ModelStatus.LOADED, aliases=("bee",))
    records = [model("a"), model("broken", unreadable=True), model("e", embedding=True), loaded]
    assert [one.name for one in model_names(records)] == ["b", "bee", "a", "e", AUTO]
    assert [one.name for one in model_names(records[:3])][-1] == AUTO, "the only one that chats"
    assert [one.name for one in model_names([model("a"), model("c")])] == ["a", "c"]


async def test_without_a_model_it_says_where_to_get_one() -> None:
    async with opened(empty_world()) as (app, _, pilot):
        assert "none yet  3 finds and downloads one" in screen_text(app)
        assert [row.key for row in app.screen.query_one(KindList).rows] == ["SSH tunnel"]
        await pilot.press("i", "m")
        await pilot.pause()
        assert isinstance(app.screen, ConnectDialog)


async def test_another_machine_gets_a_tunnel_to_this_one() -> None:
    async with opened(busy_world(), machine="me@jetson") as (app, _, pilot):
        assert app.screen.query_one(KindList).rows[-1].key == "SSH tunnel"
        await select(app, pilot, "SSH tunnel")
        await pilot.press("c")
        await until(pilot, lambda: app.clipboard == "ssh -N -L 18337:127.0.0.1:8337 me@jetson")
        assert "http://127.0.0.1:18337" in screen_text(app)


async def test_an_attached_app_begins_with_the_tunnel_to_its_service() -> None:
    world = busy_world()
    world.status = msgspec.structs.replace(
        world.status, port=9000, extra_ports=(PortRecord(port=11434),)
    )
    async with opened(world, attached=True) as (app, _, _):
        text = screen_text(app)
        assert "ssh -N -L 8337:127.0.0.1:9000 user@host" in text
        assert "the service is at http://127.0.0.1:8337 on this machine" in " ".join(text.split())
        assert "11434" not in text, "the tunnel does not lead there"


async def test_other_open_ports_are_named() -> None:
    world = busy_world()
    ports = (PortRecord(port=11434), PortRecord(port=8080, problem="nginx has it"))
    world.status = msgspec.structs.replace(world.status, extra_ports=ports)
    async with opened(world) as (app, _, _):
        assert "also on port 11434 " in screen_text(app)


async def test_a_client_that_calls_appears_at_once() -> None:
    world = busy_world()
    async with opened(world) as (app, client, pilot):
        assert "None yet. Copy lines from above and run them." in screen_text(app)
        world.clients = [caller("OpenAI/Python 1.2 (x)", 4, key_name="1"), caller(None, 90)]
        client.publish("request", request(59))
        await until(pilot, lambda: "OpenAI/Python (key 1)" in screen_text(app))
        text = screen_text(app)
        assert "4 s" in text
        assert "1 min" in text
        world.clients = [caller("ollama/0.9", 0)]
        client.publish("request", request(60))
        await until(pilot, lambda: "ollama " in screen_text(app))
        assert "OpenAI/Python" not in screen_text(app)


async def test_a_model_of_another_kind_has_other_lines() -> None:
    async with opened(busy_world(), first_page="models") as (app, _, pilot):
        await select(app, pilot, "Claude Code")
        await pilot.press("m", *"nomic", "enter")
        await until(pilot, lambda: "/v1/embeddings" in screen_text(app))
        assert "ANTHROPIC" not in screen_text(app)
        await pilot.press("c")
        await until(pilot, lambda: "/v1/embeddings" in app.clipboard)


async def test_it_follows_the_models() -> None:
    async with opened(busy_world(), first_page="models") as (app, client, pilot):
        before = app.screen.query_one(KindList).rows
        client.set_model(QWEN, aliases=("new-name",))
        await pilot.press("m", *"new-name", "enter")
        await until(pilot, lambda: '{"model": "new-name"' in screen_text(app))
        client.set_model("qwen3-32b-q4_k_m", aliases=("new-name",))
        await until(pilot, lambda: "curl" not in screen_text(app))
        client.set_model(QWEN, aliases=())
        await until(pilot, lambda: "curl" in screen_text(app))
        client.set_model("qwen3-32b-q4_k_m", aliases=())
        await until(pilot, lambda: "new-name" not in screen_text(app))
        assert app.screen.query_one(KindList).rows == before


@pytest.mark.parametrize("size", [WIDE, SMALL, NARROW, (60, 18)])
async def test_all_of_it_is_in_sight_at_every_size(size: tuple[int, int]) -> None:
    world = busy_world()
    world.clients = [caller("claude-cli/2.1", 4)]
    async with opened(keyed(world), size=size, first_page="models") as (app, _, pilot):
        lines = screen_text(app).splitlines()
        for text in ("Connect a client", "/v1 ", "Key ", "RECENT CLIENTS", "claude-cli "):
            assert any(text in line for line in lines), text
        assert any("c copies the lines" in line and "esc closes" in line for line in lines)
        assert sum("copies" in line for line in lines) == 5
        await pilot.press("v")
        await until(pilot, lambda: KEY in screen_text(app))
        await pilot.press("j", "j", "j", "j")
        await until(pilot, lambda: "export ANTHROPIC_BASE_URL" in screen_text(app))
        pane = app.screen.query_one("#pane")
        for _ in range(12):
            await pilot.press("pagedown")
        await until(pilot, lambda: pane.scroll_offset.y == pane.max_scroll_y)
        assert "again." in screen_text(app)


def test_facts_have_their_keys_below_each_other_if_there_is_room() -> None:
    facts = [
        Fact("A", "short", keys=(("a", "copies"),)),
        Fact("B", "a longer value", "with a remark", (("b", "copies"), ("v", "shows"))),
    ]
    wide = str(facts_content(facts, 80, UNICODE)).splitlines()
    assert wide[0].index("a copies") == wide[1].index("b copies")
    assert "with a remark" in wide[1]
    narrow = str(facts_content(facts, 45, UNICODE)).splitlines()
    assert narrow[0].index("a copies") == narrow[1].index("b copies")
    assert "with a remark" not in narrow[1]
    least = str(facts_content(facts, 26, UNICODE)).splitlines()
    assert least[1] == "B         a longer value"


@pytest.mark.parametrize("width", [53, 72, 104])
def test_a_key_that_is_shown_moves_no_other_line(width: int) -> None:
    def lines(*, shown: bool) -> list[str]:
        facts = [
            Fact("OpenAI", "http://127.0.0.1:8337/v1", keys=(("a", "copies"),)),
            key_fact(KEY, KeyState.ACCEPTED, ASCII, shown=shown),
        ]
        return str(facts_content(facts, width, ASCII)).split("\n")

    assert lines(shown=True)[0] == lines(shown=False)[0]
    assert KEY in lines(shown=True)[1]
    assert max(map(len, lines(shown=True))) <= width
