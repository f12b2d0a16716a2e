"""All models of this machine at one moment, by the names that requests use."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import msgspec

from cyber_inference_tui.errors import ModelNotFoundError
from cyber_inference_tui.gguf.metadata import ModelMetadata, ProjectorFacts
from cyber_inference_tui.library.companions import Adapter, Draft
from cyber_inference_tui.library.ids import AUTO
from cyber_inference_tui.library.scan import path_text
from cyber_inference_tui.library.unusable_files import Problem, Unusable
from cyber_inference_tui.settings.schema import ModelSettings, RequestRules
from cyber_inference_tui.spelling import close_names
from cyber_inference_tui.text import clean_line, escaped

_SHOWN_NAME: Final = 200
_COMPARED: Final = 500
_LONGEST_NAME: Final = 4096
_LATEST: Final = ":latest"


class Origin(StrEnum):
    """The program or setting that a model comes from."""

    MODELS_DIR = "models_dir"
    MODEL_DIRS = "model_dirs"
    SETTINGS = "settings"
    """A path or a command in its table."""
    DEMO = "demo"
    HUB_CACHE = "hub cache"
    """The cache of the Hugging Face tools."""
    LM_STUDIO = "lm studio"
    OLLAMA = "ollama"


class LocalModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model on this machine, or in the settings."""

    id: str
    aliases: tuple[str, ...] = ()
    path: Path | None = None
    """The file to load, the first shard where there are several; ``None`` for a ``command``."""
    shards: tuple[Path, ...] = ()
    mmproj: Path | None = None
    size_bytes: int | None = None
    """The size of all shards and the projector."""
    projector_bytes: int = 0
    """The size of the projector."""
    projector_facts: ProjectorFacts | None = None
    draft: Draft | None = None
    """The model or head that drafts its answers, or could: the one in its table, else the one that
    was found. The table decides whether it is used."""
    adapters: tuple[Adapter, ...] = ()
    """The LoRA adapters that are loaded with it, in the order of their numbers in requests."""
    modified: int | None = None
    """The last modification of these files, in nanoseconds since 1970."""
    metadata: ModelMetadata | None = None
    """The combined header of all shards, without the chat template (many are long and alike)."""
    problem: str | None = None
    """The reason why it cannot be used."""
    settings: ModelSettings = ModelSettings()
    preset_of: str = ""
    """The id of the model whose preset this is, with a server of its own."""
    preset_keys: Mapping[str, Any] = {}
    """The keys that this preset sets."""
    presets: Mapping[str, str] = {}
    """The aliases that are presets of this model which change only requests, with their names in
    the settings."""
    removable: bool = False
    """All its files are under ``models_dir``, where models may be deleted."""
    origin: Origin = Origin.MODELS_DIR
    lent_bytes: int = 0
    """It is no model, but memory that this box lends to one of another box."""

    def request_rules(self, name: str | None) -> RequestRules:
        """Return the changes to a request that uses this name; ``None`` = it uses no name."""
        has_rules = self.presets or isinstance(self.settings.aliases, dict)
        if name is None or name == self.id or not has_rules:
            return self.settings.request_rules()
        folded = _folded(name)
        alike = (alias for alias in self.aliases if _folded(alias) == folded != _folded(self.id))
        alias = name if name in self.aliases else next(alike, None)
        if alias is not None and alias in self.presets:
            return self.settings.preset_rules(self.presets[alias])
        return self.settings.request_rules(alias)


class Catalog:
    """An immutable list of models. A lookup by name costs one dictionary access."""

    def __init__(
        self,
        models: Mapping[str, LocalModel],
        problems: Iterable[Problem] = (),
        *,
        parts: Iterable[Problem] = (),
        auto_aliases: Iterable[str] = (),
    ) -> None:
        """Drop and report aliases that are an id, or that several models claim.

        ``parts`` are valid files that are no models on their own, such as projectors. They are
        reported only to a request with their name. ``auto_aliases`` are further names of ``auto``.
        """
        claims: dict[str, list[str]] = {}
        for model in models.values():
            for alias in model.aliases:
                if alias != model.id:
                    claims.setdefault(alias, []).append(model.id)
        for alias in auto_aliases:
            claims.setdefault(alias, []).append(AUTO)
        found = list(problems)
        names = dict(models)
        auto = [AUTO]
        for alias, owners in sorted(claims.items()):
            if alias in models or alias == AUTO:
                reason = "it is the id of another model"
            elif len(owners) > 1:
                reason = f"several models claim it: {', '.join(sorted(owners))}"
            elif owners == [AUTO]:
                auto.append(alias)
                continue
            else:
                names[alias] = models[owners[0]]
                continue
            found.append(Problem(where=f'alias "{alias}"', reason=reason, name=alias))
        kept = {model_id: _with_aliases(model, names) for model_id, model in sorted(models.items())}
        self.models: Mapping[str, LocalModel] = MappingProxyType(kept)
        found.sort(key=lambda problem: problem.where)
        self.problems = tuple(dict.fromkeys(problem.cleaned() for problem in found))
        broken = (
            Problem(where=path_text(path), reason=model.problem)
            for model in models.values()
            for path in model.shards
            if model.problem is not None
        )
        self._unusable = Unusable((*self.problems, *broken, *parts))
        self._names = {name: kept[model.id] for name, model in names.items()}
        self._folded: dict[str, set[str]] = {}
        for name, model in self._names.items():
            self._folded.setdefault(_folded(name), set()).add(model.id)
        self.auto_aliases = tuple(auto[1:])
        """Further names of ``auto``."""
        self._auto = frozenset(auto)
        self._auto_folded = frozenset(map(_folded, auto))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Catalog):
            return NotImplemented
        return (
            self.models == other.models
            and self.problems == other.problems
            and self.auto_aliases == other.auto_aliases
        )

    __hash__ = None  # type: ignore[assignment]  # it compares by contents and holds mappings

    def is_auto(self, name: str) -> bool:
        """Return whether ``name`` means the id ``auto``, exactly or else without regard to case."""
        if name in self._names or len(name) > _LONGEST_NAME:
            return False
        folded = _folded(name)
        return name in self._auto or (folded in self._auto_folded and folded not in self._folded)

    def resolve(self, name: str) -> LocalModel:
        """Return the model with this id or alias, by exact match, then without regard to case and
        with or without the tag ``latest``.

        Raises ``ModelNotFoundError`` with the closest names as a hint if there is none, or if
        several names differ only in case.
        """
        model = self._names.get(name) or self._names.get(name.removesuffix(_LATEST))
        if model is not None:
            return model
        owners = self._folded.get(_folded(name), set()) if len(name) <= _LONGEST_NAME else set()
        if len(owners) == 1:
            return self.models[next(iter(owners))]
        shown = escaped(name, limit=_SHOWN_NAME)
        name = clean_line(name, limit=_SHOWN_NAME)
        if owners:
            raise ModelNotFoundError(
                f'"{shown}" may be any of {", ".join(sorted(owners))}.',
                hint="Write its upper and lower case exactly.",
                param="model",
                name=name,
            )
        raise ModelNotFoundError(
            f'There is no model "{shown}".', hint=self._hint(name), param="model", name=name
        )

    def _hint(self, name: str) -> str:
        known = self._unusable.find(name[:_SHOWN_NAME])
        if known is not None:
            return f"{known.file_name} cannot be used as a model: {known.reason}."
        if self.is_auto(name):
            return "It means a model only for requests: name the model itself here."
        owners = {name: {AUTO} for name in self._auto_folded} | self._folded
        near = close_names(_folded(name[:_SHOWN_NAME]), sorted(owners)[:_COMPARED])
        ids = sorted({one for folded in near for one in owners[folded]})
        if ids:
            return f"Near it: {', '.join(ids)}."
        unread = next((problem for problem in self.problems if problem.passing), None)
        if unread is not None:
            return f"Models may be missing: {unread.file_name}: {unread.reason}."
        if not self.models:
            return "No models are here yet: download one, or start with --demo."
        return "All models: GET /v1/models, or `cyber-inference-tui list-models`."


def spelling(name: str, names: Iterable[str]) -> str | None:
    """Return the one of ``names`` that ``name`` means, by the rules of ``Catalog.resolve``."""
    names = tuple(names)
    if name in names:
        return name
    folded = _folded(name)
    return next((one for one in names if _folded(one) == folded), None)


def _with_aliases(model: LocalModel, names: Mapping[str, LocalModel]) -> LocalModel:
    kept = tuple(
        alias
        for alias in dict.fromkeys(model.aliases)
        if names.get(alias) is model and alias != model.id
    )
    return model if kept == model.aliases else msgspec.structs.replace(model, aliases=kept)


def _folded(name: str) -> str:
    """Return a name to compare without case, and without the tag that Ollama's clients add."""
    return unicodedata.normalize("NFC", name).casefold().removesuffix(_LATEST)
