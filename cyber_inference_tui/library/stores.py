"""Models that other programs keep on this machine: they are read in place and never changed.

- The Hub's cache: ``models--ORG--NAME/snapshots/COMMIT/…`` are links to ``blobs``; ``refs/main``
  names the commit. https://huggingface.co/docs/huggingface_hub/guides/manage-cache
- LM Studio: ``PUBLISHER/REPO/FILE.gguf``. https://lmstudio.ai/docs/app/advanced/import-model
- Ollama: ``manifests/HOST/NAMESPACE/MODEL/TAG`` name the blobs, which have no ending.
  https://github.com/ollama/ollama/blob/main/docs/faq.mdx
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from cyber_inference_tui.files import read_file
from cyber_inference_tui.library.catalog import Origin, Problem
from cyber_inference_tui.library.ollama import OllamaModel, ollama_models
from cyber_inference_tui.library.scan import ModelFile, find_files, shown
from cyber_inference_tui.settings.environment import variable

_MAX_REPOS: Final = 5_000
_MAX_ENTRIES: Final = 50_000
_MAX_DEPTH: Final = 8
_MAX_REF: Final = 256
_LONGEST: Final = 5.0
"""Seconds for one look at all stores; a network disk that is slower is listed in part."""
_ANEW: Final = 60.0
"""Seconds after which all is looked at again, also what directories' times do not tell."""
_SETTLED: Final = 2_000_000_000
_REPO_PREFIX: Final = "models--"


class Stores(NamedTuple):
    """The directories of other programs' models; those that do not exist hold none."""

    hub_caches: tuple[Path, ...] = ()
    lm_studio: tuple[Path, ...] = ()
    ollama: tuple[Path, ...] = ()


class Place(NamedTuple):
    """Whose the files below a root are."""

    origin: Origin
    owner: str = ""
    """What stands before a model's name where another has that; empty = its folder."""


class Elsewhere(NamedTuple):
    """What other programs have."""

    files: tuple[ModelFile, ...] = ()
    places: Mapping[Path, Place] = {}
    """By the files' ``root``."""
    ollama: tuple[OllamaModel, ...] = ()
    problems: tuple[Problem, ...] = ()


def find_stores(environ: Mapping[str, str], *, system: Path = Path("/")) -> Stores:
    """Where these programs keep their models by default, or as their own variables say.

    Without ``HOME`` there is nothing but what variables name. ``system`` is the root of the files
    of system services, Ollama's own user among them.
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
    """Looks into stores, again and again at little cost.

    It walks them only where a directory's time has changed, and once a minute. ``clock`` gives
    nanoseconds since 1970, ``timer`` counts seconds.
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
        self._found: Elsewhere | None = None
        self._walked_at = 0.0
        self._watched: dict[Path, int] = {}
        self._settled = False

    def look(self) -> Elsewhere:
        """What is there now. Never raises: what cannot be read is a problem."""
        if self._found is None or self._timer() - self._walked_at > _ANEW or self._has_changed():
            self._watched = {}
            self._walked_at = self._timer()
            self._found = self._walk()
            now = self._clock()
            # What has just changed may do so again within one tick of its clock.
            self._settled = all(abs(now - then) >= _SETTLED for then in self._watched.values())
        return self._found

    def _has_changed(self) -> bool:
        if not self._settled:
            return True
        return any(_modified(path) != modified for path, modified in self._watched.items())

    def _watch(self, path: Path) -> None:
        self._watched[path] = _modified(path)

    def _walk(self) -> Elsewhere:
        end = self._timer() + _LONGEST
        files: list[ModelFile] = []
        places: dict[Path, Place] = {}
        problems: list[Problem] = []
        models: list[OllamaModel] = []

        def has_time(store: Path) -> bool:
            if self._timer() <= end:
                return True
            problems.append(Problem(where=shown(store), reason="it is too slow to be read whole"))
            return False

        def take(root: Path, place: Place) -> None:
            found = find_files(
                (root,), on_directory=self._watch, most=_MAX_ENTRIES, deepest=_MAX_DEPTH
            )
            files.extend(found.files)
            problems.extend(found.problems)
            places[root] = place

        for cache in self._stores.hub_caches:
            for owner, snapshot in self._snapshots(cache):
                if not has_time(cache):
                    break
                take(snapshot, Place(Origin.HUB_CACHE, owner))
        for root in self._stores.lm_studio:
            if has_time(root):
                self._watch(root)
                take(root, Place(Origin.LM_STUDIO))
        for root in self._stores.ollama:
            if has_time(root):
                found, wrong = ollama_models(root, on_directory=self._watch)
                models.extend(found)
                problems.extend(wrong)
        return Elsewhere(tuple(files), places, tuple(models), tuple(problems))

    def _snapshots(self, cache: Path) -> Iterator[tuple[str, Path]]:
        """Each repository of a cache: its name, and the directory of its current commit."""
        self._watch(cache)
        for number, name in enumerate(_names(cache)):
            if number >= _MAX_REPOS:
                return
            if not name.startswith(_REPO_PREFIX):
                continue
            repo = cache / name
            snapshots = repo / "snapshots"
            self._watch(snapshots)
            self._watch(repo / "refs/main")
            current = _current(repo, snapshots)
            if current is not None:
                yield name.removeprefix(_REPO_PREFIX).replace("--", "/"), current


def _current(repo: Path, snapshots: Path) -> Path | None:
    """The snapshot that ``refs/main`` names, else the one that changed last."""
    names = _names(snapshots)
    try:
        commit = read_file(repo / "refs/main", _MAX_REF).decode("ascii").strip()
    except (OSError, ValueError):
        commit = ""
    if commit in names:
        return snapshots / commit
    return max((snapshots / name for name in names), key=_modified, default=None)


def _names(directory: Path) -> list[str]:
    """Of what is not hidden in it, sorted; nothing where it cannot be read."""
    try:
        with os.scandir(directory) as listing:
            return sorted(entry.name for entry in listing if not entry.name.startswith("."))
    except (OSError, ValueError):
        return []


def _modified(path: Path) -> int:
    """The time of the last change; 0 where there is nothing."""
    try:
        return path.stat().st_mtime_ns
    except (OSError, ValueError):
        return 0
