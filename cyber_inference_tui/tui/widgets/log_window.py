"""The lines of a log view and the row of each."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from cyber_inference_tui.records import NumberedLine


@dataclass(frozen=True, slots=True)
class Gap:
    """Lines of the log that the window does not have."""

    number: int
    """Number of the first one."""
    count: int


Entry = NumberedLine | Gap


class LogWindow:
    """At most ``limit`` entries in the order of their numbers.

    ``rows_of`` returns the number of screen rows of an entry; call ``measure`` when its results
    change. Row 0 is the first row of the first entry.
    """

    def __init__(self, limit: int, rows_of: Callable[[Entry], int]) -> None:
        self._limit = max(1, limit)
        self._rows_of = rows_of
        self._entries: list[Entry] = []
        # First row of each entry, counted from a base that grows when entries are dropped, so that
        # the others keep their numbers.
        self._tops: list[int] = []
        self._end = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def limit(self) -> int:
        """Maximum number of entries."""
        return self._limit

    @property
    def rows(self) -> int:
        """Number of all rows."""
        return self._end - self._base

    @property
    def lines(self) -> Iterator[NumberedLine]:
        """The lines without the gaps."""
        return (entry for entry in self._entries if isinstance(entry, NumberedLine))

    @property
    def first_number(self) -> int:
        """The first line's number; 0 if there is none."""
        return self._entries[0].number if self._entries else 0

    @property
    def end_number(self) -> int:
        """The number after the last line's; 0 if there is none."""
        return self._entries[-1].number + 1 if self._entries else 0

    @property
    def _base(self) -> int:
        return self._tops[0] if self._tops else self._end

    def at(self, row: int) -> tuple[Entry, int] | None:
        """Return the entry at a row, and the row's index within the entry."""
        if not 0 <= row < self.rows:
            return None
        place = row + self._base
        index = bisect_right(self._tops, place) - 1
        return self._entries[index], place - self._tops[index]

    def row_of(self, number: int) -> int | None:
        """Return the first row of a line; ``None`` if the window does not have it."""
        index = self._index_from(number)
        if index == len(self._entries):
            return None
        entry = self._entries[index]
        if isinstance(entry, Gap) or entry.number != number:
            return None
        return self._tops[index] - self._base

    def row_from(self, number: int) -> int:
        """Return the first row of the first line from ``number`` on; after the last, ``rows``."""
        index = self._index_from(number)
        return self.rows if index == len(self._tops) else self._tops[index] - self._base

    def _index_from(self, number: int) -> int:
        return bisect_left(self._entries, number, key=lambda entry: entry.number)

    def clear(self) -> None:
        """Remove all entries."""
        self._entries.clear()
        self._tops.clear()
        self._end = 0

    def measure(self) -> None:
        """Measure every entry again."""
        self._end = 0
        self._tops.clear()
        self._place(self._entries)

    def add_newer(self, lines: Sequence[NumberedLine], *, gaps: bool) -> int:
        """Add lines newer than the window at its end, and drop as many at its front as needed.

        Return the number of dropped rows.
        """
        end = self.end_number
        new = list(_with_gaps([line for line in lines if line.number >= end], gaps))
        if end and new and gaps:
            new = [*_gap(end, new[0].number), *new]
        self._entries += new
        self._place(new)
        return self._drop_front(len(self._entries) - self._limit)

    def add_older(self, lines: Sequence[NumberedLine], *, gaps: bool) -> int:
        """Add lines older than the window at its front; return the number of added rows.

        The window may grow beyond its limit until ``trim_end`` is called.
        """
        first = self.first_number
        older = [line for line in lines if not self._entries or line.number < first]
        new = list(_with_gaps(older, gaps))
        if self._entries and new and gaps:
            new += _gap(new[-1].number + 1, first)
        rows = self.rows
        self._entries[:0] = new
        self.measure()
        return self.rows - rows

    def trim_end(self) -> bool:
        """Drop entries beyond the limit at the end; return whether there were any."""
        if len(self._entries) <= self._limit:
            return False
        keep = self._limit
        if isinstance(self._entries[keep - 1], Gap):
            keep -= 1
        self._end = self._tops[keep]
        del self._entries[keep:], self._tops[keep:]
        return True

    def _place(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self._tops.append(self._end)
            self._end += self._rows_of(entry)

    def _drop_front(self, count: int) -> int:
        if count <= 0:
            return 0
        if count < len(self._entries) and isinstance(self._entries[count], Gap):
            count += 1
        before = self._base
        del self._entries[:count], self._tops[:count]
        return self._base - before


def _with_gaps(lines: Sequence[NumberedLine], gaps: bool) -> Iterator[Entry]:
    """Yield each line once, in order, and with ``gaps`` the gaps between them."""
    before: int | None = None
    for line in lines:
        if before is not None and line.number <= before:
            continue
        if before is not None and gaps:
            yield from _gap(before + 1, line.number)
        yield line
        before = line.number


def _gap(start: int, end: int) -> list[Gap]:
    return [Gap(start, end - start)] if end > start else []
