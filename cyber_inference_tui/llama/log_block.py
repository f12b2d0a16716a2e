"""A few hundred lines of a log, compressed; and reading and searching many of them.

Why compressed, in memory: a million lines of a llama-server (100 MB) take about 20 MB, packed
with zlib's level 3 in 0.4 ms for each 64 KiB, less than the event loop notices and a few percent
of a core at 50,000 lines a second. Level 1 saves a fifth of that time and takes a tenth more
memory, level 6 takes twice the time and saves a sixth; larger blocks save next to nothing and
make every read of a line dearer. A file with an index would write to the disk what the log's own
file holds already, or would have to follow its rotation; lists of strings take 150 MB.

All of this is pure: blocks never change, so that any thread may read them.
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
"""A block is packed when it has as many characters or lines as these, or a little more."""

PACK_LEVEL = 3
_OVERHEAD = 400
"""Bytes of a block's objects, beside what is packed in them (by ``sys.getsizeof``)."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def microseconds(at: datetime) -> int:
    """A time as a number (since 1970)."""
    return (at - _EPOCH) // _MICROSECOND


def moment(number: int) -> datetime:
    """The opposite of ``microseconds``."""
    return _EPOCH + timedelta(microseconds=number)


class Block:
    """Lines in sequence, beginning with the number ``first``.

    Several lines that came at once share one time: ``starts`` are the offsets at which another
    time (``times``, in microseconds) begins. ``ranks`` are the levels, one byte each.
    """

    __slots__ = ("_facts", "_spans", "_text", "count", "first", "newest_at", "size", "worst")

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
        """The highest rank in it."""
        self.newest_at = times[-1]
        self._spans = len(starts)
        # Differences: times go up in small steps, which leaves little to pack.
        steps = array("q", [times[0], *(b - a for a, b in pairwise(times))])
        self._facts = zlib.compress(
            bytes(ranks) + array("i", starts).tobytes() + steps.tobytes(), level
        )
        # No line holds a newline: each has been cleaned.
        self._text = zlib.compress("\n".join(texts).encode("utf-8"), level)
        self.size = len(self._facts) + len(self._text) + _OVERHEAD
        """Bytes of memory, about."""

    @property
    def end(self) -> int:
        """The number after that of the last line."""
        return self.first + self.count

    def text(self) -> str:
        """All its lines, joined by newlines."""
        return zlib.decompress(self._text).decode("utf-8")

    def ranks(self) -> bytes:
        """The level of each line."""
        return zlib.decompress(self._facts)[: self.count]

    def lines(self, offsets: Iterable[int], texts: Sequence[str]) -> list[NumberedLine]:
        """The lines at these offsets; ``texts`` are those of all lines."""
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
    """Which lines are asked for: of the rank ``rank`` or above, with ``text`` in them.

    ``text`` is compared without regard to case (``str.casefold``).
    """

    rank: int = DEBUG
    text: str = ""

    @property
    def everything(self) -> bool:
        """Whether no line is left out."""
        return self.rank == DEBUG and not self.text


def find(
    block: Block, low: int, high: int, wanted: LineFilter
) -> tuple[Sequence[int], Sequence[str]]:
    """The offsets from ``low`` to ``high`` (exclusive) of wanted lines, and all lines' texts.

    Both are empty when none is wanted.
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
        # One search over all of it rules most blocks out.
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
    """At most ``limit`` wanted lines of those numbered from ``start`` to ``stop`` (exclusive).

    The first of them, or ``backwards`` the last; always in order. Also how far it was looked:
    the number after the last line looked at, or ``backwards`` that of the first. ``give_up`` is
    asked after every block; ``limit`` is 1 or more.
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
    """The texts of the last ``count`` lines, oldest first."""
    pieces: list[list[str]] = []
    for block in reversed(blocks):
        if count <= 0:
            break
        pieces.append(block.text().split("\n")[-count:])
        count -= len(pieces[-1])
    return [text for piece in reversed(pieces) for text in piece]
