"""A widget never paints over its neighbours, whatever the layout does between two events."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from rich.cells import cell_len
from textual.app import App, ComposeResult
from textual.containers import Horizontal
from textual.geometry import Size
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Static

from cyber_inference_tui.terminal.columns import Cell, Column, RenderContext
from cyber_inference_tui.tui.widgets.area import Plot
from cyber_inference_tui.tui.widgets.graph import Graph
from cyber_inference_tui.tui.widgets.live_table import LiveTable, Row
from cyber_inference_tui.tui.widgets.stacked_bar import BarPart, StackedBar


def bar() -> StackedBar:
    widget = StackedBar()
    widget.show([BarPart("a model", 3, "model", "3"), BarPart("free", 5, "free")], 8, 6.4)
    return widget


def graph() -> Graph:
    widget = Graph()
    values = tuple(float(value) for value in range(60))
    widget.show(
        Plot(
            series=(values, values),
            shades=(0, 1),
            maximum=120,
            head=(("CPU 漢字  ", "title"), ("41 %", "figure")),
            tail=(("0 to 100 %", "note"),),
            scale=("0", "120"),
            marks=((3, ("loaded",)),),
            cursor=5,
        )
    )
    return widget


def table() -> LiveTable:
    columns: tuple[Column[str, RenderContext], ...] = (
        Column("name", "NAME", least=8, value=str),
        Column("size", "SIZE", least=8, value=str),
    )
    widget = LiveTable(columns)
    widget.show([Row("a", (Cell("a long name of a model"), Cell("3.10 GiB")))])
    return widget


class _Beside(App[None]):
    def __init__(self, widget: Widget) -> None:
        super().__init__()
        self.widget = widget

    def compose(self) -> ComposeResult:
        with Horizontal():
            yield Static("x" * 10, id="left")
            yield self.widget
            yield Static("right", id="right")

    CSS = "#left, #right { width: auto; } Horizontal > .wide { width: 1fr; }"


@pytest.mark.parametrize("make", [bar, graph, table])
async def test_no_line_is_longer_than_its_widget(
    make: Callable[[], Widget], monkeypatch: pytest.MonkeyPatch
) -> None:
    widget = make()
    widget.add_class("wide")
    app = _Beside(widget)
    async with app.run_test(size=(80, 5)) as pilot:
        await pilot.pause()
        painted: list[tuple[Size, int]] = []
        render_line = widget.render_line

        def render(y: int) -> Strip:
            strip = render_line(y)
            painted.append((widget.size, sum(cell_len(piece.text) for piece in strip)))
            return strip

        monkeypatch.setattr(widget, "render_line", render)
        for length in (40, 5, 30):
            app.query_one("#left", Static).update("x" * length)
            await pilot.pause()
        assert {size.width for size, _ in painted} >= {35, 45, 70}
        assert all(cells == size.width for size, cells in painted)
