from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from textual.app import App, ComposeResult

from cyber_inference_tui.terminal.charset import ASCII, UNICODE, Charset
from cyber_inference_tui.tui.widgets.stacked_bar import BarPart, StackedBar, layout, shares

AMOUNTS = st.floats(allow_nan=True, allow_infinity=True)
PARTS = st.builds(
    BarPart,
    st.text(max_size=12),
    AMOUNTS,
    st.sampled_from(["model", "system", "free"]),
    st.sampled_from(["", "3.1", "12.0 GiB"]),
)


@given(st.lists(PARTS, max_size=6), AMOUNTS, st.integers(0, 130), st.none() | AMOUNTS)
def test_the_bar_takes_its_width_whatever_the_values(
    parts: list[BarPart], total: float, width: int, mark: float | None
) -> None:
    for charset in (UNICODE, ASCII):
        spans = layout(parts, total, width, mark, charset)
        assert sum(cell_len(span.text) for span in spans) == width


@given(st.lists(st.floats(0, 1e300), max_size=8), st.floats(0, 1e300), st.integers(0, 200))
def test_shares_sum_up_and_are_about_right(values: list[float], total: float, width: int) -> None:
    cells = shares(values, total, width)
    assert len(cells) == len(values) + 1
    assert sum(cells) == width
    assert min(cells) >= 0
    assert all(cell == 0 for cell, value in zip(cells, values, strict=False) if value == 0)
    if width >= 10 * len(cells):
        # Values beyond a float's reach of the largest one may vanish.
        seen = [value / max([*values, total]) > 0 if value else False for value in values]
        assert all(cell >= 1 for cell, value in zip(cells, seen, strict=False) if value)


def _text(parts: list[BarPart], width: int, charset: Charset, mark: float | None = None) -> str:
    return "".join(span.text for span in layout(parts, 8, width, mark, charset))


def test_labels_stand_in_their_parts_as_far_as_they_fit() -> None:
    parts = [
        BarPart("qwen3-4b", 4, "model", "4.0"),
        BarPart("nomic", 1, "model", "1.0"),
        BarPart("system", 1, "system", "1.0"),
        BarPart("free", 2, "free", "2.0"),
    ]
    text = _text(parts, 96, ASCII)
    assert " qwen3-4b 4.0 " in text
    assert " nomic 1.0 " in text
    assert text.endswith(". free 2.0 ")
    assert _text(parts, 16, ASCII) == "### 4.0 %%==...."
    assert _text(parts, 8, ASCII) == "####%=.."


def test_the_tick_is_at_its_value_and_not_in_a_label() -> None:
    parts = [BarPart("free", 8, "free", "8.0")]
    assert _text(parts, 20, ASCII, mark=4)[10] == "|"
    assert " free 8.0 " in _text(parts, 30, ASCII, mark=4)
    assert _text(parts, 20, ASCII, mark=80)[19] == "|"


class _App(App[None]):
    def compose(self) -> ComposeResult:
        yield StackedBar()


async def test_it_fits_every_width() -> None:
    app = _App()
    async with app.run_test(size=(80, 3)) as pilot:
        meter = app.query_one(StackedBar)
        meter.show(
            [BarPart("漢字[/a]\x1b[2J", 3, "model", "3"), BarPart("free", 5, "free")], 8, 6.4
        )
        for width in (120, 21, 7, 1):
            await pilot.resize_terminal(width, 3)
            await pilot.pause()
            assert cell_len(meter.render_line(0).text) == width
            assert "\x1b" not in meter.render_line(0).text
