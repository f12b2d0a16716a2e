"""Logs: lines of output, numbered from the first line of each log."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

import msgspec


class LogLevel(StrEnum):
    """The severity of a line, in rising order."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


# There are many lines, and none can be part of a cycle: the garbage collector leaves them out.


class LogLine(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A line of a process's output, without control sequences."""

    at: datetime
    text: str
    level: LogLevel = LogLevel.INFO


class LogEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Data of a ``log`` event: new lines of one process, in order."""

    id: str
    """The log's id: a model's id, ``service`` or ``install``."""
    first: int = 0
    """The number of the first line. If it does not follow the previous event's last line, lines
    of a flood were left out: the log has them."""
    lines: tuple[LogLine, ...]


class LogRun(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a log that a run of its process wrote."""

    first: int
    """The number of its first line."""
    started_at: datetime
    pid: int | None = None


class LogRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A log (``GET /admin/logs``)."""

    id: str
    first: int
    """The number of the oldest line that is kept."""
    end: int
    """The number of the next line: ``end - first`` lines are kept."""
    running: bool = False
    """A process writes to the log now."""
    last_at: datetime | None = None
    last_error: int | None = None
    """The number of the newest line of level ``error``."""
    runs: tuple[LogRun, ...] = ()
    """Oldest first."""


class NumberedLine(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A line with its number in its log."""

    number: int
    at: datetime
    text: str
    level: LogLevel = LogLevel.INFO


class LogPage(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a log (``GET /admin/log-lines/ID``)."""

    log: LogRecord
    lines: tuple[NumberedLine, ...]
    """The lines that match, in order."""
    searched_to: int
    """The end of the search: the number of the first line that was read backwards, or the number
    after the last line that was read forwards. A search that found too little can resume there."""
