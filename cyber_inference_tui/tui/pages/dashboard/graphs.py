"""The dashboard's graphs: tokens per second by model, and the machine, over one span of time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from rich.cells import cell_len
from textual.app import ComposeResult
from textual.containers import Container, Horizontal, Vertical
from textual.widgets import Static

from cyber_inference_tui.records import Trend, TrendMark, TrendPoint
from cyber_inference_tui.terminal.charset import Charset
from cyber_inference_tui.terminal.text_width import cut, plain
from cyber_inference_tui.tui.pages.dashboard.gauges import gauge, gauge_rooms, gauges
from cyber_inference_tui.tui.pages.dashboard.layout import Plan
from cyber_inference_tui.tui.pages.dashboard.measures import Measure
from cyber_inference_tui.tui.pages.dashboard.speeds import Speeds, speeds
from cyber_inference_tui.tui.pages.dashboard.timeline import (
    SPANS,
    Texts,
    Timeline,
    axis,
    hold_of,
    mark_texts,
    marks_of,
)
from cyber_inference_tui.tui.pages.page import update_static
from cyber_inference_tui.tui.snapshot import Snapshot
from cyber_inference_tui.tui.widgets.area import MACHINE_SHADE, Plot, shade_sign
from cyber_inference_tui.tui.widgets.graph import Graph, has_shades
from cyber_inference_tui.units import number_text, speed_text

_MOST = 12
"""Small graphs."""
_GAUGES = 6
_GAUGE_GAP = 2
_SCALE_CELLS = 5
_NAME = 28
_SPEED_CELLS = 4
_LEGEND = 10
"""Cells of a model in the legend beside its name."""


Marks = tuple[tuple[int, tuple[str, ...]], ...]


class Graphs(Container):
    """Draws the plan's graphs from snapshots, or from the past that the service keeps.

    A cursor is a moment; all graphs then show the values of that moment.
    """

    def __init__(self, charset: Charset) -> None:
        super().__init__(id="graphs")
        self._charset = charset
        self._series: dict[Any, Any] = {}
        self._source: tuple[object, ...] = ()
        self._plan = Plan()
        self.span = SPANS[0]
        self.past: Trend | None = None
        """The answer of the service for a long span; ``None`` while it is read."""
        self.problem = ""
        """Why the past could not be read."""
        self.cursor: datetime | None = None

    def compose(self) -> ComposeResult:
        """Compose all graphs; those without values are hidden."""
        yield Graph(charset=self._charset, id="speed")
        with Container(id="small"):
            for number in range(_MOST):
                yield Graph(charset=self._charset, id=f"graph-{number}", classes="small")
        with Vertical(id="gauges"):
            for number in range(0, _GAUGES, 2):
                with Horizontal(classes="pair"):
                    yield Static(id=f"gauge-{number}", classes="gauge")
                    yield Static(id=f"gauge-{number + 1}", classes="gauge")

    # The time

    def points(self, snapshot: Snapshot) -> Sequence[TrendPoint]:
        """Return the points of the present span."""
        if not self.span.points:
            return snapshot.trend
        return () if self.past is None else self.past.points

    def _marks(self, snapshot: Snapshot) -> tuple[TrendMark, ...]:
        """Return the marks of the present span, newest first."""
        if not self.span.points:
            return marks_of(snapshot.recent_events)
        return () if self.past is None else self.past.marks[::-1]

    def _timeline(self, snapshot: Snapshot, count: int, now: datetime) -> Timeline:
        points = self.points(snapshot)
        at = points[-1].at if points else now
        return Timeline.of(self.span.seconds, count, at)

    def move_cursor(self, snapshot: Snapshot, columns: int, now: datetime) -> None:
        """Move the cursor by columns of the large graph, at first from its right end."""
        timeline = self._timeline(snapshot, self.query_one("#speed", Graph).plot_width, now)
        if not timeline.count:
            return
        last = timeline.count - 1
        place = last if self.cursor is None else timeline.place(self.cursor) + columns
        self.cursor = timeline.moment(max(0, min(place, last)))

    # Drawing

    def take_plan(self, plan: Plan) -> None:
        """Give the graphs their places."""
        if plan == self._plan:
            return
        self._plan = plan
        large, small = self.query_one("#speed"), self.query_one("#small")
        self.set_class(plan.beside, "-beside")
        self.set_class(plan.gauges > 0, "-gauges")
        large.display = plan.large > 0
        large.styles.height = plan.large
        small.display = plan.small > 0
        small.styles.width = plan.side if plan.beside else "1fr"
        small.styles.grid_size_columns = plan.across
        small.styles.grid_rows = str(max(1, plan.small))
        self.query_one("#gauges").display = plan.gauges > 0

    def show(
        self,
        snapshot: Snapshot,
        found: Sequence[Measure],
        shades: dict[str, int],
        now: datetime,
    ) -> None:
        """Draw ``snapshot`` with the measures ``found``."""
        source = (snapshot.trend, snapshot.finished, self.past, self.span)
        if any(a is not b for a, b in zip(source, self._source, strict=False)) or not self._source:
            self._source, self._series = source, {}
        if self._plan.large:
            self._draw_speeds(snapshot, shades, now)
        shown = found[: min(self._plan.shown, _MOST)] if self._plan.small else []
        for number in range(_MOST):
            graph = self.query_one(f"#graph-{number}", Graph)
            graph.display = number < len(shown)
            if number < len(shown):
                self._draw_measure(graph, shown[number], snapshot, now)
        if self._plan.gauges:
            self._draw_gauges(snapshot, found, now)

    def _values(
        self, measure: Measure, timeline: Timeline, snapshot: Snapshot
    ) -> tuple[float | None, ...]:
        """Return the series of a measure, computed once for each sample."""
        key = (measure.name, timeline, len(measure.points or ()))
        if key not in self._series:
            points = self.points(snapshot) if measure.points is None else measure.points
            hold = 0.0 if measure.points is not None else self._hold()
            self._series[key] = timeline.values(points, measure.reading, hold)
        known: tuple[float | None, ...] = self._series[key]
        return known

    def _at(
        self, moment: datetime, measure: Measure, snapshot: Snapshot, now: datetime
    ) -> float | None:
        """Return the value at a moment.

        The large graph has the shortest periods; in a smaller one the last may be incomplete.
        """
        timeline = self._timeline(snapshot, self.query_one("#speed", Graph).plot_width, now)
        values, place = self._values(measure, timeline, snapshot), timeline.place(moment)
        return values[place] if 0 <= place < len(values) else None

    def _hold(self) -> float:
        return hold_of(0.0 if self.past is None or not self.span.points else self.past.step_seconds)

    def _draw_measure(
        self, graph: Graph, measure: Measure, snapshot: Snapshot, now: datetime
    ) -> None:
        width = graph.plot_width
        timeline = self._timeline(snapshot, width, now)
        values = self._values(measure, timeline, snapshot)
        figure, notes, place = measure.figure(self._charset), measure.notes, None
        if self.cursor is not None:
            place = timeline.place(self.cursor)
            value = self._at(self.cursor, measure, snapshot, now)
            figure, notes = self._charset.known(value, measure.text), ()
        graph.set_class(measure.tone == "busy", "-busy")
        graph.set_class(measure.tone == "bad", "-bad")
        graph.show(
            Plot(
                series=(values,),
                shades=(MACHINE_SHADE,) if not measure.tone else (0,),
                minimum=measure.minimum,
                maximum=measure.maximum,
                head=_head(measure, figure, notes, width),
                tail=((measure.scale, "note"),) if measure.scale else (),
                marks=self._mark_lines(timeline, snapshot),
                cursor=place,
            )
        )

    def _mark_places(self, timeline: Timeline, snapshot: Snapshot) -> Marks:
        """Return the columns and texts of the marks, newest first."""
        return tuple(
            (place, mark_texts(mark, self._charset))
            for mark in self._marks(snapshot)
            if 0 <= (place := timeline.place(mark.at)) < timeline.count
        )

    def _mark_lines(self, timeline: Timeline, snapshot: Snapshot) -> Marks:
        """Return the marks of a small graph; those that move every few seconds are left out."""
        if not self.span.points:
            return ()
        return tuple((column, ()) for column, _ in self._mark_places(timeline, snapshot))

    def _draw_speeds(self, snapshot: Snapshot, shades: dict[str, int], now: datetime) -> None:
        graph = self.query_one("#speed", Graph)
        timeline = self._timeline(snapshot, graph.plot_width, now)
        key = ("speeds", timeline, tuple(shades.items()))
        if key not in self._series:
            self._series[key] = speeds(self.points(snapshot), timeline, shades, self._hold())
        found: Speeds = self._series[key]
        place = None if self.cursor is None else timeline.place(self.cursor)
        figures = snapshot.speeds_now if place is None else found.at(place)
        ends = (0, found.maximum / 2, found.maximum)
        scale = tuple(f"{end:,g}".ljust(_SCALE_CELLS) for end in ends)
        below = None
        if self._plan.axis:
            below = axis(timeline, self.span, self._marks(snapshot), self._charset, now.tzinfo)
        graph.show(
            Plot(
                series=found.series,
                shades=tuple(shades.get(name, 0) for name in found.models),
                maximum=found.maximum,
                head=self._speed_texts(figures, shades, now, graph.size.width),
                scale=scale,
                axis=below,
                marks=self._mark_places(timeline, snapshot),
                short_marks=not self.span.points,
                cursor=place,
            )
        )

    def _speed_texts(
        self, figures: dict[str, float], shades: dict[str, int], now: datetime, width: int
    ) -> Texts:
        charset = self._charset
        texts = [("TOKENS/S  ", "heading"), (_speed(sum(figures.values())), "figure")]
        if self.cursor is not None:
            moment = self.cursor.astimezone(now.tzinfo)
            texts.append((f"  at {moment:{self.span.moment}}", "busy"))
        if self.span.points and self.problem:
            texts.append((f"  {self.problem}", "busy"))
        elif self.span.points and self.past is None:
            texts.append((f"  reading {charset.dots}", "note"))
        # The names share the room that is left.
        room = width - _length(texts)
        names = min(_NAME, room // max(1, len(figures)) - _LEGEND)
        colours = has_shades(self)
        # In the order of the area, which does not change with the speeds.
        for name in sorted(figures, key=lambda name: shades.get(name, 0)) if names > 3 else ():
            shade = shades.get(name, 0)
            sign = shade_sign(shade, charset, colours=colours)
            texts.append((f"   {sign} ", f"shade-{shade}"))
            texts.append((f"{cut(plain(name), names, charset.ellipsis)} ", "title"))
            texts.append((_speed(figures[name]).rjust(_SPEED_CELLS), "note"))
        return tuple(texts)

    def _draw_gauges(self, snapshot: Snapshot, found: Sequence[Measure], now: datetime) -> None:
        past = bool(self.span.points)
        shown = gauges(found, snapshot, lines=self._plan.gauges, past=past)
        width = self.size.width // 2 - _GAUGE_GAP
        for number in range(_GAUGES):
            small = self.query_one(f"#gauge-{number}", Static)
            small.visible = number < len(shown)
            if number % 2 == 0 and small.parent is not None:
                small.parent.display = number < len(shown)
            if number >= len(shown):
                continue
            timeline = self._timeline(snapshot, gauge_rooms(width)[1], now)
            measure = shown[number]
            values = self._values(measure, timeline, snapshot)
            if self.cursor is not None:
                measure = replace(measure, value=self._at(self.cursor, measure, snapshot, now))
            update_static(small, gauge(measure, values, width, self._charset))


def _head(measure: Measure, figure: str, notes: Sequence[str], width: int) -> Texts:
    """Return the title of a small graph, with the notes that fit."""
    texts = [(f"{measure.title}  ", "title"), (figure, measure.tone or "figure")]
    for note in notes:
        text = f"  {note}"
        if _length(texts) + cell_len(text) <= width:
            texts.append((text, "note"))
    return tuple(texts)


def _length(texts: Iterable[tuple[str, str]]) -> int:
    return sum(cell_len(text) for text, _ in texts)


def _speed(speed: float) -> str:
    return speed_text(speed) if 0 < speed < 10 else number_text(speed)
