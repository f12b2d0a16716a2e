"""The dashboard's board: graphs, memory, models, requests and events, drawn from snapshots."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any, ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widgets import Static

from cyber_inference_tui.records import ModelRecord, ModelStatus, Trend
from cyber_inference_tui.terminal.charset import Charset
from cyber_inference_tui.terminal.columns import Column, RenderContext
from cyber_inference_tui.terminal.text_width import cut, plain
from cyber_inference_tui.tui.pages.dashboard.boxes import COLUMNS as BOX_COLUMNS
from cyber_inference_tui.tui.pages.dashboard.boxes import box_rows
from cyber_inference_tui.tui.pages.dashboard.details import details
from cyber_inference_tui.tui.pages.dashboard.graphs import Graphs
from cyber_inference_tui.tui.pages.dashboard.layout import Layout, Plan, plan
from cyber_inference_tui.tui.pages.dashboard.log_tail import LogTail
from cyber_inference_tui.tui.pages.dashboard.measures import measures, scale_for
from cyber_inference_tui.tui.pages.dashboard.memory_pools import Pool, loaded, pools
from cyber_inference_tui.tui.pages.dashboard.speeds import (
    ModelShades,
    of_model,
    rate_sparks,
    speeds_elsewhere,
)
from cyber_inference_tui.tui.pages.dashboard.table import (
    EVENT_COLUMNS,
    MODEL_COLUMNS,
    REQUEST_COLUMNS,
    SPARK,
    ModelLine,
    event_rows,
    explanation,
    model_row,
    ordered,
    ports_line,
    request_rows,
    wrapped,
)
from cyber_inference_tui.tui.pages.dashboard.timeline import SPANS, Span, Timeline
from cyber_inference_tui.tui.pages.page import update_static
from cyber_inference_tui.tui.snapshot import EVERYWHERE, RemoteModel, Snapshot, model_of, on_box
from cyber_inference_tui.tui.widgets.area import spark
from cyber_inference_tui.tui.widgets.filter_line import FilterLine
from cyber_inference_tui.tui.widgets.graph import Graph
from cyber_inference_tui.tui.widgets.live_table import LiveTable, Row
from cyber_inference_tui.tui.widgets.stacked_bar import StackedBar

_POOLS = 2
_SPARK_SECONDS = 60.0
_NARROW = 70
"""Columns below which the bars of memory have no text behind them, and the models of several boxes
no column of waiting requests."""
_WIDE = 178
"""Columns from which the bars of memory have all texts."""
_EXPLANATION_MARGIN = 4
_LEAST_LISTS = 8
"""Rows for the lists with their title, and for what explains the selected model."""
_LEAST_DETAILS = 8
"""Rows of the models where the selected one's details are beside them."""


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


class Listing(LiveTable):
    """A table without header and cursor, which shows as many rows as fit."""

    def __init__(
        self, columns: Sequence[Column[Any, RenderContext]], empty: str, charset: Charset, name: str
    ) -> None:
        text = Content.styled(empty, "$text-muted")
        super().__init__(columns, empty=text, header=False, cursor=False, charset=charset, id=name)
        self.can_focus = False
        self._all: Sequence[Row] = ()
        self._least = 0

    def show_fitting(self, rows: Sequence[Row], least: int = 0) -> None:
        """Show as many of ``rows`` as fit, but at least ``least``."""
        self._all, self._least = rows, least
        self.show(rows[: max(least, self.size.height)])

    def _on_resize(self, event: events.Resize) -> None:
        # Rows that have no room any more must not widen the columns.
        self.show_fitting(self._all, self._least)
        super()._on_resize(event)
        self.post_message(Graph.Reshaped())


_LOW = 24
"""Rows of a screen."""


class Board(Vertical):
    """Draws itself from snapshots; actions apply to the ``selected`` model."""

    def __init__(self, charset: Charset, layout: int) -> None:
        super().__init__(id="board", classes="body")
        self.chosen_layout = Layout(max(Layout.LISTS, min(layout, Layout.GRAPHS)))
        self._charset = charset
        self._snapshot = Snapshot()
        self._notice = Content("")
        self._now: datetime | None = None
        self._box = EVERYWHERE
        self._selected_state: tuple[ModelStatus, bool] | None = None
        self._plan = Plan()
        self._shades = ModelShades()
        self._explained_lines = 0
        self._redraws = False
        """It will be redrawn for new sizes of its parts."""
        self._sparks: tuple[object, dict[str, str]] = (None, {})

    def compose(self) -> ComposeResult:
        """Compose all parts; those without values are hidden."""
        charset = self._charset
        with Horizontal(id="top"):
            yield Static(id="notice")
            yield Static(id="spans")
        yield Graphs(charset)
        for number in range(_POOLS):
            with Horizontal(id=f"pool-{number}", classes="pool"):
                yield Static(classes="caption")
                yield StackedBar(charset=charset)
                yield Static(classes="room")
        yield Listing(BOX_COLUMNS, "", charset, "boxes")
        yield FilterLine("part of a model's name", id="filter")
        with Horizontal(id="middle"):
            yield ModelList(MODEL_COLUMNS, charset=charset, id="models")
            yield Static(id="details")
        yield Static(id="explanation")
        with Horizontal(id="lists"):
            with Vertical(id="requests"):
                yield Static(classes="heading list-title")
                yield Listing(REQUEST_COLUMNS, "No requests yet.", charset, "request-list")
            with Vertical(id="events"):
                yield Static(classes="heading list-title")
                yield Listing(EVENT_COLUMNS, "No events yet.", charset, "event-list")
                yield Static(id="log-title", classes="heading")
                yield LogTail(charset=charset, id="log")

    def on_mount(self) -> None:
        """Name the log that is shown."""
        self.watch(self.query_one(LogTail), "source", self._show_log_title)

    def _show_log_title(self, source: str) -> None:
        name = cut(plain(source), max(0, self._plan.side - 5), self._charset.ellipsis)
        title = Content.assemble("LOG", (f"  {name}", "not bold"))
        update_static(self.query_one("#log-title", Static), title)

    def leave(self) -> None:
        """Read nothing more until the next drawing."""
        self.query_one(LogTail).follow(None)

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

    @property
    def _graphs(self) -> Graphs:
        return self.query_one(Graphs)

    def show(self, snapshot: Snapshot, now: datetime, box: str) -> None:
        """Draw ``snapshot`` at the time ``now``, with the models of ``box``."""
        self._snapshot, self._now, self._box = snapshot, now, box
        self.redraw()

    def redraw(self) -> None:
        """Draw the same snapshot for another size, filter or time."""
        if self._now is None:
            return
        self._draw_notice(self._snapshot)
        self._draw_graphs(self._snapshot, self._now)
        self._draw_boxes(self._snapshot, self._now)
        self._draw_models(self._snapshot, self._now)
        self._draw_lists(self._snapshot, self._now)

    # The graphs' time and the layout

    @property
    def span(self) -> Span:
        """The time that the graphs show."""
        return self._graphs.span

    def show_span(self, span: Span, past: Trend | None, problem: str = "") -> None:
        """Show a span of time: what the service keeps of it, or why that could not be read."""
        graphs = self._graphs
        if span is not graphs.span:
            graphs.cursor = None
        graphs.span, graphs.past, graphs.problem = span, past, problem
        self.redraw()

    def next_span(self) -> Span:
        """Return the span after the present one."""
        return SPANS[(SPANS.index(self.span) + 1) % len(SPANS)]

    def show_span_named(self, name: str) -> None:
        """Show the span of this name, if there is one."""
        for span in SPANS:
            if span.name == name:
                self.show_span(span, None)

    def move_cursor(self, columns: int) -> None:
        """Read the graphs at a moment, ``columns`` further than now."""
        if self._now is not None and self._plan.large:
            self._graphs.move_cursor(self._snapshot, columns, self._now)
            self.redraw()

    def leave_cursor(self) -> bool:
        """Read the present values again; return whether others were read."""
        if self._graphs.cursor is None:
            return False
        self._graphs.cursor = None
        self.redraw()
        return True

    def use_layout(self, layout: int) -> None:
        """Use the layout with this number, or the nearest one."""
        self.chosen_layout = Layout(max(Layout.LISTS, min(layout, Layout.GRAPHS)))
        self.redraw()

    def on_resize(self) -> None:
        """Redraw for the new size."""
        self.redraw()

    @on(Graph.Reshaped)
    def _reshaped(self) -> None:
        """Redraw once after the sizes of parts have changed."""
        if not self._redraws:
            self._redraws = True
            self.call_later(self._redraw_parts)

    def _redraw_parts(self) -> None:
        self._redraws = False
        self.redraw()

    def show_notice(self, notice: Content) -> None:
        """Show a line above everything else in place of the ports; empty content ends that."""
        self._notice = notice
        self._draw_notice(self._snapshot)

    def _draw_notice(self, snapshot: Snapshot) -> None:
        notice = self._notice or ports_line(snapshot, self._charset)
        update_static(self.query_one("#notice", Static), notice)
        # A very low screen needs the row for more than the usual span.
        usual = self.span is SPANS[0] and not notice
        self.query_one("#top").display = not (usual and self.screen.size.height < _LOW)

    def _draw_graphs(self, snapshot: Snapshot, now: datetime) -> None:
        graphs = self._graphs
        points = graphs.points(snapshot)
        found = measures(snapshot, points, self._charset, past=bool(graphs.span.points))
        seen = {name for point in points for name in point.tokens_per_second}
        shades = self._shades.keep([*sorted(seen), *(model.id for model in loaded(snapshot))])
        self._take_plan(plan(self.size.width, self.size.height, len(found), self.chosen_layout))
        graphs.show(snapshot, found, shades, now)
        update_static(self.query_one("#spans", Static), self._spans(graphs.span))
        self._draw_pools(snapshot, shades)

    def _take_plan(self, new: Plan) -> None:
        """Give the parts their places; the same again would cost a layout."""
        self._graphs.take_plan(new)
        if new == self._plan:
            return
        self._plan = new
        self.set_class(new.beside, "-beside")
        self.set_class(new.log, "-log")
        side = new.side if new.beside else None
        self.query_one("#details").styles.width = side
        self.query_one("#events").styles.width = side

    def _spans(self, shown: Span) -> Content:
        """Return the names of the spans after their key, with the present one in bold."""
        texts = [("h ", "bold $text-accent")]
        for number, span in enumerate(SPANS):
            if number:
                texts.append((f" {self._charset.dot} ", "$text-muted"))
            texts.append((span.name, "bold" if span is shown else "$text-muted"))
        return Content.assemble(*texts)

    def _draw_pools(self, snapshot: Snapshot, shades: dict[str, int]) -> None:
        found: list[Pool | None] = [*pools(snapshot, self._charset, shades)]
        found += [None] * (_POOLS - len(found))
        known = [pool for pool in found if pool is not None]
        wide = self.size.width >= _WIDE
        rooms = {pool.title: pool.room + (pool.more if wide else "") for pool in known}
        if self.size.width < _NARROW:
            rooms = dict.fromkeys(rooms, "")
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

    def _draw_boxes(self, snapshot: Snapshot, now: datetime) -> None:
        table = self.query_one("#boxes", Listing)
        context, most = RenderContext(self._charset, now), max(3, self.size.height // 7)
        rows = box_rows(snapshot, self._box, context, most)
        table.display = bool(rows)
        if table.styles.height is None or table.styles.height.value != len(rows):
            table.styles.height = len(rows)
        table.show(rows)
        # On a narrow screen, both columns would leave no room for the names.
        narrow = {"waiting"} if self.size.width < _NARROW else set()
        self.models.leave_out(narrow if snapshot.boxes else {"box"})

    def _draw_models(self, snapshot: Snapshot, now: datetime) -> None:
        context = RenderContext(self._charset, now)
        table, needle = self.models, self.filter.needle
        found = ordered(snapshot.models_of(self._box), needle)
        speeds = snapshot.speeds_now | speeds_elsewhere(snapshot)
        sparks = self._model_sparks(snapshot)
        last: dict[str, float] = {}
        for one in snapshot.finished:
            if one.tokens_per_second is not None:
                last.setdefault(model_of(one), one.tokens_per_second)
        table.show(
            [
                model_row(
                    ModelLine(one, speeds.get(one.id), last.get(one.id), sparks.get(one.id, "")),
                    context,
                )
                for one in found
            ]
        )
        table.show_empty("No name contains this text. esc shows all models." if needle else "")
        self._fit_table(table, len(found))
        self._explain()

    def _model_sparks(self, snapshot: Snapshot) -> dict[str, str]:
        """Return the speeds of the last minute as graphs of one scale, by model."""
        trend = snapshot.trend
        if self._sparks[0] is not trend and trend:
            timeline = Timeline.of(_SPARK_SECONDS, SPARK, trend[-1].at)
            recent = [point for point in trend if timeline.place(point.at) >= 0]
            names = {name for point in recent for name in point.tokens_per_second}
            highest = scale_for([max(p.tokens_per_second.values(), default=0.0) for p in recent])
            self._sparks = (
                trend,
                {
                    name: spark(
                        timeline.values(recent, partial(of_model, name)),
                        SPARK,
                        highest,
                        self._charset,
                    )
                    for name in names
                },
            )
        return self._sparks[1]

    def _fit_table(self, table: LiveTable, rows: int) -> None:
        """Make the table as high as its rows, but leave room for the lists below."""
        bars = sum(pool.display for pool in self.query(".pool"))
        rest = self._plan.rows + bars + len(self.query_one("#boxes", Listing).rows) + _LEAST_LISTS
        room = min(self.size.height // 2 - 2, self.size.height - rest)
        if self._plan.beside:
            rows, room = max(rows, _LEAST_DETAILS), self.size.height // 3
        height = max(3, min(rows + 1, room))
        middle = self.query_one("#middle")
        if middle.styles.height is None or middle.styles.height.value != height:
            middle.styles.height = height

    def _explain(self) -> None:
        if self._now is None:
            return
        model, charset = self.selected, self._charset
        if self._plan.beside:
            width = self._plan.side
            content = Content("")
            if model is not None:
                content = details(model, self._snapshot, self._now, width, charset)
            update_static(self.query_one("#details", Static), content)
        else:
            content = explanation(model, self._now, charset)
            lines = len(wrapped(content.plain, max(1, self.size.width - _EXPLANATION_MARGIN)))
            # A layout costs more than the text, whose countdown changes every second.
            layout, self._explained_lines = lines != self._explained_lines, lines
            update_static(self.query_one("#explanation", Static), content, layout)
        source = model.id if model is not None and self._plan.log else None
        self.query_one(LogTail).follow(source)
        state = None if model is None else (model.status, isinstance(model, RemoteModel))
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
        narrow, shows_events = (self.screen.has_class(one) for one in ("-narrow", "-events"))
        active = on_box(snapshot.active, self._box)
        waiting = sum(one.position is not None for one in active)
        counts = f"  {len(active) - waiting} running, {waiting} waiting"
        requests, recent_events = self.query_one("#requests"), self.query_one("#events")
        for place, name in ((requests, "REQUESTS"), (recent_events, "EVENTS")):
            title = place.query_one(".list-title", Static)
            suffix = counts if active and name == "REQUESTS" else ""
            if narrow:
                other = "REQUESTS" if name == "EVENTS" else "EVENTS"
                order = [(name, "$accent"), (other, "$text-muted")]
                (first, one), (second, two) = order if name == "REQUESTS" else order[::-1]
                text = Content.assemble((first, one), "   ", (second, two), (suffix, "not bold"))
            else:
                text = Content.assemble(name, (suffix, "not bold"))
            update_static(title, text)
        if not narrow or not shows_events:
            sparks = rate_sparks(snapshot.rates, SPARK, self._charset)
            finished = on_box(snapshot.finished, self._box)
            rows = request_rows(active, finished, context, needle, sparks)
            self.query_one("#request-list", Listing).show_fitting(rows, len(active))
        if not narrow or shows_events:
            table = self.query_one("#event-list", Listing)
            width, height = table.scrollable_content_region.size
            own = self._box in {EVERYWHERE, ""}
            recent = snapshot.recent_events if own else ()
            empty = "No events yet." if own else "Only events of this box are known here."
            table.show_empty(Content.styled(empty, "$text-muted"))
            table.show_fitting(event_rows(recent, context, needle, width=width, most=height))
