"""Surveys the disk for a plan: the files of all models, and who needs them. Everything blocks.

Wherever something cannot be read, the files of other programs stay: it might need any of them.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from cyber_inference_tui.library.catalog import Catalog, LocalModel, Origin
from cyber_inference_tui.library.disk import NOWHERE
from cyber_inference_tui.library.gc.facts import Entry, Facts, Holder, HolderKind
from cyber_inference_tui.library.library import has_projector_beside
from cyber_inference_tui.library.ollama import blobs_of_manifests
from cyber_inference_tui.library.scan import path_text
from cyber_inference_tui.library.stores import Stores

ABANDONED: Final = 86400.0
"""Seconds after which another program's unfinished file, or a commit in the cache that no branch
names, is no longer part of something that runs."""
_MOST_LINKS: Final = 40
_MAX_ENTRIES: Final = 200_000
_REPO_PREFIX: Final = "models--"
_HF_PARTIAL: Final = ".incomplete"
_OLLAMA_PARTIAL: Final = "-partial"
_UNREAD: Final = "a folder that may need it cannot be read"
_BLOCK: Final = 512
"""Bytes of a block in ``st_blocks``, on every file system: stat(2)."""


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """What the survey is told by the settings, the history and the scheduler."""

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


def survey(
    catalog: Catalog, given: Given, files_of: Callable[[LocalModel], Iterable[Path]]
) -> Facts:
    """Return the facts about the disk; ``files_of`` returns all files that a model's server reads.

    Raises ``OSError`` if ``models_dir`` cannot be read.
    """
    return _Survey(catalog, given, files_of).facts()


class _Survey:
    def __init__(
        self, catalog: Catalog, given: Given, files_of: Callable[[LocalModel], Iterable[Path]]
    ) -> None:
        self._models = list(catalog.models.values())
        self._given = given
        self._files_of = files_of
        self._entries: dict[Path, Entry] = {}
        self._statuses: dict[Path, os.stat_result] = {}
        self._holders: list[Holder] = []
        self._left = _MAX_ENTRIES
        self._is_whole = not any(one.passing for one in catalog.problems)

    def facts(self) -> Facts:
        disk = os.statvfs(self._given.models_dir)
        self._own_models()
        self._links()
        for chain in self._chains(self._given.named_files):
            self._other(f"named {chain[0]}", chain)
        for root in self._given.partials:
            self._partial(
                root,
                list(_files_below(root)),
                stop=_real(self._given.models_dir),
                origin=Origin.MODELS_DIR,
            )
        stores = self._given.stores
        for work, roots in (
            (self._hub_cache, stores.hub_caches),
            (self._lm_studio, stores.lm_studio),
            (self._ollama, stores.ollama),
        ):
            for root in roots:
                self._look(work, root)
        holders = [self._checked(holder) for holder in self._holders]
        return Facts(
            holders=tuple(holders),
            entries=self._entries,
            device=self._given.models_dir.stat().st_dev,
            free=disk.f_bavail * disk.f_frsize,
        )

    def _look(self, work: Callable[[Path], None], root: Path) -> None:
        """Survey the folder of another program, if there is one that this user may read."""
        try:
            is_there = any(root.iterdir())
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return
        except OSError:
            is_there = self._is_whole = False
        try:
            if is_there:
                work(_real(root))
        except (OSError, ValueError):
            self._is_whole = False

    def _checked(self, holder: Holder) -> Holder:
        """Return the holder with the reason why it has to stay, if there is one."""
        reason = holder.keep
        if not reason and holder.other_program and not self._is_whole:
            reason = _UNREAD
        if not reason and holder.kind is not HolderKind.OTHER:
            folders = {path.parent for path in holder.owns}
            if not all(os.access(folder, os.W_OK | os.X_OK) for folder in folders):
                reason = "this user may not delete its files"
        return msgspec.structs.replace(holder, keep=reason) if reason else holder

    # Entries

    def _entry(self, path: Path) -> os.stat_result:
        """Note a name whose folder has no links on its path. Raises ``OSError``."""
        known = self._statuses.get(path)
        if known is None:
            known = self._statuses[path] = os.lstat(path)
            self._entries[path] = Entry(
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
            path = _real(path.parent) / path.name
            if path in found:
                break
            found.append(path)
            if not stat.S_ISLNK(self._entry(path).st_mode):
                break
            path = path.parent / path.readlink()
        return tuple(found)

    def _chains(self, paths: Iterable[Path]) -> list[tuple[Path, ...]]:
        """Return the chains of names that lead to a file."""
        chains = []
        for path in paths:
            try:
                chains.append(self._chain(path))
            except OSError as error:
                if error.errno not in NOWHERE | {errno.ENAMETOOLONG}:
                    self._is_whole = False
        return chains

    # Holders

    def _model(
        self, model: LocalModel, root: Path, *, stop: Path, other_program: bool = True
    ) -> None:
        """Add a model that is a set of files below ``root``."""
        shards = self._chains(reversed(model.shards))
        beside = has_projector_beside(model)
        projector = self._chains([model.mmproj] if model.mmproj is not None else [])
        own = [*shards, *(projector if beside else [])]
        self._add_model(
            key=f"{model.origin} {model.id}",
            models=[model],
            owns=[path for chain in own for path in chain if path.is_relative_to(root)],
            data=[chain[-1] for chain in (*shards, *projector)],
            stop=stop,
            other_program=other_program,
        )

    def _add_model(
        self,
        *,
        key: str,
        models: Sequence[LocalModel],
        owns: Iterable[Path],
        data: Iterable[Path],
        stop: Path,
        other_program: bool,
    ) -> None:
        given = self._given
        names = [model.id for model in models]
        needs = {path for model in models for path in self._files_of(model)}
        needs |= {path for model in models for path in model.shards}
        data, owns = tuple(dict.fromkeys(data)), tuple(dict.fromkeys(owns))
        changed = [self._changed(path, accessed=other_program) for path in data]
        uses = [given.last_uses[name] for name in names if name in given.last_uses]
        reasons = [reason for name in names if (reason := given.keep.get(name))]
        broken = any(model.problem is not None for model in models)
        self._holders.append(
            Holder(
                key=key,
                kind=HolderKind.MODEL,
                name=" and ".join(names),
                models=tuple(names),
                origin=models[0].origin.value,
                other_program=other_program,
                owns=owns,
                needs=frozenset(
                    [*data, *owns, *(path for chain in self._chains(needs) for path in chain)]
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

    def _other(self, key: str, needs: Iterable[Path]) -> None:
        needs = frozenset(needs)
        if needs:
            holder = Holder(key=key, kind=HolderKind.OTHER, needs=needs, keep="it is no model")
            self._holders.append(holder)

    def _partial(self, key: Path, files: Sequence[Path], *, stop: Path, origin: Origin) -> None:
        try:
            for path in files:
                self._entry(path)
        except FileNotFoundError:
            return  # somebody has just continued or removed it
        self._holders.append(
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

    # Our own folders

    def _own_models(self) -> None:
        root = _real(self._given.models_dir)
        for model in self._models:
            if model.origin in {Origin.HUB_CACHE, Origin.LM_STUDIO, Origin.OLLAMA}:
                continue
            if model.origin is Origin.MODELS_DIR and model.removable:
                self._model(model, root, stop=root, other_program=False)
            elif model.path is not None:
                self._only_read(model)

    def _only_read(self, model: LocalModel) -> None:
        """Add a model whose files are never deleted: it needs them, and others may be copies."""
        chains = self._chains([*model.shards, *([model.mmproj] if model.mmproj else [])])
        needs = self._chains(self._files_of(model))
        self._holders.append(
            Holder(
                key=f"{model.origin} {model.id}",
                kind=HolderKind.MODEL,
                name=model.id,
                models=(model.id,),
                origin=model.origin.value,
                needs=frozenset(path for chain in (*chains, *needs) for path in chain),
                data=tuple(chain[-1] for chain in chains),
                keep="its folder is only read",
            )
        )

    def _links(self) -> None:
        """Add every symbolic link in our folders that is no model: its target is needed."""
        known = {path for holder in self._holders for path in holder.needs}
        for root in dict.fromkeys((self._given.models_dir, *self._given.model_dirs)):
            for path in self._walk(root):
                if path.is_symlink():
                    real = _real(path.parent) / path.name
                    if real not in known:
                        for chain in self._chains([path]):
                            self._other(f"link {path}", chain)

    def _walk(self, root: Path) -> Iterator[Path]:
        """Yield everything below ``root``, without following links."""

        def failed(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError):
                self._is_whole = False

        for folder, folders, names in os.walk(root, onerror=failed):
            self._left -= len(folders) + len(names)
            if self._left < 0:
                self._is_whole = False
                return
            yield from (Path(folder, name) for name in (*folders, *names))

    # Other programs

    def _hub_cache(self, cache: Path) -> None:
        """Add the Hugging Face cache: ``models--ORG--NAME/{refs,snapshots/COMMIT,blobs}``.

        https://huggingface.co/docs/huggingface_hub/guides/manage-cache
        """
        models: dict[Path, list[LocalModel]] = {}
        for model in self._models:
            if model.origin is Origin.HUB_CACHE and model.path is not None:
                for above in _real(model.path.parent).parents:
                    models.setdefault(above, []).append(model)
        for folder in sorted(cache.iterdir()):
            if not folder.name.startswith(_REPO_PREFIX) or not folder.is_dir():
                continue
            repo = _real(folder)
            name = folder.name.removeprefix(_REPO_PREFIX).replace("--", "/")
            snapshots = repo / "snapshots"
            commits = sorted(snapshots.iterdir()) if snapshots.is_dir() else []
            current, begin = set(), len(self._holders)
            for model in models.get(snapshots, []):
                commit = _below(model.path, snapshots)
                if commit is not None:
                    current.add(commit)
                    self._model(model, repo, stop=commit)
            known = {path for holder in self._holders[begin:] for path in holder.owns}
            for commit in commits:
                if self._is_outdated(commit, commits, repo / "refs") and commit not in current:
                    self._revision(commit, name, repo)
                else:
                    self._rest_of(commit, known)
            self._old_partials(repo / "blobs", _HF_PARTIAL, Origin.HUB_CACHE)

    def _is_outdated(self, commit: Path, commits: Sequence[Path], refs: Path) -> bool:
        """Return whether no branch or tag names a commit, and another one is there in its place."""
        named = {path.read_text("ascii").strip() for path in self._walk(refs) if path.is_file()}
        times = {one: one.stat().st_mtime for one in commits}
        is_old = self._given.now - times[commit] > ABANDONED
        return commit.name not in named and is_old and times[commit] < max(times.values())

    def _revision(self, commit: Path, name: str, repo: Path) -> None:
        links = [path for path in self._walk(commit) if not path.is_dir()]
        chains = self._chains(links)
        inside = [path for chain in chains for path in chain if path.is_relative_to(repo)]
        self._holders.append(
            Holder(
                key=f"revision {commit}",
                kind=HolderKind.REVISION,
                name=f"{name}@{commit.name[:12]}",
                origin=Origin.HUB_CACHE.value,
                other_program=True,
                owns=tuple(dict.fromkeys(inside)),
                needs=frozenset(path for chain in chains for path in chain),
                data=tuple(dict.fromkeys(chain[-1] for chain in chains)),
                stop=commit.parent,
            )
        )

    def _rest_of(self, commit: Path, known: Container[Path]) -> None:
        """Add all of a commit that is not among the ``known`` files of models."""
        rest = [path for path in self._walk(commit) if not path.is_dir() and path not in known]
        self._other(f"commit {commit}", (path for chain in self._chains(rest) for path in chain))

    def _lm_studio(self, root: Path) -> None:
        for model in self._models:
            real = None if model.path is None else _real(model.path.parent)
            if model.origin is Origin.LM_STUDIO and real and real.is_relative_to(root):
                self._model(model, root, stop=root)

    def _ollama(self, root: Path) -> None:
        """Add Ollama's manifests, each with all blobs that it names."""
        by_file: dict[Path, list[LocalModel]] = {}
        for model in self._models:
            if model.origin is Origin.OLLAMA and model.path is not None:
                by_file.setdefault(_real(model.path), []).append(model)
        for manifest, blobs in blobs_of_manifests(root).items():
            chains = self._chains(blobs)
            files = [chain[-1] for chain in chains]
            models = [model for file in files for model in by_file.get(file, [])]
            inside = [path for chain in chains for path in chain if path.is_relative_to(root)]
            self._entry(manifest)
            if not models:
                self._other(f"manifest {manifest}", [manifest, *(p for c in chains for p in c)])
                continue
            weights = {path for one in models for path in (*one.shards, one.mmproj) if path}
            self._add_model(
                key=f"manifest {manifest}",
                models=models,
                owns=[manifest, *inside],
                data=[file for file in files if file in {_real(path) for path in weights}],
                stop=root / "manifests",
                other_program=True,
            )
        self._old_partials(root / "blobs", _OLLAMA_PARTIAL, Origin.OLLAMA)

    def _old_partials(self, blobs: Path, mark: str, origin: Origin) -> None:
        """Add the unfinished files of another program that it has not written to for a day."""
        for path in sorted(blobs.iterdir()) if blobs.is_dir() else []:
            if mark in path.name and self._given.now - path.lstat().st_mtime > ABANDONED:
                self._partial(path, [path], stop=blobs, origin=origin)


def _real(path: Path) -> Path:
    """Return the path without links. Raises ``OSError``."""
    try:
        return path.resolve()
    except RuntimeError as error:  # a loop of links
        raise OSError(str(error)) from error


def _below(path: Path | None, folder: Path) -> Path | None:
    """Return the entry of ``folder`` that ``path`` lies in."""
    if path is None:
        return None
    real = _real(path.parent)
    if not real.is_relative_to(folder) or real == folder:
        return None
    return folder / real.relative_to(folder).parts[0]


def _files_below(root: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(_real(root)):
        yield from (Path(folder, name) for name in sorted(names))
