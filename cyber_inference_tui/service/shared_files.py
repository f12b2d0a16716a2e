"""The model files that other boxes may copy, found by their SHA-256.

The digest of a downloaded file is known. Any other file is hashed when a box asks for a file of its
size or duplicates are looked for, in the background and one at a time; nothing is hashed at the
start. ``digests.json`` in the
data directory keeps each digest until its file changes.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import stat
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.errors import FileNotReadyError, NotFoundError, StorageError
from cyber_inference_tui.files import read_file, replace_file
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.storage import Storages, begin

_DIGESTS: Final = "digests.json"
_MOST_BYTES: Final = 8 << 20
_MOST_KNOWN: Final = 10_000
"""Digests that are kept; the oldest is forgotten."""
_BLOCK: Final = 4 << 20
_LOWEST_PRIORITY: Final = 19

_logger = logging.getLogger(__name__)


class _Digest(msgspec.Struct, frozen=True):
    size: int
    modified: int
    """In nanoseconds since 1970."""
    sha256: str
    """Empty for a file that could not be read."""


class SharedFiles:
    """Finds files of ``models``, which returns the present models by id. ``close`` it."""

    def __init__(self, data_dir: Path, models: Callable[[], Mapping[str, LocalModel]]) -> None:
        self._file = data_dir / _DIGESTS
        self._models = models
        self._storages = Storages()
        self._digests: dict[str, _Digest] | None = None
        """By path; ``None`` until the file is read."""
        self._changing = asyncio.Lock()
        self._to_hash: dict[Path, None] = {}
        self._hashing: asyncio.Task[None] | None = None
        self._ended = threading.Event()

    async def read(self) -> None:
        """Read the digests that are kept."""
        await self._known()

    def digest(self, model: LocalModel) -> str | None:
        """Return the SHA-256 of a model in one file, as far as it is known."""
        if self._digests is None or model.path is None or model.shards != (model.path,):
            return None
        known = self._digests.get(str(model.path))
        if known is None or (known.size, known.modified) != (model.size_bytes, model.modified):
            return None
        return known.sha256 or None

    async def find(self, sha256: str, size: int) -> Path:
        """Return the file with this digest and size in bytes.

        Raises ``NotFoundError``, and ``FileNotReadyError`` while a file that may be it is hashed.
        """
        digests = await self._known()
        unknown = []
        for path, status in await self._of_size(size):
            known = digests.get(str(path))
            if known is None or known.modified != status.st_mtime_ns or known.size != size:
                unknown.append(path)
            elif known.sha256 == sha256:
                return path
        if not unknown:
            raise NotFoundError("This box has no such file.")
        self._begin_to_hash(unknown)
        raise FileNotReadyError("This box has files of this size and is still hashing them.")

    async def digests(self, files: Mapping[Path, tuple[int, int]]) -> dict[Path, str]:
        """Return the digests of files with these sizes and times (in nanoseconds since 1970).

        A file whose digest is not known yet is left out and hashed; that of a file that cannot be
        read is empty.
        """
        known = await self._known()
        found = {
            path: digest.sha256
            for path, status in files.items()
            if (digest := known.get(str(path))) and (digest.size, digest.modified) == status
        }
        self._begin_to_hash(files.keys() - found.keys())
        return found

    async def settled(self) -> None:
        """Wait until no file is being hashed any more."""
        if self._hashing is not None:
            await self._hashing

    async def note(self, files: Mapping[Path, str | None]) -> None:
        """Keep the digests of files that were downloaded and verified."""
        for path, sha256 in files.items():
            if sha256 is not None:
                with suppress(OSError, StorageError):
                    status = await self._storages.ask_async(path.parent, path.stat)
                    await self._keep(path, _digest(status, sha256))

    async def close(self) -> None:
        """Stop hashing."""
        self._ended.set()
        if self._hashing is not None:
            self._hashing.cancel()
            await asyncio.gather(self._hashing, return_exceptions=True)

    def _begin_to_hash(self, paths: Iterable[Path]) -> None:
        self._to_hash.update(dict.fromkeys(paths))
        if self._to_hash and (self._hashing is None or self._hashing.done()):
            self._hashing = asyncio.create_task(self._hash(), name="hash model files")

    async def _of_size(self, size: int) -> list[tuple[Path, os.stat_result]]:
        """Return the files of usable models with this size. A storage that hangs has none."""
        folders: dict[Path, set[Path]] = {}
        for model in self._models().values():
            if model.problem is None and (model.size_bytes or 0) >= size:
                draft = model.draft.files if model.draft else ()
                for path in (*model.shards, *([model.mmproj] if model.mmproj else []), *draft):
                    folders.setdefault(path.parent, set()).add(path)
        found: list[tuple[Path, os.stat_result]] = []
        for folder, paths in folders.items():
            with suppress(StorageError):
                found += await self._storages.ask_async(folder, partial(_statuses, paths, size))
        return found

    async def _hash(self) -> None:
        while self._to_hash:
            path = next(iter(self._to_hash))
            # In a thread of its own: a storage that hangs holds up nothing else.
            digest = await asyncio.wrap_future(begin(partial(_hashed, path, self._ended)))
            if digest is not None:
                await self._keep(path, digest)
            del self._to_hash[path]

    # The file

    async def _known(self) -> dict[str, _Digest]:
        async with self._changing:
            if self._digests is None:
                self._digests = await asyncio.to_thread(_read, self._file)
        return self._digests

    async def _keep(self, path: Path, digest: _Digest) -> None:
        digests = await self._known()
        async with self._changing:
            digests.pop(str(path), None)
            digests[str(path)] = digest
            while len(digests) > _MOST_KNOWN:
                del digests[next(iter(digests))]
            content = msgspec.json.encode({key: one for key, one in digests.items() if one.sha256})
            try:
                await asyncio.to_thread(replace_file, self._file, content, mode=0o600)
            except OSError as error:
                _logger.warning("%s cannot be written: %s", self._file, error.strerror)


def _digest(status: os.stat_result, sha256: str) -> _Digest:
    return _Digest(status.st_size, status.st_mtime_ns, sha256)


def _statuses(paths: Iterable[Path], size: int) -> list[tuple[Path, os.stat_result]]:
    found = []
    for path in sorted(paths):
        with suppress(OSError):
            status = path.stat()
            if stat.S_ISREG(status.st_mode) and status.st_size == size:
                found.append((path, status))
    return found


def _hashed(path: Path, ended: threading.Event) -> _Digest | None:
    """Hash a file at the lowest priority; return ``None`` if it has changed or ``ended`` is set."""
    if sys.platform == "linux":
        # There, a thread has a priority of its own.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST_PRIORITY)
    try:
        before = path.stat()
    except OSError:
        return None
    digest = hashlib.sha256()
    try:
        with os.fdopen(_opened(path), "rb", buffering=0) as file:
            while data := file.read(_BLOCK):
                if ended.is_set():
                    return None
                digest.update(data)
            after = os.fstat(file.fileno())
    except OSError as error:
        _logger.warning("%s cannot be hashed: %s", path, error.strerror)
        return _digest(before, "")
    same = (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    return _digest(after, digest.hexdigest()) if same else None


def _opened(path: Path) -> int:
    """Open a file to read it, without changing when it was last read if the system allows that.

    Otherwise hashing would count as a use of other programs' models.
    """
    try:
        return os.open(path, os.O_RDONLY | getattr(os, "O_NOATIME", 0))
    except PermissionError:  # open(2): only its owner may do that
        return os.open(path, os.O_RDONLY)


def _read(file: Path) -> dict[str, _Digest]:
    try:
        content = read_file(file, _MOST_BYTES)
        return msgspec.json.decode(content, type=thread_safe(dict[str, _Digest]))
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        _logger.warning("%s cannot be read, so model files are hashed again: %s", file, error)
        return {}
