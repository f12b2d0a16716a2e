"""Chooses the model that the id ``auto`` means."""

from __future__ import annotations

from collections.abc import Callable

from cyber_inference_tui.errors import ModelNotFoundError
from cyber_inference_tui.library.catalog import Catalog, LocalModel
from cyber_inference_tui.library.ids import AUTO
from cyber_inference_tui.records import ModelStatus
from cyber_inference_tui.scheduler.scheduler import Scheduler
from cyber_inference_tui.service.capabilities import makes_vectors
from cyber_inference_tui.text import escaped


def auto_model(
    catalog: Catalog,
    scheduler: Scheduler,
    default_model: str,
    counts: Callable[[LocalModel], bool] = lambda model: True,
) -> LocalModel:
    """Return the loaded model that was used last, else a pinned one, else ``default_model``.

    Without a ``default_model`` it is the only model, if there is one. Models for embeddings and
    rankings do not count: a chat would end at the model that its documents were searched with.
    ``counts`` may leave out more. Raises ``ModelNotFoundError``.
    """

    def is_usable(model: LocalModel) -> bool:
        vectors = makes_vectors(model, scheduler.spec(model))
        return model.problem is None and not vectors and counts(model)

    loaded = [
        state
        for state in scheduler.states()
        if state.status is ModelStatus.LOADED and state.leaving is None and is_usable(state.model)
    ]
    if loaded:
        return max(loaded, key=lambda state: state.last_used).model
    usable = [model for model in catalog.models.values() if is_usable(model)]
    for model in usable:
        state = scheduler.state(model.id)
        if model.settings.pinned if state is None else state.is_pinned:
            return model
    if default_model:
        try:
            return catalog.resolve(default_model)
        except ModelNotFoundError as error:
            raise ModelNotFoundError(
                f'"{AUTO}" means default_model, but there is no model "{escaped(default_model)}".',
                hint=error.hint,
                param="model",
                name=AUTO,
            ) from None
    whole = [model for model in usable if not model.preset_of]
    if len(whole) == 1:
        return whole[0]
    raise ModelNotFoundError(
        f'"{AUTO}" means no model now: none is loaded or pinned.',
        hint="Name a model, or set default_model to one.",
        param="model",
        name=AUTO,
    )
