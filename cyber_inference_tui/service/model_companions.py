"""The draft and the LoRA adapters of a model: their records, and the strength of an adapter."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from cyber_inference_tui.errors import ConflictError, CyberError, NotFoundError
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.library.companions import Draft
from cyber_inference_tui.library.drafts import OFF
from cyber_inference_tui.library.scan import path_text
from cyber_inference_tui.llama.companion_options import can_adapt, can_draft, names_adapters
from cyber_inference_tui.llama.http_get import ServerAddress
from cyber_inference_tui.llama.lora import LoadedAdapter, ask_adapters, set_scales
from cyber_inference_tui.llama.spec import ServerSpec
from cyber_inference_tui.records import AdapterRecord, DraftRecord, FileRecord

_TIMEOUT = 5.0
"""Seconds for one question to a model's server."""


def draft_record(model: LocalModel, spec: ServerSpec, flags: frozenset[str]) -> DraftRecord | None:
    """Return what drafts a model's answers, or could; ``flags`` are those of the build in use."""
    draft = model.draft
    if draft is None:
        return None
    size = draft.size_bytes if len(draft.files) == 1 else None
    return DraftRecord(
        kind=draft.kind.value,
        name=draft.name,
        files=tuple(FileRecord(path=path_text(path), size_bytes=size) for path in draft.files),
        unused_because=_unused(model, draft, spec, flags),
    )


def _unused(model: LocalModel, draft: Draft, spec: ServerSpec, flags: frozenset[str]) -> str | None:
    if model.settings.draft == OFF:
        return 'found, and off: draft = "auto" in its table uses it'
    if spec.draft is None:
        return "its arguments choose another draft"
    if not can_draft(draft, flags):
        return f"this build of llama-server has no {draft.kind.value}"
    return None


async def adapter_records(
    model: LocalModel, spec: ServerSpec, server: ServerAddress | None, flags: frozenset[str]
) -> tuple[AdapterRecord, ...]:
    """Return the adapters that the model's ``server`` has, else those of its next start."""
    if not model.adapters and not names_adapters(spec.arguments):
        return ()
    loaded = await ask_adapters(server, _TIMEOUT) if server is not None else None
    if loaded is not None:
        return _records(model, loaded)
    expected = model.adapters if can_adapt(flags) else ()
    at_start = [LoadedAdapter(i, str(one.path), one.scale) for i, one in enumerate(expected)]
    records = _records(model, at_start)
    if server is None:
        return records
    return tuple(msgspec.structs.replace(one, scale=None) for one in records)


def _records(model: LocalModel, loaded: Sequence[LoadedAdapter]) -> tuple[AdapterRecord, ...]:
    known = {str(one.path): one for one in model.adapters}
    records = []
    for one in loaded:
        own = known.get(one.path)
        path = path_text(one.path)
        records.append(
            AdapterRecord(
                id=one.id,
                name=path_text(own.name) if own else path.rpartition("/")[2].removesuffix(".gguf"),
                path=path,
                size_bytes=own.size_bytes if own else None,
                scale=one.scale,
                initial_scale=own.scale if own else None,
            )
        )
    return tuple(records)


async def scaled_adapters(
    model: LocalModel, server: ServerAddress | None, number: int, scale: float
) -> list[AdapterRecord]:
    """Set the strength of one adapter of a loaded model, and return all of them.

    Raises ``ConflictError`` if the model has no server now, ``NotFoundError`` if that has no such
    adapter, ``CyberError`` if it does not answer.
    """
    if server is None:
        raise ConflictError(
            f"{model.id} is not loaded.",
            hint="Load it first; lora in its table sets the strength for every start.",
        )
    loaded = await ask_adapters(server, _TIMEOUT)
    if loaded is not None and number not in {one.id for one in loaded}:
        raise NotFoundError(
            f"{model.id} has no adapter {number}.",
            hint="Its details list the adapters with their numbers.",
        )
    scales = {one.id: scale if one.id == number else one.scale for one in loaded or ()}
    if loaded is None or not await set_scales(server, scales, _TIMEOUT):
        raise CyberError(
            f"The server of {model.id} did not change its adapters.", hint="Its log may say why."
        )
    now = [LoadedAdapter(one.id, one.path, scales[one.id]) for one in loaded]
    return list(_records(model, now))
