"""Find the models of a repository by its file names. Pure.

Shards form one model if all exist. Projectors and draft heads go to the same models as in the
library. Importance matrices are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Final

import msgspec

from cyber_inference_tui.errors import HubError, HubNotFoundError
from cyber_inference_tui.gguf.metadata import ModelMetadata
from cyber_inference_tui.gguf.quantization import named_quantization
from cyber_inference_tui.hub.download_plan import DownloadPlan, PlannedFile, safe_path
from cyber_inference_tui.library.drafts import GOOD, is_near, model_words
from cyber_inference_tui.library.projectors import (
    Candidate,
    Projector,
    is_projector_name,
    matches,
)
from cyber_inference_tui.library.scan import ModelFile
from cyber_inference_tui.library.shards import shard_of
from cyber_inference_tui.records import HubModelRecord

_SUFFIX: Final = ".gguf"
# Other files that converters publish beside models.
_NO_MODEL: Final = re.compile(r"imatrix|^dspark[-_.]|^ggml-vocab-", re.IGNORECASE)
# Draft heads, as llama.cpp looks for them beside a model (common/arg.cpp), the first kind first.
_HEAD: Final = re.compile(r"^(mtp|eagle3|dflash)[-_.]", re.IGNORECASE)
_HEAD_KINDS: Final = ("mtp", "eagle3", "dflash")
_DEFAULTS: Final = ("Q4_K_M", "Q8_0")
"""Chosen when no quantization is named: small and good, then larger and better."""
_MAX_SHOWN: Final = 8


class RepoModel(msgspec.Struct, frozen=True, kw_only=True):
    """One model of a repository."""

    name: str
    """Its file's name without shard numbers and ending."""
    quantization: str | None
    files: tuple[PlannedFile, ...]
    """All shards, in order."""
    projector: PlannedFile | None = None
    draft: PlannedFile | None = None
    """The head that drafts its answers."""

    @property
    def filename(self) -> str:
        """The path of its first file."""
        return self.files[0].path

    @property
    def weights_bytes(self) -> int | None:
        """Bytes of its files; ``None`` if the hub does not give all sizes."""
        return _sum(self.files)

    @property
    def size_bytes(self) -> int | None:
        """Bytes of all files."""
        return _sum(self.all_files)

    @property
    def all_files(self) -> tuple[PlannedFile, ...]:
        """Its files, its projector and its draft head."""
        more = (self.projector, self.draft)
        return (*self.files, *(file for file in more if file is not None))


class Repository(msgspec.Struct, frozen=True, kw_only=True):
    """The models of a repository at one commit."""

    repo: str
    """In the hub's spelling."""
    revision: str
    """The commit."""
    models: tuple[RepoModel, ...]
    facts: HubModelRecord | None = None
    """The same as in a search."""
    has_card: bool = False
    """It has a model card."""


def models_of(files: Iterable[PlannedFile]) -> tuple[RepoModel, ...]:
    """Return the models among ``files``; names that are not safe as paths are left out."""
    whole: list[RepoModel] = []
    shards: dict[tuple[PurePosixPath, str, int], dict[int, PlannedFile]] = {}
    projectors: dict[PurePosixPath, list[PlannedFile]] = {}
    heads: dict[PurePosixPath, PlannedFile] = {}
    for file in files:
        path = _gguf_path(file.path)
        if path is None:
            continue
        stem = path.name[: -len(_SUFFIX)]
        if is_projector_name(stem):
            projectors.setdefault(path.parent, []).append(file)
        elif _HEAD.search(stem):
            heads[path] = file
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
    return tuple(
        msgspec.structs.replace(model, draft=_head_of(model, heads))
        for model in _with_projectors(whole, projectors)
    )


def choose(repository: Repository, wanted: str | None) -> RepoModel:
    """Return the model with a path, a file name or a quantization.

    For ``None`` it is Q4_K_M, then Q8_0, then the first. Raises ``HubError`` if there is no such
    model, or more than one.
    """
    models = repository.models
    if not models:
        raise HubNotFoundError(
            f"{repository.repo} has no complete model in GGUF format.",
            hint="Look for a conversion to GGUF: search-models lists only such repositories.",
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
                f"Several models of {repository.repo} have this name:"
                f" {_listed(model.filename for model in found)}.",
                hint="Name one by its whole path.",
            )
    raise HubNotFoundError(
        f"{repository.repo} has no model {wanted!r}.",
        hint=f"It has {_listed(model.quantization or model.filename for model in models)}.",
    )


def family(model: RepoModel) -> str:
    """Return the part of the name that models share if only their quantization differs."""
    name = model.name.lower()
    return name.replace((model.quantization or "").lower(), "", 1) if model.quantization else name


def plan_of(repository: Repository, model: RepoModel) -> DownloadPlan:
    """Return the plan to download ``model``, its projector and its draft head from this commit."""
    return DownloadPlan(
        repo=repository.repo,
        revision=repository.revision,
        files=model.all_files,
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


def _head_of(model: RepoModel, heads: Mapping[PurePosixPath, PlannedFile]) -> PlannedFile | None:
    """Return the draft head beside a model and named after it, chosen as in the library."""
    place, words = PurePosixPath(model.filename), model_words(model.name)

    def order(head: PurePosixPath) -> tuple[int, bool, bool, int, str]:
        kind = _HEAD.search(head.name)
        number = _HEAD_KINDS.index(kind[1].lower()) if kind else len(_HEAD_KINDS)
        quantization = named_quantization(head.stem)
        same, good = quantization == model.quantization, quantization == GOOD
        return number, not same, not good, heads[head].size_bytes or 0, head.name

    fitting = [
        head for head in heads if is_near(head, place) and model_words(head.stem) in ([], words)
    ]
    return heads[min(fitting, key=order)] if fitting else None


def _with_projectors(
    models: Sequence[RepoModel], projectors: dict[PurePosixPath, list[PlannedFile]]
) -> tuple[RepoModel, ...]:
    """Give each model a projector of its folder, else one from a folder without models."""
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
    """Match projectors by the library's own rule; return them by the model's first file."""
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
    """Return the quantization in the spelling of GGUF headers."""
    return quantization.replace("FP", "F") if quantization else None


def _names(model: RepoModel) -> set[str]:
    """Return the names of a model's files in lower case."""
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
