"""Making room on the disk, from the Models and Hub pages."""

from __future__ import annotations

from datetime import timedelta

import msgspec
from textual.widgets import Input

from cyber_inference_tui.errors import ConflictError
from cyber_inference_tui.records import DownloadStatus
from cyber_inference_tui.records.gc import GcItem, GcPart, GcPlan, GcQuery
from cyber_inference_tui.tui.widgets.live_table import LiveTable
from cyber_inference_tui.units import bytes_of
from tests.tui.driving import SMALL, running, screen_text, until
from tests.tui.world import NOW, busy_world

GIB = 1 << 30
ITEM = GcItem(
    reason="unused", name="qwen3-32b", origin="models_dir", path="/m/a", freed_bytes=18 * GIB
)
PLAN = GcPlan(
    own=GcPart(
        items=(
            msgspec.structs.replace(ITEM, last_used_at=NOW - timedelta(days=93)),
            msgspec.structs.replace(ITEM, name="old", freed_bytes=2 * GIB),
            msgspec.structs.replace(
                ITEM, name="copy", reason="duplicate", copy_of="first", freed_bytes=GIB // 2
            ),
        ),
        freed_bytes=20 * GIB + GIB // 2,
        token="ours",
    ),
    others=GcPart(
        items=(
            msgspec.structs.replace(
                ITEM, name="org/a@c0ffee", reason="outdated revision", origin="hub cache"
            ),
        ),
        freed_bytes=18 * GIB,
        token="theirs",
    ),
    free_bytes=GIB,
)


async def test_room_is_made_after_a_question_for_each_part() -> None:
    world = busy_world()
    world.gc = PLAN
    async with running(world, first_page="models", size=SMALL) as (app, client, pilot):
        await pilot.press("R")
        await until(pilot, lambda: "How much should be free?" in screen_text(app))
        await pilot.press(*"40 GB", "enter")
        await until(pilot, lambda: "Delete 3 items and free 20.5 GiB?" in screen_text(app))
        text = screen_text(app)
        assert "18.0 GiB  qwen3-32b, used 93 d ago" in text
        assert "2.00 GiB  old, never used" in text
        assert "512 MiB  copy, a copy of first" in text
        assert "Then 1 item of other programs (18.0 GiB), after another question." in text
        assert client.service.reads[-1] == ("plan_gc", GcQuery(room_bytes=40 * 10**9))
        await pilot.press("d")
        await until(pilot, lambda: "Delete 1 item of other programs" in screen_text(app))
        assert client.calls == [("gc", "ours")]
        await pilot.press("k")
        await until(pilot, lambda: "Delete 1 item" not in screen_text(app))
        assert client.calls == [("gc", "ours")]


async def test_an_item_with_long_names_takes_one_line() -> None:
    world = busy_world()
    used = msgspec.structs.replace(ITEM, name="long-" * 20, last_used_at=NOW)
    copy = msgspec.structs.replace(used, reason="duplicate", copy_of="other-" * 20)
    own = GcPart(items=(used, copy), freed_bytes=GIB, token="ours")
    world.gc = msgspec.structs.replace(PLAN, own=own)
    async with running(world, first_page="models", size=SMALL) as (app, _, pilot):
        await pilot.press("R")
        await until(pilot, lambda: "How much should be free?" in screen_text(app))
        await pilot.press(*"1G", "enter")
        await until(pilot, lambda: "Delete 2 items" in screen_text(app))
        lines = [line.strip() for line in screen_text(app).splitlines() if "GiB  long-" in line]
        assert [len(line) for line in lines] == [66, 66]
        assert lines[0].endswith("…, used 1 s ago")
        assert "…, a copy of other-other-other-other" in lines[1]


async def test_nothing_is_deleted_without_the_answer() -> None:
    world = busy_world()
    world.gc = PLAN
    async with running(world, first_page="models") as (app, client, pilot):
        await pilot.press("R")
        await until(pilot, lambda: "How much should be free?" in screen_text(app))
        await pilot.press(*"1G", "enter")
        await until(pilot, lambda: "Delete 3 items" in screen_text(app))
        await pilot.press("enter")
        await until(pilot, lambda: "Delete 3 items" not in screen_text(app))
        assert client.calls == []


async def test_a_wrong_size_and_an_empty_plan_are_sentences() -> None:
    world = busy_world()
    world.gc = msgspec.structs.replace(PLAN, own=GcPart(), others=GcPart(), missing_bytes=5)
    async with running(world, first_page="models") as (app, _, pilot):
        await pilot.press("R")
        await until(pilot, lambda: "How much should be free?" in screen_text(app))
        await pilot.press(*"lots", "enter")
        await until(pilot, lambda: "lots is no size, such as 12 GB." in screen_text(app))
        app.screen.query_one(Input).value = "9T"
        await pilot.press("enter")
        await until(pilot, lambda: "1.00 GiB are free, and nothing" in screen_text(app))
        world.gc = msgspec.structs.replace(world.gc, missing_bytes=0)
        await pilot.press("enter")
        await until(pilot, lambda: "1.00 GiB are free already." in screen_text(app))


async def test_a_plan_that_is_another_one_by_now_is_said() -> None:
    world = busy_world()
    world.gc = PLAN
    async with running(world, first_page="models") as (app, client, pilot):
        client.fail["gc"] = ConflictError("The disk has changed.")
        await pilot.press("R")
        await until(pilot, lambda: "How much should be free?" in screen_text(app))
        await pilot.press(*"9G", "enter")
        await until(pilot, lambda: "Delete 3 items" in screen_text(app))
        await pilot.press("d")
        await until(pilot, lambda: "The disk has changed." in screen_text(app))


async def test_a_reader_makes_no_room() -> None:
    async with running(busy_world(), first_page="models", readonly=True) as (app, _, pilot):
        await pilot.press("R")
        await until(pilot, lambda: "MODELS" in screen_text(app))
        assert "How much should be free?" not in screen_text(app)


async def test_the_hub_page_asks_for_what_its_downloads_need() -> None:
    world = busy_world()
    world.gc = PLAN
    async with running(world, first_page="hub") as (app, _, pilot):
        await until(pilot, lambda: len(app.screen.query_one("#results", LiveTable).rows) > 0)
        needed = sum(
            (one.bytes_total or 0) - one.bytes_done
            for one in app.snapshot.downloads
            if one.status not in {DownloadStatus.DONE, DownloadStatus.CANCELLED}
        )
        assert needed > 0
        await pilot.press("R")
        await until(pilot, lambda: "How much should be free?" in screen_text(app))
        wished = bytes_of(app.screen.query_one(Input).value)
        assert wished is not None
        assert wished >= needed + (256 << 20)
