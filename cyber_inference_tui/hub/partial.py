"""A file that is being downloaded: ``NAME.part``, and ``NAME.part.json`` with its identity.

Everything here blocks and belongs in a thread. One process at a time has a file open (``flock``).

The bytes on the disk are the progress. After a crash of this program the system still has all of
them. After a power cut the end of the file may be missing or be zeros. So every few seconds the
file is synced to the disk, and the note (``.part.json``) then records its length and its digest.
After a reboot (another boot id) only the bytes up to that length are trusted.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.errors import ConflictError, CyberError, DiskFullError
from cyber_inference_tui.files import flush_to_disk
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.units import size_text

PART = ".part"
NOTE = ".part.json"

_NOTE_LIMIT: Final = 64 * 1024
_READ: Final = 4 << 20
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
# Some file systems have no locks, or cannot sync a directory.
_NOT_OFFERED: Final = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)


class HubFile(msgspec.Struct, frozen=True, kw_only=True):
    """Identifies a file of the hub; unknown facts are ``None``."""

    repo: str
    revision: str
    path: str
    size: int | None = None
    sha256: str | None = None
    git_sha1: str | None = None

    def same_content(self, other: HubFile) -> bool:
        """Return whether both have the same bytes, as far as they are known."""
        for ours, theirs in ((self.sha256, other.sha256), (self.git_sha1, other.git_sha1)):
            if ours and theirs:
                return ours == theirs
        place = (self.repo, self.revision, self.path)
        sizes = {self.size, other.size} - {None}
        return place == (other.repo, other.revision, other.path) and len(sizes) < 2


class Checkpoint(NamedTuple):
    """A length of the file, and the SHA-256 of the bytes up to there."""

    offset: int
    sha256: str


class _Note(msgspec.Struct, kw_only=True):
    origin: HubFile
    synced_bytes: int = 0
    synced_sha256: str = ""
    boot: str = ""
    whole: bool = False
    """It was verified and synced: without its ``.part`` it has its final name."""


class Partial:
    """A partial file: get one from ``open_partial``, call ``hash_more`` until it is true, then
    write.

    ``close`` it at the end. Methods raise ``DiskFullError``, or ``CyberError`` if the file cannot
    be read or written.
    """

    def __init__(self, target: Path, file: int, note: _Note, boot: str) -> None:
        self.target = target
        self.origin = note.origin
        self.offset = 0
        """Bytes on the disk that are hashed: the download continues here."""
        self._file = file
        self._boot = boot
        self._note = note
        self._sha256 = hashlib.sha256()
        self._git: hashlib._Hash | None = None
        self._ended = False
        """It has its final name, or was removed."""
        self._hasher = ThreadPoolExecutor(1, thread_name_prefix="hash")
        self._found = os.fstat(file).st_size
        if note.boot != boot or not boot:
            self._found = min(self._found, note.synced_bytes)
        if note.origin.size is not None and self._found > note.origin.size:
            self._found = 0
        self._begin_hashes()

    @property
    def found(self) -> int:
        """Bytes that were there, and trusted, when it was opened."""
        return self._found

    @property
    def remaining(self) -> int | None:
        """Bytes that are missing."""
        return None if self.origin.size is None else self.origin.size - self.offset

    def hash_more(self) -> bool:
        """Hash a few more MiB of the bytes that were found; return whether all are hashed."""
        with _writing(self):
            checkpoint = self._note.synced_bytes
            end = self._found
            if self.offset < checkpoint < end:
                end = checkpoint
            data = os.pread(self._file, min(_READ, end - self.offset), self.offset)
            self._hash(data)
            self.offset += len(data)
            if self.offset == checkpoint and self.digest != (
                self._note.synced_sha256 or self.digest
            ):
                # The disk has lost or changed bytes.
                self.restart()
                return True
            if data and self.offset < self._found:
                return False
            os.ftruncate(self._file, self.offset)
            os.lseek(self._file, self.offset, os.SEEK_SET)
            return True

    def fill_in(self, *, size: int | None, sha256: str | None, git_sha1: str | None) -> None:
        """Adopt facts from an answer that the plan lacks, before the first byte."""
        known = self.origin
        digests = known.sha256 is not None or known.git_sha1 is not None
        new = msgspec.structs.replace(
            known,
            size=known.size if known.size is not None else size,
            sha256=known.sha256 if digests else sha256,
            git_sha1=known.git_sha1 if digests else git_sha1,
        )
        if self.offset == 0 and new != known:
            self.origin = new
            self.restart()

    def write(self, data: Sequence[bytes | memoryview]) -> None:
        """Append ``data``; after an error ``offset`` counts the bytes that were written."""
        with _writing(self):
            for block in data:
                self._append(memoryview(block))

    def _append(self, block: memoryview) -> None:
        """Hash while writing: on a fast disk each takes about as long as the other."""
        before = self._sha256.copy(), self._git and self._git.copy()
        hashing = self._hasher.submit(self._hash, block)
        count = 0
        try:
            while count < len(block):
                count += os.write(self._file, block[count:])
        finally:
            hashing.result()
            if count < len(block):
                self._sha256, self._git = before
                self._hash(block[:count])
            self.offset += count

    def checkpoint(self) -> Checkpoint:
        """Return the present state, for ``sync``; not while a write runs."""
        return Checkpoint(self.offset, self.digest)

    def sync(self, checkpoint: Checkpoint) -> None:
        """Make the file up to ``checkpoint`` survive a power cut; may run during ``write``."""
        with _writing(self):
            flush_to_disk(self._file)
            self._note.synced_bytes, self._note.synced_sha256 = checkpoint
            self._note.boot = self._boot
            _write_note(self.target, self._note)

    def sync_rest(self) -> None:
        """Make all bytes survive a power cut, also of a file that only has to be verified."""
        if not self._ended and self.offset > self._note.synced_bytes:
            self.sync(self.checkpoint())

    def check_space(self, margin: int) -> None:
        """Raise ``DiskFullError`` unless the missing bytes fit and ``margin`` bytes stay free."""
        require_space(self.target.parent, self.remaining or 0, margin)

    def restart(self) -> None:
        """Truncate the file and begin again."""
        with _writing(self):
            os.ftruncate(self._file, 0)
            os.lseek(self._file, 0, os.SEEK_SET)
            self.offset = self._found = 0
            self._begin_hashes()
            self._note = _Note(origin=self.origin, boot=self._boot)
            _write_note(self.target, self._note)

    def problem(self) -> str | None:
        """Return why the complete file is not the requested one; ``None`` if it is."""
        size = self.origin.size
        if size is not None and self.offset != size:
            return f"it has {self.offset} bytes instead of {size}"
        if self.origin.sha256 is not None and self.digest != self.origin.sha256:
            return "its SHA-256 is different"
        if self._git is not None and self._git.hexdigest() != self.origin.git_sha1:
            return "its Git id is different"
        return None

    def complete(self) -> None:
        """Give the file its final name; it must be complete and checked.

        The note stays, for ``is_whole``.
        """
        with _writing(self):
            os.fsync(self._file)
            self._ended = True
            self._note.whole = True
            _write_note(self.target, self._note)
            _beside(self.target, PART).replace(self.target)
            sync_directory(self.target.parent)

    def discard(self) -> None:
        """Remove the file and its note."""
        self._ended = True
        with _writing(self):
            _beside(self.target, PART).unlink(missing_ok=True)
            _beside(self.target, NOTE).unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file, which releases its lock."""
        self._hasher.shutdown(wait=False)
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    @property
    def digest(self) -> str:
        """The SHA-256 of the first ``offset`` bytes."""
        return self._sha256.hexdigest()

    def _hash(self, data: bytes | memoryview) -> None:
        self._sha256.update(data)
        if self._git is not None:
            self._git.update(data)

    def _begin_hashes(self) -> None:
        self._sha256 = hashlib.sha256()
        self._git = None
        origin = self.origin
        if origin.sha256 is None and origin.git_sha1 is not None and origin.size is not None:
            self._git = hashlib.sha1(b"blob %d\0" % origin.size, usedforsecurity=False)


def open_partial(target: Path, origin: HubFile, *, boot: str) -> Partial:
    """Continue with ``target``, or begin it. ``boot`` is the system's boot id; empty = unknown.

    Raises ``ConflictError`` while another process has it, and ``CyberError``.
    """
    part = _beside(target, PART)
    try:
        note = _read_note(target)
        if note is not None and note.origin.same_content(origin):
            note.origin = _both(origin, note.origin)
        elif part.exists():
            note = None
        else:
            # Before the file, so that every file has a note.
            note = _Note(origin=origin, boot=boot)
            _write_note(target, note)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        file = os.open(part, flags, 0o644)
    except OSError as error:
        raise write_error(target, error) from error
    with contextlib.ExitStack() as failed:
        failed.callback(os.close, file)
        _lock(file, part)
        partial = Partial(target, file, note or _Note(origin=origin, boot=boot), boot)
        if note is None:
            partial.restart()
        failed.pop_all()
    return partial


def is_whole(target: Path, origin: HubFile) -> bool:
    """Return whether ``target`` is complete and is the file that ``origin`` identifies."""
    try:
        size = target.stat().st_size
        note = _read_note(target)
    except OSError:
        return False
    if note is None or not note.whole or _beside(target, PART).exists():
        return False
    return note.origin.same_content(origin) and origin.size in {None, size}


def bytes_matching(target: Path, origin: HubFile) -> int:
    """Return how many bytes of the file ``origin`` are at ``target``, complete or partial."""
    with contextlib.suppress(OSError):
        note = _read_note(target)
        if note is not None and note.origin.same_content(origin):
            return bytes_on_disk(target)
    return 0


def link_whole(source: Path, target: Path, origin: HubFile) -> bool:
    """Hard-link ``source``, which is the file ``origin``, to ``target``; return whether it worked.

    It does not for a symbolic link, or if the file system or the owner forbids it. Raises
    ``CyberError``.
    """
    if source.is_symlink():
        return False
    new = _beside(target, ".new")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for path in (new, target):
            path.unlink(missing_ok=True)
        try:
            os.link(source, new, follow_symlinks=False)
        except OSError:
            return False
        _beside(target, PART).unlink(missing_ok=True)
        _write_note(target, _Note(origin=origin, whole=True))
        new.replace(target)
        sync_directory(target.parent)
    except OSError as error:
        raise write_error(target, error) from error
    return True


def copy_beginning(source: Path, target: Path, origin: HubFile, *, boot: str) -> Iterator[None]:
    """Begin ``target`` with the bytes that another download or model has of the same file.

    ``source`` is a complete file or a partial one. Each step copies a few MiB; a transfer then
    hashes them like its own. Raises ``CyberError`` if they cannot be written; if the source
    disappears, fewer bytes are copied.
    """
    digest, count = hashlib.sha256(), 0
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _write_note(target, _Note(origin=origin, boot=boot))
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        with os.fdopen(os.open(_beside(target, PART), flags, 0o644), "wb") as copied:
            for data in _blocks(source, origin.size or 0, boot):
                copied.write(data)
                digest.update(data)
                count += len(data)
                yield
            copied.flush()
            flush_to_disk(copied.fileno())
        note = _Note(origin=origin, boot=boot)
        note.synced_bytes, note.synced_sha256 = count, digest.hexdigest()
        _write_note(target, note)
    except OSError as error:
        raise write_error(target, error, needed=(origin.size or count) - count) from error


def _blocks(source: Path, most: int, boot: str) -> Iterator[bytes]:
    """Yield the first ``most`` trusted bytes of a complete or partial file."""
    with contextlib.suppress(OSError):
        path = source
        if not source.exists():
            path = _beside(source, PART)
            note = _read_note(source)
            if note is not None and (note.boot != boot or not boot):
                most = min(most, note.synced_bytes)
        with path.open("rb") as file:
            while data := file.read(min(_READ, most)):
                most -= len(data)
                yield data


def bytes_on_disk(target: Path) -> int:
    """Return the present size of a file, complete or partial."""
    for path in (target, _beside(target, PART)):
        with contextlib.suppress(OSError):
            return path.stat().st_size
    return 0


def require_space(directory: Path, needed: int, margin: int) -> None:
    """Raise ``DiskFullError`` unless ``needed`` and ``margin`` bytes are free in ``directory``."""
    try:
        free = _free(directory)
    except OSError as error:
        raise write_error(directory, error) from error
    if free < needed + margin:
        raise _full(directory, needed, free, needed + margin - free)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory survive a power cut, if the file system can."""
    file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in _NOT_OFFERED:
            raise
    finally:
        os.close(file)


def write_durably(path: Path, content: bytes) -> None:
    """Replace a small file: after a power cut it is the old or the new one. Raises ``OSError``."""
    new = _beside(path, ".new")
    file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(file, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    new.replace(path)
    sync_directory(path.parent)


def write_error(path: Path, error: OSError, *, needed: int = 0) -> CyberError:
    """Return the error for a failed write; ``needed`` bytes were still to come."""
    shown = clean_line(str(path), limit=500)
    if error.errno in _FULL:
        free = 0
        with contextlib.suppress(OSError):
            free = _free(path.parent)
        return _full(path.parent, needed, free, max(needed - free, 0))
    if error.errno == errno.EFBIG:
        return CyberError(
            f"The file system of {path.parent} has no room for a file as large as {path.name}.",
            hint="FAT holds files of up to 4 GiB; exFAT and ext4 hold larger ones.",
        )
    return CyberError(f"{shown} cannot be written: {error.strerror or error}.")


def _full(directory: Path, needed: int, free: int, missing: int) -> DiskFullError:
    more = f"at least {size_text(missing)} more" if missing else "some room"
    return DiskFullError(
        f"{size_text(needed)} are still to come, and {directory} has {size_text(free)} free.",
        hint=f"Make {more} there (`cyber-inference-tui gc`, or R in the app), then try again: the "
        "bytes that have arrived are kept.",
    )


def _free(directory: Path) -> int:
    there = os.statvfs(directory)
    return there.f_bavail * there.f_frsize


def _both(origin: HubFile, known: HubFile) -> HubFile:
    """Return the facts of the plan, completed with those learned before."""
    digests = origin.sha256 is None and origin.git_sha1 is None
    return msgspec.structs.replace(
        origin,
        size=known.size if origin.size is None else origin.size,
        sha256=known.sha256 if digests else origin.sha256,
        git_sha1=known.git_sha1 if digests else origin.git_sha1,
    )


def _lock(file: int, part: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        same = os.path.samestat(os.fstat(file), part.stat())
    except (BlockingIOError, FileNotFoundError):
        same = False
    except OSError as error:
        if error.errno not in _NOT_OFFERED:
            raise write_error(part, error) from error
        return
    if not same:
        raise ConflictError(
            f"Another process is downloading {part.name.removesuffix(PART)} to {part.parent}."
        )


def _read_note(target: Path) -> _Note | None:
    """Return the note of a partial file; ``None`` if there is none, or an invalid one."""
    try:
        with _beside(target, NOTE).open("rb") as file:
            note = msgspec.json.decode(file.read(_NOTE_LIMIT), type=thread_safe(_Note))
    except (FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return note if note.synced_bytes >= 0 else None


def _write_note(target: Path, note: _Note) -> None:
    write_durably(_beside(target, NOTE), msgspec.json.encode(note))


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


@contextlib.contextmanager
def _writing(partial: Partial) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise write_error(partial.target, error, needed=partial.remaining or 0) from error
