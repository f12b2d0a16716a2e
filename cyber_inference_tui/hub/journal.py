"""What the downloads are, in a file that outlives the service: ``downloads.json``.

Bytes are not in it: those are counted on the disk. Everything here blocks.
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

_LIMIT = 64 << 20
_ID = re.compile(r"[0-9a-f]{8,32}")

_logger = logging.getLogger(__name__)


class JournalEntry(msgspec.Struct, kw_only=True):
    """One download; ``status`` is what is wanted of it: ``queued`` also while it runs."""

    id: str
    plan: DownloadPlan
    models_dir: str
    status: DownloadStatus = DownloadStatus.QUEUED
    begun: bool = False
    """It has its own directory, or had."""
    placing: bool = False
    """Everything is here and verified, and is being moved to where it belongs."""
    kept: bool = False
    """Cancelled, but what is here stays."""
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
        """What was saved last. A file that makes no sense is set aside, and told of in the log."""
        try:
            content = read_file(self._path, _LIMIT)
        except FileNotFoundError:
            return []
        except OSError as error:
            _logger.warning("the downloads are not known: %s: %s", self._path, error.strerror)
            return []
        try:
            entries = msgspec.json.decode(content, type=thread_safe(_File)).downloads
            for entry in entries:
                _check(entry)
        except (msgspec.MsgspecError, UnicodeDecodeError, HubError) as error:
            aside = self._path.with_name(f"{self._path.name}.damaged")
            _logger.warning(
                "the downloads are not known: %s (%s) is kept as %s", self._path, error, aside.name
            )
            try:
                self._path.replace(aside)
            except OSError as failure:
                _logger.warning("%s cannot be renamed: %s", self._path, failure.strerror)
            return []
        return entries

    def save(self, content: bytes) -> None:
        """Replace the file; after a power cut it is the old or the new one. ``OSError``."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_durably(self._path, content)


def encoded(entries: Iterable[JournalEntry]) -> bytes:
    """The journal's content."""
    return msgspec.json.encode(_File(version=1, downloads=list(entries)))


def _check(entry: JournalEntry) -> None:
    # The id is the name of a directory.
    if not _ID.fullmatch(entry.id):
        raise HubError(f"{entry.id!r} is no download.")
    check_plan(entry.plan)
