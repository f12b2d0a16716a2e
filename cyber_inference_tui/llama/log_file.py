"""Names, reads and writes log files: earlier lines are restored, and a writer rotates files."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import queue
import threading
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote, unquote

from cyber_inference_tui.files import has_no_room, read_tail, write_problem
from cyber_inference_tui.llama.log_ring import LogBatch

_MAX_NAME = 200
"""Bytes of a log's name. File systems allow 255, and the ending and rotation need a few."""

RESTORED_BYTES = 1 << 20
"""Bytes of each log's files that are read when the service starts."""
_ALL_RESTORED_BYTES = 4 << 20
_KEEP = 2
_STAMP = "%Y-%m-%dT%H:%M:%S.%fZ "
_STAMP_LENGTH = 28

_logger = logging.getLogger(__name__)


def log_file_name(model_id: str) -> str:
    """Return the file name of a log: the percent-encoded id, so that no id can name another path.

    The service's own log is ``service.log``; a model with the id ``service`` gets another name.
    """
    name = quote(model_id, safe=" +@=,()[]", errors="surrogatepass")
    if name.startswith(".") or name == "service":
        name = f"%{ord(name[0]):02X}{name[1:]}"
    if len(name) > _MAX_NAME:
        # Percent-encoding never produces "%~", so no other id has this name.
        digest = hashlib.sha256(name.encode("ascii")).hexdigest()[:24]
        name = f"{name[: _MAX_NAME - 26]}%~{digest}"
    return f"{name}.log"


def id_of_log_file(name: str) -> str | None:
    """Return the id for the log file ``name``; ``None`` = the name has only a part of it."""
    log_id = unquote(name.removesuffix(".log"))
    return log_id if log_file_name(log_id) == name else None


def read_earlier_logs(directory: Path) -> dict[str, list[tuple[datetime, str]]]:
    """Return the last lines of every log in ``directory`` with their times, by file name. Blocks.

    Reads at most ``RESTORED_BYTES`` of a log and ``_ALL_RESTORED_BYTES`` in total, newest files
    first. Unreadable files are left out.
    """
    ages: list[tuple[float, Path]] = []
    with contextlib.suppress(OSError):
        for path in directory.glob("*.log"):
            with contextlib.suppress(OSError):
                ages.append((path.stat().st_mtime, path))
    found: dict[str, list[tuple[datetime, str]]] = {}
    left = _ALL_RESTORED_BYTES
    for _, path in sorted(ages, reverse=True):
        data = _last_bytes(path, min(left, RESTORED_BYTES))
        left -= len(data)
        if lines := _timed_lines(data):
            found[path.name] = lines
    return found


def read_earlier_lines(path: Path, *, limit: int = RESTORED_BYTES) -> list[tuple[datetime, str]]:
    """Return the last lines of one log with their times, oldest first; reads ``limit`` bytes."""
    return _timed_lines(_last_bytes(path, limit))


def has_log(path: Path) -> bool:
    """Return whether the log has a file, or a rotated one."""
    return any(file.exists() for file in _files(path))


def _files(path: Path) -> list[Path]:
    """Return the file of a log and its rotated files, newest first."""
    return [path, *(path.with_name(f"{path.name}.{number}") for number in range(1, _KEEP + 1))]


def _last_bytes(path: Path, limit: int) -> bytes:
    """Return whole lines from the end of a log, rotated files included."""
    data = b""
    for file in _files(path):
        if len(data) >= limit:
            break
        try:
            piece = read_tail(file, limit - len(data))
        except OSError:
            continue
        data = piece + data if piece.endswith(b"\n") or not piece else piece + b"\n" + data
    return data


def _timed_lines(data: bytes) -> list[tuple[datetime, str]]:
    """Parse the lines of a log file; a line without a time gets the time of the line before it.

    The result is empty if no line has a time: the file is not one of our logs.
    """
    lines: list[tuple[datetime, str]] = []
    for raw in data.split(b"\n")[:-1]:
        text = raw.decode("utf-8", "replace")
        at = _time_of(text[:_STAMP_LENGTH])
        if at is not None:
            lines.append((at, text[_STAMP_LENGTH:]))
        elif lines:
            lines.append((lines[-1][0], text))
    return lines


def _time_of(stamp: str) -> datetime | None:
    with contextlib.suppress(ValueError):
        if stamp.endswith("Z "):
            return datetime.fromisoformat(stamp[:-2]).replace(tzinfo=UTC)
    return None


class LogWriter:
    """Writes log files in one thread, so that a slow disk never stops the event loop.

    At most ``max_pending`` bytes wait; beyond that lines are dropped and their number is written
    instead. A file that exceeds ``max_file`` bytes is rotated to ``NAME.1`` … ``NAME.keep``.
    """

    def __init__(
        self,
        directory: Path,
        *,
        max_pending: int = 8 << 20,
        max_file: int = 16 << 20,
        keep: int = _KEEP,
    ) -> None:
        self._directory = directory
        self._max_pending = max_pending
        self._max_file = max_file
        self._keep = keep
        self._queue: queue.SimpleQueue[tuple[str, bytes] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._pending = 0
        self._dropped = 0
        self._failed: set[str] = set()
        self._begun: set[str] = set()
        """Files whose last line is known to be complete."""
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)

    def start(self) -> None:
        """Create the directory and start the thread. Raises ``OSError`` except for a full disk."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            if not has_no_room(error):
                raise
            _logger.warning("%s", write_problem(self._directory, error))
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Write the pending lines and end the thread; give up after ``timeout`` seconds."""
        self._queue.put(None)
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def write(self, name: str, batch: LogBatch) -> None:
        """Queue lines for the file ``name`` and return at once."""
        lines = batch.texts
        stamp = f"{batch.at:{_STAMP}}"
        between = f"\n{stamp}"
        data = f"{stamp}{between.join(lines)}\n".encode("utf-8", "replace")
        with self._lock:
            if self._pending + len(data) > self._max_pending:
                self._dropped += len(lines)
                return
            self._pending += len(data)
            if self._dropped:
                notice = f"[{self._dropped} lines dropped: the disk is too slow]\n".encode()
                data = notice + data
                self._pending += len(notice)
                self._dropped = 0
        self._queue.put((name, data))

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            name, data = item
            with self._lock:
                self._pending = max(0, self._pending - len(data))
            path = self._directory / name
            try:
                if path.exists() and path.stat().st_size > self._max_file:
                    self._rotate(path)
                with path.open("a+b") as file:
                    if name not in self._begun and file.seek(0, os.SEEK_END):
                        # A crash or a full disk may have left an incomplete line.
                        file.seek(-1, os.SEEK_END)
                        data = data if file.read(1) == b"\n" else b"\n" + data
                    file.write(data)
                self._begun.add(name)
            except OSError as error:
                self._begun.discard(name)
                # Warn once for each file: the service's own log may be on the same full disk.
                if name not in self._failed:
                    self._failed.add(name)
                    _logger.warning(
                        "cannot write the log file %s: %s", path, error.strerror or error
                    )

    def _rotate(self, path: Path) -> None:
        for number in range(self._keep, 0, -1):
            older = path.with_name(f"{path.name}.{number}")
            newer = path if number == 1 else path.with_name(f"{path.name}.{number - 1}")
            if newer.exists():
                newer.replace(older)
