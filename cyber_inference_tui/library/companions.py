"""The files that a model's server loads besides the model: a draft and LoRA adapters."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import msgspec

from cyber_inference_tui.gguf.metadata import ModelMetadata


class DraftKind(StrEnum):
    """The ways to draft an answer, by their names in llama-server's ``--spec-type``."""

    MTP = "draft-mtp"
    """Prediction layers, made with the model."""
    EAGLE3 = "draft-eagle3"
    """A head that reads the model's hidden states."""
    DFLASH = "draft-dflash"
    """A head that drafts several tokens at once."""
    MODEL = "draft-simple"
    """A small model with the same tokens."""


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """A small model or a head that drafts the answers of a model."""

    kind: DraftKind
    name: str
    """The id of a small model, or the name of a head's file; of the model itself if it is in its
    own file."""
    files: tuple[Path, ...] = ()
    """All its files; none if it is in the model's own."""
    size_bytes: int = 0
    modified: int = 0
    """The last modification of its files, in nanoseconds since 1970."""
    metadata: ModelMetadata
    """Its header; the model's if it is in the model's file."""


class Adapter(msgspec.Struct, frozen=True, kw_only=True):
    """A LoRA adapter that is loaded with a model."""

    name: str
    """The file's name without ``.gguf``."""
    path: Path
    size_bytes: int
    scale: float
    """The strength with which the server starts; 0 = it changes nothing."""
