"""The history: requests, sessions, measured models and the machine, kept across restarts.

Adding a record returns at once. One thread writes them in batches, which spares SD cards, so a
crash of the service loses the last batch at most.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from cyber_inference_tui.errors import CyberError, ShuttingDownError
from cyber_inference_tui.llama.needs import Measurement
from cyber_inference_tui.records import (
    ClientRecord,
    DraftTotals,
    KeyTotals,
    ModelTotals,
    RequestRecord,
    SessionRecord,
    SpeedTotals,
    TrendMark,
    to_json,
)
from cyber_inference_tui.records.bench import BenchResult
from cyber_inference_tui.records.queries import ClientsQuery, HistoryQuery, RequestQuery, SpeedQuery
from cyber_inference_tui.service.history_file import (
    FAULTS,
    UnusableFileError,
    close,
    is_damage,
    open_history,
    prune,
    reason_of,
    used_bytes,
    write,
)
from cyber_inference_tui.service.history_rows import (
    BenchRow,
    Record,
    select_benches,
    select_last_uses,
    select_marks,
    select_measurements,
    select_minutes,
    select_requests,
    select_sessions,
)
from cyber_inference_tui.service.history_sums import (
    select_clients,
    select_drafted,
    select_key_totals,
    select_speed_totals,
    select_totals,
)
from cyber_inference_tui.service.trend_points import Minute

T = TypeVar("T")

HISTORY_FILE = "history.sqlite3"

MAX_PENDING = 10_000
"""Records that may wait to be written."""

_BATCH_RECORDS = 500
_PRUNE_SECONDS = 3600.0
_CHECK_SECONDS = 60.0
"""Seconds to the next check of a file that was found sound after an error."""
_FLUSH_SECONDS = 10.0
_READ_SECONDS = 30.0
_STOP_SECONDS = 5.0

_NEWEST = RequestQuery()

_logger = logging.getLogger(__name__)


class _Query(NamedTuple):
    """A question to the file, and where its answer goes."""

    ask: Callable[[sqlite3.Connection], Any]
    answer: Future[Any]


class History:
    """Keeps records in the file ``path``; ``start`` and ``stop`` it on the event loop that uses it.

    Records are written after ``batch_seconds``, or sooner when many are pending. Requests and
    sessions older than ``max_age_days`` are removed (minutes and marks after 7 days; of benches
    the newest are kept), and the oldest while the file exceeds ``max_bytes``: at the start, every
    hour and when it has grown. An unusable file is set aside at the start, and when damage shows
    later. If no file can be opened, that is logged, nothing is kept, and there is nothing to read.
    ``now`` is called on the history's thread.
    """

    def __init__(
        self,
        path: Path,
        *,
        now: Callable[[], datetime],
        batch_seconds: float = 5.0,
        max_age_days: float = 30.0,
        max_bytes: int = 64 << 20,
    ) -> None:
        self._path = path
        self._now = now
        self._batch_seconds = batch_seconds
        self._max_age = timedelta(days=max_age_days)
        self._max_bytes = max_bytes
        # Only this thread uses the file. A daemon, because a dying disk may hold it for ever.
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)
        # Guards all that follows down to ``_dropped``.
        self._changed = threading.Condition()
        self._pending: list[Record] = []
        self._queries: list[_Query] = []
        self._is_stopping = False
        self._has_ended = False
        self._dropped = False
        # The thread's own.
        self._is_failing = False
        self._pruned_at = -_PRUNE_SECONDS
        self._checked_at = -_CHECK_SECONDS

    async def start(self) -> None:
        """Open the history and begin to write."""
        self._thread.start()
        try:
            await self.flush()
        except CyberError as error:
            _logger.warning("the history is not ready yet: %s", error)

    async def stop(self) -> None:
        """Write the pending records and close the file; gives up after some seconds."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        if self._thread.ident is not None:
            await asyncio.to_thread(self._thread.join, _STOP_SECONDS)
            if self._thread.is_alive():
                _logger.warning("the disk does not take the last records of the history in time")

    def add(self, record: Record) -> None:
        """Keep a record; returns at once. A measurement replaces that of the same signature."""
        self.add_all([record])

    def add_all(self, records: Sequence[Record]) -> None:
        """Keep records, as ``add`` does."""
        with self._changed:
            if self._has_ended:
                return
            before = len(self._pending)
            room = MAX_PENDING - before
            if len(records) > room:
                self._note_dropped()
            self._pending += records[:room]
            if before == 0 or before < _BATCH_RECORDS <= len(self._pending):
                self._changed.notify()

    async def flush(self) -> None:
        """Wait until all records so far are written, or an attempt to write them has failed.

        Raises ``CyberError`` if the disk does not answer.
        """
        with contextlib.suppress(ShuttingDownError):
            await self._read(lambda connection: [], limit=_FLUSH_SECONDS)

    def add_bench(self, result: BenchResult) -> None:
        """Keep the result of a bench, as ``add`` does; its ``id`` is given later."""
        self.add(BenchRow(at=result.at, model=result.model, result=to_json(result)))

    async def requests(self, query: RequestQuery = _NEWEST) -> list[RequestRecord]:
        """Return finished requests, newest first; ``before`` is the last id of the previous page.

        ``failed`` selects those with a status of 400 or more or an error, or only the others.
        Raises ``CyberError`` if the file cannot be read or its disk does not answer.
        """
        return await self._read(lambda connection: select_requests(connection, query))

    async def sessions(self, query: HistoryQuery = _NEWEST) -> list[SessionRecord]:
        """Return ended sessions, newest first, as ``requests``; ``since``: loaded then or later."""
        return await self._read(lambda connection: select_sessions(connection, query))

    async def measurements(self) -> list[Measurement]:
        """Return the latest measurement of each signature, newest first."""
        return await self._read(select_measurements)

    async def last_uses(self) -> dict[str, datetime]:
        """Return the last use of every model on this machine, by its id."""
        now = self._now()
        uses = await self._read(lambda connection: select_last_uses(connection, now))
        return {use.model: use.at for use in uses}

    async def minutes(self, since: datetime, until: datetime) -> list[Minute]:
        """Return the minutes between two times, oldest first."""
        return await self._read(lambda connection: select_minutes(connection, since, until))

    async def marks(self, since: datetime, until: datetime) -> list[TrendMark]:
        """Return the marks between two times, oldest first."""
        return await self._read(lambda connection: select_marks(connection, since, until))

    async def benches(self, query: HistoryQuery = _NEWEST) -> list[BenchResult]:
        """Return results of benches, newest first."""
        return await self._read(lambda connection: select_benches(connection, query))

    async def clients(self, query: ClientsQuery) -> list[ClientRecord]:
        """Return the clients of each port, the latest first."""
        return await self._read(lambda connection: select_clients(connection, query))

    async def totals(self) -> list[ModelTotals]:
        """Return sums over the requests that are kept, by model."""
        return await self._read(select_totals)

    async def key_totals(self, since: datetime | None = None) -> list[KeyTotals]:
        """Return sums over the requests that are kept, by the name of their key.

        ``since``: those that arrived then or later.
        """
        return await self._read(lambda connection: select_key_totals(connection, since))

    async def drafted(self, model: str) -> DraftTotals | None:
        """Return the drafts of a model's newest requests; ``None`` = none of them had one."""
        found = await self._read(lambda connection: select_drafted(connection, model))
        return found[0] if found else None

    async def speed_totals(
        self, query: SpeedQuery, price_per_kwh: float = 0.0
    ) -> list[SpeedTotals]:
        """Return sums and speeds over the requests that are kept, by name, and the energy's cost.

        A price of 0 = not known.
        """
        return await self._read(
            lambda connection: select_speed_totals(connection, query, price_per_kwh)
        )

    async def _read(
        self, ask: Callable[[sqlite3.Connection], list[T]], limit: float = _READ_SECONDS
    ) -> list[T]:
        query = _Query(ask, Future())
        with self._changed:
            if self._is_stopping:
                raise ShuttingDownError("The history is closed.")
            if self._has_ended:
                return []
            self._queries.append(query)
            self._changed.notify()
        try:
            async with asyncio.timeout(limit):
                found: list[T] = await asyncio.wrap_future(query.answer)
        except TimeoutError:
            raise CyberError("The disk of the history does not answer.") from None
        return found

    def _note_dropped(self) -> None:
        if not self._dropped:
            self._dropped = True
            _logger.warning(
                "the disk does not keep up with the history: records are dropped while %d wait"
                " to be written",
                MAX_PENDING,
            )

    # On the history's thread

    def _run(self) -> None:
        try:
            is_over = False
            suspect: int | None = None
            while not is_over:
                connection = open_history(self._path, now=self._now())
                if suspect == _inode(self._path):
                    # It was not set aside.
                    self._checked_at = time.monotonic()
                try:
                    is_over = self._use(connection)
                    suspect = _inode(self._path)
                finally:
                    close(connection)
        except (OSError, UnusableFileError, *FAULTS) as error:
            reason = reason_of(error)
            _logger.warning("no history is kept: %s cannot be opened: %s", self._path, reason)
        finally:
            with self._changed:
                self._has_ended = True
                queries, self._queries = self._queries, []
            for query in queries:
                if query.answer.set_running_or_notify_cancel():
                    query.answer.set_result([])

    def _use(self, connection: sqlite3.Connection) -> bool:
        """Write records and answer queries until the history stops.

        Return earlier, with ``False``, if the file seems to be damaged: it has to be opened again.
        """
        is_last = False
        while not is_last:
            batch, queries, is_last = self._take()
            try:
                if batch:
                    write(connection, batch)
                    batch = []
                self._prune_if_due(connection)
            except FAULTS as error:
                if self._has_to_check(error):
                    self._put_back(batch, queries)
                    return False
                if not self._is_failing:
                    _logger.warning("the history cannot be written, retrying: %s", reason_of(error))
                self._is_failing = True
                self._put_back(batch)
            else:
                if self._is_failing:
                    _logger.info("the history is written again")
                self._is_failing = False
            while queries:
                if _answer(queries[0], connection, self._has_to_check):
                    queries.pop(0)
                else:
                    self._put_back([], queries)
                    return False
        if self._pending:
            _logger.warning("%d records of the history are lost", len(self._pending))
        return True

    def _has_to_check(self, error: Exception) -> bool:
        return is_damage(error) and time.monotonic() >= self._checked_at + _CHECK_SECONDS

    def _take(self) -> tuple[list[Record], list[_Query], bool]:
        """Wait for work; return the batch to write, the queries, and if this is the last time."""
        with self._changed:
            until_prune = self._pruned_at + _PRUNE_SECONDS - time.monotonic()
            self._changed.wait_for(
                lambda: self._pending or self._is_urgent(), timeout=max(0.0, until_prune)
            )
            if self._pending:
                self._changed.wait_for(self._is_urgent, timeout=self._batch_seconds)
            batch, self._pending = self._pending, []
            queries, self._queries = self._queries, []
            return batch, queries, self._is_stopping

    def _is_urgent(self) -> bool:
        if self._is_stopping or self._queries:
            return True
        # While writes fail, the disk gets the pause between two batches.
        return len(self._pending) >= _BATCH_RECORDS and not self._is_failing

    def _put_back(self, batch: list[Record], queries: Sequence[_Query] = ()) -> None:
        with self._changed:
            self._queries = [*queries, *self._queries]
            self._pending = batch + self._pending
            if len(self._pending) > MAX_PENDING:
                del self._pending[MAX_PENDING:]
                self._note_dropped()

    def _prune_if_due(self, connection: sqlite3.Connection) -> None:
        is_time = time.monotonic() >= self._pruned_at + _PRUNE_SECONDS
        if is_time or used_bytes(connection) > self._max_bytes:
            self._pruned_at = time.monotonic()
            now = self._now()
            prune(connection, older_than=now - self._max_age, now=now, max_bytes=self._max_bytes)


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0


def _answer(
    query: _Query, connection: sqlite3.Connection, is_postponed: Callable[[Exception], bool]
) -> bool:
    """Answer a query, unless it has been cancelled. Return whether it is done."""
    found: Any = None
    failed: CyberError | None = None
    try:
        if not query.answer.cancelled():
            found = query.ask(connection)
    except FAULTS as error:
        if is_postponed(error):
            return False
        failed = CyberError(f"The history cannot be read: {reason_of(error)}.")
    if query.answer.set_running_or_notify_cancel():
        if failed is None:
            query.answer.set_result(found)
        else:
            query.answer.set_exception(failed)
    return True
