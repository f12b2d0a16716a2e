"""Gives models their drafts and adapters, and reports the files that belong to no model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from cyber_inference_tui.errors import GGUFError
from cyber_inference_tui.gguf.adapter import ADAPTER
from cyber_inference_tui.gguf.metadata import ModelMetadata
from cyber_inference_tui.library.adapters import AdapterFile, beside, path_and_scale, path_problem
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.library.companions import Adapter
from cyber_inference_tui.library.drafts import (
    AUTO,
    OFF,
    Head,
    by_tokens,
    find_draft,
    head_kind,
    named_draft,
)
from cyber_inference_tui.library.scan import ModelFile, NamedPath, path_text
from cyber_inference_tui.library.unusable_files import Problem

_USED_ADAPTER = "it is an adapter (LoRA), which changes a model beside it: ask for that model"
_UNUSED_ADAPTER = (
    "it is an adapter (LoRA) without a certain model here: to use it, name it as lora in the table"
    " of its model"
)
_USED_HEAD = (
    'it is a draft head, which speeds up a model beside it: set draft = "auto" in that one\'s table'
)
_UNUSED_HEAD = (
    "it is a draft head without a certain model here: to use it, name it as draft in the table of"
    " its model"
)


class CompanionFiles:
    """Collects the heads and adapters of a scan, and then gives them to the models.

    ``named`` are the files that tables name. ``read`` returns a file's header or raises
    ``GGUFError``.
    """

    def __init__(
        self,
        *,
        models_dir: Path,
        named: Mapping[Path, NamedPath],
        read: Callable[[ModelFile], ModelMetadata],
    ) -> None:
        self._models_dir = models_dir
        self._named = named
        self._read = read
        self._heads: list[Head] = []
        self._adapters: list[AdapterFile] = []

    def takes(self, file: ModelFile, facts: ModelMetadata) -> bool:
        """Return whether a file is a head or an adapter, and keep it if it is."""
        if facts.kind == ADAPTER:
            self._adapters.append(AdapterFile(file, facts))
        elif head_kind(facts) is not None:
            self._heads.append(Head(file, facts))
        else:
            return False
        return True

    def given_to(self, models: Sequence[LocalModel]) -> list[LocalModel]:
        """Return the models with their drafts and adapters, or with why they cannot have them."""
        alike = by_tokens(models)
        return [self._with_draft(self._with_adapters(model), models, alike) for model in models]

    def reports(self, models: Sequence[LocalModel]) -> tuple[list[Problem], list[Problem]]:
        """Return the files that no model uses, and those that one does, each with a sentence."""
        used = {path for model in models if model.draft for path in model.draft.files}
        used |= {adapter.path for model in models for adapter in model.adapters}
        unused: list[Problem] = []
        parts: list[Problem] = []
        for files, in_use, alone in (
            ([head.file for head in self._heads], _USED_HEAD, _UNUSED_HEAD),
            ([one.file for one in self._adapters], _USED_ADAPTER, _UNUSED_ADAPTER),
        ):
            for file in files:
                is_used = file.path in used
                problem = Problem(where=path_text(file.path), reason=in_use if is_used else alone)
                (parts if is_used else unused).append(problem)
        return unused, parts

    def _with_draft(
        self,
        model: LocalModel,
        models: Sequence[LocalModel],
        alike: Mapping[str, Sequence[LocalModel]],
    ) -> LocalModel:
        if model.settings.draft in {AUTO, OFF}:
            found = find_draft(model, self._heads, alike)
        else:
            named = named_draft(model, self._heads, models)
            if isinstance(named, str):
                return _with_problem(model, named)
            found = named
        if found is None:
            return model
        newest = model.modified
        if model.settings.draft != OFF:
            newest = max(newest or 0, found.modified)
        return msgspec.structs.replace(model, draft=found, modified=newest)

    def _with_adapters(self, model: LocalModel) -> LocalModel:
        if model.path is None or model.metadata is None or model.settings.command:
            return model
        adapters: list[Adapter] = []
        newest = model.modified or 0
        if model.settings.lora is None:
            chosen = [
                (one.file, 0.0) for one in beside(model.path.parent, model.metadata, self._adapters)
            ]
        else:
            chosen = []
            for entry in model.settings.lora:
                path, scale = path_and_scale(self._models_dir / entry)
                file, problem = self._named_adapter(path, model.metadata)
                if file is None or problem is not None:
                    return _with_problem(model, f"its adapter {path_text(path)} {problem}")
                chosen.append((file, scale))
        for file, scale in chosen:
            if model.settings.lora is None and path_problem(file.path) is not None:
                continue
            adapters.append(
                Adapter(name=file.stem, path=file.path, size_bytes=file.size, scale=scale)
            )
            newest = max(newest, file.modified)
        return msgspec.structs.replace(model, adapters=tuple(adapters), modified=newest or None)

    def _named_adapter(
        self, path: Path, model: ModelMetadata
    ) -> tuple[ModelFile | None, str | None]:
        """Return an adapter that a table names, or the end of a sentence that says why not."""
        given = self._named[path]
        if given.file is None:
            return None, f"cannot be read: {given.unread}" if given.unread else "is missing"
        if (problem := path_problem(path)) is not None:
            return None, problem
        try:
            facts = self._read(given.file)
        except GGUFError as error:
            return None, f"cannot be used: {error.message}"
        if facts.kind != ADAPTER:
            return None, "is no LoRA adapter"
        if facts.architecture != model.architecture:
            return None, f"was made for {facts.architecture}, and the model is {model.architecture}"
        return given.file, None


def _with_problem(model: LocalModel, problem: str) -> LocalModel:
    return msgspec.structs.replace(model, problem=model.problem or problem)
