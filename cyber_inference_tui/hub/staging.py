"""Hold a download's files in the hidden ``MODELS_DIR/.downloads/NAME`` until all have arrived.

NAME is derived from the repository and the file. So another service, or the same one after it has
lost its journal, continues with the same bytes; one process at a time uses the directory
(``flock``). It is on the same file system as the models, so that in the end the files are only
renamed. Everything here blocks.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath
from typing import NamedTuple

from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.hub.download_plan import DownloadPlan, PlannedFile, local_path
from cyber_inference_tui.hub.journal import JournalEntry
from cyber_inference_tui.hub.partial import (
    NOTE,
    PART,
    HubFile,
    bytes_matching,
    bytes_on_disk,
    copy_beginning,
    is_whole,
    link_whole,
    sync_directory,
    write_error,
)
from cyber_inference_tui.records import DownloadStatus

STAGING = ".downloads"
_LOCK = ".lock"
_READ = 4 << 20
_MAX_ENTRIES = 50_000
"""Entries of ``models_dir`` that are searched for a file that exists already."""


class Staging:
    """The staging directory of the model in ``plan``."""

    def __init__(self, models_dir: Path, plan: DownloadPlan) -> None:
        self._models_dir = models_dir
        self._plan = plan
        model = f"{plan.repo.lower()}\n{plan.filename}".encode()
        self.root = models_dir / STAGING / hashlib.sha256(model).hexdigest()[:16]

    def staged_path(self, file: PlannedFile) -> Path:
        """Return where a file is until all have arrived."""
        return self.root / local_path(self._plan, file)

    def final_path(self, file: PlannedFile) -> Path:
        """Return where a file is in the end."""
        return self._models_dir / local_path(self._plan, file)

    def exists(self) -> bool:
        """Return whether the directory or a file of the model exists: not on a removed card.

        When another process has finished the download, only the model itself exists.
        """
        return self.root.is_dir() or any(
            self.final_path(file).exists() for file in self._plan.files
        )

    def tidy(self) -> None:
        """Remove files that only an earlier version of the model had, and stale locks."""
        wanted = {self.staged_path(file) for file in self._plan.files}
        wanted |= {path.with_name(path.name + end) for path in wanted for end in (PART, NOTE)}
        for folder, _, names in os.walk(self.root):
            for path in {Path(folder, name) for name in names} - wanted:
                with contextlib.suppress(OSError):
                    path.unlink()
        for lock in self.root.parent.glob(f"*{_LOCK}"):
            with contextlib.suppress(CyberError):
                lock_file = PathLock()
                lock_file.acquire_file(lock)
                lock_file.release()

    def bytes_staged(self, file: PlannedFile) -> int:
        """Return how many bytes of this version of a file are staged."""
        return bytes_matching(self.staged_path(file), self.origin(file))

    def bytes_here(self) -> dict[str, int]:
        """Return how many bytes of each file are staged."""
        return {file.path: bytes_on_disk(self.staged_path(file)) for file in self._plan.files}

    def origin(self, file: PlannedFile) -> HubFile:
        """Return the identity of a file."""
        return HubFile(
            repo=self._plan.repo,
            revision=self._plan.revision,
            path=file.path,
            size=file.size_bytes,
            sha256=file.sha256,
            git_sha1=file.git_sha1,
        )

    def is_whole(self, file: PlannedFile) -> bool:
        """Return whether a file has arrived and is verified."""
        return is_whole(self.staged_path(file), self.origin(file))

    def lock_path(self, file: PlannedFile) -> Path | None:
        """Return the lock to hold while a file is fetched; ``None`` if the hub gives no digest.

        It is named for the content, since several models share a projector.
        """
        digest = file.sha256 or file.git_sha1
        return self.root.parent / f"{digest}{_LOCK}" if digest else None

    def copies(self, file: PlannedFile, *, everywhere: bool) -> list[LocalCopy]:
        """List the complete files in ``models_dir`` that are, or may be, this one; best first.

        Without ``everywhere`` only those that can be hard-linked. Empty if the hub gives no digest.
        """
        if self.lock_path(file) is None:
            return []
        place, origin = self.final_path(file), self.origin(file)
        here = place.relative_to(self._models_dir)
        found = [
            LocalCopy(target, linkable=goes_to == here, verified=True)
            for target, goes_to in self._other_files()
            if is_whole(target, origin)
        ]
        candidates = {place}
        if everywhere:
            candidates.update(_files_below(self._models_dir))
        for path in candidates:
            with contextlib.suppress(OSError):
                # A link at the final path may lead to another disk.
                status = path.stat() if path == place else path.lstat()
                if stat.S_ISREG(status.st_mode) and status.st_size == file.size_bytes:
                    found.append(LocalCopy(path, linkable=path == place, verified=False))
        found = [copy for copy in found if copy.linkable or everywhere]
        return sorted(found, key=lambda copy: (not copy.linkable, not copy.verified))

    def most_elsewhere(self, file: PlannedFile) -> tuple[int, Path]:
        """Return the most bytes that another download has of a file, and where."""
        origin = self.origin(file)
        if self.lock_path(file) is None:
            return 0, Path()
        found = ((bytes_matching(target, origin), target) for target, _ in self._other_files())
        return max(found, default=(0, Path()))

    def link(self, file: PlannedFile, source: Path) -> bool:
        """Stage a hard link to ``source``, if the file system can. Raises ``CyberError``.

        Only for files that have one name in the end: the library takes two names of one file for
        one model.
        """
        return link_whole(source, self.staged_path(file), self.origin(file))

    def copy(self, file: PlannedFile, source: Path, *, boot: str) -> Iterator[None]:
        """Begin with the bytes of another file, a few MiB at each step. Raises ``CyberError``."""
        return copy_beginning(source, self.staged_path(file), self.origin(file), boot=boot)

    def _other_files(self) -> Iterator[tuple[Path, PurePath]]:
        """Yield the files of other downloads, and where below ``models_dir`` each will be moved."""
        for root in _entries(self.root.parent):
            if root == self.root:
                continue
            # os.walk skips folders that other downloads remove meanwhile.
            for folder, _, names in os.walk(root):
                for name in names:
                    if name.endswith(NOTE):
                        target = Path(folder, name.removesuffix(NOTE))
                        yield target, target.relative_to(root)

    def compare(self, file: PlannedFile, path: Path) -> Iterator[bool]:
        """Yield ``False`` after every few MiB, then whether ``path`` has the file's content."""
        digest, wanted = hashlib.sha256(), file.sha256
        if wanted is None:
            digest = hashlib.sha1(b"blob %d\0" % (file.size_bytes or 0), usedforsecurity=False)
            wanted = file.git_sha1
        with contextlib.suppress(OSError), path.open("rb") as stream:
            while data := stream.read(_READ):
                digest.update(data)
                yield False
            yield digest.hexdigest() == wanted

    def move_into_place(self) -> tuple[Path, ...]:
        """Move all files to their final paths; after a crash, the rest of them.

        Returns the paths, in the plan's order. The model's first file comes last: until then the
        library sees an incomplete model. Raises ``CyberError``.
        """
        files = sorted(self._plan.files, key=lambda file: file.path == self._plan.filename)
        for file in files:
            path = self.final_path(file)
            try:
                self._move(self.staged_path(file), path)
            except OSError as error:
                if error.errno == errno.EXDEV:
                    raise CyberError(
                        f"{path.parent} lies on another disk than {self._models_dir}.",
                        hint="Set models_dir to that disk, or remove the link.",
                    ) from error
                raise write_error(path, error) from error
        self.remove()
        return tuple(self.final_path(file) for file in self._plan.files)

    def _move(self, staged_path: Path, path: Path) -> None:
        if not staged_path.exists():
            if path.is_file():
                return
            raise CyberError(
                f"{path.name} was removed before it could be put in place.", hint="Try again."
            )
        make_directories(path.parent)
        if not path.parent.resolve().is_relative_to(self._models_dir.resolve()):
            raise CyberError(f"{path.parent} leads out of {self._models_dir}.")
        staged_path.replace(path)
        directory = path.parent
        while directory != self._models_dir:
            sync_directory(directory)
            directory = directory.parent
        sync_directory(self._models_dir)

    def remove(self) -> None:
        """Remove the directory with everything in it, as far as possible."""
        shutil.rmtree(self.root, ignore_errors=True)
        with contextlib.suppress(OSError):
            # It is not empty while there are other downloads.
            self.root.parent.rmdir()


class Staged(NamedTuple):
    """The files of downloads in a list."""

    roots: frozenset[Path]
    """Their staging directories."""
    targets: frozenset[Path]
    """The final paths of those that are not over."""


def staged_by(entries: Iterable[JournalEntry]) -> Staged:
    """Return the files of the downloads in a journal."""
    roots: set[Path] = set()
    targets: set[Path] = set()
    for entry in entries:
        staging = Staging(Path(entry.models_dir), entry.plan)
        roots.add(staging.root)
        if entry.status in {DownloadStatus.QUEUED, DownloadStatus.PAUSED}:
            targets.update(staging.final_path(file) for file in entry.plan.files)
    return Staged(frozenset(roots), frozenset(targets))


def abandoned(models_dir: Path, in_use: Iterable[Path], *, before: float) -> tuple[Path, ...]:
    """Return the staging directories that are not in use, and unchanged since ``before``.

    ``before`` is in seconds since 1970. A service with another journal may use the same
    ``models_dir``: what it has written to lately is not returned.
    """
    found = []
    used = {os.path.realpath(root) for root in in_use}
    for root in _entries(models_dir / STAGING):
        with contextlib.suppress(OSError):
            if os.path.realpath(root) not in used and root.is_dir() and _last_change(root) < before:
                found.append(root)
    return tuple(sorted(found))


def _last_change(root: Path) -> float:
    """Return the latest change below a directory. Raises ``OSError``."""
    times = [root.stat().st_mtime]
    for folder, _, names in os.walk(root):
        times += [Path(folder, name).lstat().st_mtime for name in names]
    return max(times)


class LocalCopy(NamedTuple):
    """A file that has, or may have, the content of a file to download."""

    path: Path
    linkable: bool
    """It is at the final path or will be moved there, so a hard link is enough."""
    verified: bool
    """Its digest was checked when it arrived."""


class PathLock:
    """Locks a directory or a file for one download of one process; ``release`` it in the end."""

    def __init__(self) -> None:
        self._file = -1
        self._lock: Path | None = None

    def acquire(self, root: Path) -> bool:
        """Make the directory and lock it; return ``False`` while another process has it.

        Without locks in the file system it returns ``True``. Raises ``CyberError``.
        """
        return self._acquire(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)

    def acquire_file(self, path: Path) -> bool:
        """Lock a file that exists only while it is locked; return as ``acquire`` does."""
        # Opened for writing, since NFS locks no other files.
        taken = self._acquire(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
        self._lock = path if taken else None
        return taken

    def _acquire(self, path: Path, flags: int) -> bool:
        self.release()
        try:
            make_directories(path.parent if flags & os.O_CREAT else path)
            # Kept on the object, since the waiting task may be cancelled meanwhile.
            self._file = os.open(path, flags, 0o600)
            if _locked(self._file) and os.path.samestat(os.fstat(self._file), path.stat()):
                return True
        except FileNotFoundError:
            # The other process has just removed it.
            pass
        except OSError as error:
            self.release()
            raise write_error(path, error) from error
        self.release()
        return False

    def release(self) -> None:
        """Release the lock, if it is held."""
        file, self._file = self._file, -1
        lock, self._lock = self._lock, None
        if lock is not None:
            with contextlib.suppress(OSError):
                lock.unlink()
        if file >= 0:
            os.close(file)


def make_directories(directory: Path) -> None:
    """Make a directory and its parents so that they survive a power cut. Raises ``OSError``."""
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
        # A file system without locks, or NFS, which locks only files that are open for writing.
        # Then the locks of the single files have to do.
        return True
    return True


def _files_below(directory: Path) -> Iterator[Path]:
    """Yield the visible files below a directory, up to ``_MAX_ENTRIES`` entries."""
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
