"""The Hub page: its keys, a slow or unreachable hub, and the downloads."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec
import pytest
from textual.widgets import Input

from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.records import (
    DownloadRecord,
    DownloadStatus,
    HubFilesRecord,
    HubModelRecord,
)
from cyber_inference_tui.terminal.charset import ASCII
from cyber_inference_tui.tui.pages.hub import catalog as hub_module
from cyber_inference_tui.tui.pages.hub.table import RESULT_COLUMNS
from cyber_inference_tui.tui.widgets.live_table import LiveTable
from tests.fakes.service import World
from tests.tui.driving import SMALL, running, screen_text, until
from tests.tui.fake_client import FakeClient
from tests.tui.world import GIB, ago, busy_world, empty_world

on_page = partial(running, first_page="hub")
RESULTS = {column.key: column for column in RESULT_COLUMNS}

QWEN = "unsloth/Qwen3-8B-GGUF"


async def opened(pilot: Any, app: Any) -> None:
    """Open the page and wait for what it finds."""
    if app.current_mode != "hub":
        await pilot.press("3")
    await until(pilot, lambda: QWEN in repos(app))


async def in_files(pilot: Any, app: Any, moves: int = 0) -> None:
    """Open the files of a repository."""
    await opened(pilot, app)
    await pilot.press(*["j"] * moves, "enter")
    await until(pilot, lambda: "QUANT" in screen_text(app) and "Q" in note(app))


async def in_downloads(pilot: Any, app: Any) -> None:
    """Go to the downloads."""
    await opened(pilot, app)
    await pilot.press("right_square_bracket")
    await until(pilot, lambda: app.focused is app.screen.query_one("#downloads"))


def repos(app: Any) -> list[str]:
    """Return the search results."""
    return [row.key for row in app.screen.query_one("#results", LiveTable).rows]


def note(app: Any) -> str:
    """Return the sentence about the selection."""
    return str(app.screen.query_one("#note").content)


def footer(app: Any) -> str:
    """Return the line of keys."""
    return screen_text(app).splitlines()[-1]


def found(number: int) -> World:
    """Return a world whose hub finds ``number`` repositories."""
    world = busy_world()
    world.found = [
        HubModelRecord(repo=f"org/model-{n:03}", downloads=1000 - n) for n in range(number)
    ]
    return world


async def test_nothing_is_asked_before_the_page_is_opened() -> None:
    async with running(busy_world()) as (app, client, pilot):
        assert client.searches == []
        await opened(pilot, app)
        assert client.searches == [("", "downloads", None)]
        assert "sorted by downloads" in screen_text(app)
        assert QWEN in screen_text(app)
        assert "gated" in screen_text(app)
        await pilot.press("1", "3")
        await pilot.pause()
        assert len(client.searches) == 1


async def test_typing_searches_once_it_pauses() -> None:
    async with on_page(busy_world()) as (app, client, pilot):
        await opened(pilot, app)
        await pilot.press("slash", *"gemma")
        await until(pilot, lambda: "Results for gemma" in screen_text(app))
        await until(pilot, lambda: repos(app) == ["ggml-org/gemma-3-4b-it-GGUF"])
        assert client.searches[-1] == ("gemma", "downloads", None)
        assert len(client.searches) < 4
        await pilot.press("enter")
        await until(pilot, lambda: app.focused is app.screen.query_one("#results"))
        await pilot.press("escape")
        await until(pilot, lambda: QWEN in repos(app))
        assert app.screen.query_one("#search", Input).value == ""
        # Digits are typed, and escape leaves the line.
        await pilot.press("slash", "8", "escape")
        assert app.screen.query_one("#search", Input).value == "8"
        await pilot.press("1")
        await until(pilot, lambda: app.current_mode == "dashboard")


async def test_a_search_that_finds_nothing_says_so() -> None:
    async with on_page(busy_world(), size=SMALL) as (app, _, pilot):
        await opened(pilot, app)
        await pilot.press("slash", *"[/nope]")
        await until(pilot, lambda: "No results for [/nope]" in screen_text(app))


async def test_the_order_is_chosen_in_a_menu_or_by_a_title() -> None:
    async with on_page(busy_world()) as (app, client, pilot):
        await opened(pilot, app)
        for order in ("likes", "trending", "new", "downloads"):
            await pilot.press("s", order[0])
            await until(pilot, lambda order=order: client.searches[-1][1] == order)  # type: ignore[misc]
            assert f"sorted by {order}" in screen_text(app)
        table = app.screen.query_one("#results", LiveTable)
        table.post_message(LiveTable.HeaderSelected(table, RESULTS["likes"]))
        await until(pilot, lambda: client.searches[-1][1] == "likes")
        table.post_message(LiveTable.HeaderSelected(table, RESULTS["repo"]))
        await pilot.pause()
        assert client.searches[-1][1] == "likes"


async def test_the_next_page_is_read_at_the_end() -> None:
    async with on_page(found(70)) as (app, client, pilot):
        await until(pilot, lambda: "30+ found" in screen_text(app))
        table = app.screen.query_one("#results", LiveTable)
        await pilot.press("G")
        await until(pilot, lambda: len(table.rows) == 60)
        assert client.searches[-1] == ("", "downloads", "30")
        assert table.cursor_key == "org/model-029"
        await pilot.press("G")
        await until(pilot, lambda: len(table.rows) == 70)
        await pilot.press("g", "G")
        await pilot.pause()
        assert len(client.searches) == 3


async def test_pages_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "FOUND_KEPT", 30)
    async with on_page(found(70)) as (app, client, pilot):
        await until(pilot, lambda: "30 found" in screen_text(app))
        await pilot.press("G")
        await pilot.pause()
        assert len(client.searches) == 1


async def test_a_slow_hub_is_shown_and_the_page_stays_usable() -> None:
    client = FakeClient(busy_world())
    client.hub_pace.clear()
    async with on_page(client) as (app, _, pilot):
        await until(pilot, lambda: "searching …" in screen_text(app))
        await pilot.press("right_square_bracket")
        await until(pilot, lambda: "Pause" in footer(app))
        client.hub_pace.set()
        await until(pilot, lambda: QWEN in repos(app) and "searching" not in screen_text(app))


@pytest.mark.parametrize("size", [(120, 40), SMALL])
async def test_a_failed_search_says_why_and_is_tried_again(size: tuple[int, int]) -> None:
    client = FakeClient(busy_world())
    client.fail["hub_search"] = CyberError("The hub is away.", hint="Check the network.")
    async with on_page(client, size=size) as (app, _, pilot):
        await until(pilot, lambda: "The hub is away. Check the network." in screen_text(app))
        assert "r tries again" in screen_text(app)
        assert "Retry" in footer(app)
        client.fail.clear()
        await pilot.press("r")
        await until(pilot, lambda: QWEN in repos(app))
        assert "The hub is away" not in screen_text(app)
        assert "Retry" not in footer(app)


async def test_files_are_shown_with_their_fit_and_escape_goes_back() -> None:
    async with on_page(busy_world()) as (app, client, pilot):
        await in_files(pilot, app)
        text = screen_text(app)
        for word in ("Q3_K_M", "✔ fits", "◍ evicts", "✖ too big", "~5.90 GiB"):
            assert word in text
        # The one that is suggested has the cursor.
        assert "fits once qwen3-4b-q4_k_m is unloaded. Suggested for this machine" in note(app)
        await pilot.press("k")
        await until(pilot, lambda: "Q3_K_M.gguf: fits in the free memory." in note(app))
        await pilot.press("escape")
        await until(pilot, lambda: "REPO" in screen_text(app))
        await pilot.press("j", "enter")
        await until(pilot, lambda: "✔ downloaded" in screen_text(app))
        # A downloaded model is not downloaded again.
        await pilot.press("d")
        await until(pilot, lambda: "downloaded already as gemma" in screen_text(app))
        assert not client.calls
        await pilot.press("escape")
        table = app.screen.query_one("#results", LiveTable)
        await until(pilot, lambda: app.focused is table)
        assert table.cursor_key == "ggml-org/gemma-3-4b-it-GGUF"
        await pilot.press("escape")
        assert app.current_mode == "hub"


async def test_an_error_for_files_is_shown() -> None:
    client = FakeClient(busy_world())
    client.fail["hub_files"] = CyberError("This repository is gone.")
    async with on_page(client, size=SMALL) as (app, _, pilot):
        await opened(pilot, app)
        await pilot.press("enter")
        await until(pilot, lambda: "This repository is gone." in screen_text(app))
        client.fail.clear()
        await pilot.press("r")
        await until(pilot, lambda: "Q3_K_M" in screen_text(app))
        # A repository without models says so.
        await pilot.press("escape")
        await until(pilot, lambda: "REPO" in screen_text(app))
        await pilot.press("G", "enter")
        await until(pilot, lambda: "This repository has no GGUF models" in screen_text(app))


@pytest.mark.parametrize("key", ["d", "enter"])
async def test_the_chosen_file_is_downloaded(key: str) -> None:
    async with on_page(busy_world(), size=SMALL) as (app, client, pilot):
        await in_files(pilot, app)
        await pilot.press("k", key)
        await until(pilot, lambda: bool(client.calls))
        assert client.calls == [("download", QWEN, "Qwen3-8B-Q3_K_M.gguf", None)]
        await until(pilot, lambda: "Downloads 2" in screen_text(app))
        await pilot.press(key)
        await until(pilot, lambda: "is being" in screen_text(app))
        assert len(client.calls) == 1


async def test_a_download_that_is_refused_says_why() -> None:
    async with on_page(busy_world()) as (app, client, pilot):
        await in_files(pilot, app)
        client.fail["download"] = CyberError("The disk is full.")
        await pilot.press("k", "d")
        await until(pilot, lambda: "The disk is full." in note(app))
        await pilot.press("j")
        await until(pilot, lambda: "The disk is full." not in note(app))
        # A finished download is marked at once.
        await until(pilot, lambda: "downloading" in screen_text(app))
        files = client.world.hub_files[QWEN]
        client.world.hub_files[QWEN] = [
            msgspec.structs.replace(one, local_id="qwen3-8b") if one.suggested else one
            for one in files
        ]
        finish(client, "d1", model_id="qwen3-8b")
        await until(pilot, lambda: "✔ downloaded" in screen_text(app))


async def test_a_gated_repository_says_what_to_do_first() -> None:
    world = busy_world()
    gated = "meta-llama/Llama-3.2-3B-Instruct-GGUF"
    world.hub_files[gated] = world.hub_files["ggml-org/gemma-3-4b-it-GGUF"]
    world.hub_files[gated] = [msgspec.structs.replace(world.hub_files[gated][0], local_id=None)]
    async with on_page(world, size=SMALL) as (app, client, pilot):
        await in_files(pilot, app, 2)
        assert "accept its licence" in note(app)
        await pilot.press("d")
        await until(pilot, lambda: "This repository is gated" in screen_text(app))
        await pilot.press("enter")
        await until(pilot, lambda: "This repository is gated" not in screen_text(app))
        assert not client.calls
        await pilot.press("d")
        await until(pilot, lambda: "This repository is gated" in screen_text(app))
        await pilot.press("d")
        await until(pilot, lambda: bool(client.calls))


def finish(client: FakeClient, download_id: str, **changes: Any) -> None:
    """Finish a download."""
    known = client.world.downloads[download_id]
    new = msgspec.structs.replace(known, status=DownloadStatus.DONE, **changes)
    client.world.downloads[download_id] = new
    client.publish("download", new)


async def test_downloads_are_paused_and_resumed() -> None:
    async with on_page(busy_world(), size=SMALL) as (app, client, pilot):
        await in_downloads(pilot, app)
        for word in (
            "Qwen3-8B-Q4_K_M",
            "◐ running",
            "████░",
            "40 %",
            "31.0 MiB/s",
            "1:33",
            "1.90 GiB of 4.7",
        ):
            assert word in screen_text(app)
        await pilot.press("p")
        await until(pilot, lambda: "○ paused" in screen_text(app))
        await until(pilot, lambda: "p Resume" in footer(app))
        await pilot.press("p")
        await until(pilot, lambda: "◌ queued" in screen_text(app))
        assert client.calls == [("pause_download", "d1"), ("resume_download", "d1")]
        # A refusal says why.
        client.fail["pause_download"] = CyberError("It is done already.")
        await until(pilot, lambda: "p Pause" in footer(app))
        await pilot.press("p")
        await until(pilot, lambda: "It is done already." in screen_text(app))


@pytest.mark.parametrize(("key", "keep"), [("k", True), ("r", False)])
async def test_cancelling_asks_what_becomes_of_the_part(key: str, keep: bool) -> None:
    async with on_page(busy_world()) as (app, client, pilot):
        await in_downloads(pilot, app)
        await pilot.press("x")
        await until(pilot, lambda: "Cancel the download of Qwen3-8B-Q4_K_M?" in screen_text(app))
        await pilot.press("enter")
        await pilot.pause()
        assert not client.calls
        await pilot.press("x")
        await until(pilot, lambda: "Cancel the download" in screen_text(app))
        await pilot.press(key)
        await until(pilot, lambda: client.calls == [("cancel_download", "d1", keep)])
        await until(pilot, lambda: "cancelled" in screen_text(app))
        assert "x Cancel" not in footer(app)


async def test_a_failed_download_says_why_and_is_tried_again() -> None:
    world = busy_world()
    world.downloads["d1"] = msgspec.structs.replace(
        world.downloads["d1"], status=DownloadStatus.FAILED, error="The checksum [/is] wrong."
    )
    async with on_page(world, size=SMALL) as (app, client, pilot):
        await in_downloads(pilot, app)
        assert "The checksum [/is] wrong." in screen_text(app)
        assert "✖ failed" in screen_text(app)
        await pilot.press("r")
        await until(pilot, lambda: client.calls == [("retry_download", "d1")])


async def test_a_finished_download_is_loaded_and_tried() -> None:
    async with on_page(busy_world()) as (app, client, pilot):
        await in_downloads(pilot, app)
        assert "Load" not in footer(app)
        assert "Chat" not in footer(app)
        finish(client, "d1", model_id="qwen3-32b-q4_k_m")
        await until(pilot, lambda: "l Load" in footer(app))
        # What is done is quiet.
        assert "✔ done" in screen_text(app)
        assert "█" not in screen_text(app)
        await pilot.press("l")
        await until(pilot, lambda: client.calls == [("load", "qwen3-32b-q4_k_m", False)])
        await pilot.press("t")
        await until(pilot, lambda: app.current_mode == "chat")
        assert "qwen3-32b-q4_k_m" in screen_text(app)


async def test_several_downloads_each_have_their_keys() -> None:
    world = busy_world()
    world.downloads["d2"] = DownloadRecord(
        id="d2",
        repo="org/other",
        filename="other.gguf",
        status=DownloadStatus.PAUSED,
        bytes_done=GIB,
        bytes_total=2 * GIB,
        created_at=ago(5),
    )
    async with on_page(world) as (app, client, pilot):
        await in_downloads(pilot, app)
        assert "p Resume" in footer(app)
        await pilot.press("j")
        await until(pilot, lambda: "p Pause" in footer(app))
        await pilot.press("p")
        await until(pilot, lambda: client.calls == [("pause_download", "d1")])


async def test_marked_downloads_are_paused_cancelled_and_tried_again_together() -> None:
    world = busy_world()
    for number, state in ((2, DownloadStatus.PAUSED), (3, DownloadStatus.FAILED)):
        world.downloads[f"d{number}"] = DownloadRecord(
            id=f"d{number}",
            repo="org/other",
            filename=f"other-{number}.gguf",
            status=state,
            bytes_done=GIB,
            bytes_total=2 * GIB,
            created_at=ago(number),
        )
    async with on_page(world) as (app, client, pilot):
        await in_downloads(pilot, app)
        await pilot.press("g", "space", "space", "space")
        # Each action is for those that allow it.
        await until(pilot, lambda: "p Pause" in footer(app) and "r Retry" in footer(app))
        await pilot.press("p")
        await until(pilot, lambda: client.calls == [("pause_download", "d1")])
        await until(pilot, lambda: "p Resume" in footer(app))
        await pilot.press("p")
        await until(pilot, lambda: len(client.calls) == 3)
        assert {call[1] for call in client.calls if call[0] == "resume_download"} == {"d1", "d2"}
        await pilot.press("r")
        await until(pilot, lambda: client.calls[-1] == ("retry_download", "d3"))
        await pilot.press("x")
        await until(pilot, lambda: "Cancel 3 downloads?" in screen_text(app))
        assert "3.90 GiB are downloaded." in screen_text(app)
        await pilot.press("k")
        kept = [("cancel_download", f"d{number}", True) for number in (1, 2, 3)]
        await until(pilot, lambda: sorted(client.calls[-3:]) == kept)
        # Marks go first, then the pane.
        await pilot.press("escape")
        assert app.focused is app.screen.query_one("#downloads")
        await pilot.press("escape")
        await until(pilot, lambda: app.focused is app.screen.query_one("#results"))


async def test_on_a_small_terminal_one_pane_is_shown() -> None:
    async with on_page(busy_world(), size=SMALL) as (app, _, pilot):
        await opened(pilot, app)
        assert "MiB/s" not in screen_text(app)
        await pilot.press("right_square_bracket")
        await until(pilot, lambda: "MiB/s" in screen_text(app))
        assert "REPO" not in screen_text(app)
        await pilot.press("left_square_bracket")
        await until(pilot, lambda: "REPO" in screen_text(app))
        await pilot.press("right_square_bracket", "escape")
        await until(pilot, lambda: app.focused is app.screen.query_one("#results"))
        await pilot.press("right_square_bracket")
        await pilot.resize_terminal(120, 40)
        await until(pilot, lambda: "REPO" in screen_text(app) and "MiB/s" in screen_text(app))


async def test_no_downloads_are_explained() -> None:
    async with on_page(empty_world(), size=SMALL, charset=ASCII) as (app, _, pilot):
        await in_downloads(pilot, app)
        assert "No downloads." in screen_text(app)


async def test_a_lost_connection_is_shown_in_place() -> None:
    async with on_page(busy_world()) as (app, client, pilot):
        await opened(pilot, app)
        client.stop()
        await pilot.press("s", "down", "enter")
        await until(pilot, lambda: "No service answers at" in note(app))


async def test_a_read_only_app_changes_nothing() -> None:
    async with on_page(busy_world(), readonly=True) as (app, client, pilot):
        await in_files(pilot, app)
        assert "Download " not in footer(app).replace("Downloads", "")
        await pilot.press("d", "enter", "right_square_bracket")
        await until(pilot, lambda: app.focused is app.screen.query_one("#downloads"))
        assert "Pause" not in footer(app)
        await pilot.press("p", "x", "r", "l")
        await pilot.pause()
        assert not client.calls


async def test_hostile_names_are_shown_as_they_are() -> None:
    world = busy_world()
    evil = "evil/[/oops]\x1b[2J\u202e" + "漢" * 60
    world.found.insert(0, HubModelRecord(repo=evil, architecture="[b]\x1b]0;x\x07"))
    world.hub_files[evil] = [HubFilesRecord(name="[/x]\x1b[2J.gguf", quantization="[b]", files=())]
    world.downloads["d1"] = msgspec.structs.replace(
        world.downloads["d1"], filename="[y]\x1b[2J.gguf", error="\x1b[2J[/z] failed"
    )
    async with on_page(world, size=SMALL, charset=ASCII) as (app, _, pilot):
        await opened(pilot, app)
        assert "evil/[/oops]" in screen_text(app)
        await pilot.press("enter")
        await until(pilot, lambda: "[/x].gguf" in screen_text(app))
        await pilot.press("right_square_bracket")
        await until(pilot, lambda: "[/z] failed" in screen_text(app))
        assert "[y]" in screen_text(app)
        assert not any(sign in screen_text(app) for sign in "\x1b\x07\u202e")


async def test_without_downloads_what_was_found_has_the_room() -> None:
    world = busy_world()
    async with on_page(world, first_page="hub") as (app, client, pilot):
        await until(pilot, lambda: "RATE" in screen_text(app))
        full = app.screen.query_one("#results").size.height
        client.publish("download", {"id": "d1", "status": None})
        await until(pilot, lambda: "No downloads." in screen_text(app))
        assert app.screen.query_one("#results").size.height > full


async def test_in_a_small_terminal_a_models_note_is_whole() -> None:
    async with on_page(busy_world(), size=(60, 18), first_page="hub") as (app, _, pilot):
        await until(pilot, lambda: "REPO" in screen_text(app))
        await pilot.press("enter")
        await until(pilot, lambda: "◐ downloading" in screen_text(app))


async def test_a_readonly_app_names_no_key_that_changes_something() -> None:
    world = busy_world()
    world.downloads["d1"] = msgspec.structs.replace(
        world.downloads["d1"], status=DownloadStatus.DONE, model_id="qwen3-8b"
    )
    async with on_page(world, readonly=True, first_page="hub") as (app, client, pilot):
        await until(pilot, lambda: "Downloaded as qwen3-8b." in screen_text(app))
        client.publish("download", {"id": "d1", "status": None})
        await until(pilot, lambda: "No downloads." in screen_text(app))
        assert "starts one" not in screen_text(app)


async def test_a_finished_download_says_what_state_its_model_is_in() -> None:
    world = busy_world()
    world.downloads["d1"] = msgspec.structs.replace(
        world.downloads["d1"], status=DownloadStatus.DONE, model_id="nomic-embed-text-v2"
    )
    async with on_page(world) as (app, _, pilot):
        await until(pilot, lambda: "Downloaded as nomic-embed-text-v2." in screen_text(app))
        assert "● loaded" in screen_text(app)
        assert "l loads it" not in screen_text(app)
