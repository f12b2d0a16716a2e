"""Reads and searches the lines of a log, part by part, in files or in memory.

A line of a file is its time, a space and its text: ``2026-01-31T12:00:00.000000Z text``. If its
level does not follow from the text, a slash and the level's letter come after the time:
``2026-01-31T12:00:00.000000Z/E text``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import msgspec

from cyber_inference_tui.llama.log_level import DEBUG, LEVELS, line_ranks
from cyber_inference_tui.records import NumberedLine
from cyber_inference_tui.text import clean_lines

STAMP_LENGTH = 27
"""Characters of a line's time, up to ``Z``."""
_AFTER = slice(STAMP_LENGTH - 1, STAMP_LENGTH + 1)
"""The end of a line's time and what follows: ``Z`` and a space or a slash."""
LETTERS = "DIWE"
"""The letters of the levels, by rank."""
SPAN_BYTES = 1 << 18
"""The size of a part of a file that is read as a whole."""
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

    def read(self) -> bytes:
        """Return the lines as they are in a file. Blocks; nothing is left of a deleted file."""
        if self.path is None:
            return self.data
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)
        return b""

    def rows(self, data: bytes) -> list[str]:
        """Return the lines in ``data``, which was read, with their times."""
        rows = data.removesuffix(b"\n").decode("utf-8", "replace").split("\n") if data else []
        return rows[: self.end - self.first]

    def short(self) -> Sequence[Span]:
        """Return parts that are quick to read. Blocks."""
        if self.path is None or self.size <= 2 * SPAN_BYTES:
            return (self,)
        if self.parts is None:
            self.parts = count_lines(self)
        return self.parts


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


def texts_of(rows: Sequence[str]) -> list[str]:
    """Return the texts of lines of a file; the whole line if it has no time."""
    plain, marked = STAMP_LENGTH + 1, STAMP_LENGTH + 3
    return [
        row[plain:] if (after := row[_AFTER]) == "Z " else row[marked:] if after == "Z/" else row
        for row in rows
    ]


@lru_cache(maxsize=4)
def time_of(stamp: str) -> datetime | None:
    """Return the time at the start of a line of a file, if there is one."""
    try:
        return datetime.fromisoformat(stamp[:-1]).replace(tzinfo=UTC) if stamp[-1:] == "Z" else None
    except ValueError:
        return None


def ranks_of(rows: Sequence[str]) -> list[int]:
    """Return the rank of each line of a file."""
    ranks = list(line_ranks(texts_of(rows)))
    for place, row in enumerate(rows):
        if row[_AFTER] == "Z/":
            ranks[place] = max(DEBUG, LETTERS.find(row[STAMP_LENGTH + 1 : STAMP_LENGTH + 2]))
    return ranks


class LineFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Selects lines of the rank ``rank`` or above that contain ``text``.

    The search ignores case (``str.casefold``).
    """

    rank: int = DEBUG
    text: str = ""


def _find(span: Span, low: int, high: int, wanted: LineFilter) -> tuple[Sequence[int], list[str]]:
    """Return the offsets of matches from ``low`` to ``high`` (exclusive), and all rows."""
    if span.worst is not None and span.worst < wanted.rank:
        return (), []
    data, needle = span.read(), wanted.text.casefold()
    # One look at all lines excludes most spans.
    if needle and needle not in data.decode("utf-8", "replace").casefold():
        return (), []
    rows = span.rows(data)
    offsets: Sequence[int] = range(low, min(high, len(rows)))
    if needle:
        texts = texts_of(rows)
        offsets = [offset for offset in offsets if needle in texts[offset].casefold()]
    if wanted.rank > DEBUG and offsets:
        ranks = ranks_of(rows)
        span.worst = max(ranks)
        offsets = [offset for offset in offsets if ranks[offset] >= wanted.rank]
    return offsets, rows


def _numbered(span: Span, offsets: Sequence[int], rows: Sequence[str]) -> list[NumberedLine]:
    chosen = [rows[offset] for offset in offsets]
    texts, ranks = clean_lines(texts_of(chosen)), ranks_of(chosen)
    # A damaged line has the time of the line before it.
    before = (time_of(row[:STAMP_LENGTH]) for row in reversed(rows[: offsets[0]]))
    at = time_of(chosen[0][:STAMP_LENGTH]) or next(filter(None, before), _EARLIEST)
    lines = []
    for offset, row, text, rank in zip(offsets, chosen, texts, ranks, strict=True):
        at = time_of(row[:STAMP_LENGTH]) or at
        lines.append(NumberedLine(number=span.first + offset, at=at, text=text, level=LEVELS[rank]))
    return lines


def _short(spans: Sequence[Span], *, backwards: bool) -> Iterator[Span]:
    for span in reversed(spans) if backwards else spans:
        yield from reversed(span.short()) if backwards else span.short()


def read_lines(
    spans: Sequence[Span],
    *,
    start: int,
    stop: int,
    backwards: bool,
    limit: int,
    wanted: LineFilter,
    give_up: Callable[[], bool] = lambda: False,
) -> tuple[list[NumberedLine], int]:
    """Return at most ``limit`` matching lines with numbers from ``start`` to ``stop`` (exclusive).

    These are the first matches, or with ``backwards`` the last ones, always in order. The second
    result is the end of the search: the number after the last line examined, or with ``backwards``
    the number of the first. ``give_up`` is called after every span; ``limit`` is 1 or more. Blocks;
    raises ``OSError``.
    """
    pieces: list[list[NumberedLine]] = []
    left = limit
    reached = stop if backwards else start
    for span in _short(spans, backwards=backwards):
        low, high = max(start, span.first), min(stop, span.end)
        if low >= high:
            continue
        offsets, rows = _find(span, low - span.first, high - span.first, wanted)
        chosen = offsets[-left:] if backwards else offsets[:left]
        if chosen:
            pieces.append(_numbered(span, chosen, rows))
            left -= len(chosen)
        if not left:
            edge = chosen[0] if backwards else chosen[-1] + 1
            reached = span.first + edge
            break
        reached = low if backwards else high
        if give_up():
            break
    else:
        # Numbers without lines, which a slow disk lost, need no further search.
        reached = start if backwards else stop
    if backwards:
        pieces.reverse()
    return [line for piece in pieces for line in piece], reached


def last_texts(spans: Sequence[Span], count: int) -> list[str]:
    """Return the texts of the last ``count`` lines, oldest first. Blocks; raises ``OSError``."""
    pieces: list[list[str]] = []
    for span in _short(spans, backwards=True):
        if count <= 0:
            break
        pieces.append(clean_lines(texts_of(span.rows(span.read())[-count:])))
        count -= len(pieces[-1])
    return [text for piece in reversed(pieces) for text in piece]
