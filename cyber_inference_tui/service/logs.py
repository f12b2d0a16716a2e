"""The logs of the service and of the models' servers: in memory, in files, and as events."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

from cyber_inference_tui import __version__
from cyber_inference_tui.llama.log_block import Block, LineFilter, last_texts, read_lines
from cyber_inference_tui.llama.log_file import (
    LogWriter,
    id_of_log_file,
    log_file_name,
    read_earlier_lines,
    read_earlier_logs,
)
from cyber_inference_tui.llama.log_level import DEBUG, LEVELS
from cyber_inference_tui.llama.log_ring import RUN_MARK, LogBatch, LogRing, LogSpace
from cyber_inference_tui.records import (
    LogLevel,
    LogPage,
    LogRecord,
    NumberedLine,
)
from cyber_inference_tui.records.queries import LinesQuery

SERVICE_LOG = "service"
"""The id of the service's own log."""

LOGS = "logs"
"""The directory of all logs, in ``data_dir``."""

_SERVICE_FILE = f"{SERVICE_LOG}.log"

SEARCH_SECONDS = 1.0
"""Seconds that a request may search a log; its answer says how far it came."""

_SEARCHES = 2
"""Searches at the same time; others wait."""

_READERS = _SEARCHES + 1
"""Threads that read: one more than may search, so that a page never waits for searches."""


def service_log(directory: Path, now: Callable[[], datetime]) -> LogRing:
    """Return the service's own log, with the last lines of earlier runs. Blocks."""
    ring = LogRing(now=now)
    ring.restore(read_earlier_lines(directory / _SERVICE_FILE))
    ring.add([f"{RUN_MARK}version {__version__}, pid {os.getpid()}"], LogLevel.INFO)
    return ring


class Logs:
    """Keeps a log for each id, and writes each line to a file in ``directory``.

    ``space`` is the memory they share. ``on_lines`` is called with a log's id and its new lines.
    ``clock`` is monotonic, in seconds.
    """

    def __init__(
        self,
        directory: Path,
        *,
        space: LogSpace,
        now: Callable[[], datetime],
        on_lines: Callable[[str, LogBatch], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._space = space
        self._now = now
        self._on_lines = on_lines
        self._clock = clock
        self._directory = directory
        self._writer = LogWriter(directory)
        self._rings: dict[str, LogRing] = {}
        self._unnamed: dict[str, LogRing] = {}
        """Logs of earlier runs by the name of their file, if it does not contain the id."""
        self._readers = ThreadPoolExecutor(_READERS, "log-reader")
        self._searching = asyncio.Semaphore(_SEARCHES)

    async def restore(self) -> None:
        """Fill the logs with the last lines of earlier runs, from their files.

        Await it before anything is written to a log.
        """
        for name, lines in (await asyncio.to_thread(read_earlier_logs, self._directory)).items():
            if name == _SERVICE_FILE:
                continue
            log_id = id_of_log_file(name)
            if log_id is not None:
                self.ring(log_id).restore(lines)
            else:
                self._unnamed[name] = LogRing(now=self._now, space=self._space)
                self._unnamed[name].restore(lines)

    def start(self) -> None:
        """Begin to write; raises ``OSError`` if the directory cannot be made."""
        self._writer.start()

    async def stop(self) -> None:
        """Take no further lines, and write the pending lines."""
        for ring in self._rings.values():
            ring.listeners.clear()
        self._readers.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self._writer.stop)

    def __contains__(self, log_id: str) -> bool:
        return self._known(log_id) is not None

    def ring(self, log_id: str) -> LogRing:
        """Return the log of this id; makes it if there is none."""
        ring = self._known(log_id)
        if ring is None:
            ring = LogRing(now=self._now, space=self._space)
            self.adopt(log_id, ring)
        return ring

    def _known(self, log_id: str) -> LogRing | None:
        if log_id not in self._rings:
            former = self._unnamed.pop(log_file_name(log_id), None)
            if former is not None:
                self.adopt(log_id, former)
        return self._rings.get(log_id)

    def adopt(self, log_id: str, ring: LogRing) -> None:
        """Keep an existing log of the same space, and write its new lines, too."""
        self._rings[log_id] = ring
        name = _SERVICE_FILE if log_id == SERVICE_LOG else log_file_name(log_id)

        def take(batch: LogBatch) -> None:
            self._writer.write(name, batch)
            self._on_lines(log_id, batch)

        for line in ring.tail(ring.end - ring.restored):
            rank = LEVELS.index(line.level)
            self._writer.write(name, LogBatch(0, line.at, [line.text], bytes([rank])))
        ring.listeners.append(take)

    # Reading

    def record(self, log_id: str) -> LogRecord:
        """Return the record of a log; an empty one if there is no log."""
        ring = self._known(log_id)
        if ring is None:
            return LogRecord(id=log_id, first=0, end=0)
        return LogRecord(
            id=log_id,
            first=ring.first,
            end=ring.end,
            running=ring.running,
            last_at=ring.last_at,
            last_error=ring.last_error,
            runs=ring.kept_runs(),
        )

    def records(self) -> list[LogRecord]:
        """Return the record of every log, by id."""
        return [self.record(log_id) for log_id in sorted(self._rings)]

    async def tail(self, log_id: str, lines: int) -> str:
        """Return the last lines as text; empty if there is no such log."""
        blocks = self._blocks(log_id)

        def read() -> str:
            return "".join(f"{text}\n" for text in last_texts(blocks, lines))

        return await asyncio.get_running_loop().run_in_executor(self._readers, read)

    async def page(self, log_id: str, query: LinesQuery) -> LogPage:
        """Return up to ``query.limit`` lines, in order: the newest, or those nearest to a number.

        A search ends after ``SEARCH_SECONDS``, but not before it has read one block of lines. The
        page says how far it came.
        """
        before, after, level, limit = query.before, query.after, query.level, query.limit
        record = self.record(log_id)
        start = min(max(after or 0, record.first), record.end)
        stop = max(start, record.end if before is None else min(before, record.end))
        backwards = after is None
        if not limit or start == stop:
            reached = stop if backwards else start
            return LogPage(log=record, lines=(), searched_to=reached)
        wanted = LineFilter(rank=DEBUG if level is None else LEVELS.index(level), text=query.q)
        left = threading.Event()

        def read(blocks: tuple[Block, ...]) -> tuple[list[NumberedLine], int]:
            deadline = self._clock() + SEARCH_SECONDS
            return read_lines(
                blocks,
                start=start,
                stop=stop,
                backwards=backwards,
                limit=limit,
                wanted=wanted,
                give_up=lambda: left.is_set() or self._clock() >= deadline,
            )

        loop = asyncio.get_running_loop()
        try:
            # Taken when the search begins: a waiting search keeps no memory.
            async with contextlib.nullcontext() if wanted.everything else self._searching:
                blocks = self._blocks(log_id)
                lines, reached = await loop.run_in_executor(self._readers, read, blocks)
        finally:
            # A client that has left needs no thread any more.
            left.set()
        return LogPage(log=record, lines=tuple(lines), searched_to=reached)

    def _blocks(self, log_id: str) -> tuple[Block, ...]:
        ring = self._known(log_id)
        return ring.snapshot() if ring else ()
