"""Presets and favourites on the Models page and in lists of models."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from cyber_inference_tui.records import ModelStatus
from cyber_inference_tui.terminal.charset import UNICODE
from cyber_inference_tui.terminal.columns import Order, RenderContext
from cyber_inference_tui.tui.dialogs.choice import ChoiceDialog
from cyber_inference_tui.tui.pages.chat.model_choice import model_rows
from cyber_inference_tui.tui.pages.models.form import ModelForm
from cyber_inference_tui.tui.pages.models.presets import base_of, last_used, without_unused
from cyber_inference_tui.tui.pages.models.table import COLUMNS, sorted_models
from cyber_inference_tui.tui.snapshot import RemoteModel
from cyber_inference_tui.tui.widgets.live_table import LiveTable
from tests.fakes.service import World
from tests.tui.driving import screen_text, until
from tests.tui.test_models import QWEN, at, on_models, order, shows
from tests.tui.world import NOW, ago, busy_world, model

LONG, TINY = f"{QWEN}:long", f"{QWEN}:tiny"


def preset(name: str, **changes: Any) -> Any:
    return model(name, preset_of=QWEN, status=ModelStatus.UNLOADED, **changes)


def world_with_presets(**base: Any) -> World:
    world = busy_world()
    world.models[QWEN] = model(QWEN, **{"status": ModelStatus.UNLOADED, **base})
    world.models[LONG] = preset(LONG, last_used_at=ago(60), context_length=65536)
    world.models[TINY] = preset(TINY, last_used_at=ago(3600))
    return world


@pytest.mark.parametrize(
    ("base", "tiny", "keep", "shown"),
    [
        ({}, {}, (), [LONG]),
        ({"last_used_at": ago(1)}, {}, (), [QWEN]),
        ({"status": ModelStatus.LOADED}, {}, (), [QWEN]),
        ({"status": ModelStatus.LOADED}, {"status": ModelStatus.FAILED}, (), [QWEN, TINY]),
        ({}, {}, (TINY, None), [LONG, TINY]),
    ],
)
def test_one_row_stands_for_all_that_nobody_uses(
    base: dict[str, Any], tiny: dict[str, Any], keep: Any, shown: list[str]
) -> None:
    models = [
        model(QWEN, **{"status": ModelStatus.UNLOADED, **base}),
        preset(LONG, last_used_at=ago(60)),
        model(TINY, **{"preset_of": QWEN, "status": ModelStatus.UNLOADED, **tiny}),
        model("other", status=ModelStatus.UNLOADED),
    ]
    assert [one.id for one in without_unused(models, keep)] == [*shown, "other"]


def test_the_model_itself_comes_first_if_nothing_was_used() -> None:
    alike = [preset(LONG), model(QWEN, last_used_at=None)]
    assert last_used(alike).id == QWEN


def test_presets_of_another_box_belong_to_its_model() -> None:
    here = RemoteModel(id=f"attic/{LONG}", box="attic", preset_of=QWEN)
    assert base_of(here) == f"attic/{QWEN}"


async def test_a_key_chooses_a_preset_and_loads_it() -> None:
    async with on_models(world_with_presets()) as (app, client, pilot):
        await shows(app, pilot, LONG)
        assert QWEN not in order(app)
        assert TINY not in order(app)
        await at(app, pilot, LONG)
        await shows(app, pilot, "P Presets")
        assert "Delete" not in screen_text(app)
        await pilot.press("P")
        await until(pilot, lambda: isinstance(app.screen, ChoiceDialog))
        await shows(app, pilot, f"Load a preset of {QWEN}", TINY, "64K / 40K")
        # The one that was used last is under the cursor.
        assert app.screen.query_one(LiveTable).cursor_key == LONG
        await pilot.press("down", "enter")
        await until(pilot, lambda: ("load", TINY, False) in client.calls)
        await until(pilot, lambda: TINY in order(app))
        # The key of a load loads what the row says.
        client.set_model(LONG, last_used_at=NOW)
        client.set_model(TINY, status=ModelStatus.UNLOADED)
        await until(pilot, lambda: LONG in order(app))
        await at(app, pilot, LONG)
        await pilot.press("l")
        await until(pilot, lambda: ("load", LONG, False) in client.calls)


async def test_the_filter_finds_all_and_a_model_without_presets_has_no_key() -> None:
    async with on_models(world_with_presets()) as (app, _, pilot):
        await shows(app, pilot, LONG)
        await pilot.press("/", *"tiny", "enter")
        await until(pilot, lambda: order(app) == [TINY])
        await pilot.press("escape")
        await until(pilot, lambda: LONG in order(app))
        await at(app, pilot, "qwen3-32b-q4_k_m")
        await until(pilot, lambda: "Presets" not in screen_text(app))
        await pilot.press("P")
        await pilot.pause()
        assert not isinstance(app.screen, ChoiceDialog)


async def test_the_form_of_a_preset_writes_into_its_table() -> None:
    world = world_with_presets()
    details = world.details[QWEN]
    world.details[LONG] = msgspec.structs.replace(details, model=world.models[LONG])
    async with on_models(world) as (app, client, pilot):
        await shows(app, pilot, LONG)
        await at(app, pilot, LONG)
        await pilot.press("e")
        await until(pilot, lambda: isinstance(app.screen, ModelForm))
        await shows(app, pilot, f'[models."{QWEN}".presets."long"]')
        await pilot.press(*"7", "ctrl+s")
        await until(pilot, lambda: bool(client.calls))
        name, key, _ = client.calls[-1]
        assert name == "set_config"
        assert key.startswith(f'models."{QWEN}".presets."long".')


def test_favourites_come_first_in_any_order() -> None:
    models = [model(name) for name in "abc"]
    by_name = Order(COLUMNS[0])
    assert [one.id for one in sorted_models(models, by_name, {"c"})] == ["c", "a", "b"]
    context = RenderContext(UNICODE, NOW, {"b"})
    rows = model_rows(models, context)
    assert [row.key for row in rows] == ["b", "a", "c"]
    assert rows[0].cell(0)[0] == "★ b"


async def test_a_key_makes_a_favourite_which_is_kept() -> None:
    async with on_models(world_with_presets()) as (app, _, pilot):
        await shows(app, pilot, LONG)
        await at(app, pilot, LONG)
        await pilot.press("f")
        await until(pilot, lambda: order(app)[0] == LONG)
        await shows(app, pilot, f"★ {LONG}")
        assert app.kept.get("models", "favourites", [""]) == [LONG]
        await pilot.press("f")
        await until(pilot, lambda: "★" not in screen_text(app))
        assert app.kept.get("models", "favourites", [""]) == []
