"""Reads and searches the lines of a log, part by part, in files or in memory.

A line of a file is its time, a space and its text: ``2026-01-31T12:00:00.000000Z text``. If its
level does not follow from the text, a slash and the level's letter come after the time:
``2026-01-31T12:00:00.000000Z/E text``.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from cyber_inference_tui.llama.log_level import DEBUG, LEVELS, line_ranks
from cyber_inference_tui.records import LogLevel, NumberedLine
from cyber_inference_tui.records.logs import message_of
from cyber_inference_tui.text import clean_lines

STAMP_LENGTH = 27
"""Characters of a line's time, up to ``Z``."""
SPAN_BYTES = 1 << 17
"""The size of a part of a file that is read as a whole: about 1,000 lines, which is a page."""
_STAMP = "%Y-%m-%dT%H:%M:%S.%fZ"
_LETTERS = "DIWE"
"""The letters of the levels, by rank."""
_RANKS = {letter: rank for rank, letter in enumerate(_LETTERS)}
_ROW = re.compile(r"(?:([0-9:.T-]{26}Z)(?:/(.?))? ?)?+(.*+)\n")
"""The time, the letter and the text of a line; a line without a time is all text."""
_EARLIEST = datetime.fromtimestamp(0, UTC)


class Span(msgspec.Struct, gc=False):
    """Consecutive lines: those from ``first`` to ``end`` (exclusive) are in ``data`` or a file."""

    first: int
    end: int
    path: Path | None = None
    offset: int = 0
    size: int = 0
    data: bytes = b""
    worst: int | None = None
    """No line has a higher rank; ``None`` = nobody has looked yet."""
    parts: Sequence[Span] | None = None
    """The parts of a long span, once somebody has read it."""

    @property
    def count(self) -> int:
        """The number of lines."""
        return self.end - self.first

    def read(self) -> bytes:
        """Return the lines as they are in a file. Blocks; nothing is left of a deleted file."""
        if self.path is None:
            return self.data
        try:
            file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return b""
        try:
            return os.pread(file, self.size, self.offset)
        finally:
            os.close(file)

    def short(self) -> Sequence[Span]:
        """Return parts that are quick to read. Blocks."""
        if self.path is None or self.size <= 2 * SPAN_BYTES:
            return (self,)
        if self.parts is None:
            self.parts = count_lines(self)
        return self.parts


class LineFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Selects lines of the rank ``rank`` or above that contain each of ``texts``.

    The search ignores case (``str.casefold``), and the time and level that the program wrote.
    """

    rank: int = DEBUG
    texts: tuple[str, ...] = ()


ALL = LineFilter()


def encode_lines(data: bytes, at: datetime, level: LogLevel | None = None) -> bytes:
    """Return lines as they are in a file: each with its time, and its level if that is needed."""
    stamp = f"{at:{_STAMP}}"
    if level is not None:
        rank = LEVELS.index(level)
        if set(line_ranks(data.decode().split("\n")[:-1])) != {rank}:
            stamp = f"{stamp}/{_LETTERS[rank]}"
    prefix = f"{stamp} ".encode()
    return prefix + data[:-1].replace(b"\n", b"\n" + prefix) + b"\n"


def time_of(stamp: str | None) -> datetime | None:
    """Return the time at the start of a line of a file, if there is one."""
    try:
        return datetime.fromisoformat(stamp) if stamp and stamp[-1] == "Z" else None
    except ValueError:
        return None


def joined(spans: Iterable[Span]) -> Iterator[Span]:
    """Yield spans in memory, which follow one another, as few longer ones (``SPAN_BYTES``)."""
    group: list[Span] = []
    size = 0
    for span in spans:
        size += len(span.data)
        if group and size > SPAN_BYTES:
            yield _join(group)
            group, size = [], len(span.data)
        group.append(span)
    if group:
        yield _join(group)


def _join(group: Sequence[Span]) -> Span:
    return Span(
        group[0].first,
        group[-1].end,
        data=b"".join(span.data for span in group),
        worst=max(span.worst or 0 for span in group),
    )


def count_lines(span: Span) -> list[Span]:
    """Return the parts of a span in a file, each with the number of its lines. Blocks.

    The last line may lack its newline. Parts beyond ``span.end`` are left out.
    """
    if span.path is None:
        return [span]
    parts: list[Span] = []
    first, offset, end = span.first, span.offset, span.offset + span.size
    with contextlib.suppress(FileNotFoundError), span.path.open("rb") as file:
        while first < span.end:
            file.seek(offset)
            block = file.read(min(SPAN_BYTES, end - offset))
            if not block:
                break
            size = block.rfind(b"\n") + 1
            if not size or offset + len(block) == end:
                # The last line without a newline, or a damaged block.
                size = len(block)
            count = block.count(b"\n") + (not block[:size].endswith(b"\n"))
            after = min(span.end, first + count)
            parts.append(Span(first, after, span.path, offset, size))
            first, offset = after, offset + size
    return parts


def _search(span: Span, numbers: range, wanted: LineFilter, nearest: slice) -> list[NumberedLine]:
    """Return the ``nearest`` of the matching lines with these numbers."""
    needles = [text.casefold() for text in wanted.texts if text]
    if not needles and wanted.rank <= DEBUG:
        numbers = numbers[nearest]
    elif span.worst is not None and span.worst < wanted.rank:
        return []
    data = span.read()
    if needles:
        # One look at all lines excludes most spans, unless JSON may have escaped the text.
        folded = data.decode("utf-8", "replace").casefold()
        if any(one not in folded and (one.isalnum() or "\\" not in folded) for one in needles):
            return []
    rows = data.split(b"\n")
    if not rows[-1]:
        rows.pop()
    rows = rows[numbers.start - span.first : numbers.stop - span.first]
    cells = _ROW.split(b"\n".join([*rows, b""]).decode("utf-8", "replace"))
    stamps, letters, texts = cells[1::4], cells[2::4], cells[3::4]
    ranks: Sequence[int] = line_ranks(texts)
    if any(letters):
        ranks = [_RANKS.get(own, rank) for own, rank in zip(letters, ranks, strict=True)]
    if len(ranks) == span.count:
        span.worst = max(ranks)
    places: Sequence[int] = range(len(texts))
    for needle in needles:
        places = [place for place in places if _contains(texts[place], needle)]
    if wanted.rank > DEBUG:
        places = [place for place in places if ranks[place] >= wanted.rank]
    places = places[nearest]
    # A damaged line has no time: it gets the first one.
    at = next(filter(None, map(time_of, stamps)), _EARLIEST)
    times = {stamp: time_of(stamp) or at for stamp in set(stamps)}
    return [
        NumberedLine(
            number=numbers.start + place,
            at=times[stamps[place]],
            text=text,
            level=LEVELS[ranks[place]],
        )
        for place, text in zip(places, clean_lines([texts[n] for n in places]), strict=True)
    ]


def _contains(text: str, needle: str) -> bool:
    if needle not in text.casefold() and not text.startswith("{"):
        return False  # the usual case, quickly
    return needle in message_of(text).casefold()


def read_lines(
    spans: Sequence[Span],
    *,
    limit: int,
    start: int = 0,
    stop: int = sys.maxsize,
    backwards: bool = True,
    wanted: LineFilter = ALL,
    give_up: Callable[[], bool] = lambda: False,
) -> tuple[list[NumberedLine], int]:
    """Return at most ``limit`` matching lines with numbers from ``start`` to ``stop`` (exclusive).

    These are the last matches, or without ``backwards`` the first ones, always in order. The second
    result is the end of the search: the number of the first line examined, or without ``backwards``
    the number after the last. ``give_up`` is called after every span. Blocks; raises ``OSError``.
    """
    reached = stop if backwards else start
    if limit < 1 or start >= stop:
        return [], reached
    pieces: list[list[NumberedLine]] = []
    for span in _short(spans, range(start, stop), backwards=backwards):
        numbers = range(max(start, span.first), min(stop, span.end))
        if not numbers:
            continue
        nearest = slice(-limit, None) if backwards else slice(limit)
        if lines := _search(span, numbers, wanted, nearest):
            pieces.append(lines)
            limit -= len(lines)
        if not limit:
            reached = lines[0].number if backwards else lines[-1].number + 1
            break
        reached = numbers.start if backwards else numbers.stop
        if give_up():
            break
    else:
        # Numbers without lines, which a slow disk lost, need no further search.
        reached = start if backwards else stop
    if backwards:
        pieces.reverse()
    return [line for piece in pieces for line in piece], reached


def _short(spans: Sequence[Span], numbers: range, *, backwards: bool) -> Iterator[Span]:
    """Return the spans with these lines in parts, in the order of the search."""
    for span in reversed(spans) if backwards else spans:
        if span.first < numbers.stop and span.end > numbers.start:
            yield from reversed(span.short()) if backwards else span.short()
