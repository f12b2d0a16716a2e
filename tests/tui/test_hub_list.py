"""The Hub page's list: the fit of each repository, suggestions, and model cards."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec
import pytest

from cyber_inference_tui.errors import CyberError, HubNotFoundError
from cyber_inference_tui.records import (
    Fit,
    HubCardRecord,
    HubFileRecord,
    HubFilesRecord,
    HubModelRecord,
    ModelStatus,
)
from cyber_inference_tui.tui.pages.hub.catalog import HubCatalog
from cyber_inference_tui.tui.widgets.live_table import LiveTable
from tests.fakes.service import World
from tests.tui.driving import SMALL, running, screen_text, until
from tests.tui.fake_client import FakeClient
from tests.tui.world import GIB, busy_world, empty_world, with_disk

on_page = partial(running, first_page="hub")

QWEN = "unsloth/Qwen3-8B-GGUF"
GEMMA = "ggml-org/gemma-3-4b-it-GGUF"


def row(app: Any, repo: str) -> str:
    """Return the line of the screen that begins with a repository."""
    lines = screen_text(app).splitlines()
    return next((line for line in lines if line.strip("▸ ").startswith(repo)), "")


def note(app: Any) -> str:
    """Return the sentence about the selection."""
    return str(app.screen.query_one("#note").content)


def footer(app: Any) -> str:
    """Return the line of keys."""
    return screen_text(app).splitlines()[-1]


def files_read(client: FakeClient) -> list[str]:
    """Return the repositories whose files were read."""
    return [one[1] for one in client.service.reads if one[0] == "hub_files"]


def best(name: str, **changes: object) -> HubFilesRecord:
    """Return a model that fits."""
    fields: dict[str, object] = {
        "name": name,
        "quantization": "Q4_K_M",
        "size_bytes": 2 * GIB,
        "files": (HubFileRecord(path=name),),
        "fits": Fit.NOW,
        "suggested": True,
    }
    return HubFilesRecord(**{**fields, **changes})  # type: ignore[arg-type]


def long_world() -> World:
    """Return a world with more repositories than a screen has rows."""
    world = busy_world()
    world.found = [HubModelRecord(repo=f"org/model-{n:03}", downloads=1000 - n) for n in range(60)]
    for one in world.found:
        world.hub_files[one.repo] = [best(f"{one.repo[4:]}-Q4_K_M.gguf")]
    return world


async def test_the_list_shows_what_is_best_of_each_repository() -> None:
    async with on_page(busy_world()) as (app, client, pilot):
        await until(pilot, lambda: "✔ here" in row(app, GEMMA))
        for part in ("8.2B", "40 %", "Q4_K_M", "4.70 GiB", "apache-2.0", "210,331", "402", "40 d"):
            assert part in row(app, QWEN), part
        assert "gated" in row(app, "meta-llama")
        # Nothing is read twice, neither for the list nor for the files.
        await until(pilot, lambda: len(files_read(client)) == 3)
        await pilot.press("j", "j", "k", "enter")
        await until(pilot, lambda: "QUANT" in screen_text(app))
        assert len(files_read(client)) == 3


async def test_only_rows_on_the_screen_are_read() -> None:
    async with on_page(long_world(), size=SMALL) as (app, client, pilot):
        height = app.screen.query_one("#results", LiveTable).size.height - 1
        await until(pilot, lambda: len(files_read(client)) == height)
        await until(pilot, lambda: "✔ fits" in row(app, f"org/model-{height - 1:03}"))
        await pilot.pause()
        assert len(files_read(client)) == height
        await pilot.press("end")
        await until(pilot, lambda: "✔ fits" in row(app, "org/model-029"))
        assert len(files_read(client)) <= 2 * height


async def test_after_three_failures_nothing_is_read_until_the_next_search() -> None:
    client = FakeClient(long_world())
    client.fail["hub_files"] = CyberError("The rate limit is reached.")
    catalog = HubCatalog(client)
    await catalog.search()
    repos = [one.repo for one in catalog.models]
    for _ in range(3):
        repo = catalog.next_unknown(repos, "state")
        assert repo is not None
        with pytest.raises(CyberError):
            await catalog.read_offer(repo, "state")
    assert catalog.next_unknown(repos, "state") is None
    # The next search begins again.
    await catalog.search()
    assert catalog.next_unknown(repos, "state") == repos[0]


async def test_the_list_goes_on_without_the_fit_of_a_hub_that_fails() -> None:
    client = FakeClient(long_world())
    client.fail["hub_files"] = CyberError("The rate limit is reached.")
    async with on_page(client) as (app, _, pilot):
        await until(pilot, lambda: "enter lists its files." in note(app))
        await pilot.press("j", "j", "j")
        await pilot.pause()
        assert "rate limit" not in screen_text(app)
        client.fail.clear()
        await pilot.press("s", "down", "enter")
        await until(pilot, lambda: "✔ fits" in row(app, "org/model-009"))


async def test_the_fit_is_judged_again_when_models_come_and_go() -> None:
    async with on_page(busy_world()) as (app, client, pilot):
        await until(pilot, lambda: len(files_read(client)) == 3)
        files = client.world.hub_files[QWEN]
        client.world.hub_files[QWEN] = [
            msgspec.structs.replace(one, fits=Fit.NOW) if one.suggested else one for one in files
        ]
        client.publish("download", {"id": "d1", "status": None})
        client.set_model("qwen3-4b-q4_k_m", status=ModelStatus.UNLOADED)
        await until(pilot, lambda: len(files_read(client)) == 6)
        await until(pilot, lambda: "fits in the free memory" in note(app))


async def test_what_fits_best_is_on_top() -> None:
    world = empty_world()
    world.found = busy_world().found
    second = "Qwen/Qwen3-1.7B-GGUF"
    world.hub_files |= {second: [best("Qwen3-1.7B-Q8_0.gguf")], GEMMA: [best("g.gguf")]}
    facts = HubModelRecord(repo=second, likes=777, licence="mit")
    world.hub_cards[second] = HubCardRecord(model=facts)
    async with on_page(world) as (app, _, pilot):
        await until(pilot, lambda: "777" in row(app, second))
        results = app.screen.query_one("#results", LiveTable)
        keys = [one.key for one in results.rows]
        assert keys[0] == GEMMA
        assert keys.count(GEMMA) == 1
        assert "what fits best here first" in screen_text(app)
        # The suggestions may have come above the row under the cursor.
        await pilot.press("g")
        await until(pilot, lambda: "Suggested for this machine (sees pictures)." in note(app))
        assert keys[1] == second
        await pilot.press("slash", *"gemma", "enter")
        await until(pilot, lambda: [one.key for one in results.rows] == [GEMMA])
        assert "what fits best" not in screen_text(app)
        assert "Suggested for this machine (" not in note(app)


async def test_a_suggestion_that_the_hub_lacks_goes_away_for_good() -> None:
    world = empty_world()
    world.found = busy_world().found[:1]
    client = FakeClient(world)
    client.fail["hub_card"] = HubNotFoundError("There is no such repository.")
    async with running(client) as (app, _, pilot):
        await until(pilot, lambda: app.snapshot.sample is not None)
        await pilot.press("3")
        results = app.screen.query_one("#results", LiveTable)
        # The suggestion above it had the cursor, which takes the neighbour.
        await until(pilot, lambda: [one.key for one in results.rows] == [QWEN])
        assert results.cursor_key == QWEN
        await pilot.press("s", "l", "s", "d")
        await until(
            pilot, lambda: [one[1] for one in client.searches[1:]] == ["likes", "downloads"]
        )
        await until(pilot, lambda: "searching" not in screen_text(app))
        assert [one.key for one in results.rows] == [QWEN]


async def test_the_suggested_model_is_downloaded_from_the_list() -> None:
    world = busy_world()
    world.downloads.clear()
    async with on_page(world) as (app, client, pilot):
        await until(pilot, lambda: "d Download " in footer(app))
        await pilot.press("d")
        await until(pilot, lambda: bool(client.calls))
        assert client.calls == [("download", QWEN, "Qwen3-8B-Q4_K_M.gguf", None)]
        await until(pilot, lambda: "Downloading Qwen3-8B-Q4_K_M, 4.70 GiB." in screen_text(app))
        await until(pilot, lambda: "◐" in row(app, QWEN) and "▼" in screen_text(app)[:120])


async def test_a_model_that_is_here_is_loaded_and_tried_from_the_list() -> None:
    async with on_page(busy_world()) as (app, client, pilot):
        await until(pilot, lambda: "✔ here" in row(app, GEMMA))
        assert "l Load" not in footer(app)
        await pilot.press("j")
        client.set_model("gemma-3-4b-it-q4_k_m", status=ModelStatus.UNLOADED)
        await until(pilot, lambda: "l loads it, t chats with it." in note(app))
        await pilot.press("l")
        await until(pilot, lambda: client.calls == [("load", "gemma-3-4b-it-q4_k_m", False)])
        await pilot.press("t")
        await until(pilot, lambda: app.current_mode == "chat")


def with_card(text: str) -> World:
    """Return a world with a card of the first repository."""
    world = busy_world()
    world.hub_cards[QWEN] = HubCardRecord(model=world.found[0], text=text)
    return world


async def test_a_card_is_beside_the_files() -> None:
    async with on_page(with_card("# Title\n\nFirst words.\n\n- an item")) as (app, client, pilot):
        await until(pilot, lambda: QWEN in screen_text(app))
        assert not [one for one in client.service.reads if one[0] == "hub_card"]
        await pilot.press("enter")
        await until(pilot, lambda: "First words." in screen_text(app))
        assert "QUANT" in screen_text(app)
        assert "# Title" not in screen_text(app)
        assert "402 likes" in screen_text(app)
        # Its own keys scroll it, and esc leaves it before the files.
        await pilot.press("i")
        await until(pilot, lambda: app.focused is app.screen.query_one("#card"))
        await pilot.press("escape")
        await until(pilot, lambda: app.focused is app.screen.query_one("#files"))
        assert "QUANT" in screen_text(app)


@pytest.mark.parametrize("size", [(60, 20), SMALL])
async def test_on_a_small_terminal_a_card_takes_the_place_of_the_list(
    size: tuple[int, int],
) -> None:
    evil = "# [/oops]\x1b[2J\n\nFirst \x1b]0;x\x07words\u202e."
    async with on_page(with_card(evil), size=size) as (app, _, pilot):
        await until(pilot, lambda: QWEN in screen_text(app))
        await pilot.press("i")
        await until(pilot, lambda: "First words." in screen_text(app))
        assert "[/oops]" in screen_text(app)
        assert "REPO" not in screen_text(app)
        await pilot.press("i")
        await until(pilot, lambda: "REPO" in screen_text(app))
        await pilot.press("j", "i")
        await until(pilot, lambda: "no readable model card" in screen_text(app))
        # Leaving it for the search shows the list again.
        await pilot.press("slash")
        await until(pilot, lambda: "REPO" in screen_text(app))


async def test_a_wide_list_has_the_card_of_its_row_beside_it() -> None:
    async with on_page(with_card("First words."), size=(160, 45)) as (app, client, pilot):
        await until(pilot, lambda: "First words." in screen_text(app))
        client.fail["hub_card"] = CyberError("The hub is away.")
        await pilot.press("j")
        await until(pilot, lambda: "The hub is away." in screen_text(app))
        await pilot.press("k")
        await until(pilot, lambda: "First words." in screen_text(app))


async def test_marked_models_of_several_repositories_are_downloaded_together() -> None:
    world = with_disk(long_world(), 10 * GIB)  # 2.8 GiB of them are for a running download
    world.hub_files["org/model-000"].append(best("other.gguf", size_bytes=6 * GIB, suggested=False))
    async with on_page(world) as (app, client, pilot):
        await until(pilot, lambda: "✔ fits" in row(app, "org/model-001"))
        await pilot.press("space", "space")
        await until(pilot, lambda: "2 marked  4.00 GiB  ✔ fit on the disk" in screen_text(app))
        assert "3.20 GiB left" in screen_text(app)
        assert row(app, "✔ org/model-000")
        # The marks stay while other models are found.
        await pilot.press("g", "enter")
        await until(pilot, lambda: "QUANT" in screen_text(app))
        await pilot.press("j", "space")
        await until(pilot, lambda: "3 marked  10.0 GiB  ✖ the disk lacks" in screen_text(app))
        assert "R makes room" in screen_text(app)
        await pilot.press("space")
        await until(pilot, lambda: "2 marked" in screen_text(app))
        await pilot.press("d")
        await until(pilot, lambda: "Downloading 2 models, 4.00 GiB." in screen_text(app))
        assert [call[1] for call in client.calls] == ["org/model-000", "org/model-001"]
        assert "marked" not in screen_text(app)


async def test_marks_go_before_the_search_and_one_that_is_refused_stays() -> None:
    async with on_page(long_world()) as (app, client, pilot):
        await until(pilot, lambda: "✔ fits" in row(app, "org/model-001"))
        await pilot.press("slash", *"model-00", "enter", "space", "space")
        await until(pilot, lambda: "2 marked" in screen_text(app))
        await pilot.press("escape")
        await until(pilot, lambda: "marked" not in screen_text(app))
        assert "Results for model-00" in screen_text(app)
        await pilot.press("g", "space")
        client.fail["download"] = CyberError("The disk is full.")
        await pilot.press("d")
        await until(pilot, lambda: "The disk is full." in note(app))
        assert "1 marked" in screen_text(app)


async def test_gated_repositories_are_asked_about_once_for_all_marked_models() -> None:
    world = long_world()
    world.found[:2] = [msgspec.structs.replace(one, gated=True) for one in world.found[:2]]
    async with on_page(world) as (app, client, pilot):
        await until(pilot, lambda: "Q4_K_M" in row(app, "org/model-002"))
        await pilot.press("space", "space", "space", "d")
        await until(pilot, lambda: "Some repositories are gated" in screen_text(app))
        assert "org/model-000 and of org/model-001 on each" in " ".join(screen_text(app).split())
        await pilot.press("d")
        await until(pilot, lambda: len(client.calls) == 3)


async def test_a_model_that_is_here_is_not_marked() -> None:
    async with on_page(busy_world()) as (app, _, pilot):
        await until(pilot, lambda: "✔ here" in row(app, GEMMA))
        await pilot.press("space")
        await until(pilot, lambda: "is being downloaded already" in screen_text(app))
        await pilot.press("enter")
        await until(pilot, lambda: "QUANT" in screen_text(app))
        assert "marked" not in screen_text(app)
