"""``/v1/models``: the local models as OpenAI's clients list them. Nothing here loads a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cyber_inference_tui.records import ModelRecord

if TYPE_CHECKING:
    from cyber_inference_tui.service.models import Models


def model_list(models: Models) -> dict[str, Any]:
    """Return every local model, ordered by id."""
    return {"object": "list", "data": [_entry(models, record) for record in models.records()]}


def listed_model(models: Models, name: str) -> dict[str, Any]:
    """Return the model with this id or alias. Raises ``ModelNotFoundError``."""
    return _entry(models, models.record(name))


def _entry(models: Models, record: ModelRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "object": "model",
        "created": models.written(record.id),
        "owned_by": "local",
        "status": record.status,
        "aliases": record.aliases,
        "architecture": record.architecture,
        "parameters": record.parameters,
        "quantization": record.quantization,
        "context_length": record.context_length,
        "meta": _meta(record),
        "size_bytes": record.size_bytes,
        "pinned": record.pinned,
        "in_flight": record.in_flight,
        "queued": record.queued,
    }


def _meta(record: ModelRecord) -> dict[str, Any] | None:
    """Return the context sizes under llama-server's names; ``None`` if they are unknown."""
    if record.context_length is None:
        return None
    return {"n_ctx": record.context_length, "n_ctx_train": record.trained_context_length}
