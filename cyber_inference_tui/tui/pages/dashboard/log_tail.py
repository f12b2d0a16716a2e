"""The end of the selected model's log, on a wide screen."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import msgspec
from textual.reactive import var
from textual.timer import Timer

from cyber_inference_tui.backoff import backoff
from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.errors import CyberError, NoServiceError, NotFoundError
from cyber_inference_tui.records import LogEvent, NumberedLine, endpoints, queries
from cyber_inference_tui.tui.widgets.log_view import LogView

if TYPE_CHECKING:
    from cyber_inference_tui.tui.app import CyberApp

LINES = 50
"""Lines that are read and kept: no pane has more rows."""
SETTLE_SECONDS = 0.4
"""Seconds on a model until its log is read, so that a moving cursor opens no streams."""
_PACE_SECONDS = 1.0
"""Seconds between two paints of new lines, for slow lines."""


def _read_again() -> None:
    """End a lost stream: the service may be another one, with another log."""
    raise NoServiceError("The service ended the stream of the log.")


class LogTail(LogView, can_focus=False):
    """Follows the end of one log, without keys; ``source`` is the log that it shows."""

    source: var[str] = var("")

    def __init__(self, **options: Any) -> None:
        super().__init__(window=LINES, **options)
        self.show_time = False
        self._wanted: str | None = None
        self._settling: Timer | None = None
        self._waiting: deque[NumberedLine] = deque(maxlen=LINES)

    def follow(self, source: str | None) -> None:
        """Follow the log ``source`` once the cursor has settled; ``None`` ends that at once."""
        if source == self._wanted:
            return
        self._wanted = source
        if self._settling is not None:
            self._settling.stop()
        self._stop()
        if source is not None:
            self._settling = self.set_timer(SETTLE_SECONDS, lambda: self._start(source))

    def _stop(self) -> None:
        self.workers.cancel_group(self, "follow")
        self._waiting.clear()

    def _start(self, source: str) -> None:
        if source != self.source:
            self.clear()
            self.show_empty("")
            self.source = source
        # Not a coroutine, which may never be awaited if the worker is cancelled at once.
        work: Callable[[], Awaitable[None]] = partial(self._follow, source)
        self.run_worker(work, group="follow", exclusive=True, exit_on_error=False)

    async def _follow(self, source: str) -> None:
        client, there = cast("CyberApp", self.app).at(source)
        failures = 0
        while True:
            try:
                status = await client.call(endpoints.STATUS)
                page = await client.call(
                    endpoints.LOG_LINES, there, query=queries.LinesQuery(limit=LINES)
                )
                self._waiting.clear()
                self.show(page.lines, gaps=False)
                self.show_empty("Nothing has been written to this log yet.")
                failures = 0
                events = client.events(
                    ("log",), after=status.last_event_id, logs=(there,), on_lost=_read_again
                )
                async with aclosing(events):
                    async for event in events:
                        if event.topic == "gap":
                            break
                        self._take(msgspec.json.decode(event.data, type=thread_safe(LogEvent)))
            except NotFoundError:
                self.show_empty("This model has no log yet.")
            except (CyberError, msgspec.MsgspecError):
                pass  # the header says that the service does not answer; the lines stay
            failures += 1
            await asyncio.sleep(backoff(0.5, 3.0, failures))

    def _take(self, event: LogEvent) -> None:
        """Paint new lines soon, but not more often than every ``_PACE_SECONDS``."""
        if not self._waiting:
            self.set_timer(_PACE_SECONDS, self._flush)
        self._waiting.extend(
            NumberedLine(number=number, at=line.at, text=line.text, level=line.level)
            for number, line in enumerate(event.lines, event.first)
        )

    def _flush(self) -> None:
        lines = tuple(self._waiting)
        self._waiting.clear()
        self.extend(lines)
