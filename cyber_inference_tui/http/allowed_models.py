"""Checks which models an API key may use."""

from __future__ import annotations

from cyber_inference_tui.errors import ModelNotAllowedError
from cyber_inference_tui.library.catalog import LocalModel, spelling
from cyber_inference_tui.records import KeyLimits, ModelRecord


def allows(limits: KeyLimits, model: LocalModel | ModelRecord) -> bool:
    """Check whether a key may use a model, under all its names; limits name it by any of them."""
    if not limits.models:
        return True
    names = (model.id, *model.aliases)
    return any(spelling(name, names) is not None for name in limits.models)


def check_allowed(limits: KeyLimits, model: LocalModel | ModelRecord) -> None:
    """Raise ``ModelNotAllowedError`` if a key may not use a model."""
    if not allows(limits, model):
        raise not_allowed(limits, f"use {model.id}", param="model")


def not_allowed(
    limits: KeyLimits, action: str, *, param: str | None = None
) -> ModelNotAllowedError:
    """Return the error of a key that is for some models, and may not do this."""
    return ModelNotAllowedError(
        f"This API key may not {action}.",
        hint=f"It is for {', '.join(limits.models)}.",
        param=param,
    )
