"""The model hub as the service uses it: search, and downloads that publish events."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import aiohttp

from cyber_inference_tui.errors import ShuttingDownError
from cyber_inference_tui.hub.boxes import NearbyBox
from cyber_inference_tui.hub.browse import Browse
from cyber_inference_tui.hub.downloads import Downloads
from cyber_inference_tui.hub.endpoint import HubEndpoint, read_endpoint
from cyber_inference_tui.hub.journal import JOURNAL
from cyber_inference_tui.hub.staging import Staged
from cyber_inference_tui.hub.transfer import TransferContext, TransferLimits, open_session
from cyber_inference_tui.kernel import boot_id
from cyber_inference_tui.library.catalog import Catalog
from cyber_inference_tui.records import DownloadRecord
from cyber_inference_tui.service.events import EventBus
from cyber_inference_tui.settings.load import CurrentSettings

_THREADS = 8
_START_TIME = 3.0
_STOP_TIME = 20.0

_logger = logging.getLogger(__name__)


class Hub:
    """Owns the downloads with their session and threads. ``start`` it, and ``stop`` it.

    ``rescan`` looks for models again, and returns the new catalog. ``boxes`` returns the other
    boxes that can be asked for files now. ``on_files`` gets the SHA-256 of each downloaded file.
    """

    def __init__(
        self,
        *,
        current: CurrentSettings,
        environ: Mapping[str, str],
        events: EventBus,
        now: Callable[[], datetime],
        rescan: Callable[[], Awaitable[Catalog]],
        boxes: Callable[[], Sequence[NearbyBox]],
        on_files: Callable[[Mapping[Path, str | None]], Awaitable[None]],
    ) -> None:
        self._current = current
        self._environ = environ
        self._events = events
        self._now = now
        self._rescan = rescan
        self._boxes = boxes
        self._on_files = on_files
        self.browse = Browse(endpoint=self._endpoint, session=self._open_session, environ=environ)
        """Search, and the files of repositories."""
        self._session: aiohttp.ClientSession | None = None
        self._executor: ThreadPoolExecutor | None = None
        self._downloads: Downloads | None = None
        self._starting: asyncio.Task[None] | None = None

    @property
    def downloads(self) -> Downloads:
        """The queue of downloads. Raises ``ShuttingDownError`` unless started."""
        if self._downloads is None:
            raise ShuttingDownError("The service takes no downloads now.")
        return self._downloads

    def staged(self) -> Staged:
        """Return the files of the downloads in the list. Raises ``ShuttingDownError``."""
        if self._starting is None or not self._starting.done():
            raise ShuttingDownError("The list of downloads is not read yet.")
        return self.downloads.staged()

    async def start(self) -> None:
        """Start, and resume the downloads of an earlier service."""
        pace = TransferLimits()
        # Threads of its own: a memory card that hangs holds up nothing else.
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="download")
        self._session = open_session(pace)
        transport = TransferContext(
            session=self._session,
            endpoint=self._endpoint,
            executor=self._executor,
            environ=self._environ,
            boot=boot_id(self._current.settings.system_root),
            pace=pace,
            boxes=self._boxes,
        )
        self._downloads = Downloads(
            journal=self._current.settings.data_dir / JOURNAL,
            models_dir=lambda: self._current.settings.models_dir,
            transport=transport,
            resolve=self.browse.resolve,
            now=self._now,
            on_change=lambda record: self._events.publish("download", record),
            on_removed=lambda download_id: self._events.publish(
                "download", {"id": download_id, "status": None}
            ),
            on_done=self._model_of,
        )
        # The storage of partial files may not answer.
        self._starting = asyncio.create_task(self._downloads.start(), name="take up downloads")
        done, _ = await asyncio.wait({self._starting}, timeout=_START_TIME)
        for task in done:
            task.result()

    async def stop(self) -> None:
        """Interrupt the downloads; the next service resumes them."""
        downloads, self._downloads = self._downloads, None
        tasks: set[asyncio.Task[None]] = set()
        if self._starting is not None and not self._starting.done():
            self._starting.cancel()
            tasks.add(self._starting)
        if downloads is not None:
            tasks.add(asyncio.create_task(downloads.stop(), name="interrupt downloads"))
        if tasks:
            await asyncio.wait(tasks, timeout=_STOP_TIME)
        if self._session is not None:
            await self._session.close()
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)

    def _endpoint(self) -> HubEndpoint:
        return read_endpoint(self._current.settings, self._environ)

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            raise ShuttingDownError("The service asks no hub now.")
        return self._session

    async def _model_of(
        self, record: DownloadRecord, digests: Mapping[Path, str | None]
    ) -> str | None:
        await self._on_files(digests)
        try:
            catalog = await self._rescan()
        except OSError as error:
            _logger.warning("what %s has become is not known: %s", record.repo, error.strerror)
            return None
        files = set(digests)
        found = (model.id for model in catalog.models.values() if files.intersection(model.shards))
        return next(found, None)
