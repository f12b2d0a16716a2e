"""One download: a model's files side by side into its staging directory, then into place."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from cyber_inference_tui.errors import CyberError, HubError
from cyber_inference_tui.hub.journal import Entry
from cyber_inference_tui.hub.partial import require_space
from cyber_inference_tui.hub.plan import PlannedFile
from cyber_inference_tui.hub.rate import Rate
from cyber_inference_tui.hub.staging import Claim, Staging
from cyber_inference_tui.hub.transfer import Transfer, Transport
from cyber_inference_tui.records import DownloadRecord, DownloadStatus

T = TypeVar("T")

FILES_AT_ONCE = 3
"""Of one model."""
_LOOK = 0.5
"""Seconds between two looks whether another process is done with the model."""


class Download:
    """What is known of one download, and how it is carried out. The queue changes ``entry``."""

    def __init__(self, entry: Entry, transport: Transport) -> None:
        self.entry = entry
        self.task: asyncio.Task[None] | None = None
        """Carries it out, or is ending."""
        self.leaving = False
        """It is being forgotten."""
        self._transport = transport
        self._transfers: dict[str, Transfer] = {}
        self._here: dict[str, int] = {}
        self._waits: dict[str, str] = {}
        self._verifying = False
        self._rate = Rate()
        self._claim = Claim()

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
        running = [transfer for transfer in self._transfers.values() if transfer.running]
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
            transfer = self._transfers.get(file.path)
            size = file.size_bytes if transfer is None else transfer.size
            if size is None:
                return None
            total += size
        return total

    @property
    def bytes_left(self) -> int:
        """Bytes that are still to come, as far as that is known."""
        return max((self.bytes_total or 0) - self.bytes_done, 0)

    def record(self) -> DownloadRecord:
        """Where it stands, for others."""
        entry = self.entry
        status = self.status
        done, total = self.bytes_done, self.bytes_total
        rate = self._rate.per_second if status is DownloadStatus.RUNNING else None
        wanted = entry.status is DownloadStatus.QUEUED
        waiting = next(iter(self._waits.values()), None) if wanted else None
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
        self._rate.note(sum(transfer.received for transfer in self._transfers.values()), now)

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
        self, save: Callable[[], Awaitable[None]], needed_by_others: Callable[[], int]
    ) -> tuple[Path, ...]:
        """Carry it out; the files' places, in the plan's order. Raises ``CyberError``s.

        ``save`` makes the entry outlive a crash. Cancelled, it keeps what is here.
        """
        self._transfers, self._waits, self._rate = {}, {}, Rate()
        try:
            await self._begin(save)
            if not self.entry.placing:
                await self._fetch(needed_by_others)
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
            self._waits = {}
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

    async def _fetch(self, needed_by_others: Callable[[], int]) -> None:
        missing: list[PlannedFile] = []
        self._verifying = True
        for file in self.entry.plan.files:
            if await self._in_thread(self.staging.is_whole, file):
                continue
            if await self._is_in_place(file):
                self._here[file.path] = file.size_bytes or 0
                continue
            missing.append(file)
        self._verifying = False
        needed = self.bytes_left + needed_by_others()
        margin = self._transport.pace.disk_margin
        await self._in_thread(require_space, self.staging.root, needed, margin)
        gate = asyncio.Semaphore(FILES_AT_ONCE)
        try:
            async with asyncio.TaskGroup() as group:
                for file in missing:
                    group.create_task(self._transfer(file, gate), name=f"transfer {file.path}")
        except BaseExceptionGroup as failures:
            # The others were cancelled by the first: it is the reason.
            raise _first(failures) from None

    async def _is_in_place(self, file: PlannedFile) -> bool:
        """Whether the very file lies where it belongs already: nothing is fetched twice."""
        if not await self._in_thread(self.staging.may_be_in_place, file):
            return False
        steps = self.staging.comparison(file)
        same: bool | None = False
        while same is False:
            same = await self._in_thread(next, steps, None)
        return same is True

    async def _transfer(self, file: PlannedFile, gate: asyncio.Semaphore) -> None:
        async with gate:

            def waits(reason: HubError | None) -> None:
                self._waits.pop(file.path, None)
                if reason is not None:
                    self._waits[file.path] = str(reason)

            staging = self.staging
            target = staging.staged(file)
            transfer = Transfer(self._transport, staging.origin(file), target, on_wait=waits)
            self._transfers[file.path] = transfer
            await transfer.run()

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
