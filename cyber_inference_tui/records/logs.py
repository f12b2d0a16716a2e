"""Logs: lines of output, numbered from the first line of each log."""

from __future__ import annotations

import json
import re
from datetime import datetime
from enum import StrEnum

import msgspec

OWN_TIME = r"[0-9.]{12,20} "
"""The time since its start that llama-server writes before the level (``0.00.123.456 I …``)."""
OWN_JSON = r'\{"type":"log","time":\d++,"level":"(\w++)",'
"""The start of a line with ``--log-jsonl``; the text is its ``msg``."""

# Without a time, a letter counts only before the name of a function or logger: "I" is a word, too.
_OWN_START = re.compile(rf"{OWN_TIME}[DTIWEC] |[DTIWEC] (?=[\w.]+(?: +\w+)?: )")
_OWN_JSON = re.compile(OWN_JSON)


def message_of(text: str) -> str:
    """Return a line without the time and level that its program wrote: the record has both."""
    if found := _OWN_START.match(text):
        return text[found.end() :]
    if _OWN_JSON.match(text):
        try:
            return str(json.loads(text)["msg"]).rstrip()
        except (ValueError, LookupError, RecursionError):
            return text  # cut, because it was too long, or made by somebody
    return text


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


class LogMatches(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of lines (``GET /admin/log-matches/ID``)."""

    log: LogRecord
    numbers: tuple[int, ...]
    """The lines that match, in order."""
    searched_to: int
    """As in ``LogPage``."""
