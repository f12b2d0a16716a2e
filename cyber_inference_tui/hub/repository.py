"""Which models a repository holds, by the names of its files. Pure.

Shards are one model and only where all are there; projectors go with the models that they would
go with once they are here; importance matrices and the small models for drafting are none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Final

import msgspec

from cyber_inference_tui.errors import HubError, HubNotFoundError
from cyber_inference_tui.gguf.metadata import ModelMetadata
from cyber_inference_tui.gguf.quantization import named_quantization
from cyber_inference_tui.hub.download_plan import DownloadPlan, PlannedFile, safe_path
from cyber_inference_tui.library.projectors import (
    Candidate,
    Projector,
    is_projector_name,
    matches,
)
from cyber_inference_tui.library.scan import ModelFile
from cyber_inference_tui.library.shards import shard_of

_SUFFIX: Final = ".gguf"
# Beside models, in the repositories of those who convert them.
_NO_MODEL: Final = re.compile(r"imatrix|^(?:mtp|eagle3)[-_.]|^ggml-vocab-", re.IGNORECASE)
_DEFAULTS: Final = ("Q4_K_M", "Q8_0")
"""What is taken where nobody says which: small and good, then large and better."""
_MAX_SHOWN: Final = 8


class RepoModel(msgspec.Struct, frozen=True, kw_only=True):
    """One model of a repository."""

    name: str
    """Its file's name without shard numbers and ending."""
    quantization: str | None
    files: tuple[PlannedFile, ...]
    """All shards, in order."""
    projector: PlannedFile | None = None

    @property
    def filename(self) -> str:
        """The path of its first file."""
        return self.files[0].path

    @property
    def weights_bytes(self) -> int | None:
        """Of its files; ``None`` where the hub does not tell of all."""
        return _sum(self.files)

    @property
    def size_bytes(self) -> int | None:
        """With its projector."""
        return _sum((*self.files, self.projector) if self.projector else self.files)


class Repository(msgspec.Struct, frozen=True, kw_only=True):
    """What a repository has at one commit."""

    repo: str
    """As the hub spells it."""
    revision: str
    """The commit."""
    models: tuple[RepoModel, ...]


def models_of(files: Iterable[PlannedFile]) -> tuple[RepoModel, ...]:
    """The models among ``files``, by their paths. What cannot be kept here is left out."""
    whole: list[RepoModel] = []
    shards: dict[tuple[PurePosixPath, str, int], dict[int, PlannedFile]] = {}
    projectors: dict[PurePosixPath, list[PlannedFile]] = {}
    for file in files:
        path = _gguf_path(file.path)
        if path is None:
            continue
        stem = path.name[: -len(_SUFFIX)]
        if is_projector_name(stem):
            projectors.setdefault(path.parent, []).append(file)
        elif not _NO_MODEL.search(stem):
            shard = shard_of(stem)
            if shard is None:
                whole.append(_model(stem, path.parent, (file,)))
            else:
                key = (path.parent, shard.name, shard.total)
                shards.setdefault(key, {})[shard.number] = file
    for (folder, name, count), parts in shards.items():
        if len(parts) == count:
            whole.append(_model(name, folder, tuple(parts[at] for at in sorted(parts))))
    whole.sort(key=lambda model: model.filename)
    return _with_projectors(whole, projectors)


def choose(repository: Repository, wanted: str | None) -> RepoModel:
    """The model that is meant by a path, a file's name or a quantization.

    ``None``: Q4_K_M, then Q8_0, then the first. Raises ``HubError``s where there is none, or
    where several go by that name.
    """
    models = repository.models
    if not models:
        raise HubNotFoundError(
            f"{repository.repo} has no complete model in GGUF format.",
            hint="Look for a conversion of it: search-models finds only those.",
        )
    if wanted is None:
        for quantization in _DEFAULTS:
            for model in models:
                if model.quantization == quantization:
                    return model
        return models[0]
    folded = wanted.casefold()
    for found in (
        [model for model in models if any(file.path == wanted for file in model.files)],
        [model for model in models if folded in _names(model)],
        [model for model in models if (model.quantization or "").casefold() == folded],
    ):
        if len(found) == 1:
            return found[0]
        if found:
            raise HubError(
                f"Several models of {repository.repo} are called so:"
                f" {_listed(model.filename for model in found)}.",
                hint="Name one by its whole path.",
            )
    raise HubNotFoundError(
        f"{repository.repo} has no model {wanted!r}.",
        hint=f"It has {_listed(model.quantization or model.filename for model in models)}.",
    )


def family(model: RepoModel) -> str:
    """What models have in common that differ in their quantization only."""
    name = model.name.lower()
    return name.replace((model.quantization or "").lower(), "", 1) if model.quantization else name


def plan_of(repository: Repository, model: RepoModel) -> DownloadPlan:
    """What to bring for ``model``: its files and its projector, of this very commit."""
    return DownloadPlan(
        repo=repository.repo,
        revision=repository.revision,
        files=(*model.files, model.projector) if model.projector else model.files,
        quantization=model.quantization,
        filename=model.filename,
    )


def _gguf_path(text: str) -> PurePosixPath | None:
    if not text.lower().endswith(_SUFFIX):
        return None
    try:
        return safe_path(text)
    except HubError:
        return None


def _model(name: str, folder: PurePosixPath, files: tuple[PlannedFile, ...]) -> RepoModel:
    quantization = named_quantization(name) or named_quantization(folder.name)
    return RepoModel(name=name, quantization=quantization, files=files)


def _with_projectors(
    models: Sequence[RepoModel], projectors: dict[PurePosixPath, list[PlannedFile]]
) -> tuple[RepoModel, ...]:
    """Each with its projector: one of its own folder, else one that lies beside no model."""
    folders: dict[PurePosixPath, list[RepoModel]] = {}
    for model in models:
        folders.setdefault(PurePosixPath(model.filename).parent, []).append(model)
    root = PurePosixPath()
    shared = [
        file
        for folder, found in projectors.items()
        if folder not in folders or folder == root
        for file in found
    ]
    without = [
        model for folder, found in folders.items() if folder not in projectors for model in found
    ]
    chosen: dict[str, PlannedFile] = {}
    for folder, found in folders.items():
        if folder in projectors:
            chosen |= _matched(found, projectors[folder])
    chosen |= _matched(without, shared)
    return tuple(
        msgspec.structs.replace(model, projector=chosen.get(model.filename)) for model in models
    )


def _matched(
    models: Sequence[RepoModel], projectors: Sequence[PlannedFile]
) -> dict[str, PlannedFile]:
    """By a model's first file. As the library decides it where both are on the disk."""
    by_path = {Path(file.path): file for file in projectors}
    found = matches(
        [Candidate(model.name, ModelMetadata()) for model in models],
        [
            Projector(
                ModelFile(path, Path(), file.size_bytes or 0, 0, (0, 0), False),
                ModelMetadata(quantization=_plain(named_quantization(path.stem))),
            )
            for path, file in by_path.items()
        ],
    )
    return {
        model.filename: by_path[projector.file.path]
        for model, projector in zip(models, found, strict=True)
        if projector is not None
    }


def _plain(quantization: str | None) -> str | None:
    """As headers have it."""
    return quantization.replace("FP", "F") if quantization else None


def _names(model: RepoModel) -> set[str]:
    """What its files may be called beside their paths, without case."""
    names = {model.name}
    for file in model.files:
        path = PurePosixPath(file.path)
        names |= {file.path, path.name, path.stem}
    return {name.casefold() for name in names}


def _listed(names: Iterable[str]) -> str:
    every = list(dict.fromkeys(names))
    more = len(every) - _MAX_SHOWN
    return ", ".join(every[:_MAX_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _sum(files: Sequence[PlannedFile]) -> int | None:
    sizes = [file.size_bytes for file in files if file.size_bytes is not None]
    return sum(sizes) if len(sizes) == len(files) else None
