"""Collects the details of one model for its page."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from cyber_inference_tui.errors import (
    CyberError,
    GGUFError,
    NoLlamaServerError,
    StorageError,
)
from cyber_inference_tui.gguf.header_facts import Fact, facts_of
from cyber_inference_tui.gguf.memory_estimate import MemoryEstimate
from cyber_inference_tui.gguf.reader import read_header
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.library.scan import path_text
from cyber_inference_tui.llama.launcher import Launcher
from cyber_inference_tui.llama.needs import NeedSource
from cyber_inference_tui.llama.spec import ServerSpec
from cyber_inference_tui.records import (
    FileRecord,
    Fit,
    MemoryAtContext,
    MemoryPart,
    ModelDetails,
    ModelRecord,
    ModelSettingRecord,
    ModelStatus,
)
from cyber_inference_tui.records.checks import ModelCheck
from cyber_inference_tui.scheduler.fit import FitCheck
from cyber_inference_tui.scheduler.state import ModelState
from cyber_inference_tui.service.history import History
from cyber_inference_tui.service.model_companions import adapter_records, draft_record
from cyber_inference_tui.settings.load import LoadedSettings, plain_value
from cyber_inference_tui.settings.masks import masked_value, masked_words
from cyber_inference_tui.settings.schema import (
    MODEL_KEYS,
    PRESET_KEYS,
    Key,
    ModelSettings,
    effective,
)
from cyber_inference_tui.storage import Storages

_STEPS = (2048, 4096, 8192, 16384, 32768, 65536, 131072)


async def details_of(
    model: LocalModel,
    record: ModelRecord,
    *,
    state: ModelState | None,
    spec: ServerSpec,
    check: ModelCheck | None,
    loaded: LoadedSettings,
    launcher: Launcher,
    fit_check: FitCheck,
    storages: Storages,
) -> ModelDetails:
    """Return the details of a model with this record.

    Files are read now. If their storage does not answer, the details have only their paths.
    """
    facts, files, projector = await _read(model, storages)
    command, problem = await _command(state, spec, launcher)
    flags = await launcher.flags()
    server = state.server.address if state is not None and state.server is not None else None
    return ModelDetails(
        model=record,
        facts=facts,
        files=files,
        projector=projector,
        draft=draft_record(model, spec, flags),
        adapters=await adapter_records(model, spec, server, flags),
        memory=await _memory(record, spec, launcher, fit_check),
        command=tuple(command),
        command_problem=problem,
        kept_prompts=await launcher.kept_prompts(spec),
        settings=settings_of(model, state, spec, loaded),
        check=check,
    )


async def with_drafted(details: ModelDetails, history: History) -> ModelDetails:
    """Add what the history says about the model's drafts, if it can be read."""
    try:
        drafted = await history.drafted(details.model.id)
    except CyberError:
        return details
    return msgspec.structs.replace(details, drafted=drafted)


_Files = tuple[dict[str, Fact], tuple[FileRecord, ...], FileRecord | None]


async def _read(model: LocalModel, storages: Storages) -> _Files:
    if model.path is None:
        return _read_files(model)
    try:
        return await storages.ask_async(model.path.parent, partial(_read_files, model))
    except StorageError:
        # The list of problems has the reason; the other details are still useful.
        projector = FileRecord(path=path_text(model.mmproj)) if model.mmproj else None
        paths = model.shards or (model.path,)
        return {}, tuple(FileRecord(path=path_text(path)) for path in paths), projector


def _read_files(model: LocalModel) -> _Files:
    facts: dict[str, Fact] = {}
    if model.path is not None:
        try:
            facts = facts_of(read_header(model.path))
        except GGUFError:
            # The record's error has the reason; another program's model has no such header.
            facts = {}
    paths = model.shards or ((model.path,) if model.path else ())
    projector = _file(model.mmproj) if model.mmproj else None
    return facts, tuple(_file(path) for path in paths), projector


def _file(path: Path) -> FileRecord:
    try:
        size = path.stat().st_size if path.is_file() else None
    except OSError:
        size = None
    return FileRecord(path=path_text(path), size_bytes=size)


async def _command(
    state: ModelState | None, spec: ServerSpec, launcher: Launcher
) -> tuple[list[str], str | None]:
    """Return the server's command line, with keys and tokens masked, or why there is none."""
    if state is not None and state.server is not None:
        return list(state.server.argv), None
    if spec.problem is not None:
        return [], spec.problem
    need = state.need if state else None
    measure = need is None or need.source is not NeedSource.MEASURED
    try:
        argv = await launcher.command(spec, measure=measure)
    except NoLlamaServerError as error:
        return [], str(error)
    return masked_words(argv), None


async def _memory(
    record: ModelRecord, spec: ServerSpec, launcher: Launcher, fit_check: FitCheck
) -> tuple[MemoryAtContext, ...]:
    current = record.context_size or spec.context_size
    if spec.problem is not None or current is None:
        return ()  # its memory is unknown
    is_loaded = record.status is ModelStatus.LOADED
    rows = []
    for size, parts, need in await launcher.memory_at(
        spec, context_sizes(current, record.trained_context_length)
    ):
        verdict = fit_check.verdict(record.id, need, reload=is_loaded)
        fits = verdict.fit if verdict else None
        if size == current:
            # The record knows more than the formula.
            fits = Fit.NOW if is_loaded else record.fits or fits
        rows.append(
            MemoryAtContext(
                context_size=size,
                total_bytes=parts.total,
                parts=_parts(parts),
                fits=fits,
                current=size == current,
            )
        )
    return tuple(rows)


def context_sizes(current: int, trained: int | None) -> list[int]:
    """Return the context sizes to show, ascending: usual sizes up to the trained one, the trained
    one, and the current one."""
    sizes = {size for size in _STEPS if size <= (trained or _STEPS[-1])}
    return sorted(sizes | {current} | ({trained} if trained else set()))


def _parts(found: MemoryEstimate) -> tuple[MemoryPart, ...]:
    named = {
        "weights": found.weights,
        "KV cache": found.kv_cache,
        "projector": found.projector,
        "compute buffers": found.compute,
        "draft": found.draft,
        "adapters": found.adapters,
    }
    return tuple(MemoryPart(name=name, size_bytes=size) for name, size in named.items() if size)


def settings_of(
    model: LocalModel, state: ModelState | None, spec: ServerSpec, loaded: LoadedSettings
) -> tuple[ModelSettingRecord, ...]:
    """Return every key of a model's table, with the value in force and its source.

    ``spec`` is that of the next server.
    """
    keys = PRESET_KEYS if model.preset_of else MODEL_KEYS
    return tuple(_setting(key, model, state, spec, loaded) for key in keys.values())


_BLANK = ModelSettings()


def _setting(
    key: Key, model: LocalModel, state: ModelState | None, spec: ServerSpec, loaded: LoadedSettings
) -> ModelSettingRecord:
    own = merged = getattr(model.settings, key.name)
    blank = getattr(_BLANK, key.name)
    if model.preset_of:
        own = model.preset_keys.get(key.name, blank)
    is_set = own != blank
    general = key.general
    if key.name == "context_size" and spec.context_size is not None:
        # An argument of the user may decide it.
        general, is_set = spec.context_source, not spec.context_source
    if model.preset_of and own == blank != merged:
        source = "base"
    elif is_set:
        source = "model"
    else:
        source = loaded.sources[general].value if general else "default"
    return ModelSettingRecord(
        key=key.name,
        value=None if own == blank else _shown(key, own),
        effective=_shown(key, _effective(key, model, state, spec, loaded)),
        source=source,
        help=key.help,
    )


def _effective(
    key: Key, model: LocalModel, state: ModelState | None, spec: ServerSpec, loaded: LoadedSettings
) -> Any:
    special: dict[str, Any] = {
        "path": model.path,
        "mmproj": model.mmproj,
        "aliases": model.aliases,
        "lora": tuple(f"{one.path}:{one.scale:g}" for one in model.adapters),
        "args": spec.arguments,
        "context_size": spec.context_size,
        "pinned": model.settings.pinned if state is None else state.is_pinned,
    }
    if key.name in special:
        return special[key.name]
    return effective(model.settings, loaded.settings, key.name)


def _shown(key: Key, value: Any) -> Any:
    return plain_value(masked_value(key, value))
