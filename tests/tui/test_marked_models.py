"""Several marked models: whether they fit together, and actions on all of them."""

from __future__ import annotations

from cyber_inference_tui.records import Fit, MemoryAtContext, MemoryPool, ModelStatus
from cyber_inference_tui.terminal.charset import UNICODE
from cyber_inference_tui.tui.app import CyberApp
from cyber_inference_tui.tui.pages.models.marked_set import (
    MarkedSet,
    largest_context,
    marked_bar,
    marked_content,
    marked_set,
)
from cyber_inference_tui.tui.widgets.live_table import LiveTable
from tests.fakes.service import World
from tests.tui.driving import running, screen_text, until
from tests.tui.world import GIB, ago, busy_world, model

LOADED = {"status": ModelStatus.LOADED, "fits": None}


def _pool(free: float, limit: float = 8.0) -> list[MemoryPool]:
    return [
        MemoryPool(pool="memory", limit_bytes=int(limit * GIB), free_bytes=int(free * GIB)),
    ]


def _set(free: float, *marked: str) -> MarkedSet:
    models = [
        model("a", memory_estimate_bytes=2 * GIB),
        model("b", memory_estimate_bytes=3 * GIB),
        model("old", memory_bytes=2 * GIB, last_used_at=ago(900), **LOADED),
        model("new", memory_bytes=GIB, last_used_at=ago(5), **LOADED),
        model("busy", memory_bytes=GIB, in_flight=1, **LOADED),
        model("unknown", memory_estimate_bytes=None),
    ]
    return marked_set(models, marked, _pool(free))


def test_a_set_fits_after_unloading_the_idle_models_that_it_does_not_need() -> None:
    assert _set(5, "a", "b").fit is Fit.NOW
    evicting = _set(4, "a", "b")
    assert evicting.fit is Fit.AFTER_UNLOADING
    assert [one.id for one in evicting.evicts] == ["old"]
    # What is marked stays, and so does what is busy.
    marked = _set(3.5, "a", "b", "old")
    assert [one.id for one in marked.evicts] == ["new"]
    assert marked.fit is Fit.NEVER
    assert [one.id for one in marked.to_load] == ["a", "b"]
    assert _set(9, "a", "unknown").fit is None
    assert marked_set([model("a")], {"a"}, []).fit is None


def test_the_gpu_memory_decides_where_there_is_one() -> None:
    pools = [*_pool(50, 60), MemoryPool(pool="gpu", limit_bytes=4 * GIB, free_bytes=GIB)]
    assert marked_set([model("a")], {"a"}, pools).fit is Fit.NEVER


def _table(*gib: float) -> list[MemoryAtContext]:
    return [
        MemoryAtContext(context_size=2048 << place, total_bytes=int(size * GIB), current=not place)
        for place, size in enumerate(gib)
    ]


def test_the_largest_context_is_one_that_all_can_have_at_once() -> None:
    # a needs 2 GiB with 2K, and has 8K at most; b needs 3 GiB.
    tables = {"a": _table(2, 2.5, 3), "b": _table(3, 3.5, 4, 5)}
    assert largest_context(_set(8, "a", "b"), tables) == 16384
    assert largest_context(_set(7.2, "a", "b"), tables) == 8192
    assert largest_context(_set(0.5, "a", "b"), tables) is None
    # The measured need of 3 GiB at 2K corrects the formula, which says 4.
    assert largest_context(_set(3.6, "b"), {"b": _table(4, 4.5, 6)}) == 4096
    assert largest_context(_set(8, "a", "b"), {"a": _table(2)}) is None


def test_the_line_and_the_bar_show_the_set_in_the_memory() -> None:
    def said(marked: MarkedSet, context: int | None = None) -> str:
        return marked_content(marked, context, UNICODE).plain

    assert said(_set(5, "a", "b"), 8192) == (
        "2 marked  5.00 GiB  ✔ fit  with up to 8K of context each"
    )
    assert "◍ fit after unloading old" in said(_set(4, "a", "b"))
    assert "✖ 1.50 GiB too much" in said(_set(0.5, "a", "b"))
    assert "fit with 2K of context each" in said(_set(0.5, "a", "b"), 2048)
    assert said(_set(5, "a"), 8192) == "1 marked  2.00 GiB  ✔ fits  with up to 8K of context"
    assert "the memory of one of them is unknown" in said(_set(5, "a", "unknown"))
    parts, total, mark = marked_bar(_set(5, "a", "b"))
    assert [(part.label, part.value / GIB) for part in parts] == [
        ("a", 2), ("b", 3), ("others", 3),
    ]  # fmt: skip
    assert (total, mark) == (8 * GIB, None)
    parts, total, mark = marked_bar(_set(0.5, "a", "b"))
    assert mark == 8 * GIB
    assert total > mark


def _world() -> World:
    """Room for one more model of 3.1 GiB, and one of 2 GiB that is idle."""
    world = busy_world()
    world.rooms = _pool(4, 12)
    idle = model("idle", memory_bytes=3 * GIB, last_used_at=ago(999), **LOADED)
    extra = [model(name) for name in ("one", "two")]
    world.models = {one.id: one for one in (*world.models.values(), idle, *extra)}
    world.details.clear()
    return world


def states(app: CyberApp) -> set[ModelStatus]:
    return {one.status for one in app.snapshot.models if one.id in {"one", "two"}}


async def test_marked_models_are_loaded_unloaded_pinned_and_deleted_together() -> None:
    async with running(_world(), first_page="models") as (app, client, pilot):
        await until(pilot, lambda: "MODELS  8" in screen_text(app))
        table = app.screen.query_one("#table", LiveTable)
        for name in ("one", "two"):
            table.move_to(name)
            await pilot.press("space")
        await until(pilot, lambda: "fit after unloading idle" in screen_text(app))
        # Loading them asks before it unloads another.
        await pilot.press("l")
        await until(pilot, lambda: "Load 2 models?" in screen_text(app))
        await pilot.press("escape")
        assert client.calls == []
        await pilot.press("l", "l")
        wanted = [("unload", "idle", False), ("load", "one", False), ("load", "two", False)]
        await until(pilot, lambda: client.calls == wanted)
        client.calls.clear()
        await until(pilot, lambda: states(app) == {ModelStatus.LOADING})
        await pilot.press("p")
        await until(pilot, lambda: {("pin", n, True) for n in ("one", "two")} <= set(client.calls))
        client.calls.clear()
        await pilot.press("u")
        await until(pilot, lambda: len(client.calls) == 2)
        assert {call[:2] for call in client.calls} == {("unload", "one"), ("unload", "two")}
        client.calls.clear()
        for name in ("one", "two"):
            client.set_model(name, status=ModelStatus.UNLOADED)
        await until(pilot, lambda: states(app) == {ModelStatus.UNLOADED})
        # One that is loaded cannot be deleted, and the question says so.
        table.move_to("qwen3-4b-q4_k_m")
        await pilot.press("space", "x")
        await until(pilot, lambda: "Delete 2 models, 4.60 GiB?" in screen_text(app))
        assert "qwen3-4b-q4_k_m cannot be deleted" in screen_text(app)
        await pilot.press("d")
        await until(pilot, lambda: client.calls == [("delete", "one"), ("delete", "two")])
        await until(pilot, lambda: "1 marked" in screen_text(app))
        # Its requests are asked about.
        await pilot.press("u")
        await until(pilot, lambda: "They have 2 requests." in screen_text(app))
        await pilot.press("escape", "escape")
        await until(pilot, lambda: "marked" not in screen_text(app))


async def test_a_set_that_is_too_big_is_not_loaded() -> None:
    world = _world()
    async with running(world, first_page="models") as (app, client, pilot):
        await until(pilot, lambda: "MODELS  8" in screen_text(app))
        app.screen.query_one("#table", LiveTable).move_to("one")
        await pilot.press("space")
        app.screen.query_one("#table", LiveTable).move_to("qwen3-32b-q4_k_m")
        await pilot.press("space", "l")
        await until(pilot, lambda: "do not fit together" in screen_text(app))
        assert client.calls == []
