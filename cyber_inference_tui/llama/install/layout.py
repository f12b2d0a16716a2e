"""Stores builds: a folder for each version, and ``current``, a link that is replaced atomically.

::

    <data_dir>/llama/github-b6543/bin/llama-server -> ../lib/llama-server
    <data_dir>/llama/github-b6543/lib/             the program, its libraries and backends
    <data_dir>/llama/github-b6543/install.json     its source and version
    <data_dir>/llama/current -> github-b6543
    <data_dir>/llama/newest.json                   the newest known version of a source
    <data_dir>/llama/.build-b6543/                 an unfinished build from source

The program looks for its backends beside its real file, so all files are in one folder. A build in
use is never written to: running servers keep the files that they started with.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import msgspec

from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.errors import ConflictError, InstallError
from cyber_inference_tui.files import replace_file
from cyber_inference_tui.llama.binary import PROGRAM

_T = TypeVar("_T")

CURRENT = "current"
_RECORD = "install.json"
_LOCK = "install.lock"
_NEWEST = "newest.json"
_STAGING = ".staging-"
_BUILD = ".build-"
_RECORD_LIMIT = 1 << 20


class Installed(msgspec.Struct, frozen=True, kw_only=True):
    """The record of an installed build (``install.json``)."""

    source: str
    version: str
    installed_at: datetime
    devices: tuple[str, ...] = ()
    previous: str | None = None
    """The folder of the build that this one replaced; it is kept."""


class Newest(msgspec.Struct, frozen=True, kw_only=True):
    """The newest known version of a source (``newest.json``)."""

    source: str
    version: str
    seen_at: datetime


def update_of(current: Installed | None, newest: Newest | None) -> str | None:
    """Return the newer version of the build in use; ``None`` = none is known."""
    if current is None or newest is None or newest.source != current.source:
        return None
    # A build that was installed after the check is at least as new.
    if newest.version == current.version or newest.seen_at < current.installed_at:
        return None
    return newest.version


class Layout:
    """The folder ``<data_dir>/llama``. All methods block."""

    def __init__(self, data_dir: Path) -> None:
        # Absolute: some builds contain their own path.
        self.root = data_dir.absolute() / "llama"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock on installations. Raises ``ConflictError`` if another process holds it."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / _LOCK).open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConflictError(
                    f"Another install-llama is running in {self.root}.",
                    hint="Wait until it has finished.",
                ) from None
            self._sweep()
            yield

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """Make an empty folder on the same file system; its remains are deleted at the end."""
        path = Path(tempfile.mkdtemp(prefix=_STAGING, dir=self.root))
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def scratch(self, name: str) -> Path:
        """Return a folder for a source's own work. Only for the holder of the lock."""
        return self.root / f"{_STAGING}{name}"

    def build_folder(self, version: str) -> Path:
        """Return the folder where that release is built; folders of other releases are deleted.

        Only for the holder of the lock.
        """
        folder = self.root / f"{_BUILD}{version}"
        for other in self.root.glob(f"{_BUILD}*"):
            if other != folder:
                shutil.rmtree(other, ignore_errors=True)
        folder.mkdir(exist_ok=True)
        return folder

    def begun_build(self) -> tuple[Path, str] | None:
        """Return the folder of an unfinished build from source, and its release."""
        folder = next(iter(sorted(self.root.glob(f"{_BUILD}*"))), None)
        return None if folder is None else (folder, folder.name.removeprefix(_BUILD))

    def free_folder(self, source: str, version: str) -> Path:
        """Return a folder for that build that does not exist yet.

        A second installation of a version gets a number: the old folder may be in use.
        """
        name = re.sub(r"[^A-Za-z0-9.+~-]", "_", f"{source}-{version}")[:100]
        candidates = [name, *(f"{name}_{number}" for number in range(2, 100))]
        for candidate in candidates:
            if not os.path.lexists(self.root / candidate):
                return self.root / candidate
        raise InstallError(f"{self.root} holds too many folders named {name}.")

    def move_in(self, staging: Path, final: Path) -> None:
        """Give a finished staging folder its name."""
        staging.chmod(0o755)
        staging.rename(final)

    def activate(
        self, folder: Path, *, source: str, version: str, devices: tuple[str, ...], now: datetime
    ) -> None:
        """Put ``folder`` in use atomically; keep the build before it, delete older ones.

        After a power cut either the old build is in use, or the new one with all its files.
        """
        previous = self._current_name()
        record = Installed(
            source=source,
            version=version,
            installed_at=now,
            devices=devices,
            previous=previous,
        )
        (folder / _RECORD).write_bytes(msgspec.json.encode(record))
        _force(folder)
        self._point_to(folder)
        self._keep({folder.name, previous})

    def current(self) -> Installed | None:
        """Return the record of the build in use; ``None`` = there is none, or it is unreadable."""
        return _read(self.root / CURRENT / _RECORD, Installed)

    def previous(self) -> tuple[Path, Installed] | None:
        """Return the build that was in use before, if it is kept."""
        current = self.current()
        # The user may have edited the record: accept a name, never a path.
        if current is None or current.previous is None or "/" in current.previous:
            return None
        folder = self.root / current.previous
        record = _read(folder / _RECORD, Installed)
        return None if record is None or folder.is_symlink() else (folder, record)

    def restore(self, folder: Path, record: Installed) -> None:
        """Put the previous build in use; the build that it replaces is kept in turn."""
        record = msgspec.structs.replace(record, previous=self._current_name())
        new = folder / f"{_RECORD}.new"
        new.write_bytes(msgspec.json.encode(record))
        _force_file(new)
        new.replace(folder / _RECORD)
        self._point_to(folder)

    def newest(self) -> Newest | None:
        """Return the newest known version of a source."""
        return _read(self.root / _NEWEST, Newest)

    def note_newest(self, newest: Newest) -> None:
        """Store it. If that fails, the next check asks the source again."""
        with contextlib.suppress(OSError):
            replace_file(self.root / _NEWEST, msgspec.json.encode(newest))

    def remove(self, folder: Path) -> None:
        """Delete a build, unless it is in use."""
        if folder.name == self._current_name():
            return
        shutil.rmtree(folder, ignore_errors=True)

    def _point_to(self, folder: Path) -> None:
        link = self.root / f".{CURRENT}.new"
        link.unlink(missing_ok=True)
        link.symlink_to(folder.name)
        link.replace(self.root / CURRENT)
        _force_file(self.root)

    def _current_name(self) -> str | None:
        try:
            return (self.root / CURRENT).readlink().name
        except OSError:
            return None

    def _keep(self, names: set[str | None]) -> None:
        """Delete all builds except ``names``; other folders are left alone."""
        for path in self.root.iterdir():
            ours = (path / _RECORD).is_file() and not path.is_symlink()
            if ours and path.name not in names:
                self.remove(path)

    def _sweep(self) -> None:
        # Remains of killed installations; the lock shows that none is running.
        for path in self.root.glob(f"{_STAGING}*"):
            shutil.rmtree(path, ignore_errors=True)
        for path in self.root.iterdir():
            if path.is_symlink() or not path.is_dir() or (path / _RECORD).exists():
                continue
            # It was moved in but never activated.
            if (path / "bin" / PROGRAM).is_symlink() and path.name != self._current_name():
                shutil.rmtree(path, ignore_errors=True)


def _read(path: Path, kind: type[_T]) -> _T | None:
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(_RECORD_LIMIT), type=thread_safe(kind))
    except (OSError, msgspec.MsgspecError):
        return None


def _force(folder: Path) -> None:
    """Flush all files of a folder, and its own name, to the disk. Raises ``OSError``."""
    for path in (*folder.rglob("*"), folder, folder.parent):
        if not path.is_symlink():
            _force_file(path)


def _force_file(path: Path) -> None:
    """Flush a file, or the names in a folder, if the file system can."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP}:
            raise
    finally:
        os.close(file)


def link_program(folder: Path) -> None:
    """Make ``bin/llama-server`` for ``lib/llama-server``. Raises ``InstallError`` without it."""
    program = folder / "lib" / PROGRAM
    if not program.is_file():
        raise InstallError(f"The build holds no {PROGRAM}.")
    with contextlib.suppress(FileExistsError):
        (folder / "bin").mkdir()
    (folder / "bin" / PROGRAM).symlink_to(Path("..", "lib", PROGRAM))
