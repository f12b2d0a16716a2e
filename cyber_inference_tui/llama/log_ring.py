"""Keeps logs in memory: numbered lines, older ones packed, within limits that all logs share."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from itertools import groupby, islice, pairwise

import msgspec

from cyber_inference_tui.llama.log_block import (
    BLOCK_CHARACTERS,
    BLOCK_LINES,
    Block,
    LineFilter,
    microseconds,
    read_lines,
)
from cyber_inference_tui.llama.log_level import ERROR, LEVELS, line_ranks
from cyber_inference_tui.records import LogLevel, LogLine, LogRun
from cyber_inference_tui.text import clean_lines

MAX_LINES = 1_000_000
MAX_BYTES = 40 << 20
"""The limits of all logs together; bytes are those of packed lines."""

RUN_MARK = "--- starting: "
"""The start of the first line of a run."""

_MAX_RUNS = 100
_PIECE_LINES = 256
_UNPACKED = 0
"""zlib's level for a block that is read once: it only copies."""


class LogBatch(msgspec.Struct, frozen=True, gc=False):
    """Lines that arrived together. ``first`` is the number of the first, ``ranks`` their levels."""

    first: int
    at: datetime
    texts: list[str]
    ranks: bytes

    def lines(self, last: int) -> Iterable[LogLine]:
        """Yield the last lines as records."""
        skipped = max(0, len(self.texts) - last)
        for text, rank in zip(self.texts[skipped:], self.ranks[skipped:], strict=True):
            yield LogLine(at=self.at, text=text, level=LEVELS[rank])


class LogSpace:
    """The memory that several logs share.

    At least the newest ``max_lines`` are kept if they fit into ``max_bytes``. Beyond either limit
    the largest log drops its oldest block, so a flood in one log costs the others nothing. The
    newest lines of each log, a block at most, are not counted.
    """

    def __init__(self, *, max_lines: int = MAX_LINES, max_bytes: int = MAX_BYTES) -> None:
        self._max_lines = max_lines
        self._max_bytes = max_bytes
        self._logs: list[LogRing] = []
        self._lines = 0
        self._bytes = 0

    def join(self, log: LogRing) -> None:
        """Count another log (called by that log)."""
        self._logs.append(log)

    def take(self, block: Block) -> None:
        """Count a block that a log has packed (called by that log), and make room for it."""
        self._lines += block.count
        self._bytes += block.size
        while self._bytes > self._max_bytes:
            self._drop(max(self._logs, key=lambda log: log.packed_bytes))
        while self._lines > self._max_lines:
            log = max(self._logs, key=lambda log: log.packed_lines)
            if self._lines - log.blocks[0].count < self._max_lines:
                break
            self._drop(log)

    def _drop(self, log: LogRing) -> None:
        block = log.drop_oldest()
        self._lines -= block.count
        self._bytes -= block.size


class LogRing:
    """The lines of the successive processes of a model, or of the service, numbered from 0.

    ``listeners`` are called with each batch of new lines, in order, on the thread that adds it.
    Lines are packed ``block_lines`` at a time, or fewer if they are long.
    """

    def __init__(
        self,
        *,
        now: Callable[[], datetime],
        space: LogSpace | None = None,
        block_lines: int = BLOCK_LINES,
    ) -> None:
        self._now = now
        self._block_lines = block_lines
        self.space = space or LogSpace()
        """The memory that it shares with other logs."""
        self.space.join(self)
        self.blocks: deque[Block] = deque()
        """All but the newest lines, packed."""
        self.packed_lines = 0
        self.packed_bytes = 0
        self.end = 0
        """The number of the next line."""
        self.runs: deque[LogRun] = deque(maxlen=_MAX_RUNS)
        """The runs that still have lines, oldest first."""
        self.running = False
        """Whether the process of the last run still exists."""
        self.restored = 0
        """The number of lines, from the first on, that are from earlier runs of the service."""
        self.last_at: datetime | None = None
        self._last_error: int | None = None
        self.listeners: list[Callable[[LogBatch], None]] = []
        self._begin_block()

    def _begin_block(self) -> None:
        self._texts: list[str] = []
        self._ranks = bytearray()
        self._starts: list[int] = []
        self._times: list[int] = []
        self._characters = 0

    def __len__(self) -> int:
        return self.end - self.first

    @property
    def first(self) -> int:
        """The number of the oldest line."""
        return self.blocks[0].first if self.blocks else self.end - len(self._texts)

    @property
    def last_error(self) -> int | None:
        """The number of the newest line of the level ``error``; ``None`` if it was dropped."""
        number = self._last_error
        return number if number is not None and number >= self.first else None

    def add(self, texts: Iterable[str], level: LogLevel | None = None) -> None:
        """Append lines and clean them.

        ``level`` is the level of all of them, if known; otherwise each line's text gives its level.
        """
        cleaned = clean_lines(list(texts))
        if not cleaned:
            return
        ranks = line_ranks(cleaned) if level is None else _rank(level) * len(cleaned)
        batch = LogBatch(self.end, self._now(), cleaned, ranks)
        if (newest := ranks.rfind(ERROR)) >= 0:
            self._last_error = self.end + newest
        self._append_all(cleaned, ranks, batch.at)
        for listener in list(self.listeners):
            listener(batch)

    def restore(self, lines: Sequence[tuple[datetime, str]]) -> None:
        """Add lines of earlier runs, oldest first; no listener is called.

        Does nothing if the log already has lines.
        """
        if self.end or not lines:
            return
        texts = clean_lines([text for _, text in lines])
        ranks = line_ranks(texts)
        self._last_error = newest if (newest := ranks.rfind(ERROR)) >= 0 else None
        for at, group in groupby(range(len(lines)), key=lambda number: lines[number][0]):
            numbers = list(group)
            part = slice(numbers[0], numbers[-1] + 1)
            self.runs.extend(
                LogRun(first=number, started_at=at)
                for number in numbers
                if texts[number].startswith(RUN_MARK)
            )
            self._append_all(texts[part], ranks[part], at)
        self.restored = self.end

    def _append_all(self, texts: list[str], ranks: bytes, at: datetime) -> None:
        self.last_at = at
        time = microseconds(at)
        # A batch may be larger than a block.
        longest = max(map(len, texts)) + 1
        step = max(1, min(_PIECE_LINES, self._block_lines, BLOCK_CHARACTERS // 2 // longest))
        for first in range(0, len(texts), step):
            self._append(texts[first : first + step], ranks[first : first + step], time)

    def _append(self, texts: list[str], ranks: bytes, time: int) -> None:
        if not self._times or self._times[-1] != time:
            self._starts.append(len(self._texts))
            self._times.append(time)
        self._texts += texts
        self._ranks += ranks
        self._characters += sum(map(len, texts))
        self.end += len(texts)
        if self._characters >= BLOCK_CHARACTERS or len(self._texts) >= self._block_lines:
            block = self._pack()
            self.blocks.append(block)
            self.packed_lines += block.count
            self.packed_bytes += block.size
            self._begin_block()
            self.space.take(block)

    def _pack(self, **options: int) -> Block:
        first = self.end - len(self._texts)
        return Block(first, self._texts, self._ranks, self._starts, self._times, **options)

    def drop_oldest(self) -> Block:
        """Drop the oldest packed lines (called by the space, which counts them)."""
        block = self.blocks.popleft()
        self.packed_lines -= block.count
        self.packed_bytes -= block.size
        return block

    def snapshot(self) -> tuple[Block, ...]:
        """Return all lines as they are now; any thread may read the result."""
        if not self._texts:
            return tuple(self.blocks)
        return (*self.blocks, self._pack(level=_UNPACKED))

    def tail(self, count: int) -> tuple[LogLine, ...]:
        """Unpack and return the last ``count`` lines, oldest first; meant for a few hundred."""
        if count <= 0:
            return ()
        blocks = self._newest(count)
        lines, _ = read_lines(
            blocks, start=0, stop=self.end, backwards=True, limit=count, wanted=LineFilter()
        )
        return tuple(LogLine(at=line.at, text=line.text, level=line.level) for line in lines)

    def _newest(self, count: int) -> Sequence[Block]:
        """Return blocks that contain at least the last ``count`` lines."""
        if not self._texts:
            return tuple(self.blocks)
        newest = self._pack(level=_UNPACKED)
        return (newest,) if count <= newest.count else (*self.blocks, newest)

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


class LogMark:
    """Collects the last ``keep`` lines that arrive after it was made."""

    def __init__(self, ring: LogRing, keep: int = 400) -> None:
        self._ring = ring
        self._lines: deque[str] = deque(maxlen=keep)
        ring.listeners.append(self._take)

    def _take(self, batch: LogBatch) -> None:
        self._lines.extend(batch.texts)

    def lines(self) -> tuple[str, ...]:
        """Return the collected lines, oldest first."""
        return tuple(self._lines)

    def close(self) -> None:
        """Stop collecting."""
        if self._take in self._ring.listeners:
            self._ring.listeners.remove(self._take)


def _rank(level: LogLevel) -> bytes:
    return bytes([LEVELS.index(level)])
