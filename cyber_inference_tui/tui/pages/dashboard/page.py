"""The first page: can another model be loaded, and is anything wrong?"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content

from cyber_inference_tui.records import ModelRecord
from cyber_inference_tui.tui.chrome import TooSmall
from cyber_inference_tui.tui.pages.models.model_actions import ModelActions, model_bindings
from cyber_inference_tui.tui.snapshot import Link, Snapshot

if TYPE_CHECKING:
    from cyber_inference_tui.tui.pages.dashboard.board import Board
    from cyber_inference_tui.tui.pages.dashboard.greeting import Greeting
    from cyber_inference_tui.tui.widgets.live_table import LiveTable

_ON_BOARD = {"load", "unload", "pin", "log", "filter", "other_list", "freeze"}


class DashboardPage(ModelActions):
    """Graphs, memory, models, requests and events; the greeting while something is missing."""

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
        Binding("escape", "back", "Show all", show=False, id="dashboard.back"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._furnished = False
        self._board: Board | None = None
        self._greeting: Greeting | None = None
        self._frozen: datetime | None = None

    def body(self) -> ComposeResult:
        """Nothing: the first frame does not wait for what has nothing to show yet."""
        yield from ()

    async def _furnish(self) -> None:
        from cyber_inference_tui.tui.pages.dashboard.board import Board  # noqa: PLC0415 - as above

        board = Board(self.cyber.options.charset)
        board.display = False
        await self.mount(board, before=self.query_one(TooSmall))
        if board.children:  # else the app is being left
            self._board = board
            self.redraw()

    # Drawing

    def draw(self, snapshot: Snapshot) -> None:
        """A frozen page draws nothing at all."""
        if not self._furnished and self.cyber.painted:
            self._furnished = True
            self.run_worker(self._furnish(), group="furnish", exit_on_error=True)
        if self._frozen is None:
            super().draw(snapshot)

    def show(self, snapshot: Snapshot) -> None:
        """Draw what ``snapshot`` tells."""
        if snapshot.link is Link.CONNECTING or self._board is None:
            return
        now = self.cyber.options.now()
        if needs_greeting(snapshot):
            self._greet(self._board).show(snapshot)
        else:
            self._board.show(snapshot, now)
            self._turn_to(self._board)

    def _greet(self, board: Board) -> Greeting:
        from cyber_inference_tui.tui.pages.dashboard.greeting import Greeting  # noqa: PLC0415 - seldom

        if self._greeting is None:
            self._greeting = Greeting(classes="body")
            self._greeting.display = False
            self.mount(self._greeting, before=board)
        self._turn_to(self._greeting)
        return self._greeting

    def _turn_to(self, place: Board | Greeting) -> None:
        """Show one of the two, with the focus in it."""
        if place.display:
            return
        for other in (self._board, self._greeting):
            if other is not None:
                other.display = other is place
        (place if place is self._greeting else self.query_one("#models")).focus()
        self.refresh_bindings()

    async def on_live_table_row_chosen(self, message: LiveTable.RowChosen) -> None:
        """All about the chosen model is on the models page."""
        await self.cyber.open_model(message.key)

    # Actions

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """What can be done with the selected model."""
        if action in _ON_BOARD and not (self._board and self._board.display):
            return False
        if action == "other_list" and not self.has_class("-narrow"):
            return False
        return super().check_action(action, parameters)

    def chosen(self) -> ModelRecord | None:
        """The model under the cursor."""
        return None if self._board is None else self._board.selected

    def action_filter(self) -> None:
        """Let a part of a model's name be typed."""
        if self._board is not None:
            self._board.filter.open(self._board.models)

    def action_other_list(self) -> None:
        """Show the events instead of the requests, or the other way round."""
        self.toggle_class("-events")
        if self._board is not None:
            # How many rows it shows is known when it has its room.
            self.call_after_refresh(self._board.redraw)

    def action_freeze(self) -> None:
        """Hold the display, or let it go on."""
        if self._board is None:
            return
        if self._frozen is None:
            self._frozen = self.cyber.options.now()
            told = f"FROZEN at {self._frozen:%H:%M:%S}  space continues"
            self._board.tell(Content.styled(told, "bold $warning"))
        else:
            self._frozen = None
            self._board.tell(Content(""))
            self.redraw()

    def action_back(self) -> None:
        """Show all models again."""
        if self._board is not None:
            self._board.filter.clear_filter()


def needs_greeting(snapshot: Snapshot) -> bool:
    """Something is missing without which nothing can be asked: a llama-server, or any model."""
    if snapshot.status is None or snapshot.awake:
        return False
    return snapshot.status.llama_server.path is None or not snapshot.models
