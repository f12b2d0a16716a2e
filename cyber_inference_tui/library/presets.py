"""Makes the presets of models known under their names: ``ID:NAME``, and ``ALIAS:NAME``. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.library.unusable_files import Problem


def with_presets(
    models: Sequence[LocalModel], *, taken: Iterable[str] = ()
) -> tuple[list[LocalModel], list[Problem]]:
    """Return these models and their presets, and the presets whose id is the name of a model.

    A preset that changes only requests becomes a further alias of its model. Any other becomes a
    model with a server of its own. Ids and aliases of models, and the ``taken`` names, come first.
    """
    names = {*taken, *(name for model in models for name in (model.id, *model.aliases))}
    found: list[LocalModel] = []
    problems: list[Problem] = []
    for model in models:
        aliases: dict[str, str] = {}
        servers: list[LocalModel] = []
        for preset in model.settings.presets:
            preset_id = f"{model.id}:{preset}"
            free = [name for alias in model.aliases if (name := f"{alias}:{preset}") not in names]
            if preset_id in names:
                where = f'[models."{model.id}".presets.{preset}]'
                reason = f"{preset_id} is already the name of a model"
                problems.append(Problem(where=where, reason=reason, name=preset_id))
            elif model.settings.changes_server(preset):
                servers.append(_server(model, preset, preset_id, free))
            else:
                aliases |= dict.fromkeys((preset_id, *free), preset)
        found.append(
            msgspec.structs.replace(model, aliases=(*model.aliases, *aliases), presets=aliases)
        )
        found += servers
    return found, problems


def _server(model: LocalModel, preset: str, preset_id: str, aliases: Sequence[str]) -> LocalModel:
    return msgspec.structs.replace(
        model,
        id=preset_id,
        aliases=tuple(aliases),
        settings=model.settings.with_preset(preset),
        preset_of=model.id,
        preset_keys=model.settings.presets[preset],
        removable=False,
    )
