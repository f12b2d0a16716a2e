"""The library: scans the model directories and turns files and tables into a catalog."""

from __future__ import annotations

import stat
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from cyber_inference_tui.errors import ConflictError
from cyber_inference_tui.library.assemble import Assembly, Configured, GivenProjector
from cyber_inference_tui.library.catalog import Catalog, LocalModel, Origin
from cyber_inference_tui.library.disk import Disk, told
from cyber_inference_tui.library.headers import HeaderCache
from cyber_inference_tui.library.scan import (
    Found,
    ModelFile,
    find_files,
    model_file,
    shown,
    stat_file,
)
from cyber_inference_tui.library.shards import shard_names
from cyber_inference_tui.library.stores import Elsewhere, Stores, StoreScan
from cyber_inference_tui.settings.schema import ModelSettings

_WAYS_OUT = {
    Origin.HUB_CACHE: "It is in the cache of the Hugging Face tools: delete it with theirs"
    " (hf cache delete), or set discover = false.",
    Origin.LM_STUDIO: "It belongs to LM Studio: delete it there, or set discover = false.",
    Origin.OLLAMA: "It belongs to Ollama: delete it with 'ollama rm', or set discover = false.",
    Origin.MODEL_DIRS: "It lies in one of model_dirs, which are only read: remove it by hand.",
    Origin.DEMO: "It is built in: start without --demo.",
}


class _Seen(NamedTuple):
    """All that a catalog follows from: equal ones give equal catalogs."""

    found: Found = Found()
    configured: tuple[Configured, ...] = ()
    projectors: Mapping[Path, GivenProjector] = {}
    """Those that tables name."""
    elsewhere: Elsewhere = Elsewhere()

    def files(self) -> dict[Path, ModelFile]:
        """Every file of our own directories and tables."""
        given = [file for one in self.configured for file in one.files]
        given += [one.file for one in self.projectors.values() if one.file is not None]
        return {file.path: file for file in (*given, *self.found.files)}

    def without(self, paths: Collection[Path]) -> _Seen:
        """The same but for these files."""

        def left(files: Iterable[ModelFile]) -> tuple[ModelFile, ...]:
            return tuple(file for file in files if file.path not in paths)

        configured = [one._replace(files=left(one.files)) for one in self.configured]
        return self._replace(
            found=self.found._replace(files=left(self.found.files)), configured=tuple(configured)
        )


class Library:
    """The models on this machine. All methods block on files and may be called from any thread.

    ``extra`` are models by id that the program brings along, such as the demo model. ``stores``
    are other programs' models, listed after those of our own directories. Headers are
    kept in ``cache_file``. ``clock`` gives nanoseconds since 1970. ``disk`` reads everything but
    headers.
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
        self._stores = StoreScan(stores, clock=clock, disk=disk)
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
        """Other directories or tables, from the next scan on.

        Headers stay known, and so do files in what cannot be read just then.
        """
        with self._lock:
            self._models_dir = models_dir
            self._roots = tuple(dict.fromkeys((models_dir, *model_dirs)))
            self._model_settings = dict(model_settings or {})
            self._extra = dict(extra or {})
            self._stores.move(stores)
            self._last = None

    def scan(self) -> Catalog:
        """What is there now; the very same catalog as before when nothing changed.

        Models in what cannot be read now are those of the last scan: only what a folder that was
        read no longer lists is gone.
        """
        with self._lock:
            seen = self._look()
            self._before = seen
            if self._last is not None and self._last[0] == seen:
                return self._last[1]
            assembly = Assembly(
                models_dir=self._models_dir,
                model_settings=self._model_settings,
                projectors=seen.projectors,
                read=self._headers.read,
            )
            catalog = assembly.catalog(seen.found, seen.configured, seen.elsewhere)
            settled = self._headers.settle()
            # A file may still change unseen for a moment after its last change.
            self._last = (seen, catalog) if settled else None
            return catalog

    def _look(self) -> _Seen:
        before = self._before.files()
        configured = self._configured(before)
        found = find_files(
            self._roots,
            required=[root for root in self._roots if root != self._models_dir],
            taken={given.path for given in configured},
            disk=self._disk,
        ).keeping(self._before.found)
        # The root that a kept file was found under may be none any more.
        files = [
            file if file.root in self._roots else file._replace(root=self._root_of(file.path))
            for file in found.files
        ]
        files.sort(key=lambda file: (self._roots.index(file.root), file.path))
        projectors = {
            path: self._projector_at(path, before)
            for settings in self._model_settings.values()
            if settings.mmproj is not None
            for path in [self._models_dir / settings.mmproj]
        }
        elsewhere = self._stores.look()
        return _Seen(found._replace(files=tuple(files)), configured, projectors, elsewhere)

    def _root_of(self, path: Path) -> Path:
        return next(root for root in self._roots if path.is_relative_to(root))

    def delete(self, catalog: Catalog, model_id: str) -> tuple[Path, ...]:
        """Removes a model's files, and its projector unless another model uses it.

        Returns the paths that were removed. Raises ``ModelNotFoundError``, and ``ConflictError``
        when the model does not lie under ``models_dir``, when another model uses its files, or
        when the system refuses.
        """
        model = catalog.resolve(model_id)
        others = [other for other in catalog.models.values() if other.id != model.id]
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
        # The last shard first: what a failure half-way leaves behind is seen to be incomplete.
        doomed = list(reversed(model.shards))
        if model.mmproj is not None and _only_its_own(model, others):
            doomed.append(model.mmproj)
        for path in doomed:
            if not self._is_inside(path):
                raise ConflictError(f"{shown(path)} does not lie in {self._models_dir}.")
        removed: list[Path] = []
        for path in doomed:
            try:
                path.unlink()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise ConflictError(
                    f"{shown(path)} cannot be deleted: {error.strerror or error}."
                ) from error
            removed.append(path)
        with self._lock:
            # Should their folder be unreadable in the next scan, they are gone all the same.
            self._before = self._before.without(removed)
        for folder in {path.parent for path in removed}:
            self._tidy(folder)
        return tuple(removed)

    def _tidy(self, folder: Path) -> None:
        """Remove directories that a deletion has left empty, up to ``models_dir``."""
        while folder != self._models_dir and folder.is_relative_to(self._models_dir):
            try:
                folder.rmdir()
            except OSError:
                # Something else lies in it, or it is not ours to remove.
                return
            folder = folder.parent

    def _is_inside(self, path: Path) -> bool:
        """Really, not only by name: no link on the way leads out of ``models_dir``."""
        try:
            return path.parent.resolve().is_relative_to(self._models_dir.resolve())
        except (OSError, RuntimeError):
            return False

    def _configured(self, before: Mapping[Path, ModelFile]) -> tuple[Configured, ...]:
        """Models that the configuration or the program names by path or command."""
        given: list[tuple[str, Path, ModelSettings, Origin]] = []
        for model_id, path in self._extra.items():
            settings = self._model_settings.get(model_id, ModelSettings())
            if settings.path is None:
                given.append((model_id, path, settings, Origin.DEMO))
        for model_id, settings in self._model_settings.items():
            if settings.path is not None:
                path = self._models_dir / settings.path
                given.append((model_id, path, settings, Origin.SETTINGS))
        return tuple(self._at(*one, before) for one in given)

    def _at(
        self,
        model_id: str,
        path: Path,
        settings: ModelSettings,
        origin: Origin,
        before: Mapping[Path, ModelFile],
    ) -> Configured:
        inside = self._is_inside(path)
        files: list[ModelFile] = []
        unread = ""
        is_directory = False
        for shard in shard_names(path):
            try:
                status = self._disk.status(shard)
            except OSError as error:
                unread = unread or told(error)
                if shard in before:
                    files.append(before[shard]._replace(root=path.parent))
                continue
            if status is not None and stat.S_ISREG(status.st_mode):
                files.append(model_file(shard, path.parent, status, inside=inside))
            is_directory |= status is not None and stat.S_ISDIR(status.st_mode)
        return Configured(model_id, path, tuple(files), settings, origin, is_directory, unread)

    def _projector_at(self, path: Path, before: Mapping[Path, ModelFile]) -> GivenProjector:
        try:
            return GivenProjector(stat_file(path, path.parent, disk=self._disk))
        except OSError as error:
            return GivenProjector(before.get(path), told(error))


def _only_its_own(model: LocalModel, others: Sequence[LocalModel]) -> bool:
    """The projector lies beside the model, or was found above it, and no other model uses it."""
    if model.path is None or model.mmproj is None:
        return False
    folder = model.mmproj.parent
    near = folder == model.path.parent or (
        model.settings.mmproj is None and model.path.is_relative_to(folder)
    )
    return near and all(other.mmproj != model.mmproj for other in others)
