from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from textual.app import App, ComposeResult
from textual.geometry import Region

from cyber_inference_tui.terminal.charset import ASCII, UNICODE, Charset
from cyber_inference_tui.tui.widgets.graph import Graph, rows

VALUES = st.lists(st.none() | st.floats(allow_nan=True, allow_infinity=True), max_size=80)
CHARSETS = st.sampled_from([UNICODE, ASCII])


@given(VALUES, st.integers(0, 40), st.integers(1, 4), st.floats(), CHARSETS)
def test_every_line_has_the_width(
    values: list[float | None], width: int, height: int, maximum: float, charset: Charset
) -> None:
    lines = rows(values, width, height, maximum, charset)
    assert [cell_len(line) for line in lines] == [width] * height
    assert charset.unicode or all(line.isascii() for line in lines)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=30), st.integers(1, 4), CHARSETS)
def test_a_value_is_never_mistaken_for_a_gap(
    values: list[float], height: int, charset: Charset
) -> None:
    blank = "\u2800" if charset.unicode else " "
    last = rows(values, 4, height, 100, charset)[-1]
    assert last[-1] != blank
    assert rows([None] * len(values), 4, height, 100, charset)[-1] == blank * 4


@given(st.floats(0, 100), st.floats(0, 100), st.integers(1, 4), CHARSETS)
def test_a_larger_value_is_never_lower(
    one: float, other: float, height: int, charset: Charset
) -> None:
    low, high = sorted((one, other))

    def dots(value: float) -> int:
        lines = rows([value, value], 1, height, 100, charset)
        if charset.unicode:
            return sum((ord(line) - 0x2800).bit_count() for line in lines)
        return sum(" .:-=+*#%".index(line) for line in lines)

    assert dots(low) <= dots(high)


def test_the_newest_is_at_the_right() -> None:
    assert rows([100, 0], 3, 1, 100, ASCII) == [" %."]
    assert rows([0, 100], 2, 1, 100, UNICODE) == ["\u2800⣸"]
    assert rows([100, None, 50], 3, 2, 100, ASCII) == ["%  ", "% %"]
    assert rows([math.nan, 250], 2, 1, 100, ASCII) == [" %"]


class _Counting(Graph):
    def __init__(self, title: str | None, lines: int) -> None:
        super().__init__(title, lines=lines)
        self.painted: list[int] = []

    def refresh(self, *regions: Region, **flags: bool) -> _Counting:
        self.painted += [y for region in regions for y in region.line_range]
        return super().refresh(*regions, **flags)


class _App(App[None]):
    def __init__(self, graph: _Counting) -> None:
        super().__init__()
        self.graph = graph

    def compose(self) -> ComposeResult:
        yield self.graph


async def test_only_lines_that_differ_are_painted() -> None:
    graph = _Counting("CPU", 2)
    async with _App(graph).run_test(size=(20, 6)) as pilot:
        graph.show([10, 20, 30], 100, caption="30 %")
        await pilot.pause()
        assert graph.size.height == 3
        assert graph.render_line(0).text.startswith("CPU  30 %")
        graph.painted.clear()
        graph.show([10, 20, 30], 100, caption="30 %")
        assert graph.painted == []
        graph.show([10, 20, 40], 100, caption="30 %")
        assert graph.painted == [2]
        graph.painted.clear()
        graph.show([10, 20, 40], 100, caption="40 %")
        assert graph.painted == [0]


@pytest.mark.parametrize("caption", ["漢字 [/oops] \x1b[31m 41 %", ""])
async def test_a_caption_is_never_markup_and_survives_resizing(caption: str) -> None:
    graph = _Counting("CPU", 1)
    async with _App(graph).run_test(size=(40, 6)) as pilot:
        graph.show([1, 2], 2, caption=caption)
        for width in (9, 3, 1, 30):
            await pilot.resize_terminal(width, 6)
            await pilot.pause()
            assert [cell_len(graph.render_line(y).text) for y in range(2)] == [width, width]
        assert "\x1b" not in graph.render_line(0).text
