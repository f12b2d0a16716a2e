"""Log files: their names, and a writer that rotates them and never holds up the event loop."""

from __future__ import annotations

import hashlib
import logging
import queue
import threading
from pathlib import Path
from urllib.parse import quote

from cyber_inference_tui.llama.log import LogBatch

_MAX_NAME = 200
"""Bytes of a log's name; file systems allow 255, and the ending and rotation need some."""

_logger = logging.getLogger(__name__)


def log_file_name(model_id: str) -> str:
    """The log file's name for an id: percent-encoded, so that no id can name another path.

    The service's own log is ``service.log``; a model that happens to be called ``service`` gets
    another name.
    """
    name = quote(model_id, safe=" +@=,()[]", errors="surrogatepass")
    if name.startswith(".") or name == "service":
        name = f"%{ord(name[0]):02X}{name[1:]}"
    if len(name) > _MAX_NAME:
        # "%~" never comes out of percent-encoding, so that no other id has this name.
        digest = hashlib.sha256(name.encode("ascii")).hexdigest()[:24]
        name = f"{name[: _MAX_NAME - 26]}%~{digest}"
    return f"{name}.log"


class LogWriter:
    """Writes log files from one thread, so that a slow disk never stops the event loop.

    At most ``max_pending`` bytes wait; beyond that lines are dropped and their number is written
    instead. A file is rotated to ``NAME.1`` … ``NAME.keep`` when it exceeds ``max_file`` bytes.
    """

    def __init__(
        self,
        directory: Path,
        *,
        max_pending: int = 8 << 20,
        max_file: int = 16 << 20,
        keep: int = 2,
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
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)

    def start(self) -> None:
        """Create the directory and begin writing."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Write what is pending and end the thread (given up after ``timeout`` seconds)."""
        self._queue.put(None)
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def write(self, name: str, batch: LogBatch) -> None:
        """Queue lines for the file ``name``; returns at once."""
        lines = batch.texts
        stamp = f"{batch.at:%Y-%m-%dT%H:%M:%S.%f}Z "
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
                with path.open("ab") as file:
                    file.write(data)
            except OSError as error:
                # Said once a file: the service's own log may be on the same full disk.
                if name not in self._failed:
                    self._failed.add(name)
                    _logger.warning("cannot write the log file %s: %s", path, error.strerror)

    def _rotate(self, path: Path) -> None:
        for number in range(self._keep, 0, -1):
            older = path.with_name(f"{path.name}.{number}")
            newer = path if number == 1 else path.with_name(f"{path.name}.{number - 1}")
            if newer.exists():
                newer.replace(older)
