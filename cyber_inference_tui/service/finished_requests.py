"""Records finished requests in batches, off the path of the answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from cyber_inference_tui.records import RequestRecord
from cyber_inference_tui.service.metric_counters import Noted

_PAUSE = 0.02
_BATCH = 40
"""Larger batches take no less time, and delay the requests that arrive meanwhile."""

_logger = logging.getLogger(__name__)


class Finished(Protocol):
    """A request that is over."""

    @property
    def error_code(self) -> str | None:
        """The code of its error, from a small set for the metrics; ``None`` = no error."""

    def record(self) -> RequestRecord:
        """Return its record."""


class FinishedRequests:
    """Keeps finished requests for ``pause`` seconds, and then gives their records to ``note``.

    After the pause, ``when_due`` is called with a function that does so, and calls it when the
    energy of these requests is known.
    A small request takes less time than its record, and many records at once take less than one by
    one. Whoever reads what ``note`` writes calls ``flush`` before.
    """

    def __init__(
        self,
        note: Callable[[list[Noted]], None],
        *,
        pause: float = _PAUSE,
        when_due: Callable[[Callable[[], None]], None] = lambda flush: flush(),
    ) -> None:
        self._note = note
        self._when_due = when_due
        self._pause = pause
        self._finished: list[Finished] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, request: Finished) -> None:
        """Keep a request that is over; returns at once."""
        finished = self._finished
        finished.append(request)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(
                self._pause, self._when_due, self.flush
            )
        elif len(finished) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        """Record all requests so far."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        finished, self._finished = self._finished, []
        noted: list[Noted] = []
        # An error in recording must not break an answer.
        for request in finished:
            try:
                noted.append((request.record(), request.error_code))
            except Exception:
                _logger.exception("a request was not recorded")
        if noted:
            try:
                self._note(noted)
            except Exception:
                _logger.exception("a request was not recorded")
