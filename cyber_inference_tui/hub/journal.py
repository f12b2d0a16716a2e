"""Keep the list of downloads in ``downloads.json``, which outlives the service.

Progress is not in it: the bytes are counted on the disk. Everything here blocks.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import msgspec

from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.errors import HubError
from cyber_inference_tui.files import read_file
from cyber_inference_tui.hub.download_plan import DownloadPlan, check_plan
from cyber_inference_tui.hub.partial import write_durably
from cyber_inference_tui.records import DownloadStatus

JOURNAL = "downloads.json"
"""Its name in the data directory."""
_LIMIT = 64 << 20
_ID = re.compile(r"[0-9a-f]{8,32}")

_logger = logging.getLogger(__name__)


class JournalEntry(msgspec.Struct, kw_only=True):
    """One download; ``status`` is the wanted one: ``queued`` also while it runs."""

    id: str
    plan: DownloadPlan
    models_dir: str
    status: DownloadStatus = DownloadStatus.QUEUED
    begun: bool = False
    """Its staging directory was made."""
    placing: bool = False
    """All files are verified and are being moved to their final paths."""
    kept: bool = False
    """It was cancelled, but its bytes stay."""
    error: str | None = None
    model_id: str | None = None
    created_at: datetime


class _File(msgspec.Struct):
    version: int
    downloads: list[JournalEntry]


class Journal:
    """The file at ``path``; one caller at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> list[JournalEntry]:
        """Return the saved entries. An invalid file is renamed, and the log says so."""
        try:
            content = read_file(self._path, _LIMIT)
        except FileNotFoundError:
            return []
        except OSError as error:
            _logger.warning(
                "the list of downloads cannot be read: %s: %s", self._path, error.strerror
            )
            return []
        try:
            entries = msgspec.json.decode(content, type=thread_safe(_File)).downloads
            for entry in entries:
                _check(entry)
        except (msgspec.MsgspecError, UnicodeDecodeError, HubError) as error:
            aside = self._path.with_name(f"{self._path.name}.damaged")
            _logger.warning(
                "the list of downloads cannot be read: %s (%s) is kept as %s",
                self._path,
                error,
                aside.name,
            )
            try:
                self._path.replace(aside)
            except OSError as failure:
                _logger.warning("%s cannot be renamed: %s", self._path, failure.strerror)
            return []
        return entries

    def save(self, content: bytes) -> None:
        """Replace the file; after a power cut it is the old or the new one. Raises ``OSError``."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_durably(self._path, content)


def encoded(entries: Iterable[JournalEntry]) -> bytes:
    """Encode the journal's content."""
    return msgspec.json.encode(_File(version=1, downloads=list(entries)))


def _check(entry: JournalEntry) -> None:
    # Ids come from a file that somebody may have edited.
    if not _ID.fullmatch(entry.id):
        raise HubError(f"{entry.id!r} is not the id of a download.")
    check_plan(entry.plan)
