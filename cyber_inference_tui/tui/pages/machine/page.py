"""The Machine page. It answers: what is each part doing, and does anything slow it down?"""

from __future__ import annotations

import contextlib
from typing import ClassVar

from rich.cells import cell_len
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.records import ModelStatus, endpoints
from cyber_inference_tui.records.bench import BenchResult
from cyber_inference_tui.records.queries import HistoryQuery
from cyber_inference_tui.terminal.columns import Column, RenderContext
from cyber_inference_tui.terminal.power_modes import measured_modes
from cyber_inference_tui.tui.pages.dashboard.measures import Measure
from cyber_inference_tui.tui.pages.dashboard.timeline import SPANS, Texts, Timeline
from cyber_inference_tui.tui.pages.machine.commands import Command, all_commands
from cyber_inference_tui.tui.pages.machine.drawing import Drawing, Lines
from cyber_inference_tui.tui.pages.machine.sections import machine_words, sections
from cyber_inference_tui.tui.pages.machine.slowdowns import slowdowns
from cyber_inference_tui.tui.pages.models.details_pane import DetailsPane
from cyber_inference_tui.tui.pages.page import Page
from cyber_inference_tui.tui.snapshot import Snapshot
from cyber_inference_tui.tui.widgets.area import Plot
from cyber_inference_tui.tui.widgets.graph import Graph, has_shades

_MOST_RESULTS = 200
"""Results of benches that are read."""
_COMMANDS: tuple[Column[Command, RenderContext], ...] = (
    Column("command", "COMMAND", least=20, value=lambda one: one.text),
    Column("about", "CHANGES", 34, value=lambda one: one.about),
)


class Sheet(Graph):
    """Shows drawn lines, and is as high as they are; only cells that changed are painted."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"graph--busy-area", "graph--bad-area"}
    DEFAULT_CSS = """
    Sheet {
        & > .graph--busy-area { color: $warning 70%; }
        & > .graph--bad-area { color: $error 70%; }
    }
    """

    def __init__(self) -> None:
        super().__init__(id="sheet")
        self._drawn: Lines = []

    def show_lines(self, lines: Lines) -> None:
        """Show these lines."""
        if lines == self._drawn:
            return
        if len(lines) != len(self._drawn):
            self.styles.height = len(lines)
        self._drawn = lines
        self._compute()

    def _lines(self, plot: Plot, width: int, height: int) -> Lines:
        return self._drawn


class Parts(DetailsPane):
    """The parts of the machine; they scroll if they are higher than the screen."""

    KEYS_TITLE = "Parts"

    def compose(self) -> ComposeResult:
        """Compose the sheet."""
        yield Sheet()


class MachinePage(Page):
    """Shows every part of the machine with its load, its limits and its past minutes."""

    MODE: ClassVar[str] = "machine"
    CSS_PATH = "page.tcss"
    AUTO_FOCUS = "Parts"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "c",
            "copy",
            "Copy command",
            id="machine.copy",
            tooltip="copy a command that changes the power mode, a limit or the clocks",
        ),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._seen: object = None
        self._modes: list[BenchResult] = []
        """What benches have measured in the power modes."""
        self._read_in: str | None = ""
        """The mode in which that was read; empty = it has to be read."""

    def body(self) -> ComposeResult:
        """Compose the parts."""
        yield Parts(classes="body")

    def show(self, snapshot: Snapshot) -> None:
        """Draw ``snapshot``, if its sample is new."""
        parts = self.query_one(Parts)
        # One cell is air before the scroll bar.
        width, height = parts.scrollable_content_region.size
        size = (width - 1, height)
        colours = has_shades(self)
        self._read_modes_once(snapshot)
        seen = (snapshot.sample, snapshot.trend, self._modes, size, colours)
        if self._seen == seen or width < 2:
            return
        self._seen = seen
        self.refresh_bindings()
        charset = self.cyber.options.charset

        def series(measure: Measure, count: int) -> tuple[float | None, ...]:
            at = snapshot.trend[-1].at if snapshot.trend else self.cyber.options.now()
            timeline = Timeline.of(SPANS[0].seconds, count, at)
            return timeline.values(snapshot.trend, measure.reading)

        found = sections(snapshot, charset, self._modes)
        drawing = Drawing(charset, colours, series)
        parts.query_one(Sheet).show_lines(drawing.lines(found, self._head(snapshot, size[0]), size))

    def on_screen_resume(self) -> None:
        """Read what was measured again: there may be newer results."""
        self._read_in = ""
        super().on_screen_resume()

    def _read_modes_once(self, snapshot: Snapshot) -> None:
        """Read what was measured, on a machine with power modes; again after a change of it."""
        sample = snapshot.sample
        if not snapshot.live or sample is None or not sample.device.power_modes:
            return
        if self._read_in != sample.device.power_mode:
            self._read_in = sample.device.power_mode
            read = self._read_modes(tuple(sample.device.power_modes.values()))
            self.run_worker(read, group="modes", exclusive=True, exit_on_error=False)

    async def _read_modes(self, names: tuple[str, ...]) -> None:
        query = HistoryQuery(limit=_MOST_RESULTS)
        with contextlib.suppress(CyberError):
            results = await self.client.call(endpoints.BENCH_RESULTS, query=query)
            self._modes = measured_modes(results, names)
            self.redraw()

    def _head(self, snapshot: Snapshot, width: int) -> list[Texts]:
        """Return the lines above the parts: the machine, and what slows it down."""
        charset, sample = self.cyber.options.charset, snapshot.sample
        if sample is None:
            return [(("The service does not report its machine.", "note"),)]
        span = f"graphs: {SPANS[0].name}"
        words = machine_words(sample)
        between = f" {charset.dot} "
        while len(words) > 1 and cell_len(between.join(words)) > width - len(span) - 2:
            words.pop()
        line = between.join(words)
        name = line.partition(between)[0]
        rest = line.removeprefix(name).ljust(width - cell_len(name) - len(span))
        machine = ((name, "figure"), (f"{rest}{span}", "note"))
        slow = slowdowns(sample, charset)
        if not slow:
            sign = charset.status_sign(ModelStatus.LOADED)
            return [machine, ((f"{sign} ", "good"), ("No part reports throttling.", "rest"))]
        return [machine, *(((f"{charset.ascending} {text}", tone),) for text, tone in slow)]

    # Actions

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Return whether an action is available: there has to be a command."""
        if action == "copy" and not all_commands(self.cyber.snapshot.sample):
            return False
        return super().check_action(action, parameters)

    def action_copy(self) -> None:
        """Copy the command, or choose one of several."""
        from cyber_inference_tui.tui.dialogs.choice import ChoiceDialog  # noqa: PLC0415 - seldom
        from cyber_inference_tui.tui.widgets.live_table import row_of  # noqa: PLC0415

        found = all_commands(self.cyber.snapshot.sample)
        if len(found) == 1:
            self._copy(found[0].text)
            return
        context = self.cyber.options.render_context()
        rows = [row_of(one.text, one, _COMMANDS, context) for one in found]
        title = "Copy a command, to run it in a shell of the machine"
        self.cyber.push_screen(
            ChoiceDialog(title, _COMMANDS, rows, charset=context.charset), self._copy
        )

    def _copy(self, command: str | None) -> None:
        if command is not None:
            self.app.copy_to_clipboard(command)
            self.cyber.show_message(f"Copied: {command}")
