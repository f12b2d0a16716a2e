"""The time that graphs show: its periods, the axis below, its marks and the cursor's moment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo

from cyber_inference_tui.records import ModelStatus, RecentEvent, TrendMark, TrendPoint
from cyber_inference_tui.records.trend import MarkKind
from cyber_inference_tui.terminal.charset import Charset
from cyber_inference_tui.terminal.text_width import cut, plain
from cyber_inference_tui.units import age_text

_LEAST_STEP = 2.0
_LONGEST_HOLD = 15.0
"""Seconds for which a value fills a gap; the service samples less often while it is idle."""
_MARK_NAMES = (24, 14, 8)
_MARK_KINDS: tuple[MarkKind, ...] = ("loaded", "unloaded", "failed", "throttled")
_MARK_STYLES = {"loaded": "good", "unloaded": "note", "failed": "bad", "throttled": "busy"}

Reading = Callable[[TrendPoint], float | None]
Texts = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A span of time that graphs show."""

    name: str
    seconds: float
    points: int = 0
    """The periods to ask the service for; 0 = those that the app has anyway."""
    refresh: float = 0.0
    """Seconds after which they are read again."""
    tick: float
    """Seconds between two labels of the axis, if there is room."""
    form: str = ""
    """The form of a label; without it, labels are ages."""
    moment: str = "%a %H:%M"
    """The form of the cursor's moment."""


SPANS = (
    Span(name="5 min", seconds=300, tick=60, moment="%H:%M:%S"),
    Span(
        name="1 h",
        seconds=3600,
        points=180,
        refresh=30,
        tick=600,
        form="%H:%M",
        moment="%H:%M",
    ),
    Span(name="24 h", seconds=86400, points=288, refresh=150, tick=10800, form="%H:%M"),
    Span(name="7 d", seconds=604800, points=336, refresh=900, tick=86400, form="%a"),
)


@dataclass(frozen=True, slots=True)
class Timeline:
    """``count`` periods of ``step`` seconds, up to the period number ``end`` since the epoch.

    Periods are aligned to the clock, and only complete ones are shown. A graph then moves every
    few seconds instead of with every sample, which saves most of the bytes on a slow line.
    """

    step: float
    end: int
    count: int

    @classmethod
    def of(cls, seconds: float, count: int, at: datetime) -> Timeline:
        """Return ``seconds`` up to ``at`` in ``count`` periods."""
        step = max(_LEAST_STEP, seconds / max(1, count))
        return cls(step, int(at.timestamp() // step), max(0, count))

    def place(self, at: datetime) -> int:
        """Return the index of the period with ``at``; it may be outside."""
        return int(at.timestamp() // self.step) - self.end + self.count

    def moment(self, place: int) -> datetime:
        """Return the middle of a period."""
        seconds = (self.end - self.count + place + 0.5) * self.step
        return datetime.fromtimestamp(seconds).astimezone()

    def values(
        self, points: Sequence[TrendPoint], reading: Reading, hold: float = _LONGEST_HOLD
    ) -> tuple[float | None, ...]:
        """Return the means of the periods; a value also fills a gap of ``hold`` seconds."""
        sums: dict[int, tuple[float, int]] = {}
        for point in reversed(points):
            place = self.place(point.at)
            if place < -1:
                break
            value = reading(point)
            if value is not None and place < self.count:
                total, number = sums.get(place, (0.0, 0))
                sums[place] = total + value, number + 1
        values: list[float | None] = []
        held: float | None = None
        age = 0.0
        for place in range(self.count):
            if place in sums:
                total, number = sums[place]
                held, age = total / number, 0.0
            else:
                age += self.step
            values.append(held if age <= hold else None)
        return tuple(values)


def hold_of(step_seconds: float) -> float:
    """Return the seconds for which a value fills a gap between points of this distance."""
    return max(_LONGEST_HOLD, step_seconds * 1.5)


def marks_of(events: Iterable[RecentEvent]) -> tuple[TrendMark, ...]:
    """Return the marks of the last events of models, newest first."""
    found = []
    for event in events:
        kind = _kind_of(event)
        if event.kind == "model" and kind is not None:
            found.append(TrendMark(at=event.at, kind=kind, subject=event.subject, text=kind))
    return tuple(found)


def _kind_of(event: RecentEvent) -> MarkKind | None:
    if event.tone == "bad":
        return "failed"
    first = event.text.split(",", 1)[0].split(":", 1)[0]
    return next((kind for kind in _MARK_KINDS if kind == first), None)


def mark_sign(kind: MarkKind, charset: Charset) -> str:
    """Return the sign of a mark."""
    return {
        "loaded": charset.ascending,
        "unloaded": charset.descending,
        "failed": charset.status_sign(ModelStatus.FAILED),
        "throttled": "!",
    }[kind]


def axis(
    timeline: Timeline,
    span: Span,
    marks: Iterable[TrendMark],
    charset: Charset,
    zone: tzinfo | None,
) -> Texts:
    """Return the line below a graph: the signs of marks, and times where there is room."""
    line: list[tuple[str, str]] = [(" ", "note")] * timeline.count
    for mark in marks:
        if 0 <= (place := timeline.place(mark.at)) < timeline.count:
            line[place] = (mark_sign(mark.kind, charset), _MARK_STYLES[mark.kind])
    for place, text in _times(timeline, span, zone):
        start = max(0, min(place - len(text) // 2, timeline.count - len(text)))
        _put(line, start, text, "note")
    return tuple(line)


def mark_texts(mark: TrendMark, charset: Charset) -> tuple[str, ...]:
    """Return a mark in words, from the longest to the shortest form."""
    name, text = plain(mark.subject, limit=200), plain(mark.text.partition(",")[0], limit=20)
    return (*(f"{cut(name, width, charset.ellipsis)} {text}" for width in _MARK_NAMES), text)


def _put(line: list[tuple[str, str]], start: int, text: str, style: str) -> None:
    """Put a text into the line if its cells and its neighbours are free."""
    end = start + len(text)
    free = all(character == " " for character, _ in line[max(0, start - 1) : end + 1])
    if end <= len(line) and free:
        line[start:end] = [(character, style) for character in text]


def _times(timeline: Timeline, span: Span, zone: tzinfo | None) -> Iterable[tuple[int, str]]:
    """Return the places and texts of the axis' labels."""
    if not timeline.count:
        return
    if not span.form:
        yield timeline.count - 1, "now"
        for number in range(1, int(timeline.count * timeline.step // span.tick) + 1):
            place = timeline.count - round(number * span.tick / timeline.step)
            yield place, age_text(number * span.tick)
        return
    last = timeline.moment(timeline.count - 1).astimezone(zone)
    at = last.replace(minute=0, second=0, microsecond=0)
    if span.tick >= 3600:
        at = at.replace(hour=0)
    at += timedelta(days=1)
    while (place := timeline.place(at)) >= 0:
        if place < timeline.count:
            yield place, at.strftime(span.form)
        at = (at - timedelta(seconds=span.tick)).astimezone(zone)
