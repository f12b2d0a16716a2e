"""Searching the hub and bringing models from it: by the running service, else by this program.

A download without a service has a journal of its own, so that it neither takes up what a service
has queued nor keeps one from starting meanwhile. What either has of a model the other goes on with.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cyber_inference_tui.cli.actions import with_client
from cyber_inference_tui.errors import ConflictError, CyberError, HubError, NoServiceError
from cyber_inference_tui.hub import downloads
from cyber_inference_tui.hub.address import Wanted
from cyber_inference_tui.records import (
    DownloadRecord,
    DownloadStatus,
    HubModelRecord,
    endpoints,
    queries,
)
from cyber_inference_tui.service.events import EventBus
from cyber_inference_tui.service.hub import Hub
from cyber_inference_tui.service.listing import library_for

if TYPE_CHECKING:
    from cyber_inference_tui.cli.options import GlobalOptions
    from cyber_inference_tui.client.service_client import ServiceClient
    from cyber_inference_tui.library.catalog import Catalog
    from cyber_inference_tui.settings.schema import Settings

JOURNAL = "command-downloads.json"
_LOCK = "command-downloads.lock"
_LOOK = 0.3
"""Seconds between two looks at a download."""
_UNDER_WAY = {DownloadStatus.QUEUED, DownloadStatus.RUNNING, DownloadStatus.VERIFYING}
_PAUSE_TIME = 20.0

Show = Callable[[DownloadRecord], None]


class _Here:
    """Downloads in this process."""

    def __init__(self, hub: Hub) -> None:
        self._downloads = hub.downloads

    async def add(self, wanted: Wanted) -> DownloadRecord:
        return await self._downloads.add(*wanted)

    async def records(self) -> list[DownloadRecord]:
        return self._downloads.records()

    async def pause(self, download_id: str) -> DownloadRecord:
        return await self._downloads.pause(download_id)

    async def resume(self, download_id: str) -> DownloadRecord:
        return await self._downloads.resume(download_id)


class _There:
    """Downloads of the service."""

    def __init__(self, client: ServiceClient) -> None:
        self._client = client

    async def add(self, wanted: Wanted) -> DownloadRecord:
        body = queries.DownloadRequest(*wanted)
        return await self._client.call(endpoints.DOWNLOAD, body=body)

    async def records(self) -> list[DownloadRecord]:
        return await self._client.call(endpoints.DOWNLOADS)

    async def pause(self, download_id: str) -> DownloadRecord:
        return await self._client.call(endpoints.PAUSE_DOWNLOAD, download_id)

    async def resume(self, download_id: str) -> DownloadRecord:
        return await self._client.call(endpoints.RESUME_DOWNLOAD, download_id)


def search(options: GlobalOptions, query: str, *, sort: str, limit: int) -> list[HubModelRecord]:
    """What the hub has. Raises ``CyberError``s."""
    settings = options.load().settings
    try:
        found, _ = with_client(
            settings,
            lambda client: client.search(queries.SearchQuery(q=query, sort=sort, limit=limit)),
        )
    except NoServiceError:

        async def ask() -> list[HubModelRecord]:
            async with _hub(options, settings) as hub:
                return (await hub.browse.search(query, sort=sort, limit=limit))[0]

        found = asyncio.run(ask())
    return found


def download(options: GlobalOptions, wanted: Wanted, show: Show) -> DownloadRecord:
    """Bring a model here and wait for it; its last record. Raises ``CyberError``s.

    ``KeyboardInterrupt`` leaves what is here for the next time.
    """
    settings = options.load().settings
    with contextlib.suppress(NoServiceError):
        return with_client(settings, lambda client: _bring(_There(client), wanted, show))

    async def bring() -> DownloadRecord:
        async with _hub(options, settings) as hub:
            # Left by a command that was killed: only what is asked for now is to run.
            for record in hub.downloads.records():
                if record.status in _UNDER_WAY:
                    with contextlib.suppress(ConflictError):
                        await hub.downloads.pause(record.id)
            return await _bring(_Here(hub), wanted, show)

    with _alone(settings.data_dir):
        return asyncio.run(bring())


async def _bring(queue: _Here | _There, wanted: Wanted, show: Show) -> DownloadRecord:
    record = await queue.add(wanted)
    try:
        if record.status is DownloadStatus.PAUSED:
            record = await queue.resume(record.id)
        while record.status in _UNDER_WAY:
            show(record)
            await asyncio.sleep(_LOOK)
            known = await queue.records()
            found = next((one for one in known if one.id == record.id), None)
            if found is None:
                raise ConflictError(f"The download of {record.repo} was taken from the list.")
            record = found
    except asyncio.CancelledError:
        # Ctrl-C: what is here stays, and stays listed.
        with contextlib.suppress(CyberError, TimeoutError):
            async with asyncio.timeout(_PAUSE_TIME):
                await queue.pause(record.id)
        raise
    if record.status is DownloadStatus.FAILED:
        raise HubError(record.error or f"The download of {record.repo} failed.")
    if record.status is not DownloadStatus.DONE:
        raise ConflictError(f"The download of {record.repo} was {record.status.value} elsewhere.")
    return record


@asynccontextmanager
async def _hub(options: GlobalOptions, settings: Settings) -> AsyncIterator[Hub]:
    """The hub and its downloads in this process."""
    # Why one failed is what the command says itself.
    logging.getLogger(downloads.__name__).setLevel(logging.ERROR)
    library = library_for(settings, demo=False, environ=options.environ)

    async def rescan() -> Catalog:
        return await asyncio.to_thread(library.scan)

    hub = Hub(
        settings=lambda: settings,
        environ=options.environ,
        events=EventBus(first_id=1),
        now=lambda: datetime.now(UTC),
        rescan=rescan,
        journal=JOURNAL,
    )
    await hub.start()
    try:
        yield hub
    finally:
        await hub.stop()


@contextmanager
def _alone(data_dir: Path) -> Iterator[None]:
    """Hold the journal of these commands. Raises ``ConflictError`` where another one has it."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(data_dir / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CyberError(f"{data_dir} cannot be written to: {error.strerror}.") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConflictError(
                "Another download-model runs already.",
                hint="Wait for it, or start a service: that one downloads several at once.",
            ) from error
        yield
    finally:
        os.close(descriptor)
