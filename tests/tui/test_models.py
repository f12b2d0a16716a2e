"""The Models page: its contents and its keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from rich.cells import cell_len
from textual.binding import Binding
from textual.pilot import Pilot

from cyber_inference_tui.errors import CyberError, ModelLoadError
from cyber_inference_tui.records import Fit, ModelStatus, ProblemRecord, ServiceEvent
from cyber_inference_tui.records.checks import Ability, ModelCheck, Outcome, Trial
from cyber_inference_tui.terminal.charset import ASCII
from cyber_inference_tui.tui.app import CyberApp
from cyber_inference_tui.tui.pages.dashboard.page import DashboardPage
from cyber_inference_tui.tui.pages.models.details_pane import DetailsPane
from cyber_inference_tui.tui.pages.models.model_actions import MODEL_ACTIONS
from cyber_inference_tui.tui.pages.models.page import ModelsPage
from cyber_inference_tui.tui.widgets.live_table import LiveTable
from tests.fakes.service import World
from tests.tui.driving import SMALL, running, screen_text, until
from tests.tui.fake_client import FakeClient
from tests.tui.world import NOW, busy_world, empty_world, model

GEMMA, NOMIC, PHI, BIG, QWEN = (
    "gemma-3-4b-it-q4_k_m",
    "nomic-embed-text-v2",
    "phi-4-mini-q4_k_m",
    "qwen3-32b-q4_k_m",
    "qwen3-4b-q4_k_m",
)


def page(app: CyberApp) -> ModelsPage:
    return next(screen for screen in app.screen_stack if isinstance(screen, ModelsPage))


def table(app: CyberApp) -> LiveTable:
    return page(app).query_one("#table", LiveTable)


def order(app: CyberApp) -> list[str]:
    return [row.key for row in table(app).rows]


async def at(app: CyberApp, pilot: Pilot[Any], model_id: str) -> None:
    """Move the cursor to a model."""
    assert table(app).move_to(model_id)
    await pilot.pause()


ALONE = (119, 40)
"""Without room for the details beside the table."""


def on_models(world: World | FakeClient, **changes: Any) -> Any:
    return running(world, first_page="models", **changes)


async def shows(app: CyberApp, pilot: Pilot[Any], *texts: str) -> None:
    await until(pilot, lambda: all(text in screen_text(app) for text in texts))


# What is shown


async def test_the_table_and_the_line_below_show_each_model_and_its_changes() -> None:
    async with on_models(busy_world(), size=ALONE) as (app, client, pilot):
        await shows(app, pilot, "MODELS  5", "◐ loading 64 %", "✖ failed", "● loaded")
        await shows(app, pilot, "◍ evicts", "✖ too big", "~21.7 GiB", "◆ embed")
        # The line below says why.
        await at(app, pilot, BIG)
        await shows(app, pilot, "✖ too big: needs 21.7 GiB, this machine may use 5.90 GiB")
        assert "enter opens" not in screen_text(app)  # the line of keys says it
        await at(app, pilot, PHI)
        await shows(app, pilot, "✖ The model needs more memory than the GPU has")
        # An event changes its row and its sentence.
        client.set_model(GEMMA, progress=0.9)
        await shows(app, pilot, "◐ loading 90 %")
        await at(app, pilot, BIG)
        client.set_model(BIG, fits=Fit.NOW, fits_reason="needs 1.00 GiB, 2.00 GiB is free")
        await shows(app, pilot, "✔ fits: needs 1.00 GiB, 2.00 GiB is free")
        # The cursor follows its model when rows change.
        await at(app, pilot, QWEN)
        client.publish("model", model("a-new-one"))
        await until(pilot, lambda: len(order(app)) == 6)
        assert table(app).cursor_key == QWEN
        await pilot.press("s", "s")
        await shows(app, pilot, "STATE ▲")
        assert table(app).cursor_key == QWEN


async def test_files_that_cannot_be_used_are_listed_below_the_table() -> None:
    world = busy_world()
    world.problems = [ProblemRecord(where="/m/lora.gguf", reason="it is an adapter \x1b[31m(LoRA)")]
    async with on_models(world) as (app, client, pilot):
        await shows(app, pilot, "✖ lora.gguf: it is an adapter (LoRA)")
        world.problems += [
            ProblemRecord(where=f"/m/{name}.gguf", reason="it is a pipe") for name in "abcd"
        ]
        client.publish("service", ServiceEvent(state="problems"))
        await shows(app, pilot, "✖ a.gguf: it is a pipe", "and 3 more that cannot be used")
        world.problems = []
        client.publish("service", ServiceEvent(state="problems"))
        await until(pilot, lambda: "a.gguf" not in screen_text(app))


async def test_on_a_low_screen_one_line_counts_what_cannot_be_used() -> None:
    world = empty_world()
    world.problems = [
        ProblemRecord(where=f"/m/{name}.gguf", reason="it is a pipe") for name in "ab"
    ]
    async with on_models(world, size=SMALL) as (app, _, pilot):
        await shows(app, pilot, "2 files cannot be used")


async def test_without_models_the_page_says_how_to_get_one() -> None:
    async with on_models(empty_world()) as (app, _, pilot):
        await shows(
            app, pilot, "No models yet.", "3  finds models in the Hub", "Or put GGUF files into"
        )
        # Nothing can be sorted or filtered.
        assert "Sort" not in screen_text(app)
        assert "Filter" not in screen_text(app)
        assert "Mark" not in screen_text(app)
        assert not app.screen.query_one(DetailsPane).display
        for key in ("l", "u", "p", "enter", "e", "o", "t", "c", "x", "y"):
            await pilot.press(key)
        await pilot.pause()
        assert app.current_mode == "models"


async def test_the_models_stay_while_there_is_no_connection() -> None:
    async with on_models(busy_world(), size=ALONE) as (app, client, pilot):
        await shows(app, pilot, QWEN)
        client.stop()
        await until(pilot, lambda: page(app).has_class("-stale"))
        assert len(order(app)) == 5
        # The details and actions show the error.
        await pilot.press("d")
        await shows(app, pilot, "No service answers")
        await pilot.press("escape")
        await until(pilot, lambda: "No service answers" not in screen_text(app))
        await at(app, pilot, PHI)
        await pilot.press("l")
        await shows(app, pilot, "No service answers")


async def test_a_small_terminal_keeps_what_matters() -> None:
    async with on_models(busy_world(), size=SMALL) as (app, _, pilot):
        await shows(app, pilot, "STATE", "FITS", "MEMORY")
        assert "CONTEXT" not in screen_text(app)
        assert all(cell_len(line) <= 80 for line in screen_text(app).splitlines())
        # Details that fill the page are not repeated below.
        await pilot.press("enter")
        await shows(app, pilot, "COMMAND")
        assert not page(app).query_one("#line").display
        await pilot.press("escape")
        await until(pilot, lambda: bool(page(app).query_one("#line").display))


async def test_ascii() -> None:
    async with on_models(busy_world(), charset=ASCII) as (app, _, pilot):
        await shows(app, pilot, "* loaded", "x too big")
        await pilot.press("d")
        await shows(app, pilot, "COMMAND")
        # Textual draws its scrollbars with blocks.
        assert screen_text(app).translate(dict.fromkeys(map(ord, "▁▂▃▄▅▆▇█"))).isascii()


async def test_hostile_names_break_nothing() -> None:
    world = busy_world()
    evil = "z\x1b]52;c;aGk=\x07\x1b[2J\u202e[/oops" + "模" * 80
    world.models = {evil: model(evil, aliases=("[bold]",), error="[/error\x1b[2J")}
    async with on_models(world) as (app, _, pilot):
        await shows(app, pilot, "z[/oops模模")
        await pilot.press("d")
        await shows(app, pilot, "ERROR", "[/error")
        await pilot.press("escape", "e")
        await shows(app, pilot, "Settings of z[/oops")
        await pilot.press("escape", "x")
        await shows(app, pilot, "These files are removed from the disk:")
        text = screen_text(app)
        assert "\x1b" not in text
        assert "\u202e" not in text


# Order and filter


async def test_the_menu_sorts_by_a_letter_and_a_title_by_a_click() -> None:
    async with on_models(busy_world()) as (app, _, pilot):
        await shows(app, pilot, "MODEL ▲")
        assert order(app) == sorted(order(app))
        # The largest first; the same letter again turns the order round.
        await pilot.press("s")
        await shows(app, pilot, "Sort by", "i  size", "u  used")
        await pilot.press("i")
        await until(pilot, lambda: order(app)[0] == BIG)
        await pilot.press("s", "i")
        await until(pilot, lambda: order(app)[-1] == BIG)
        # Its column is hidden beside the details: the title names it.
        await shows(app, pilot, "by size ▲")
        await pilot.press("S")
        await shows(app, pilot, "by size ▼")
        # The cursor of the menu stands on the present column.
        await pilot.press("s", "k", "enter")
        await shows(app, pilot, "by quant ▲")
        await pilot.press("s", "escape")
        await until(pilot, lambda: "Sort by" not in screen_text(app))
        # A click on a title sorts.
        await pilot.press("d", "d")
        await until(pilot, lambda: "SIZE" in screen_text(app))
        header = next(line for line in screen_text(app).splitlines() if "STATE" in line)
        x = header.index("SIZE") - table(app).region.x
        await pilot.click("#table", offset=(x, 0))
        await shows(app, pilot, "SIZE ▼")
        assert order(app)[0] == BIG


# The details pane


async def test_the_details_are_beside_the_table_and_follow_the_cursor() -> None:
    async with on_models(busy_world()) as (app, client, pilot):
        await at(app, pilot, BIG)
        await shows(app, pilot, "COMMAND", "layers", "MODEL ▲")
        # They say what the line below would say.
        assert not page(app).query_one("#line").display
        await at(app, pilot, PHI)
        await shows(app, pilot, "phi-4-mini-q4_k_m.gguf", "ERROR")
        await pilot.press("enter")
        await until(pilot, lambda: page(app).query_one("#details").has_focus)
        await pilot.press("G", "g", "j", "k", "escape")
        assert table(app).has_focus
        # They are read again when the model or the settings change.
        await at(app, pilot, PHI)
        await shows(app, pilot, "layers")
        known = client.world.details[PHI]
        client.world.details[PHI] = msgspec.structs.replace(known, facts={"second": 2})
        client.set_model(PHI, status=ModelStatus.UNLOADED, error=None)
        await shows(app, pilot, "second")
        client.world.details[PHI] = msgspec.structs.replace(known, facts={"third": 3})
        client.publish("config", {"error": None})
        await shows(app, pilot, "third")
        # A second key closes them, and they stay closed.
        await pilot.press("d", "d")
        await until(pilot, lambda: "COMMAND" not in screen_text(app))
        assert table(app).has_focus
        assert app.kept.get("models", "details", default=True) is False
        await pilot.press("d")
        await shows(app, pilot, "COMMAND")


async def test_on_a_small_terminal_the_details_take_the_place_of_the_table() -> None:
    async with on_models(busy_world(), size=SMALL) as (app, client, pilot):
        await at(app, pilot, QWEN)
        await pilot.press("d")
        await shows(app, pilot, "▸      8K", "COMMAND")
        assert "FITS\n▸" not in screen_text(app)
        assert not table(app).display
        await pilot.press("slash", "s")
        assert not page(app).query_one("#filter").display
        await pilot.resize_terminal(120, 40)
        await shows(app, pilot, "MODEL ▲", "COMMAND")
        await pilot.resize_terminal(*SMALL)
        await until(pilot, lambda: not table(app).display)
        client.publish("model", {"id": QWEN, "status": None})
        await until(pilot, lambda: table(app).display)
        await at(app, pilot, PHI)
        await pilot.press("d")
        await shows(app, pilot, "ERROR")


async def test_details_that_cannot_be_read_say_why() -> None:
    async with on_models(busy_world(), size=ALONE) as (app, client, pilot):
        client.fail["details"] = CyberError("The disk is gone.", hint="Mount it.")
        await pilot.press("d")
        await shows(app, pilot, "The disk is gone. Mount it.")
        del client.fail["details"]
        client.publish("config", {"error": None})
        await shows(app, pilot, "COMMAND")
        # The reason is not taken for that of another model.
        client.fail["details"] = CyberError("The disk is gone.")
        await at(app, pilot, BIG)
        await shows(app, pilot, "The disk is gone.")
        del client.fail["details"]
        await at(app, pilot, PHI)
        await until(pilot, lambda: "The disk is gone." not in screen_text(app))
        await shows(app, pilot, "COMMAND", "phi-4-mini-q4_k_m.gguf")


# Actions


async def test_load_unload_and_pin() -> None:
    async with on_models(busy_world()) as (app, client, pilot):
        # What is loaded is not loaded again, and the other way round.
        await at(app, pilot, QWEN)
        await pilot.press("l")
        await at(app, pilot, BIG)
        await pilot.press("u")
        await pilot.pause()
        assert client.calls == []
        # A load that is refused says why.
        client.fail["load"] = ModelLoadError("It has no room.")
        await at(app, pilot, BIG)
        await pilot.press("l")
        await shows(app, pilot, "It has no room.")
        del client.fail["load"]
        await pilot.press("l")
        await until(pilot, lambda: ("load", BIG, False) in client.calls)
        await shows(app, pilot, "◐ loading 0 %")
        # An idle model is unloaded at once.
        await at(app, pilot, NOMIC)
        await pilot.press("u")
        await until(pilot, lambda: ("unload", NOMIC, False) in client.calls)
        await at(app, pilot, BIG)
        await pilot.press("p")
        await until(pilot, lambda: client.world.models[BIG].pinned)
        await until(pilot, lambda: bool((known := app.snapshot.model(BIG)) and known.pinned))
        await pilot.press("p")
        await until(pilot, lambda: client.calls[-1] == ("pin", BIG, False))


async def test_unloading_a_busy_model_asks() -> None:
    answers: list[tuple[str, list[Any]]] = [
        ("c", []),
        ("escape", []),
        ("w", [("unload", QWEN, False)]),
        ("enter", [("unload", QWEN, False)]),
        ("n", [("unload", QWEN, True)]),
    ]
    async with on_models(busy_world()) as (app, client, pilot):
        before = client.world.models[QWEN]
        for answer, calls in answers:
            await at(app, pilot, QWEN)
            await pilot.press("u")
            await shows(app, pilot, f"Unload {QWEN}?", "It is serving 2 requests.")
            await pilot.press(answer)
            await until(pilot, lambda: "Unload qwen" not in screen_text(app))
            assert client.calls == calls, answer
            client.calls.clear()
            client.world.models[QWEN] = before
            client.publish("model", before)
            await until(pilot, lambda: app.snapshot.model(QWEN) == before)


async def test_deleting_asks_with_the_size_and_the_files() -> None:
    async with on_models(busy_world()) as (app, client, pilot):
        await at(app, pilot, BIG)
        await pilot.press("x")
        await shows(app, pilot, f"Delete {BIG}, 18.5 GiB?", "from the disk:", f"{BIG}.gguf")
        await pilot.press("enter")
        await until(pilot, lambda: "Delete qwen3" not in screen_text(app))
        assert client.calls == []
        await pilot.press("delete")
        await shows(app, pilot, "Delete qwen3")
        await pilot.press("d")
        await until(pilot, lambda: ("delete", BIG) in client.calls)
        await shows(app, pilot, f"{BIG} was deleted.", "MODELS  4")
        # What cannot be deleted says why.
        client.calls.clear()
        client.set_model(PHI, origin="ollama")
        await until(pilot, lambda: app.snapshot.model(PHI) == client.world.models[PHI])
        await at(app, pilot, PHI)
        await pilot.press("x")
        await shows(app, pilot, "cannot be deleted: it comes", "Only models in")
        await at(app, pilot, NOMIC)
        await pilot.press("x")
        await shows(app, pilot, "is loaded. Unload it first (u).")
        assert client.calls == []


async def test_copying_the_id_and_the_command() -> None:
    async with on_models(busy_world(), size=ALONE) as (app, _, pilot):
        await at(app, pilot, QWEN)
        await pilot.press("c")
        await until(pilot, lambda: app.clipboard == QWEN)
        await pilot.press("y")
        await pilot.pause()
        assert app.clipboard == QWEN
        await pilot.press("d")
        await shows(app, pilot, "COMMAND")
        await pilot.press("y")
        await until(pilot, lambda: app.clipboard.startswith("/opt/llama.cpp/llama-server --model"))
        # Its log, and a chat with it.
        await at(app, pilot, PHI)
        await pilot.press("o")
        await until(pilot, lambda: app.current_mode == "logs")
        await shows(app, pilot, "llama_model_load: error loading model")
        await pilot.press("2")
        await until(pilot, lambda: app.current_mode == "models")
        await pilot.press("t")
        await until(pilot, lambda: app.current_mode == "chat")


async def test_the_page_can_be_opened_at_a_model() -> None:
    async with running(busy_world()) as (app, client, pilot):
        await app.open_model(QWEN)
        await until(pilot, lambda: app.current_mode == "models" and table(app).cursor_key == QWEN)
        await pilot.press("slash", *"phi", "enter")
        await until(pilot, lambda: order(app) == [PHI])
        await app.open_model(BIG)
        await until(pilot, lambda: table(app).cursor_key == BIG)
        assert len(order(app)) == 5
        await app.open_model("gone")
        await pilot.pause()
        client.publish("model", model("gone"))
        await until(pilot, lambda: "gone" in order(app))
        assert table(app).cursor_key == BIG


async def test_read_only_hides_what_changes_something() -> None:
    async with on_models(busy_world(), readonly=True) as (app, client, pilot):
        for model_id in (BIG, QWEN, NOMIC):
            await at(app, pilot, model_id)
            await pilot.press("l", "u", "p", "x", "e")
            await pilot.pause()
        assert client.calls == []
        assert isinstance(app.screen, ModelsPage)
        text = screen_text(app)
        assert "Load" not in text
        assert "Details" in text
        await pilot.press("d")
        await shows(app, pilot, "COMMAND")
        assert "e edits" not in screen_text(app)


def every_action() -> Iterator[str]:
    for binding in ModelsPage.BINDINGS:
        yield binding.action  # type: ignore[union-attr]


def test_every_action_that_changes_something_is_hidden_in_a_read_only_app() -> None:
    assert set(every_action()) >= ModelsPage.STEERING


async def test_hundreds_of_models_are_drawn_once() -> None:
    world = busy_world()
    many = {f"model-{number:04}": model(f"model-{number:04}") for number in range(600)}
    world.models = {**world.models, **many}
    async with on_models(world) as (app, client, pilot):
        await shows(app, pilot, "MODELS  605")
        before = {row.key: row for row in table(app).rows}
        client.set_model(NOMIC, pinned=False)
        await until(pilot, lambda: not (app.snapshot.model(NOMIC) or model("x")).pinned)
        await pilot.pause()
        changed = [row.key for row in table(app).rows if row is not before[row.key]]
        assert changed == [NOMIC]


async def test_the_filter_works_at_once_is_in_the_title_and_escape_clears_it() -> None:
    async with on_models(busy_world(), size=ALONE) as (app, client, pilot):
        # The footer shows the keys of the filter.
        await shows(app, pilot, GEMMA)
        await pilot.press("slash")
        await shows(app, pilot, "Back to the list", "esc Clear")
        await pilot.press("q")
        await shows(app, pilot, "/q")
        await pilot.press("down")
        await shows(app, pilot, "u Unload")
        await pilot.press("escape")
        await until(pilot, lambda: len(order(app)) == 5)
        # Escape in its line clears it and goes back to the table.
        await pilot.press("slash", *"nothing like it")
        await shows(app, pilot, "No model matches this text.")
        await pilot.press("escape")
        await until(pilot, lambda: len(order(app)) == 5)
        assert table(app).has_focus
        await pilot.press("escape")
        assert app.is_running
        # It filters at once, and the title shows it.
        await pilot.press("slash", *"qwen")
        await shows(app, pilot, "MODELS  2 of 5  /qwen")
        assert order(app) == [BIG, QWEN]
        await pilot.press("enter")
        await until(pilot, lambda: table(app).has_focus)
        client.publish("model", model("qwen-new"))
        await shows(app, pilot, "MODELS  3 of 6  /qwen")
        await pilot.press("escape")
        await until(pilot, lambda: len(order(app)) == 6)
        assert "/qwen" not in screen_text(app)


def with_unreadable() -> World:
    world = busy_world()
    world.models["broken"] = model("broken", unreadable=True, error="it is cut short", fits=None)
    return world


@pytest.mark.parametrize("first_page", ["dashboard", "models"])
async def test_what_cannot_be_done_with_an_unreadable_file_says_why(first_page: str) -> None:
    async with running(with_unreadable(), first_page=first_page) as (app, client, pilot):
        await shows(app, pilot, "✖ unreadable")
        shown = app.screen.query_one("#models, #table", LiveTable)
        assert shown.move_to("broken")
        for key in "lpt":
            await pilot.press(key)
            await shows(app, pilot, "broken is unreadable: it is cut short.")
            app.clear_notifications()
            await until(pilot, lambda: "is unreadable" not in screen_text(app))
        assert client.calls == []
        assert app.current_mode == first_page


async def test_the_chooser_shows_an_unreadable_file_and_says_why() -> None:
    async with running(with_unreadable(), first_page="chat") as (app, _, pilot):
        await shows(app, pilot, "Write to try")
        await pilot.press("m")
        await shows(app, pilot, "Chat with", "✖ unreadable")
        await pilot.press(*"broken", "enter")
        await shows(app, pilot, "broken is unreadable: it is cut short.")
        assert screen_text(app).splitlines()[3].strip().startswith(QWEN)


async def test_each_action_has_the_same_key_and_question_on_the_dashboard() -> None:
    async with running(busy_world()) as (app, client, pilot):
        await shows(app, pilot, QWEN)
        keys = [
            {
                binding.action: binding.key
                for one in kind.BINDINGS
                if isinstance(one, Binding)
                for binding in (one,)
            }
            for kind in (DashboardPage, ModelsPage)
        ]
        both = keys[0].keys() & keys[1].keys() & MODEL_ACTIONS
        assert both == MODEL_ACTIONS - {"details", "copy_command", "check", "adapters"}
        assert all(keys[0][action] == keys[1][action] for action in both)
        assert app.screen.query_one("#models", LiveTable).move_to(BIG)
        await pilot.press("x")
        await shows(app, pilot, f"Delete {BIG}, 18.5 GiB?", "from the disk:")
        await pilot.press("d")
        await until(pilot, lambda: ("delete", BIG) in client.calls)


async def test_a_short_terminal_shows_the_whole_sentence() -> None:
    why = "needs 21.7 GiB, and this machine may use 5.90 GiB for models, of which 2 are unused"
    world = busy_world()
    world.models = {"big": model("big", fits=Fit.NEVER, fits_reason=why)}
    async with on_models(world, size=(60, 20)) as (app, _, pilot):
        await shows(app, pilot, "too big", "unused")


async def test_a_check_shows_what_the_model_can_do() -> None:
    world = busy_world()
    world.check = ModelCheck(
        at=NOW,
        build="b11669",
        trials=(
            Trial(ability=Ability.STREAM, outcome=Outcome.YES, evidence="64 parts"),
            Trial(ability=Ability.TOOLS, outcome=Outcome.NO, evidence="no call, but “Hello”"),
        ),
    )
    async with on_models(world) as (app, client, pilot):
        await at(app, pilot, NOMIC)
        await pilot.press("K")
        await shows(app, pilot, f"{NOMIC} passed: stream. It failed: tools.")
        await shows(app, pilot, "CHECK", "64 parts", "no call, but “Hello”")
        assert ("check", NOMIC) in client.calls
