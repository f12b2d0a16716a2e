"""Derives the ids of models: their file's name, and as much of its path as makes the id unique."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cyber_inference_tui.text import clean_line

AUTO = "auto"
"""The id of no model of its own: ``service.auto_model`` chooses the model that it means."""

RESERVED = frozenset({"install", "service"})
"""Ids of logs that belong to no model, so no model may have them."""


class NamedModel(NamedTuple):
    """A model's name, without shard numbers and ending, and its place."""

    name: str
    directory: Path
    root: Path
    owner: str = ""
    """A prefix to use instead of its directory."""


def assign_ids(
    models: Sequence[NamedModel], *, taken: frozenset[str] = frozenset()
) -> list[str | None]:
    """Return an id for each model, in order; ``None`` = no unique id is left.

    The id is ``Name`` if no other model has that name, else ``sub/Name`` with the path below the
    model directory, else ``directory/sub/Name``. Ids contain no control characters. ``taken`` are
    ids in use; ``RESERVED`` ones and ``auto`` are never assigned.
    """
    plain = [_clean(model.name) for model in models]
    often = Counter(plain)
    ids: list[str | None] = []
    used = {*RESERVED, AUTO, *taken}
    for model, name in zip(models, plain, strict=True):
        below = "/".join(model.directory.relative_to(model.root).parts)
        relative = _clean(f"{below}/{model.name}") if below else name
        if model.owner:
            choices = [_clean(f"{model.owner}/{model.name}"), _clean(f"{model.owner}/{relative}")]
        else:
            choices = [relative, _clean(f"{model.root.name}/{relative}")]
        if often[name] == 1:
            choices.insert(0, name)
        chosen = next((choice for choice in choices if choice and choice not in used), None)
        ids.append(chosen)
        if chosen is not None:
            used.add(chosen)
    return ids


def _clean(text: str) -> str:
    return clean_line(text).strip()
