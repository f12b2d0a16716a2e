"""The history: finished requests, ended sessions and measured models, across restarts.

Whoever has a record hands it over and goes on: one thread writes, in batches that are kind to SD
cards. A crash of the service loses the last batch at most.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

from cyber_inference_tui.errors import CyberError, ShuttingDownError
from cyber_inference_tui.llama.needs import Measurement
from cyber_inference_tui.records import ModelTotals, RequestRecord, SessionRecord
from cyber_inference_tui.records.queries import HistoryQuery, RequestQuery
from cyber_inference_tui.service.history_file import FAULTS, HistoryFile, is_damage, open_history
from cyber_inference_tui.service.history_rows import (
    Record,
    select_measurements,
    select_requests,
    select_sessions,
    select_totals,
)
from cyber_inference_tui.text import clean_line

__all__ = ["MAX_PENDING", "History", "Measurement"]

T = TypeVar("T")

MAX_PENDING = 10_000
"""Records that wait to be written."""

_BATCH_RECORDS = 500
_PRUNE_SECONDS = 3600.0
_READERS = 4
_FLUSH_SECONDS = 10.0
_READ_SECONDS = 30.0
_STOP_SECONDS = 5.0

_NEWEST = RequestQuery()

_logger = logging.getLogger(__name__)


class History:
    """Keeps records in the file ``path``; ``start`` and ``stop`` it on the event loop that uses it.

    What waits is written after ``batch_seconds``, or sooner when there is much. Requests and
    sessions older than ``max_age_days`` are removed, and the oldest ones where the file exceeds
    ``max_bytes`` (at the start, every hour and as it grows). A file that cannot be used is set
    aside; where none can be had, the history lives in memory. ``now`` is called on any thread.
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
        self._readers = asyncio.Semaphore(_READERS)
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)
        # Shared with the writer's thread, under this lock.
        self._changed = threading.Condition()
        self._pending: list[Record] = []
        self._waiters: list[concurrent.futures.Future[None]] = []
        self._doubted = False
        self._stopping = False
        self._ended = False
        self._dropped = 0
        # The writer's own. Readers look at ``_file`` too, once they waited for the writer.
        self._file: HistoryFile | None = None
        self._is_failing = False
        self._is_prune_failing = False
        self._pruned_at = 0.0

    async def start(self) -> None:
        """Open the history and begin to write."""
        self._thread.start()
        try:
            await self.flush()
        except CyberError as error:
            _logger.warning("the history is not ready yet: %s", error)

    async def stop(self) -> None:
        """Write what waits and close the file; given up after some seconds."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.ident is not None:
            await asyncio.to_thread(self._thread.join, _STOP_SECONDS)
            if self._thread.is_alive():
                _logger.warning("the disk does not take the last records of the history in time")

    def add_request(self, record: RequestRecord) -> None:
        """Keep a finished request; returns at once."""
        self._add(record)

    def add_session(self, record: SessionRecord) -> None:
        """Keep an ended session; returns at once."""
        self._add(record)

    def add_measurement(self, measurement: Measurement) -> None:
        """Keep a measurement in place of an earlier one of its signature; returns at once."""
        self._add(measurement)

    @property
    def dropped(self) -> int:
        """Records that were lost because too many waited for the disk."""
        with self._changed:
            return self._dropped

    async def flush(self) -> None:
        """Wait until what was added so far is written, or was tried.

        Raises ``CyberError`` if the disk does not answer.
        """
        try:
            async with asyncio.timeout(_FLUSH_SECONDS):
                await self._flush()
        except TimeoutError:
            raise CyberError("The disk of the history does not answer.") from None

    async def requests(self, query: RequestQuery = _NEWEST) -> list[RequestRecord]:
        """Finished requests, newest first; a page goes on before the last id of the page before.

        ``failed``: only those with a status of 400 or more or an error, or only the others. Raises
        ``CyberError`` if the disk does not answer.
        """
        return await self._read(lambda connection: select_requests(connection, query))

    async def sessions(self, query: HistoryQuery = _NEWEST) -> list[SessionRecord]:
        """Ended sessions, newest first, as ``requests``; ``since``: loaded then or later."""
        return await self._read(lambda connection: select_sessions(connection, query))

    async def measurements(self) -> list[Measurement]:
        """The latest one of each signature, newest first."""
        return await self._read(select_measurements)

    async def totals(self) -> list[ModelTotals]:
        """Sums over the requests that are kept, by model."""
        return await self._read(select_totals)

    # On the event loop

    def _add(self, record: Record) -> None:
        with self._changed:
            if self._ended:
                return
            if len(self._pending) < MAX_PENDING:
                self._pending.append(record)
                if len(self._pending) in {1, _BATCH_RECORDS}:
                    self._changed.notify()
                return
        self._drop(1)

    async def _flush(self, *, doubted: bool = False) -> None:
        waiter: concurrent.futures.Future[None] = concurrent.futures.Future()
        with self._changed:
            if self._ended:
                return
            self._doubted |= doubted
            self._waiters.append(waiter)
            self._changed.notify()
        await asyncio.wrap_future(waiter)

    async def _read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        try:
            async with asyncio.timeout(_READ_SECONDS), self._readers:
                await self._flush()
                try:
                    return await asyncio.to_thread(self._ask, query)
                except FAULTS:
                    # Damaged, or taken away under the reader: the writer looks after the file,
                    # and begins a new one where it has to.
                    await self._flush(doubted=True)
                    return await asyncio.to_thread(self._ask, query)
        except TimeoutError:
            raise CyberError("The disk of the history does not answer.") from None
        except FAULTS as error:
            reason = clean_line(str(error), limit=200)
            raise CyberError(f"The history cannot be read: {reason}.") from error

    # On any thread

    def _ask(self, query: Callable[[sqlite3.Connection], T]) -> T:
        with self._opened().reading() as connection:
            return query(connection)

    def _opened(self) -> HistoryFile:
        file = self._file
        if file is None:
            raise ShuttingDownError("The history is closed.")
        return file

    def _drop(self, count: int) -> None:
        with self._changed:
            is_first = self._dropped == 0
            self._dropped += count
        if is_first:
            _logger.warning(
                "the disk does not keep up with the history: from now on records are dropped"
                " while %d wait to be written",
                MAX_PENDING,
            )

    # On the writer's thread

    def _run(self) -> None:
        waiters: list[concurrent.futures.Future[None]] = []
        try:
            self._open()
            is_last = False
            while not is_last:
                batch, waiters, doubted, is_last = self._take()
                if doubted:
                    self._reopen()
                self._put_back(self._write(batch))
                self._prune_if_due()
                _release(waiters)
            if self._pending:
                _logger.warning("%d records of the history are lost", len(self._pending))
        finally:
            with self._changed:
                self._ended = True
                waiters += self._waiters
            file, self._file = self._file, None
            if file is not None:
                file.close()
            _release(waiters)

    def _take(self) -> tuple[list[Record], list[concurrent.futures.Future[None]], bool, bool]:
        """Wait until there is something to do; the batch, who waits for it, and more."""
        with self._changed:
            until_prune = self._pruned_at + _PRUNE_SECONDS - time.monotonic()
            self._changed.wait_for(
                lambda: self._pending or self._is_urgent(), timeout=max(0.0, until_prune)
            )
            if self._pending:
                self._changed.wait_for(self._is_urgent, timeout=self._batch_seconds)
            batch, self._pending = self._pending, []
            waiters, self._waiters = self._waiters, []
            doubted, self._doubted = self._doubted, False
            return batch, waiters, doubted, self._stopping

    def _is_urgent(self) -> bool:
        if self._stopping or self._waiters:
            return True
        # A disk that takes nothing is not asked without a pause.
        return len(self._pending) >= _BATCH_RECORDS and not self._is_failing

    def _open(self) -> None:
        self._file = open_history(self._path, now=self._now(), max_bytes=self._max_bytes)
        self._prune()

    def _reopen(self) -> None:
        """Look at the file anew; it is set aside if it is damaged."""
        file = self._opened()
        if file.path is not None:
            file.close()
            self._open()

    def _write(self, batch: list[Record]) -> list[Record]:
        """Write a batch; returns what is to be tried again."""
        if not batch:
            return []
        try:
            self._write_or_reopen(batch)
        except FAULTS as error:
            if not self._is_failing:
                self._is_failing = True
                reason = clean_line(str(error), limit=200)
                _logger.warning("the history cannot be written, it is tried again: %s", reason)
            return batch
        if self._is_failing:
            self._is_failing = False
            _logger.info("the history is written again")
        return []

    def _write_or_reopen(self, batch: list[Record]) -> None:
        if self._opened().is_gone():
            _logger.warning("the history %s was taken away while it was open", self._path)
            self._reopen()
        try:
            self._opened().write(batch)
        except FAULTS as error:
            if not is_damage(error):
                raise
            self._reopen()
            self._opened().write(batch)

    def _put_back(self, batch: list[Record]) -> None:
        if not batch:
            return
        with self._changed:
            self._pending = batch + self._pending
            lost = len(self._pending) - MAX_PENDING
            del self._pending[MAX_PENDING:]
        if lost > 0:
            self._drop(lost)

    def _prune_if_due(self) -> None:
        is_time = time.monotonic() >= self._pruned_at + _PRUNE_SECONDS
        try:
            is_due = is_time or self._opened().is_full()
        except FAULTS:
            return
        if is_due:
            self._prune()

    def _prune(self) -> None:
        self._pruned_at = time.monotonic()
        try:
            now = self._now()
            self._opened().prune(older_than=now - self._max_age, now=now)
        except FAULTS as error:
            if is_damage(error):
                with self._changed:
                    self._doubted = True
            if not self._is_prune_failing:
                self._is_prune_failing = True
                reason = clean_line(str(error), limit=200)
                _logger.warning("old records of the history cannot be removed: %s", reason)
        else:
            self._is_prune_failing = False


def _release(waiters: list[concurrent.futures.Future[None]]) -> None:
    for waiter in waiters:
        # False where nobody waits any more.
        if waiter.set_running_or_notify_cancel():
            waiter.set_result(None)
    waiters.clear()
