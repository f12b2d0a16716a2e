"""Where a download's files lie until all are here: ``MODELS_DIR/.downloads/NAME``, which is hidden.

The name follows from the model alone: whoever downloads it, a service or a command, now or after
its journal was lost, goes on with what is here, and one process at a time does (``flock``). On the
same file system as the models, so that in the end they are only renamed. Everything here blocks.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import NamedTuple

from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.hub.download_plan import DownloadPlan, PlannedFile, local_path
from cyber_inference_tui.hub.partial import (
    NOTE,
    PART,
    HubFile,
    bytes_begun,
    bytes_of,
    copy_beginning,
    is_whole,
    link_whole,
    sync_directory,
    write_error,
)

STAGING = ".downloads"
_LOCK = ".lock"
_READ = 4 << 20
_MAX_ENTRIES = 50_000
"""Of the directory of models that are looked at for a file that is here already."""


class Staging:
    """The directory of the model that ``plan`` is about."""

    def __init__(self, models_dir: Path, plan: DownloadPlan) -> None:
        self._models_dir = models_dir
        self._plan = plan
        model = f"{plan.repo.lower()}\n{plan.filename}".encode()
        self.root = models_dir / STAGING / hashlib.sha256(model).hexdigest()[:16]

    def staged(self, file: PlannedFile) -> Path:
        """Where a file lies until all are here."""
        return self.root / local_path(self._plan, file)

    def place_of(self, file: PlannedFile) -> Path:
        """Where it belongs."""
        return self._models_dir / local_path(self._plan, file)

    def exists(self) -> bool:
        """Whether something of it is there; a card that was taken out has nothing.

        Where another process was done with it, the model itself is.
        """
        return self.root.is_dir() or any(self.place_of(file).exists() for file in self._plan.files)

    def tidy(self) -> None:
        """Remove what an earlier version of the model has left and this one has no use for, and
        locks of programs that were killed."""
        wanted = {self.staged(file) for file in self._plan.files}
        wanted |= {path.with_name(path.name + end) for path in wanted for end in (PART, NOTE)}
        for folder, _, names in os.walk(self.root):
            for path in {Path(folder, name) for name in names} - wanted:
                with contextlib.suppress(OSError):
                    path.unlink()
        for lock in self.root.parent.glob(f"*{_LOCK}"):
            with contextlib.suppress(CyberError):
                claim = PathLock()
                claim.take_lock(lock)
                claim.release()

    def begun(self, file: PlannedFile) -> int:
        """How many bytes of the very file are staged."""
        return bytes_begun(self.staged(file), self.origin(file))

    def bytes_here(self) -> dict[str, int]:
        """How many bytes of each file are here."""
        return {file.path: bytes_of(self.staged(file)) for file in self._plan.files}

    def origin(self, file: PlannedFile) -> HubFile:
        """Which file of the hub it is."""
        return HubFile(
            repo=self._plan.repo,
            revision=self._plan.revision,
            path=file.path,
            size=file.size_bytes,
            sha256=file.sha256,
            git_sha1=file.git_sha1,
        )

    def is_whole(self, file: PlannedFile) -> bool:
        """Whether it has arrived: it got its name when it was verified."""
        return is_whole(self.staged(file), self.origin(file))

    def lock_of(self, file: PlannedFile) -> Path | None:
        """The lock that is held while a file is fetched, by its content: a projector belongs to
        several models. ``None`` where the hub gives no digest."""
        digest = file.sha256 or file.git_sha1
        return self.root.parent / f"{digest}{_LOCK}" if digest else None

    def copies(self, file: PlannedFile, *, everywhere: bool) -> list[LocalCopy]:
        """Files in the directory of models that are, or may be, this one, whole; best first.

        Without ``everywhere`` only those that a link will do for. None where the hub gives no
        digest.
        """
        if self.lock_of(file) is None:
            return []
        place, origin = self.place_of(file), self.origin(file)
        here = place.relative_to(self._models_dir)
        found = [
            LocalCopy(target, linkable=goes_to == here, verified=True)
            for target, goes_to in self._others()
            if is_whole(target, origin)
        ]
        candidates = {place}
        if everywhere:
            candidates.update(_files_below(self._models_dir))
        for path in candidates:
            with contextlib.suppress(OSError):
                # A link in the very place may lead to another disk.
                status = path.stat() if path == place else path.lstat()
                if stat.S_ISREG(status.st_mode) and status.st_size == file.size_bytes:
                    found.append(LocalCopy(path, linkable=path == place, verified=False))
        found = [copy for copy in found if copy.linkable or everywhere]
        return sorted(found, key=lambda copy: (not copy.linkable, not copy.verified))

    def begun_elsewhere(self, file: PlannedFile) -> tuple[int, Path]:
        """Where another download has most of a file, and how many bytes."""
        origin = self.origin(file)
        if self.lock_of(file) is None:
            return 0, Path()
        found = ((bytes_begun(target, origin), target) for target, _ in self._others())
        return max(found, default=(0, Path()))

    def link(self, file: PlannedFile, source: Path) -> bool:
        """Stage a copy under a second name, where the file system has such. ``CyberError``.

        Only for what will have one name in the end: to the library two names of one file are one.
        """
        return link_whole(source, self.staged(file), self.origin(file))

    def copy(self, file: PlannedFile, source: Path, *, boot: str) -> Iterator[None]:
        """Begin with the bytes of another file; a few MiB at each step. Raises ``CyberError``."""
        return copy_beginning(source, self.staged(file), self.origin(file), boot=boot)

    def _others(self) -> Iterator[tuple[Path, PurePath]]:
        """The files that other downloads have or begin: where they are staged, and the place
        below the directory of models that they are for."""
        for root in _entries(self.root.parent):
            if root == self.root:
                continue
            # A walk passes over folders that the others remove meanwhile.
            for folder, _, names in os.walk(root):
                for name in names:
                    if name.endswith(NOTE):
                        target = Path(folder, name.removesuffix(NOTE))
                        yield target, target.relative_to(root)

    def comparison(self, file: PlannedFile, path: Path) -> Iterator[bool]:
        """Whether ``path`` is the file; ``False`` after every few MiB until it is known to be."""
        digest, wanted = hashlib.sha256(), file.sha256
        if wanted is None:
            digest = hashlib.sha1(b"blob %d\0" % (file.size_bytes or 0), usedforsecurity=False)
            wanted = file.git_sha1
        with contextlib.suppress(OSError), path.open("rb") as stream:
            while data := stream.read(_READ):
                digest.update(data)
                yield False
            yield digest.hexdigest() == wanted

    def place(self) -> tuple[Path, ...]:
        """Move everything to where it belongs; after a crash, the rest of it.

        Returns the paths, in the plan's order. The model's first file comes last: until then it
        is seen to be incomplete. Raises ``CyberError``.
        """
        files = sorted(self._plan.files, key=lambda file: file.path == self._plan.filename)
        for file in files:
            path = self.place_of(file)
            try:
                self._move(self.staged(file), path)
            except OSError as error:
                if error.errno == errno.EXDEV:
                    raise CyberError(
                        f"{path.parent} lies on another disk than {self._models_dir}.",
                        hint="Set models_dir to that disk, or remove the link.",
                    ) from error
                raise write_error(path, error) from error
        self.remove()
        return tuple(self.place_of(file) for file in self._plan.files)

    def _move(self, staged: Path, path: Path) -> None:
        if not staged.exists():
            if path.is_file():
                return
            raise CyberError(
                f"{path.name} was removed before it could be put in place.", hint="Try again."
            )
        make_directories(path.parent)
        if not path.parent.resolve().is_relative_to(self._models_dir.resolve()):
            raise CyberError(f"{path.parent} leads out of {self._models_dir}.")
        staged.replace(path)
        directory = path.parent
        while directory != self._models_dir:
            sync_directory(directory)
            directory = directory.parent
        sync_directory(self._models_dir)

    def remove(self) -> None:
        """Remove the directory with all that is in it; what cannot be removed stays."""
        shutil.rmtree(self.root, ignore_errors=True)
        with contextlib.suppress(OSError):
            # Unless other downloads are in it.
            self.root.parent.rmdir()


class LocalCopy(NamedTuple):
    """A file that is, or may be, one that a download needs."""

    path: Path
    linkable: bool
    """It is in the very place, or for it: a second name of it will do."""
    verified: bool
    """Its digest was checked when it arrived."""


class PathLock:
    """That one process, and one download in it, has a directory or a file. ``take`` it, and
    ``release`` it in the end."""

    def __init__(self) -> None:
        self._file = -1
        self._lock: Path | None = None

    def take(self, root: Path) -> bool:
        """Make the directory and have it alone, where the file system can; ``False`` while another
        process has it. Raises ``CyberError``."""
        return self._take(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)

    def take_lock(self, path: Path) -> bool:
        """The same of a file that exists only as long as it is held."""
        # Open for writing: NFS has locks for such files alone.
        taken = self._take(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
        self._lock = path if taken else None
        return taken

    def _take(self, path: Path, flags: int) -> bool:
        self.release()
        try:
            make_directories(path.parent if flags & os.O_CREAT else path)
            # Noted here: whoever waits for it may be cancelled meanwhile.
            self._file = os.open(path, flags, 0o600)
            if _locked(self._file) and os.path.samestat(os.fstat(self._file), path.stat()):
                return True
        except FileNotFoundError:
            # The other process was just done with it.
            pass
        except OSError as error:
            self.release()
            raise write_error(path, error) from error
        self.release()
        return False

    def release(self) -> None:
        """Let go of it."""
        file, self._file = self._file, -1
        lock, self._lock = self._lock, None
        if lock is not None:
            with contextlib.suppress(OSError):
                lock.unlink()
        if file >= 0:
            os.close(file)


def make_directories(directory: Path) -> None:
    """Make a directory and those above it, such that a power cut does not undo it. ``OSError``."""
    if directory.is_dir():
        return
    make_directories(directory.parent)
    directory.mkdir(exist_ok=True)
    sync_directory(directory.parent)


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        # A file system without locks, or one such as NFS that has them only for files that are
        # open for writing: each file has a lock of its own.
        return True
    return True


def _files_below(directory: Path) -> Iterator[Path]:
    """The visible files below a directory, as far as they can be read, up to a bound."""
    count = 0
    for folder, folders, names in os.walk(directory):
        folders[:] = [name for name in folders if not name.startswith(".")]
        count += len(names) + len(folders)
        if count > _MAX_ENTRIES:
            return
        yield from (Path(folder, name) for name in names)


def _entries(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except OSError:
        return []
