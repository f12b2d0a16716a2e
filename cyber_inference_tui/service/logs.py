"""The logs of the service and of the models' servers: in files, in memory, and as events."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import msgspec

from cyber_inference_tui import __version__
from cyber_inference_tui.errors import StorageError
from cyber_inference_tui.llama.log import RUN_MARK, Log
from cyber_inference_tui.llama.log_files import (
    LogFiles,
    LogLimits,
    file_stem,
    id_of_stem,
    open_log,
    open_logs,
    rename_former_files,
)
from cyber_inference_tui.llama.log_level import DEBUG, LEVELS
from cyber_inference_tui.llama.log_reading import LineFilter, Span, encode_lines, read_lines
from cyber_inference_tui.llama.log_writer import LogWriter
from cyber_inference_tui.records import LogLevel, LogMatches, LogPage, LogRecord
from cyber_inference_tui.records.queries import LinesQuery
from cyber_inference_tui.storage import Storages

T = TypeVar("T")

SERVICE_LOG = "service"
"""The id of the service's own log."""

LOGS = "logs"
"""The directory of all logs, in ``data_dir``."""

SEARCH_SECONDS = 1.0
"""Seconds that a request may search a log; its answer says how far it came."""
READ_SECONDS = 5.0
"""Seconds that a request waits for a read of the disk; then it gets the lines in memory."""
_AT_ONCE = 2
"""Searches at the same time, and other reads; further ones wait."""


def service_log(directory: Path, now: Callable[[], datetime]) -> Log:
    """Return the service's own log, after the lines of earlier runs. Blocks."""
    rename_former_files(directory)
    log = Log(now=now, files=open_log(directory, SERVICE_LOG))
    log.add([f"{RUN_MARK}version {__version__}, pid {os.getpid()}"], LogLevel.INFO)
    return log


def stem_of(log_id: str) -> str:
    """Return the name of a log's files."""
    return SERVICE_LOG if log_id == SERVICE_LOG else file_stem(log_id)


class Logs:
    """Keeps a log for each id, and writes its lines to files in ``directory``.

    ``limits`` returns those in force. ``on_lines`` is called with a log's id and its new lines.
    ``clock`` is monotonic, in seconds.
    """

    def __init__(
        self,
        directory: Path,
        *,
        now: Callable[[], datetime],
        on_lines: Callable[[str, Span], None],
        limits: Callable[[], LogLimits] = LogLimits,
        clock: Callable[[], float] = time.monotonic,
        read_seconds: float = READ_SECONDS,
    ) -> None:
        self._directory = directory
        self._now = now
        self._on_lines = on_lines
        self._limits = limits
        self._clock = clock
        self._read_seconds = read_seconds
        self._writer = LogWriter(directory)
        self._logs: dict[str, Log] = {}
        self._former: dict[str, LogFiles] = {}
        """Logs of earlier runs that nobody has asked for, by the name of their files."""
        self._storages = Storages()
        self._searching = asyncio.Semaphore(_AT_ONCE)
        self._reading = asyncio.Semaphore(_AT_ONCE)

    async def restore(self) -> None:
        """Find the logs of earlier runs.

        Await it before anything is written to a log.
        """
        found = await asyncio.to_thread(open_logs, self._directory)
        found.pop(SERVICE_LOG, None)
        for stem, files in found.items():
            files.limits = self._limits
            if (log_id := id_of_stem(stem)) is None:
                self._former[stem] = files
            elif log_id in self._logs:
                self._logs[log_id].restore(files)
            else:
                self.adopt(log_id, Log(now=self._now, files=files))

    def start(self) -> None:
        """Begin to write; raises ``OSError`` if the directory cannot be made."""
        self._writer.start()

    async def stop(self) -> None:
        """Take no further lines, and write the waiting lines."""
        for log in self._logs.values():
            log.listeners.clear()
            # The disk may take lines now that it refused before.
            self._writer.wake(log)
        await asyncio.to_thread(self._writer.stop)

    def __contains__(self, log_id: str) -> bool:
        return self._known(log_id) is not None

    def log(self, log_id: str) -> Log:
        """Return the log of this id; makes it if there is none."""
        log = self._known(log_id)
        if log is None:
            files = LogFiles(self._directory, stem_of(log_id))
            log = self.adopt(log_id, Log(now=self._now, files=files))
        return log

    def _known(self, log_id: str) -> Log | None:
        if log_id not in self._logs:
            former = self._former.pop(stem_of(log_id), None)
            if former is not None:
                self.adopt(log_id, Log(now=self._now, files=former))
        return self._logs.get(log_id)

    def adopt(self, log_id: str, log: Log) -> Log:
        """Keep an existing log, and write its lines."""
        self._logs[log_id] = log
        if log.files is not None:
            log.files.limits = self._limits

        def take(lines: Span) -> None:
            self._writer.wake(log)
            self._on_lines(log_id, lines)

        log.listeners.append(take)
        self._writer.wake(log)
        return log

    # Reading

    def record(self, log_id: str) -> LogRecord:
        """Return the record of a log; an empty one if there is no log."""
        log = self._known(log_id)
        if log is None:
            return LogRecord(id=log_id, first=0, end=0)
        return LogRecord(
            id=log_id,
            first=log.first,
            end=log.end,
            running=log.running,
            last_at=log.last_at,
            last_error=log.last_error,
            runs=log.kept_runs(),
        )

    def records(self) -> list[LogRecord]:
        """Return the record of every log, by id."""
        return [self.record(log_id) for log_id in sorted(self._logs)]

    async def tail(self, log_id: str, lines: int) -> str:
        """Return the last lines as text; empty if there is no such log."""
        page = await self.page(log_id, LinesQuery(limit=lines))
        return "".join(f"{line.text}\n" for line in page.lines)

    async def page(self, log_id: str, query: LinesQuery) -> LogPage:
        """Return up to ``query.limit`` lines, in order: the newest, or those nearest to a number.

        A search ends after ``SEARCH_SECONDS``, but not before it has read one part of the log. The
        page says how far it came. If the disk fails, the log begins with a line that says so, and
        then has the lines in memory.
        """
        log, record = self._known(log_id), self.record(log_id)
        if log is None:
            return LogPage(log=record, lines=(), searched_to=0)
        searches = any(query.q) or query.level is not None
        left = threading.Event()

        def read(record: LogRecord, spans: Sequence[Span]) -> LogPage:
            deadline = self._clock() + SEARCH_SECONDS
            return _page(
                record,
                spans,
                query,
                give_up=lambda: left.is_set() or (searches and self._clock() >= deadline),
            )

        try:
            # Of a waiting search nothing is in memory.
            async with self._searching if searches else self._reading:
                return await self._ask(lambda: read(record, log.snapshot()))
        except (OSError, StorageError) as error:
            spans = self._in_memory(log, error)
            return read(msgspec.structs.replace(record, first=spans[0].first), spans)
        finally:
            # A client that has left needs no thread any more.
            left.set()

    async def matches(self, log_id: str, query: LinesQuery) -> LogMatches:
        """Return the numbers of the lines that ``page`` finds."""
        page = await self.page(log_id, query)
        numbers = tuple(line.number for line in page.lines)
        return LogMatches(log=page.log, numbers=numbers, searched_to=page.searched_to)

    async def _ask(self, work: Callable[[], T]) -> T:
        return await self._storages.ask_async(self._directory, work, self._read_seconds)

    def _in_memory(self, log: Log, error: OSError | StorageError) -> Sequence[Span]:
        """Return the lines of a log that are in memory, after one that says why."""
        why = error.message if isinstance(error, StorageError) else error.strerror
        notice = f"--- earlier lines cannot be read now: {why}\n".encode()
        first = log.memory_first
        data = encode_lines(notice, log.last_at or self._now(), LogLevel.WARNING)
        return Span(max(0, first - 1), first, data=data), *log.memory()


def _page(
    record: LogRecord, spans: Sequence[Span], query: LinesQuery, give_up: Callable[[], bool]
) -> LogPage:
    start = min(max(query.after or 0, record.first), record.end)
    lines, reached = read_lines(
        spans,
        limit=query.limit,
        start=start,
        stop=max(start, record.end if query.before is None else min(query.before, record.end)),
        backwards=query.after is None,
        wanted=LineFilter(
            rank=DEBUG if query.level is None else LEVELS.index(query.level), texts=query.q
        ),
        give_up=give_up,
    )
    return LogPage(log=record, lines=tuple(lines), searched_to=reached)
