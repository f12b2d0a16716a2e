"""Where builds are kept: a folder per version, and ``current``, a link that is swapped at once.

::

    <data_dir>/llama/github-b6543/bin/llama-server -> ../lib/llama-server
    <data_dir>/llama/github-b6543/lib/             the program, its libraries and backends
    <data_dir>/llama/github-b6543/install.json     where it came from
    <data_dir>/llama/current -> github-b6543
    <data_dir>/llama/newest.json                   the newest version that was seen, and when
    <data_dir>/llama/.build-b6543/                 a build from source that is not finished

The program finds its backends beside its real file, which is why all of it is in one folder.
A build that is in use is never written to: running servers go on with the files they began with.
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
    """What is known of an installed build (``install.json``)."""

    source: str
    version: str
    installed_at: datetime
    devices: tuple[str, ...] = ()
    previous: str | None = None
    """Folder of the build that this one replaced; it is kept."""


class Newest(msgspec.Struct, frozen=True, kw_only=True):
    """The newest version that a source was seen to have (``newest.json``)."""

    source: str
    version: str
    seen_at: datetime


def update_of(current: Installed | None, newest: Newest | None) -> str | None:
    """The version to which the build in use could be brought; ``None`` = none is known."""
    if current is None or newest is None or newest.source != current.source:
        return None
    # What was installed after the look is at least as new.
    if newest.version == current.version or newest.seen_at < current.installed_at:
        return None
    return newest.version


class Layout:
    """The folder ``<data_dir>/llama``. All methods block."""

    def __init__(self, data_dir: Path) -> None:
        # Absolute: builds may have their own place written into them.
        self.root = data_dir.absolute() / "llama"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else installs meanwhile. Raises ``ConflictError`` when somebody does."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / _LOCK).open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConflictError(
                    f"Another install-llama works in {self.root}.", hint="Wait until it is done."
                ) from None
            self._sweep()
            yield

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """A new empty folder on the same file system; whatever is left of it goes at the end."""
        path = Path(tempfile.mkdtemp(prefix=_STAGING, dir=self.root))
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def scratch(self, name: str) -> Path:
        """A folder for a source's own work, to be used by the holder of the lock only."""
        return self.root / f"{_STAGING}{name}"

    def build_folder(self, version: str) -> Path:
        """Where that release is built from source; folders of others are removed.

        To be used by the holder of the lock only.
        """
        folder = self.root / f"{_BUILD}{version}"
        for other in self.root.glob(f"{_BUILD}*"):
            if other != folder:
                shutil.rmtree(other, ignore_errors=True)
        folder.mkdir(exist_ok=True)
        return folder

    def begun_build(self) -> tuple[Path, str] | None:
        """The folder of a build from source that is not finished, and its release."""
        folder = next(iter(sorted(self.root.glob(f"{_BUILD}*"))), None)
        return None if folder is None else (folder, folder.name.removeprefix(_BUILD))

    def free_folder(self, source: str, version: str) -> Path:
        """A folder for that build that does not exist yet.

        The same version installed anew gets a number: the old folder may be in use.
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
        """Make ``folder`` the one in use, in one step; keep the one before it, drop older ones.

        A power cut finds the old one in use, or the new one with all its files.
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
        """The record of the build in use; ``None`` without one, or when it cannot be read."""
        return _read(self.root / CURRENT / _RECORD, Installed)

    def previous(self) -> tuple[Path, Installed] | None:
        """The build that was in use before, as far as it is kept."""
        current = self.current()
        # The record is a file that anybody may have changed: a name, never a path.
        if current is None or current.previous is None or "/" in current.previous:
            return None
        folder = self.root / current.previous
        record = _read(folder / _RECORD, Installed)
        return None if record is None or folder.is_symlink() else (folder, record)

    def restore(self, folder: Path, record: Installed) -> None:
        """Make the previous build the one in use; the one it replaces is kept in its place."""
        record = msgspec.structs.replace(record, previous=self._current_name())
        new = folder / f"{_RECORD}.new"
        new.write_bytes(msgspec.json.encode(record))
        _force_file(new)
        new.replace(folder / _RECORD)
        self._point_to(folder)

    def newest(self) -> Newest | None:
        """What was seen last of a source's versions."""
        return _read(self.root / _NEWEST, Newest)

    def note_newest(self, newest: Newest) -> None:
        """Remember it; without a place for it the next look asks again."""
        with contextlib.suppress(OSError):
            temporary = self.root / f"{_NEWEST}.new"
            temporary.write_bytes(msgspec.json.encode(newest))
            temporary.replace(self.root / _NEWEST)

    def remove(self, folder: Path) -> None:
        """Remove a build, unless it is the one in use."""
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
        """Remove all builds but those of ``names``: only folders that are ours by their look."""
        for path in self.root.iterdir():
            ours = (path / _RECORD).is_file() and not path.is_symlink()
            if ours and path.name not in names:
                self.remove(path)

    def _sweep(self) -> None:
        # What an installation that was killed left behind; the lock says that none is running.
        for path in self.root.glob(f"{_STAGING}*"):
            shutil.rmtree(path, ignore_errors=True)
        for path in self.root.iterdir():
            if path.is_symlink() or not path.is_dir() or (path / _RECORD).exists():
                continue
            # Moved in but never activated.
            if (path / "bin" / PROGRAM).is_symlink() and path.name != self._current_name():
                shutil.rmtree(path, ignore_errors=True)


def _read(path: Path, kind: type[_T]) -> _T | None:
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(_RECORD_LIMIT), type=thread_safe(kind))
    except (OSError, msgspec.MsgspecError):
        return None


def _force(folder: Path) -> None:
    """Have everything in a folder, and its own name, survive a power cut. ``OSError``."""
    for path in (*folder.rglob("*"), folder, folder.parent):
        if not path.is_symlink():
            _force_file(path)


def _force_file(path: Path) -> None:
    """A file, or the names in a folder, as far as the file system can."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP}:
            raise
    finally:
        os.close(file)


def link_program(folder: Path) -> None:
    """Make ``bin/llama-server`` for ``lib/llama-server``. Raises ``InstallError`` without one."""
    program = folder / "lib" / PROGRAM
    if not program.is_file():
        raise InstallError(f"The build holds no {PROGRAM}.")
    with contextlib.suppress(FileExistsError):
        (folder / "bin").mkdir()
    (folder / "bin" / PROGRAM).symlink_to(Path("..", "lib", PROGRAM))
