"""Divides the machine's energy among the requests that run.

At each moment the requests at the models' servers have equal shares of the power. So a request's
energy is the sum of power / requests over its time, and the energies of all requests, with that of
the times without any, add up to the meter's.

A request costs two readings of ``mark``, which counts the seconds of a share: while two requests
run, it grows half as fast as the clock. Power is known later, from one reading of the meter to the
next, and then the seconds of a share in between have a price.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from math import inf

MOST_POINTS = 2048
"""Readings that are kept for the requests in progress; of older ones every second is dropped."""
LONGEST_HOLD = 1.0
"""Seconds after the last reading in which the power before it counts as the present one."""


class EnergyShares:
    """The shares of all requests. Times are those of the event loop, in seconds."""

    __slots__ = (
        "_joules",
        "_last_price",
        "_marks",
        "_moved_at",
        "_priced_at",
        "_priced_j",
        "_read_at",
        "_sums",
        "_watts",
        "due",
        "mark",
        "on_edge",
    )

    def __init__(self) -> None:
        self.mark = 0.0
        """The seconds of a share since the start; a request keeps it at its begin and its end."""
        self.on_edge: Callable[[], None] = lambda: None
        """Called at the begin and the end of a time with requests, if a reading is ``due`` then."""
        self.due = inf
        self._moved_at = 0.0
        self._marks: list[float] = []
        """The values of ``mark`` up to which seconds have prices, oldest first …"""
        self._sums: list[float] = []
        """… and the price of the shares up to each of them, in J."""
        self._priced_at = self._priced_j = 0.0
        """The time and the energy of the meter that the last of them belong to."""
        self._read_at = self._joules = 0.0
        """The time and the energy of the last reading of the meter."""
        self._last_price = 0.0
        """The price of a second up to the last of ``_marks``, in J."""
        self._watts: float | None = None
        """The mean power before it."""

    def begin(self, now: float, running: int) -> None:
        """Note that a request begins beside those that are running: the hot path."""
        self.move(now, running)
        if not running and now >= self.due:
            self._edge()

    def end(self, now: float, running: int) -> None:
        """Note that one of the running requests ends: the hot path."""
        self.move(now, running)
        if running == 1 and now >= self.due:
            self._edge()

    def move(self, now: float, running: int) -> None:
        """Move ``mark`` on to the present time."""
        seconds = now - self._moved_at
        if seconds > 0.0:
            if running:
                self.mark += seconds / running
            self._moved_at = now

    def _edge(self) -> None:
        self.due = inf
        self.on_edge()

    @property
    def is_priced(self) -> bool:
        """Whether the energy of all requests that have ended is known."""
        return bool(self._marks) and self.mark <= self._marks[-1]

    def add(self, at: float, mark: float, joules: float, *, after_gap: bool = False) -> None:
        """Add a reading of the meter: its energy at a time, with the ``mark`` of that time.

        ``after_gap``: the energy since the last one is not known, nor that of requests that began
        before.
        """
        if after_gap or not self._marks:
            self._marks, self._sums, self._watts = [mark], [0.0], None
            self._priced_at, self._priced_j = at, joules
        else:
            if at > self._read_at:
                self._watts = (joules - self._joules) / (at - self._read_at)
            if at > self._priced_at:
                # After a hold at too high a power, the next seconds cost less.
                self._price(at, mark, max(0.0, joules - self._priced_j))
        self._read_at, self._joules = at, joules

    def _price(self, at: float, mark: float, joules: float) -> None:
        """Price the seconds up to ``mark``: ``joules`` were used since the last priced time."""
        marks, sums = self._marks, self._sums
        if mark > marks[-1]:
            price = self._last_price = joules / (at - self._priced_at)
            sums.append(sums[-1] + price * (mark - marks[-1]))
            marks.append(mark)
            if len(marks) > MOST_POINTS:
                del marks[1 : MOST_POINTS // 2 : 2], sums[1 : MOST_POINTS // 2 : 2]
        self._priced_at = at
        self._priced_j += joules

    def joules(self, begin: float, end: float) -> float | None:
        """Return the energy of a request from its marks at its begin and its end, in J.

        ``None`` = it is not known. If the meter has not been read since the end, the last power
        counts on, and the next reading corrects what follows.
        """
        if not self._marks or begin < self._marks[0]:
            return None
        if end > self._marks[-1] and not self._hold():
            return None
        if begin == end:
            return 0.0
        if begin >= self._marks[-2]:
            # Most requests are short.
            return (end - begin) * self._last_price
        return self._sum(end) - self._sum(begin)

    def _hold(self) -> bool:
        seconds = self._moved_at - self._priced_at
        if self._watts is None or not 0.0 < seconds <= LONGEST_HOLD:
            return False
        self._price(self._moved_at, self.mark, self._watts * seconds)
        return True

    def _sum(self, mark: float) -> float:
        """Return what the shares up to ``mark`` cost."""
        marks, sums = self._marks, self._sums
        after = min(bisect_right(marks, mark), len(marks) - 1)
        if after == 0:
            return sums[0]
        part = (mark - marks[after - 1]) / (marks[after] - marks[after - 1])
        return sums[after - 1] + part * (sums[after] - sums[after - 1])
