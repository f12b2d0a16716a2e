"""The dashboard's graphs: their values, their time, their layout and their keys."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, timedelta
from itertools import product

import msgspec

from cyber_inference_tui.records import (
    CpuRecord,
    GpuPoint,
    GpuRecord,
    LiveRequest,
    LiveRequests,
    RequestPhase,
    SwapRecord,
    TrendMark,
    TrendPoint,
)
from cyber_inference_tui.terminal.charset import ASCII, UNICODE
from cyber_inference_tui.tui.app import CyberApp
from cyber_inference_tui.tui.pages.dashboard.details import details
from cyber_inference_tui.tui.pages.dashboard.gauges import gauge, gauges
from cyber_inference_tui.tui.pages.dashboard.layout import Layout, plan
from cyber_inference_tui.tui.pages.dashboard.measures import measures, scale_for
from cyber_inference_tui.tui.pages.dashboard.speeds import ModelShades, speeds
from cyber_inference_tui.tui.pages.dashboard.timeline import (
    SPANS,
    Span,
    Timeline,
    axis,
    mark_texts,
    marks_of,
)
from cyber_inference_tui.tui.snapshot import Snapshot, trend_point
from cyber_inference_tui.tui.widgets.area import SHADES
from cyber_inference_tui.tui.widgets.graph import Graph
from tests.tui.driving import running, screen_text, until
from tests.tui.world import GIB, NOW, ago, busy_world, jetson_sample, streaming_world

DASH = UNICODE.missing
HOUR = SPANS[1]


def snapshot_of(**changes: object) -> Snapshot:
    world = busy_world()
    fields = {
        "sample": world.samples[-1],
        "trend": tuple(trend_point(sample) for sample in world.samples),
        "finished": tuple(world.requests),
        **changes,
    }
    return Snapshot(**fields)  # type: ignore[arg-type]


def texts_of(snapshot: Snapshot) -> dict[str, tuple[str, ...]]:
    found = measures(snapshot, snapshot.trend, UNICODE)
    return {one.title: (one.figure(UNICODE), *one.notes) for one in found}


def points(values: Sequence[float | None], seconds: float = 2.0) -> list[TrendPoint]:
    start = NOW - timedelta(seconds=seconds * len(values))
    return [
        TrendPoint(at=start + timedelta(seconds=seconds * place), cpu_percent=value)
        for place, value in enumerate(values)
    ]


def cpu(point: TrendPoint) -> float | None:
    return point.cpu_percent


# Values


def test_the_graphs_of_a_jetson() -> None:
    assert texts_of(snapshot_of()) == {
        "1st token": ("0.21 s", "p95 0.2 s"),
        "GPU": ("40 %", "1.02 GHz"),
        "CPU": ("20 %", "6 cores", "▄▄▄▄▄▄"),
        "Memory": ("5.10 GiB", "of 7.40 GiB"),
        "Power": ("4.0 W", "of 25 W"),
        "Temp": ("61 °C", "fan 42 %"),
    }


def test_unknown_values_are_dashes_and_missing_parts_have_no_graph() -> None:
    sample = jetson_sample(gpus=(), power={}, temperatures={}, fan=None, cpu=CpuRecord())
    shown = texts_of(snapshot_of(sample=sample, trend=(trend_point(sample),), finished=()))
    assert shown == {
        "1st token": (DASH,),
        "CPU": (DASH,),
        "Memory": ("5.10 GiB", "of 7.40 GiB"),
    }
    assert measures(Snapshot(), (), UNICODE) == []


def test_each_gpu_has_its_graph_and_their_memory_and_power_are_summed() -> None:
    gpus = tuple(
        GpuRecord(
            name="RTX",
            utilization_percent=percent,
            power_w=100.0,
            temperature_c=50.0,
            memory_total=12 * GIB,
            memory_used=4 * GIB,
        )
        for percent in (10.0, 90.0)
    )
    sample = jetson_sample(gpus=gpus, power={})
    snapshot = snapshot_of(sample=sample, trend=(trend_point(sample),))
    shown = texts_of(snapshot)
    assert shown["GPU 0"] == ("10 %", "50 °C", "100 W")
    assert shown["GPU 1"][0] == "90 %"
    assert shown["GPU memory"] == ("8.00 GiB", "of 24.0 GiB")
    assert shown["Power"] == ("200 W",)
    (second,) = [one for one in measures(snapshot, (), UNICODE) if one.title == "GPU 1"]
    assert second.reading(snapshot.trend[0]) == 90.0
    # The service's own points name the power of each GPU only.
    (power,) = [one for one in measures(snapshot, (), UNICODE) if one.title == "Power"]
    assert power.reading(TrendPoint(at=NOW, gpus=(GpuPoint(power_w=70.0),) * 2)) == 140.0


def test_many_gpus_share_a_graph() -> None:
    gpus = tuple(GpuRecord(name="H", utilization_percent=float(n)) for n in range(0, 80, 10))
    shown = texts_of(snapshot_of(sample=jetson_sample(gpus=gpus)))
    assert shown["GPUs"] == ("35 %", "each 0 10 20 30 40 50 60 70")


def test_a_hot_machine_is_a_problem() -> None:
    for degrees, tone in ((61.0, ""), (88.0, "busy"), (97.0, "bad")):
        sample = jetson_sample(temperatures={"tj": degrees})
        (found,) = [
            o for o in measures(snapshot_of(sample=sample), (), UNICODE) if o.title == "Temp"
        ]
        assert found.tone == tone


def test_swap_has_a_graph_when_it_is_used() -> None:
    sample = jetson_sample()
    used = msgspec.structs.replace(sample.swap, used=GIB)
    sample = msgspec.structs.replace(sample, swap=used, zram=used)
    assert texts_of(snapshot_of(sample=sample))["Swap, zram"] == ("2.00 GiB", "of 8.00 GiB")
    assert trend_point(sample).swap_used == 2 * GIB
    none = SwapRecord(total=0, used=0)
    sample = msgspec.structs.replace(sample, swap=none, zram=used)
    assert texts_of(snapshot_of(sample=sample))["Swap, zram"] == ("1.00 GiB", "of 4.00 GiB")


def test_gauges_leave_out_what_bars_show() -> None:
    snapshot = snapshot_of()
    found = measures(snapshot, snapshot.trend, UNICODE)
    assert [one.title for one in gauges(found, snapshot, lines=2)] == [
        "GPU",
        "CPU",
        "Power",
        "Temp",
    ]
    past = [one.title for one in gauges(found, snapshot, lines=2, past=True)]
    assert past == ["GPU", "CPU", "Memory", "Power"]
    three = gauges(found, snapshot, lines=3)
    assert [one.title for one in three[:2]] == ["Tokens/s", "1st token"]
    assert three[0].value == 21.4
    for charset in (UNICODE, ASCII):
        for one in measures(snapshot, snapshot.trend, charset):
            assert gauge(one, [10.0] * 40, 38, charset).cell_length == 38


def test_a_scale_ends_at_a_round_number() -> None:
    assert [scale_for([value]) for value in (0.3, 11, 250, 251, 9999)] == [1, 15, 250, 400, 9999]


def test_models_keep_their_shades_while_others_come_and_go() -> None:
    shades = ModelShades()
    assert shades.keep(["a", "b", "c"]) == {"a": 0, "b": 1, "c": 2}
    assert shades.keep(["b", "d"]) == {"b": 1, "d": 0}
    assert len(shades.keep(str(n) for n in range(SHADES + 2))) == SHADES + 2


def test_the_speeds_of_models_are_stacked() -> None:
    found = [
        TrendPoint(at=ago(4), tokens_per_second={"a": 10.0, "b": 30.0}),
        TrendPoint(at=ago(2), tokens_per_second={"b": 40.0}),
        TrendPoint(at=NOW),
    ]
    timeline = Timeline.of(6, 3, NOW + timedelta(seconds=2))
    shown = speeds(found, timeline, {"b": 0, "a": 1}, 0)
    assert shown.models == ("b", "a")
    assert shown.series == ((30.0, 40.0, 0.0), (10.0, 0.0, 0.0))
    assert shown.maximum == 40
    assert shown.at(0) == {"a": 10.0, "b": 30.0}
    assert shown.at(2) == {}
    assert shown.at(7) == {}
    nobody = speeds(found[2:], timeline, {}, 0)
    assert nobody.series == ((None, None, 0.0),)


# Time


def test_a_graph_moves_in_steps_and_not_with_every_sample() -> None:
    changed = 0
    shown: tuple[float | None, ...] = ()
    for extra in range(13):
        later = points([10.0] * 200 + [90.0] * extra)
        later = [
            msgspec.structs.replace(one, at=one.at + timedelta(seconds=2.0 * extra))
            for one in later
        ]
        now = Timeline.of(300, 50, later[-1].at).values(later, cpu)
        changed += bool(shown) and now != shown
        shown = now
    assert 3 <= changed <= 5
    assert shown[-1] == 90.0


def test_a_graph_holds_a_value_over_a_pause_but_not_for_long() -> None:
    pause = [TrendPoint(at=ago(300), cpu_percent=50.0), TrendPoint(at=NOW, cpu_percent=10.0)]
    shown = Timeline.of(300, 100, NOW).values(pause, cpu)
    assert 1 <= shown.count(50.0) <= 6
    assert shown.count(None) > 80
    assert Timeline.of(300, 100, NOW).values([], cpu) == (None,) * 100
    assert Timeline.of(300, 0, NOW).values(pause, cpu) == ()


def test_the_place_of_a_moment_is_the_moment_of_its_place() -> None:
    timeline = Timeline.of(86400, 110, NOW)
    for place in (0, 55, 109):
        assert timeline.place(timeline.moment(place)) == place
    assert timeline.place(NOW) == 110


def line(width: int, span: Span, *marks: TrendMark, seconds: float = 0) -> str:
    timeline = Timeline.of(seconds or span.seconds, width, NOW)
    return "".join(text for text, _ in axis(timeline, span, marks, UNICODE, UTC))


def test_axes_have_times_with_room_between_them() -> None:
    shown = [
        " ".join(line(width, span).split())
        for width, span in zip((60, 60, 110, 60), SPANS, strict=True)
    ]
    assert shown == [
        "5 min 4 min 3 min 2 min 1 min now",
        "11:10 11:20 11:30 11:40 11:50 12:00",
        "15:00 18:00 21:00 00:00 03:00 06:00 09:00 12:00",
        "Fri Sat Sun Mon Tue Wed Thu",
    ]
    assert len(line(3, SPANS[3])) == 3
    assert line(0, SPANS[0]) == ""


def test_a_mark_has_its_sign_on_the_axis_and_words_of_several_lengths() -> None:
    mark = TrendMark(at=ago(1800), kind="failed", subject="gemma-3-4b-it-q4_k_m", text="failed")
    assert line(60, HOUR, mark)[30] == "✖"
    old = msgspec.structs.replace(mark, at=ago(9999))
    assert "✖" not in line(60, HOUR, old)
    assert mark_texts(mark, UNICODE) == (
        "gemma-3-4b-it-q4_k_m failed",
        "gemma-3-4b-it… failed",
        "gemma-3… failed",
        "failed",
    )


async def test_events_of_models_are_marks() -> None:
    async with running(streaming_world()) as (app, client, pilot):
        client.set_model("phi-4-mini-q4_k_m", status="loaded", memory_bytes=GIB)
        client.set_model("phi-4-mini-q4_k_m", status="unloaded")
        client.set_model("phi-4-mini-q4_k_m", status="failed", error="out of memory")
        client.set_model("qwen3-4b-q4_k_m", pinned=True)
        await until(pilot, lambda: len(app.snapshot.recent_events) >= 5)
        kinds = [mark.kind for mark in marks_of(app.snapshot.recent_events)]
        assert kinds == ["failed", "unloaded", "loaded"]


# The layout


def test_every_layout_leaves_room_for_the_lists() -> None:
    sizes = product((58, 78, 98, 118, 158, 198), (17, 21, 27, 37, 42, 57), Layout, (3, 6, 9))
    for width, height, layout, graphs in sizes:
        found = plan(width, height, graphs, layout)
        assert found.rows <= max(5, height * 0.62)
        assert found.beside == (width >= 148 and height >= 26)
        if found.small:
            assert found.small >= 2
            assert (found.side or width) // found.across >= 26
            lines = -(-found.shown // found.across)
            assert not found.beside or lines * found.small <= found.large


def test_a_log_has_room_on_wide_and_high_screens_unless_graphs_take_it() -> None:
    assert plan(198, 47, 6).log
    assert plan(158, 45, 6).log
    assert not plan(157, 57, 6).log
    assert not plan(198, 42, 6).log
    assert plan(198, 42, 6, Layout.LISTS).log
    assert not plan(198, 57, 6, Layout.GRAPHS).log


def test_graphs_grow_with_the_height_and_the_choice() -> None:
    heights = [plan(118, height, 6).large for height in (30, 37, 57)]
    assert heights == sorted(set(heights))
    weights = [plan(158, 42, 6, layout).large for layout in Layout]
    assert weights == sorted(set(weights))


# The page


def speed_graph(app: CyberApp) -> Graph:
    return app.screen.query_one("#speed", Graph)


async def test_h_shows_the_past_that_the_service_keeps() -> None:
    async with running(streaming_world()) as (app, _, pilot):
        await until(pilot, lambda: "5 min · 1 h" in screen_text(app))
        await pilot.press("h", "h")
        await until(pilot, lambda: "GPU throttled" in screen_text(app))
        assert "06:00" in screen_text(app)
        await pilot.press("h")
        await until(pilot, lambda: "Mon" in screen_text(app))
        await pilot.press("h")
        await until(pilot, lambda: "4 min" in screen_text(app))


async def test_a_past_that_cannot_be_read_is_said() -> None:
    async with running(streaming_world()) as (app, client, pilot):
        await until(pilot, lambda: "5 min · 1 h" in screen_text(app))
        client.stop()
        await until(pilot, lambda: "no connection" in screen_text(app))
        await pilot.press("h")
        await until(pilot, lambda: "No service answers" in screen_text(app))


async def test_the_cursor_reads_all_graphs_at_a_moment() -> None:
    async with running(streaming_world()) as (app, _, pilot):
        await until(pilot, lambda: "5 min · 1 h" in screen_text(app))
        assert "GPU 0  99 %" in screen_text(app)
        await pilot.press("left")
        await until(pilot, lambda: "at 12:04:" in screen_text(app))
        await pilot.press(*["left"] * 60)
        await until(pilot, lambda: "at 12:01:" in screen_text(app))
        assert "GPU 0  99 %" not in screen_text(app)
        await pilot.press("right")
        await pilot.press("escape")
        await until(pilot, lambda: "at 12:0" not in screen_text(app))
        assert "GPU 0  99 %" in screen_text(app)


async def test_plus_and_minus_choose_the_room_for_graphs() -> None:
    async with running(streaming_world()) as (app, _, pilot):
        await until(pilot, lambda: "5 min · 1 h" in screen_text(app))
        rows = speed_graph(app).size.height
        await pilot.press("plus")
        await until(pilot, lambda: speed_graph(app).size.height > rows)
        await pilot.press("minus", "minus")
        await until(pilot, lambda: "━" in screen_text(app))
        assert speed_graph(app).size.height < rows
        # The same with a key for each; a terminal sends these for shift+1, 2 and 3.
        await pilot.press("exclamation_mark")
        await until(pilot, lambda: speed_graph(app).size.height > rows)
        await pilot.press("at")
        await until(pilot, lambda: speed_graph(app).size.height == rows)
        await pilot.press("number_sign")
        await until(pilot, lambda: speed_graph(app).size.height < rows)


async def test_live_figures_are_in_the_rows_and_the_last_speed_stays() -> None:
    world = streaming_world()
    async with running(world, size=(160, 45)) as (app, client, pilot):
        await until(pilot, lambda: "900 tok" in screen_text(app))
        live = tuple(
            LiveRequest(
                number=one.number,
                phase=RequestPhase.ANSWERING,
                tokens_out=1234,
                tokens_per_second=55.0,
            )
            for one in world.active
        )
        client.publish(
            "request", LiveRequests(live=live, tokens_per_second={"qwen3-4b-q4_k_m": 165.0})
        )
        await until(pilot, lambda: "165.0" in screen_text(app))
        assert "TOKENS/S  165" in screen_text(app)
        await until(pilot, lambda: app.snapshot.rates.get(40) == (55.0,))
        client.world.active = []
        client.publish("request", LiveRequests(live=(), tokens_per_second={}))
        await until(pilot, lambda: not app.snapshot.active)
        await until(pilot, lambda: "TOKENS/S  0" in screen_text(app))
        row = next(r for r in screen_text(app).splitlines() if "qwen3-4b-q4_k_m" in r and "●" in r)
        assert row.partition("loaded")[2].split()[0] in {"21.0", "22.0", "23.0"}


def test_details_count_the_last_requests() -> None:
    world = busy_world()
    name = "qwen3-4b-q4_k_m"
    own = [one for one in world.requests if one.model == name and one.tokens_per_second]

    def text(number: int) -> str:
        snapshot = Snapshot(finished=tuple(own[:number]))
        return details(world.models[name], snapshot, NOW, 60, UNICODE).plain

    assert "last request · 23.0 tokens/s" in text(1)
    assert "last 3 requests · p50 2" in text(3)
    assert "last" not in text(0)


async def test_details_are_beside_the_models_on_a_wide_screen() -> None:
    async with running(busy_world(), size=(160, 45)) as (app, _, pilot):
        await until(pilot, lambda: "p50" in screen_text(app) or "parameters" in screen_text(app))
        await pilot.press("j")
        await until(pilot, lambda: "last 36 requests · p50 22.0 tokens/s" in screen_text(app))
        await pilot.press("j", "j")
        await until(pilot, lambda: "last failed 12:04:11: The model needs" in screen_text(app))
