"""``/v1/models``: the local models as OpenAI's clients list them. Nothing here loads one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cyber_inference_tui.records import ModelRecord

if TYPE_CHECKING:
    from cyber_inference_tui.service.models import Models
    from cyber_inference_tui.service.service import Service


class ModelListing:
    """Answers ``GET /v1/models`` and ``GET /v1/models/ID``."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def all(self) -> dict[str, Any]:
        """Every local model, by id."""
        models = self._service.models
        return {"object": "list", "data": _listed(models, models.records())}

    def one(self, name: str) -> dict[str, Any]:
        """One model by id or alias."""
        models = self._service.models
        return _listed(models, [models.record(name)])[0]


def _listed(models: Models, records: list[ModelRecord]) -> list[dict[str, Any]]:
    return [
        {
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
        for record in records
    ]


def _meta(record: ModelRecord) -> dict[str, Any] | None:
    """The facts under llama-server's names; ``None`` = nothing is known of the context."""
    if record.context_length is None:
        return None
    return {"n_ctx": record.context_length, "n_ctx_train": record.trained_context_length}
