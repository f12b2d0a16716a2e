"""Small apps of one widget each, for ``benchmarks.terminal_bytes``: ``CASE`` is the argument."""

from __future__ import annotations

import itertools
import math
import os
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial

# As over SSH: these are read when Textual is imported.
os.environ.setdefault("TEXTUAL_ANIMATIONS", "none")
os.environ.setdefault("TEXTUAL_SMOOTH_SCROLL", "0")

from textual.app import ComposeResult
from textual.widget import Widget

from cyber_inference_tui.records import LogLevel, NumberedLine
from cyber_inference_tui.terminal.charset import UNICODE
from cyber_inference_tui.terminal.columns import Cell, Column, RenderContext
from cyber_inference_tui.tui.frames import Painting
from cyber_inference_tui.tui.terminal_driver import TerminalDriver
from cyber_inference_tui.tui.widgets.area import MACHINE_SHADE, Plot
from cyber_inference_tui.tui.widgets.graph import Graph
from cyber_inference_tui.tui.widgets.live_table import LiveTable, row_of
from cyber_inference_tui.tui.widgets.log_view import LogView
from cyber_inference_tui.tui.widgets.stacked_bar import BarPart, StackedBar
from cyber_inference_tui.tui.widgets.text_view import TextRow, TextView


class BenchmarkApp(Painting):
    """Paints as the terminal app does. Shows one widget and calls ``step`` every ``seconds``."""

    ENABLE_COMMAND_PALETTE = False

    def __init__(self, widget: Widget, step: Callable[[int], None], seconds: float) -> None:
        super().__init__(driver_class=TerminalDriver)
        self._widget = widget
        self._step = step
        self._seconds = seconds
        self._count: Iterator[int] = itertools.count()

    def compose(self) -> ComposeResult:
        yield self._widget

    def on_mount(self) -> None:
        self._step(next(self._count))
        self.set_interval(self._seconds, lambda: self._step(next(self._count)))


def _cell(at: int, row: list[str], _: RenderContext) -> str:
    return row[at]


def _table(changing: bool) -> BenchmarkApp:
    columns: list[Column[list[str], RenderContext]] = [
        Column("model", "MODEL", least=12, cell=lambda row, _: row[0]),
        Column("state", "STATE", width=16, cell=lambda row, _: Cell("● loaded", "good")),
        *(
            Column("number", "NUMBER", width=9, right=True, cell=partial(_cell, at))
            for at in range(1, 7)
        ),
    ]
    table = LiveTable(columns)
    context = RenderContext(UNICODE, datetime.now(UTC))

    def step(count: int) -> None:
        rows = []
        for number in range(20):
            speed = f"{count % 100}.4" if changing and number == 7 else "21.4"
            texts = [f"qwen3-{number}b-q4_k_m", *["8,192"] * 3, speed, *["3.1 GiB"] * 2]
            rows.append(row_of(f"model-{number}", texts, columns, context))
        table.show(rows)

    return BenchmarkApp(table, step, 0.25)


def _graph() -> BenchmarkApp:
    graph = Graph()

    def step(count: int) -> None:
        values = [50 + 50 * math.sin(second / 9) for second in range(count, count + 300)]
        head = (("CPU  ", "title"), (f"{values[-1]:.0f} %", "figure"), ("  6 cores", "note"))
        graph.show(Plot(series=(tuple(values),), shades=(MACHINE_SHADE,), head=head))

    return BenchmarkApp(graph, step, 1)


def _meter() -> BenchmarkApp:
    meter = StackedBar()

    def step(count: int) -> None:
        system = 1.6 + count % 10 / 10
        parts = [
            BarPart("qwen3-4b", 3.1, "model", "3.1"),
            BarPart("system", system, "system", f"{system:.1f}"),
            BarPart("free", 2.7 - count % 10 / 10, "free", f"{2.7 - count % 10 / 10:.1f}"),
        ]
        meter.show(parts, 7.4, 5.9)

    return BenchmarkApp(meter, step, 1)


def _log(*, following: bool = True, hidden: bool = False) -> BenchmarkApp:
    view = LogView()
    text = (
        "slot update_slots: id  {} | task {} | prompt processing progress, n_tokens = 2048, b = {}"
    )

    def lines(first: int, end: int) -> list[NumberedLine]:
        return [
            NumberedLine(
                number=number,
                at=datetime.now(UTC),
                text=text.format(number % 4, number, number * 7),
                level=LogLevel.WARNING if number % 10 == 0 else LogLevel.INFO,
            )
            for number in range(first, end)
        ]

    def step(count: int) -> None:
        if count == 0:
            view.show(lines(0, 100))
            if not following:
                view.goto(50)
            view.display = not hidden
            return
        first = 95 + count * 5
        view.extend(lines(first, first + 5))

    return BenchmarkApp(view, step, 0.25)


def _text(rows_before: int) -> BenchmarkApp:
    view = TextView()

    def row(number: int) -> TextRow:
        return ((f"line {number} of an answer, as long as a line of an answer usually is", "text"),)

    def step(count: int) -> None:
        # Three words at a time, fifteen to a row.
        whole, part = divmod(count * 3, 15)
        rows = [row(number) for number in range(rows_before + whole)]
        view.show([*rows, ((" ".join(["answer"] * part), "text"),)])

    return BenchmarkApp(view, step, 0.125)


CASES: dict[str, Callable[[], BenchmarkApp]] = {
    "table of 20 rows, one cell changes 4 times a second": lambda: _table(True),
    "the same table, shown again 4 times a second": lambda: _table(False),
    "graph of one line and its title, once a second": _graph,
    "meter, once a second": _meter,
    "log, followed, 20 lines/s in 4 batches": _log,
    "log, scrolled up, 20 lines/s": lambda: _log(following=False),
    "log, hidden, 20 lines/s": lambda: _log(hidden=True),
    "answer of 24 words/s in 8 batches": lambda: _text(0),
    "the same answer, once it fills the screen": lambda: _text(200),
}

if __name__ == "__main__":
    CASES[sys.argv[1]]().run()
