"""The form of a model's own settings."""

from __future__ import annotations

from typing import Any

import msgspec
from textual.pilot import Pilot
from textual.widgets import Input

from cyber_inference_tui.errors import ConfigError
from cyber_inference_tui.records import ConfigCheckRecord, SettingEffect
from cyber_inference_tui.tui.app import CyberApp
from cyber_inference_tui.tui.pages.models.form import ModelForm, SettingLine
from tests.fakes.service import World
from tests.tui.driving import SMALL, running, screen_text, until
from tests.tui.fake_client import FakeClient
from tests.tui.world import busy_world, model

QWEN = "qwen3-4b-q4_k_m"


def on_models(world: World | FakeClient, **changes: Any) -> Any:
    return running(world, first_page="models", **changes)


def line(app: CyberApp, key: str) -> SettingLine:
    return next(one for one in app.screen.query(SettingLine) if one.setting.key == key)


async def opened(app: CyberApp, pilot: Pilot[Any], model_id: str = QWEN) -> None:
    await until(pilot, lambda: app.snapshot.model(model_id) is not None)
    await app.open_model(model_id)
    await pilot.pause()
    await pilot.press("e")
    await until(pilot, lambda: isinstance(app.screen, ModelForm))
    await until(pilot, lambda: isinstance(app.focused, Input))


async def type_in(app: CyberApp, pilot: Pilot[Any], key: str, text: str) -> None:
    field = line(app, key).input
    field.focus()
    await pilot.pause()
    field.value = ""
    await pilot.press(*text)


async def shows(app: CyberApp, pilot: Pilot[Any], *texts: str) -> None:
    await until(pilot, lambda: all(text in screen_text(app) for text in texts))


async def test_it_shows_what_the_table_says_and_what_holds_without_it() -> None:
    async with on_models(busy_world()) as (app, _, pilot):
        await opened(app, pilot)
        await shows(app, pilot, f"Settings of {QWEN}", f'[models."{QWEN}"]', "300  (default)")
        assert line(app, "context_size").input.value == "8192"
        assert not line(app, "context_size").input.cursor_blink
        assert line(app, "idle_timeout").input.value == ""
        await shows(app, pilot, "Tokens of context; 0 = the model's own", 'or "auto".')
        await pilot.press("down")
        await shows(app, pilot, "Further names under which clients may ask for it.")
        await pilot.press("enter")
        await shows(app, pilot, "Seconds without a request until it is unloaded.")
        await pilot.press("up", "up")
        await shows(app, pilot, "Tokens of context")


async def test_saving_writes_only_what_was_changed() -> None:
    async with on_models(busy_world()) as (app, client, pilot):
        await opened(app, pilot)
        await type_in(app, pilot, "context_size", "4096")
        await type_in(app, pilot, "idle_timeout", "60")
        await shows(app, pilot, f"Saving context_size, idle_timeout: reloads {QWEN} after")
        await pilot.press("ctrl+s")
        await until(pilot, lambda: not isinstance(app.screen, ModelForm))
        assert client.calls == [
            ("set_config", f'models."{QWEN}".context_size', 4096),
            ("set_config", f'models."{QWEN}".idle_timeout', 60),
        ]
        await shows(app, pilot, f"Saved settings of {QWEN}")
        client.calls.clear()
        # An emptied line is taken out.
        await opened(app, pilot)
        await type_in(app, pilot, "context_size", "")
        await shows(app, pilot, "context_size: removed from the file", "not set")
        await pilot.press("ctrl+s")
        await until(pilot, lambda: not isinstance(app.screen, ModelForm))
        assert client.calls == [("unset_config", f'models."{QWEN}".context_size')]
        client.calls.clear()
        # A write that fails keeps the form and the rest.
        await opened(app, pilot)
        client.fail["set_config"] = ConfigError("The file cannot be written.")
        await type_in(app, pilot, "context_size", "4096")
        await pilot.press("ctrl+s")
        await shows(app, pilot, "The file cannot be written.")
        assert isinstance(app.screen, ModelForm)
        del client.fail["set_config"]
        await pilot.press("ctrl+s")
        await until(pilot, lambda: not isinstance(app.screen, ModelForm))
        assert client.calls == [("set_config", f'models."{QWEN}".context_size', 4096)]


async def test_the_context_may_be_left_to_the_service() -> None:
    async with on_models(busy_world()) as (app, client, pilot):
        await opened(app, pilot)
        await type_in(app, pilot, "context_size", "auto")
        await shows(app, pilot, "Saving context_size")
        await pilot.press("ctrl+s")
        await until(pilot, lambda: not isinstance(app.screen, ModelForm))
        assert client.calls == [("set_config", f'models."{QWEN}".context_size', "auto")]


async def test_only_what_can_be_saved_is_saved() -> None:
    async with on_models(busy_world()) as (app, client, pilot):
        # Typing it back is no change.
        await opened(app, pilot)
        await type_in(app, pilot, "context_size", "81")
        await pilot.press(*"92")
        await shows(app, pilot, "No changes.")
        await pilot.press("ctrl+s")
        await pilot.pause()
        assert isinstance(app.screen, ModelForm)
        assert client.calls == []
        # What the service refuses stands under its line, and nothing is written.
        client.fail["check_config"] = ConfigError("expected at most 2147483647", hint="Less.")
        await type_in(app, pilot, "context_size", "9999999999")
        await shows(app, pilot, "expected at most 2147483647 Less.")
        await pilot.press("ctrl+s")
        await pilot.pause()
        assert client.calls == []
        assert isinstance(app.screen, ModelForm)
        client.fail.clear()
        # A value that cannot be read stands with its mistake.
        await type_in(app, pilot, "pinned", "perhaps")
        await shows(app, pilot, "Type true or false.", "Correct the values marked in red")
        await type_in(app, pilot, "context_size", "4096")
        await pilot.press("ctrl+s")
        await until(pilot, lambda: app.focused is line(app, "pinned").input)
        assert client.calls == []
        await type_in(app, pilot, "pinned", "yes")
        await until(pilot, lambda: not line(app, "pinned").problem)
        await pilot.press("ctrl+s")
        await until(pilot, lambda: len(client.calls) == 2)


async def test_what_applies_at_once_is_said() -> None:
    class Gentle(FakeClient):
        async def check_config(self, key: str, value: Any) -> ConfigCheckRecord:
            return ConfigCheckRecord(key=key, value=value, effect=SettingEffect.NOW)

    async with on_models(Gentle(busy_world())) as (app, _, pilot):
        await opened(app, pilot)
        await type_in(app, pilot, "pinned", "true")
        await shows(app, pilot, "Saving pinned: applies now.")


async def test_leaving_asks_only_when_something_would_be_lost() -> None:
    async with on_models(busy_world()) as (app, client, pilot):
        await opened(app, pilot)
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(app.screen, ModelForm))
        await opened(app, pilot)
        await type_in(app, pilot, "idle_timeout", "9")
        await pilot.press("escape")
        await shows(app, pilot, "Leave without saving?", "Your changes are lost: idle_timeout.")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, ModelForm))
        assert line(app, "idle_timeout").input.value == "9"
        await pilot.press("escape")
        await shows(app, pilot, "Leave without saving?")
        await pilot.press("l")
        await until(pilot, lambda: not isinstance(app.screen, ModelForm))
        assert client.calls == []


async def test_ids_that_need_quotes() -> None:
    world = busy_world()
    name = 'sub/My "best" model.v2'
    world.models[name] = model(name)
    world.details[name] = msgspec.structs.replace(
        world.details["qwen3-32b-q4_k_m"], model=world.models[name]
    )
    async with on_models(world) as (app, client, pilot):
        await opened(app, pilot, name)
        await type_in(app, pilot, "context_size", "1024")
        await pilot.press("ctrl+s")
        await until(pilot, lambda: bool(client.calls))
        path = r'models."sub/My \"best\" model.v2".context_size'
        assert client.calls == [("set_config", path, 1024)]


async def test_a_small_terminal_scrolls_the_lines_and_keeps_the_words_below() -> None:
    world = busy_world()
    details = world.details[QWEN]
    more = tuple(
        msgspec.structs.replace(details.settings[0], key=f"further_{number}", value=None)
        for number in range(20)
    )
    world.details[QWEN] = msgspec.structs.replace(details, settings=(*details.settings, *more))
    async with on_models(world, size=SMALL) as (app, _, pilot):
        await opened(app, pilot)
        await shows(app, pilot, "context_size", "ctrl+s saves", "Type a whole number")
        assert "further_19" not in screen_text(app)
        await pilot.press("up")
        await shows(app, pilot, "further_19", "ctrl+s saves")


async def test_values_that_somebody_else_changed_are_replaced_only_after_a_question() -> None:
    world = busy_world()
    async with on_models(world) as (app, client, pilot):
        await opened(app, pilot)
        await type_in(app, pilot, "context_size", "4096")

        def change_elsewhere(value: int) -> None:
            details = client.world.details[QWEN]
            settings = tuple(
                msgspec.structs.replace(one, value=value) if one.key == "context_size" else one
                for one in details.settings
            )
            client.world.details[QWEN] = msgspec.structs.replace(details, settings=settings)

        change_elsewhere(1234)
        await pilot.press("ctrl+s")
        await shows(app, pilot, "changed these settings meanwhile", "context_size is 1234")
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, ModelForm))
        assert line(app, "context_size").input.value == "4096"
        await pilot.press("ctrl+s")
        await shows(app, pilot, "context_size is 1234")
        await pilot.press("k")
        await until(pilot, lambda: isinstance(app.screen, ModelForm))
        await until(pilot, lambda: line(app, "context_size").input.value == "1234")
        assert not client.calls
        await type_in(app, pilot, "context_size", "2048")
        change_elsewhere(999)
        await pilot.press("ctrl+s")
        await shows(app, pilot, "context_size is 999")
        await pilot.press("r")
        await until(
            pilot,
            lambda: client.calls == [("set_config", f'models."{QWEN}".context_size', 2048)],
        )
