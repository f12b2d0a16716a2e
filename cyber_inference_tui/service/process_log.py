"""Send the records of the standard logging to stderr, and to the service's own log."""

from __future__ import annotations

import asyncio
import copy
import logging
import os
import sys
import threading
from collections.abc import Mapping

from cyber_inference_tui.llama.log import Log
from cyber_inference_tui.records import LogLevel

_PACKAGE = "cyber_inference_tui"
_FORMAT = "%(levelname).1s %(name)s: %(message)s"


class _Formatter(logging.Formatter):
    """Leaves the package out of a module's name, which is the same in every line."""

    def format(self, record: logging.LogRecord) -> str:
        if record.name.startswith(f"{_PACKAGE}."):
            # A copy, because other handlers format the same record.
            record = copy.copy(record)
            record.name = record.name.removeprefix(f"{_PACKAGE}.")
        return super().format(record)


class LogHandler(logging.Handler):
    """Puts log records into a log.

    The log and its listeners belong to the event loop: once ``attach`` was called, records of
    other threads are passed to it.
    """

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.get_ident()
        self.setFormatter(_Formatter(_FORMAT))

    def attach(self) -> None:
        """Make the thread of the running loop the owner of the log."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        """Append the record; each line of a traceback becomes a line of the record's level."""
        try:
            lines = self.format(record).splitlines()
            level = _level(record.levelno)
            if threading.get_ident() == self._thread:
                self._log.add(lines, level)
            elif self._loop is not None and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._log.add, lines, level)
        except Exception:  # noqa: BLE001 - a log call must never raise; logging reports it
            self.handleError(record)


def _level(number: int) -> LogLevel:
    if number >= logging.ERROR:
        return LogLevel.ERROR
    if number >= logging.WARNING:
        return LogLevel.WARNING
    return LogLevel.INFO if number >= logging.INFO else LogLevel.DEBUG


def configure_logging(level: str, log: Log) -> LogHandler:
    """Send the program's log records to stderr and the log; returns the log's handler."""
    root = logging.getLogger()
    root.setLevel(logging.WARNING)
    logging.getLogger(_PACKAGE).setLevel(level.upper())
    terminal = logging.StreamHandler(sys.stderr)
    terminal.setFormatter(_Formatter(f"%(asctime)s {_FORMAT}", "%H:%M:%S"))
    handler = LogHandler(log)
    root.handlers[:] = [terminal, handler]
    return handler


def leave_stderr() -> None:
    """Send log records to the log alone, and through it to the log's file."""
    root = logging.getLogger()
    root.handlers[:] = [handler for handler in root.handlers if isinstance(handler, LogHandler)]


def goes_to_journal(environ: Mapping[str, str]) -> bool:
    """Return whether stderr is systemd's journal, which others may read.

    ``JOURNAL_STREAM`` holds the stream's device and inode (systemd.exec(5)). Programs started from
    a desktop inherit the variable without the stream.
    """
    named = environ.get("JOURNAL_STREAM", "")
    try:
        status = os.fstat(2)
    except OSError:
        return False
    return named == f"{status.st_dev}:{status.st_ino}"
