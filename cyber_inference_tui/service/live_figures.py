"""Publishes the figures of requests in progress, as long as somebody reads them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

from cyber_inference_tui.records import (
    ActiveRequestRecord,
    LiveRequest,
    LiveRequests,
    RequestPhase,
    RequestRecord,
    to_json,
)
from cyber_inference_tui.service.events import EventBus
from cyber_inference_tui.service.token_speed import WINDOW, ModelSpeed, rounded

TOPIC = "request"
_INTERVAL = 0.25
_MANY = 64
"""So many requests make the interval longer by its first length, because an event has them all."""
_PATIENCE = 2.0
"""Seconds after its last sign for which a reader counts."""

_NOTHING = LiveRequests(live=())


class LiveFigures:
    """Publishes ``LiveRequests`` at most four times a second, while they change.

    ``look_soon`` is called when a request or a reader arrives, ``note`` when requests have ended.
    From then on it looks by itself until nothing is in progress or nobody reads. ``records``
    returns the requests in progress, ``measured`` the speeds of models by their servers: nothing
    else shows the tokens of an answer that comes as a whole.
    """

    def __init__(
        self,
        events: EventBus,
        *,
        records: Callable[[], list[ActiveRequestRecord]],
        measured: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        self._events = events
        self._records = records
        self._measured = measured
        self._timer: asyncio.TimerHandle | None = None
        self._published = _NOTHING
        self._looked_at = 0.0
        self._counted: dict[str, int] = {}
        """By a request's id: the tokens that its model's speed has so far."""
        self._ending: dict[str, int] = {}
        """The same for requests that were in progress at the last look but one only."""
        self._speeds: dict[str, ModelSpeed] = {}

    def look_soon(self) -> None:
        """Publish the figures soon, if somebody reads them."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_INTERVAL, self._look)

    def note(self, records: Iterable[RequestRecord]) -> None:
        """Count the tokens of requests that have just ended."""
        if not self._is_read():
            return
        now = asyncio.get_running_loop().time()
        for record in records:
            counted = self._counted.pop(record.request_id or "", None)
            if counted is None:
                counted = self._ending.pop(record.request_id or "", None)
            tokens = (record.tokens_out or 0) - (counted or 0)
            if tokens > 0:
                since = now - _seconds(record) if counted is None else self._looked_at
                self._speed_of(record.model).add(tokens, since, now)
        self.look_soon()

    def stop(self) -> None:
        """Do not publish any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _is_read(self) -> bool:
        return self._events.has_readers(TOPIC, _PATIENCE)

    def _look(self) -> None:
        self._timer = None
        if not self._is_read():
            self._published = _NOTHING
            self._counted, self._ending, self._speeds = {}, {}, {}
            return
        now = asyncio.get_running_loop().time()
        records = self._records()
        self._count(records, now)
        speeds = self._present_speeds(records, now)
        figures = LiveRequests(
            live=tuple(
                LiveRequest(
                    number=record.number,
                    phase=record.phase,
                    tokens_out=record.tokens_out,
                    tokens_per_second=record.tokens_per_second,
                )
                for record in records
            ),
            tokens_per_second=speeds,
        )
        if figures != self._published:
            self._published = figures
            # As bytes, so that the ring of the events knows their size.
            self._events.publish(TOPIC, to_json(figures))
        if records or self._speeds:
            pause = _INTERVAL * (1 + len(records) // _MANY)
            self._timer = asyncio.get_running_loop().call_later(pause, self._look)

    def _count(self, records: list[ActiveRequestRecord], now: float) -> None:
        """Count the tokens since the last look."""
        counted: dict[str, int] = {}
        for record in records:
            if record.tokens_out is None:
                continue
            name = record.request_id or ""
            before = self._counted.pop(name, None)
            tokens = counted[name] = record.tokens_out
            since = self._looked_at
            if before is None:
                # It answers since some time already, at its mean speed.
                speed = record.tokens_per_second
                since = now - (tokens / speed if speed else _INTERVAL)
            if tokens > (before or 0):
                self._speed_of(record.model).add(tokens - (before or 0), since, now)
        # Requests that have just ended are noted within a moment.
        self._ending, self._counted, self._looked_at = self._counted, counted, now

    def _present_speeds(self, records: list[ActiveRequestRecord], now: float) -> dict[str, float]:
        """Return the speeds of the models that have one."""
        counted = {model: speed.speed(now) for model, speed in self._speeds.items()}
        self._speeds = {model: self._speeds[model] for model, speed in counted.items() if speed}
        speeds = {model: counted[model] for model in self._speeds}
        whole = {
            record.model
            for record in records
            if record.phase is RequestPhase.PROCESSING and not record.stream
        }
        for model, speed in self._measured().items() if whole else ():
            if model in whole and speed > speeds.get(model, 0.0):
                speeds[model] = rounded(speed)
        return speeds

    def _speed_of(self, model: str) -> ModelSpeed:
        return self._speeds.setdefault(model, ModelSpeed())


def _seconds(record: RequestRecord) -> float:
    """Return the seconds that a request's answer took, as far as is known."""
    if record.answer_seconds is not None:
        return record.answer_seconds
    return min(WINDOW, record.duration_seconds - (record.time_to_first_token_seconds or 0.0))
