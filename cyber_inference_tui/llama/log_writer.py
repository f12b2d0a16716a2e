"""Writes logs to their files in one thread, so that a slow disk never stops the event loop."""

from __future__ import annotations

import logging
import queue
import threading
from pathlib import Path

from cyber_inference_tui.files import has_no_room, write_problem
from cyber_inference_tui.llama.log import Log

_logger = logging.getLogger(__name__)


class LogWriter:
    """Writes the new lines of logs in ``directory``; each log keeps them until then."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._queue: queue.SimpleQueue[Log | None] = queue.SimpleQueue()
        self._waiting: set[Log] = set()
        """The logs in the queue: each is there once."""
        self._failed: set[Log] = set()
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
        """Write the waiting lines and end the thread; give up after ``timeout`` seconds."""
        self._queue.put(None)
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def wake(self, log: Log) -> None:
        """Have the new lines of a log written, and return at once."""
        if log not in self._waiting:
            self._waiting.add(log)
            self._queue.put(log)

    def _run(self) -> None:
        while (log := self._queue.get()) is not None:
            # First: lines that come from now on may need another turn.
            self._waiting.discard(log)
            try:
                log.save()
            except OSError as error:
                # Warn once for each log: the service's own log may be on the same full disk.
                if log not in self._failed and log.files is not None:
                    self._failed.add(log)
                    _logger.warning(
                        "%s Its newest lines are only in memory.",
                        write_problem(log.files.path, error),
                    )
