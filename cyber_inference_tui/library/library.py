"""Scans the model directories and turns files and tables into a catalog."""

from __future__ import annotations

import stat
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from cyber_inference_tui.errors import ConflictError
from cyber_inference_tui.library.adapters import path_and_scale
from cyber_inference_tui.library.assemble import Assembly, Configured
from cyber_inference_tui.library.catalog import Catalog, LocalModel, Origin
from cyber_inference_tui.library.companions import DraftKind
from cyber_inference_tui.library.disk import Disk, error_text
from cyber_inference_tui.library.drafts import is_near
from cyber_inference_tui.library.folder_reader import FolderReader, wait_for
from cyber_inference_tui.library.headers import Fetched, HeaderCache
from cyber_inference_tui.library.ollama import OllamaModel
from cyber_inference_tui.library.scan import (
    SLOW,
    Found,
    ModelFile,
    NamedPath,
    Unread,
    find_files,
    model_file,
    path_text,
)
from cyber_inference_tui.library.shards import shard_names
from cyber_inference_tui.library.stores import Elsewhere, StoreRoot, Stores, StoreScan
from cyber_inference_tui.library.unusable_files import Problem
from cyber_inference_tui.settings.schema import ModelSettings
from cyber_inference_tui.storage import SILENT

T = TypeVar("T")

_LIMIT: Final = 60.0
"""Seconds that a scan waits for storages that are slow but do answer."""

_WAYS_OUT = {
    Origin.HUB_CACHE: "It is in the cache of the Hugging Face tools: delete it with theirs"
    " (hf cache delete), or set discover = false.",
    Origin.LM_STUDIO: "It belongs to LM Studio: delete it there, or set discover = false.",
    Origin.OLLAMA: "It belongs to Ollama: delete it with 'ollama rm', or set discover = false.",
    Origin.MODEL_DIRS: "It lies in one of model_dirs, which are only read: remove it by hand.",
    Origin.DEMO: "It is built in: start without --demo.",
}


class _Seen(NamedTuple):
    """Everything that a catalog is built from: equal values give equal catalogs."""

    found: Found = Found()
    configured: tuple[Configured, ...] = ()
    companions: Mapping[Path, NamedPath] = {}
    """The projectors and adapters that tables name."""
    elsewhere: Elsewhere = Elsewhere()

    def files(self) -> dict[Path, ModelFile]:
        """Return every file of our own directories and tables."""
        given = [file for one in self.configured for file in one.files]
        given += [one.file for one in self.companions.values() if one.file is not None]
        return {file.path: file for file in (*given, *self.found.files)}

    def without(self, paths: Collection[Path]) -> _Seen:
        """Return a copy without these files."""

        def left(files: Iterable[ModelFile]) -> tuple[ModelFile, ...]:
            return tuple(file for file in files if file.path not in paths)

        configured = [one._replace(files=left(one.files)) for one in self.configured]
        return self._replace(
            found=self.found._replace(files=left(self.found.files)), configured=tuple(configured)
        )


class Library:
    """The models on this machine. All methods block on files; any thread may call them.

    ``extra`` are models by id that are part of this program, such as the demo model. ``stores`` are
    other programs' models, listed after those in our own directories. Headers are stored in
    ``cache_file``. ``clock`` returns nanoseconds since 1970. ``disk`` reads everything except
    headers.

    Each directory is read by its own threads (see ``FolderReader``): a directory on a hanging
    storage only counts as unreadable now.
    """

    def __init__(
        self,
        *,
        models_dir: Path,
        model_dirs: Sequence[Path] = (),
        model_settings: Mapping[str, ModelSettings] | None = None,
        extra: Mapping[str, Path] | None = None,
        stores: Stores = Stores(),  # noqa: B008 - it never changes
        cache_file: Path | None = None,
        clock: Callable[[], int] = time.time_ns,
        disk: Disk = Disk(),  # noqa: B008 - it has no state
    ) -> None:
        self._lock = threading.Lock()
        self._headers = HeaderCache(cache_file, clock)
        self._disk = disk
        self._clock = clock
        self._folders: dict[Path, FolderReader[tuple[Found, Fetched]]] = {}
        self._tables: dict[Path, FolderReader[tuple[Mapping[Path, NamedPath], Fetched]]] = {}
        self._stores: dict[Path, FolderReader[tuple[Elsewhere, Fetched]]] = {}
        self._scans: dict[Path, StoreScan] = {}
        self._theirs: dict[Path, Elsewhere] = {}
        self._before = _Seen()
        self._last: tuple[_Seen, Catalog] | None = None
        self.reconfigure(
            models_dir=models_dir,
            model_dirs=model_dirs,
            model_settings=model_settings,
            extra=extra,
            stores=stores,
        )

    def reconfigure(
        self,
        *,
        models_dir: Path,
        model_dirs: Sequence[Path] = (),
        model_settings: Mapping[str, ModelSettings] | None = None,
        extra: Mapping[str, Path] | None = None,
        stores: Stores = Stores(),  # noqa: B008 - it never changes
    ) -> None:
        """Use other directories or tables from the next scan on.

        Headers are kept, and so are files in places that cannot be read at that moment.
        """
        with self._lock:
            self._models_dir = models_dir
            self._roots = tuple(dict.fromkeys((models_dir, *model_dirs)))
            self._model_settings = dict(model_settings or {})
            self._extra = dict(extra or {})
            self._places = stores
            self._last = None

    def scan(self, limit: float = _LIMIT) -> Catalog:
        """Return the present catalog; the same object as before if nothing changed.

        Models in unreadable places are those of the last scan: a model is gone only if its folder
        was read and does not list it. The scan does not wait for hanging storages, and waits
        ``limit`` seconds for slow ones: their files appear in a later scan.
        """
        with self._lock:
            seen, silent = self._look(limit)
            self._before = seen
            if self._last is not None and self._last[0] == seen:
                return self._last[1]
            assembly = Assembly(
                models_dir=self._models_dir,
                model_settings=self._model_settings,
                companions=seen.companions,
                read=self._headers.read,
            )
            catalog = assembly.catalog(seen.found, seen.configured, seen.elsewhere)
            settled = self._headers.settle({*silent, *(one.path for one in seen.found.unread)})
            # A file may change unnoticed for a moment after its last change.
            self._last = (seen, catalog) if settled else None
            return catalog

    def _look(self, limit: float) -> tuple[_Seen, list[Path]]:
        """Return everything found, and the folders that have not answered in time.

        Only the readers' threads access the disk.
        """
        given, paths = self._given(), self._given_paths()
        taken = {path for _, path, _, _ in given}
        self._tend(self._folders, self._roots)
        self._tend(self._tables, paths)
        self._tend(self._stores, [path for path, _ in self._places.each()], alone=True)
        for path, store in self._places.each():
            self._scans.setdefault(path, StoreScan(store, clock=self._clock))
        self._scans = {path: self._scans[path] for path in self._stores}
        self._theirs = {path: one for path, one in self._theirs.items() if path in self._stores}
        for root, folder in self._folders.items():
            folder.begin(partial(self._walk, root, root != self._models_dir, taken), self._disk)
        for path, table in self._tables.items():
            table.begin(partial(self._statuses, paths[path]), self._disk)
        for path, store_reader in self._stores.items():
            store_reader.begin(partial(self._others, self._scans[path]), self._disk)
        readers: list[FolderReader[Any]] = [
            *self._folders.values(),
            *self._tables.values(),
            *self._stores.values(),
        ]
        wait_for(readers, limit)
        before = self._before.files()
        found = self._merged().keeping(self._before.found)
        # The root of a kept file may have been removed from the settings.
        files = [
            file if file.root in self._roots else file._replace(root=self._root_of(file.path))
            for file in found.files
        ]
        files.sort(key=lambda file: (self._roots.index(file.root), file.path))
        named = self._named(paths, before)
        companions = {path: named[path] for path in self._companions()}
        configured = tuple(self._configured(*one, named) for one in given)
        found = found._replace(files=tuple(files))
        seen = _Seen(found, configured, companions, self._elsewhere())
        return seen, [one.folder for one in readers if one.found is None]

    @staticmethod
    def _tend(
        readers: dict[Path, FolderReader[T]], folders: Iterable[Path], *, alone: bool = False
    ) -> None:
        """Keep one reader for each of ``folders``, in their order, and no others."""
        former = dict(readers)
        readers.clear()
        for path in folders:
            readers[path] = former.get(path) or FolderReader(path, alone=alone)

    # In the readers' threads

    def _walk(
        self, root: Path, required: bool, taken: Collection[Path], disk: Disk
    ) -> tuple[Found, Fetched]:
        found = find_files((root,), required=(root,) if required else (), taken=taken, disk=disk)
        return found, self._headers.fetch(found.files, disk)

    def _statuses(
        self, paths: Iterable[Path], disk: Disk
    ) -> tuple[Mapping[Path, NamedPath], Fetched]:
        named: dict[Path, NamedPath] = {}
        for path in paths:
            try:
                status = disk.status(path)
                inside = self._is_inside(path)
            except OSError as error:
                named[path] = NamedPath(unread=error_text(error))
                continue
            mode = 0 if status is None else status.st_mode
            file = None
            if status is not None and stat.S_ISREG(mode):
                file = model_file(path, path.parent, status, inside=inside)
            named[path] = NamedPath(file, stat.S_ISDIR(mode))
        files = [one.file for one in named.values() if one.file is not None]
        return named, self._headers.fetch(files, disk)

    def _others(self, scan: StoreScan, disk: Disk) -> tuple[Elsewhere, Fetched]:
        found = scan.look(disk)
        return found, self._headers.fetch(found.all_files(), disk)

    # The readers' results

    def _merged(self) -> Found:
        """Return the files of all roots. A file below several roots belongs to the first."""
        files: list[ModelFile] = []
        problems: list[Problem] = []
        unread: list[Unread] = []
        known: set[tuple[str, tuple[int, int]]] = set()
        reported: set[str] = set()
        for root, reader in self._folders.items():
            walked = reader.found
            if walked is None:
                had = any(file.path.is_relative_to(root) for file in self._before.found.files)
                slow = "" if had else SLOW
                unread.append(Unread(root, SILENT if reader.hangs else slow))
                continue
            found, headers = walked
            self._headers.take(headers)
            new = [file for file in found.files if (file.path.name, file.inode) not in known]
            known |= {(file.path.name, file.inode) for file in new}
            files += new
            problems += [one for one in found.problems if one.where not in reported]
            reported |= {one.where for one in found.problems}
            unread += found.unread
        return Found(tuple(files), tuple(problems), tuple(unread))

    def _named(
        self, paths: Mapping[Path, Sequence[Path]], before: Mapping[Path, ModelFile]
    ) -> dict[Path, NamedPath]:
        """Return the file or directory at each path that a table names."""
        named: dict[Path, NamedPath] = {}
        for folder, reader in self._tables.items():
            statuses, headers = reader.found or ({}, {})
            self._headers.take(headers)
            for path in paths[folder]:
                one = statuses.get(path) or NamedPath(unread=SILENT if reader.hangs else SLOW)
                if one.unread and (file := before.get(path)) is not None:
                    # A slow folder is reported only until its files are known.
                    unread = "" if one.unread == SLOW else one.unread
                    one = NamedPath(file._replace(root=path.parent), unread=unread)
                named[path] = one
        return named

    def _elsewhere(self) -> Elsewhere:
        files: list[ModelFile] = []
        places: dict[Path, StoreRoot] = {}
        ollama: list[OllamaModel] = []
        problems: list[Problem] = []
        for path, reader in self._stores.items():
            others = reader.found
            if others is not None:
                self._theirs[path], headers = others
                self._headers.take(headers)
            found = self._theirs.get(path, Elsewhere())
            if others is None and reader.hangs:
                problems.append(Unread(path, SILENT).problem(kept=bool(found.all_files())))
            files += found.files
            places |= found.places
            ollama += found.ollama
            problems += found.problems
        return Elsewhere(tuple(files), places, tuple(ollama), tuple(problems))

    def _root_of(self, path: Path) -> Path:
        return next(root for root in self._roots if path.is_relative_to(root))

    def delete(self, catalog: Catalog, model_id: str) -> tuple[Path, ...]:
        """Delete a model's files, and its projector and draft head unless another model has them.

        Returns the deleted paths. Raises ``ModelNotFoundError``, and ``ConflictError`` if the model
        is not under ``models_dir``, if another model uses its files, or if the system refuses.
        """
        model = catalog.resolve(model_id)
        if model.preset_of:
            raise ConflictError(
                f"{model.id} is a preset of {model.preset_of} and has no files of its own.",
                hint="Remove its table from the configuration file.",
            )
        others = [
            other
            for other in catalog.models.values()
            if model.id not in {other.id, other.preset_of}
        ]
        if not model.removable:
            raise ConflictError(
                f"{model.id} cannot be deleted: its files do not lie in {self._models_dir}.",
                hint=_WAYS_OUT.get(
                    model.origin,
                    "Remove them, or its table in the configuration file, by hand.",
                ),
            )
        sharing = next((o.id for o in others if set(o.shards) & set(model.shards)), None)
        if sharing is not None:
            raise ConflictError(f"{model.id} cannot be deleted: {sharing} uses the same file.")
        # The last shard first: after a failure half-way the rest is recognizably incomplete.
        doomed = list(reversed(model.shards))
        shared = any(other.mmproj == model.mmproj for other in others)
        if model.mmproj is not None and has_projector_beside(model) and not shared:
            doomed.append(model.mmproj)
        head = head_beside(model)
        if not any(other.draft and other.draft.files == head for other in others):
            doomed += head
        for path in doomed:
            if not self._is_inside(path):
                raise ConflictError(f"{path_text(path)} does not lie in {self._models_dir}.")
        removed: list[Path] = []
        for path in doomed:
            try:
                path.unlink()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise ConflictError(
                    f"{path_text(path)} cannot be deleted: {error.strerror or error}."
                ) from error
            removed.append(path)
        with self._lock:
            # Forget them even if the next scan cannot read their folder.
            self._before = self._before.without(removed)
        for folder in {path.parent for path in removed}:
            self._tidy(folder)
        return tuple(removed)

    def _tidy(self, folder: Path) -> None:
        """Delete directories that a deletion has left empty, up to ``models_dir``."""
        while folder != self._models_dir and folder.is_relative_to(self._models_dir):
            try:
                folder.rmdir()
            except OSError:
                # It is not empty, or we may not delete it.
                return
            folder = folder.parent

    def _is_inside(self, path: Path) -> bool:
        """Return whether no link on the way leads out of ``models_dir``."""
        if not path.is_relative_to(self._models_dir):
            return False
        try:
            return path.parent.resolve().is_relative_to(self._models_dir.resolve())
        except (OSError, RuntimeError):
            return False

    def _given(self) -> list[tuple[str, Path, ModelSettings, Origin]]:
        """Return the models that the settings or the program give by path."""
        given: list[tuple[str, Path, ModelSettings, Origin]] = []
        for model_id, path in self._extra.items():
            settings = self._model_settings.get(model_id, ModelSettings())
            if settings.path is None:
                given.append((model_id, path, settings, Origin.DEMO))
        for model_id, settings in self._model_settings.items():
            if settings.path is not None:
                path = self._models_dir / settings.path
                given.append((model_id, path, settings, Origin.SETTINGS))
        return given

    def _companions(self) -> list[Path]:
        """Return the projectors and adapters that tables name."""
        tables = self._model_settings.values()
        found = [one.mmproj for one in tables if one.mmproj is not None]
        found += [path_and_scale(entry)[0] for one in tables for entry in one.lora or ()]
        return [self._models_dir / path for path in found]

    def _given_paths(self) -> dict[Path, list[Path]]:
        """Return every file that is named, by its folder."""
        by_folder: dict[Path, list[Path]] = {}
        shards = [shard for _, path, _, _ in self._given() for shard in shard_names(path)]
        for path in dict.fromkeys((*shards, *self._companions())):
            by_folder.setdefault(path.parent, []).append(path)
        return by_folder

    @staticmethod
    def _configured(
        model_id: str,
        path: Path,
        settings: ModelSettings,
        origin: Origin,
        named: Mapping[Path, NamedPath],
    ) -> Configured:
        shards = [named[shard] for shard in shard_names(path)]
        return Configured(
            model_id,
            path,
            tuple(one.file for one in shards if one.file is not None),
            settings,
            origin,
            is_directory=any(one.is_directory for one in shards),
            unread=next((one.unread for one in shards if one.unread), ""),
        )


def has_projector_beside(model: LocalModel) -> bool:
    """Return whether its projector is beside or above the model, so that it goes with the model."""
    if model.path is None or model.mmproj is None:
        return False
    folder = model.mmproj.parent
    return folder == model.path.parent or (
        model.settings.mmproj is None and model.path.is_relative_to(folder)
    )


def head_beside(model: LocalModel) -> tuple[Path, ...]:
    """Return the files of its draft head if it is near the model, so that it goes with the last
    model that has it."""
    draft = model.draft
    if draft is None or draft.kind is DraftKind.MODEL or model.path is None:
        return ()
    return draft.files if all(is_near(path, model.path) for path in draft.files) else ()
