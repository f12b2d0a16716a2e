"""Logs of every process, several side by side."""

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
"""Cells that each of several logs needs; where the list leaves them less, it hides."""
_LIST = 36


class LogsPage(Page):
    """A list of logs at the left, the opened ones beside it."""

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

    def body(self) -> ComposeResult:
        """The list and the panes."""
        with Horizontal(classes="body"):
            yield LiveTable(
                COLUMNS,
                empty="There is no log yet.",
                charset=self.cyber.options.charset,
                id="sources",
            )
            with Horizontal(id="panes"):
                yield LogPane(self._wanted or SERVICE)

    def on_mount(self) -> None:
        """The log has the focus: that is what one came for."""
        self._panes[0].view.focus()

    @property
    def _panes(self) -> list[LogPane]:
        return list(self.query(LogPane))

    @property
    def _active(self) -> LogPane:
        panes = self._panes
        return next((pane for pane in panes if pane.has_focus_within), panes[0])

    # Drawing

    def show(self, snapshot: Snapshot) -> None:
        """The list follows the models; the panes follow their logs themselves."""
        self._arrange()
        seen = (snapshot.live, [(model.id, model.status) for model in snapshot.models])
        if snapshot.live and seen != self._seen:
            self._seen = seen
            self.run_worker(self._read(), group="sources", exclusive=True, exit_on_error=False)

    async def _read(self) -> None:
        try:
            self._logs = await self.client.call(endpoints.LOGS)
        except CyberError as error:
            self.cyber.tell(str(error), "error")
            return
        self._show_sources()

    def _show_sources(self) -> None:
        opened = [pane.source for pane in self._panes]
        context = self.cyber.options.render_context()
        rows = source_rows(self._logs, self.cyber.snapshot, opened, context)
        self.query_one("#sources", LiveTable).show(rows)

    def on_screen_resume(self) -> None:
        """Somebody looks again."""
        for pane in self._panes:
            pane.wake()
        self._seen = None
        super().on_screen_resume()

    def on_screen_suspend(self) -> None:
        """Nobody looks: nothing is read."""
        for pane in self._panes:
            pane.rest()

    def _arrange(self) -> None:
        """Hide the list where it takes the room that the logs need, unless it is in use."""
        panes = len(self._panes)
        crowded = panes > 1 and (self.size.width - _LIST) // panes < LEAST_PANE
        used = self.query_one("#sources").has_focus
        self.set_class(crowded and not used, "-crowded")

    @on(DescendantFocus)
    def _focus_moved(self) -> None:
        self._arrange()

    # Choosing

    def open(self, source: str) -> None:
        """Show a log, in the pane that is in use (called from other pages)."""
        if not self.is_mounted:
            self._wanted = source
            return
        shown = next((pane for pane in self._panes if pane.source == source), None)
        pane = shown or self._active
        pane.open(source)
        self.screen.set_focus(pane.view)
        self._show_sources()

    @on(LiveTable.RowChosen, "#sources")
    def _chosen(self, event: LiveTable.RowChosen) -> None:
        self.open(event.key)

    async def action_split(self) -> None:
        """Open the log under the list's cursor beside the others."""
        panes = self._panes
        source = self.query_one("#sources", LiveTable).cursor_key
        if len(panes) >= MAX_PANES:
            self.cyber.tell(f"{MAX_PANES} logs are open: x closes one.", "warning")
            return
        opened = {pane.source for pane in panes}
        if source is None or source in opened:
            source = next((log.id for log in self._logs if log.id not in opened), None)
        if source is None:
            self.cyber.tell("Every log is open already.")
            return
        pane = LogPane(source)
        await self.query_one("#panes").mount(pane)
        self.screen.set_focus(pane.view)
        self._show_sources()
        self.refresh_bindings()  # now there is one that can be closed

    async def action_close(self) -> None:
        """Close the log in use; the last one stays."""
        panes = self._panes
        if len(panes) > 1:
            await self._active.remove()
            self.screen.set_focus(self._panes[0].view)
            self._arrange()
            self._show_sources()
            self.refresh_bindings()

    def action_maximize(self) -> None:
        """The log in use alone, or all again."""
        active = self._active
        full = not self.has_class("-maximized")
        self.set_class(full, "-maximized")
        for pane in self._panes:
            pane.display = not full or pane is active
        self.screen.set_focus(active.view)

    def action_list(self) -> None:
        """Go to the list, or from it back to the log."""
        sources = self.query_one("#sources")
        if sources.has_focus:
            self.set_focus(self._active.view)
            return
        self.remove_class("-crowded")
        if self.has_class("-maximized"):
            self.action_maximize()
        # At once: the next key may be here already.
        self.set_focus(sources)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Closing needs more than one."""
        if action == "close" and self.is_mounted and len(self._panes) < 2:
            return False
        return super().check_action(action, parameters)
