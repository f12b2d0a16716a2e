"""The Dashboard page. It answers: can I load another model, and is anything wrong?"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content

from cyber_inference_tui.errors import CyberError, NotFoundError
from cyber_inference_tui.records import ModelRecord, endpoints, queries
from cyber_inference_tui.tui.chrome import TooSmall
from cyber_inference_tui.tui.pages.models.model_actions import (
    MODEL_ACTIONS,
    ModelActions,
    model_bindings,
)
from cyber_inference_tui.tui.snapshot import Snapshot

if TYPE_CHECKING:
    from cyber_inference_tui.tui.pages.dashboard.board import Board
    from cyber_inference_tui.tui.pages.dashboard.greeting import Greeting
    from cyber_inference_tui.tui.pages.dashboard.timeline import Span
    from cyber_inference_tui.tui.widgets.live_table import LiveTable

_RETRY = timedelta(seconds=5)
"""Time after which the past is read again if that failed."""
_BOARD_ACTIONS = MODEL_ACTIONS | {
    "box",
    "filter",
    "other_list",
    "freeze",
    "span",
    "cursor",
    "layout",
    "use_layout",
}


class DashboardPage(ModelActions):
    """Shows graphs, memory, models, requests and events, or the greeting of a first start."""

    MODE: ClassVar[str] = "dashboard"
    CSS_PATH = "page.tcss"
    AUTO_FOCUS = "#models"
    BINDINGS: ClassVar[list[BindingType]] = [
        *model_bindings("dashboard"),
        Binding(
            "slash",
            "filter",
            "Filter",
            key_display="/",
            id="dashboard.filter",
            tooltip="by part of a model's name",
        ),
        Binding(
            "left_square_bracket,right_square_bracket",
            "other_list",
            "Events",
            key_display="[ ]",
            id="dashboard.list",
            tooltip="switch between requests and events",
        ),
        Binding(
            "space",
            "freeze",
            "Freeze",
            id="dashboard.freeze",
            tooltip="hold the display still, or continue",
        ),
        Binding(
            "h",
            "span",
            "Time",
            id="dashboard.time",
            tooltip="show 5 min, 1 h, 24 h or 7 d in all graphs",
        ),
        Binding(
            "left",
            "cursor(-1)",
            "Earlier",
            show=False,
            id="dashboard.earlier",
            tooltip="read the graphs at an earlier moment",
        ),
        Binding(
            "right",
            "cursor(1)",
            "Later",
            show=False,
            id="dashboard.later",
            tooltip="read the graphs at a later moment",
        ),
        Binding(
            "plus,equals_sign",
            "layout(1)",
            "Larger graphs",
            key_display="+",
            show=False,
            id="dashboard.larger",
            tooltip="give the graphs more room",
        ),
        Binding(
            "minus",
            "layout(-1)",
            "Smaller graphs",
            key_display="-",
            show=False,
            id="dashboard.smaller",
            tooltip="give the lists more room",
        ),
        # What shift+1, 2 and 3 send on many keyboards.
        Binding(
            "exclamation_mark",
            "use_layout(2)",
            "Layout for graphs",
            key_display="!",
            show=False,
            id="dashboard.graphs",
            tooltip="large graphs",
        ),
        Binding(
            "at",
            "use_layout(1)",
            "Balanced layout",
            key_display="@",
            show=False,
            id="dashboard.balanced",
            tooltip="graphs and lists",
        ),
        Binding(
            "number_sign",
            "use_layout(0)",
            "Layout for lists",
            key_display="#",
            show=False,
            id="dashboard.lists",
            tooltip="small graphs, long lists",
        ),
        Binding(
            "escape",
            "back",
            "Back",
            show=False,
            id="dashboard.back",
            tooltip="read present values, or show all models",
        ),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._board_requested = False
        self._board: Board | None = None
        self._greeting: Greeting | None = None
        self._frozen: datetime | None = None
        self._past_due: datetime | None = None
        """The time to read the past again."""

    def body(self) -> ComposeResult:
        """Compose nothing: the board is mounted after the first frame, which is then fast."""
        yield from ()

    async def _mount_board(self) -> None:
        from cyber_inference_tui.tui.pages.dashboard.board import Board  # noqa: PLC0415 - as above

        board = Board(self.cyber.options.charset, self.kept("layout", 1))
        board.display = False
        await self.mount(board, before=self.query_one(TooSmall))
        if board.children:  # else the app is closing
            board.show_span_named(self.kept("span", ""))
            self.hide_columns()
            self._board = board
            self.redraw()

    # Drawing

    def draw(self, snapshot: Snapshot) -> None:
        """Draw, unless the display is frozen."""
        if not self._board_requested and self.cyber.painted:
            self._board_requested = True
            self.run_worker(self._mount_board(), group="board", exit_on_error=True)
        if self._frozen is None:
            super().draw(snapshot)

    def show(self, snapshot: Snapshot) -> None:
        """Draw ``snapshot``."""
        if self._board is None:
            return
        now = self.cyber.options.now()
        typing = self._board.filter.has_focus
        if needs_greeting(snapshot) and not typing:
            self._show_greeting(self._board).show(snapshot)
        else:
            self._board.show(snapshot, now, self.cyber.box_shown)
            self._switch_to(self._board)
            self._refresh_past(self._board, now)

    def _show_greeting(self, board: Board) -> Greeting:
        from cyber_inference_tui.tui.pages.dashboard.greeting import Greeting  # noqa: PLC0415 - seldom

        if self._greeting is None:
            self._greeting = Greeting(classes="body")
            self._greeting.display = False
            self.mount(self._greeting, before=board)
        self._switch_to(self._greeting)
        return self._greeting

    def _switch_to(self, widget: Board | Greeting) -> None:
        """Show one of the two and focus it."""
        if widget.display:
            return
        for other in (self._board, self._greeting):
            if other is not None:
                other.display = other is widget
        (widget if widget is self._greeting else self.query_one("#models")).focus()
        self.refresh_bindings()

    async def on_live_table_row_chosen(self, message: LiveTable.RowChosen) -> None:
        """Open the chosen model on the Models page."""
        await self.cyber.open_model(message.key)

    def on_screen_suspend(self) -> None:
        """Read nothing more while another page or a dialog is in front."""
        if self._board is not None:
            self._board.leave()

    # Actions

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Return whether an action is available now."""
        if action in _BOARD_ACTIONS and not (self._board and self._board.display):
            return False
        if action == "other_list" and not self.has_class("-narrow"):
            return False
        return super().check_action(action, parameters)

    def chosen(self) -> ModelRecord | None:
        """Return the model under the cursor."""
        return None if self._board is None else self._board.selected

    def action_filter(self) -> None:
        """Open the filter."""
        if self._board is not None:
            self._board.filter.open(self._board.models)

    def action_other_list(self) -> None:
        """Switch between requests and events."""
        self.toggle_class("-events")
        if self._board is not None:
            # The number of rows depends on the new size.
            self.call_after_refresh(self._board.redraw)

    def action_freeze(self) -> None:
        """Freeze the display, or continue."""
        if self._board is None:
            return
        if self._frozen is None:
            self._frozen = self.cyber.options.now()
            text = f"FROZEN at {self._frozen:%H:%M:%S}  space continues"
            self._board.show_notice(Content.styled(text, "bold $warning"))
            self._board.leave()
        else:
            self._frozen = None
            self._board.show_notice(Content(""))
            self.redraw()

    def action_span(self) -> None:
        """Show the next span of time in all graphs."""
        if self._board is not None:
            self._board.show_span(self._board.next_span(), None)
            self.keep(span=self._board.span.name)
            self._past_due = None
            self._refresh_past(self._board, self.cyber.options.now())

    def action_cursor(self, columns: int) -> None:
        """Move the moment at which the graphs are read."""
        if self._board is not None:
            self._board.move_cursor(columns)

    def action_layout(self, step: int) -> None:
        """Give the graphs more or less room."""
        if self._board is not None:
            self.action_use_layout(self._board.chosen_layout + step)

    def action_use_layout(self, layout: int) -> None:
        """Use one of the layouts."""
        if self._board is not None:
            self._board.use_layout(layout)
            self.keep(layout=int(self._board.chosen_layout))

    def action_back(self) -> None:
        """Leave the graphs' cursor, or clear the filter."""
        if self._board is not None and not self._board.leave_cursor():
            self._board.filter.clear_filter()

    # The past

    def _refresh_past(self, board: Board, now: datetime) -> None:
        """Read the past from time to time, while a long span is shown."""
        span = board.span
        if not span.points:
            return
        if self._past_due is None or now >= self._past_due:
            self._past_due = now + timedelta(seconds=span.refresh)
            self.run_worker(self._read_past(board, span), group="past", exclusive=True)

    async def _read_past(self, board: Board, span: Span) -> None:
        query = queries.TrendQuery(seconds=int(span.seconds), points=span.points)
        past, problem = None, ""
        try:
            past = await self.client.call(endpoints.TREND, query=query)
        except NotFoundError:
            problem = "This service does not keep the past."
        except CyberError as error:
            problem = error.message
        if board.span is span:
            board.show_span(span, past, problem)
            if problem:
                self._past_due = self.cyber.options.now() + _RETRY


def needs_greeting(snapshot: Snapshot) -> bool:
    """Return whether no request can be answered: llama-server or a model is missing."""
    if snapshot.status is None or snapshot.active_models or snapshot.elsewhere:
        return False
    return snapshot.status.llama_server.path is None or not snapshot.models
