"""The parts of the machine's memory for the dashboard's bars: models, system and free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from cyber_inference_tui.records import MemoryPool, ModelRecord, ModelStatus, ResourceSample
from cyber_inference_tui.terminal.charset import Charset
from cyber_inference_tui.terminal.text_width import plain
from cyber_inference_tui.tui.snapshot import Snapshot
from cyber_inference_tui.tui.widgets.stacked_bar import BarPart
from cyber_inference_tui.units import size_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """A memory: its parts in bytes, and the texts before and after its bar."""

    title: str
    """``Memory`` or ``GPU memory``."""
    caption: str
    room: str
    """Memory that another model may use now."""
    more: str
    """Memory that it may use after unloading idle models, if that is more."""
    parts: tuple[BarPart, ...]
    total: float
    limit: float | None = None
    """Limit up to which models may use it."""
    full: bool = False
    """No memory is left for another model."""


def pools(
    snapshot: Snapshot, charset: Charset, shades: Mapping[str, int] | None = None
) -> list[Pool]:
    """Return the pools: main memory, and GPU memory where GPUs have their own.

    ``shades`` are those of the models in graphs.
    """
    shades = shades or {}
    sample = snapshot.sample
    if sample is None:
        return []
    found = []
    own = [gpu for gpu in sample.gpus if gpu.memory_total is not None and not gpu.shared_memory]
    if own:
        total = sum(gpu.memory_total or 0 for gpu in own)
        used = [gpu.memory_used for gpu in own if gpu.memory_used is not None]
        models = [(one, _gpu_bytes(one, sample)) for one in loaded(snapshot)]
        free = total - sum(used) if len(used) == len(own) else None
        room = _room(snapshot, "gpu")
        found.append(_pool("GPU memory", models, total, free, room, shades=shades, charset=charset))
    if sample.memory.total is not None:
        models = [(one, _main_bytes(one, sample, bool(own))) for one in loaded(snapshot)]
        room = _room(snapshot, "memory")
        total, free = sample.memory.total, _free(sample, room)
        found.append(_pool("Memory", models, total, free, room, shades=shades, charset=charset))
    return found


def _pool(
    title: str,
    models: list[tuple[ModelRecord, int | None]],
    total: int,
    free: int | None,
    room: MemoryPool | None,
    *,
    shades: Mapping[str, int],
    charset: Charset,
) -> Pool:
    whole = size_text(total)
    parts = [
        BarPart(plain(one.id), size, "model", beside(whole, size), shades.get(one.id))
        for one, size in models
        if size
    ]
    used = None if free is None else max(0, total - free)
    if used is not None and free is not None:
        system = used - sum(int(part.value) for part in parts)
        if system > 0:
            parts.append(BarPart("system", system, "system", beside(whole, system)))
        parts.append(BarPart("free", free, "free", beside(whole, free)))
    shown = charset.known(used, partial(beside, whole))
    limit = room.limit_bytes if room else None
    free_text, more = _room_texts(room, charset)
    return Pool(
        title=title,
        caption=f"{shown} of {whole}",
        room=free_text,
        more=more,
        parts=tuple(parts),
        total=total,
        limit=limit if limit is not None and limit < total else None,
        full=room is not None and room.free_bytes is not None and room.free_bytes <= 0,
    )


def beside(whole: str, size: int) -> str:
    """Return ``size`` for a place beside ``whole``: without its unit if both have the same."""
    return size_text(size).removesuffix(whole[whole.index(" ") :])


def _room_texts(room: MemoryPool | None, charset: Charset) -> tuple[str, str]:
    if room is None or room.free_bytes is None:
        return "", ""
    free, after = max(0, room.free_bytes), room.free_after_unloading_bytes
    now = f"{size_text(free)} for models"
    if after is None or size_text(after) == size_text(free):
        return now, ""
    return now, f", {size_text(after)} after unloading idle"


def loaded(snapshot: Snapshot) -> list[ModelRecord]:
    """Return the models that have memory."""
    up = {ModelStatus.LOADED, ModelStatus.UNLOADING}
    return [model for model in snapshot.models if model.status in up]


def _room(snapshot: Snapshot, pool: str) -> MemoryPool | None:
    return next((room for room in snapshot.rooms if room.pool == pool), None)


def _main_bytes(model: ModelRecord, sample: ResourceSample, own_gpus: bool) -> int | None:
    """Return its main memory; if no GPU has its own memory, that is all its memory."""
    if not own_gpus and model.memory_bytes is not None:
        return model.memory_bytes
    usage = next((one for one in sample.models if one.id == model.id), None)
    if usage is None:
        return None
    sizes = [usage.memory_private_bytes, usage.memory_mapped_bytes]
    if not own_gpus:
        sizes.append(usage.gpu_memory_bytes)
    known = [size for size in sizes if size is not None]
    return sum(known) if known else None


def _gpu_bytes(model: ModelRecord, sample: ResourceSample) -> int | None:
    usage = next((one for one in sample.models if one.id == model.id), None)
    return None if usage is None else usage.gpu_memory_bytes


def _free(sample: ResourceSample, room: MemoryPool | None) -> int | None:
    """Return the free main memory.

    The kernel counts mapped weights as available, although a model in use needs them. The
    service's own figure is better, unless memory is over the limit already.
    """
    total = sample.memory.total
    if room is not None and room.limit_bytes is not None and room.free_bytes and total is not None:
        return min(total, room.free_bytes + max(0, total - room.limit_bytes))
    if sample.memory.available is None:
        return None
    mapped = sum(usage.memory_mapped_bytes or 0 for usage in sample.models)
    return max(0, sample.memory.available - mapped)
