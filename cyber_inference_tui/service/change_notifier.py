"""What has changed of models and logs, told to those who watch a few times a second at most."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from cyber_inference_tui.records import LogEvent, ModelRecord, ServiceEvent
from cyber_inference_tui.service.events import EventBus

_INTERVAL = 0.1


class ChangeNotifier:
    """A change of a model's status is told at once, numbers and log lines are gathered.

    ``record`` gives a model's record as it is now (``None`` = there is no such model), ``lines``
    the log lines that were not told yet.
    """

    def __init__(
        self,
        events: EventBus,
        *,
        record: Callable[[str], ModelRecord | None],
        lines: Callable[[], list[LogEvent]],
    ) -> None:
        self._events = events
        self._record = record
        self._lines = lines
        self._models: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None

    def state_changed(self, model_id: str) -> None:
        """A model's status is another."""
        self._models.discard(model_id)
        record = self._record(model_id)
        if record is not None:
            self._events.publish("model", record)

    def detail_changed(self, model_id: str) -> None:
        """A number of a model is another."""
        self._models.add(model_id)
        self.lines_came()

    def model_gone(self, model_id: str) -> None:
        """A model is not there any more."""
        self._events.publish("model", {"id": model_id, "status": None})

    def problems_changed(self) -> None:
        """Other files than before cannot be used."""
        self._events.publish("service", ServiceEvent(state="problems"))

    def lines_came(self) -> None:
        """A log has new lines."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_INTERVAL, self.flush)

    def flush(self) -> None:
        """Tell now what was gathered."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for lines in self._lines():
            self._events.publish("log", lines)
        models, self._models = self._models, set()
        for model_id in models:
            self.state_changed(model_id)
