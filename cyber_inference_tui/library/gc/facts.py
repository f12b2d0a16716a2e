"""The facts for a plan: files on the disk, and everything that needs them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import msgspec


class Entry(NamedTuple):
    """A name in a folder: of a file, or of a symbolic link."""

    path: Path
    inode: tuple[int, int]
    """Device and inode number: equal for hard links of one file."""
    links: int
    """The names that the file has, here and elsewhere."""
    size: int
    allocated: int
    """Bytes on the disk (``st_blocks``), which are free once the last name is gone."""
    modified: int
    """Nanoseconds since 1970."""


class HolderKind(StrEnum):
    """Something that needs files."""

    MODEL = "model"
    REVISION = "revision"
    """A commit in the Hugging Face cache that no branch or tag names any more."""
    PARTIAL = "partial download"
    """The bytes of a download that nobody continues."""
    OTHER = "other"
    """Anything else, such as a link or a setting. It is never deleted."""


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """Something that needs files, with the files that may be deleted along with it.

    All paths are free of links above the name itself.
    """

    key: str
    """Its identity, the same in every survey."""
    kind: HolderKind
    name: str = ""
    """Its name for people."""
    models: tuple[str, ...] = ()
    """The ids of the models that are gone without it."""
    origin: str = ""
    other_program: bool = False
    """The files belong to another program."""
    owns: tuple[Path, ...] = ()
    """Entries that go with it unless something else needs them, in the order of their removal.
    All of them are among the facts."""
    needs: frozenset[Path] = frozenset()
    """Entries without which it would be broken, with every link on the way to them."""
    data: tuple[Path, ...] = ()
    """The files with its contents, without links. They are in ``needs``, and among the facts."""
    stop: Path = Path("/")
    """Empty folders below this one go, too."""
    used: float | None = None
    """The last request to it here, in seconds since 1970; ``None`` = there was none."""
    idle_since: float = 0.0
    """It was used or changed at this time at the latest, in seconds since 1970."""
    keep: str = ""
    """The reason why it stays, in words; empty = it may be deleted."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a plan depends on."""

    holders: tuple[Holder, ...] = ()
    entries: Mapping[Path, Entry] = {}
    digests: Mapping[Path, str] = {}
    """The SHA-256 of files whose contents were read."""
    device: int = 0
    """The device that ``models_dir`` is on."""
    free: int = 0
    """Its free bytes."""


class Removal(NamedTuple):
    """The entries to remove, and the files of which no name is left then."""

    paths: tuple[Path, ...]
    inodes: frozenset[tuple[int, int]]


class Remaining:
    """The holders that remain as one after another is removed."""

    def __init__(self, facts: Facts) -> None:
        self._entries = facts.entries
        self._allocated = {entry.inode: entry.allocated for entry in facts.entries.values()}
        self.holders = {holder.key: holder for holder in facts.holders}
        self._needed = Counter(path for holder in facts.holders for path in holder.needs)
        self._removed: dict[tuple[int, int], set[Path]] = defaultdict(set)

    def remove(self, holder: Holder) -> Removal:
        """Remove a holder: return its entries that nothing else needs, and the freed files.

        A model whose first entry something else needs is still there: it loses no part.
        """
        del self.holders[holder.key]
        self._needed.subtract(holder.needs)
        if holder.kind is HolderKind.MODEL and any(
            self._needed[one] > 0 for one in holder.owns[:1]
        ):
            return Removal((), frozenset())
        paths = tuple(path for path in holder.owns if self._needed[path] <= 0)
        freed = set()
        for path in paths:
            entry = self._entries[path]
            names = self._removed[entry.inode]
            names.add(path)
            if len(names) == entry.links:
                freed.add(entry.inode)
        return Removal(paths, frozenset(freed))

    def bytes_of(self, inodes: Iterable[tuple[int, int]]) -> int:
        """Return the bytes that these files take on the disk."""
        return sum(self._allocated[inode] for inode in inodes)


def same_size_files(facts: Facts) -> list[Path]:
    """Return the files of models that may be copies of each other: of the same size, not linked.

    Their digests decide. Of several names of one file only the first is returned.
    """
    by_size: dict[int, dict[tuple[int, int], Path]] = defaultdict(dict)
    for holder in facts.holders:
        if holder.kind is HolderKind.MODEL:
            for path in holder.data:
                entry = facts.entries[path]
                by_size[entry.size].setdefault(entry.inode, path)
    return [path for files in by_size.values() if len(files) > 1 for path in files.values()]
