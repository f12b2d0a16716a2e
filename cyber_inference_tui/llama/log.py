"""A log: numbered lines of a model's servers, or of the service; the newest are in memory.

A line costs next to nothing when it comes: chunks of output stay bytes, are counted, and get their
time as a whole. Texts and levels of lines are found when somebody reads them.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable
from datetime import datetime

import msgspec

from cyber_inference_tui.llama.log_files import MAX_RUNS, LogFiles
from cyber_inference_tui.llama.log_level import ERROR, INFO, LEVELS, WARNING, line_ranks
from cyber_inference_tui.llama.log_reading import Span, encode_lines, joined, read_lines
from cyber_inference_tui.records import LogLevel, LogRun, NumberedLine
from cyber_inference_tui.text import clean_lines

RUN_MARK = "--- starting: "
"""The start of the first line of a run."""

KEPT_BYTES = 65_536
"""The newest lines of each log that stay in memory."""
MOST_BYTES = 4 << 20
"""Lines of a log that wait for a slow disk; beyond it the oldest are lost."""
_SAMPLING = rb"    (?:repeat_last_n|dry_multiplier|top_k|mirostat) = [a-z_=0-9., -]*+\n"
_NO_ERRORS = re.compile(rb"(?:[0-9.]{12,20} [DIW] [^\n]*+\n|%b)*+" % _SAMPLING)
"""Lines with llama-server's signs of their levels, and those of sampling parameters, which have
none. A match takes a tenth of the time of ``line_ranks``."""


class Log:
    """The lines of the successive processes of a model, or of the service, numbered from 0.

    ``listeners`` are called with new lines, in order, on the thread that adds them. ``files`` has
    the lines of earlier runs of the service, and those that were written since.
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
        self.runs: deque[LogRun] = deque(maxlen=MAX_RUNS)
        """The runs that still have lines, oldest first."""
        self.running = False
        """Whether the process of the last run still exists."""
        self.last_at: datetime | None = None
        self._last_error: int | None = None
        self.listeners: list[Callable[[Span], None]] = []
        self._lock = threading.Lock()
        self._recent: deque[Span] = deque()
        self._recent_bytes = 0
        self._written = 0
        """The number after the last line in the files."""
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
        spans = self.files.spans if self.files else ()
        return min(spans[0].first if spans else self.end, self.memory_first)

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
        self.last_at = self._now()
        worst = _worst(data) if level is None else LEVELS.index(level)
        lines = encode_lines(data, self.last_at, level)
        span = Span(self.end, self.end + count, data=lines, worst=worst)
        if worst == ERROR:
            self._last_error = span.first + (count - 1 if level else _ranks(data).rindex(ERROR))
        with self._lock:
            self._recent.append(span)
            self._recent_bytes += len(lines)
            self.end = span.end
            self._forget()
        for listener in list(self.listeners):
            listener(span)
        return count

    def _forget(self) -> None:
        """Drop the oldest lines in memory that are in the files; without files, all but a few."""
        while self._recent_bytes > self._kept_bytes and len(self._recent) > 1:
            waits = self.files is not None and self._recent[0].end > self._written
            if waits and self._recent_bytes <= self._most_bytes:
                break
            self._recent_bytes -= len(self._recent.popleft().data)

    # For the thread that writes, and for readers

    def save(self) -> None:
        """Write the lines that are not in the files yet. Blocks; raises ``OSError``.

        At most one thread may do that.
        """
        while self.files is not None:
            with self._lock:
                waiting = (span for span in self._recent if span.first >= self._written)
                span = next(joined(waiting), None)
            if span is None:
                break
            if (lost := span.first - self._written) > 0:
                notice = b"--- %d lines are missing: the disk was full or too slow\n" % lost
                data = encode_lines(notice, self._now(), LogLevel.WARNING)
                worst = max(WARNING, span.worst or 0)
                span = Span(span.first - 1, span.end, data=data + span.data, worst=worst)
            self.files.append(span)
            with self._lock:
                self._written = span.end
                self._forget()

    def snapshot(self) -> list[Span]:
        """Return all lines as they are now, in order. Any thread may call this."""
        with self._lock:
            memory = tuple(self._recent)
            spans = self.files.spans if self.files else ()
        start = memory[0].first if memory else self.end
        older = [
            span if span.end <= start else msgspec.structs.replace(span, end=start)
            for span in spans
            if span.first < start
        ]
        return [*older, *joined(memory)]

    def memory(self) -> list[Span]:
        """Return the lines that are in memory."""
        with self._lock:
            return list(joined(self._recent))

    def tail(self, count: int) -> list[NumberedLine]:
        """Return the last ``count`` lines in memory, oldest first."""
        return read_lines(self.memory(), limit=count)[0]

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
        while len(runs) > 1 and runs[1].first <= self.first:
            del runs[0]
        return tuple(runs)

    def mark(self) -> LogMark:
        """Return a collector of the lines that arrive from now on (a bounded number)."""
        return LogMark(self)


def _worst(data: bytes) -> int:
    """Return a rank that no line exceeds: ``ERROR`` only if a line has it."""
    if _NO_ERRORS.fullmatch(data):
        return WARNING if b" W " in data else INFO
    return max(_ranks(data))


def _ranks(data: bytes) -> bytes:
    return line_ranks(data.decode().split("\n")[:-1])


class NewestLines:
    """Keeps the last ``most`` of the lines that are added."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._spans: deque[Span] = deque()
        self._count = 0

    def add(self, span: Span) -> None:
        """Add lines that follow the last ones."""
        self._spans.append(span)
        self._count += span.count
        while self._count - self._spans[0].count >= self._most:
            self._count -= self._spans.popleft().count

    def lines(self) -> list[NumberedLine]:
        """Return the lines, oldest first."""
        return read_lines(list(joined(self._spans)), limit=self._most)[0]


class LogMark:
    """Collects the last ``most`` lines that arrive after it was made."""

    def __init__(self, log: Log, most: int = 400) -> None:
        self._log = log
        self._newest = NewestLines(most)
        log.listeners.append(self._newest.add)

    def lines(self) -> tuple[str, ...]:
        """Return the texts of the collected lines, oldest first."""
        return tuple(line.text for line in self._newest.lines())

    def close(self) -> None:
        """Stop collecting."""
        with contextlib.suppress(ValueError):
            self._log.listeners.remove(self._newest.add)
