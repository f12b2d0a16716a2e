"""Surveys the disk for a plan: the files of all models, and who needs them. Everything blocks.

Wherever something cannot be read, the files of other programs stay: it might need any of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from cyber_inference_tui.library.catalog import Catalog, LocalModel, Origin
from cyber_inference_tui.library.gc.facts import Facts, Holder, HolderKind
from cyber_inference_tui.library.gc.holders import Given, Holders, real
from cyber_inference_tui.library.gc.others import add_hub_cache, add_lm_studio, add_ollama
from cyber_inference_tui.library.library import head_beside

_UNREAD: Final = "a folder that may need it cannot be read"

Add = Callable[[Holders, Iterable[LocalModel], Path], None]


def survey(
    catalog: Catalog, given: Given, files_of: Callable[[LocalModel], Iterable[Path]]
) -> Facts:
    """Return the facts about the disk; ``files_of`` returns all files that a model's server reads.

    Raises ``OSError`` if ``models_dir`` cannot be read.
    """
    disk = os.statvfs(given.models_dir)
    models = list(catalog.models.values())
    is_whole = not any(one.passing for one in catalog.problems)
    holders = Holders(given, files_of, is_whole=is_whole)
    _add_ours(holders, models)
    for chain in holders.chains(given.named_files):
        holders.other(f"named {chain[0]}", chain)
    for root in given.partials:
        files = list(_files_below(root))
        holders.partial(root, files, stop=real(given.models_dir), origin=Origin.MODELS_DIR)
    stores = given.stores
    programs: list[tuple[Add, Iterable[Path]]] = [
        (add_hub_cache, stores.hub_caches),
        (add_lm_studio, stores.lm_studio),
        (add_ollama, stores.ollama),
    ]
    for add, roots in programs:
        # One may be a link to another.
        for path in dict.fromkeys(map(os.path.realpath, roots)):
            _add_program(holders, models, Path(path), add)
    return Facts(
        holders=tuple(_checked(holder, holders.is_whole) for holder in holders.found),
        entries=holders.entries,
        device=given.models_dir.stat().st_dev,
        free=disk.f_bavail * disk.f_frsize,
    )


def _add_program(holders: Holders, models: Iterable[LocalModel], root: Path, add: Add) -> None:
    """Add the folder of another program, if there is one that this user may read."""
    try:
        is_there = any(root.iterdir())
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    except OSError:
        is_there = holders.is_whole = False
    try:
        if is_there:
            add(holders, models, root)
    except (OSError, ValueError):
        holders.is_whole = False


def _checked(holder: Holder, is_whole: bool) -> Holder:
    """Return the holder with the reason why it has to stay, if there is one."""
    reason = holder.keep
    if not reason and holder.other_program and not is_whole:
        reason = _UNREAD
    if not reason and holder.kind is not HolderKind.OTHER:
        folders = {path.parent for path in holder.owns}
        if not all(os.access(folder, os.W_OK | os.X_OK) for folder in folders):
            reason = "this user may not delete its files"
    return msgspec.structs.replace(holder, keep=reason) if reason else holder


def _add_ours(holders: Holders, models: Iterable[LocalModel]) -> None:
    """Add the models in our folders and in the settings, and the links in our folders."""
    root = real(holders.given.models_dir)
    for model in models:
        if model.origin in {Origin.HUB_CACHE, Origin.LM_STUDIO, Origin.OLLAMA}:
            continue
        if model.origin is Origin.MODELS_DIR and model.removable:
            holders.model(model, root, stop=root, other_program=False)
        elif model.path is not None:
            _only_read(holders, model)
    _links(holders)


def _only_read(holders: Holders, model: LocalModel) -> None:
    """Add a model whose files are never deleted: it needs them, and others may be copies."""
    projector = [model.mmproj] if model.mmproj else []
    chains = holders.chains([*model.shards, *projector, *head_beside(model)])
    needs = holders.chains(holders.files_of(model))
    holders.found.append(
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


def _links(holders: Holders) -> None:
    """Add every symbolic link in our folders that is no model: its target is needed."""
    known = {path for holder in holders.found for path in holder.needs}
    given = holders.given
    for root in dict.fromkeys((given.models_dir, *given.model_dirs)):
        for path in holders.walk(root):
            if path.is_symlink() and real(path.parent) / path.name not in known:
                for chain in holders.chains([path]):
                    holders.other(f"link {path}", chain)


def _files_below(root: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(real(root)):
        yield from (Path(folder, name) for name in sorted(names))
