"""The dialog of API keys, its form, and the totals by key."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import msgspec
import pytest
from textual.widgets import Input

from cyber_inference_tui.errors import CyberError, InvalidRequestError
from cyber_inference_tui.records import NewKey, Priority
from cyber_inference_tui.tui.dialogs.api_keys import ApiKeysDialog
from cyber_inference_tui.tui.dialogs.new_key import NewKeyForm, read_new_key
from tests.service.history_records import request
from tests.tui.driving import running, screen_text, until
from tests.tui.world import NOW, busy_world

NOTHING = dict.fromkeys(
    ("name", "models", "requests_per_minute", "tokens_per_day", "priority", "expires"), ""
)


async def test_a_key_is_created_shown_once_copied_and_removed() -> None:
    async with running(busy_world(), first_page="settings") as (app, client, pilot):
        client.service.now = NOW
        await until(pilot, lambda: "default_context_size" in screen_text(app))
        await pilot.press("a")
        await until(pilot, lambda: "None yet." in screen_text(app))
        await pilot.press("n", *"alice")
        app.screen.query_one("#requests_per_minute", Input).value = "20"
        await pilot.press("enter")
        await until(pilot, lambda: "The new key of alice" in screen_text(app))
        (key,) = client.service.keys.present
        assert (key.name, key.requests_per_minute) == ("alice", 20)
        await until(pilot, lambda: "20 requests/min" in screen_text(app))
        await pilot.press("y")
        assert app.clipboard.startswith("sk-")
        assert app.clipboard in screen_text(app)
        client.service.keys.note([request(at=NOW - timedelta(seconds=9), key_name="alice")])
        await pilot.press("escape", "a")
        await until(pilot, lambda: "20 requests/min" in screen_text(app))
        assert "sk-" not in screen_text(app)
        await pilot.press("x")
        await until(pilot, lambda: "It is the last one" in screen_text(app))
        await pilot.press("r")
        await until(pilot, lambda: "None yet." in screen_text(app))
        assert client.service.keys.present == ()


async def test_a_refused_key_keeps_the_form_with_the_reason() -> None:
    async with running(busy_world()) as (app, client, pilot):
        app.push_screen(ApiKeysDialog())
        await until(pilot, lambda: "None yet." in screen_text(app))
        await pilot.press("n", "enter")
        await until(pilot, lambda: "A key needs a name." in screen_text(app))
        client.fail["keys"] = CyberError("The disk is full.")
        await pilot.press(*"bob", "enter")
        await until(pilot, lambda: "The disk is full." in screen_text(app))
        assert isinstance(app.screen, NewKeyForm)
        assert app.screen.query_one("#name", Input).value == "bob"
        client.fail.clear()
        await pilot.press("enter")
        await until(pilot, lambda: "The new key of bob" in screen_text(app))


async def test_a_read_only_app_only_shows_them() -> None:
    async with running(busy_world(), readonly=True) as (app, client, pilot):
        await client.service.keys.add(NewKey(name="alice", priority=Priority.LOW))
        app.push_screen(ApiKeysDialog())
        await until(pilot, lambda: "low priority" in screen_text(app))
        await pilot.press("x", "n")
        await pilot.pause()
        assert isinstance(app.screen, ApiKeysDialog)


def test_a_typed_key() -> None:
    typed = {
        **NOTHING,
        "name": " alice ",
        "models": "a, b,",
        "requests_per_minute": "2,000",
        "priority": "High",
        "expires": "2027-01-31",
    }
    assert read_new_key(typed) == NewKey(
        name="alice",
        models=("a", "b"),
        requests_per_minute=2000,
        priority=Priority.HIGH,
        expires=date(2027, 1, 31),
    )
    assert read_new_key({**NOTHING, "name": "a"}) == NewKey(name="a")


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("name", "  "),
        ("requests_per_minute", "-1"),
        ("tokens_per_day", "1.5"),
        ("tokens_per_day", "9" * 99),
        ("priority", "top"),
        ("expires", "soon"),
    ],
)
def test_a_wrong_field_is_named(field: str, text: str) -> None:
    typed: dict[str, Any] = {**NOTHING, "name": "a", field: text}
    with pytest.raises(InvalidRequestError) as refused:
        read_new_key(typed)
    assert refused.value.param == field


async def test_totals_by_key() -> None:
    world = busy_world()
    totals = world.speed_totals["model"][0]
    world.speed_totals["key"] = [msgspec.structs.replace(totals, name="alice", tokens_in=3456)]
    async with running(world, first_page="requests") as (app, _, pilot):
        await pilot.press("b")
        await pilot.pause()
        assert "TOTALS" not in screen_text(app)
        await pilot.press("t")
        await until(pilot, lambda: "TOK/S" in screen_text(app))
        await pilot.press("b", "b")
        await until(pilot, lambda: "alice" in screen_text(app))
        assert "3,456" in screen_text(app)
        await pilot.press("escape")
        await until(pilot, lambda: "REQUESTS" in screen_text(app))
