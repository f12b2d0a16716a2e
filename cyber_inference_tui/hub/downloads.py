"""The queue of downloads: run a few at a time; pause, resume, cancel; continue after a crash.

The journal records each request before the caller gets an answer; the disk holds the progress. So
the next service continues, however the last one ended.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Coroutine
from datetime import datetime
from functools import partial
from pathlib import Path

from cyber_inference_tui.errors import (
    ConflictError,
    CyberError,
    NotFoundError,
    ShuttingDownError,
)
from cyber_inference_tui.hub.download import Download
from cyber_inference_tui.hub.download_plan import DownloadPlan, Resolve, check_plan
from cyber_inference_tui.hub.journal import Journal, JournalEntry, encoded
from cyber_inference_tui.hub.staging import Staged, staged_by
from cyber_inference_tui.hub.transfer import TransferContext
from cyber_inference_tui.records import DownloadRecord, DownloadStatus
from cyber_inference_tui.text import clean_line

AT_ONCE = 2
"""Downloads that run at the same time."""
MAX_ACTIVE = 100
"""Downloads that run, wait or are paused."""
MAX_FINISHED = 50
"""Other downloads in the list; the oldest are removed, with their staged files."""
TICK = 0.25
"""Seconds between two progress events of one download."""
_END_TIME = 15.0
_REMOVAL_TIME = 0.4

_ACTIVE = {DownloadStatus.QUEUED, DownloadStatus.PAUSED}

_logger = logging.getLogger(__name__)

OnDone = Callable[[DownloadRecord, dict[Path, str | None]], Awaitable[str | None]]
"""Called with the final path of each file of a model and its SHA-256, if the hub has said it;
returns the model's id."""


class Downloads:
    """Owns all downloads. ``start`` it, and ``stop`` it; the next start continues what was running.

    ``models_dir`` is called for each new download. ``on_change`` gets every change, and progress at
    most four times a second for each download; ``on_removed`` gets the ids of removed ones. Methods
    raise ``CyberError``.
    """

    def __init__(
        self,
        *,
        journal: Path,
        models_dir: Callable[[], Path],
        transport: TransferContext,
        resolve: Resolve,
        now: Callable[[], datetime],
        on_change: Callable[[DownloadRecord], None] = lambda _: None,
        on_removed: Callable[[str], None] = lambda _: None,
        on_done: OnDone,
    ) -> None:
        self._journal = Journal(journal)
        self._models_dir = models_dir
        self._transport = transport
        self._resolve = resolve
        self._now = now
        self._on_change = on_change
        self._on_removed = on_removed
        self._on_done = on_done
        self._downloads: dict[str, Download] = {}
        self._published: dict[str, DownloadRecord] = {}
        self._saving = asyncio.Lock()
        self._saved = encoded([])
        self._running = False
        self._busy = asyncio.Event()
        """Set while a download runs."""
        self._background: set[asyncio.Task[None]] = set()
        self._ticker: asyncio.Task[None] | None = None

    # Start and stop

    async def start(self) -> None:
        """Load the journal, and continue its downloads."""
        for entry in await self._transport.in_thread(self._journal.load):
            self._downloads[entry.id] = Download(entry, self._transport)
        # The list is complete now, so it may be saved.
        for download in self._known():
            entry = download.entry
            await self._transport.in_thread(download.measure)
            if entry.status is DownloadStatus.CANCELLED and not entry.kept:
                # The last service may have ended before it had removed the files.
                await self._remove(download)
        self._running = True
        self._ticker = asyncio.create_task(self._tick(), name="progress of downloads")
        self._start_next()

    async def stop(self) -> None:
        """Interrupt the running downloads; the journal keeps them as queued."""
        self._running = False
        tasks = [task for download in self._downloads.values() if (task := download.task)]
        tasks += self._background
        if self._ticker is not None:
            tasks.append(self._ticker)
        for task in tasks:
            task.cancel()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=_END_TIME)
            if late:
                _logger.warning("%d downloads are still waiting for their disk", len(late))
        await self._save()

    # Reading

    def records(self) -> list[DownloadRecord]:
        """Return all downloads, the oldest first."""
        return [download.record() for download in self._known()]

    def staged(self) -> Staged:
        """Return the files of the downloads in the list."""
        return staged_by(download.entry for download in self._downloads.values())

    # Acting

    async def add(
        self, repo: str, filename: str | None = None, revision: str | None = None
    ) -> DownloadRecord:
        """Queue a model, unless it is queued, running or paused already.

        If the hub has a newer version than a download that is not running has begun with, that
        download continues with the newer version and keeps the files that both have.
        """
        plan = await self._resolve(repo, filename, revision)
        check_plan(plan)
        if not self._running:
            raise ShuttingDownError("The service is stopping.")
        for download in self._known():
            entry = download.entry
            if not _same_model(entry.plan, plan) or entry.status is DownloadStatus.DONE:
                continue
            if entry.plan.files == plan.files and entry.status in _ACTIVE:
                return download.record()
            if download.task is not None and entry.status is DownloadStatus.QUEUED:
                raise ConflictError(
                    f"Another version of {plan.filename} is on its way, {entry.plan.revision}.",
                    hint=f"Wait for it, or cancel {entry.id} first.",
                )
            if entry.plan.files != plan.files:
                entry.placing = False
            entry.plan = plan
            self._use_current_directory(entry)
            if entry.status is DownloadStatus.PAUSED:
                await self._save()
                self._publish(download)
                return download.record()
            return await self._enqueue(download)
        active = sum(download.entry.status in _ACTIVE for download in self._downloads.values())
        if active >= MAX_ACTIVE:
            raise ConflictError(
                f"There are {active} downloads already.", hint="Wait for some, or cancel some."
            )
        entry = JournalEntry(
            id=secrets.token_hex(4),
            plan=plan,
            models_dir=str(self._models_dir()),
            created_at=self._now(),
        )
        self._downloads[entry.id] = Download(entry, self._transport)
        return await self._enqueue(self._downloads[entry.id])

    async def pause(self, download_id: str) -> DownloadRecord:
        """Pause a download, also over a restart; its bytes stay."""
        download = self._find(download_id)
        if download.entry.status is not DownloadStatus.PAUSED:
            self._refuse_unless(download, {DownloadStatus.QUEUED}, "paused")
            self._interrupt(download, DownloadStatus.PAUSED)
            await self._save()
        return download.record()

    async def resume(self, download_id: str) -> DownloadRecord:
        """Continue a paused download."""
        download = self._find(download_id)
        if download.entry.status is DownloadStatus.QUEUED:
            return download.record()
        self._refuse_unless(download, {DownloadStatus.PAUSED}, "resumed")
        return await self._enqueue(download)

    async def retry(self, download_id: str) -> DownloadRecord:
        """Queue a failed or cancelled download again, and use the bytes on the disk."""
        download = self._find(download_id)
        if download.entry.status is DownloadStatus.QUEUED:
            return download.record()
        again = {DownloadStatus.FAILED, DownloadStatus.CANCELLED}
        self._refuse_unless(download, again, "tried again")
        self._use_current_directory(download.entry)
        return await self._enqueue(download)

    async def cancel(self, download_id: str, *, keep: bool = False) -> DownloadRecord:
        """Cancel a download and, unless ``keep``, remove its bytes; return its last record.

        A download that is done or was cancelled before is removed from the list. Files at their
        final paths stay.
        """
        download = self._find(download_id)
        if download.entry.status in {DownloadStatus.DONE, DownloadStatus.CANCELLED}:
            record = download.record()
            await self._forget(download)
            return record
        self._refuse_unless(download, _ACTIVE | {DownloadStatus.FAILED}, "cancelled")
        download.entry.kept = keep
        if not keep:
            download.abandon()
        self._interrupt(download, DownloadStatus.CANCELLED)
        await self._save()
        if not keep:
            # Do not wait for a slow disk.
            await asyncio.wait([self._spawn(self._remove_files(download))], timeout=_REMOVAL_TIME)
        self._forget_oldest()
        return download.record()

    # The queue

    def _use_current_directory(self, entry: JournalEntry) -> None:
        """Switch to the present ``models_dir``: the former disk may be full or gone.

        The bytes in the former directory stay there.
        """
        models_dir = str(self._models_dir())
        if entry.models_dir != models_dir:
            entry.models_dir = models_dir
            entry.begun = entry.placing = False

    async def _enqueue(self, download: Download) -> DownloadRecord:
        """Queue a download, and save that before the caller gets an answer."""
        entry = download.entry
        entry.status = DownloadStatus.QUEUED
        entry.error, entry.kept = None, False
        await self._save()
        self._start_next()
        self._publish(download)
        return download.record()

    def _start_next(self) -> None:
        """Start queued downloads while fewer than ``AT_ONCE`` run."""
        free = AT_ONCE - len(self._with_tasks())
        for download in self._downloads.values():
            if free <= 0 or not self._running:
                break
            if download.task is None and download.entry.status is DownloadStatus.QUEUED:
                free -= 1
                self._start_task(download, self._run(download))
        if self._with_tasks():
            self._busy.set()
        else:
            self._busy.clear()

    def _start_task(
        self, download: Download, work: Coroutine[None, None, None]
    ) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=f"download {download.entry.id}")
        download.task = task
        task.add_done_callback(partial(self._on_end, download))
        self._publish(download)
        return task

    async def _run(self, download: Download) -> None:
        entry = download.entry
        try:
            paths = await download.run(self._save, partial(self._bytes_needed, download))
            digests = {
                path: file.sha256 for path, file in zip(paths, entry.plan.files, strict=True)
            }
            entry.model_id = await self._on_done(download.record(), digests)
        except CyberError as error:
            if entry.status is DownloadStatus.QUEUED:
                entry.status, entry.error = DownloadStatus.FAILED, str(error)
                _logger.warning("the download of %s failed: %s", entry.plan.repo, error)
        else:
            entry.status, entry.placing, entry.begun = DownloadStatus.DONE, False, False
            _logger.info("downloaded %s of %s", entry.plan.filename, entry.plan.repo)
        self._forget_oldest()
        await self._save()

    def _bytes_needed(self, download: Download) -> int:
        """Count the bytes that the running downloads have still to write to the disk of
        ``download``.

        A file that several of them need counts once.
        """
        left: dict[Path, int] = {}
        for other in self._with_tasks():
            if other.entry.models_dir == download.entry.models_dir:
                for path, count in other.bytes_left().items():
                    left[path] = min(count, left.get(path, count))
        return sum(left.values())

    def _on_end(self, download: Download, task: asyncio.Task[None]) -> None:
        download.task = None
        if not task.cancelled() and (error := task.exception()) is not None:
            _logger.error("the download of %s failed", download.entry.plan.repo, exc_info=error)
            download.entry.status = DownloadStatus.FAILED
            download.entry.error = "An internal error of the service; its log has the details."
            self._spawn(self._save())
        if self._running:
            if not download.being_forgotten:
                self._publish(download)
            self._start_next()

    def _interrupt(self, download: Download, status: DownloadStatus) -> None:
        download.entry.status = status
        download.entry.error = None
        if download.task is not None:
            download.task.cancel()
        self._publish(download)

    async def _remove_files(self, download: Download) -> None:
        """Remove the files once nothing writes to them, unless it is queued again by then."""
        while download.task is not None and download.entry.status not in _ACTIVE:
            await asyncio.wait([download.task], timeout=_END_TIME)
        if download.entry.status not in _ACTIVE:
            # As the download's task, so that it cannot start again before the end.
            await asyncio.wait([self._start_task(download, self._remove(download))])

    async def _remove(self, download: Download) -> None:
        """Remove the staged files if this download made them, not those of others."""
        if download.entry.begun:
            await self._transport.in_thread(download.remove)
        download.mark_removed()
        await self._save()

    async def _forget(self, download: Download) -> None:
        download.being_forgotten = True
        await self._remove_files(download)
        del self._downloads[download.entry.id]
        self._published.pop(download.entry.id, None)
        await self._save()
        self._on_removed(download.entry.id)

    def _forget_oldest(self) -> None:
        finished = [download for download in self._known() if download.entry.status not in _ACTIVE]
        for download in finished[: max(len(finished) - MAX_FINISHED, 0)]:
            download.being_forgotten = True
            self._spawn(self._forget(download))

    def _with_tasks(self) -> list[Download]:
        return [download for download in self._downloads.values() if download.task is not None]

    def _known(self) -> list[Download]:
        return [download for download in self._downloads.values() if not download.being_forgotten]

    def _find(self, download_id: str) -> Download:
        download = self._downloads.get(download_id)
        if download is None or download.being_forgotten:
            raise NotFoundError(f"There is no download {clean_line(download_id, limit=80)}.")
        return download

    @staticmethod
    def _refuse_unless(download: Download, allowed: set[DownloadStatus], what: str) -> None:
        entry = download.entry
        if entry.placing and entry.status is DownloadStatus.QUEUED:
            raise ConflictError(f"{entry.id} is being moved into place.")
        if entry.status not in allowed:
            raise ConflictError(f"{entry.id} is {download.status.value}: it cannot be {what}.")

    # Events and the journal

    def _publish(self, download: Download) -> None:
        record = download.record()
        if self._published.get(record.id) != record:
            self._published[record.id] = record
            self._on_change(record)

    async def _tick(self) -> None:
        while True:
            await self._busy.wait()
            await asyncio.sleep(TICK)
            now = self._transport.clock()
            for download in self._with_tasks():
                download.update_rate(now)
                self._publish(download)

    async def _save(self) -> None:
        """Write the journal if it has changed."""
        async with self._saving:
            content = encoded(download.entry for download in self._downloads.values())
            if content == self._saved:
                return
            try:
                await self._transport.in_thread(self._journal.save, content)
                self._saved = content
            except OSError as error:
                _logger.warning("the list of downloads cannot be saved: %s", error.strerror)

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task


def _same_model(plan: DownloadPlan, other: DownloadPlan) -> bool:
    return (plan.repo.lower(), plan.filename) == (other.repo.lower(), other.filename)
