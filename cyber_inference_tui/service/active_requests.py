"""Requests in progress, from the moment their model is known to their last byte."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cyber_inference_tui.records import ActiveRequestRecord
from cyber_inference_tui.scheduler.state import Waiter

Describe = Callable[[int, Mapping[Waiter, int]], ActiveRequestRecord]
"""Returns a request's present record, from its number and the positions of all waiting requests."""


class ActiveRequests:
    """The requests in progress. Adding and removing cost one access to a dictionary each."""

    def __init__(self) -> None:
        self._last = 0
        self._present: dict[int, Describe] = {}

    def add(self, describe: Describe) -> int:
        """Add a request; returns its number."""
        self._last += 1
        self._present[self._last] = describe
        return self._last

    def remove(self, number: int) -> None:
        """Remove a request that is over."""
        del self._present[number]

    def records(self, positions: Mapping[Waiter, int]) -> list[ActiveRequestRecord]:
        """Return a record for each request, oldest first."""
        found = [describe(number, positions) for number, describe in self._present.items()]
        return sorted(found, key=lambda record: (record.at, record.number))
