"""The dashboard's board: graphs, memory, models, requests and events, drawn from snapshots."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widgets import Static

from cyber_inference_tui.records import ModelRecord, ModelStatus
from cyber_inference_tui.terminal.charset import Charset
from cyber_inference_tui.terminal.columns import Column, RenderContext
from cyber_inference_tui.tui.pages.dashboard.memory_pools import Pool, pools
from cyber_inference_tui.tui.pages.dashboard.table import (
    EVENT_COLUMNS,
    MODEL_COLUMNS,
    REQUEST_COLUMNS,
    event_rows,
    explanation,
    model_row,
    ordered,
    ports_line,
    request_rows,
)
from cyber_inference_tui.tui.pages.dashboard.trends import Trend, gauge, history, trends
from cyber_inference_tui.tui.pages.page import update_static
from cyber_inference_tui.tui.snapshot import Snapshot
from cyber_inference_tui.tui.widgets.filter_line import FilterLine
from cyber_inference_tui.tui.widgets.graph import Graph
from cyber_inference_tui.tui.widgets.live_table import LiveTable, Row
from cyber_inference_tui.tui.widgets.stacked_bar import StackedBar

_GRAPHS = 4
_POOLS = 2


class ModelList(LiveTable):
    """The table of models, with enter in the line of keys."""

    KEYS_TITLE = "Models"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "enter",
            "choose",
            "Details",
            id="dashboard.details",
            tooltip="open the model on the Models page",
        ),
    ]


class Board(Vertical):
    """Draws itself from snapshots; actions apply to the ``selected`` model."""

    def __init__(self, charset: Charset) -> None:
        super().__init__(id="board", classes="body")
        self._charset = charset
        self._snapshot = Snapshot()
        self._notice = Content("")
        self._now: datetime | None = None
        self._selected_state: ModelStatus | None = None

    def compose(self) -> ComposeResult:
        """Compose all parts; those without values are hidden."""
        charset = self._charset
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
                yield StackedBar(charset=charset)
                yield Static(classes="room")
        yield FilterLine("part of a model's name", id="filter")
        yield ModelList(MODEL_COLUMNS, charset=charset, id="models")
        yield Static(id="explanation")
        with Horizontal(id="lists"):
            with Vertical(id="requests"):
                yield Static(classes="heading list-title")
                yield _list(REQUEST_COLUMNS, "No requests yet.", charset, "request-list")
            with Vertical(id="events"):
                yield Static(classes="heading list-title")
                yield _list(EVENT_COLUMNS, "No events yet.", charset, "event-list")

    @property
    def models(self) -> LiveTable:
        """The table of models."""
        return self.query_one("#models", LiveTable)

    @property
    def filter(self) -> FilterLine:
        """The filter for models."""
        return self.query_one(FilterLine)

    @property
    def selected(self) -> ModelRecord | None:
        """The model under the cursor."""
        key = self.models.cursor_key
        return None if key is None else self._snapshot.model(key)

    def show(self, snapshot: Snapshot, now: datetime) -> None:
        """Draw ``snapshot`` at the time ``now``."""
        self._snapshot, self._now = snapshot, now
        self.redraw()

    def redraw(self) -> None:
        """Draw the same snapshot for another size or filter."""
        if self._now is None:
            return
        self._draw_notice(self._snapshot)
        self._draw_trends(self._snapshot)
        self._draw_pools(self._snapshot)
        self._draw_models(self._snapshot, self._now)
        self._draw_lists(self._snapshot, self._now)

    def on_resize(self) -> None:
        """Redraw for the new size."""
        self.redraw()

    def show_notice(self, notice: Content) -> None:
        """Show a line above everything else in place of the ports; empty content ends that."""
        self._notice = notice
        self._draw_notice(self._snapshot)

    def _draw_notice(self, snapshot: Snapshot) -> None:
        notice = self._notice or ports_line(snapshot, self._charset)
        update_static(self.query_one("#notice", Static), notice)

    def _draw_trends(self, snapshot: Snapshot) -> None:
        charset = self._charset
        found: list[Trend | None] = [*trends(snapshot, charset)[:_GRAPHS]]
        found += [None] * (_GRAPHS - len(found))
        meters = self.query_one("#gauges").display
        for number, trend in enumerate(found):
            small = self.query_one(f"#gauge-{number}", Static)
            graph = self.query_one(f"#graph-{number}", Graph)
            small.visible = trend is not None
            if number % 2 == 0 and small.parent is not None:
                small.parent.display = trend is not None
            if graph.display != (trend is not None):
                graph.display = trend is not None
                # It gets its width with the next layout.
                self.call_after_refresh(self.redraw)
            if trend is None:
                continue
            if meters:
                content = gauge(trend, snapshot.trend, small.size.width, charset)
                update_static(small, content)
            else:
                count = graph.size.width * (2 if charset.unicode else 1)
                values = history(snapshot.trend, trend.name, count)
                graph.show(values, trend.maximum, caption=trend.caption, title=trend.title)

    def _draw_pools(self, snapshot: Snapshot) -> None:
        found: list[Pool | None] = [*pools(snapshot, self._charset)]
        found += [None] * (_POOLS - len(found))
        known = [pool for pool in found if pool is not None]
        wide = self.screen.has_class("-wide")
        rooms = {pool.title: pool.room + (pool.more if wide else "") for pool in known}
        # Align the bars of two pools.
        title = max((len(pool.title) for pool in known), default=0)
        caption = max((len(pool.caption) for pool in known), default=0)
        room = max(map(len, rooms.values()), default=0)
        for number, pool in enumerate(found):
            line = self.query_one(f"#pool-{number}")
            line.display = pool is not None
            if pool is None:
                continue
            caption_text = Content.assemble(
                (f"{pool.title.ljust(title)}  ", "$text-muted"), pool.caption.rjust(caption)
            )
            update_static(line.query_one(".caption", Static), caption_text, True)
            line.query_one(StackedBar).show(pool.parts, pool.total, pool.limit)
            tone = "$warning" if pool.full else ""
            free = Content.styled(rooms[pool.title].ljust(room), tone)
            update_static(line.query_one(".room", Static), free, True)

    def _draw_models(self, snapshot: Snapshot, now: datetime) -> None:
        context = RenderContext(self._charset, now)
        table, needle = self.models, self.filter.needle
        found = ordered(snapshot.models, needle)
        table.show([model_row(one, snapshot.sample, context) for one in found])
        table.show_empty("No name contains this text. esc shows all models." if needle else "")
        self._fit_table(table, len(found))
        self._explain()

    def _fit_table(self, table: LiveTable, rows: int) -> None:
        """Make the table as high as its rows, but at most half of the page."""
        room = self.size.height // 2 - 2
        height = max(3, min(rows + 1, room))
        if table.styles.height is None or table.styles.height.value != height:
            table.styles.height = height
            # The lists below fill the rest.
            self.call_after_refresh(self.redraw)

    def _explain(self) -> None:
        if self._now is None:
            return
        model = self.selected
        content = explanation(model, self._now, self._charset)
        update_static(self.query_one("#explanation", Static), content, True)
        state = None if model is None else model.status
        if state is not self._selected_state:
            # check_action depends on it. Refreshing the bindings costs more than drawing the page.
            self._selected_state = state
            self.screen.refresh_bindings()

    @on(LiveTable.RowHighlighted, "#models")
    def _moved(self) -> None:
        self._explain()

    @on(FilterLine.Filtered)
    def _filtered(self) -> None:
        self.redraw()

    def _draw_lists(self, snapshot: Snapshot, now: datetime) -> None:
        context = RenderContext(self._charset, now)
        needle = self.filter.needle
        narrow, events = (self.screen.has_class(one) for one in ("-narrow", "-events"))
        waiting = sum(one.position is not None for one in snapshot.active)
        counts = f"  {len(snapshot.active) - waiting} running, {waiting} waiting"
        requests, recent_events = self.query_one("#requests"), self.query_one("#events")
        for place, name in ((requests, "REQUESTS"), (recent_events, "EVENTS")):
            title = place.query_one(".list-title", Static)
            suffix = counts if snapshot.active and name == "REQUESTS" else ""
            if narrow:
                other = "REQUESTS" if name == "EVENTS" else "EVENTS"
                order = [(name, "$accent"), (other, "$text-muted")]
                (first, one), (second, two) = order if name == "REQUESTS" else order[::-1]
                text = Content.assemble((first, one), "   ", (second, two), (suffix, "not bold"))
            else:
                text = Content.assemble(name, (suffix, "not bold"))
            update_static(title, text)
        if not narrow or not events:
            rows = request_rows(snapshot.active, snapshot.finished, context, needle)
            _show_list(self.query_one("#request-list", LiveTable), rows, len(snapshot.active))
        if not narrow or events:
            rows = event_rows(snapshot.recent_events, context, needle)
            _show_list(self.query_one("#event-list", LiveTable), rows)


def _list(
    columns: Sequence[Column[Any, RenderContext]], empty: str, charset: Charset, name: str
) -> LiveTable:
    """Return a table without header and cursor."""
    text = Content.styled(empty, "$text-muted")
    table = LiveTable(columns, empty=text, header=False, cursor=False, charset=charset, id=name)
    table.can_focus = False
    return table


def _show_list(table: LiveTable, rows: Sequence[Row], least: int = 0) -> None:
    """Show as many of ``rows`` as fit, but at least ``least``."""
    table.show(rows[: max(least, table.size.height)])
