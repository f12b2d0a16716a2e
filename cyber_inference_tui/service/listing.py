"""Makes the library by the settings, and the records of its models."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from cyber_inference_tui.errors import CyberError, ModelLoadError
from cyber_inference_tui.files import write_problem
from cyber_inference_tui.gguf.demo import DEMO_ID, write_demo
from cyber_inference_tui.library.catalog import Catalog, LocalModel
from cyber_inference_tui.library.library import Library
from cyber_inference_tui.library.scan import path_text
from cyber_inference_tui.library.stores import Stores, find_stores
from cyber_inference_tui.llama.needs import Need, NeedSource
from cyber_inference_tui.llama.spec import ServerSpec
from cyber_inference_tui.records import ModelRecord, ModelStatus, ProblemRecord
from cyber_inference_tui.records.checks import ModelCheck
from cyber_inference_tui.scheduler.fit import Verdict
from cyber_inference_tui.scheduler.state import ModelState, idle_timeout
from cyber_inference_tui.service.capabilities import capabilities_of, makes_vectors
from cyber_inference_tui.settings.schema import Settings


def demo_path(settings: Settings) -> Path:
    """Return the path of the built-in model."""
    return settings.data_dir / "demo" / f"{DEMO_ID}.gguf"


def write_demo_for(settings: Settings) -> None:
    """Write the built-in model to its path; raises ``CyberError``."""
    path = demo_path(settings)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_demo(path)
    except OSError as error:
        raise CyberError(write_problem(path, error)) from error


def library_for(settings: Settings, *, demo: bool, environ: Mapping[str, str]) -> Library:
    """Return the library of these settings; with ``demo`` it includes the built-in model.

    ``environ`` has the variables with the directories of other programs' models.
    """
    library = Library(models_dir=settings.models_dir, cache_file=settings.data_dir / "headers.json")
    configure_library(library, settings, demo=demo, environ=environ)
    return library


def configure_library(
    library: Library, settings: Settings, *, demo: bool, environ: Mapping[str, str]
) -> None:
    """Apply the settings to ``library``, which keeps its knowledge of files. May block."""
    library.reconfigure(
        models_dir=settings.models_dir,
        model_dirs=settings.model_dirs,
        model_settings=settings.models,
        extra={DEMO_ID: demo_path(settings)} if demo else {},
        stores=find_stores(environ) if settings.discover else Stores(),
    )


def problem_records(catalog: Catalog) -> list[ProblemRecord]:
    """Return the files, tables and aliases that cannot be used, with the reasons."""
    return [ProblemRecord(where=one.where, reason=one.reason) for one in catalog.problems]


def disk_paths(settings: Settings) -> tuple[Path, ...]:
    """Return the directories of models and data, each once."""
    return tuple(dict.fromkeys((settings.models_dir, *settings.model_dirs, settings.data_dir)))


def unloaded_record(
    model: LocalModel,
    spec: ServerSpec,
    need: Need | None = None,
    *,
    check: ModelCheck | None = None,
) -> ModelRecord:
    """Return the record of a model without its state.

    ``spec`` and ``need`` are of a load now, ``check`` are the results of its check if they are
    valid.
    """
    estimated = need is not None and need.source is not NeedSource.UNKNOWN and not model.problem
    facts = model.metadata
    can = capabilities_of(model, spec, check=check)
    return ModelRecord(
        id=model.id,
        aliases=model.aliases,
        preset_of=model.preset_of or None,
        path=path_text(model.path) if model.path else None,
        size_bytes=model.size_bytes,
        architecture=facts.architecture if facts else None,
        parameters=facts.parameters if facts else None,
        quantization=facts.quantization if facts else None,
        context_length=spec.request_context,
        trained_context_length=facts.context_length if facts else None,
        context_size=spec.context_size,
        memory_estimate_bytes=need.footprint.total if need and estimated else None,
        memory_estimate_source=need.source.value if need and estimated else None,
        slots=spec.options.slots or None,
        capabilities=can,
        vision="vision" in can,
        embedding=makes_vectors(model, spec),
        origin=model.origin.value,
        split=model.settings.split,
        pinned=model.settings.pinned,
        error=model.problem,
        unreadable=model.problem is not None,
    )


def record_with_state(
    record: ModelRecord,
    model: LocalModel,
    settings: Settings,
    state: ModelState,
    *,
    wait: float | None,
    check: ModelCheck | None = None,
) -> ModelRecord:
    """Return the record of a model with a state in the scheduler.

    ``record`` is its record without one; ``wait`` is the expected wait of a request that arrives
    now, in seconds; ``check`` as in ``unloaded_record``.
    """
    server = state.server
    template = server.template if server else None
    failure = state.failure
    return msgspec.structs.replace(
        record,
        status=state.status,
        unreadable=record.unreadable and server is None,
        progress=state.progress,
        port=server.address.port if server else None,
        context_length=(server.context_length if server else None) or record.context_length,
        context_size=server.context_size if server else record.context_size,
        capabilities=capabilities_of(model, state.next_spec, template, check),
        slots=(server.slots if server else None) or record.slots,
        pid=server.pid if server else None,
        pinned=state.is_pinned,
        in_flight=state.in_flight,
        queued=state.queued,
        expected_wait_seconds=None if wait is None else round(wait, 1),
        memory_bytes=state.footprint.total if state.footprint else None,
        loaded_at=state.loaded_at,
        last_used_at=state.last_used_at,
        unload_at=_unload_at(state, settings),
        error=model.problem or (str(failure) if failure else None),
        exit_code=failure.server_exit if isinstance(failure, ModelLoadError) else None,
    )


def _unload_at(state: ModelState, settings: Settings) -> datetime | None:
    """Return the time of the idle timeout; ``None`` while it is busy or if it has none."""
    seconds = idle_timeout(state, settings)
    idle = state.status is ModelStatus.LOADED and not (state.in_flight or state.waiters)
    if not idle or state.is_pinned or seconds <= 0 or state.last_used_at is None:
        return None
    return state.last_used_at + timedelta(seconds=seconds)


def with_fit(record: ModelRecord, verdict: Verdict | None) -> ModelRecord:
    """Return the record with the answer whether the model fits."""
    if verdict is None:
        return record
    return msgspec.structs.replace(record, fits=verdict.fit, fits_reason=verdict.reason)
