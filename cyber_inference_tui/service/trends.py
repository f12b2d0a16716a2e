"""Keeps the past of the machine and its models: samples for minutes, minutes for days."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from statistics import median

import msgspec

from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.monitor.ring import RECENT, SampleRing
from cyber_inference_tui.records import (
    RequestRecord,
    ResourceSample,
    Trend,
    TrendMark,
    TrendPoint,
    to_json,
)
from cyber_inference_tui.records.queries import TrendQuery
from cyber_inference_tui.service.history import History
from cyber_inference_tui.service.trend_points import (
    MINUTE,
    Minute,
    gather,
    merge,
    point_of,
    slowed_down,
    start_of,
)

_BATCH_MINUTES = 10
"""Minutes that are written at once, which spares SD cards. A crash of the service loses them."""
_MOST_REQUESTS = 1_000
"""Requests of a minute whose times to first token are looked at: the latest."""
_PART = timedelta(seconds=10)
"""The longest time from one sample to the next while nobody watches."""
_RECENT_MARKS = 500
_CALM = timedelta(minutes=1)
"""A part that was not slowed down for so long gets another mark when it is again."""
_SHORTEST_STEP = timedelta(milliseconds=100)


class Trends:
    """Answers ``GET /admin/trend``; add all samples, finished requests and marks.

    The last minutes are in memory, as samples. Before that there is one row per minute in
    ``history``; ``close`` gives it the last ones. ``now`` returns the time with its zone.
    """

    def __init__(self, history: History, *, now: Callable[[], datetime]) -> None:
        self._history = history
        self._now = now
        self._ring: SampleRing[bytes] = SampleRing()
        self._minute: datetime | None = None
        """The beginning of the minute of the newest sample."""
        self._minutes: list[Minute] = []
        """Minutes that the history has not got yet."""
        self._marks: deque[TrendMark] = deque(maxlen=_RECENT_MARKS)
        self._slow: dict[tuple[str, str], datetime] = {}
        """By part: the last time at which it was slowed down, with the reason."""
        # Times to first token since the last sample, and in the present minute.
        self._newest: deque[float] = deque(maxlen=_MOST_REQUESTS)
        self._firsts: deque[float] = deque(maxlen=_MOST_REQUESTS)

    def add(self, sample: ResourceSample) -> None:
        """Keep a sample."""
        minute = start_of(sample.at, MINUTE)
        if minute != self._minute:
            self._end_minute()
            self._minute = minute
        first = median(self._newest) if self._newest else None
        self._firsts += self._newest
        self._newest.clear()
        self._ring.add(sample.at, to_json(point_of(sample, first)))
        for part, text in slowed_down(sample):
            before = self._slow.get((part, text))
            self._slow[part, text] = sample.at
            if before is None or not -_CALM < sample.at - before < _CALM:
                self.mark(TrendMark(at=sample.at, kind="throttled", subject=part, text=text))

    def note_requests(self, records: Iterable[RequestRecord]) -> None:
        """Note finished requests for the times to first token, which only streams have."""
        self._newest.extend(
            record.time_to_first_token_seconds
            for record in records
            if record.stream and record.time_to_first_token_seconds is not None
        )

    def mark(self, mark: TrendMark) -> None:
        """Keep a mark."""
        self._marks.append(mark)
        self._history.add(mark)

    def close(self) -> None:
        """Give the history what it has not got yet."""
        self._end_minute()
        self._history.add_all(self._minutes)
        self._minutes = []

    async def read(self, query: TrendQuery) -> Trend:
        """Return the last ``seconds`` in at most ``points`` periods.

        Raises ``CyberError`` if the history has to be read and cannot.
        """
        span, most = timedelta(seconds=max(1, query.seconds)), max(1, query.points)
        is_short = span <= RECENT
        if is_short:
            step = max(span / most, _SHORTEST_STEP)
        else:
            step = math.ceil(span / most / MINUTE) * MINUTE
        now = self._now()
        begin = start_of(now, step) - (math.ceil(span / step) - 1) * step
        if is_short:
            points = gather(_decode(self._ring.since(begin)), step)
            marks = [mark for mark in self._marks if begin <= mark.at <= now]
        else:
            marks = await self._history.marks(begin, now)
            stored = await self._history.minutes(begin, now)
            # The present minute, and those that the history has not got yet, replace stored ones.
            minutes = {one.at: one.point for one in (*stored, *self._minutes, *self._present())}
            chosen = [minutes[at] for at in sorted(minutes) if begin <= at <= now]
            # A week of minutes takes some tenths of a second on a small board.
            points = await asyncio.to_thread(lambda: gather(_decode(chosen), step))
        return Trend(step_seconds=step.total_seconds(), points=points, marks=tuple(marks))

    def _end_minute(self) -> None:
        self._minutes += self._present()
        self._firsts.clear()
        if len(self._minutes) >= _BATCH_MINUTES:
            self._history.add_all(self._minutes)
            self._minutes = []

    def _present(self) -> Sequence[Minute]:
        """Return the minute of the newest sample so far; nothing before the first sample."""
        if self._minute is None:
            return ()
        # By equal times: a minute may have many samples of its watched part and few of the other.
        parts = gather(_decode(self._ring.since(self._minute)), _PART)
        point = merge(self._minute, parts)
        if self._firsts:
            first = round(median(self._firsts), 4)
            point = msgspec.structs.replace(point, first_token_seconds=first)
        return (Minute(at=self._minute, point=to_json(point)),)


def _decode(encoded: Iterable[bytes]) -> list[TrendPoint]:
    """Return the points; one that is damaged is left out."""
    decoder = msgspec.json.Decoder(thread_safe(TrendPoint))
    points = []
    for one in encoded:
        try:
            point = decoder.decode(one)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
        if point.at.tzinfo is not None:
            points.append(point)
    return points
