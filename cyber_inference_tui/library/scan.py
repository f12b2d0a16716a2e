"""Which GGUF files lie in the model directories: walked, never opened."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from cyber_inference_tui.library.catalog import Problem

_MAX_ENTRIES: Final = 200_000
_MAX_DEPTH: Final = 32
_SUFFIX: Final = ".gguf"
# Programs that download straight to the final name leave a companion until they are done.
_UNFINISHED: Final = (".part", ".incomplete", ".aria2", ".crdownload", ".tmp", ".download")


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
        return self.path.name[: -len(_SUFFIX)]


class Found(NamedTuple):
    """All files found, in the order of the directories, then sorted; and what could not be read."""

    files: tuple[ModelFile, ...]
    problems: tuple[Problem, ...]


def find_files(
    roots: Sequence[Path],
    *,
    required: Iterable[Path] = (),
    on_directory: Callable[[Path], None] = lambda _: None,
    most: int = _MAX_ENTRIES,
    deepest: int = _MAX_DEPTH,
) -> Found:
    """Walks ``roots``, following symbolic links but each directory only once.

    ``on_directory`` is told of each before it is read. ``most`` entries of all together and
    ``deepest`` levels are looked at.

    Hidden files and directories are left out. A root that does not exist is a problem when it is
    one of ``required``. Nothing is raised: what cannot be read is a problem.
    """
    return _Walk(frozenset(required), on_directory, most, deepest).walk(roots)


def stat_file(path: Path, root: Path, *, inside: bool = False) -> ModelFile | None:
    """One file by its path; ``None`` when there is no such regular file."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return _model_file(path, root, status, inside) if stat.S_ISREG(status.st_mode) else None


def shown(path: Path | str) -> str:
    """A path as text to show: bytes that are not UTF-8 as ``\\xNN``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _model_file(path: Path, root: Path, status: os.stat_result, inside: bool) -> ModelFile:
    inode = (status.st_dev, status.st_ino)
    return ModelFile(path, root, status.st_size, status.st_mtime_ns, inode, inside)


class _Walk:
    def __init__(
        self,
        required: frozenset[Path],
        on_directory: Callable[[Path], None],
        most: int,
        deepest: int,
    ) -> None:
        self._required = required
        self._on_directory = on_directory
        self._most = most
        self._deepest = deepest
        self._visited: set[tuple[int, int]] = set()
        self._named: set[tuple[str, tuple[int, int]]] = set()
        self._files: list[ModelFile] = []
        self._problems: list[Problem] = []
        self._entries = 0

    def walk(self, roots: Sequence[Path]) -> Found:
        for root in roots:
            # Real directories before links, so that a file is known by its plainest path.
            waiting = [(root, 0, True)]
            linked: list[tuple[Path, int, bool]] = []
            while waiting or linked:
                directory, depth, inside = waiting.pop() if waiting else linked.pop(0)
                if self._entries > self._most:
                    self._problem(root, f"it holds more than {self._most:,} entries")
                    break
                below, links = self._directory(directory, root, depth, inside)
                waiting += below
                linked += links
        self._files.sort(key=lambda file: (roots.index(file.root), file.path))
        return Found(tuple(self._files), tuple(self._problems))

    def _directory(
        self, directory: Path, root: Path, depth: int, inside: bool
    ) -> tuple[list[tuple[Path, int, bool]], list[tuple[Path, int, bool]]]:
        below: list[tuple[Path, int, bool]] = []
        links: list[tuple[Path, int, bool]] = []
        try:
            self._on_directory(directory)
            status = directory.stat()
            if (status.st_dev, status.st_ino) in self._visited:
                return below, links
            self._visited.add((status.st_dev, status.st_ino))
            with os.scandir(directory) as listing:
                entries = list(self._limited(listing))
        except FileNotFoundError:
            if directory in self._required:
                self._problem(directory, "there is no such directory")
            return below, links
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else None
            self._problem(directory, f"it cannot be read: {reason or error}")
            return below, links
        names = {entry.name for entry in entries}
        for entry in entries:
            if entry.name.startswith("."):
                continue
            try:
                if entry.is_dir():
                    link = entry.is_symlink()
                    if depth < self._deepest:
                        kind = links if link else below
                        kind.append((directory / entry.name, depth + 1, inside and not link))
                elif entry.name.lower().endswith(_SUFFIX):
                    self._file(entry, directory, root, names, inside)
            except OSError as error:
                self._problem(directory / entry.name, f"it cannot be read: {error.strerror}")
        return below, links

    def _limited(self, listing: Iterator[os.DirEntry[str]]) -> Iterator[os.DirEntry[str]]:
        for entry in listing:
            self._entries += 1
            if self._entries > self._most:
                return
            yield entry

    def _file(
        self, entry: os.DirEntry[str], directory: Path, root: Path, names: set[str], inside: bool
    ) -> None:
        path = directory / entry.name
        try:
            entry.name.encode()
            str(directory).encode()
        except UnicodeEncodeError:
            self._problem(path, "its path is not valid UTF-8, so no request can name it")
            return
        companion = next((end for end in _UNFINISHED if entry.name + end in names), None)
        if companion is not None:
            self._problem(path, f"it is being downloaded ({entry.name}{companion} lies beside it)")
            return
        try:
            status = entry.stat()
        except FileNotFoundError:
            if entry.is_symlink():
                self._problem(path, "it is a symbolic link to a file that is gone")
            return
        if not stat.S_ISREG(status.st_mode):
            self._problem(path, "it is not a regular file")
            return
        file = _model_file(path, root, status, inside)
        # Two names for one file are two models when they differ (a chosen nickname), one when
        # they do not (a cache with several revisions of the same file).
        if (entry.name, file.inode) not in self._named:
            self._named.add((entry.name, file.inode))
            self._files.append(file)

    def _problem(self, path: Path, reason: str) -> None:
        self._problems.append(Problem(where=shown(path), reason=reason))
