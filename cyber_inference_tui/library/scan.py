"""Which GGUF files lie in the model directories: walked, never opened."""

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
    """One file that may be a model, a shard or a projector."""

    path: Path
    root: Path
    """The model directory that it was found under."""
    size: int
    """Bytes."""
    modified: int
    """Nanoseconds since 1970."""
    inode: tuple[int, int]
    """Device and number: what tells two names of one file."""
    inside: bool
    """It lies under its root without a symbolic link to a directory on the way."""

    @property
    def stem(self) -> str:
        """The file's name without ``.gguf``."""
        return self.path.name[: -len(SUFFIX)]


class Unread(NamedTuple):
    """A file or folder that is there, or may be there, and cannot be read now."""

    path: Path
    reason: str
    """Empty: nobody looked, and the problem that says so is another one."""
    lasting: bool = False
    """To try again soon would be of no use."""

    @classmethod
    def because(cls, path: Path, error: OSError) -> Unread:
        """What ``error`` kept from being read."""
        return cls(path, error_text(error), isinstance(error, PermissionError))

    def problem(self, *, kept: bool) -> Problem:
        """As something to show; ``kept``: what was found there before still counts."""
        reason = (
            self.reason if self.reason in {SILENT, SLOW} else f"it cannot be read: {self.reason}"
        )
        more = "; what was found there before is kept" if kept else ""
        return Problem(where=path_text(self.path), reason=f"{reason}{more}", passing=True)


class Found(NamedTuple):
    """All files found, in the order of the directories, then sorted; and what is no model."""

    files: tuple[ModelFile, ...] = ()
    problems: tuple[Problem, ...] = ()
    unread: tuple[Unread, ...] = ()

    def keeping(
        self, before: Found, *, behind: Collection[Path] = (), quiet: bool = False
    ) -> Found:
        """With what of ``before`` lies at or below places that could not be read now.

        "Cannot be read" is not "gone". What is unread becomes a problem that says so.
        ``behind`` are unread paths that something else is kept of. ``quiet``: nothing is said of
        what nobody here may read and nothing is kept of.
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
        # A file that has the same name elsewhere too stays known by the path it had.
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
    """Walks ``roots``, following symbolic links but each directory only once.

    ``on_directory`` is told of each before it is read. ``most`` entries of all together and
    ``deepest`` levels are looked at.

    Hidden files and directories are left out. A root that does not exist is a problem when it is
    one of ``required``. Model files in other formats are problems, but for those at or below
    ``taken``; ``None`` = they are left out. Nothing is raised: what cannot be read is ``unread``.
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
    """One file by its path; ``None`` when there is no such regular file.

    Raises ``OSError`` where that cannot be told.
    """
    status = disk.status(path)
    if status is None or not stat.S_ISREG(status.st_mode):
        return None
    return model_file(path, root, status, inside=inside)


def path_text(path: Path | str) -> str:
    """A path as text that is safe to show: bytes that are not UTF-8 as ``\\xNN``."""
    return clean_line(os.fsencode(path).decode("utf-8", "backslashreplace"))


def unread_above(path: Path, unread: Container[Path]) -> Path | None:
    """Which of ``unread`` is ``path`` or a folder above it."""
    return next((at for at in (path, *path.parents) if at in unread), None)


def model_file(path: Path, root: Path, status: os.stat_result, *, inside: bool) -> ModelFile:
    """A regular file by its status."""
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
                    # They may hold what they held before: nobody looked.
                    for left in (folder, *waiting, *linked):
                        self._not_looked_at(left.path)
                    break
                below, links = self._directory(folder, root)
                waiting += below
                linked += links
        self._files.sort(key=lambda file: (roots.index(file.root), file.path))
        return Found(tuple(self._files), tuple(self._problems), tuple(self._unread))

    def _directory(self, folder: _Folder, root: Path) -> tuple[list[_Folder], list[_Folder]]:
        """Take the files of one directory; the directories in it, and the links to some."""
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
                # The kind of all but links is known from the listing.
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
            self._problem(path, _CUT_UP)
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
        # Two names for one file are two models when they differ (a chosen nickname), one when
        # they do not (a cache with several revisions of the same file).
        if (path.name, file.inode) not in self._named:
            self._named.add((path.name, file.inode))
            self._files.append(file)

    def _other_file(self, path: Path, names: set[str]) -> None:
        """Say why a file is no model that somebody may take for one."""
        name = path.name.lower()
        ending = next((end for end in UNFINISHED if name.endswith(SUFFIX + end)), None)
        if PIECE.search(name):
            self._problem(path, _CUT_UP)
        elif ending is not None:
            # Where the file itself is there too, it is the one to speak of.
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


_CUT_UP: Final = "it is a piece of a file that was cut up: join its pieces in order, with cat"
