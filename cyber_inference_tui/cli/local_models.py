"""The models on this machine as records, for when no service runs to tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cyber_inference_tui.gguf.demo import DEMO_ID
from cyber_inference_tui.library.library import Library
from cyber_inference_tui.records import ModelRecord

if TYPE_CHECKING:
    from cyber_inference_tui.library.catalog import LocalModel
    from cyber_inference_tui.settings.schema import Settings


def local_records(settings: Settings, *, demo: bool) -> list[ModelRecord]:
    """Scan the model directories; every model is unloaded. Writes no model."""
    demo_path = settings.data_dir / "demo" / f"{DEMO_ID}.gguf"
    library = Library(
        models_dir=settings.models_dir,
        model_dirs=settings.model_dirs,
        model_settings=settings.models,
        extra={DEMO_ID: demo_path} if demo and demo_path.is_file() else {},
        cache_file=settings.data_dir / "headers.json",
    )
    records = {model_id: _record(model) for model_id, model in library.scan().models.items()}
    if demo and DEMO_ID not in records:
        # Made by the service when it starts.
        records[DEMO_ID] = ModelRecord(id=DEMO_ID)
    return [record for _, record in sorted(records.items())]


def _record(model: LocalModel) -> ModelRecord:
    facts = model.metadata
    return ModelRecord(
        id=model.id,
        aliases=model.aliases,
        path=str(model.path) if model.path else None,
        size_bytes=model.size_bytes,
        architecture=facts.architecture if facts else None,
        parameters=facts.parameters if facts else None,
        quantization=facts.quantization if facts else None,
        context_length=facts.context_length if facts else None,
        pinned=model.settings.pinned,
        error=model.problem,
    )
