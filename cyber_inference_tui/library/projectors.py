"""Finds the projector of each model, beside or above it, if the match is certain.

llama-server refuses a model with a wrong projector. So if neither names nor headers decide, the
projector is not used.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from cyber_inference_tui.gguf.metadata import ModelMetadata
from cyber_inference_tui.gguf.quantization import named_quantization, split_quantization
from cyber_inference_tui.library.scan import ModelFile

_WORDS: Final = re.compile(r"[^a-z0-9]+")
_SIZE: Final = re.compile(r"(?:\d+x)?\d+(?:b|m)")
# llama-server computes projectors in half precision: larger files have no advantage.
_PREFERRED: Final = ("F16", "BF16", "Q8_0", "F32")
# Names of draft models, small models that speed up a large one, in repositories.
_DRAFT: Final = re.compile(r"^(?:mtp|eagle\d*|dflash)\b|\b(?:draft|drafter)\b")
# Architectures of llama.cpp that always have a projector.
_SEES: Final = re.compile(r"vl|ocr|^cogvlm")


class Projector(NamedTuple):
    """A projector file and its header."""

    file: ModelFile
    metadata: ModelMetadata


class Candidate(NamedTuple):
    """A model that a projector may belong to: its name without shard numbers, and its header."""

    name: str
    metadata: ModelMetadata


def is_projector_name(stem: str) -> bool:
    """Return whether a file without a readable header is named as a projector."""
    return "mmproj" in stem.lower()


def matches(
    models: Sequence[Candidate],
    projectors: Sequence[Projector],
    *,
    beside: Collection[int] = (),
) -> list[Projector | None]:
    """Return the projector of each model, in order, among those in a place that the models share.

    A projector named after a model belongs to that model. A projector with a general name
    (``mmproj-F16``) belongs to all quantizations of one model (a family) if it fits only one
    family, or if its header names the model. Headers with different vector lengths exclude a pair.
    ``beside`` are the indexes of models in the projectors' own folder: if nothing else decides,
    their family gets the projector.
    """
    forms = [_Form.of(model) for model in models]
    helpers = _helpers(forms)
    families = _families(forms, helpers)
    alone = [_only_family(models, families, projector, helpers, beside) for projector in projectors]
    chosen: list[Projector | None] = []
    for at, model in enumerate(models):
        fitting = [
            (closeness, projector)
            for projector, family in zip(projectors, alone, strict=True)
            if (at in family or at not in helpers)
            and _fits(model.metadata, projector.metadata)
            and (closeness := _closeness(model, projector, alone=at in family)) > 0
        ]
        chosen.append(max(fitting, key=_rank)[1] if fitting else None)
    return chosen


def placed(
    models: Sequence[tuple[Path, Candidate]],
    projectors: Sequence[Projector],
    *,
    root: Path,
    is_repository: bool,
) -> list[Projector | None]:
    """Return the projector of each model (its folder, name and header) below ``root``, in order.

    It is in the model's own folder, else in the nearest folder above with a suitable projector. A
    projector in ``root`` itself applies to lower folders only if ``root`` is a repository, the
    projector has the model's name, or all folders in between are named after quantizations.
    """
    by_folder: dict[Path, list[Projector]] = {}
    for projector in projectors:
        folder = projector.file.path.parent
        if is_projector_name(folder.name) and folder != root:
            folder = folder.parent  # a folder of projectors belongs to its repository
        by_folder.setdefault(folder, []).append(projector)
    chosen: list[Projector | None] = [None] * len(models)
    # The deepest first: the nearest projector wins.
    for folder in sorted(by_folder, key=lambda path: len(path.parts), reverse=True):
        below = [at for at, (place, _) in enumerate(models) if place.is_relative_to(folder)]
        groups = [(below, by_folder[folder])]
        if folder == root and not is_repository:
            near = [at for at in below if _is_of_the_root(models[at][0], root)]
            far = [at for at in below if at not in near]
            named = [one for one in by_folder[folder] if _projector_base(one.file.stem)]
            groups = [(near, by_folder[folder]), (far, named)]
        for members, shared in groups:
            beside = [number for number, at in enumerate(members) if models[at][0] == folder]
            found = matches([models[at][1] for at in members], shared, beside=beside)
            for at, match in zip(members, found, strict=True):
                chosen[at] = chosen[at] or match
    return chosen


def _is_of_the_root(folder: Path, root: Path) -> bool:
    return all(named_quantization(part) for part in folder.relative_to(root).parts)


class _Form(NamedTuple):
    """The properties that show which model a file is a version of."""

    words: list[str]
    network: tuple[str | int | None, ...]
    layers: int
    parameters: int

    @classmethod
    def of(cls, model: Candidate) -> _Form:
        facts = model.metadata
        network = (facts.architecture, facts.embedding_length, facts.layers)
        words = _base(model.name).split()
        return cls(words, network, facts.layers or 0, facts.parameters or 0)

    def differs(self, other: _Form) -> bool:
        """Return whether the headers describe different networks."""
        pairs = zip(self.network, other.network, strict=True)
        return any(a != b for a, b in pairs if a is not None and b is not None)

    def is_small_beside(self, other: _Form) -> bool:
        """Return whether it has at most half of the other's layers or parameters."""
        return 0 < 2 * self.layers <= other.layers or 0 < 2 * self.parameters <= other.parameters

    def is_one_with(self, other: _Form) -> bool:
        """Return whether two files are versions of one model."""
        if self.words == other.words:
            return True
        shorter = min(len(self.words), len(other.words))
        shared = 0
        while shared < shorter and self.words[shared] == other.words[shared]:
            shared += 1
        if not shared or 2 * shared < shorter or self.differs(other):
            return False
        if shared == shorter:
            return True  # Name and Name-imat
        # Name-Quality and Name-Compact: one network, and a common name up to the size.
        rest = (*self.words[shared:], *other.words[shared:])
        return None not in {*self.network, *other.network} and not any(map(_SIZE.fullmatch, rest))


def _helpers(forms: Sequence[_Form]) -> set[int]:
    """Return the indexes of small models that only speed up another model.

    Their names say so, or they add words to another model's name and are small compared with it.
    """
    words = [set(form.words) for form in forms]
    return {
        at
        for at, form in enumerate(forms)
        if _DRAFT.search(" ".join(form.words))
        or any(few < words[at] and form.is_small_beside(forms[of]) for of, few in enumerate(words))
    }


def _families(forms: Sequence[_Form], helpers: Collection[int]) -> list[list[int]]:
    """Group the indexes of models by model; helpers are kept apart from the models they help."""
    families: list[list[int]] = []
    # The shortest name first: the other names begin with it.
    for at in sorted(range(len(forms)), key=lambda at: len(forms[at].words)):
        family = next(
            (
                family
                for family in families
                if any(
                    forms[at].is_one_with(forms[of]) and (at in helpers) == (of in helpers)
                    for of in family
                )
            ),
            None,
        )
        if family is None:
            families.append([at])
        else:
            family.append(at)
    return families


def _only_family(
    models: Sequence[Candidate],
    families: Sequence[list[int]],
    projector: Projector,
    helpers: set[int],
    beside: Collection[int],
) -> Collection[int]:
    """Return the only family that a projector with a general name can belong to, else nothing.

    Among several families, prefer one that the projector's kind names, then one made for images,
    one without helpers, one named like the projector's folder, one in that folder.
    """
    folder = _base(_folder_name(projector.file.path.parent).removesuffix("-GGUF"))

    def named_like_folder(model: Candidate) -> bool:
        return bool(folder) and f"{_base(model.name)} ".startswith(f"{folder} ")

    fitting = [
        family
        for family in families
        if any(_fits(models[at].metadata, projector.metadata) for at in family)
    ]
    for likely in (
        [family for family in fitting if any(_is_of_kind(models[at], projector) for at in family)],
        [family for family in fitting if any(_sees(models[at]) for at in family)],
        [family for family in fitting if helpers.isdisjoint(family)],
        [family for family in fitting if any(named_like_folder(models[at]) for at in family)],
        [family for family in fitting if not set(beside).isdisjoint(family)],
    ):
        if len(fitting) > 1 and likely:
            fitting = [family for family in fitting if family in likely]
    return fitting[0] if len(fitting) == 1 else ()


def _folder_name(folder: Path) -> str:
    """Return a folder's name; for a snapshot in the hub's cache, its repository's name."""
    if folder.parent.name == "snapshots":
        return folder.parent.parent.name.rpartition("--")[2]
    return folder.name


def _is_of_kind(model: Candidate, projector: Projector) -> bool:
    """Return whether the projector's kind (``qwen2vl_merger``) names the architecture."""
    kind = projector.metadata.projector.kind if projector.metadata.projector else None
    architecture = model.metadata.architecture
    return bool(kind and architecture and kind.startswith(architecture))


def _sees(model: Candidate) -> bool:
    return bool(_SEES.search(model.metadata.architecture or ""))


def _rank(pair: tuple[int, Projector]) -> tuple[int, int, str]:
    closeness, projector = pair
    quantization = projector.metadata.quantization
    rank = _PREFERRED.index(quantization) if quantization in _PREFERRED else len(_PREFERRED)
    return closeness, -rank, projector.file.path.name


def _closeness(model: Candidate, projector: Projector, *, alone: bool) -> int:
    """Rate how certainly they belong together: 0 = unknown, else the common name's length."""
    named = _projector_base(projector.file.stem)
    base = _base(model.name)
    if named:
        return len(named) + 1 if base == named or base.startswith(f"{named} ") else 0
    if alone:
        return 1
    name = projector.metadata.name
    return 1 if name and name == model.metadata.name else 0


def _fits(model: ModelMetadata, projector: ModelMetadata) -> bool:
    width = projector.projector.width if projector.projector else None
    return not width or not model.embedding_length or width == model.embedding_length


def _base(stem: str) -> str:
    """Return a name for comparison: without quantization, in lower case, split into words."""
    return " ".join(_WORDS.split(split_quantization(stem)[0].lower())).strip()


def _projector_base(stem: str) -> str:
    words = [word for word in _base(stem).split() if word not in {"mmproj", "model", "projector"}]
    return " ".join(words)
