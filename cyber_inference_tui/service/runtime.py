"""What a running service leaves in ``data_dir`` for others: a lock, and where it listens.

``service.lock`` is held (flock) as long as the service lives and tells who holds it;
``service.json`` (mode 0600) holds the address and a token for the admin endpoints, and is
removed at the end.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from cyber_inference_tui.decoding import learned
from cyber_inference_tui.errors import ConflictError, CyberError

RUNTIME_FILE = "service.json"
_LOCK_FILE = "service.lock"


class RuntimeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Where the service of a data directory listens, and how its user's programs get in."""

    pid: int
    url: str
    """Of the address that it is bound to, which may be a wildcard."""
    version: str
    started_at: datetime
    token: str = ""
    """A secret: good for the admin endpoints as long as the process lives."""


class DataDirectoryLock:
    """Holds ``data_dir`` for one service: use it as ``with``.

    Entering raises ``ConflictError`` naming the process that holds it. ``close`` leaves it.
    """

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / _LOCK_FILE
        self._file: int | None = None

    def __enter__(self) -> Self:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # O_CLOEXEC (Python's default): a server of ours must not keep the lock.
            file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise CyberError(
                f"Cannot write to the data directory {self._path.parent}: {error.strerror}.",
                hint="Choose another with --data-dir.",
            ) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(file, 64).decode("ascii", "replace").strip() or "unknown"
            os.close(file)
            raise ConflictError(
                f"{self._path.parent} is in use by another service (pid {holder}).",
                hint="Stop that one, or choose another directory with --data-dir.",
            ) from None
        os.ftruncate(file, 0)
        os.write(file, f"{os.getpid()}\n".encode())
        self._file = file
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let another service have the directory."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def data_directory_holder(data_dir: Path) -> int | None:
    """The pid of the service that holds ``data_dir`` (0 = it did not say), ``None`` if none does.

    The lock is taken for a moment to find out.
    """
    try:
        file = os.open(data_dir / _LOCK_FILE, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        holder = os.read(file, 64).decode("ascii", "replace").strip()
        return int(holder) if holder.isdecimal() else 0
    else:
        return None
    finally:
        os.close(file)


def write_runtime_file(data_dir: Path, record: RuntimeRecord) -> None:
    """Tell where the service listens; written whole or not at all."""
    path = data_dir / RUNTIME_FILE
    temporary = path.with_name(f"{RUNTIME_FILE}.new")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(file, "wb") as stream:
        stream.write(msgspec.json.encode(record))
    temporary.replace(path)


def read_runtime_file(data_dir: Path) -> RuntimeRecord | None:
    """Where a service of this directory listens, or said so last; ``None`` if nothing is known."""
    try:
        return msgspec.json.decode(
            (data_dir / RUNTIME_FILE).read_bytes(), type=learned(RuntimeRecord)
        )
    except (OSError, msgspec.MsgspecError):
        return None


def remove_runtime_file(data_dir: Path) -> None:
    """The service has ended."""
    (data_dir / RUNTIME_FILE).unlink(missing_ok=True)
