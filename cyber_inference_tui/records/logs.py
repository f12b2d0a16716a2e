"""Logs: lines of the processes' output, numbered from the first one of each log."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

import msgspec


class LogLevel(StrEnum):
    """How serious a line is, as far as it says so; the order is that of seriousness."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


# There are many lines, and none can be part of a cycle: the garbage collector leaves them out.


class LogLine(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One line of a process's output, cleaned of control sequences."""

    at: datetime
    text: str
    level: LogLevel = LogLevel.INFO


class LogEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Data of a ``log`` event: new lines of one process, in order."""

    id: str
    """A model's id, ``service`` or ``install``."""
    first: int = 0
    """The number of the first of ``lines``. Where it is not the number after the last one of the
    event before, lines between were left out of a flood: the log has them."""
    lines: tuple[LogLine, ...]


class LogRun(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a process, as a part of its log."""

    first: int
    """The number of its first line."""
    started_at: datetime
    pid: int | None = None


class LogRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One log (``GET /admin/logs``)."""

    id: str
    first: int
    """The number of the oldest line that is kept."""
    end: int
    """The number that the next line will get: ``end - first`` lines are kept."""
    running: bool = False
    """A process writes to it."""
    last_at: datetime | None = None
    last_error: int | None = None
    """The number of the newest line of the level ``error`` that is kept."""
    runs: tuple[LogRun, ...] = ()
    """Oldest first."""


class NumberedLine(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One line with its place in its log."""

    number: int
    at: datetime
    text: str
    level: LogLevel = LogLevel.INFO


class LogPage(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a log (``GET /admin/log-lines/ID``)."""

    log: LogRecord
    lines: tuple[NumberedLine, ...]
    """In order; all of them lie between the asked for bounds and match what was asked for."""
    searched_to: int
    """How far it was looked: going backwards the number of the first line looked at, forwards that
    after the last. A search that found too little in its time goes on from there."""
