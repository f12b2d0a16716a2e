"""The first page: can another model be loaded, and is anything wrong?"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widgets import Static

from cyber_inference_tui.records import ModelRecord, ModelStatus
from cyber_inference_tui.tui.charset import Charset
from cyber_inference_tui.tui.pages.dashboard_memory import Pool, pools
from cyber_inference_tui.tui.pages.dashboard_rows import (
    EVENT_COLUMNS,
    MODEL_COLUMNS,
    REQUEST_COLUMNS,
    event_rows,
    explanation,
    model_row,
    ordered,
    request_rows,
)
from cyber_inference_tui.tui.pages.dashboard_trends import Trend, gauge, history, trends
from cyber_inference_tui.tui.pages.greeting import Greeting, needs_greeting
from cyber_inference_tui.tui.pages.page import Page, say
from cyber_inference_tui.tui.snapshot import Link, Snapshot
from cyber_inference_tui.tui.text_cells import plain
from cyber_inference_tui.tui.widgets.columns import Column
from cyber_inference_tui.tui.widgets.filter_line import FilterLine
from cyber_inference_tui.tui.widgets.graph import Graph
from cyber_inference_tui.tui.widgets.meter import Meter
from cyber_inference_tui.tui.widgets.table import LiveTable, Row

_GRAPHS = 4
_POOLS = 2
_ON_BOARD = {"load", "unload", "pin", "log", "filter", "other_list", "freeze"}
_BY_STATUS = {
    "load": {ModelStatus.UNLOADED, ModelStatus.FAILED},
    "unload": {ModelStatus.LOADED, ModelStatus.LOADING, ModelStatus.QUEUED},
    "pin": set(ModelStatus),
    "log": set(ModelStatus),
}


class ModelList(LiveTable):
    """The models, where enter is told in the footer."""

    KEYS_TITLE = "Models"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "choose", "Details", id="dashboard.details", tooltip="all about it"),
    ]


class DashboardPage(Page):
    """Graphs, memory, models, requests and events; the greeting while something is missing."""

    MODE: ClassVar[str] = "dashboard"
    CSS_PATH = "dashboard.tcss"
    AUTO_FOCUS = "#models"
    STEERING: ClassVar[frozenset[str]] = frozenset({"load", "unload", "pin"})
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("l", "load", "Load", id="dashboard.load", tooltip="load the selected model"),
        Binding("u", "unload", "Unload", id="dashboard.unload", tooltip="unload it"),
        Binding("p", "pin", "Pin", id="dashboard.pin", tooltip="keep it loaded, or no longer"),
        Binding("o", "log", "Log", id="dashboard.log", tooltip="the log of its server"),
        Binding("slash", "filter", "Filter", key_display="/", id="dashboard.filter"),
        Binding(
            "left_square_bracket,right_square_bracket",
            "other_list",
            "Events",
            key_display="[ ]",
            id="dashboard.list",
            tooltip="requests or events",
        ),
        Binding("space", "freeze", "Freeze", id="dashboard.freeze", tooltip="hold the display"),
        Binding("escape", "back", "Show all", show=False, id="dashboard.back"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._frozen: datetime | None = None
        self._shown = Snapshot()
        self._moment: datetime | None = None
        self._selected_state: ModelStatus | None = None

    def body(self) -> ComposeResult:
        """The greeting, and what takes its place once there is something to show."""
        charset = self.cyber.launch.charset
        yield Greeting(classes="body")
        with Vertical(id="board", classes="body"):
            yield Static(id="notice")
            with Horizontal(id="graphs"):
                for number in range(_GRAPHS):
                    yield Graph("", lines=2, charset=charset, id=f"graph-{number}")
            with Vertical(id="gauges"):
                for number in range(0, _GRAPHS, 2):
                    with Horizontal(classes="pair"):
                        yield Static(id=f"gauge-{number}", classes="gauge")
                        yield Static(id=f"gauge-{number + 1}", classes="gauge")
            for number in range(_POOLS):
                with Horizontal(id=f"pool-{number}", classes="pool"):
                    yield Static(classes="caption")
                    yield Meter(charset=charset)
                    yield Static(classes="room")
            yield FilterLine("show only models whose name has this in it", id="filter")
            yield ModelList(MODEL_COLUMNS, charset=charset, id="models")
            yield Static(id="explanation")
            with Horizontal(id="lists"):
                with Vertical(id="requests"):
                    yield Static(classes="heading list-title")
                    yield _list(REQUEST_COLUMNS, "No request yet.", charset, "request-list")
                with Vertical(id="events"):
                    yield Static(classes="heading list-title")
                    yield _list(EVENT_COLUMNS, "Nothing happened yet.", charset, "event-list")

    # Drawing

    def draw(self, snapshot: Snapshot) -> None:
        """A frozen page draws nothing at all."""
        if self._frozen is None:
            super().draw(snapshot)

    def show(self, snapshot: Snapshot) -> None:
        """Draw what ``snapshot`` tells."""
        if snapshot.link is Link.CONNECTING:
            return
        self._shown = snapshot
        self._moment = self.cyber.launch.now()
        self._draw_all()

    def _draw_all(self) -> None:
        snapshot, now = self._shown, self._moment or self.cyber.launch.now()
        greet = needs_greeting(snapshot)
        greeting, board = self.query_one(Greeting), self.query_one("#board")
        if greeting.display != greet or board.display == greet:
            greeting.display, board.display = greet, not greet
            (greeting if greet else self.query_one("#models")).focus()
            self.refresh_bindings()
        if greet:
            greeting.show(snapshot)
            return
        self._draw_trends(snapshot)
        self._draw_pools(snapshot)
        self._draw_models(snapshot, now)
        self._draw_lists(snapshot, now)

    def _draw_trends(self, snapshot: Snapshot) -> None:
        charset = self.cyber.launch.charset
        found: list[Trend | None] = [*trends(snapshot, charset)[:_GRAPHS]]
        found += [None] * (_GRAPHS - len(found))
        meters = self.query_one("#gauges").display
        for number, trend in enumerate(found):
            small = self.query_one(f"#gauge-{number}", Static)
            graph = self.query_one(f"#graph-{number}", Graph)
            small.visible = trend is not None
            if graph.display != (trend is not None):
                graph.display = trend is not None
                # It has no width yet.
                self.call_after_refresh(self._draw_all)
            if trend is None:
                continue
            if meters:
                content = gauge(trend, snapshot.trend, small.size.width, charset)
                say(small, content)
            else:
                count = graph.size.width * (2 if charset.unicode else 1)
                values = history(snapshot.trend, trend.name, count)
                graph.show(values, trend.maximum, caption=trend.caption, title=trend.title)

    def _draw_pools(self, snapshot: Snapshot) -> None:
        found: list[Pool | None] = [*pools(snapshot, self.cyber.launch.charset)]
        found += [None] * (_POOLS - len(found))
        told = [pool for pool in found if pool is not None]
        wide = self.has_class("-wide")
        rooms = {pool.title: pool.room + (pool.more if wide else "") for pool in told}
        # Two bars below each other begin and end at the same cells.
        title = max((len(pool.title) for pool in told), default=0)
        caption = max((len(pool.caption) for pool in told), default=0)
        room = max(map(len, rooms.values()), default=0)
        for number, pool in enumerate(found):
            line = self.query_one(f"#pool-{number}")
            line.display = pool is not None
            if pool is None:
                continue
            said = Content.assemble(
                (f"{pool.title.ljust(title)}  ", "$text-muted"), pool.caption.rjust(caption)
            )
            say(line.query_one(".caption", Static), said, True)
            line.query_one(Meter).show(pool.parts, pool.total, pool.limit)
            tone = "$warning" if pool.full else ""
            free = Content.styled(rooms[pool.title].ljust(room), tone)
            say(line.query_one(".room", Static), free, True)

    def _draw_models(self, snapshot: Snapshot, now: datetime) -> None:
        charset = self.cyber.launch.charset
        table = self.query_one("#models", LiveTable)
        needle = self.query_one(FilterLine).needle
        found = ordered(snapshot.models, needle)
        table.show([model_row(one, snapshot.sample, now, charset) for one in found])
        table.show_empty("No model has this in its name. esc shows all." if needle else "")
        self._fit_table(table, len(found))
        self._explain()

    def _fit_table(self, table: LiveTable, rows: int) -> None:
        """As high as its rows, as long as half of the page is left for the rest."""
        room = self.query_one("#board").size.height // 2 - 2
        height = max(3, min(rows + 1, room))
        if table.styles.height is None or table.styles.height.value != height:
            table.styles.height = height
            # The lists below fill what is left.
            self.call_after_refresh(self._draw_all)

    def _explain(self) -> None:
        now = self._moment or self.cyber.launch.now()
        model = self._selected()
        content = explanation(model, now, self.cyber.launch.charset)
        say(self.query_one("#explanation", Static), content, True)
        state = None if model is None else model.status
        if state is not self._selected_state:
            # What check_action goes by: to draw the footer anew costs more than all the rest.
            self._selected_state = state
            self.refresh_bindings()

    def _draw_lists(self, snapshot: Snapshot, now: datetime) -> None:
        charset = self.cyber.launch.charset
        needle = self.query_one(FilterLine).needle
        narrow, events = self.has_class("-narrow"), self.has_class("-events")
        waiting = sum(one.position is not None for one in snapshot.active)
        counts = f"  {len(snapshot.active) - waiting} running, {waiting} waiting"
        requests, happenings = self.query_one("#requests"), self.query_one("#events")
        for place, name in ((requests, "REQUESTS"), (happenings, "EVENTS")):
            title = place.query_one(".list-title", Static)
            told = counts if snapshot.active and name == "REQUESTS" else ""
            if narrow:
                other = "REQUESTS" if name == "EVENTS" else "EVENTS"
                order = [(name, "$accent"), (other, "$text-muted")]
                (first, one), (second, two) = order if name == "REQUESTS" else order[::-1]
                text = Content.assemble((first, one), "   ", (second, two), (told, "not bold"))
            else:
                text = Content.assemble(name, (told, "not bold"))
            say(title, text)
        if not narrow or not events:
            rows = request_rows(snapshot.active, snapshot.finished, now, charset, needle)
            _show_list(self.query_one("#request-list", LiveTable), rows, len(snapshot.active))
        if not narrow or events:
            rows = event_rows(snapshot.happenings, now, charset, needle)
            _show_list(self.query_one("#event-list", LiveTable), rows)

    def _selected(self) -> ModelRecord | None:
        key = self.query_one("#models", LiveTable).cursor_key
        return None if key is None else self._shown.model(key)

    @on(LiveTable.RowHighlighted, "#models")
    def _moved(self) -> None:
        self._explain()

    @on(LiveTable.RowChosen, "#models")
    async def _chosen(self, message: LiveTable.RowChosen) -> None:
        await self.cyber.open_model(message.key)

    @on(FilterLine.Filtered)
    def _filtered(self) -> None:
        self._draw_all()

    # Actions

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """What can be done with the selected model."""
        if not self.is_mounted:
            return super().check_action(action, parameters)
        if action in _ON_BOARD and not self.query_one("#board").display:
            return False
        if action == "other_list" and not self.has_class("-narrow"):
            return False
        if action in _BY_STATUS:
            model = self._selected()
            if model is None or model.status not in _BY_STATUS[action]:
                return False
        return super().check_action(action, parameters)

    def action_load(self) -> None:
        """Load the selected model."""
        if (model := self._selected()) is not None:
            self.cyber.do(self.client.load(model.id, wait=False))

    def action_unload(self) -> None:
        """Unload the selected model; asks where requests would be cut off or waited for."""
        model = self._selected()
        if model is None:
            return
        if model.in_flight:
            self._ask_unload(model)
        else:
            self.cyber.do(self.client.unload(model.id))

    def _ask_unload(self, model: ModelRecord) -> None:
        from cyber_inference_tui.tui.dialogs.question import Answer, Question  # noqa: PLC0415

        def answered(value: str | None) -> None:
            if value in {"wait", "now"}:
                self.cyber.do(self.client.unload(model.id, force=value == "now"))

        number = model.in_flight
        self.cyber.push_screen(
            Question(
                f"Unload {plain(model.id, limit=60)}?",
                f"{number} request{'' if number == 1 else 's'} of it "
                f"{'is' if number == 1 else 'are'} being answered.",
                (
                    Answer("keep", "k", "Keep it"),
                    Answer("wait", "w", "Unload it after them"),
                    Answer("now", "n", "Cut them off", grave=True),
                ),
            ),
            answered,
        )

    def action_pin(self) -> None:
        """Keep the selected model loaded, or no longer."""
        if (model := self._selected()) is not None:
            self.cyber.do(self.client.pin(model.id, not model.pinned))

    async def action_log(self) -> None:
        """Open the log of the selected model's server."""
        if (model := self._selected()) is not None:
            await self.cyber.open_log(model.id)

    def action_filter(self) -> None:
        """Let a part of a model's name be typed."""
        self.query_one(FilterLine).open(self.query_one("#models"))

    def action_other_list(self) -> None:
        """Show the events instead of the requests, or the other way round."""
        self.toggle_class("-events")
        self._draw_all()

    def action_freeze(self) -> None:
        """Hold the display, or let it go on."""
        notice = self.query_one("#notice", Static)
        if self._frozen is None:
            self._frozen = self.cyber.launch.now()
            told = f"FROZEN at {self._frozen:%H:%M:%S}  space lets it go on"
            say(notice, Content.styled(told, "bold $warning"))
        else:
            self._frozen = None
            say(notice, Content(""))
            self.redraw()

    def action_back(self) -> None:
        """Show all models again."""
        self.query_one(FilterLine).clear_filter()


def _list(columns: Sequence[Column], empty: str, charset: Charset, name: str) -> LiveTable:
    """A list to look at."""
    told = Content.styled(empty, "$text-muted")
    table = LiveTable(columns, empty=told, header=False, cursor=False, charset=charset, id=name)
    table.can_focus = False
    return table


def _show_list(table: LiveTable, rows: Sequence[Row], least: int = 0) -> None:
    """Show as many of ``rows`` as there is room for, but at least so many."""
    table.show(rows[: max(least, table.size.height)])
