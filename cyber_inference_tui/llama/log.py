"""A process's output as lines: a bounded ring in memory, and a rotated file on the disk.

Output arrives as chunks of any bytes: half lines, lines of megabytes, invalid UTF-8, control
sequences. ``LogRing.feed`` never fails on them and never keeps more than its bounds.
"""

from __future__ import annotations

import hashlib
import logging
import queue
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from cyber_inference_tui.records import LogLine
from cyber_inference_tui.text import clean_line

MAX_LINE_BYTES = 16_384
"""A longer line is cut here; the rest of it, up to its newline, is skipped."""

_ROUTER_PREFIX = b"cmd_child_to_router:"
_MAX_NAME = 200
"""Bytes of a log's name; file systems allow 255, and the ending and rotation need some."""

_LINE_BREAK = re.compile(rb"\r?\n|\r")

_logger = logging.getLogger(__name__)


class LogRing:
    """The last lines of one process (or of the service), oldest first.

    Bounded by ``max_lines`` and ``max_bytes`` (of text). ``listeners`` are called with each batch
    of new lines, in order, on the thread that feeds.
    """

    def __init__(
        self,
        *,
        now: Callable[[], datetime],
        max_lines: int = 20_000,
        max_bytes: int = 4 << 20,
    ) -> None:
        self._now = now
        self._max_lines = max_lines
        self._max_bytes = max_bytes
        self._lines: deque[LogLine] = deque()
        self._bytes = 0
        self.listeners: list[Callable[[tuple[LogLine, ...]], None]] = []

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, texts: Iterable[str]) -> None:
        """Append lines; each is made harmless first."""
        at = self._now()
        batch = tuple(LogLine(at=at, text=clean_line(text)) for text in texts)
        if not batch:
            return
        self._lines.extend(batch)
        self._bytes += sum(len(line.text) for line in batch)
        while len(self._lines) > self._max_lines or self._bytes > self._max_bytes:
            self._bytes -= len(self._lines.popleft().text)
        for listener in self.listeners:
            listener(batch)

    def tail(self, count: int) -> tuple[LogLine, ...]:
        """The last ``count`` lines, oldest first."""
        if count <= 0:
            return ()
        return tuple(self._lines)[-count:]

    def mark(self) -> LogMark:
        """A reader that later tells which lines came after this moment (within the ring)."""
        return LogMark(self)


class LogMark:
    """Collects the lines that arrive after it was made, bounded to the last ``keep``."""

    def __init__(self, ring: LogRing, keep: int = 400) -> None:
        self._ring = ring
        self._lines: deque[str] = deque(maxlen=keep)
        ring.listeners.append(self._take)

    def _take(self, batch: tuple[LogLine, ...]) -> None:
        self._lines.extend(line.text for line in batch)

    def lines(self) -> tuple[str, ...]:
        """What has come since the mark, oldest first."""
        return tuple(self._lines)

    def close(self) -> None:
        """Stop collecting."""
        if self._take in self._ring.listeners:
            self._ring.listeners.remove(self._take)


class LineSplitter:
    """Chunks in, whole lines out; at most ``MAX_LINE_BYTES`` are held back.

    A line ends with a newline, a carriage return (progress displays) or both. The lines do not
    depend on where the chunks were cut.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._skipping = False
        self._after_return = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that ``chunk`` completes, without their ends."""
        if not chunk:
            return []
        if self._after_return and chunk.startswith(b"\n"):
            # The other half of a line end that was cut in two.
            chunk = chunk[1:]
        self._after_return = chunk.endswith(b"\r")
        pieces = _LINE_BREAK.split(chunk) if b"\r" in chunk else chunk.split(b"\n")
        pieces[0] = b"" if self._skipping else self._rest + pieces[0]
        if len(pieces) > 1 and self._skipping:
            # The newline that ends the cut line; the cut part was given out already.
            pieces.pop(0)
            self._skipping = False
        self._rest = pieces.pop()
        if len(self._rest) > MAX_LINE_BYTES:
            pieces.append(self._rest)
            self._rest = b""
            self._skipping = True
        return [
            piece if len(piece) <= MAX_LINE_BYTES else piece[:MAX_LINE_BYTES] + b" [line cut]"
            for piece in pieces
        ]

    def flush(self) -> list[bytes]:
        """The unfinished last line, when the stream has ended."""
        rest, self._rest = self._rest, b""
        return [rest] if rest else []


def is_protocol_line(line: bytes) -> bool:
    """Whether a stdout line belongs to llama-server's router protocol rather than to its log."""
    return line.startswith(_ROUTER_PREFIX)


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

    def write(self, name: str, lines: tuple[LogLine, ...]) -> None:
        """Queue lines for the file ``name``; returns at once."""
        text = "".join(f"{line.at:%Y-%m-%dT%H:%M:%S.%f}Z {line.text}\n" for line in lines)
        data = text.encode("utf-8", "replace")
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
