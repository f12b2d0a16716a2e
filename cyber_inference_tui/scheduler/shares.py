"""The shares of the priorities while requests of several priorities wait. Pure.

This is weighted fair queueing: every priority has a clock, which an admission moves on by
``1 / weight``. The next request is the oldest of the priority whose clock would be the earliest
after it. So a priority that waits all the time gets its share, whatever the others do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from cyber_inference_tui.records import Priority

if TYPE_CHECKING:
    from cyber_inference_tui.scheduler.state import Waiter

WEIGHTS = {Priority.LOW: 1, Priority.NORMAL: 4, Priority.HIGH: 16}
"""The admissions of each priority out of 21 while all three wait.

A factor of 4 gives the higher of two neighbours 80 %, which a person feels, and still leaves the
lowest priority one of 21: at 10 s per request and four slots that is one in 53 s, which is well
within the default ``queue_timeout``.
"""

_TICKS = {priority: WEIGHTS[Priority.HIGH] // weight for priority, weight in WEIGHTS.items()}
"""The clock's progress with one admission, as a whole number."""


def highest(priorities: Iterable[Priority]) -> Priority:
    """Return the highest of these priorities; ``NORMAL`` if there are none."""
    return max(priorities, key=WEIGHTS.__getitem__, default=Priority.NORMAL)


class Shares:
    """The clocks of the priorities at one model. Requests of one priority keep their order."""

    def __init__(self) -> None:
        self._clocks = dict.fromkeys(Priority, 0)
        self._running = {Priority.LOW: 0, Priority.HIGH: 0}
        """Normal requests are not counted here, because most have begun before the first other."""

    def heads(self, waiters: Iterable[Waiter]) -> list[Waiter]:
        """Return the oldest request of each priority, in the order in which they are next."""
        oldest: dict[Priority, Waiter] = {}
        for waiter in waiters:
            oldest.setdefault(waiter.priority, waiter)
            if len(oldest) == len(Priority):
                break
        return [oldest[priority] for priority in _by_turn(self._clocks, oldest)]

    def admit(self, waiter: Waiter, left: Iterable[Waiter]) -> None:
        """Count the admission of ``waiter`` before those that are ``left``."""
        _count(self._clocks, waiter.priority, {other.priority for other in left})

    def in_order(self, waiters: Iterable[Waiter]) -> list[Waiter]:
        """Return the requests in the order in which they are admitted if no others arrive."""
        lines: dict[Priority, deque[Waiter]] = {}
        for waiter in waiters:
            lines.setdefault(waiter.priority, deque()).append(waiter)
        clocks = self._clocks.copy()
        order = []
        while lines:
            priority = _by_turn(clocks, lines)[0]
            order.append(lines[priority].popleft())
            if not lines[priority]:
                del lines[priority]
            _count(clocks, priority, lines)
        return order

    def begin(self, priority: Priority) -> None:
        """Count a request that holds a place."""
        if priority in self._running:
            self._running[priority] += 1

    def end(self, priority: Priority) -> None:
        """Count the end of a request that held a place."""
        if priority in self._running:
            self._running[priority] -= 1

    def running(self, in_flight: int) -> set[Priority]:
        """Return the priorities of the requests that hold a place, which are ``in_flight``."""
        running = {priority for priority, count in self._running.items() if count}
        if in_flight > sum(self._running.values()):
            running.add(Priority.NORMAL)
        return running


def _by_turn(clocks: dict[Priority, int], waiting: Iterable[Priority]) -> list[Priority]:
    return sorted(waiting, key=lambda one: (clocks[one] + _TICKS[one], _TICKS[one]))


def _count(clocks: dict[Priority, int], admitted: Priority, waiting: Collection[Priority]) -> None:
    """Move the clocks on. A priority saves no share while none of it waits.

    Its next turn is not before that of ``admitted``, and it starts with no earlier clock than those
    that wait. All clocks start again when nobody waits.
    """
    if not waiting:
        clocks.update(dict.fromkeys(Priority, 0))
        return
    turn = clocks[admitted] = clocks[admitted] + _TICKS[admitted]
    earliest = min(clocks[priority] for priority in waiting)
    for priority in Priority:
        if priority not in waiting:
            clocks[priority] = max(clocks[priority], earliest, turn - _TICKS[priority])
