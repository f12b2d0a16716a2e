"""Which projector goes with which model: its neighbour in the same directory, where that is sure.

llama-server refuses a model with a projector that is not its own, so where neither the names nor
the headers tell, a projector goes with none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from cyber_inference_tui.gguf.metadata import ModelMetadata
from cyber_inference_tui.gguf.quantization import split_quantization
from cyber_inference_tui.library.scan import ModelFile

_WORDS: Final = re.compile(r"[^a-z0-9]+")
# Half precision is what llama-server computes projectors in; larger files gain nothing.
_PREFERRED: Final = ("F16", "BF16", "Q8_0", "F32")


class Projector(NamedTuple):
    """A projector file and its header."""

    file: ModelFile
    metadata: ModelMetadata


class Candidate(NamedTuple):
    """A model of the projectors' directory: its name, without shard numbers, and its header."""

    name: str
    metadata: ModelMetadata


def is_projector_name(stem: str) -> bool:
    """Whether a file without a readable header was meant to be a projector."""
    return "mmproj" in stem.lower()


def matches(models: Sequence[Candidate], projectors: Sequence[Projector]) -> dict[str, Projector]:
    """The projector of each model of one directory, by the model's name.

    A projector named after a model is that model's. One with a general name (``mmproj-F16``) is
    everyone's when all models of the directory are one model in several quantizations, or when
    its header names the model. Headers whose vectors do not fit rule a pair out.
    """
    families = {_base(model.name) for model in models}
    chosen: dict[str, Projector] = {}
    for model in models:
        fitting = [
            (closeness, projector)
            for projector in projectors
            if _fits(model.metadata, projector.metadata)
            and (closeness := _closeness(model, projector, alone=len(families) == 1)) > 0
        ]
        if fitting:
            chosen[model.name] = max(fitting, key=_rank)[1]
    return chosen


def _rank(pair: tuple[int, Projector]) -> tuple[int, int, str]:
    closeness, projector = pair
    quantization = projector.metadata.quantization
    rank = _PREFERRED.index(quantization) if quantization in _PREFERRED else len(_PREFERRED)
    return closeness, -rank, projector.file.path.name


def _closeness(model: Candidate, projector: Projector, *, alone: bool) -> int:
    """How surely the two belong together: 0 = not known to; else the length of the common name."""
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
    """A name to compare: without quantization, in lower case, its words apart."""
    return " ".join(_WORDS.split(split_quantization(stem)[0].lower())).strip()


def _projector_base(stem: str) -> str:
    words = [word for word in _base(stem).split() if word not in {"mmproj", "model", "projector"}]
    return " ".join(words)
