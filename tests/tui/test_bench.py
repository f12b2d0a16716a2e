"""The dialog of benches: it measures, shows the progress, and compares with a marked result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from cyber_inference_tui.errors import ConflictError
from cyber_inference_tui.records.bench import BenchRequest, BenchState, BenchStatus
from cyber_inference_tui.records.tuning import Goal, TuneOutcome, TuneRequest
from cyber_inference_tui.tui.dialogs.bench import BenchDialog
from tests.fakes.service import World
from tests.tui.driving import running, screen_text, until
from tests.tui.world import NOW, bench_results, busy_world, measured

QWEN, GEMMA = "qwen3-4b-q4_k_m", "gemma-3-4b-it-q4_k_m"
RESULTS = bench_results()


def world(**changes: Any) -> World:
    found = busy_world()
    found.benches = list(RESULTS)
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def rows(text: str) -> list[str]:
    return [line for line in text.splitlines() if " b11" in line]


async def test_results_show_their_differences_from_the_marked_one() -> None:
    async with running(world(), first_page="models", size=(120, 40)) as (app, _, pilot):
        await until(pilot, lambda: QWEN in screen_text(app))
        await pilot.press("m")
        await until(pilot, lambda: len(rows(screen_text(app))) == 3)
        assert isinstance(app.screen, BenchDialog)
        assert "+24 %" in rows(screen_text(app))[1]
        assert "+6.5 %" in rows(screen_text(app))[2]
        await pilot.press("down")
        await until(pilot, lambda: "slowed down (cpu: temperature)" in screen_text(app))
        assert f"{GEMMA} is 24 % faster than {QWEN}" in screen_text(app)
        await pilot.press("space")
        await until(pilot, lambda: "-19 %" in rows(screen_text(app))[0])
        assert "-14 %" in rows(screen_text(app))[2]


async def test_a_model_is_measured_and_the_end_is_shown() -> None:
    async with running(world(benches=[]), first_page="models") as (app, client, pilot):
        await until(pilot, lambda: QWEN in screen_text(app))
        app.push_screen(BenchDialog((QWEN,)))
        await until(pilot, lambda: "Nothing has been measured yet." in screen_text(app))
        await pilot.press("m")
        await until(pilot, lambda: "beginning" in screen_text(app))
        assert client.calls == [("start_bench", BenchRequest(models=(QWEN,)))]
        status = client.service.world.bench
        client.service.world.bench = msgspec.structs.replace(
            status, step="round 2", done=1, total=6
        )
        await until(pilot, lambda: "round 2" in screen_text(app))
        client.service.world.benches = [RESULTS[0]]
        client.service.world.bench = BenchStatus(state=BenchState.DONE, ended_at=NOW)
        await until(pilot, lambda: "20.1 " in screen_text(app))
        assert "round 2" not in screen_text(app)
        client.fail["start_bench"] = ConflictError("1 request is running.")
        await pilot.press("m")
        await until(pilot, lambda: "1 request is running." in screen_text(app))


async def test_a_model_is_tuned_and_the_gain_is_said() -> None:
    async with running(world(), first_page="models") as (app, client, pilot):
        await until(pilot, lambda: QWEN in screen_text(app))
        app.push_screen(BenchDialog((QWEN,)))
        await until(pilot, lambda: "t tunes" in screen_text(app))
        await pilot.press("t")
        await until(pilot, lambda: f"Tune {QWEN} for what?" in screen_text(app))
        assert client.calls == []
        await pilot.press("enter")
        await until(pilot, lambda: "beginning" in screen_text(app))
        request = TuneRequest(model=QWEN)
        assert client.calls == [("start_tuning", request)]
        assert "t tunes" not in screen_text(app)
        outcome = TuneOutcome(summary="Better for speed: 21.0 % faster (± 2.0 %).")
        client.service.world.bench = BenchStatus(
            state=BenchState.DONE, tuning=request, outcome=outcome, ended_at=NOW
        )
        await until(pilot, lambda: f"{QWEN}: Better for speed: 21.0 % faster" in screen_text(app))


@pytest.mark.parametrize(
    ("of", "key", "goal"), [(measured, "e", Goal.ENERGY), (lambda one: one, "m", Goal.MEMORY)]
)
async def test_a_model_is_tuned_for_the_chosen_goal(
    of: Callable[[World], World], key: str, goal: Goal
) -> None:
    async with running(of(world())) as (app, client, pilot):
        app.push_screen(BenchDialog((QWEN,)))
        await until(pilot, lambda: "t tunes" in screen_text(app))
        await pilot.press("t")
        await until(pilot, lambda: "for what?" in screen_text(app))
        await pilot.press(key)
        await until(pilot, lambda: bool(client.calls))
        assert client.calls == [("start_tuning", TuneRequest(model=QWEN, goal=goal))]


async def test_energy_is_no_goal_where_nothing_measures_it() -> None:
    async with running(world()) as (app, client, pilot):
        app.push_screen(BenchDialog((QWEN,)))
        await until(pilot, lambda: "t tunes" in screen_text(app))
        await pilot.press("t")
        await until(pilot, lambda: "nothing measures it on this machine" in screen_text(app))
        await pilot.press("e", "escape")
        await until(pilot, lambda: isinstance(app.screen, BenchDialog))
        assert client.calls == []


async def test_several_models_are_measured_but_not_tuned() -> None:
    async with running(world(), first_page="models") as (app, client, pilot):
        await until(pilot, lambda: QWEN in screen_text(app))
        app.push_screen(BenchDialog((QWEN, GEMMA)))
        await until(pilot, lambda: "m measures" in screen_text(app))
        await pilot.press("t")
        await pilot.pause()
        assert "t tunes" not in screen_text(app)
        assert client.calls == []


async def test_a_bench_is_stopped_and_says_what_stopped_it() -> None:
    running_bench = BenchStatus(state=BenchState.RUNNING, step="round 1", total=6)
    async with running(world(bench=running_bench)) as (app, client, pilot):
        app.push_screen(BenchDialog((QWEN,)))
        await until(pilot, lambda: "round 1" in screen_text(app))
        await pilot.press("m")  # not while one runs
        await pilot.press("s")
        await until(pilot, lambda: "round 1" not in screen_text(app))
        assert client.calls == [("cancel_bench",)]
        stopped = BenchStatus(state=BenchState.STOPPED, error="A request came.", ended_at=NOW)
        client.service.world.bench = stopped
        await until(pilot, lambda: "A request came." in screen_text(app))


async def test_a_read_only_app_only_shows_results() -> None:
    async with running(world(), readonly=True) as (app, client, pilot):
        app.push_screen(BenchDialog((QWEN,)))
        await until(pilot, lambda: len(rows(screen_text(app))) == 3)
        await pilot.press("m", "s", "down")
        await until(pilot, lambda: "faster than" in screen_text(app))
        assert client.calls == []


async def test_all_marked_models_take_turns() -> None:
    async with running(world(), first_page="models") as (app, client, pilot):
        await until(pilot, lambda: QWEN in screen_text(app))
        await pilot.press("space", "space", "m")
        await until(pilot, lambda: isinstance(app.screen, BenchDialog))
        await pilot.press("m")
        await until(pilot, lambda: bool(client.calls))
        ((_, request),) = client.calls
        assert len(request.models) == 2
