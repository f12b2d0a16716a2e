"""Finds the GGUF files in the model directories. Files are never opened."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Container, Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from cyber_inference_tui.library.disk import Disk, error_text
from cyber_inference_tui.library.unusable_files import (
    OTHER_FORMATS,
    PACKED,
    PIECE,
    SUFFIX,
    UNFINISHED,
    Problem,
)
from cyber_inference_tui.storage import SILENT
from cyber_inference_tui.text import clean_line

SLOW: Final = "it is still being read: its disk or network mount is slow"

_MAX_ENTRIES: Final = 200_000
_MAX_DEPTH: Final = 32
_FIRST_SHARD: Final = "-00001-of-"
_SHARD_OF: Final = "-of-"


class ModelFile(NamedTuple):
    """A file that may be a model, a shard or a projector."""

    path: Path
    root: Path
    """The model directory above it."""
    size: int
    """Bytes."""
    modified: int
    """Nanoseconds since 1970."""
    inode: tuple[int, int]
    """Device and inode number: equal for two names of one file."""
    inside: bool
    """No directory on its path below the root is a symbolic link."""

    @property
    def stem(self) -> str:
        """The file's name without ``.gguf``."""
        return self.path.name[: -len(SUFFIX)]


class NamedPath(NamedTuple):
    """The file or directory at a path that a table names."""

    file: ModelFile | None = None
    is_directory: bool = False
    unread: str = ""
    """The reason why it cannot be read now: ``file`` is the earlier one."""


class Unread(NamedTuple):
    """A file or folder that exists, or may exist, and cannot be read now."""

    path: Path
    reason: str
    """Empty: it was not looked at, and another problem says so."""
    lasting: bool = False
    """Another try soon would be useless."""

    @classmethod
    def because(cls, path: Path, error: OSError) -> Unread:
        """Describe a path that ``error`` kept from being read."""
        return cls(path, error_text(error), isinstance(error, PermissionError))

    def problem(self, *, kept: bool) -> Problem:
        """Return it as a problem; ``kept``: earlier results for it still count."""
        reason = (
            self.reason if self.reason in {SILENT, SLOW} else f"it cannot be read: {self.reason}"
        )
        more = "; its earlier models are kept" if kept else ""
        return Problem(where=path_text(self.path), reason=f"{reason}{more}", passing=True)


class Found(NamedTuple):
    """All files found, in the order of the directories, then sorted; and the problems."""

    files: tuple[ModelFile, ...] = ()
    problems: tuple[Problem, ...] = ()
    unread: tuple[Unread, ...] = ()

    def keeping(
        self, before: Found, *, behind: Collection[Path] = (), quiet: bool = False
    ) -> Found:
        """Add the files of ``before`` at or below places that could not be read now.

        "Cannot be read" is not "gone". Unread places become problems. ``behind`` are unread paths
        for which other results are kept. ``quiet``: do not report places that we may never read and
        that had no files.
        """
        if not self.unread:
            return self
        here = {file.path for file in self.files}
        unread = {one.path: one for one in self.unread}
        kept: list[ModelFile] = []
        behind = set(behind)
        for file in before.files:
            above = unread_above(file.path, unread)
            if above is not None:
                behind.add(above)
                if file.path not in here:
                    kept.append(file)
        # A file that also exists elsewhere under this name keeps its earlier path.
        known = {(file.path.name, file.inode) for file in kept}
        files = [file for file in self.files if (file.path.name, file.inode) not in known]
        problems = [
            one.problem(kept=one.path in behind)
            for one in unread.values()
            if one.reason and (one.path in behind or not (quiet and one.lasting))
        ]
        folders = tuple(f"{path_text(path)}/" for path in unread)
        known_problems = {problem.where for problem in (*self.problems, *problems)}
        problems += [
            problem
            for problem in before.problems
            if problem.where not in known_problems
            and not problem.passing
            and problem.where.startswith(folders)
        ]
        return Found((*files, *kept), (*self.problems, *problems), self.unread)


def find_files(
    roots: Sequence[Path],
    *,
    required: Iterable[Path] = (),
    on_directory: Callable[[Path], None] = lambda _: None,
    most: int = _MAX_ENTRIES,
    deepest: int = _MAX_DEPTH,
    taken: Collection[Path] | None = None,
    disk: Disk = Disk(),  # noqa: B008 - it has no state
) -> Found:
    """Walk ``roots``; follow symbolic links, but visit each directory only once.

    ``on_directory`` is called with each directory before it is read. At most ``most`` entries in
    total and ``deepest`` levels are looked at.

    Hidden files and directories are left out. A missing root is a problem if it is in ``required``.
    Model files in other formats are problems, except at or below ``taken``; ``None`` = they are not
    reported. Raises nothing: places that cannot be read are ``unread``.
    """
    walk = _FileWalk(
        required=frozenset(required),
        on_directory=on_directory,
        most=most,
        deepest=deepest,
        taken=taken,
        disk=disk,
    )
    return walk.walk(roots)


def stat_file(
    path: Path,
    root: Path,
    *,
    inside: bool = False,
    disk: Disk = Disk(),  # noqa: B008 - it has no state
) -> ModelFile | None:
    """Return a file by its path; ``None`` = there is no such regular file.

    Raises ``OSError`` if that is unknown.
    """
    status = disk.status(path)
    if status is None or not stat.S_ISREG(status.st_mode):
        return None
    return model_file(path, root, status, inside=inside)


def path_text(path: Path | str) -> str:
    r"""Return a path as text that is safe to show; bytes that are not UTF-8 become ``\xNN``."""
    return clean_line(os.fsencode(path).decode("utf-8", "backslashreplace"))


def unread_above(path: Path, unread: Container[Path]) -> Path | None:
    """Return the one of ``unread`` that is ``path`` or a folder above it."""
    return next((at for at in (path, *path.parents) if at in unread), None)


def model_file(path: Path, root: Path, status: os.stat_result, *, inside: bool) -> ModelFile:
    """Describe a regular file by its status."""
    inode = (status.st_dev, status.st_ino)
    return ModelFile(path, root, status.st_size, status.st_mtime_ns, inode, inside)


class _Folder(NamedTuple):
    path: Path
    depth: int
    inside: bool


class _FileWalk:
    def __init__(
        self,
        *,
        required: frozenset[Path],
        on_directory: Callable[[Path], None],
        most: int,
        deepest: int,
        taken: Collection[Path] | None,
        disk: Disk,
    ) -> None:
        self._required = required
        self._on_directory = on_directory
        self._most = most
        self._deepest = deepest
        self._taken = taken
        self._disk = disk
        self._visited: set[tuple[int, int]] = set()
        self._named: set[tuple[str, tuple[int, int]]] = set()
        self._files: list[ModelFile] = []
        self._problems: list[Problem] = []
        self._unread: list[Unread] = []
        self._entries = 0

    def walk(self, roots: Sequence[Path]) -> Found:
        for root in roots:
            # Real directories before links, so that a file is known by its plainest path.
            waiting = [_Folder(root, 0, True)]
            linked: list[_Folder] = []
            while waiting or linked:
                folder = waiting.pop() if waiting else linked.pop(0)
                if self._entries > self._most:
                    self._problem(root, f"it holds more than {self._most:,} entries")
                    # They were not looked at: their earlier files still count.
                    for left in (folder, *waiting, *linked):
                        self._not_looked_at(left.path)
                    break
                below, links = self._directory(folder, root)
                waiting += below
                linked += links
        self._files.sort(key=lambda file: (roots.index(file.root), file.path))
        return Found(tuple(self._files), tuple(self._problems), tuple(self._unread))

    def _directory(self, folder: _Folder, root: Path) -> tuple[list[_Folder], list[_Folder]]:
        """Add the files of a directory; return its directories, and its links to directories."""
        below: list[_Folder] = []
        links: list[_Folder] = []
        directory = folder.path
        try:
            self._on_directory(directory)
            status = self._disk.stat(directory)
            if (status.st_dev, status.st_ino) in self._visited:
                return below, links
            self._visited.add((status.st_dev, status.st_ino))
            entries = self._disk.entries(directory, max(0, self._most - self._entries) + 1)
        except (OSError, ValueError) as error:
            self._cannot_read_directory(directory, root, error)
            return below, links
        self._entries += len(entries)
        if self._entries > self._most:
            self._not_looked_at(directory)
        names = {entry.name for entry in entries}
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = directory / entry.name
            try:
                linked = entry.is_symlink()
                # The listing gives the kind of all entries except links.
                is_directory = not linked and entry.is_dir(follow_symlinks=False)
                if linked:
                    target = self._disk.status(path)
                    is_directory = target is not None and stat.S_ISDIR(target.st_mode)
                if is_directory:
                    if folder.depth < self._deepest:
                        inside = folder.inside and not linked
                        (links if linked else below).append(_Folder(path, folder.depth + 1, inside))
                elif entry.name.lower().endswith(SUFFIX):
                    self._file(path, root, names, folder.inside, linked=linked)
                else:
                    self._other_file(path, names)
            except OSError as error:
                self._unread.append(Unread.because(path, error))
        return below, links

    def _cannot_read_directory(
        self, directory: Path, root: Path, error: OSError | ValueError
    ) -> None:
        if isinstance(error, ValueError):  # a NUL in the path
            self._problem(directory, f"it cannot be read: {error}")
        elif not self._disk.is_gone(directory, error):
            self._unread.append(Unread.because(directory, error))
        elif directory == root and not isinstance(error, FileNotFoundError):
            self._problem(directory, f"it cannot be read: {error_text(error)}")
        elif directory in self._required:
            self._problem(directory, "there is no such directory")

    def _file(self, path: Path, root: Path, names: set[str], inside: bool, *, linked: bool) -> None:
        try:
            str(path).encode()
        except UnicodeEncodeError:
            self._problem(path, "its path is not valid UTF-8, so no request can name it")
            return
        if PIECE.search(path.name):
            self._problem(path, _SPLIT_FILE)
            return
        companion = next((end for end in UNFINISHED if path.name + end in names), None)
        if companion is not None:
            self._problem(path, f"it is being downloaded ({path.name}{companion} lies beside it)")
            return
        status = self._disk.status(path)
        if status is None:
            if linked:
                self._problem(path, "it is a symbolic link to a file that is gone")
            return
        if not stat.S_ISREG(status.st_mode):
            self._problem(path, "it is not a regular file")
            return
        file = model_file(path, root, status, inside=inside)
        # Different names for one file are different models (a chosen nickname); the same name
        # twice is one model (a cache with several revisions of the same file).
        if (path.name, file.inode) not in self._named:
            self._named.add((path.name, file.inode))
            self._files.append(file)

    def _other_file(self, path: Path, names: set[str]) -> None:
        """Report a file that a user may take for a model."""
        name = path.name.lower()
        ending = next((end for end in UNFINISHED if name.endswith(SUFFIX + end)), None)
        if PIECE.search(name):
            self._problem(path, _SPLIT_FILE)
        elif ending is not None:
            # If the finished file exists as well, it is reported instead.
            if path.name[: -len(ending)] not in names:
                self._problem(path, "it is an unfinished download")
        elif name.endswith(PACKED) and SUFFIX in name:
            self._problem(path, "it is packed: unpack it")
        elif name.endswith(OTHER_FORMATS) and self._taken is not None:
            later_shard = _SHARD_OF in name and _FIRST_SHARD not in name
            if not later_shard and not any(at in self._taken for at in (path, *path.parents)):
                self._problem(
                    path, "it is not in GGUF format: convert it, or download a conversion of it"
                )

    def _not_looked_at(self, path: Path) -> None:
        self._unread.append(Unread(path, "", lasting=True))

    def _problem(self, path: Path, reason: str) -> None:
        self._problems.append(Problem(where=path_text(path), reason=reason))


_SPLIT_FILE: Final = "it is a piece of a split file: join all pieces in order, with cat"
