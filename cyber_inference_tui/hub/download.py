"""One download: a model's files are fetched in parallel into a staging directory, then moved."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from cyber_inference_tui.errors import CyberError, HubError
from cyber_inference_tui.hub.download_plan import PlannedFile
from cyber_inference_tui.hub.journal import JournalEntry
from cyber_inference_tui.hub.partial import require_space
from cyber_inference_tui.hub.rate import TransferRate
from cyber_inference_tui.hub.staging import LocalCopy, PathLock, Staging
from cyber_inference_tui.hub.transfer import Transfer, TransferContext
from cyber_inference_tui.records import DownloadRecord, DownloadStatus

T = TypeVar("T")

FILES_AT_ONCE = 3
"""Files of one model that are fetched at the same time."""
_TRIES = 3
"""Looks for a file that another download may be moving into place."""
_LOCK_POLL = 0.5
"""Seconds between two tries for a lock of another process."""


class Download:
    """The state of one download, and the steps to carry it out. The queue changes ``entry``."""

    def __init__(self, entry: JournalEntry, transport: TransferContext) -> None:
        self.entry = entry
        self.task: asyncio.Task[None] | None = None
        """Runs the download, or its removal."""
        self.being_forgotten = False
        self._transport = transport
        self._transfers: dict[str, Transfer] = {}
        self._bytes_here: dict[str, int] = {}
        self._wait_reasons: dict[str, str] = {}
        self._left_to_others: set[str] = set()
        """Files that another download is fetching."""
        self._different: set[tuple[str, Path, int, int]] = set()
        """Files that were compared with a local file and have other content."""
        self._verifying = False
        self._rate = TransferRate()
        self._followed = 0
        """Bytes of this model that another download fetched while this one waited for it."""
        self._directory_lock = PathLock()

    @property
    def staging(self) -> Staging:
        """The directory of its files until all have arrived."""
        return Staging(Path(self.entry.models_dir), self.entry.plan)

    @property
    def status(self) -> DownloadStatus:
        """The status that others see."""
        if self.entry.status is not DownloadStatus.QUEUED:
            return self.entry.status
        if self.task is None:
            return DownloadStatus.QUEUED
        running = self._running
        if self._verifying or (running and all(transfer.checking for transfer in running)):
            return DownloadStatus.VERIFYING
        return DownloadStatus.RUNNING

    @property
    def bytes_done(self) -> int:
        """Bytes of the model that are on the disk."""
        return sum(self._done(file) for file in self.entry.plan.files)

    @property
    def bytes_total(self) -> int | None:
        """Bytes of all its files; ``None`` while a size is unknown."""
        total = 0
        for file in self.entry.plan.files:
            size = self._size(file)
            if size is None:
                return None
            total += size
        return total

    def bytes_left(self) -> dict[Path, int]:
        """Return the missing bytes of each file with a known size, by final path."""
        staging = self.staging
        left: dict[Path, int] = {}
        for file in self.entry.plan.files:
            size = self._size(file)
            if size is not None:
                left[staging.final_path(file)] = max(size - self._done(file), 0)
        return left

    def record(self) -> DownloadRecord:
        """Return the record of the download for clients."""
        entry = self.entry
        status = self.status
        done, total = self.bytes_done, self.bytes_total
        rate = self._rate.per_second if status is DownloadStatus.RUNNING else None
        wanted = entry.status is DownloadStatus.QUEUED
        waiting = next(iter(self._wait_reasons.values()), None) if wanted else None
        if wanted and not waiting and not self._running and self._left_to_others:
            waiting = f"Another download is fetching {min(self._left_to_others)}."
        return DownloadRecord(
            id=entry.id,
            repo=entry.plan.repo,
            revision=entry.plan.revision,
            filename=entry.plan.filename,
            quantization=entry.plan.quantization,
            status=status,
            bytes_done=total or done if status is DownloadStatus.DONE else done,
            bytes_total=total,
            bytes_per_second=rate,
            seconds_left=(total - done) / rate if rate and total is not None else None,
            model_id=entry.model_id,
            error=entry.error or waiting,
            created_at=entry.created_at,
            source=self._source,
        )

    @property
    def _source(self) -> str | None:
        transfers = self._running or self._transfers.values()
        return next((name for transfer in transfers if (name := transfer.source)), None)

    def update_rate(self, now: float) -> None:
        """Update the rate; call it a few times a second. ``now`` is monotonic."""
        received = sum(transfer.received for transfer in self._transfers.values())
        self._rate.add(received + self._followed, now)

    def measure(self) -> None:
        """Count the bytes on the disk; blocks."""
        self._bytes_here = self.staging.bytes_here()

    def mark_removed(self) -> None:
        """Note that no bytes of it are on the disk any more."""
        self.entry.begun = False
        self._transfers, self._bytes_here = {}, {}

    def abandon(self) -> None:
        """Make its transfers skip the last sync when they are cancelled and removed."""
        for transfer in self._transfers.values():
            transfer.abandoned = True

    async def run(
        self, save: Callable[[], Awaitable[None]], needed: Callable[[], int]
    ) -> tuple[Path, ...]:
        """Run the download; return the final paths, in the plan's order. Raises ``CyberError``.

        ``save`` writes the journal; ``needed`` counts the bytes that all running downloads still
        have to write. If it is cancelled, the bytes that have arrived are kept.
        """
        self._transfers, self._wait_reasons, self._rate = {}, {}, TransferRate()
        self._left_to_others, self._followed = set(), 0
        try:
            await self._acquire(save)
            if not self.entry.placing:
                await self._fetch(needed)
                self.entry.placing = True
                # After a crash, the next service finishes the moves.
                await save()
            self._verifying = True
            try:
                return await self._in_thread(self.staging.move_into_place)
            except CyberError:
                self.entry.placing = False
                raise
        finally:
            self._verifying = False
            self._wait_reasons, self._left_to_others = {}, set()
            self._directory_lock.release()

    def remove(self) -> None:
        """Remove its staging directory, unless another process is using it; blocks."""
        staging = self.staging
        with contextlib.suppress(CyberError):
            if not staging.root.exists() or self._directory_lock.acquire(staging.root):
                staging.remove()
        self._directory_lock.release()

    async def _acquire(self, save: Callable[[], Awaitable[None]]) -> None:
        """Wait for the lock of the staging directory."""
        if self.entry.begun and not await self._in_thread(self.staging.exists):
            self.entry.begun = False
            self._bytes_here = {}
            raise CyberError(
                f"The files downloaded to {self.staging.root} are gone.",
                hint="If it is on a disk that is not mounted, mount it; then try again.",
            )
        while not await self._in_thread(self._directory_lock.acquire, self.staging.root):
            self._wait_reasons[""] = "Another process is downloading it."
            # Waiting for a lock cannot be cancelled, so it is polled.
            await asyncio.sleep(_LOCK_POLL)
        self._wait_reasons.pop("", None)
        if not self.entry.begun:
            self.entry.begun = True
            await save()
        await self._in_thread(self.staging.tidy)
        await self._in_thread(self.measure)

    async def _fetch(self, needed: Callable[[], int]) -> None:
        self._verifying = True
        missing = [file for file in self.entry.plan.files if not await self._is_here(file)]
        self._verifying = False
        await self._in_thread(require_space, self.staging.root, needed(), self._margin)
        gate = asyncio.Semaphore(FILES_AT_ONCE)
        try:
            async with asyncio.TaskGroup() as group:
                for file in missing:
                    group.create_task(self._transfer(file, gate), name=f"transfer {file.path}")
        except BaseExceptionGroup as failures:
            # The first failure cancelled the other transfers.
            raise _first(failures) from None

    async def _is_here(self, file: PlannedFile) -> bool:
        """Return whether a file is staged or at its final path already."""
        staging = self.staging
        if await self._in_thread(staging.is_whole, file):
            return True
        for copy in await self._in_thread(partial(staging.copies, file, everywhere=False)):
            if not await self._is_same(file, copy):
                continue
            # A hard link keeps the content, even if the other file is removed.
            if await self._in_thread(
                staging.link, file, copy.path
            ) or copy.path == staging.final_path(file):
                self._bytes_here[file.path] = file.size_bytes or 0
                return True
        return False

    async def _is_same(self, file: PlannedFile, copy: LocalCopy) -> bool:
        if copy.verified:
            return True
        try:
            status = copy.path.stat()
        except OSError:
            return False
        seen = file.path, copy.path, status.st_ino, status.st_mtime_ns
        if seen in self._different:
            return False
        steps = self.staging.compare(file, copy.path)
        same: bool | None = False
        while same is False:
            same = await self._in_thread(next, steps, None)
        if not same:
            self._different.add(seen)
        return same is True

    async def _transfer(self, file: PlannedFile, gate: asyncio.Semaphore) -> None:
        async with gate, self._lock(file):
            for _ in range(_TRIES):
                if await self._is_here(file):
                    return
                if await self._reuse(file):
                    break

            def waits(reason: HubError | None) -> None:
                self._wait_reasons.pop(file.path, None)
                if reason is not None:
                    self._wait_reasons[file.path] = str(reason)

            staging = self.staging
            target = staging.staged_path(file)
            transfer = Transfer(self._transport, staging.origin(file), target, on_wait=waits)
            self._transfers[file.path] = transfer
            await transfer.run()

    @asynccontextmanager
    async def _lock(self, file: PlannedFile) -> AsyncIterator[None]:
        """Lock the content of a file, so that one download fetches it.

        The others wait, show its progress, and then take a copy.
        """
        staging, file_lock = self.staging, PathLock()
        lock = staging.lock_path(file)
        try:
            while lock is not None and not await self._in_thread(file_lock.acquire_file, lock):
                here, _ = await self._in_thread(staging.most_elsewhere, file)
                before = self._bytes_here.get(file.path, 0)
                if file.path in self._left_to_others:
                    self._followed += max(here - before, 0)
                self._left_to_others.add(file.path)
                self._bytes_here[file.path] = max(here, before)
                await asyncio.sleep(_LOCK_POLL)
            self._left_to_others.discard(file.path)
            yield
        finally:
            self._left_to_others.discard(file.path)
            file_lock.release()

    async def _reuse(self, file: PlannedFile) -> bool:
        """Begin with bytes from elsewhere in ``models_dir``, if there are more than staged.

        Return ``False`` if they were moved or removed meanwhile: they may be somewhere else now.
        """
        staging = self.staging
        here, source = await self._in_thread(staging.most_elsewhere, file)
        for copy in await self._in_thread(partial(staging.copies, file, everywhere=True)):
            if await self._is_same(file, copy):
                here, source = file.size_bytes or 0, copy.path
                break
        if here <= await self._in_thread(staging.bytes_staged, file):
            return True
        await self._in_thread(require_space, staging.root, here, self._margin)
        steps = staging.copy(file, source, boot=self._transport.boot)
        while await self._in_thread(next, steps, False) is None:
            pass
        return await self._in_thread(staging.bytes_staged, file) > 0

    @property
    def _margin(self) -> int:
        return self._transport.pace.disk_margin

    @property
    def _running(self) -> list[Transfer]:
        return [transfer for transfer in self._transfers.values() if transfer.running]

    def _size(self, file: PlannedFile) -> int | None:
        transfer = self._transfers.get(file.path)
        return file.size_bytes if transfer is None else transfer.size

    def _done(self, file: PlannedFile) -> int:
        transfer = self._transfers.get(file.path)
        if transfer is None or not transfer.opened:
            return self._bytes_here.get(file.path, 0)
        return transfer.done

    async def _in_thread(self, work: Callable[..., T], *arguments: object) -> T:
        return await self._transport.in_thread(work, *arguments)


def _first(failures: BaseExceptionGroup) -> BaseException:
    for failure in failures.exceptions:
        return _first(failure) if isinstance(failure, BaseExceptionGroup) else failure
    return failures
