"""Compresses a few hundred lines of a log, and reads and searches many such blocks.

A million lines of a llama-server (100 MB) take about 20 MB of memory. zlib's level 3 packs 64 KiB
in 0.4 ms, which the event loop can spare, and takes a few percent of a core at 50,000 lines a
second. Level 1 saves a fifth of that time and takes a tenth more memory; level 6 takes twice the
time and saves a sixth of the memory. Larger blocks save next to nothing and make each read slower.
An index into the log files would have to follow their rotation, and lists of strings take 150 MB.

Blocks never change, so any thread may read them.
"""

from __future__ import annotations

import zlib
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import accumulate, pairwise

import msgspec

from cyber_inference_tui.llama.log_level import DEBUG, LEVELS
from cyber_inference_tui.records import NumberedLine

BLOCK_CHARACTERS = 65_536
BLOCK_LINES = 2_048
"""A block is packed when it reaches this number of characters or lines."""

PACK_LEVEL = 3
_OVERHEAD = 400
"""Bytes of a block's Python objects, without the packed data (by ``sys.getsizeof``)."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def microseconds(at: datetime) -> int:
    """Return a time as microseconds since 1970."""
    return (at - _EPOCH) // _MICROSECOND


def moment(number: int) -> datetime:
    """Return the time of ``microseconds``."""
    return _EPOCH + timedelta(microseconds=number)


class Block:
    """Consecutive lines; the first has the number ``first``.

    Lines that arrived together share one time: ``starts`` are the offsets at which the next of
    ``times`` (in microseconds) begins. ``ranks`` are the levels, one byte each.
    """

    __slots__ = ("_facts", "_spans", "_text", "count", "first", "size", "worst")

    def __init__(
        self,
        first: int,
        texts: Sequence[str],
        ranks: bytes | bytearray,
        starts: Sequence[int],
        times: Sequence[int],
        *,
        level: int = PACK_LEVEL,
    ) -> None:
        self.first = first
        self.count = len(texts)
        self.worst = max(ranks)
        """The highest rank of its lines."""
        self._spans = len(starts)
        # Differences of times are small numbers, which compress well.
        steps = array("q", [times[0], *(b - a for a, b in pairwise(times))])
        self._facts = zlib.compress(
            bytes(ranks) + array("i", starts).tobytes() + steps.tobytes(), level
        )
        # No line contains a newline: each has been cleaned.
        self._text = zlib.compress("\n".join(texts).encode("utf-8"), level)
        self.size = len(self._facts) + len(self._text) + _OVERHEAD
        """The approximate bytes of memory."""

    @property
    def end(self) -> int:
        """The number after the last line."""
        return self.first + self.count

    def text(self) -> str:
        """Return all its lines, joined by newlines."""
        return zlib.decompress(self._text).decode("utf-8")

    def ranks(self) -> bytes:
        """Return the level of each line."""
        return zlib.decompress(self._facts)[: self.count]

    def lines(self, offsets: Iterable[int], texts: Sequence[str]) -> list[NumberedLine]:
        """Return the lines at these offsets; ``texts`` holds the text of every line."""
        facts = zlib.decompress(self._facts)
        ranks, starts, steps = facts[: self.count], array("i"), array("q")
        middle = self.count + self._spans * starts.itemsize
        starts.frombytes(facts[self.count : middle])
        steps.frombytes(facts[middle:])
        moments = [moment(time) for time in accumulate(steps)]
        return [
            NumberedLine(
                number=self.first + offset,
                at=moments[bisect_right(starts, offset) - 1],
                text=texts[offset],
                level=LEVELS[ranks[offset]],
            )
            for offset in offsets
        ]


class LineFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Selects lines of the rank ``rank`` or above that contain ``text``.

    The search ignores case (``str.casefold``).
    """

    rank: int = DEBUG
    text: str = ""

    @property
    def everything(self) -> bool:
        """True if every line matches."""
        return self.rank == DEBUG and not self.text


def find(
    block: Block, low: int, high: int, wanted: LineFilter
) -> tuple[Sequence[int], Sequence[str]]:
    """Return the offsets of matches from ``low`` to ``high`` (exclusive), and all lines' texts.

    Both are empty if no line matches.
    """
    if block.worst < wanted.rank:
        return (), ()
    offsets: Sequence[int] = range(low, high)
    if wanted.rank > DEBUG:
        ranks = block.ranks()
        offsets = [offset for offset in offsets if ranks[offset] >= wanted.rank]
        if not offsets:
            return (), ()
    text = block.text()
    if wanted.text:
        needle = wanted.text.casefold()
        folded = text.casefold()
        # One search over the whole text excludes most blocks.
        if needle not in folded:
            return (), ()
        folded_lines = folded.split("\n")
        offsets = [offset for offset in offsets if needle in folded_lines[offset]]
    return offsets, text.split("\n")


def read_lines(
    blocks: Sequence[Block],
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
    the number of the first. ``give_up`` is called after every block; ``limit`` is 1 or more.
    """
    pieces: list[list[NumberedLine]] = []
    left = limit
    reached = stop if backwards else start
    for block in reversed(blocks) if backwards else blocks:
        low, high = max(start, block.first), min(stop, block.end)
        if low >= high:
            continue
        offsets, texts = find(block, low - block.first, high - block.first, wanted)
        chosen = offsets[-left:] if backwards else offsets[:left]
        if chosen:
            pieces.append(block.lines(chosen, texts))
            left -= len(chosen)
        if not left:
            edge = chosen[0] if backwards else chosen[-1] + 1
            reached = block.first + edge
            break
        reached = low if backwards else high
        if give_up():
            break
    if backwards:
        pieces.reverse()
    return [line for piece in pieces for line in piece], reached


def last_texts(blocks: Sequence[Block], count: int) -> list[str]:
    """Return the texts of the last ``count`` lines, oldest first."""
    pieces: list[list[str]] = []
    for block in reversed(blocks):
        if count <= 0:
            break
        pieces.append(block.text().split("\n")[-count:])
        count -= len(pieces[-1])
    return [text for piece in reversed(pieces) for text in piece]
