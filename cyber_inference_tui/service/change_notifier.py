"""Publish changes of models and of other boxes, and new log lines, a few times a second."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from cyber_inference_tui.llama.log import NewestLines
from cyber_inference_tui.llama.log_reading import Span
from cyber_inference_tui.peers.changes import PeerChanges
from cyber_inference_tui.records import LogEvent, LogLine, ModelRecord, ServiceEvent
from cyber_inference_tui.records.peers import PeerRecord
from cyber_inference_tui.service.events import EventBus

_INTERVAL = 0.1
_UNREAD_INTERVAL = 1.0
"""While nobody reads them: a model's record takes as long as two small requests."""
_EVENT_LINES = 500
"""Lines of one event. Of a flood the newest are published; the log has all."""

_READER_SECONDS = 60.0
"""Seconds after its last sign for which a reader of events counts as one that may come back."""


class ChangeNotifier:
    """Publishes a change of a model's status at once; other numbers and log lines are gathered.

    Lines of logs and changes of other boxes are published while somebody reads them.

    ``record`` returns a model's present record (``None`` = there is no such model), ``boxes`` those
    of all other boxes.
    """

    def __init__(
        self,
        events: EventBus,
        *,
        record: Callable[[str], ModelRecord | None],
        boxes: Callable[[], Iterable[PeerRecord]] = tuple,
    ) -> None:
        self._events = events
        self._record = record
        self._boxes = boxes
        self._peers = PeerChanges()
        self._peers_changed = False
        self._models: set[str] = set()
        self._lines: dict[str, NewestLines] = {}
        self._timer: asyncio.TimerHandle | None = None

    def state_changed(self, model_id: str) -> None:
        """Publish the new status of a model."""
        self._models.discard(model_id)
        record = self._record(model_id)
        if record is not None:
            self._events.publish("model", record)

    def detail_changed(self, model_id: str) -> None:
        """Publish a model's record soon, after a change of a number in it."""
        self._models.add(model_id)
        if self._timer is None:
            self._start_timer()

    def model_gone(self, model_id: str) -> None:
        """Publish that a model was removed."""
        self._events.publish("model", {"id": model_id, "status": None})

    def models_are_watched(self) -> bool:
        """Return whether somebody reads the events of models."""
        return self._is_read("model")

    def problems_changed(self) -> None:
        """Publish that the list of unusable files has changed."""
        self._events.publish("service", ServiceEvent(state="problems"))

    def peers_changed(self) -> None:
        """Publish soon what has changed of other boxes."""
        self._peers_changed = True
        if self._timer is None:
            self._start_timer()

    def log_lines(self, log_id: str, lines: Span) -> None:
        """Publish new lines of a log soon."""
        self._lines.setdefault(log_id, NewestLines(_EVENT_LINES)).add(lines)
        if self._timer is None:
            self._start_timer()

    def flush(self) -> None:
        """Publish the gathered changes and lines now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        lines, self._lines = self._lines, {}
        is_read = self._is_read("log")
        for log_id, new in lines.items():
            if is_read:
                self._events.publish("log", _event(log_id, new))
            else:
                self._events.leave_out(log_id)
        models, self._models = self._models, set()
        for model_id in models:
            self.state_changed(model_id)
        if self._peers_changed:
            self._peers_changed = False
            # A change that nobody reads is a part of the next one.
            for change in self._peers.take(self._boxes()) if self._is_read("peers") else ():
                self._events.publish("peers", change)

    def _start_timer(self) -> None:
        is_read = any(self._is_read(topic) for topic in ("model", "log", "peers"))
        self._timer = asyncio.get_running_loop().call_later(
            _INTERVAL if is_read else _UNREAD_INTERVAL, self.flush
        )

    def _is_read(self, topic: str) -> bool:
        return self._events.has_readers(topic, _READER_SECONDS)


def _event(log_id: str, new: NewestLines) -> LogEvent:
    lines = new.lines()
    return LogEvent(
        id=log_id,
        first=lines[0].number,
        lines=tuple(LogLine(at=line.at, text=line.text, level=line.level) for line in lines),
    )
