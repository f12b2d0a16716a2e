"""Measures and tunes models, and shows the results with their differences from a marked one."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, ClassVar, cast

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.records import endpoints
from cyber_inference_tui.records.bench import BenchRequest, BenchResult, BenchState, BenchStatus
from cyber_inference_tui.records.queries import HistoryQuery
from cyber_inference_tui.records.tuning import Goal, TuneRequest
from cyber_inference_tui.terminal.benches import (
    change_text,
    difference,
    figure_text,
    settings_text,
    slow_text,
    verdict,
    workload_texts,
)
from cyber_inference_tui.terminal.charset import Charset
from cyber_inference_tui.terminal.columns import Cell, Column, RenderContext
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.dialogs.fit import limit_height
from cyber_inference_tui.tui.dialogs.tuning import goal_question
from cyber_inference_tui.tui.key_bar import key_hints
from cyber_inference_tui.tui.pages.page import update_static
from cyber_inference_tui.tui.widgets.live_table import LiveTable, row_of
from cyber_inference_tui.units import age_text, counted, number_text, size_text

if TYPE_CHECKING:
    from cyber_inference_tui.tui.app import CyberApp

_REFRESH = 1.0
"""Seconds after which the progress is read again."""
_MOST = 200
"""Results that are shown."""
_BAR = 20


def _model_cell(one: BenchResult, context: RenderContext) -> str:
    return clean_line(one.model)


def _age_cell(one: BenchResult, context: RenderContext) -> Cell:
    return Cell(age_text(max(0.0, (context.now - one.at).total_seconds())), "dim")


def _energy_cell(one: BenchResult, context: RenderContext) -> str:
    return figure_text(one.joules_per_token, context.charset, decimals=2)


def _memory(one: BenchResult) -> int | None:
    return one.peak_memory_bytes


class ResultList(LiveTable):
    """The table of results."""

    KEYS_TITLE = "Bench"


class BenchDialog(ModalScreen[None]):
    """Measures ``models`` when asked, and lists the results of all benches, newest first.

    Differences are those from the marked result; at first that is the newest.
    """

    DEFAULT_CSS = """
    BenchDialog { align: center middle; }
    BenchDialog #box { width: 116; max-width: 96%; height: auto; max-height: 96%; padding: 1 2;
        background: $panel; }
    BenchDialog #results { margin-top: 1; background: $panel; }
    BenchDialog #about, BenchDialog #state, BenchDialog #hint { height: auto; margin-top: 1; }
    BenchDialog #about { color: $text-muted; }
    """
    KEYS_TITLE = "Bench"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("m", "measure", "Measure", id="bench.measure", tooltip="while nobody is served"),
        Binding("t", "tune", "Tune", id="bench.tune", tooltip="look for better settings"),
        Binding("s", "stop", "Stop", id="bench.stop", tooltip="end the measurements"),
        Binding("space", "mark", "Mark", id="bench.mark", tooltip="compare the others with it"),
        Binding("escape,q", "dismiss(None)", "Close", id="bench.close"),
    ]

    def __init__(self, models: tuple[str, ...]) -> None:
        super().__init__()
        self._models = models
        self._status: BenchStatus | None = None
        self._results: list[BenchResult] = []
        self._problem = ""
        self._marked = 0
        """The id of the result that the others are compared with; 0 = the newest."""

    @property
    def cyber(self) -> CyberApp:
        """The app with its own type."""
        return cast("CyberApp", self.app)

    @property
    def _columns(self) -> tuple[Column[BenchResult, RenderContext], ...]:
        return (
            Column("model", "MODEL", least=12, cell=_model_cell),
            Column("speed", "TOKENS/S", 13, right=True, cell=self._speed_cell),
            Column("change", "CHANGE", 8, right=True, cell=self._change_cell),
            Column("prompt", "PROMPT/S", 13, right=True, priority=1, cell=self._prompt_cell),
            Column("energy", "J/TOKEN", 11, right=True, priority=3, cell=_energy_cell),
            Column("memory", "MEMORY", 8, _memory, right=True, priority=4, text=size_text),
            Column("mode", "MODE", 6, lambda one: one.power_mode, priority=2),
            Column("build", "BUILD", 7, lambda one: one.build, priority=2),
            Column("age", "AGE", 6, right=True, priority=5, cell=_age_cell),
        )

    def compose(self) -> ComposeResult:
        """Compose the table, a line about the selected result, and the progress."""
        many = counted(len(self._models), "model")
        what = self._models[0] if len(self._models) == 1 else many
        with Vertical(id="box"):
            yield Static(Content.assemble(("Bench", "bold"), f"   {clean_line(what, limit=60)}"))
            charset = self.cyber.options.charset
            yield ResultList(self._columns, marks=True, charset=charset, id="results")
            yield Static(id="about")
            yield Static(id="state")
            yield Static(id="hint")

    def on_mount(self) -> None:
        """Read the results, and the progress from time to time."""
        self.query_one(ResultList).focus()
        self.set_interval(_REFRESH, self._read_soon)
        self._read_soon()
        self._draw()

    def on_resize(self, event: events.Resize) -> None:
        """Give the table the lines that the other parts leave."""
        self.call_after_refresh(self._fit)

    def _fit(self) -> None:
        limit_height(self, "#results", least=3)

    def _read_soon(self) -> None:
        self.run_worker(self._read(), group="read", exclusive=True, exit_on_error=False)

    async def _read(self) -> None:
        """Read the progress, and the results whenever a bench has ended."""
        call = self.cyber.client.call
        try:
            status = await call(endpoints.BENCH)
            if self._status is None or (status.state, status.ended_at) != (
                self._status.state,
                self._status.ended_at,
            ):
                query = HistoryQuery(limit=_MOST)
                self._results = await call(endpoints.BENCH_RESULTS, query=query)
            changed, self._status, self._problem = status != self._status, status, ""
        except CyberError as error:
            changed, self._problem = True, clean_line(str(error), limit=200)
        if changed and self.is_attached:
            self._draw()
            self.refresh_bindings()

    # Drawing

    @property
    def _charset(self) -> Charset:
        return self.cyber.options.charset

    @property
    def _reference(self) -> BenchResult | None:
        marked = (one for one in self._results if one.id == self._marked)
        return next(marked, self._results[0] if self._results else None)

    def _speed_cell(self, one: BenchResult, context: RenderContext) -> str:
        return figure_text(one.tokens_per_second, context.charset)

    def _prompt_cell(self, one: BenchResult, context: RenderContext) -> str:
        return figure_text(one.prompt_tokens_per_second, context.charset)

    def _change_cell(self, one: BenchResult, context: RenderContext) -> Cell | str:
        reference = self._reference
        if reference is None or one.id == reference.id:
            return ""
        found = difference(reference, one, "tokens_per_second")
        text = change_text(found, context.charset)
        if found is None or not found.is_real:
            return Cell(text, "dim")
        return Cell(text, "good" if found.change > 0 else "bad")

    def _draw(self) -> None:
        context = self.cyber.options.render_context()
        table, reference = self.query_one(ResultList), self._reference
        table.show([row_of(str(one.id), one, self._columns, context) for one in self._results])
        table.leave_out(() if any(one.power_mode for one in self._results) else {"mode"})
        table.show_marks(frozenset({str(reference.id)} if reference else ()))
        table.styles.height = max(4, len(self._results) + 1)
        table.show_empty(Content.styled(self._empty_text(), "$text-muted"))
        self._draw_about()
        state = self.query_one("#state", Static)
        state.display = bool(self._state_text())
        update_static(state, Content.styled(self._state_text(), "$text"), layout=True)
        steers, runs = not self.cyber.options.readonly, self._runs
        hints = [
            *([("m", "measures")] if steers and not runs else []),
            *([("t", "tunes")] if self._can_tune else []),
            *([("s", "stops")] if steers and runs else []),
            *([("space", "compares the others with this")] if len(self._results) > 1 else []),
            ("esc", "closes"),
        ]
        update_static(self.query_one("#hint", Static), key_hints(*hints), layout=True)
        self.call_after_refresh(self._fit)

    def _empty_text(self) -> str:
        if self._problem:
            return self._problem
        if self._status is None:
            return f"Reading {self._charset.dots}"
        return (
            "Nothing has been measured yet. m measures tokens per second, energy and memory while "
            "nobody is served, and stops when a request comes."
        )

    @property
    def _runs(self) -> bool:
        return self._status is not None and self._status.state is BenchState.RUNNING

    @property
    def _can_tune(self) -> bool:
        return len(self._models) == 1 and not self._runs and not self.cyber.options.readonly

    def _state_text(self) -> str:
        status = self._status
        if self._results and self._problem:
            return self._problem
        if status is None:
            return ""
        if self._runs:
            bar = self._charset.bar_text(status.done / max(1, status.total), _BAR)
            return f"{bar}  {clean_line(status.step or '', limit=100)}"
        if status.outcome is not None and status.tuning is not None:
            said = f"{status.tuning.model}: {status.outcome.summary}"
            return clean_line(said.replace("±", self._charset.plus_minus), limit=300)
        return clean_line(status.error or "", limit=300)

    def _draw_about(self) -> None:
        """Say about the selected result what the table does not."""
        one, reference = self._selected(), self._reference
        lines = []
        if one is not None and reference is not None:
            lines = [self._facts_text(one), *slow_text([one])]
            if one.id != reference.id:
                lines.append(verdict(reference, one, self._charset))
        about = self.query_one("#about", Static)
        about.display = bool(lines)
        update_static(about, Content("\n".join(lines)), layout=True)

    def _facts_text(self, one: BenchResult) -> str:
        first = figure_text(one.time_to_first_token_seconds, self._charset, decimals=2)
        facts = [*workload_texts(one), f"first token after {first} s", settings_text(one)]
        if one.peak_temperature_c is not None:
            unit = "°C" if self._charset.unicode else "C"
            facts.append(f"up to {number_text(one.peak_temperature_c, unit=unit)}")
        return f" {self._charset.dot} ".join(filter(None, facts))

    def _selected(self) -> BenchResult | None:
        key = self.query_one(ResultList).cursor_key
        return next((one for one in self._results if str(one.id) == key), None)

    @on(LiveTable.RowHighlighted)
    def _moved(self) -> None:
        self._draw_about()
        self.call_after_refresh(self._fit)

    # Actions

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Return whether an action is available: a read-only app measures nothing."""
        if action in {"measure", "stop"}:
            return not self.cyber.options.readonly and self._runs == (action == "stop")
        if action == "tune":
            return self._can_tune
        if action == "mark":
            return bool(self._results)
        return super().check_action(action, parameters)

    def action_measure(self) -> None:
        """Measure the models."""
        request = BenchRequest(models=self._models)
        self.cyber.do(self._change(self.cyber.client.call(endpoints.START_BENCH, body=request)))

    def action_tune(self) -> None:
        """Ask for a goal, and look for settings of the model that are better for it."""
        question = goal_question(self._models[0], self.cyber.snapshot.sample)
        self.cyber.push_screen(question, self._tune)

    def _tune(self, goal: str | None) -> None:
        if goal is None:
            return
        request = TuneRequest(model=self._models[0], goal=Goal(goal))
        self.cyber.do(self._change(self.cyber.client.call(endpoints.START_TUNING, body=request)))

    def action_stop(self) -> None:
        """End the bench that runs."""
        self.cyber.do(self._change(self.cyber.client.call(endpoints.CANCEL_BENCH)))

    async def _change(self, call: Awaitable[BenchStatus]) -> None:
        await call
        if self.is_attached:
            self._read_soon()

    def action_mark(self) -> None:
        """Compare the other results with the selected one."""
        if (one := self._selected()) is not None:
            self._marked = one.id
            self._draw()
