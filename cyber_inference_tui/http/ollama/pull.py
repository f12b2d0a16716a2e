"""Pulls models from the hub, through the queue of downloads."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

from cyber_inference_tui.errors import (
    HubError,
    InvalidRequestError,
    ModelNotFoundError,
    ShuttingDownError,
)
from cyber_inference_tui.http.ollama.aliases import Aliases
from cyber_inference_tui.http.ollama.lines import Lines
from cyber_inference_tui.hub.model_reference import ModelReference, parse_reference
from cyber_inference_tui.records import DownloadRecord, DownloadStatus
from cyber_inference_tui.text import escaped

if TYPE_CHECKING:
    from cyber_inference_tui.service.service import Service

HEARTBEAT = 5.0
"""Seconds after which the last line is sent again: so a client that has left is noticed."""
SUCCESS: Final = {"status": "success"}

_VERIFYING: Final = {"status": "verifying sha256 digest"}
_ENDED: Final = frozenset({DownloadStatus.DONE, DownloadStatus.FAILED, DownloadStatus.CANCELLED})


class Pulls:
    """Follows downloads for clients.

    A download that a pull has begun is cancelled when the last of its clients leaves. It keeps its
    bytes for the next pull.
    """

    def __init__(self, service: Service, aliases: Aliases, *, heartbeat: float = HEARTBEAT) -> None:
        self._service = service
        self._aliases = aliases
        self._heartbeat = heartbeat
        self._clients: Counter[str] = Counter()
        """The number of clients of each download that a pull has begun."""

    async def lines(self, name: str) -> Lines:
        """Download the model with this name, unless it is here, and yield Ollama's lines.

        Afterwards the model has this name, too. Raises ``CyberError``.
        """
        yield {"status": "pulling manifest"}
        if not self._is_here(name):
            async with aclosing(self._download(_reference(name))) as records:
                async for record in records:
                    is_read = record.status is DownloadStatus.VERIFYING
                    yield _VERIFYING if is_read else _layer(record)
            if record.status is not DownloadStatus.DONE:
                raise HubError(
                    record.error or "The download was cancelled.", hint="Pull it again to continue."
                )
            yield _VERIFYING
            yield {"status": "writing manifest"}
            if record.model_id is not None and not self._is_here(name):
                await self._aliases.copy(record.model_id, name)
        yield SUCCESS

    def _is_here(self, name: str) -> bool:
        try:
            self._service.models.resolve(name)
        except ModelNotFoundError:
            return False
        return True

    async def _download(self, reference: ModelReference) -> AsyncGenerator[DownloadRecord, None]:
        """Queue a download, and yield its record at each change, until it ends."""
        downloads = self._service.hub.downloads
        before = {one.id for one in downloads.records() if one.status not in _ENDED}
        record = await downloads.add(*reference)
        if record.status is DownloadStatus.PAUSED:
            record = await downloads.resume(record.id)
        changes = self._service.events.subscribe({"download"})
        is_ours = record.id not in before or record.id in self._clients
        if is_ours:
            self._clients[record.id] += 1
        client_left = True
        try:
            yield record
            while record.status not in _ENDED:
                is_quiet = False
                try:
                    async with asyncio.timeout(self._heartbeat):
                        await anext(changes)
                except TimeoutError:
                    is_quiet = True
                except StopAsyncIteration:
                    # The next service continues the download.
                    client_left = False
                    raise ShuttingDownError("The service is stopping.") from None
                found = next((one for one in downloads.records() if one.id == record.id), None)
                if found is None:
                    client_left = False
                    raise HubError("The download was cancelled and removed.")
                if found != record or is_quiet:
                    record = found
                    yield record
            client_left = False
        finally:
            self._clients -= Counter({record.id: int(is_ours)})
            is_last = is_ours and record.id not in self._clients
            if client_left and is_last:
                await downloads.cancel(record.id, keep=True)


def _reference(name: str) -> ModelReference:
    """Return the model on the hub that a name such as ``hf.co/OWNER/NAME:QUANT`` means.

    Raises ``ModelNotFoundError`` for a name in Ollama's own library, which is not used.
    """
    if "/" not in name:
        raise ModelNotFoundError(
            f'model "{escaped(name, limit=200)}" not found.',
            hint="Models come from the Hugging Face Hub: pull hf.co/OWNER/NAME:Q4_K_M.",
            param="model",
            name=name,
        )
    try:
        found = parse_reference(name)
    except InvalidRequestError as error:
        raise InvalidRequestError(
            f"invalid model name: {error.message}", hint=error.hint, param="model"
        ) from error
    return found._replace(filename=None) if found.filename == "latest" else found


def _layer(record: DownloadRecord) -> dict[str, Any]:
    """Return the line of a download's progress: one layer with all its files.

    Clients show a part of its digest. It identifies the download, not the content.
    """
    digest = hashlib.sha256(f"{record.repo}\0{record.filename}".encode()).hexdigest()
    return {
        "status": f"pulling {digest[:12]}",
        "digest": f"sha256:{digest}",
        "total": record.bytes_total or 0,
        "completed": record.bytes_done,
    }
