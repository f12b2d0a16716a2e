"""Adds the models of other programs, and what else needs their files, to a survey."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import Final

from cyber_inference_tui.library.catalog import LocalModel, Origin
from cyber_inference_tui.library.gc.facts import Holder, HolderKind
from cyber_inference_tui.library.gc.holders import Holders, real
from cyber_inference_tui.library.ollama import blobs_of_manifests

ABANDONED: Final = 86400.0
"""Seconds after which another program's unfinished file, or a commit in the cache that no branch
names, is no longer part of something that runs."""
_REPO_PREFIX: Final = "models--"
_HF_PARTIAL: Final = ".incomplete"
_OLLAMA_PARTIAL: Final = "-partial"


def add_hub_cache(holders: Holders, models: Iterable[LocalModel], cache: Path) -> None:
    """Add the Hugging Face cache: ``models--ORG--NAME/{refs,snapshots/COMMIT,blobs}``.

    https://huggingface.co/docs/huggingface_hub/guides/manage-cache
    """
    below: dict[Path, list[LocalModel]] = {}
    for model in models:
        if model.origin is Origin.HUB_CACHE and model.path is not None:
            for above in real(model.path.parent).parents:
                below.setdefault(above, []).append(model)
    for folder in sorted(cache.iterdir()):
        if not folder.name.startswith(_REPO_PREFIX) or not folder.is_dir():
            continue
        repo = real(folder)
        name = folder.name.removeprefix(_REPO_PREFIX).replace("--", "/")
        snapshots = repo / "snapshots"
        commits = sorted(snapshots.iterdir()) if snapshots.is_dir() else []
        current, begin = set(), len(holders.found)
        for model in below.get(snapshots, []):
            at = _below(model.path, snapshots)
            if at is not None:
                current.add(at)
                holders.model(model, repo, stop=at)
        known = {path for holder in holders.found[begin:] for path in holder.owns}
        for commit in commits:
            if _is_outdated(holders, commit, commits, repo / "refs") and commit not in current:
                _revision(holders, commit, name, repo)
            else:
                _rest_of(holders, commit, known)
        _old_partials(holders, repo / "blobs", _HF_PARTIAL, Origin.HUB_CACHE)


def _is_outdated(holders: Holders, commit: Path, commits: Sequence[Path], refs: Path) -> bool:
    """Return whether no branch or tag names a commit, and another one is there in its place."""
    named = {path.read_text("ascii").strip() for path in holders.walk(refs) if path.is_file()}
    times = {one: one.stat().st_mtime for one in commits}
    is_old = holders.given.now - times[commit] > ABANDONED
    return commit.name not in named and is_old and times[commit] < max(times.values())


def _revision(holders: Holders, commit: Path, name: str, repo: Path) -> None:
    """Add an outdated commit of the repository ``name``."""
    links = [path for path in holders.walk(commit) if not path.is_dir()]
    chains = holders.chains(links)
    inside = [path for chain in chains for path in chain if path.is_relative_to(repo)]
    holders.found.append(
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


def _rest_of(holders: Holders, commit: Path, known: Container[Path]) -> None:
    """Add all of a commit that is not among the ``known`` files of models."""
    rest = [path for path in holders.walk(commit) if not path.is_dir() and path not in known]
    holders.other(f"commit {commit}", (path for chain in holders.chains(rest) for path in chain))


def add_lm_studio(holders: Holders, models: Iterable[LocalModel], root: Path) -> None:
    """Add LM Studio's models, which are plain files."""
    for model in models:
        if model.origin is not Origin.LM_STUDIO or model.path is None:
            continue
        if real(model.path.parent).is_relative_to(root):
            holders.model(model, root, stop=root)


def add_ollama(holders: Holders, models: Iterable[LocalModel], root: Path) -> None:
    """Add Ollama's manifests, each with all blobs that it names."""
    by_file: dict[Path, list[LocalModel]] = {}
    for model in models:
        if model.origin is Origin.OLLAMA and model.path is not None:
            by_file.setdefault(real(model.path), []).append(model)
    for manifest, blobs in blobs_of_manifests(root).items():
        chains = holders.chains(blobs)
        files = [chain[-1] for chain in chains]
        named = [model for file in files for model in by_file.get(file, [])]
        inside = [path for chain in chains for path in chain if path.is_relative_to(root)]
        holders.entry(manifest)
        if not named:
            holders.other(f"manifest {manifest}", [manifest, *(p for c in chains for p in c)])
            continue
        weights = {path for one in named for path in (*one.shards, one.mmproj) if path}
        holders.add(
            key=f"manifest {manifest}",
            models=named,
            owns=[manifest, *inside],
            data=[file for file in files if file in {real(path) for path in weights}],
            stop=root / "manifests",
            other_program=True,
        )
    _old_partials(holders, root / "blobs", _OLLAMA_PARTIAL, Origin.OLLAMA)


def _old_partials(holders: Holders, blobs: Path, mark: str, origin: Origin) -> None:
    """Add the unfinished files of another program that it has not written to for a day."""
    for path in sorted(blobs.iterdir()) if blobs.is_dir() else []:
        if mark in path.name and holders.given.now - path.lstat().st_mtime > ABANDONED:
            holders.partial(path, [path], stop=blobs, origin=origin)


def _below(path: Path | None, folder: Path) -> Path | None:
    """Return the entry of ``folder`` that ``path`` lies in."""
    if path is None:
        return None
    parent = real(path.parent)
    if not parent.is_relative_to(folder) or parent == folder:
        return None
    return folder / parent.relative_to(folder).parts[0]
