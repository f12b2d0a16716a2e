"""Requests in progress, from the moment their model is known to their last byte."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from cyber_inference_tui.records import ActiveRequestRecord
from cyber_inference_tui.scheduler.state import Waiter


class Running(Protocol):
    """A request in progress."""

    def active(self, number: int, positions: Mapping[Waiter, int]) -> ActiveRequestRecord:
        """Return its present record, from its number and the positions of all waiting requests."""


class ActiveRequests:
    """The requests in progress.

    Most requests end so soon that nobody asks for them. They need not be added: ``add_others`` is
    called before the records are made, and adds them. ``on_add`` is called for every other one.
    """

    def __init__(self) -> None:
        self.add_others: Callable[[], None] = lambda: None
        self.on_add: Callable[[], None] = lambda: None
        self._last = 0
        self._present: dict[int, Running] = {}

    def add(self, request: Running) -> int:
        """Add a request; returns its number."""
        number = self._last = self._last + 1
        self._present[number] = request
        self.on_add()
        return number

    def remove(self, number: int) -> None:
        """Remove a request that is over."""
        del self._present[number]

    def records(self, positions: Mapping[Waiter, int]) -> list[ActiveRequestRecord]:
        """Return a record for each request, oldest first."""
        self.add_others()
        found = [request.active(number, positions) for number, request in self._present.items()]
        return sorted(found, key=lambda record: (record.at, record.number))
