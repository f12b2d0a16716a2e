"""The models on this machine as records, for when no service runs to tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from cyber_inference_tui.gguf.demo import DEMO_ID
from cyber_inference_tui.library.catalog import Origin
from cyber_inference_tui.llama.spec import resolve
from cyber_inference_tui.records import ModelRecord, ProblemRecord
from cyber_inference_tui.service.listing import library_for, problem_records, unloaded_record

if TYPE_CHECKING:
    from cyber_inference_tui.settings.schema import Settings


def local_records(
    settings: Settings, *, demo: bool, environ: Mapping[str, str]
) -> tuple[list[ModelRecord], list[ProblemRecord]]:
    """Scan the model directories: models, all unloaded, and what is none. Writes no model."""
    catalog = library_for(settings, demo=demo, environ=environ).scan()
    records = {
        model_id: unloaded_record(model, resolve(model, settings))
        for model_id, model in catalog.models.items()
    }
    if demo and DEMO_ID not in records:
        # Made by the service when it starts.
        records[DEMO_ID] = ModelRecord(id=DEMO_ID, origin=Origin.DEMO.value)
    return [record for _, record in sorted(records.items())], problem_records(catalog)


def local_deletion(
    settings: Settings, model_id: str, *, demo: bool, environ: Mapping[str, str]
) -> tuple[ModelRecord, Callable[[], ModelRecord]]:
    """The record of a model on disk, and what deletes its files.

    Raises ``ModelNotFoundError``, and ``ConflictError`` where it cannot be deleted.
    """
    library = library_for(settings, demo=demo, environ=environ)
    catalog = library.scan()
    model = catalog.resolve(model_id)
    record = unloaded_record(model, resolve(model, settings))

    def delete() -> ModelRecord:
        library.delete(catalog, record.id)
        return record

    return record, delete
