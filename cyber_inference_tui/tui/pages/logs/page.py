"""The Logs page: the logs of all processes, several side by side."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.events import DescendantFocus

from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.records import LogRecord, endpoints
from cyber_inference_tui.tui.pages.logs.pane import LogPane
from cyber_inference_tui.tui.pages.logs.table import COLUMNS, SERVICE, source_rows
from cyber_inference_tui.tui.pages.page import Page
from cyber_inference_tui.tui.snapshot import Snapshot
from cyber_inference_tui.tui.widgets.live_table import LiveTable

MAX_PANES = 3
LEAST_PANE = 50
"""Least cells for a log; the list hides if it leaves less."""
_LIST = 36
_NARROW_LIST = 28


class LogsPage(Page):
    """Shows a list of logs, with the open logs beside it."""

    MODE: ClassVar[str] = "logs"
    CSS_PATH = "page.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "s", "split", "Split", id="logs.beside", tooltip="open another log beside this one"
        ),
        Binding("x", "close", "Close", id="logs.close", tooltip="close this log"),
        Binding(
            "f",
            "maximize",
            "Maximize",
            id="logs.full",
            tooltip="show only this log, or all open ones",
        ),
        Binding("b", "list", "List", id="logs.list", tooltip="switch between the list and the log"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._logs: list[LogRecord] = []
        self._seen: object = None
        self._wanted: str | None = None
        self._before: LogPane | None = None

    def body(self) -> ComposeResult:
        """Compose the list and the panes."""
        with Horizontal(classes="body"):
            yield LiveTable(
                COLUMNS,
                empty="Waiting for the service.",
                charset=self.cyber.options.charset,
                id="sources",
            )
            with Horizontal(id="panes"):
                yield LogPane(self.cyber.at, self._wanted or SERVICE)

    def on_mount(self) -> None:
        """Focus the log."""
        self._panes[0].view.focus()

    @property
    def _panes(self) -> list[LogPane]:
        return list(self.query(LogPane))

    @property
    def _active(self) -> LogPane:
        """The pane with the focus; while the list has it, the one that had it before."""
        panes = self._panes
        focused = next((pane for pane in panes if pane.has_focus_within), self._before)
        return focused if focused in panes else panes[0]

    # Drawing

    def show(self, snapshot: Snapshot) -> None:
        """Update the list after a change of the models; the panes follow their logs themselves."""
        self._arrange()
        seen = (snapshot.live, [(model.id, model.status) for model in snapshot.models])
        if snapshot.live and seen != self._seen:
            self._seen = seen
            reading = self.run_worker(
                self._read(), group="sources", exclusive=True, exit_on_error=False
            )
            if not self._logs:
                self.keep_keys(reading)

    async def _read(self) -> None:
        try:
            self._logs = await self.client.call(endpoints.LOGS)
        except CyberError as error:
            self.cyber.show_message(str(error), "error")
            return
        self._show_sources()

    def _show_sources(self) -> None:
        opened = [pane.source for pane in self._panes]
        context = self.cyber.options.render_context()
        snapshot = self.cyber.snapshot
        elsewhere = [
            LogRecord(id=name, first=0, end=0) for name in opened if snapshot.home(name)[0]
        ]
        rows = source_rows([*self._logs, *elsewhere], snapshot, opened, context)
        table = self.query_one("#sources", LiveTable)
        table.show(rows)
        if not table.has_focus:
            table.move_to(self._active.source)

    def on_screen_resume(self) -> None:
        """Read the logs while the page is in front."""
        for pane in self._panes:
            pane.view.start_reading()
        self._seen = None
        super().on_screen_resume()

    def on_screen_suspend(self) -> None:
        """Stop reading while another page is in front."""
        for pane in self._panes:
            pane.view.stop_reading()

    def _arrange(self) -> None:
        """Hide the list if the logs need its room, unless it has the focus."""
        panes = len(self._panes)
        width = _LIST if self.has_class("-wide") else _NARROW_LIST
        crowded = (self.size.width - width) // panes < LEAST_PANE
        used = self.query_one("#sources").has_focus
        self.set_class(crowded and not used, "-crowded")

    @on(DescendantFocus)
    def _focus_moved(self) -> None:
        self._arrange()
        table = self.query_one("#sources", LiveTable)
        if not table.has_focus:
            self._before = self._active
            table.move_to(self._before.source)

    # Choosing

    def open(self, source: str) -> None:
        """Show a log in the active pane; other pages call it, too."""
        if not self.is_mounted:
            self._wanted = source
            return
        shown = next((pane for pane in self._panes if pane.source == source), None)
        pane = shown or self._active
        pane.view.open(source)
        self.screen.set_focus(pane.view)
        self._show_sources()

    @on(LiveTable.RowChosen, "#sources")
    def _chosen(self, event: LiveTable.RowChosen) -> None:
        self.open(event.key)

    async def action_split(self) -> None:
        """Open the selected log beside the others; from a log the next one, if it is selected."""
        panes = self._panes
        table = self.query_one("#sources", LiveTable)
        source = table.cursor_key
        if len(panes) >= MAX_PANES:
            self.cyber.show_message(f"{MAX_PANES} logs are open. x closes one.", "warning")
            return
        opened = {pane.source for pane in panes}
        if source in opened and table.has_focus:
            self.cyber.show_message("This log is open already.")
            return
        if source is None or source in opened:
            source = next((row.key for row in table.rows if row.key not in opened), None)
        if source is None:
            self.cyber.show_message("Every log is open already.")
            return
        pane = LogPane(self.cyber.at, source)
        await self.query_one("#panes").mount(pane)
        self.screen.set_focus(pane.view)
        self._show_sources()
        self.refresh_bindings()  # a log can be closed now

    async def action_close(self) -> None:
        """Close the active log, unless it is the only one."""
        panes = self._panes
        if len(panes) > 1:
            place = panes.index(self._active)
            await panes[place].remove()
            self.screen.set_focus(self._panes[max(0, place - 1)].view)
            self._arrange()
            self._show_sources()
            self.refresh_bindings()

    def action_maximize(self) -> None:
        """Show only the active log, or all open logs."""
        active = self._active
        maximized = not self.has_class("-maximized")
        self.set_class(maximized, "-maximized")
        for pane in self._panes:
            pane.display = not maximized or pane is active
        self.screen.set_focus(active.view)

    def action_list(self) -> None:
        """Switch between the list and the log."""
        sources = self.query_one("#sources")
        if sources.has_focus:
            self.set_focus(self._active.view)
            return
        self.remove_class("-crowded")
        if self.has_class("-maximized"):
            self.action_maximize()
        # Focus it now, because the next key may be for the list.
        self.set_focus(sources)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Return whether an action is available; closing needs more than one log."""
        if action == "close" and self.is_mounted and len(self._panes) < 2:
            return False
        return super().check_action(action, parameters)
