"""Judges the models of a hub repository for this machine: memory, fit, and the suggestion."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePath

import msgspec

from cyber_inference_tui.gguf.metadata import ModelMetadata
from cyber_inference_tui.hub.download_plan import PlannedFile
from cyber_inference_tui.hub.repository import RepoModel, Repository
from cyber_inference_tui.hub.suggestion import QuantizationOption, suggest
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.llama.needs import Need
from cyber_inference_tui.records import Fit, HubFileRecord, HubFilesRecord, MemoryPool
from cyber_inference_tui.scheduler.fit import FitCheck

EstimateNeed = Callable[[LocalModel], Need]
"""Estimates the memory of a model from its header."""


def offers(
    repository: Repository,
    headers: Mapping[str, ModelMetadata],
    *,
    local: Iterable[LocalModel],
    estimate_need: EstimateNeed,
    fit_check: FitCheck,
) -> list[HubFilesRecord]:
    """Return a record for each model of the repository, by name.

    ``headers`` are by ``filename``; a model without a header has no estimate. The size of the
    weights is that of the files, because a header may be that of another quantization.
    """
    local_files = _LocalFiles(local)
    records: list[HubFilesRecord] = []
    for model in repository.models:
        need = _need(model, headers.get(model.filename), estimate_need)
        verdict = fit_check.verdict(model.filename, need) if need else None
        records.append(
            HubFilesRecord(
                name=model.filename,
                quantization=model.quantization,
                size_bytes=model.size_bytes,
                files=tuple(_file(file) for file in model.files),
                projector=_file(model.projector) if model.projector else None,
                draft=_file(model.draft) if model.draft else None,
                memory_estimate_bytes=need.footprint.total if need else None,
                fits=verdict.fit if verdict else None,
                evicts=verdict.unloads
                if verdict is not None and verdict.fit is Fit.AFTER_UNLOADING
                else (),
                projector_kept_back=verdict is not None and verdict.projector_kept_back,
                local_id=local_files.id_of(repository.repo, model),
            )
        )
    best = suggest(
        [
            QuantizationOption(record.quantization, record.memory_estimate_bytes, record.fits)
            for record in records
        ],
        _room(fit_check.rooms()),
    )
    if best is not None:
        records[best] = msgspec.structs.replace(records[best], suggested=True)
    return records


def _need(
    model: RepoModel, header: ModelMetadata | None, estimate_need: EstimateNeed
) -> Need | None:
    size = model.weights_bytes
    projector = model.projector.size_bytes if model.projector else 0
    if header is None or header.architecture is None or size is None or projector is None:
        return None
    as_local = LocalModel(
        id=model.filename,
        path=Path(model.filename),
        metadata=header,
        size_bytes=size + projector,
        projector_bytes=projector,
    )
    return estimate_need(as_local)


def _file(file: PlannedFile) -> HubFileRecord:
    return HubFileRecord(path=file.path, size_bytes=file.size_bytes, sha256=file.sha256)


def _room(rooms: Sequence[MemoryPool]) -> int | None:
    """Return the free memory after unloading: that of the GPUs if they have their own."""
    # A model that does not fit into the memory of the GPUs is slow.
    pool = next((room for room in rooms if room.pool == "gpu"), rooms[0] if rooms else None)
    return pool.free_after_unloading_bytes if pool else None


class _LocalFiles:
    """Finds local models by the path that a download would have, or by name and size."""

    def __init__(self, local: Iterable[LocalModel]) -> None:
        self._by_name: dict[str, list[tuple[tuple[str, ...], LocalModel]]] = {}
        for model in local:
            if model.path is not None and model.problem is None:
                entry = model.path.parts, model
                self._by_name.setdefault(model.path.name, []).append(entry)

    def id_of(self, repo: str, model: RepoModel) -> str | None:
        sizes = {model.weights_bytes, model.size_bytes} - {None}
        path = PurePath(model.filename)
        place = (*repo.split("/"), *path.parts)
        for parts, local in self._by_name.get(path.name, ()):
            if parts[-len(place) :] == place or local.size_bytes in sizes:
                return local.id
        return None
