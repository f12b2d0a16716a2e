"""The files of a running service in ``data_dir``: its lock, and its address for other programs.

The service holds ``service.lock`` (flock) as long as it runs; the file names its pid.
``service.json`` (mode 0600) has the address and a token for the admin endpoints. The service
removes it at the end.
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

from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.errors import ConflictError, CyberError
from cyber_inference_tui.files import has_no_room, read_file, replace_file, write_problem

RUNTIME_FILE = "service.json"
_LOCK_FILE = "service.lock"
_MAX_BYTES = 65_536


class RuntimeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The address of the service of a data directory, and a token for its user's programs."""

    pid: int
    url: str
    """The URL of the bound address, which may be a wildcard."""
    version: str
    started_at: datetime
    token: str = ""
    """A secret that opens the admin endpoints as long as the process runs."""


class DataDirectoryLock:
    """Locks ``data_dir`` for one service; use it as ``with``.

    Entering raises ``ConflictError``, which names the process that holds the lock, and
    ``CyberError`` if the directory is unusable. On a full or read-only disk the service runs all
    the same, and ``problem`` says what could not be written.
    """

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / _LOCK_FILE
        self._file: int | None = None
        self.problem: str | None = None

    def __enter__(self) -> Self:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # O_CLOEXEC (Python's default): a server of ours must not keep the lock.
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, 0o600)
            self._hold(self._file)
            # Overwrite the content: that needs no room on a full disk.
            os.ftruncate(self._file, os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0))
        except OSError as error:
            # A lock is not needed then: a second service could not write there either.
            if not has_no_room(error) and not self._path.exists():
                raise CyberError(
                    f"Cannot write to the data directory {self._path.parent}: {error.strerror}.",
                    hint="Choose another with --data-dir.",
                ) from error
            self.problem = write_problem(self._path, error)
        return self

    def _hold(self, file: int) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(file, 64).decode("ascii", "replace").strip() or "unknown"
            self.close()
            raise ConflictError(
                f"{self._path.parent} is in use by another service (pid {holder}).",
                hint="Stop that service, or choose another directory with --data-dir.",
            ) from None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the lock."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def data_directory_holder(data_dir: Path) -> int | None:
    """Return the pid of the service that holds ``data_dir``; 0 = unknown, ``None`` = no service.

    Takes the lock for a moment.
    """
    try:
        file = os.open(data_dir / _LOCK_FILE, os.O_RDONLY | os.O_NONBLOCK)
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
    """Write the record, whole or not at all. Raises ``OSError``.

    On a full disk it overwrites the file that an earlier service left.
    """
    path = data_dir / RUNTIME_FILE
    content = msgspec.json.encode(record)
    try:
        replace_file(path, content, mode=0o600)
    except OSError as error:
        try:
            file = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
            try:
                os.ftruncate(file, os.pwrite(file, content, 0))
            finally:
                os.close(file)
        except OSError:
            # What an earlier process wrote there is no longer true.
            with contextlib.suppress(OSError):
                path.unlink()
            raise error from None


def read_runtime_file(data_dir: Path) -> RuntimeRecord | None:
    """Return the record of the present or the last service; ``None`` if there is none."""
    try:
        return msgspec.json.decode(
            read_file(data_dir / RUNTIME_FILE, _MAX_BYTES), type=thread_safe(RuntimeRecord)
        )
    except (OSError, msgspec.MsgspecError):
        return None


def remove_runtime_file(data_dir: Path) -> None:
    """Remove the record of a service that has ended. Raises ``OSError``."""
    (data_dir / RUNTIME_FILE).unlink(missing_ok=True)
