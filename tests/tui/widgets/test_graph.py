from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from textual.app import App, ComposeResult
from textual.geometry import Region

from cyber_inference_tui.terminal.charset import ASCII, UNICODE, Charset
from cyber_inference_tui.tui.widgets.area import Plot, area, spark
from cyber_inference_tui.tui.widgets.graph import Graph

VALUES = st.lists(st.none() | st.floats(allow_nan=True, allow_infinity=True), max_size=60)
CHARSETS = st.sampled_from([UNICODE, ASCII])


def plot(*series: list[float | None], **changes: Any) -> Plot:
    return Plot(series=tuple(map(tuple, series)), shades=tuple(range(len(series))), **changes)


def texts(
    *series: list[float | None], height: int, charset: Charset = ASCII, **changes: Any
) -> list[str]:
    width = len(series[0])
    lines = area(plot(*series, **changes), width, height, charset)
    return ["".join(character for character, _ in line) for line in lines]


@given(VALUES, st.integers(0, 40), st.integers(0, 5), st.floats(), CHARSETS)
def test_an_area_has_its_size_whatever_the_values(
    values: list[float | None], width: int, height: int, maximum: float, charset: Charset
) -> None:
    for colours in (True, False):
        shown = plot(values, values[::-1], maximum=maximum)
        lines = area(shown, width, height, charset, colours=colours)
        assert [len(line) for line in lines] == [width] * height
        characters = {character for line in lines for character, _ in line}
        assert charset.unicode or all(character.isascii() for character in characters)


@given(VALUES, st.integers(0, 40), st.floats(), st.floats(), CHARSETS)
def test_a_spark_has_its_width(
    values: list[float | None], width: int, maximum: float, minimum: float, charset: Charset
) -> None:
    assert cell_len(spark(values, width, maximum, charset, minimum)) == width


@given(st.floats(0, 100), st.floats(0, 100), CHARSETS)
def test_a_larger_value_is_never_lower(one: float, other: float, charset: Charset) -> None:
    low, high = sorted((one, other))
    steps = " ▁▂▃▄▅▆▇█" if charset.unicode else " .:-=+*#%"
    places = [steps.index(step) for step in spark([low, high], 2, 100, charset)]
    assert 0 < places[0] <= places[1]


def test_a_value_is_never_mistaken_for_a_gap() -> None:
    assert texts([0.0, None, 0.4], height=2) == ["   ", "_ #"]
    assert texts([None, None], height=1) == ["  "]
    assert spark([None, 0.0, 100.0], 4, 100, UNICODE) == "  ▁█"


def test_parts_stand_on_each_other_and_the_newest_is_at_the_right() -> None:
    assert texts([50.0, 25.0, 0.0], [50.0, 25.0, 50.0], height=4) == [
        "%  ",
        "%  ",
        "#%%",
        "##%",
    ]
    assert texts([100.0, 250.0], height=2, maximum=200) == [" #", "##"]
    assert texts([30.0, 80.0], height=2, minimum=20.0) == [" #", "##"]


def test_two_shades_share_a_cell_where_they_meet() -> None:
    (line,) = area(plot([50.0], [50.0]), 1, 1, UNICODE)
    assert line == [("▄", "shade-0/shade-1")]
    (line,) = area(plot([100.0]), 1, 1, UNICODE)
    assert line == [(" ", "/shade-0")]
    (line,) = area(plot([100.0], [0.0]), 1, 1, UNICODE, colours=False)
    assert line == [("█", "shade-0")]


class _Counting(Graph):
    painted: list[tuple[int, int, int]]

    def refresh(self, *regions: Region, **flags: bool) -> _Counting:
        self.painted = getattr(self, "painted", [])
        self.painted += [(region.x, region.y, region.width) for region in regions]
        return super().refresh(*regions, **flags)


class _App(App[None]):
    CSS = "Graph { height: 5; }"

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph

    def compose(self) -> ComposeResult:
        yield self.graph


def shown(graph: Graph) -> list[str]:
    return [graph.render_line(y).text.rstrip() for y in range(graph.size.height)]


async def test_a_graph_has_a_title_a_scale_marks_and_an_axis() -> None:
    graph = Graph(charset=ASCII)
    async with _App(graph).run_test(size=(30, 6)) as pilot:
        values: list[float | None] = [None] * 20 + [100.0] * 4
        graph.show(
            plot(
                values,
                head=(("CPU  ", "title"), ("100 %", "figure")),
                tail=(("6 cores", "note"),),
                scale=("0", "100"),
                axis=(("now".rjust(24), "note"),),
                marks=((2, ("a long name loaded", "loaded")),),
            )
        )
        await pilot.pause()
        assert graph.plot_width == 25
        assert shown(graph) == [
            "CPU  100 %             6 cores",
            "  | loaded           #### 100",
            "  |                  ####",
            "  |                  #### 0",
            "                     now",
        ]


async def test_short_marks_are_beside_their_texts() -> None:
    graph = Graph(charset=ASCII)
    async with _App(graph).run_test(size=(12, 6)) as pilot:
        marks = ((2, ("a long name loaded", "loaded")), (4, ("failed",)), (9, ("failed",)))
        graph.show(plot([None] * 12, marks=marks, short_marks=True))
        await pilot.pause()
        assert shown(graph) == ["  | loaded", "    | failed", "  failed |", "", ""]


async def test_the_title_drops_its_end_and_is_then_cut() -> None:
    graph = Graph()
    async with _App(graph).run_test(size=(12, 6)) as pilot:
        graph.show(plot([1.0], head=(("Temperature of it", "title"),), tail=(("C", "note"),)))
        await pilot.pause()
        assert shown(graph)[0] == "Temperature…"


async def test_the_cursor_is_in_its_column_only() -> None:
    graph = Graph()
    async with _App(graph).run_test(size=(8, 5)) as pilot:
        graph.show(plot([100.0] * 8, cursor=3))
        await pilot.pause()
        assert shown(graph) == ["   │"] * 5


async def test_only_cells_that_differ_are_painted() -> None:
    graph = _Counting()
    async with _App(graph).run_test(size=(10, 6)) as pilot:
        values: list[float | None] = [20.0] * 10
        graph.show(plot(values, head=(("CPU", "title"),)))
        await pilot.pause()
        graph.painted = []
        graph.show(plot(values, head=(("CPU", "title"),)))
        assert graph.painted == []
        values[6] = 100.0
        graph.show(plot(values, head=(("CPU", "title"),)))
        assert {(x, width) for x, _, width in graph.painted} == {(6, 1)}
        graph.painted = []
        graph.show(plot(values, head=(("GPU", "title"),)))
        assert graph.painted == [(0, 0, 1)]


@pytest.mark.parametrize("title", ["漢字 [/oops] \x1b[31m 41 %", "🇩🇪 e\u0301"])
async def test_a_title_is_never_markup_and_survives_resizing(title: str) -> None:
    graph = Graph()
    async with _App(graph).run_test(size=(40, 6)) as pilot:
        graph.show(plot([1.0, 2.0], head=((title, "title"),)))
        for width in (9, 3, 1, 30):
            await pilot.resize_terminal(width, 6)
            await pilot.pause()
            assert {cell_len(graph.render_line(y).text) for y in range(5)} == {width}
        assert "\x1b" not in graph.render_line(0).text
