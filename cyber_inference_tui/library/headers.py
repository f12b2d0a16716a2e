"""Caches the headers of model files, in memory and in a file, until a file changes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Final

import msgspec

from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.errors import GGUFError
from cyber_inference_tui.files import read_file, replace_file
from cyber_inference_tui.gguf.metadata import ModelMetadata, read_metadata
from cyber_inference_tui.library.disk import Disk, error_text
from cyber_inference_tui.library.scan import ModelFile, unread_above

_logger = logging.getLogger(__name__)

_VERSION: Final = 5
_MAX_CACHE_FILE: Final = 64 * 2**20
# A file that changed this recently may change again within one tick of its file system's clock.
_SETTLED: Final = 2_000_000_000


class _CachedHeader(msgspec.Struct, frozen=True, omit_defaults=True):
    size: int
    modified: int
    metadata: ModelMetadata | None = None
    error: str | None = None


Fetched = dict[str, tuple[int, int, _CachedHeader | GGUFError]]
"""By path: the size and time of a file, with its header or the reason why it is unknown."""


class _Stored(msgspec.Struct, frozen=True):
    version: int
    entries: dict[str, _CachedHeader]


class HeaderCache:
    """Reads headers, again only if the size or time of a file differs.

    ``fetch`` reads them, in the thread of their storage; ``read`` returns them.

    ``clock`` returns nanoseconds since 1970. If ``file`` is ``None``, unreadable or from another
    version, all headers are read again. An error in a file is cached like a header. An error of the
    system (permissions, a disk) is not: the last header counts until the file can be read again.
    """

    def __init__(self, file: Path | None, clock: Callable[[], int]) -> None:
        self._file = file
        self._clock = clock
        self._entries = self._load()
        self._used: dict[str, _CachedHeader] = {}
        self._before: dict[str, _CachedHeader] = {}
        self._seen: dict[str, _CachedHeader] = {}
        self._fetched: Fetched = {}
        self._changed = False
        self._unsettled = False

    def fetch(self, files: Iterable[ModelFile], disk: Disk) -> Fetched:
        """Read the headers that are not cached. Blocks; any thread may call it."""
        fetched: Fetched = {}
        for file in files:
            if self._known(file) is None:
                try:
                    disk.reach(file.path)
                    found: _CachedHeader | GGUFError = self._read(file)
                except GGUFError as error:
                    found = error
                except OSError as error:
                    found = GGUFError(f"it cannot be read: {error_text(error)}")
                fetched[str(file.path)] = (file.size, file.modified, found)
        return fetched

    def take(self, fetched: Fetched) -> None:
        """Let ``read`` return these results until ``settle``."""
        self._fetched |= fetched

    def read(self, file: ModelFile) -> ModelMetadata:
        """Return the file's header without chat template, from the cache or the fetched results.

        Raises ``GGUFError``. Reads no file.
        """
        key = str(file.path)
        entry = self._known(file)
        if entry is None:
            size, modified, found = self._fetched.get(key, (0, 0, None))
            if isinstance(found, _CachedHeader) and (size, modified) != (file.size, file.modified):
                found = None
            if not isinstance(found, _CachedHeader):
                self._unsettled = True
                before = self._before.get(key, self._entries.get(key))
                if before is None:
                    raise found or GGUFError("it cannot be read")
                entry = before
            else:
                entry = found
                if abs(self._clock() - file.modified) >= _SETTLED:
                    self._entries[key] = entry
                    self._changed = True
                else:
                    self._unsettled = True
        self._seen[key] = entry
        if self._entries.get(key) is entry:
            self._used[key] = entry
        if entry.metadata is None:
            raise GGUFError(entry.error or "it cannot be read")
        return entry.metadata

    def _known(self, file: ModelFile) -> _CachedHeader | None:
        entry = self._entries.get(str(file.path))
        if entry is None or (entry.size, entry.modified) != (file.size, file.modified):
            return None
        return entry

    @staticmethod
    def _read(file: ModelFile) -> _CachedHeader:
        """Read the header, or the error in the file. Raises ``GGUFError`` for system errors."""
        try:
            found = read_metadata(file.path)
        except GGUFError as error:
            if isinstance(error.__cause__, OSError):
                raise
            return _CachedHeader(file.size, file.modified, error=error.message)
        return _CachedHeader(
            file.size, file.modified, msgspec.structs.replace(found, chat_template=None)
        )

    def settle(self, unread: Collection[Path] = ()) -> bool:
        """End a scan: forget files that were not asked for, and save changes.

        Files at or below ``unread`` are kept: they could not be read. Returns whether all results
        are valid until a file changes.
        """
        settled = not self._unsettled
        kept = dict(self._used)
        if unread:
            for key, entry in self._entries.items():
                if unread_above(Path(key), unread) is not None:
                    kept.setdefault(key, entry)
        if self._changed or len(kept) != len(self._entries):
            self._entries = kept
            self._save()
        self._used, self._fetched = {}, {}
        self._before, self._seen = self._seen, {}
        self._changed = self._unsettled = False
        return settled

    def _load(self) -> dict[str, _CachedHeader]:
        if self._file is None:
            return {}
        try:
            if self._file.stat().st_size > _MAX_CACHE_FILE:
                return {}
            stored = msgspec.json.decode(
                read_file(self._file, _MAX_CACHE_FILE), type=thread_safe(_Stored)
            )
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.DecodeError) as error:
            _logger.info("reading all model headers again: %s", error)
            return {}
        return stored.entries if stored.version == _VERSION else {}

    def _save(self) -> None:
        if self._file is None:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self._file, msgspec.json.encode(_Stored(_VERSION, self._entries)))
        except OSError as error:
            _logger.warning("cannot keep model headers in %s: %s", self._file, error.strerror)
