"""The models of one moment, and how a name in a request finds its model."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from cyber_inference_tui.errors import ModelNotFoundError
from cyber_inference_tui.gguf.metadata import ModelMetadata
from cyber_inference_tui.settings.schema import ModelSettings
from cyber_inference_tui.text import clean_line


class LocalModel(msgspec.Struct, frozen=True, kw_only=True):
    """One model on this machine."""

    id: str
    aliases: tuple[str, ...] = ()
    path: Path | None = None
    """Its file, or its first shard; ``None`` for a ``command`` without a file."""
    shards: tuple[Path, ...] = ()
    mmproj: Path | None = None
    size_bytes: int | None = None
    """All shards and the projector."""
    metadata: ModelMetadata | None = None
    problem: str | None = None
    """Why it cannot be loaded."""
    settings: ModelSettings = ModelSettings()
    removable: bool = False
    """It lies under ``models_dir``, so the program may delete it."""


class Problem(msgspec.Struct, frozen=True):
    """A file or a settings table that is no model, and why."""

    what: str
    reason: str


class Catalog:
    """All models of one scan; never changed after it was made."""

    def __init__(self, models: Mapping[str, LocalModel], problems: tuple[Problem, ...]) -> None:
        self.models = models
        self.problems = problems
        self._exact: dict[str, str] = {model_id: model_id for model_id in models}
        for model in models.values():
            for alias in model.aliases:
                self._exact.setdefault(alias, model.id)
        self._folded: dict[str, set[str]] = {}
        for name, model_id in self._exact.items():
            self._folded.setdefault(name.casefold(), set()).add(model_id)

    def resolve(self, name: str) -> LocalModel:
        """The model of this id or alias: exactly, else without regard to case.

        Raises ``ModelNotFoundError``; a name that without case could mean several models is not
        found either. No other model ever answers in a model's place.
        """
        model_id = self._exact.get(name)
        if model_id is not None:
            return self.models[model_id]
        candidates = self._folded.get(name.casefold(), set())
        if len(candidates) == 1:
            return self.models[next(iter(candidates))]
        shown = clean_line(name, limit=200)
        if candidates:
            raise ModelNotFoundError(
                f"{shown} could mean {' or '.join(sorted(candidates))}.",
                hint="Write it exactly.",
                param="model",
            )
        near = difflib.get_close_matches(name[:200], list(self._exact)[:2000], n=3, cutoff=0.6)
        raise ModelNotFoundError(
            f"There is no model {shown}.",
            hint=f"Similar names: {', '.join(near)}." if near else "",
            param="model",
        )
