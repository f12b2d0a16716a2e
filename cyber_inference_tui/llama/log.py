"""A log: numbered lines of a model's servers, or of the service; the newest are in memory.

A line costs next to nothing when it comes: chunks of output stay bytes, are counted, and get their
time as a whole. Texts and levels of lines are found when somebody reads them.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable, Iterable
from datetime import datetime
from itertools import islice, pairwise

import msgspec

from cyber_inference_tui.llama.log_files import LogFiles, encode_lines
from cyber_inference_tui.llama.log_level import ERROR, INFO, LEVELS, WARNING, line_ranks
from cyber_inference_tui.llama.log_reading import SPAN_BYTES, Span
from cyber_inference_tui.records import LogLevel, LogLine, LogRun
from cyber_inference_tui.text import clean_lines

RUN_MARK = "--- starting: "
"""The start of the first line of a run."""

KEPT_BYTES = 65_536
"""The newest lines of each log that stay in memory."""
MOST_BYTES = 4 << 20
"""Lines of a log that wait for a slow disk; beyond it the oldest are lost."""
_MAX_RUNS = 100
_SIGNED = rb"(?:\d+\.\d\d\.\d{3}\.\d{3} [%b] [^\n]*\n)*+"
_KNOWN = ((re.compile(_SIGNED % b"DI"), INFO), (re.compile(_SIGNED % b"DIW"), WARNING))
"""Lines with llama-server's sign of their level, and the highest rank that they may have. A match
takes a fifth of the time of ``line_ranks``."""


class LogBatch(msgspec.Struct, frozen=True, gc=False):
    """Lines that arrived together: ``count`` lines from the number ``first`` on.

    ``data`` is their clean text in UTF-8, each line with a newline at its end. ``worst`` is the
    highest rank of a line. ``level`` is the level of all of them; ``None`` = each line's text gives
    its level.
    """

    first: int
    count: int
    at: datetime
    data: bytes
    worst: int
    level: LogLevel | None = None

    @property
    def end(self) -> int:
        """The number after the last line."""
        return self.first + self.count

    def texts(self, last: int | None = None) -> list[str]:
        """Return the texts of the lines, or of the last ones."""
        texts = self.data.decode().split("\n")[:-1]
        return texts if last is None else texts[max(0, len(texts) - last) :]

    def lines(self, last: int) -> list[LogLine]:
        """Return the last lines as records."""
        texts = self.texts(last)
        ranks = line_ranks(texts)
        return [
            LogLine(at=self.at, text=text, level=self.level or LEVELS[rank])
            for text, rank in zip(texts, ranks, strict=True)
        ]


class Log:
    """The lines of the successive processes of a model, or of the service, numbered from 0.

    ``listeners`` are called with each batch of new lines, in order, on the thread that adds it.
    ``files`` has the lines of earlier runs of the service, and those that were written since.
    """

    def __init__(
        self,
        *,
        now: Callable[[], datetime],
        files: LogFiles | None = None,
        kept_bytes: int = KEPT_BYTES,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._now = now
        self._kept_bytes = kept_bytes
        self._most_bytes = most_bytes
        self.files: LogFiles | None = None
        self.end = 0
        """The number of the next line."""
        self.restored = 0
        """The number of the first line that is not from an earlier run of the service."""
        self.runs: deque[LogRun] = deque(maxlen=_MAX_RUNS)
        """The runs that still have lines, oldest first."""
        self.running = False
        """Whether the process of the last run still exists."""
        self.last_at: datetime | None = None
        self._last_error: int | None = None
        self.listeners: list[Callable[[LogBatch], None]] = []
        self._lock = threading.Lock()
        self._recent: deque[LogBatch] = deque()
        self._recent_bytes = 0
        self._written = 0
        if files is not None:
            self.restore(files)

    def restore(self, files: LogFiles) -> None:
        """Begin with the lines in ``files``, which the following lines go to.

        Does nothing if the log already has lines.
        """
        if self.end:
            return
        self.files = files
        self.end = self.restored = self._written = files.end
        self.runs.extend(LogRun(first=number, started_at=at) for number, at in files.runs)
        self.last_at, self._last_error = files.last_at, files.last_error

    @property
    def first(self) -> int:
        """The number of the oldest line."""
        first = None if self.files is None else self.files.first
        return self.memory_first if first is None else min(first, self.memory_first)

    @property
    def memory_first(self) -> int:
        """The number of the oldest line in memory."""
        return self._recent[0].first if self._recent else self.end

    @property
    def last_error(self) -> int | None:
        """The number of the newest line of the level ``error``; ``None`` if it was dropped."""
        number = self._last_error
        return number if number is not None and number >= self.first else None

    def add(self, texts: Iterable[str], level: LogLevel | None = None) -> None:
        """Append lines and clean them.

        ``level`` is the level of all of them, if known; otherwise each line's text gives its level.
        """
        data = "".join(f"{text}\n" for text in clean_lines(list(texts)))
        self.write(data.encode("utf-8", "replace"), level)

    def write(self, data: bytes, level: LogLevel | None = None) -> int:
        """Append clean lines, each with a newline at its end; return their number."""
        count = data.count(b"\n")
        if not count:
            return 0
        worst = _worst(data) if level is None else LEVELS.index(level)
        batch = LogBatch(self.end, count, self._now(), data, worst, level)
        if level is LogLevel.ERROR:
            self._last_error = batch.end - 1
        elif worst == ERROR:
            self._last_error = self.end + line_ranks(batch.texts()).rindex(ERROR)
        self.last_at = batch.at
        with self._lock:
            self._recent.append(batch)
            self._recent_bytes += len(data)
            self.end = batch.end
            self._forget()
        for listener in list(self.listeners):
            listener(batch)
        return count

    def _forget(self) -> None:
        """Drop the oldest lines in memory that are in the files; without files, all but a few."""
        while self._recent_bytes > self._kept_bytes and len(self._recent) > 1:
            oldest = self._recent[0]
            waits = self.files is not None and oldest.end > self._written
            if waits and self._recent_bytes <= self._most_bytes:
                break
            self._recent.popleft()
            self._recent_bytes -= len(oldest.data)

    # For the thread that writes, and for readers

    def save(self) -> None:
        """Write the lines that are not in the files yet. Blocks; raises ``OSError``.

        At most one thread may do that.
        """
        while self.files is not None and (batches := self._unwritten()):
            if (lost := batches[0].first - self._written) > 0:
                notice = b"--- %d lines are missing: the disk was full or too slow\n" % lost
                first, at = batches[0].first - 1, batches[0].at
                batches.insert(0, LogBatch(first, 1, at, notice, WARNING, LogLevel.WARNING))
            data, worst = b"".join(map(_encode, batches)), max(batch.worst for batch in batches)
            self.files.append(batches[0].first, batches[-1].end, data, worst)
            with self._lock:
                self._written = batches[-1].end
                self._forget()

    def _unwritten(self) -> list[LogBatch]:
        """Return the oldest lines that are not in the files yet, a bounded number."""
        with self._lock:
            batches = [batch for batch in self._recent if batch.first >= self._written]
        size = 0
        for count, batch in enumerate(batches):
            size += len(batch.data)
            if size > SPAN_BYTES:
                return batches[: count + 1]
        return batches

    def snapshot(self) -> tuple[Span, ...]:
        """Return all lines as they are now, in order. Any thread may call this."""
        with self._lock:
            memory = self._memory()
            spans = self.files.spans if self.files else ()
        start = memory[0].first if memory else self.end
        older = [
            span if span.end <= start else msgspec.structs.replace(span, end=start)
            for span in spans
            if span.first < start
        ]
        return (*older, *memory)

    def memory(self) -> tuple[Span, ...]:
        """Return the lines that are in memory."""
        with self._lock:
            return self._memory()

    def _memory(self) -> tuple[Span, ...]:
        return tuple(
            Span(batch.first, batch.end, data=_encode(batch), worst=batch.worst)
            for batch in self._recent
        )

    def tail(self, count: int) -> tuple[LogLine, ...]:
        """Return the last ``count`` lines in memory, oldest first."""
        lines: list[LogLine] = []
        with self._lock:
            recent = list(self._recent)
        for batch in reversed(recent):
            if len(lines) >= count:
                break
            lines = batch.lines(count - len(lines)) + lines
        return tuple(lines)

    # Runs

    def begin_run(self, pid: int | None, *, first: int | None = None) -> None:
        """Begin the run of a process; ``first`` is the number of its first line (else the next)."""
        number = self.end if first is None else first
        self.runs.append(LogRun(first=number, started_at=self._now(), pid=pid))
        self.running = True

    def end_run(self, pid: int | None) -> None:
        """End the run of a process, unless another run has begun since."""
        if self.runs and self.runs[-1].pid == pid:
            self.running = False

    def kept_runs(self) -> tuple[LogRun, ...]:
        """Return the runs that still have lines, and always the last run, oldest first."""
        runs = list(self.runs)
        gone = sum(later.first <= self.first for _, later in pairwise(runs))
        return tuple(islice(runs, gone, None))

    def mark(self) -> LogMark:
        """Return a collector of the lines that arrive from now on (a bounded number)."""
        return LogMark(self)


def _worst(data: bytes) -> int:
    """Return a rank that no line exceeds: ``ERROR`` only if a line has it."""
    for pattern, rank in _KNOWN:
        if pattern.fullmatch(data):
            return rank
    return max(line_ranks(data.decode().split("\n")[:-1]))


def _encode(batch: LogBatch) -> bytes:
    return encode_lines(batch.data, batch.at, batch.level)


class LogMark:
    """Collects the last ``keep`` lines that arrive after it was made."""

    def __init__(self, log: Log, keep: int = 400) -> None:
        self._log = log
        self._lines: deque[str] = deque(maxlen=keep)
        log.listeners.append(self._take)

    def _take(self, batch: LogBatch) -> None:
        self._lines.extend(batch.texts())

    def lines(self) -> tuple[str, ...]:
        """Return the collected lines, oldest first."""
        return tuple(self._lines)

    def close(self) -> None:
        """Stop collecting."""
        if self._take in self._log.listeners:
            self._log.listeners.remove(self._take)
