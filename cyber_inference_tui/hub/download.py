"""One download: a model's files side by side into its staging directory, then into place."""

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
"""Of one model."""
_LOOKS = 3
"""For a file that another download may just be putting in place."""
_LOOK = 0.5
"""Seconds between two looks whether another process is done with the model."""


class Download:
    """What is known of one download, and how it is carried out. The queue changes ``entry``."""

    def __init__(self, entry: JournalEntry, transport: TransferContext) -> None:
        self.entry = entry
        self.task: asyncio.Task[None] | None = None
        """Carries it out, or is ending."""
        self.leaving = False
        """It is being forgotten."""
        self._transport = transport
        self._transfers: dict[str, Transfer] = {}
        self._here: dict[str, int] = {}
        self._waits: dict[str, str] = {}
        self._left_to_others: set[str] = set()
        """Files that another download is fetching."""
        self._unlike: set[tuple[str, Path, int, int]] = set()
        """What was compared with a file, and is another."""
        self._verifying = False
        self._rate = TransferRate()
        self._followed = 0
        """Bytes of this model that came by another download while this one waited for it."""
        self._claim = PathLock()

    @property
    def staging(self) -> Staging:
        """Where its files lie until all are here."""
        return Staging(Path(self.entry.models_dir), self.entry.plan)

    @property
    def status(self) -> DownloadStatus:
        """Where it stands."""
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
        """Bytes of the model that are here."""
        return sum(self._done(file) for file in self.entry.plan.files)

    @property
    def bytes_total(self) -> int | None:
        """Bytes of all its files; ``None`` until they are known."""
        total = 0
        for file in self.entry.plan.files:
            size = self._size(file)
            if size is None:
                return None
            total += size
        return total

    def bytes_left(self) -> dict[Path, int]:
        """Bytes that are still to come, as far as that is known, by the files' places."""
        staging = self.staging
        left: dict[Path, int] = {}
        for file in self.entry.plan.files:
            size = self._size(file)
            if size is not None:
                left[staging.place_of(file)] = max(size - self._done(file), 0)
        return left

    def record(self) -> DownloadRecord:
        """Where it stands, for others."""
        entry = self.entry
        status = self.status
        done, total = self.bytes_done, self.bytes_total
        rate = self._rate.per_second if status is DownloadStatus.RUNNING else None
        wanted = entry.status is DownloadStatus.QUEUED
        waiting = next(iter(self._waits.values()), None) if wanted else None
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
        )

    def note_time(self, now: float) -> None:
        """To be called a few times a second while it runs; ``now`` is monotonic."""
        received = sum(transfer.received for transfer in self._transfers.values())
        self._rate.note(received + self._followed, now)

    def measure(self) -> None:
        """Count what is on the disk; blocks."""
        self._here = self.staging.bytes_here()

    def note_removed(self) -> None:
        """Nothing of it is on the disk any more."""
        self.entry.begun = False
        self._transfers, self._here = {}, {}

    def abandon(self) -> None:
        """What is here will be removed: nothing needs to be kept when it is cancelled."""
        for transfer in self._transfers.values():
            transfer.abandoned = True

    async def run(
        self, save: Callable[[], Awaitable[None]], needed: Callable[[], int]
    ) -> tuple[Path, ...]:
        """Carry it out; the files' places, in the plan's order. Raises ``CyberError``s.

        ``save`` makes the entry outlive a crash; ``needed`` counts the bytes that this download
        and the others that run have still to write. Cancelled, it keeps what is here.
        """
        self._transfers, self._waits, self._rate = {}, {}, TransferRate()
        self._left_to_others, self._followed = set(), 0
        try:
            await self._begin(save)
            if not self.entry.placing:
                await self._fetch(needed)
                self.entry.placing = True
                # From here on a crash is followed by the rest of the moves.
                await save()
            self._verifying = True
            try:
                return await self._in_thread(self.staging.place)
            except CyberError:
                self.entry.placing = False
                raise
        finally:
            self._verifying = False
            self._waits, self._left_to_others = {}, set()
            self._claim.release()

    def remove(self) -> None:
        """Remove what is here of it, unless another process is at work on it; blocks."""
        staging = self.staging
        with contextlib.suppress(CyberError):
            if not staging.root.exists() or self._claim.take(staging.root):
                staging.remove()
        self._claim.release()

    async def _begin(self, save: Callable[[], Awaitable[None]]) -> None:
        """Have its directory, alone."""
        if self.entry.begun and not await self._in_thread(self.staging.exists):
            self.entry.begun = False
            self._here = {}
            raise CyberError(
                f"What was downloaded to {self.staging.root} is gone.",
                hint="If it is on a disk that is not mounted, mount it; then try again.",
            )
        while not await self._in_thread(self._claim.take, self.staging.root):
            self._waits[""] = "Another process is downloading it."
            # The system has no way to wait for a lock that can be given up.
            await asyncio.sleep(_LOOK)
        self._waits.pop("", None)
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
            # The others were cancelled by the first: it is the reason.
            raise _first(failures) from None

    async def _is_here(self, file: PlannedFile) -> bool:
        """Whether a file is staged or in place: nothing is fetched twice."""
        staging = self.staging
        if await self._in_thread(staging.is_whole, file):
            return True
        for copy in await self._in_thread(partial(staging.copies, file, everywhere=False)):
            if not await self._is_same(file, copy):
                continue
            # Staged as well, it stays until it is placed, whatever becomes of the other one.
            if await self._in_thread(
                staging.link, file, copy.path
            ) or copy.path == staging.place_of(file):
                self._here[file.path] = file.size_bytes or 0
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
        if seen in self._unlike:
            return False
        steps = self.staging.comparison(file, copy.path)
        same: bool | None = False
        while same is False:
            same = await self._in_thread(next, steps, None)
        if not same:
            self._unlike.add(seen)
        return same is True

    async def _transfer(self, file: PlannedFile, gate: asyncio.Semaphore) -> None:
        async with gate, self._lock(file):
            for _ in range(_LOOKS):
                if await self._is_here(file):
                    return
                if await self._take_over(file):
                    break

            def waits(reason: HubError | None) -> None:
                self._waits.pop(file.path, None)
                if reason is not None:
                    self._waits[file.path] = str(reason)

            staging = self.staging
            target = staging.staged(file)
            transfer = Transfer(self._transport, staging.origin(file), target, on_wait=waits)
            self._transfers[file.path] = transfer
            await transfer.run()

    @asynccontextmanager
    async def _lock(self, file: PlannedFile) -> AsyncIterator[None]:
        """Have the content of a file alone among all downloads into the directory of models.

        Whoever else needs it waits, sees how far it is, and then takes a copy.
        """
        staging, claim = self.staging, PathLock()
        lock = staging.lock_of(file)
        try:
            while lock is not None and not await self._in_thread(claim.take_lock, lock):
                here, _ = await self._in_thread(staging.begun_elsewhere, file)
                before = self._here.get(file.path, 0)
                if file.path in self._left_to_others:
                    self._followed += max(here - before, 0)
                self._left_to_others.add(file.path)
                self._here[file.path] = max(here, before)
                await asyncio.sleep(_LOOK)
            self._left_to_others.discard(file.path)
            yield
        finally:
            self._left_to_others.discard(file.path)
            claim.release()

    async def _take_over(self, file: PlannedFile) -> bool:
        """Begin with what lies elsewhere in the directory of models, if that is more.

        ``False`` where that was moved or removed meanwhile: it may lie in another place now.
        """
        staging = self.staging
        here, source = await self._in_thread(staging.begun_elsewhere, file)
        for copy in await self._in_thread(partial(staging.copies, file, everywhere=True)):
            if await self._is_same(file, copy):
                here, source = file.size_bytes or 0, copy.path
                break
        if here <= await self._in_thread(staging.begun, file):
            return True
        await self._in_thread(require_space, staging.root, here, self._margin)
        steps = staging.copy(file, source, boot=self._transport.boot)
        while await self._in_thread(next, steps, False) is None:
            pass
        return await self._in_thread(staging.begun, file) > 0

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
            return self._here.get(file.path, 0)
        return transfer.done

    async def _in_thread(self, work: Callable[..., T], *arguments: object) -> T:
        return await self._transport.in_thread(work, *arguments)


def _first(failures: BaseExceptionGroup) -> BaseException:
    for failure in failures.exceptions:
        return _first(failure) if isinstance(failure, BaseExceptionGroup) else failure
    return failures
