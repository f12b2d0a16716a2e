"""The Settings page: its keys, and the preview before a value is written."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import msgspec
import pytest
from textual.widgets import Input

from cyber_inference_tui.errors import ConfigError, CyberError
from cyber_inference_tui.tui.dialogs.choice import ChoiceDialog
from cyber_inference_tui.tui.editor import editor_command
from cyber_inference_tui.tui.widgets.live_table import LiveTable
from tests.fakes.service import World
from tests.tui.driving import SMALL, running, screen_text, until
from tests.tui.fake_client import FakeClient
from tests.tui.world import busy_world

on_page = partial(running, first_page="settings")


async def on_setting(pilot, app, key: str) -> None:  # type: ignore[no-untyped-def]
    """Open the page with the cursor on ``key``."""
    if app.current_mode != "settings":
        await pilot.press("7")
    await until(pilot, lambda: "SETTING" in screen_text(app))
    app.screen.query_one(LiveTable).move_to(key)
    await pilot.pause()


async def test_a_value_is_checked_while_it_is_typed_and_then_saved() -> None:
    async with running(busy_world()) as (app, client, pilot):
        await on_setting(pilot, app, "default_context_size")
        assert "Tokens of context; 0 = the model's own." in screen_text(app)
        await pilot.press("enter")
        await until(pilot, lambda: "enter saves" in screen_text(app))
        app.screen.query_one("#value", Input).value = "many"
        await until(pilot, lambda: "Type a number." in screen_text(app))
        await pilot.press("enter")
        await pilot.pause()
        assert not client.calls
        app.screen.query_one("#value", Input).value = "16384"
        await until(pilot, lambda: "Applies at once." in screen_text(app))
        await pilot.press("enter")
        await until(pilot, lambda: client.calls == [("set_config", "default_context_size", 16384)])
        await until(pilot, lambda: "16384" in screen_text(app))


async def test_what_is_typed_is_judged_before_it_is_written() -> None:
    async with on_page(busy_world()) as (app, client, pilot):
        for key in ("default_context_size", "api_keys"):
            await on_setting(pilot, app, key)
            await pilot.press("enter")
            await until(pilot, lambda: "esc Cancel" in screen_text(app))
            assert "enter" not in screen_text(app).splitlines()[-1]
            await pilot.press("enter")
            await until(pilot, lambda: not app.screen.query_one("#value").display)
        assert not client.calls
        # A refused value stays in the line with the reason.
        await on_setting(pilot, app, "max_memory_percent")
        client.fail["check_config"] = ConfigError("max_memory_percent must be at most 100.")
        await pilot.press("enter", *"9", "enter")
        await until(pilot, lambda: "must be at most 100" in screen_text(app))
        assert app.screen.query_one("#value", Input).value == "9"
        assert not client.calls
        await pilot.press("escape")
        await until(pilot, lambda: not app.screen.query_one("#value").display)
        client.fail.clear()
        # A value from the environment is marked.
        await on_setting(pilot, app, "model_idle_timeout")
        assert "CYBER_INFERENCE_MODEL_IDLE_TIMEOUT" in screen_text(app)
        await pilot.press("enter", *"0")
        await until(pilot, lambda: "but overridden by" in screen_text(app))
        await pilot.press("escape")
        await until(pilot, lambda: not app.screen.query_one("#value").display)
        assert not client.calls
        # Back to the default.
        await on_setting(pilot, app, "default_context_size")
        await pilot.press("x")
        await pilot.pause()
        assert not client.calls
        await on_setting(pilot, app, "port")
        await pilot.press("x")
        await until(pilot, lambda: client.calls == [("unset_config", "port")])


async def test_a_secret_is_reset_after_a_question_and_never_shown() -> None:
    async with on_page(busy_world()) as (app, client, pilot):
        await on_setting(pilot, app, "api_keys")
        await pilot.press("x")
        await until(pilot, lambda: "Reset api_keys to its default?" in screen_text(app))
        await pilot.press("enter")
        await until(pilot, lambda: "Reset api_keys" not in screen_text(app))
        assert not client.calls
        await pilot.press("x")
        await until(pilot, lambda: "Reset api_keys to its default?" in screen_text(app))
        await pilot.press("r")
        await until(pilot, lambda: client.calls == [("unset_config", "api_keys")])
        client.calls.clear()
        # It is neither shown nor filled in.
        await on_setting(pilot, app, "api_keys")
        await pilot.press("enter")
        await pilot.pause()
        line = app.screen.query_one("#value", Input)
        assert line.password
        assert line.value == ""
        await pilot.press(*"hidden")
        await pilot.pause()
        assert "hidden" not in screen_text(app)
        await pilot.press("enter")
        await until(pilot, lambda: client.calls == [("set_config", "api_keys", ["hidden"])])


async def test_a_reset_that_restarts_models_asks_first() -> None:
    world = busy_world()
    old = world.config["default_context_size"]
    world.config[old.key] = msgspec.structs.replace(old, source="file", value=4096)
    async with on_page(world) as (app, client, pilot):
        client.service.restarts = ("qwen3-4b-q4_k_m",)
        await on_setting(pilot, app, old.key)
        await pilot.press("x")
        await until(pilot, lambda: "Reloads qwen3-4b-q4_k_m" in screen_text(app))
        await pilot.press("r")
        await until(pilot, lambda: client.calls == [("unset_config", old.key)])


async def test_a_theme_that_is_chosen_is_taken_at_once_and_kept() -> None:
    kept: list[str] = []
    async with running(busy_world(), attached=True, save_theme=kept.append) as (app, client, pilot):
        for keys, theme in ((["7", "t"], "cyber-light"), (["1", "ctrl+p", *"theme"], "dracula")):
            await pilot.press(*keys)
            if "ctrl+p" in keys:
                await until(pilot, lambda: "choose the colours" in screen_text(app))
                await pilot.press("enter")
            await until(pilot, lambda: isinstance(app.screen, ChoiceDialog))
            await pilot.press(*theme, "enter")
            await until(pilot, lambda: bool(kept))
            assert app.theme == kept.pop() == theme
        assert client.calls == [], "the service may be another's"


async def test_a_theme_that_cannot_be_kept_is_reported() -> None:
    def save(name: str) -> None:
        raise CyberError("The disk is full.")

    async with on_page(busy_world(), save_theme=save) as (app, _, pilot):
        await pilot.press("t", *"dracula", "enter")
        await until(pilot, lambda: "The disk is full." in screen_text(app))


async def test_the_cursor_steps_over_titles() -> None:
    async with on_page(busy_world()) as (app, _, pilot):
        table = app.screen.query_one(LiveTable)
        await until(pilot, lambda: table.cursor_key == "default_context_size")
        await pilot.press("j", "j")
        await until(pilot, lambda: table.cursor_key == "max_memory_percent")
        await pilot.press("k")
        await until(pilot, lambda: table.cursor_key == "model_idle_timeout")


async def test_the_filter_narrows_and_escape_clears_it() -> None:
    async with on_page(busy_world(), size=SMALL) as (app, _, pilot):
        await on_setting(pilot, app, "port")
        await pilot.press("slash", *"port", "enter")
        await until(pilot, lambda: "1 of 8" in screen_text(app))
        assert "host" not in screen_text(app).split("SETTING")[1].split("Address")[0]
        await pilot.press("escape")
        await until(pilot, lambda: "1 of 8" not in screen_text(app))
        # It finds words of the help.
        await pilot.press("slash", *"unloaded")
        await until(pilot, lambda: "1 of 8" in screen_text(app))
        assert "model_idle_timeout" in screen_text(app)
        await pilot.press("enter", "escape")
        await until(pilot, lambda: "1 of 8" not in screen_text(app))
        # The table stays in place with any help.
        await on_setting(pilot, app, "port")
        heights = set()
        for key in ("port", "model_idle_timeout", "theme"):
            app.screen.query_one(LiveTable).move_to(key)
            await pilot.pause()
            heights.add(app.screen.query_one(LiveTable).size.height)
            await pilot.press("enter")
            await until(pilot, lambda: bool(app.screen.query_one("#value").display))
            heights.add(app.screen.query_one(LiveTable).size.height)
            await pilot.press("escape")
        assert len(heights) == 1


def with_config_file(path: Path) -> World:
    world = busy_world()
    world.status = msgspec.structs.replace(world.status, config_path=str(path))
    return world


async def test_the_file_itself_is_opened_in_the_editor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\necho "# mine" >> "$1"\n')
    editor.chmod(0o755)
    monkeypatch.setenv("VISUAL", str(editor))
    config = tmp_path / "config.toml"
    async with on_page(with_config_file(config)) as (app, client, pilot):
        await on_setting(pilot, app, "port")
        app.suspend = _nothing  # type: ignore[method-assign]
        await pilot.press("e")
        await until(pilot, lambda: "There is no file" in screen_text(app))
        config.write_text("port = 1\n")
        await pilot.press("e")
        assert config.read_text() == "port = 1\n# mine\n"
        client.publish("config", {"error": "config.toml:2: port: must be a number"})
        await until(pilot, lambda: "config.toml:2: port" in screen_text(app))
        await pilot.press("e")
        await until(pilot, lambda: config.read_text().endswith("# mine\n# mine\n"))


async def test_a_file_on_another_machine_is_not_edited_here(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("")
    async with on_page(with_config_file(config), attached=True) as (app, _, pilot):
        await on_setting(pilot, app, "port")
        await until(pilot, lambda: "edit the file on the service's machine" in screen_text(app))
        assert "Edit file" not in screen_text(app)


async def test_keys_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = tmp_path / "keys.toml"
    editor = tmp_path / "editor"
    editor.write_text(
        '#!/bin/sh\necho "\\"app.help\\" = \\"f5\\"\n\\"no.such\\" = \\"f6\\"" >> "$1"\n'
    )
    editor.chmod(editor.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("VISUAL", str(editor))
    client = FakeClient(busy_world())
    async with on_page(client, keymap_path=keys) as (app, _, pilot):
        await on_setting(pilot, app, "port")
        app.suspend = _nothing  # type: ignore[method-assign]
        await pilot.press("m")
        await until(pilot, lambda: "there is no action 'no.such'" in screen_text(app))
        assert '# "settings.edit" = "enter"' in keys.read_text()
        await pilot.press("f5")
        await until(pilot, lambda: "Everywhere" in screen_text(app))


async def test_readonly_has_no_way_to_change_anything() -> None:
    async with on_page(busy_world(), readonly=True) as (app, client, pilot):
        await on_setting(pilot, app, "port")
        await pilot.press("x", "e", "m", "enter")
        await pilot.pause()
        assert not app.screen.query_one("#value").display
        assert not client.calls
        assert "Edit file" not in screen_text(app)


@contextmanager
def _nothing() -> Iterator[None]:
    """The test has no terminal that an editor could take over."""
    yield


def test_an_editor_that_cannot_be_parsed_is_refused() -> None:
    assert editor_command({"VISUAL": "", "EDITOR": "code --wait"}) == ["code", "--wait"]
    with pytest.raises(CyberError, match=r"EDITOR is not a command: No closing quotation"):
        editor_command({"EDITOR": "'vim"})


async def test_a_value_that_somebody_else_changed_is_replaced_only_after_a_question() -> None:
    async with on_page(busy_world()) as (app, client, pilot):
        await on_setting(pilot, app, "model_idle_timeout")
        await pilot.press("enter", "ctrl+u", *"500")
        await client.service.configuration.set("model_idle_timeout", 111)
        await until(pilot, lambda: "it is 111 now" in screen_text(app))
        assert app.screen.query_one("#value", Input).value == "500"
        client.calls.clear()
        for answer in ("escape", "k"):
            await pilot.press("enter")
            await until(pilot, lambda: "Somebody changed model_idle_timeout" in screen_text(app))
            await pilot.press(answer)
            await until(pilot, lambda: "Somebody changed model_idle" not in screen_text(app))
            assert client.calls == []
        assert client.world.config["model_idle_timeout"].value == 111
        await pilot.press("enter", "ctrl+u", *"222")
        await client.service.configuration.set("model_idle_timeout", 333)
        client.calls.clear()
        await pilot.press("enter")
        await until(pilot, lambda: "It is 333 now. You typed 222." in screen_text(app))
        await pilot.press("r")
        await until(pilot, lambda: client.calls == [("set_config", "model_idle_timeout", 222)])
