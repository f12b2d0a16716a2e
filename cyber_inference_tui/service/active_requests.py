"""The requests that are in the house: from the moment their model is known to their last byte."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from cyber_inference_tui.records import ActiveRequestRecord
from cyber_inference_tui.scheduler.state import Waiter


class Active(Protocol):
    """One such request."""

    def active(self, number: int, positions: Mapping[Waiter, int], /) -> ActiveRequestRecord:
        """As it stands at this moment. ``positions`` has the places of those who wait."""


class ActiveRequests:
    """All of them. Coming and going cost one access to a dictionary each."""

    def __init__(self) -> None:
        self._last = 0
        self._present: dict[int, Active] = {}

    def come(self, request: Active) -> int:
        """A request has come; the number under which it goes."""
        self._last += 1
        self._present[self._last] = request
        return self._last

    def go(self, number: int) -> None:
        """It is over."""
        del self._present[number]

    def records(self, positions: Mapping[Waiter, int]) -> list[ActiveRequestRecord]:
        """Every one, the oldest first."""
        found = [one.active(number, positions) for number, one in self._present.items()]
        return sorted(found, key=lambda one: (one.at, one.number))
