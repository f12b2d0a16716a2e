"""The Dashboard: its numbers, its sentences and its keys."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from textual.app import ComposeResult
from textual.screen import Screen
from textual.widgets import Static

from cyber_inference_tui.records import (
    GpuRecord,
    LlamaServerRecord,
    MemoryPool,
    MemoryRecord,
    ModelStatus,
    ModelUsage,
    PortRecord,
    RecentEvent,
)
from cyber_inference_tui.terminal.charset import ASCII, UNICODE
from cyber_inference_tui.terminal.columns import RenderContext
from cyber_inference_tui.tui.app import CyberApp
from cyber_inference_tui.tui.pages.dashboard.memory_pools import pools
from cyber_inference_tui.tui.pages.dashboard.table import (
    ModelLine,
    event_rows,
    explanation,
    model_row,
    ordered,
    ports_line,
    request_rows,
)
from cyber_inference_tui.tui.pages.page import Page
from cyber_inference_tui.tui.snapshot import Snapshot, trend_point
from cyber_inference_tui.tui.widgets.live_table import LiveTable
from tests.tui.driving import LAUNCH, SMALL, WIDE, running, screen_text, until
from tests.tui.fake_client import FakeClient
from tests.tui.world import (
    GIB,
    NOW,
    ago,
    busy_world,
    empty_world,
    jetson_sample,
    model,
    streaming_world,
)

DASH = UNICODE.missing
HOSTILE = "\x1b[2J[/oops]\u202eevil\x07" + "漢" * 300


def snapshot_of(**changes: object) -> Snapshot:
    world = busy_world()
    fields = {
        "status": world.status,
        "models": tuple(world.models.values()),
        "sample": world.samples[-1],
        "trend": tuple(trend_point(sample) for sample in world.samples),
        "rooms": tuple(world.rooms),
        **changes,
    }
    return Snapshot(**fields)  # type: ignore[arg-type]


def models_table(app: CyberApp) -> LiveTable:
    return app.screen.query_one("#models", LiveTable)


def cells(model_id: str, **changes: object) -> list[str]:
    row = model_row(ModelLine(model(model_id, **changes)), RenderContext(UNICODE, NOW))
    return [row.cell(place)[0] for place in range(len(row.cells))]


# Memory


def test_the_memory_is_shared_out_by_the_service_s_own_figures() -> None:
    (pool,) = pools(snapshot_of(), UNICODE)
    assert pool.caption == "5.10 of 7.40 GiB"
    assert [(part.label, part.figure) for part in pool.parts] == [
        ("nomic-embed-text-v2", "410 MiB"),
        ("qwen3-4b-q4_k_m", "3.10"),
        ("system", "1.60"),
        ("free", "2.30"),
    ]
    assert pool.limit == int(5.9 * GIB)
    assert pool.room == "819 MiB for models"
    assert pool.more == ""
    assert not pool.full


def test_mapped_weights_are_not_free() -> None:
    sample = jetson_sample(
        memory=MemoryRecord(total=8 * GIB, available=6 * GIB, used=2 * GIB, percent=25.0),
        models=(ModelUsage(id="qwen3-4b-q4_k_m", pid=1, memory_mapped_bytes=3 * GIB),),
    )
    (pool,) = pools(snapshot_of(sample=sample, rooms=()), UNICODE)
    assert {part.label: part.figure for part in pool.parts}["free"] == "3.00"
    assert pool.room == ""


def test_a_machine_with_gpu_memory_shows_both() -> None:
    gpu = GpuRecord(name="RTX", memory_total=24 * GIB, memory_used=10 * GIB)
    usage = ModelUsage(
        id="qwen3-4b-q4_k_m", pid=1, memory_private_bytes=GIB, gpu_memory_bytes=8 * GIB
    )
    rooms = (
        MemoryPool(
            pool="gpu",
            limit_bytes=22 * GIB,
            free_bytes=12 * GIB,
            free_after_unloading_bytes=20 * GIB,
        ),
        MemoryPool(pool="memory"),
    )
    sample = jetson_sample(gpus=(gpu,), models=(usage,))
    first, second = pools(snapshot_of(sample=sample, rooms=rooms), UNICODE)
    assert first.title == "GPU memory"
    assert [(part.label, part.figure) for part in first.parts] == [
        ("qwen3-4b-q4_k_m", "8.00"),
        ("system", "2.00"),
        ("free", "14.0"),
    ]
    assert first.room == "12.0 GiB for models"
    assert first.more == ", 20.0 GiB after unloading idle"
    assert [part.figure for part in second.parts] == ["1.00", "4.10", "2.30"]


def test_unknown_memory_is_not_made_up() -> None:
    sample = jetson_sample(memory=MemoryRecord(total=8 * GIB), models=())
    (pool,) = pools(snapshot_of(sample=sample, rooms=(), models=()), UNICODE)
    assert pool.caption == f"{DASH} of 8.00 GiB"
    assert pool.parts == ()
    nothing = jetson_sample(memory=MemoryRecord(), gpus=())
    assert pools(snapshot_of(sample=nothing), UNICODE) == []


def test_a_full_memory_is_marked() -> None:
    rooms = (MemoryPool(pool="memory", limit_bytes=6 * GIB, free_bytes=0),)
    (pool,) = pools(snapshot_of(rooms=rooms), UNICODE)
    assert pool.full
    assert pool.room == "0 B for models"


# Rows


def test_models_that_are_awake_come_first_and_the_last_used_of_the_rest() -> None:
    models = [
        model("z-old", last_used_at=ago(9000)),
        model("y-new", last_used_at=ago(10)),
        model("x-never"),
        model("failed", status=ModelStatus.FAILED),
        model("loading", status=ModelStatus.LOADING),
        model("loaded", status=ModelStatus.LOADED),
    ]
    names = [one.id for one in ordered(models, "")]
    assert names == ["loaded", "loading", "failed", "y-new", "z-old", "x-never"]
    assert [one.id for one in ordered(models, "load")] == ["loaded", "loading"]


def test_a_model_s_row() -> None:
    up = {"status": ModelStatus.LOADED, "slots": 4, "memory_bytes": int(3.1 * GIB)}
    assert cells("a", **up)[1:] == [
        "here",
        "● loaded",
        "8K / 40K",
        "0 / 4",
        DASH,
        "",
        "0",
        DASH,
        "3.10 GiB",
        DASH,
    ]
    assert cells("a", **up, in_flight=2)[10] == "busy"
    assert cells("a", **up, unload_at=NOW + timedelta(seconds=192))[10] == "3:12"
    assert cells("a", **up, pinned=True)[10] == "◆ pinned"
    assert cells("a", status=ModelStatus.QUEUED, queued=3)[8] == "3"
    assert cells("a", status=ModelStatus.QUEUED, queued=3, expected_wait_seconds=6.0)[8] == (
        "3 ≈ 6 s"
    )
    assert cells("a", memory_estimate_bytes=None)[9] == DASH
    assert cells("a")[9] == "~3.10 GiB"


def test_the_selected_model_is_explained() -> None:
    failed = model("a", status=ModelStatus.FAILED, error="out of memory")
    assert "✖ out of memory" in explanation(failed, NOW, UNICODE).plain
    assert "its log" in explanation(failed, NOW, UNICODE).plain
    assert "needs 3.10 GiB" in explanation(model("a"), NOW, UNICODE).plain
    waiting = model("a", status=ModelStatus.QUEUED, queued=1, expected_wait_seconds=4.0)
    assert "1 request waits, ready in about 4.0 s" in explanation(waiting, NOW, UNICODE).plain
    broken = model("a", error="its file is cut off")
    assert "its file is cut off" in explanation(broken, NOW, UNICODE).plain
    assert explanation(None, NOW, UNICODE).plain == ""


def test_hostile_texts_make_harmless_rows() -> None:
    row = model_row(ModelLine(model(HOSTILE, pinned=True)), RenderContext(UNICODE, NOW))
    assert row.cell(0)[0].isprintable()
    bad = model("a", status=ModelStatus.FAILED, error=HOSTILE)
    assert explanation(bad, NOW, UNICODE).plain.isprintable()
    active = [msgspec.structs.replace(busy_world().active[0], model=HOSTILE, path=HOSTILE)]
    events = [
        RecentEvent(id=1, at=NOW, kind="model", subject=HOSTILE, text=HOSTILE, tone="bad", count=2)
    ]
    for row in (
        *request_rows(active, [], RenderContext(UNICODE, NOW)),
        *event_rows(events, RenderContext(UNICODE, NOW), width=40),
    ):
        for place in range(6):
            assert row.cell(place)[0].isprintable()


# The page


async def test_one_glance_on_a_wide_screen() -> None:
    async with running(busy_world()) as (app, _, pilot):
        await until(pilot, lambda: "MODEL" in screen_text(app))
        text = screen_text(app)
        for part in (
            "GPU  40 %",
            "Power  4.0 W  of 25",
            "819 MiB for models",
            "system 1.60",
            "◐ loading 64 %",
            "3 ≈ 6 s",
            "IDLE OUT",
            "REQUESTS  2 running, 3 waiting",
            "EVENTS",
            "◌ waiting 3",
        ):
            assert part in text


@pytest.mark.parametrize("size", [(60, 20), (80, 24), (120, 40), (160, 45), (200, 60)])
async def test_names_of_models_are_whole(size: tuple[int, int]) -> None:
    async with running(streaming_world(), size=size) as (app, _, pilot):
        await until(pilot, lambda: "answering" in screen_text(app))
        name = "gemma-3-4b-it-q4_k_m "
        lines = [line for line in screen_text(app).splitlines() if "answering" in line]
        assert any(name in line for line in lines)
        assert not any("…" in line.split("answering")[0] for line in lines)


async def test_one_glance_on_a_small_screen() -> None:
    async with running(busy_world(), size=SMALL) as (app, _, pilot):
        await until(pilot, lambda: "MODEL" in screen_text(app))
        text = screen_text(app)
        header = next(line for line in text.splitlines() if "MODEL" in line)
        assert header.split() == ["MODEL", "STATE", "TOKENS/S", "WAITING", "MEMORY"]
        assert "━" in text
        assert "Quit" in text.splitlines()[-1]
        assert "◐ answering" in text


async def test_a_failed_model_s_reason_is_whole_on_a_small_screen() -> None:
    async with running(busy_world(), size=SMALL) as (app, _, pilot):
        await until(pilot, lambda: len(models_table(app).rows) == 5)
        models_table(app).move_to("phi-4-mini-q4_k_m")
        await until(pilot, lambda: "memory.  o opens its log" in screen_text(app))


async def test_brackets_switch_between_requests_and_events() -> None:
    async with running(busy_world(), size=SMALL) as (app, client, pilot):
        client.set_model("qwen3-32b-q4_k_m", status=ModelStatus.FAILED, error="too big")
        await until(pilot, lambda: "◐ answering" in screen_text(app))
        # Nothing more happens: the list is drawn for the key alone.
        await until(pilot, lambda: bool(app.snapshot.recent_events))
        await pilot.press("right_square_bracket")
        await until(pilot, lambda: "✖ too big" in screen_text(app))
        assert "◐ answering" not in screen_text(app)
        await pilot.press("left_square_bracket")
        await until(pilot, lambda: "◐ answering" in screen_text(app))


async def test_ascii_has_no_other_characters() -> None:
    async with running(busy_world(), charset=ASCII) as (app, _, pilot):
        await until(pilot, lambda: "MODEL" in screen_text(app))
        body = "\n".join(screen_text(app).splitlines()[2:-1])
        foreign = {sign for sign in body if not sign.isascii()}
        assert not foreign


async def test_l_loads_and_u_unloads_the_selected_model() -> None:
    async with running(busy_world()) as (app, client, pilot):
        await until(pilot, lambda: len(models_table(app).rows) == 5)
        models_table(app).move_to("qwen3-32b-q4_k_m")
        await pilot.pause()
        await pilot.press("u")
        assert client.calls == []
        await pilot.press("l")
        await until(pilot, lambda: ("load", "qwen3-32b-q4_k_m", False) in client.calls)
        models_table(app).move_to("nomic-embed-text-v2")
        await pilot.pause()
        await pilot.press("l")
        await pilot.press("u")
        await until(pilot, lambda: client.calls[-1] == ("unload", "nomic-embed-text-v2", False))
        assert len(client.calls) == 2


async def test_unloading_a_busy_model_asks_first() -> None:
    async with running(busy_world()) as (app, client, pilot):
        await until(pilot, lambda: len(models_table(app).rows) == 5)
        for key, call in (
            ("escape", None),
            ("c", None),
            ("n", ("unload", "qwen3-4b-q4_k_m", True)),
        ):
            models_table(app).move_to("qwen3-4b-q4_k_m")
            await pilot.pause()
            await pilot.press("u")
            await until(pilot, lambda: "Unload qwen3-4b-q4_k_m?" in screen_text(app))
            assert "It is serving 2 requests." in screen_text(app)
            await pilot.press(key)
            await until(pilot, lambda: "Unload qwen3-4b-q4_k_m?" not in screen_text(app))
            assert client.calls == ([] if call is None else [call])


async def test_unloading_a_model_that_requests_wait_for_asks_first() -> None:
    async with running(busy_world()) as (app, client, pilot):
        await until(pilot, lambda: len(models_table(app).rows) == 5)
        models_table(app).move_to("gemma-3-4b-it-q4_k_m")
        await pilot.pause()
        await pilot.press("u")
        await until(pilot, lambda: "3 requests are waiting." in screen_text(app))
        await pilot.press("w")
        await until(pilot, lambda: client.calls == [("unload", "gemma-3-4b-it-q4_k_m", False)])


async def test_p_pins_and_unpins() -> None:
    async with running(busy_world()) as (app, client, pilot):
        await until(pilot, lambda: len(models_table(app).rows) == 5)
        await pilot.press("p")
        await until(pilot, lambda: ("pin", "nomic-embed-text-v2", False) in client.calls)
        await until(pilot, lambda: not app.snapshot.models[1].pinned)
        await pilot.press("p")
        await until(pilot, lambda: ("pin", "nomic-embed-text-v2", True) in client.calls)


class Opened(Page):
    """Stands for the pages that are opened at a thing; notes at which."""

    things: ClassVar[list[str]] = []

    def body(self) -> ComposeResult:
        yield Static("here")

    def show(self, snapshot: Snapshot) -> None:
        pass

    def select(self, thing: str) -> None:
        assert self.is_mounted
        self.things.append(thing)

    open = select


class OpenedModels(Opened):
    MODE: ClassVar[str] = "models"


class OpenedLogs(Opened):
    MODE: ClassVar[str] = "logs"


class OtherPages(CyberApp):
    CSS_PATH = str(Path(inspect.getfile(CyberApp)).with_name("app.tcss"))
    MODES: ClassVar[dict[str, str | Callable[[], Screen[Any]]]] = {
        **CyberApp.MODES,
        "models": OpenedModels,
        "logs": OpenedLogs,
    }


async def test_enter_opens_the_models_page_at_the_model_and_o_its_log() -> None:
    app = OtherPages(FakeClient(busy_world()), LAUNCH)
    async with app.run_test(size=WIDE) as pilot:
        await until(pilot, lambda: "qwen3-32b" in screen_text(app))
        Opened.things.clear()
        await pilot.press("enter")
        await until(pilot, lambda: Opened.things == ["nomic-embed-text-v2"])
        assert app.current_mode == "models"
        await pilot.press("1")
        await until(pilot, lambda: app.current_mode == "dashboard")
        models_table(app).move_to("phi-4-mini-q4_k_m")
        await pilot.pause()
        await pilot.press("o")
        await until(pilot, lambda: Opened.things[1:] == ["phi-4-mini-q4_k_m"])
        assert app.current_mode == "logs"


async def test_slash_filters_the_models_and_esc_shows_all() -> None:
    async with running(busy_world()) as (app, _, pilot):
        await until(pilot, lambda: len(models_table(app).rows) == 5)
        await pilot.press("slash", *"phi")
        await until(pilot, lambda: len(models_table(app).rows) == 1)
        await pilot.press("enter")
        assert models_table(app).has_focus
        assert "out of memory" in screen_text(app)
        await pilot.press("escape")
        await until(pilot, lambda: len(models_table(app).rows) == 5)
        await pilot.press("slash", *"zzz")
        await until(pilot, lambda: "No name contains this" in screen_text(app))
        await pilot.press("escape")
        await until(pilot, lambda: len(models_table(app).rows) == 5)


async def test_space_freezes_everything_until_it_is_pressed_again() -> None:
    async with running(busy_world()) as (app, client, pilot):
        await until(pilot, lambda: len(models_table(app).rows) == 5)
        await pilot.press("space")
        await until(pilot, lambda: "FROZEN at 12:04:31" in screen_text(app))
        frozen = screen_text(app)
        client.set_model("phi-4-mini-q4_k_m", status=ModelStatus.LOADING, progress=0.5)
        await until(pilot, lambda: app.snapshot.models[2].progress == 0.5)
        assert screen_text(app) == frozen
        await pilot.press("space")
        await until(pilot, lambda: "◐ loading 50 %" in screen_text(app))
        assert "FROZEN" not in screen_text(app)


async def test_the_error_of_an_action_is_shown() -> None:
    client = FakeClient(busy_world())
    async with running(client) as (app, _, pilot):
        await until(pilot, lambda: len(models_table(app).rows) == 5)
        models_table(app).move_to("qwen3-32b-q4_k_m")
        del client.world.models["qwen3-32b-q4_k_m"]
        await pilot.pause()
        await pilot.press("l")
        await until(pilot, lambda: "There is no model qwen3-32b-q4_k_m." in screen_text(app))


async def test_readonly_has_no_key_that_changes_something() -> None:
    async with running(busy_world(), readonly=True) as (app, client, pilot):
        await until(pilot, lambda: len(models_table(app).rows) == 5)
        footer = screen_text(app).splitlines()[-1]
        assert "Unload" not in footer
        assert "Pin" not in footer
        assert "Log" in footer
        await pilot.press("u", "p", "l")
        assert client.calls == []


async def test_values_of_a_lost_connection_stay() -> None:
    async with running(busy_world()) as (app, client, pilot):
        await until(pilot, lambda: len(models_table(app).rows) == 5)
        client.stop()
        await until(pilot, lambda: "no connection" in screen_text(app))
        assert "◐ loading 64 %" in screen_text(app)
        assert app.screen.has_class("-stale")


async def test_the_greeting_gives_way_once_there_is_something_to_show() -> None:
    async with running(empty_world()) as (app, client, pilot):
        await until(pilot, lambda: "Welcome." in screen_text(app))
        assert "STATE" not in screen_text(app)
        client.world.status = msgspec.structs.replace(
            client.world.status, llama_server=LlamaServerRecord(path="/opt/llama-server")
        )
        client.world.models = {"a": model("a")}
        client.publish("model", model("a"))
        client.publish("config", {"error": None})
        await until(pilot, lambda: "STATE" in screen_text(app))
        assert "Welcome." not in screen_text(app)
        assert models_table(app).has_focus


async def test_hostile_names_stay_in_their_place() -> None:
    world = busy_world()
    world.models = {HOSTILE: model(HOSTILE, status=ModelStatus.FAILED, error=HOSTILE)}
    async with running(world, size=SMALL) as (app, _, pilot):
        await until(pilot, lambda: "[/oops]evil" in screen_text(app))
        text = screen_text(app)
        assert "\x1b" not in text
        assert "\u202e" not in text


async def test_the_ports_and_their_clients_are_in_sight() -> None:
    world = busy_world()
    assert ports_line(snapshot_of(), UNICODE).plain == ""
    ports = (PortRecord(port=11434), PortRecord(port=8080, problem="in use by nginx (pid 7)"))
    world.status = msgspec.structs.replace(world.status, extra_ports=ports)
    world.requests[0] = msgspec.structs.replace(
        world.requests[0], port=11434, user_agent="ollama-python/0.5.1 (x86_64)"
    )
    for place, program in enumerate(("a/1", "b/2", "c/3"), 1):
        world.requests[place] = msgspec.structs.replace(
            world.requests[place], port=8337, user_agent=program
        )
    line = "Ports  8337 a, b, +1  ·  11434 ollama-python  ·  8080 in use by nginx (pid 7)"
    async with running(world) as (app, _, pilot):
        await until(pilot, lambda: line in screen_text(app))
        assert "127.0.0.1:8337, 11434  local" in screen_text(app)
        await pilot.press("space")
        await until(pilot, lambda: "FROZEN" in screen_text(app))
        assert line not in screen_text(app)
        await pilot.press("space")
        await until(pilot, lambda: line in screen_text(app))
