"""Finds models that other programs keep on this machine. They are read in place, never changed.

- The Hub's cache: ``models--ORG--NAME/snapshots/COMMIT/…`` are links to ``blobs``; ``refs/main``
  names the commit. https://huggingface.co/docs/huggingface_hub/guides/manage-cache
- LM Studio: ``PUBLISHER/REPO/FILE.gguf``. https://lmstudio.ai/docs/app/advanced/import-model
- Ollama: ``manifests/HOST/NAMESPACE/MODEL/TAG`` name the blobs, which have no ending.
  https://github.com/ollama/ollama/blob/main/docs/faq.mdx
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from cyber_inference_tui.library.catalog import Origin
from cyber_inference_tui.library.disk import Disk
from cyber_inference_tui.library.ollama import OllamaModel, ollama_models
from cyber_inference_tui.library.scan import (
    Found,
    ModelFile,
    Unread,
    find_files,
    path_text,
    unread_above,
)
from cyber_inference_tui.library.unusable_files import Problem
from cyber_inference_tui.settings.environment import variable

_MAX_REPOS: Final = 5_000
_MAX_ENTRIES: Final = 50_000
_MAX_DEPTH: Final = 8
_MAX_REF: Final = 256
_LONGEST: Final = 5.0
"""Seconds for one walk of a store; a slower network disk is listed in part."""
_FULL_WALK_AFTER: Final = 60.0
"""Seconds until the next full walk, which also finds changes that directories' times do not
show."""
_SETTLED: Final = 2_000_000_000
_REPO_PREFIX: Final = "models--"


class Stores(NamedTuple):
    """The directories of other programs' models; missing ones contain no models."""

    hub_caches: tuple[Path, ...] = ()
    lm_studio: tuple[Path, ...] = ()
    ollama: tuple[Path, ...] = ()

    def each(self) -> list[tuple[Path, Stores]]:
        """Return every directory with the stores that consist of it alone."""
        return [
            *((path, Stores(hub_caches=(path,))) for path in self.hub_caches),
            *((path, Stores(lm_studio=(path,))) for path in self.lm_studio),
            *((path, Stores(ollama=(path,))) for path in self.ollama),
        ]


class StoreRoot(NamedTuple):
    """The owner of the files below a root."""

    origin: Origin
    owner: str = ""
    """A prefix for the name of a model whose name is taken; empty = its folder."""


class Elsewhere(NamedTuple):
    """Other programs' models."""

    files: tuple[ModelFile, ...] = ()
    places: Mapping[Path, StoreRoot] = {}
    """By the files' ``root``."""
    ollama: tuple[OllamaModel, ...] = ()
    problems: tuple[Problem, ...] = ()

    def all_files(self) -> list[ModelFile]:
        """Return every file, including projectors."""
        theirs = [file for one in self.ollama for file in (one.file, one.projector) if file]
        return [*self.files, *theirs]


def find_stores(environ: Mapping[str, str], *, system: Path = Path("/")) -> Stores:
    """Return the places where these programs keep their models, by default or by their variables.

    Without ``HOME`` only variables count. ``system`` is the root of the files of system services
    such as Ollama's own user.
    """
    named = Path(environ.get("HOME", ""))
    home = named if named.is_absolute() else None
    ollama: list[Path] = []
    if own := variable(environ, "OLLAMA_MODELS"):
        ollama.append(Path(own))
    elif home is not None:
        ollama += [home / ".ollama/models", system / "usr/share/ollama/.ollama/models"]
    hub: Path | None = None
    if cache := variable(environ, "HF_HUB_CACHE") or variable(environ, "HUGGINGFACE_HUB_CACHE"):
        hub = Path(cache)
    elif hub_home := variable(environ, "HF_HOME"):
        hub = Path(hub_home) / "hub"
    elif caches := variable(environ, "XDG_CACHE_HOME"):
        hub = Path(caches) / "huggingface/hub"
    elif home is not None:
        hub = home / ".cache/huggingface/hub"
    return Stores(
        hub_caches=() if hub is None else (hub,),
        lm_studio=()
        if home is None
        else (home / ".lmstudio/models", home / ".cache/lm-studio/models"),
        ollama=tuple(ollama),
    )


class StoreScan:
    """Scans stores repeatedly at low cost.

    It walks them only if a directory has changed, and once a minute. ``clock`` returns nanoseconds
    since 1970, ``timer`` counts seconds.
    """

    def __init__(
        self,
        stores: Stores,
        *,
        clock: Callable[[], int] = time.time_ns,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stores = stores
        self._clock = clock
        self._timer = timer
        self._disk = Disk()
        self._found: Elsewhere | None = None
        self._walked_at = 0.0
        self._watched: dict[Path, int] = {}
        self._settled = False

    def look(self, disk: Disk = Disk()) -> Elsewhere:  # noqa: B008 - it has no state
        """Return the present models. Unreadable places keep their models and are problems."""
        self._disk = disk
        if (
            self._found is None
            or self._timer() - self._walked_at > _FULL_WALK_AFTER
            or self._has_changed()
        ):
            self._watched = {}
            self._walked_at = self._timer()
            walk = _StoreWalk(self._stores, self._disk, self._watch, self._timer)
            self._found = walk.all().keeping(self._found or Elsewhere())
            now = self._clock()
            # A file that has just changed may change again within one tick of its clock, and an
            # unreadable one may become readable without a sign of it.
            self._settled = all(
                abs(now - then) >= _SETTLED for then in self._watched.values()
            ) and all(one.lasting for one in walk.unread)
        return self._found

    def _has_changed(self) -> bool:
        if not self._settled:
            return True
        return any(self._changed(path) != then for path, then in self._watched.items())

    def _watch(self, path: Path) -> None:
        self._watched[path] = self._changed(path)

    def _changed(self, path: Path) -> int:
        """Return the time of the last change of its contents or permissions; 0 = unknown."""
        try:
            return self._disk.stat(path).st_ctime_ns
        except (OSError, ValueError):
            return 0


class _StoreWalk:
    """A walk of all stores."""

    def __init__(
        self,
        stores: Stores,
        disk: Disk,
        watch: Callable[[Path], None],
        timer: Callable[[], float],
    ) -> None:
        self._stores = stores
        self._disk = disk
        self._watch = watch
        self._timer = timer
        self._end = timer() + _LONGEST
        self._files: list[ModelFile] = []
        self._places: dict[Path, StoreRoot] = {}
        self._ollama: list[OllamaModel] = []
        self._problems: list[Problem] = []
        self.unread: list[Unread] = []

    def all(self) -> _Whole:
        for cache in self._stores.hub_caches:
            for owner, snapshot in self._snapshots(cache):
                self._take(snapshot, StoreRoot(Origin.HUB_CACHE, owner))
        for root in self._stores.lm_studio:
            if self._has_time(root):
                self._watch(root)
                self._take(root, StoreRoot(Origin.LM_STUDIO))
        for root in self._stores.ollama:
            if self._has_time(root):
                theirs = ollama_models(root, on_directory=self._watch, disk=self._disk)
                self._ollama += theirs.models
                self._problems += theirs.problems
                self.unread += theirs.unread
        found = Found(tuple(self._files), tuple(self._problems), tuple(self.unread))
        return _Whole(found, self._places, tuple(self._ollama))

    def _has_time(self, store: Path, unlooked: Path | None = None) -> bool:
        """Return whether there is time for a part of a store; otherwise mark it as unread."""
        if self._timer() <= self._end:
            return True
        slow = Problem(where=path_text(store), reason="it is too slow to be read whole")
        if slow not in self._problems:
            self._problems.append(slow)
        self.unread.append(Unread(unlooked or store, "", lasting=True))
        return False

    def _take(self, root: Path, place: StoreRoot) -> None:
        found = find_files(
            (root,),
            on_directory=self._watch,
            most=_MAX_ENTRIES,
            deepest=_MAX_DEPTH,
            disk=self._disk,
        )
        self._files += found.files
        self._problems += found.problems
        self.unread += found.unread
        self._places[root] = place

    def _snapshots(self, cache: Path) -> Iterator[tuple[str, Path]]:
        """Yield each repository of a cache: its name, and its current commit's directory."""
        self._watch(cache)
        for number, name in enumerate(self._names(cache, cache)):
            if number >= _MAX_REPOS:
                return
            repo = cache / name
            if not name.startswith(_REPO_PREFIX) or not self._has_time(cache, repo):
                continue
            self._watch(repo / "snapshots")
            self._watch(repo / "refs/main")
            current = self._current(repo)
            if current is not None:
                yield name.removeprefix(_REPO_PREFIX).replace("--", "/"), current

    def _current(self, repo: Path) -> Path | None:
        """Return the snapshot that ``refs/main`` names, else the one that changed last."""
        snapshots, ref = repo / "snapshots", repo / "refs/main"
        names = self._names(snapshots, repo)
        if not names:
            return None
        commit = ""
        try:
            commit = self._disk.beginning(ref, _MAX_REF).decode("ascii").strip()
        except OSError as error:
            if not self._disk.is_gone(ref, error):
                # Another commit may be current, so the earlier results stay.
                self.unread.append(Unread.because(repo, error))
                return None
        except ValueError:
            pass  # it names no commit
        if commit in names:
            return snapshots / commit
        try:
            return max(
                (snapshots / name for name in names),
                key=lambda path: self._disk.stat(path).st_mtime_ns,
            )
        except OSError as error:
            self.unread.append(Unread.because(repo, error))
            return None

    def _names(self, directory: Path, behind: Path) -> list[str]:
        """Return the sorted names that are not hidden; ``behind`` is unread if that fails."""
        try:
            entries = self._disk.entries(directory, _MAX_ENTRIES)
        except OSError as error:
            if not self._disk.is_gone(directory, error):
                self.unread.append(Unread.because(behind, error))
            return []
        except ValueError:
            return []
        return sorted(entry.name for entry in entries if not entry.name.startswith("."))


class _Whole(NamedTuple):
    """The result of a walk."""

    found: Found
    places: Mapping[Path, StoreRoot]
    ollama: tuple[OllamaModel, ...]

    def keeping(self, before: Elsewhere) -> Elsewhere:
        """Add the models of ``before`` at or below places that could not be read now."""
        unread = {one.path for one in self.found.unread}
        known = {model.manifest for model in self.ollama}
        models = list(self.ollama)
        behind: set[Path] = set()
        for model in before.ollama:
            above = unread_above(model.manifest, unread)
            if above is not None and model.manifest not in known:
                models.append(model)
                behind.add(above)
        # Places that we may never read are not reported.
        found = self.found.keeping(Found(before.files, before.problems), behind=behind, quiet=True)
        kept = {file.root for file in found.files} - self.places.keys()
        places = {**self.places, **{root: before.places[root] for root in kept}}
        return Elsewhere(found.files, places, tuple(models), found.problems)
