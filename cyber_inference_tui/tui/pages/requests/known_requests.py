"""Finished requests as the requests page keeps them: those it was told of and those it fetched."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from cyber_inference_tui.records import ActiveRequestRecord, RequestRecord
from cyber_inference_tui.tui.pages.requests.request_status import failed

MOST_KEPT = 2_000
Identity = tuple[datetime, str, str, str | None]


@dataclass(frozen=True, slots=True)
class RequestFilter:
    """Which requests are wanted of the service."""

    model: str | None = None
    only_failures: bool = False

    def holds(self, record: RequestRecord) -> bool:
        """``record`` is wanted."""
        return self.model in {None, record.model} and (not self.only_failures or failed(record))


def identity(record: ActiveRequestRecord | RequestRecord) -> Identity:
    """Names a request, whether it lives, is done, or has its number in the history."""
    return record.at, record.model, record.path, record.client


class KnownRequests:
    """The requests of a choice, newest first; at most ``MOST_KEPT``, of which the oldest go."""

    def __init__(self, choice: RequestFilter) -> None:
        self.choice = choice
        self.complete = False
        """There are no older ones, or no more are kept."""
        self._known: dict[Identity, RequestRecord] = {}
        self._sorted: tuple[RequestRecord, ...] = ()
        self._merged: tuple[RequestRecord, ...] | None = None

    @property
    def records(self) -> tuple[RequestRecord, ...]:
        """What is known; the same object until something changes."""
        return self._sorted

    @property
    def oldest_id(self) -> int | None:
        """The number of the oldest one that has a number: older ones are asked for before it."""
        return min((one.id for one in self._sorted if one.id), default=None)

    def follow(self, records: tuple[RequestRecord, ...]) -> None:
        """Take up the snapshot's latest ones; costs nothing where they are those of before."""
        if records is not self._merged:
            self._merged = records
            self._take(records)

    def add_older(self, records: Iterable[RequestRecord], asked: int) -> None:
        """Take up a page of older ones; ``asked`` is how many were asked for."""
        page = list(records)
        news = self._take(page)
        if len(page) < asked or not news:
            self.complete = True

    def _take(self, records: Iterable[RequestRecord]) -> bool:
        """Whether there was anything new in them."""
        changed = False
        for record in records:
            if not self.choice.holds(record):
                continue
            name = identity(record)
            before = self._known.get(name)
            # The one with a number is the history's own: it stays.
            if before is None or (record.id and not before.id):
                self._known[name] = record
                changed = True
        if not changed:
            return False
        newest_first = sorted(self._known.values(), key=_age)
        if len(newest_first) >= MOST_KEPT:
            newest_first = newest_first[:MOST_KEPT]
            self._known = {identity(one): one for one in newest_first}
            self.complete = True
        self._sorted = tuple(newest_first)
        return True


def _age(record: RequestRecord) -> tuple[float, int]:
    return -record.at.timestamp(), -record.id
