"""The finished requests that the page knows, from events and from the service's history."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cyber_inference_tui.records import RequestRecord
from cyber_inference_tui.tui.pages.requests.request_status import failed
from cyber_inference_tui.tui.snapshot import RequestIdentity, request_identity

MOST_KEPT = 2_000


@dataclass(frozen=True, slots=True)
class RequestFilter:
    """The selection of requests to show."""

    model: str | None = None
    only_failures: bool = False

    def holds(self, record: RequestRecord) -> bool:
        """Return whether ``record`` is selected."""
        return self.model in {None, record.model} and (not self.only_failures or failed(record))


class KnownRequests:
    """The requests of a selection, newest first, at most ``MOST_KEPT``."""

    def __init__(self, choice: RequestFilter) -> None:
        self.choice = choice
        self.complete = False
        """There are no older requests, or the bound is reached."""
        self._known: dict[RequestIdentity, RequestRecord] = {}
        self._sorted: tuple[RequestRecord, ...] = ()
        self._merged: tuple[RequestRecord, ...] | None = None

    @property
    def records(self) -> tuple[RequestRecord, ...]:
        """The known requests; the same object until they change."""
        return self._sorted

    @property
    def oldest_id(self) -> int | None:
        """The oldest known number in the history; older requests come before it."""
        return min((one.id for one in self._sorted if one.id), default=None)

    def follow(self, records: tuple[RequestRecord, ...]) -> None:
        """Add the snapshot's latest requests; free if they are the same as before."""
        if records is not self._merged:
            self._merged = records
            self._take(records)

    def add_older(self, records: Iterable[RequestRecord], asked: int) -> None:
        """Add a page of older requests, of which ``asked`` were requested."""
        page = list(records)
        changed = self._take(page)
        if len(page) < asked or not changed:
            self.complete = True

    def _take(self, records: Iterable[RequestRecord]) -> bool:
        """Add requests; return whether any was new."""
        changed = False
        for record in records:
            if not self.choice.holds(record):
                continue
            name = request_identity(record)
            before = self._known.get(name)
            # A record with a number is from the history and replaces one without.
            if before is None or (record.id and not before.id):
                self._known[name] = record
                changed = True
        if not changed:
            return False
        newest_first = sorted(self._known.values(), key=_age)
        if len(newest_first) >= MOST_KEPT:
            newest_first = newest_first[:MOST_KEPT]
            self._known = {request_identity(one): one for one in newest_first}
            self.complete = True
        self._sorted = tuple(newest_first)
        return True


def _age(record: RequestRecord) -> tuple[float, int]:
    return -record.at.timestamp(), -record.id
