"""The library: scans the model directories and turns files and tables into a catalog."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from cyber_inference_tui.errors import ConflictError
from cyber_inference_tui.library.assemble import Assembly, Configured
from cyber_inference_tui.library.catalog import Catalog, LocalModel, Origin
from cyber_inference_tui.library.headers import HeaderCache
from cyber_inference_tui.library.scan import Found, ModelFile, find_files, shown, stat_file
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

    found: Found
    configured: tuple[Configured, ...]
    elsewhere: Elsewhere


class Library:
    """The models on this machine. All methods block on files and may be called from any thread.

    ``extra`` are models by id that the program brings along, such as the demo model. ``stores``
    are other programs' models, listed after those of our own directories. Headers are
    kept in ``cache_file``. ``clock`` gives nanoseconds since 1970.
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
    ) -> None:
        self._lock = threading.Lock()
        self._headers = HeaderCache(cache_file, clock)
        self._stores = StoreScan(stores, clock=clock)
        self._last: tuple[_Seen, Catalog] | None = None
        self.reconfigure(
            models_dir=models_dir,
            model_dirs=model_dirs,
            model_settings=model_settings,
            extra=extra,
        )

    def reconfigure(
        self,
        *,
        models_dir: Path,
        model_dirs: Sequence[Path] = (),
        model_settings: Mapping[str, ModelSettings] | None = None,
        extra: Mapping[str, Path] | None = None,
    ) -> None:
        """Other directories or tables, from the next scan on; headers stay known."""
        with self._lock:
            self._models_dir = models_dir
            self._roots = tuple(dict.fromkeys((models_dir, *model_dirs)))
            self._model_settings = dict(model_settings or {})
            self._extra = dict(extra or {})
            self._last = None

    def scan(self) -> Catalog:
        """What is there now; the very same catalog as before when nothing changed."""
        with self._lock:
            required = [root for root in self._roots if root != self._models_dir]
            seen = _Seen(
                find_files(self._roots, required=required), self._configured(), self._stores.look()
            )
            if self._last is not None and self._last[0] == seen:
                return self._last[1]
            assembly = Assembly(
                models_dir=self._models_dir,
                model_settings=self._model_settings,
                read=self._headers.read,
            )
            catalog = assembly.catalog(seen.found, seen.configured, seen.elsewhere)
            settled = self._headers.settle()
            # A file may still change unseen for a moment after its last change.
            self._last = (seen, catalog) if settled else None
            return catalog

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

    def _configured(self) -> tuple[Configured, ...]:
        """Models that the configuration or the program names by path or command."""
        found: list[Configured] = []
        for model_id, path in self._extra.items():
            settings = self._model_settings.get(model_id)
            if settings is None or settings.path is None:
                table = settings or ModelSettings()
                found.append(self._at(model_id, path, table, Origin.DEMO))
        for model_id, settings in self._model_settings.items():
            if settings.path is not None:
                found.append(
                    self._at(model_id, self._models_dir / settings.path, settings, Origin.SETTINGS)
                )
        return tuple(found)

    def _at(self, model_id: str, path: Path, settings: ModelSettings, origin: Origin) -> Configured:
        inside = self._is_inside(path)
        files: list[ModelFile] = []
        for shard in shard_names(path):
            file = stat_file(shard, path.parent, inside=inside)
            if file is not None:
                files.append(file)
        return Configured(model_id, path, tuple(files), settings, origin)


def _only_its_own(model: LocalModel, others: Sequence[LocalModel]) -> bool:
    """The projector lies beside the model and no other model uses it."""
    if model.path is None or model.mmproj is None:
        return False
    beside = model.mmproj.parent == model.path.parent
    return beside and all(other.mmproj != model.mmproj for other in others)
