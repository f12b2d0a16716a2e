"""The logs of the service and of every model's server: in memory, on the disk, and as events."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from cyber_inference_tui.llama.log import LogRing, LogWriter, log_file_name
from cyber_inference_tui.records import LogEvent, LogLine

SERVICE_LOG = "service"
"""The id of the service's own log."""

_EVENT_LINES = 500
"""Lines of one event; of a flood the newest are told, all are in the ring and in the file."""


class Logs:
    """One ring for each id, every line of it also written to a file in ``directory``.

    ``on_lines`` is called when there is something for ``take_pending``.
    """

    def __init__(
        self, directory: Path, *, now: Callable[[], datetime], on_lines: Callable[[], None]
    ) -> None:
        self._now = now
        self._on_lines = on_lines
        self._writer = LogWriter(directory)
        self._rings: dict[str, LogRing] = {}
        self._pending: dict[str, list[LogLine]] = {}

    def start(self) -> None:
        """Begin to write; raises ``OSError`` when the directory cannot be made."""
        self._writer.start()

    async def stop(self) -> None:
        """Take no further lines, and write what waits."""
        for ring in self._rings.values():
            ring.listeners.clear()
        await asyncio.to_thread(self._writer.stop)

    def __contains__(self, log_id: str) -> bool:
        return log_id in self._rings

    def ring(self, log_id: str) -> LogRing:
        """The log of this id, made when first asked for."""
        ring = self._rings.get(log_id)
        if ring is None:
            ring = LogRing(now=self._now)
            self.adopt(log_id, ring)
        return ring

    def adopt(self, log_id: str, ring: LogRing) -> None:
        """Keep a ring that is there already."""
        self._rings[log_id] = ring
        name = f"{SERVICE_LOG}.log" if log_id == SERVICE_LOG else log_file_name(log_id)

        def take(lines: tuple[LogLine, ...]) -> None:
            self._writer.write(name, lines)
            pending = self._pending.setdefault(log_id, [])
            pending.extend(lines)
            del pending[:-_EVENT_LINES]
            self._on_lines()

        ring.listeners.append(take)

    def tail(self, log_id: str, lines: int) -> str:
        """The last lines as text; nothing where there is no such log."""
        ring = self._rings.get(log_id)
        return "".join(f"{line.text}\n" for line in ring.tail(lines)) if ring else ""

    def take_pending(self) -> list[LogEvent]:
        """The lines since the last call, as events."""
        pending, self._pending = self._pending, {}
        return [LogEvent(id=log_id, lines=tuple(lines)) for log_id, lines in pending.items()]
