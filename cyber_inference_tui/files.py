"""Reads files without blocking on special files, writes them in one step, explains full disks.

Opening a fifo blocks until a process writes to it, and a device may have no end.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
from io import FileIO
from pathlib import Path
from typing import BinaryIO

_NOT_REPLACEABLE = frozenset({errno.EBUSY, errno.EACCES, errno.EPERM, errno.EROFS, errno.EXDEV})
_KINDS = {
    stat.S_IFIFO: "a fifo",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def typed_path(text: str) -> Path:
    """Return the absolute path that a person typed, with ``~`` expanded.

    Raises ``OSError`` if there is no such home directory; ``strerror`` says so.
    """
    path = Path(text)
    try:
        return path.expanduser().absolute()
    except RuntimeError:
        user = path.parts[0][1:]
        reason = f"there is no {f'user {user!r}' if user else 'home directory'}"
        raise FileNotFoundError(errno.ENOENT, reason, text) from None


def read_file(path: Path, limit: int) -> bytes:
    """Return the first ``limit`` bytes of a regular file; ``/dev/null`` is an empty one.

    Raises ``OSError``; its ``strerror`` also explains a ``path`` that is not a regular file.
    """
    with _opened(path) as file:
        return file.read(limit)


def read_tail(path: Path, limit: int) -> bytes:
    """Return whole lines from the end of a file, at most ``limit`` bytes; see ``read_file``."""
    with _opened(path) as file:
        cut = max(0, os.fstat(file.fileno()).st_size - limit)
        file.seek(cut)
        data = file.read(limit)
        return data.partition(b"\n")[2] if cut else data


def _opened(path: Path) -> BinaryIO:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        # The error of a socket or a missing device on Linux, and of a socket on macOS.
        if error.errno in {errno.ENXIO, errno.EOPNOTSUPP}:
            raise _not_a_file(path, path.stat().st_mode) from None
        raise
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode) and not path.samefile(os.devnull):
        os.close(descriptor)
        raise _not_a_file(path, mode)
    return os.fdopen(descriptor, "rb")


def replace_file(path: Path, data: bytes, *, mode: int | None = None, flush: bool = False) -> None:
    """Write ``path`` atomically: a reader sees the old file, none, or the complete new one.

    ``mode`` are its permissions, without regard to the umask. With ``flush`` the content survives
    a power cut. Raises ``OSError`` and then leaves nothing behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with os.fdopen(os.open(temporary, flags, 0o666 if mode is None else 0o600), "wb") as file:
            file.write(data)
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            if flush:
                file.flush()
                flush_to_disk(file.fileno())
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def rewrite_file(path: Path, data: bytes) -> None:
    """Replace a user's file with ``data`` in one step, keeping its mode and owner.

    A file that is a mount of its own (a single file in a container), or that is in a folder that is
    not writable, cannot be replaced: it is overwritten. A new file gets the mode 0600. Raises
    ``OSError``.
    """
    try:
        _replace(path, data)
    except OSError as error:
        if error.errno not in _NOT_REPLACEABLE or not path.is_file():
            raise
        _overwrite(path, data)


def _overwrite(target: Path, data: bytes) -> None:
    """Overwrite a file; restores its content if the disk has no room for the new."""
    with target.open("r+b", buffering=0) as file:
        old = file.read()
        try:
            _write_from_start(file, data)
        except OSError:
            _write_from_start(file, old)
            raise


def _write_from_start(file: FileIO, data: bytes) -> None:
    file.seek(0)
    while data:
        data = data[file.write(data) :]
    file.truncate()
    os.fsync(file)


def _replace(target: Path, data: bytes) -> None:
    try:
        status = target.stat()
    except FileNotFoundError:
        status = None
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}")
    try:
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(file, "wb") as stream:
            stream.write(data)
            stream.flush()
            if status is not None:
                # An edit by the administrator must not change the owner.
                with contextlib.suppress(PermissionError):
                    os.fchown(file, status.st_uid, status.st_gid)
                os.fchmod(file, status.st_mode & 0o7777)
            os.fsync(file)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Otherwise a power cut may restore the old file; some file systems refuse this.
        with contextlib.suppress(OSError):
            os.fsync(folder)
    finally:
        os.close(folder)


def flush_to_disk(descriptor: int) -> None:
    """Flush a file so that its content survives a power cut. Raises ``OSError``.

    On macOS ``fsync`` leaves data in the drive's own cache, and there is no ``fdatasync``: fsync(2)
    and fcntl(2) there.
    """
    if (full := getattr(fcntl, "F_FULLFSYNC", None)) is not None:
        with contextlib.suppress(OSError):  # a file system without it
            fcntl.fcntl(descriptor, full)
            return
    getattr(os, "fdatasync", os.fsync)(descriptor)


_NO_ROOM = {
    errno.ENOSPC: "Make room on that disk, for example with delete-model.",
    errno.EDQUOT: "Make room: the quota of this user is used up.",
    errno.EROFS: "That disk is read-only: mount it for writing, or choose another with data_dir.",
}


def has_no_room(error: OSError) -> bool:
    """Return whether the disk is full or read-only: the program can do without for a while."""
    return error.errno in _NO_ROOM


def write_problem(path: Path, error: OSError) -> str:
    """Return a sentence on a file or directory that cannot be written, and one with the remedy."""
    way_out = _NO_ROOM.get(error.errno or 0, "Check who may write there.")
    return f"{path} cannot be written: {error.strerror}. {way_out}"


def _not_a_file(path: Path, mode: int) -> OSError:
    if stat.S_ISDIR(mode):
        return IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    kind = _KINDS.get(stat.S_IFMT(mode), "something else")
    return OSError(errno.EINVAL, f"it is {kind}, not a file", str(path))
