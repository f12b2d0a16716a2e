"""Notes the entries of the disk during a survey, and what needs them. Everything blocks."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from cyber_inference_tui.library.catalog import LocalModel, Origin
from cyber_inference_tui.library.disk import NOWHERE
from cyber_inference_tui.library.gc.facts import Entry, Holder, HolderKind
from cyber_inference_tui.library.library import has_projector_beside, head_beside
from cyber_inference_tui.library.scan import path_text
from cyber_inference_tui.library.stores import Stores

_MOST_LINKS: Final = 40
_MAX_ENTRIES: Final = 200_000
_BLOCK: Final = 512
"""Bytes of a block in ``st_blocks``, on every file system: stat(2)."""


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """The facts for a survey that the settings, the history and the scheduler know."""

    models_dir: Path
    model_dirs: tuple[Path, ...] = ()
    stores: Stores = Stores()
    partials: tuple[Path, ...] = ()
    """Folders of downloads that nobody continues."""
    named_files: tuple[Path, ...] = ()
    """Files in the settings."""
    keep: Mapping[str, str] = {}
    """By a model's id, the reason why it stays."""
    last_uses: Mapping[str, float] = {}
    """By a model's id, in seconds since 1970."""
    now: float


class Holders:
    """The entries and holders so far; ``files_of`` returns all files of a model's server."""

    def __init__(
        self, given: Given, files_of: Callable[[LocalModel], Iterable[Path]], *, is_whole: bool
    ) -> None:
        self.given = given
        self.files_of = files_of
        self.found: list[Holder] = []
        self.entries: dict[Path, Entry] = {}
        self.is_whole = is_whole
        """Everything could be read that may need a file."""
        self._statuses: dict[Path, os.stat_result] = {}
        self._left = _MAX_ENTRIES

    def entry(self, path: Path) -> os.stat_result:
        """Note a name whose folder has no links on its path. Raises ``OSError``."""
        known = self._statuses.get(path)
        if known is None:
            known = self._statuses[path] = os.lstat(path)
            self.entries[path] = Entry(
                path,
                (known.st_dev, known.st_ino),
                known.st_nlink,
                known.st_size,
                known.st_blocks * _BLOCK,
                known.st_mtime_ns,
            )
        return known

    def _chain(self, path: Path) -> tuple[Path, ...]:
        """Return a name, and every link on the way from it to its file. Raises ``OSError``."""
        found: list[Path] = []
        while len(found) < _MOST_LINKS:
            path = real(path.parent) / path.name
            if path in found:
                break
            found.append(path)
            if not stat.S_ISLNK(self.entry(path).st_mode):
                break
            path = path.parent / path.readlink()
        return tuple(found)

    def chains(self, paths: Iterable[Path]) -> list[tuple[Path, ...]]:
        """Return the chains of names that lead to a file."""
        chains = []
        for path in paths:
            try:
                chains.append(self._chain(path))
            except OSError as error:
                if error.errno not in NOWHERE | {errno.ENAMETOOLONG}:
                    self.is_whole = False
        return chains

    def model(
        self, model: LocalModel, root: Path, *, stop: Path, other_program: bool = True
    ) -> None:
        """Add a model that is a set of files below ``root``."""
        shards = self.chains(reversed(model.shards))
        beside = has_projector_beside(model)
        projector = self.chains([model.mmproj] if model.mmproj is not None else [])
        head = self.chains(head_beside(model))
        own = [*shards, *(projector if beside else []), *head]
        self.add(
            key=f"{model.origin} {model.id}",
            models=[model],
            owns=[path for chain in own for path in chain if path.is_relative_to(root)],
            data=[chain[-1] for chain in (*shards, *projector, *head)],
            stop=stop,
            other_program=other_program,
        )

    def add(
        self,
        *,
        key: str,
        models: Sequence[LocalModel],
        owns: Iterable[Path],
        data: Iterable[Path],
        stop: Path,
        other_program: bool,
    ) -> None:
        """Add what ``models`` have in common: each is gone without it."""
        given = self.given
        names = [model.id for model in models]
        needs = {path for model in models for path in self.files_of(model)}
        needs |= {path for model in models for path in model.shards}
        data, owns = tuple(dict.fromkeys(data)), tuple(dict.fromkeys(owns))
        changed = [self._changed(path, accessed=other_program) for path in data]
        uses = [given.last_uses[name] for name in names if name in given.last_uses]
        reasons = [reason for name in names if (reason := given.keep.get(name))]
        broken = any(model.problem is not None for model in models)
        self.found.append(
            Holder(
                key=key,
                kind=HolderKind.MODEL,
                name=" and ".join(names),
                models=tuple(names),
                origin=models[0].origin.value,
                other_program=other_program,
                owns=owns,
                needs=frozenset(
                    [*data, *owns, *(path for chain in self.chains(needs) for path in chain)]
                ),
                data=data,
                stop=stop,
                used=max(uses, default=None),
                idle_since=max([*uses, *changed], default=given.now),
                keep=next(iter(reasons), "it cannot be used as it is" if broken else ""),
            )
        )

    def _changed(self, path: Path, *, accessed: bool) -> float:
        """Return when a file was last changed, renamed or copied here, or ``accessed``."""
        status = self._statuses[path]
        times = [status.st_mtime, status.st_ctime, *([status.st_atime] if accessed else [])]
        return max(times)

    def other(self, key: str, needs: Iterable[Path]) -> None:
        """Add something that is never deleted, unless it needs nothing."""
        needs = frozenset(needs)
        if needs:
            holder = Holder(key=key, kind=HolderKind.OTHER, needs=needs, keep="it is no model")
            self.found.append(holder)

    def partial(self, key: Path, files: Sequence[Path], *, stop: Path, origin: Origin) -> None:
        """Add a partial download."""
        try:
            for path in files:
                self.entry(path)
        except FileNotFoundError:
            return  # somebody has just continued or removed it
        self.found.append(
            Holder(
                key=f"partial {key}",
                kind=HolderKind.PARTIAL,
                name=path_text(key),
                origin=origin.value,
                other_program=origin is not Origin.MODELS_DIR,
                owns=tuple(files),
                needs=frozenset(files),
                data=tuple(files),
                stop=stop,
            )
        )

    def walk(self, root: Path) -> Iterator[Path]:
        """Yield everything below ``root``, without following links."""

        def failed(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError):
                self.is_whole = False

        for folder, folders, names in os.walk(root, onerror=failed):
            self._left -= len(folders) + len(names)
            if self._left < 0:
                self.is_whole = False
                return
            yield from (Path(folder, name) for name in (*folders, *names))


def real(path: Path) -> Path:
    """Return the path without links. Raises ``OSError``."""
    try:
        return path.resolve()
    except RuntimeError as error:  # a loop of links
        raise OSError(str(error)) from error
