"""Whether marked models fit into the memory together, and with how much context each."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from textual.content import Content

from cyber_inference_tui.records import (
    Fit,
    MemoryAtContext,
    MemoryPool,
    ModelRecord,
    ModelStatus,
)
from cyber_inference_tui.terminal.charset import Charset
from cyber_inference_tui.terminal.text_width import plain
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.pages.models.model_actions import INACTIVE
from cyber_inference_tui.tui.pages.models.sentences import STYLES
from cyber_inference_tui.tui.pages.models.table import FIT_TONES, fit_cell, memory_of
from cyber_inference_tui.tui.widgets.stacked_bar import BarPart
from cyber_inference_tui.units import context_text, size_text

_NAMED = 3
"""Models that a sentence names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkedSet:
    """Marked models and the memory that they need together, in bytes."""

    models: tuple[ModelRecord, ...]
    needs: int | None
    """Of all of them, loaded or not; ``None`` if that of one is unknown."""
    room: int | None
    """For all of them, with what would be unloaded; ``None`` = unknown."""
    limit: int | None
    """For models and all else."""
    evicts: tuple[ModelRecord, ...] = ()
    """Idle models that have to be unloaded first."""

    @property
    def fit(self) -> Fit | None:
        """Whether they fit together; ``None`` = unknown."""
        if self.needs is None or self.room is None:
            return None
        if self.needs > self.room:
            return Fit.NEVER
        return Fit.AFTER_UNLOADING if self.evicts else Fit.NOW

    @property
    def to_load(self) -> tuple[ModelRecord, ...]:
        """Those that are neither loaded nor about to be."""
        return tuple(model for model in self.models if model.status in INACTIVE)


def marked_set(
    models: Sequence[ModelRecord], marked: Collection[str], pools: Sequence[MemoryPool]
) -> MarkedSet:
    """Return the set of the ``marked`` ids, and what has to be unloaded for it.

    The GPUs' own memory decides where there is one. Idle models are unloaded as the service does
    it, the least recently used first.
    """
    chosen = tuple(model for model in models if model.id in marked)
    pool = next((one for one in pools if one.pool == "gpu"), pools[0] if pools else None)
    sizes = [memory_of(model) for model in chosen]
    needs = None if None in sizes else sum(size or 0 for size in sizes)
    if pool is None or pool.free_bytes is None or needs is None:
        return MarkedSet(
            models=chosen, needs=needs, room=None, limit=pool.limit_bytes if pool else None
        )
    held = sum(memory_of(model) or 0 for model in chosen if model.status not in INACTIVE)
    room = pool.free_bytes + held
    evicts = []
    for model in _idle(models, marked):
        if needs > room and model.memory_bytes:
            room += model.memory_bytes
            evicts.append(model)
    return MarkedSet(
        models=chosen, needs=needs, room=room, limit=pool.limit_bytes, evicts=tuple(evicts)
    )


def _idle(models: Iterable[ModelRecord], marked: Collection[str]) -> list[ModelRecord]:
    """Return the models that may be unloaded for others, the least recently used first."""
    idle = [
        model
        for model in models
        if model.status is ModelStatus.LOADED
        and model.id not in marked
        and not (model.pinned or model.in_flight or model.queued)
    ]
    return sorted(idle, key=lambda one: one.last_used_at.timestamp() if one.last_used_at else 0.0)


def largest_context(
    marked: MarkedSet, tables: Mapping[str, Sequence[MemoryAtContext]]
) -> int | None:
    """Return the largest context size that all of the set could have at once in its room.

    A model that was not trained for as much counts with its most. ``tables`` are the memory of
    each model by context size; without one for each model, and if none fits, return ``None``.
    """
    room = marked.room
    if room is None or not all(tables.get(model.id) for model in marked.models):
        return None
    sizes = sorted({row.context_size for model in marked.models for row in tables[model.id]})
    needs = {
        size: sum(_at_context(model, tables[model.id], size) for model in marked.models)
        for size in sizes
    }
    return max((size for size, need in needs.items() if need <= room), default=None)


def _at_context(model: ModelRecord, table: Sequence[MemoryAtContext], size: int) -> int:
    """Return its bytes with a context of ``size``, or of the nearest size in its table.

    The table is computed by a formula; a measured need at the present size corrects it.
    """
    row = max(
        (row for row in table if row.context_size <= size),
        key=lambda row: row.context_size,
        default=table[0],
    )
    current = next((row for row in table if row.current), None)
    known = memory_of(model)
    error = known - current.total_bytes if known is not None and current is not None else 0
    return max(0, row.total_bytes + error)


def marked_content(marked: MarkedSet, context: int | None, charset: Charset) -> Content:
    """Return one line on the set: its need, whether it fits, and with which context."""
    parts = [(f"{len(marked.models)} marked", "bold")]
    if marked.needs is None:
        return Content.assemble(*parts, ("  the memory of one of them is unknown", STYLES["dim"]))
    parts.append((f"  {size_text(marked.needs)}  ", ""))
    fit, room = marked.fit, marked.room
    if fit is None or room is None:
        return Content.assemble(*parts, (charset.missing, STYLES["dim"]))
    sign = fit_cell(fit, charset).text[:1]
    several = len(marked.models) > 1
    verb = "fit" if several else "fits"
    if fit is Fit.NEVER:
        text = f"{sign} {size_text(marked.needs - room)} too much"
    elif fit is Fit.AFTER_UNLOADING:
        text = f"{sign} {verb} after unloading {names_text(marked.evicts)}"
    else:
        text = f"{sign} {verb}"
    parts.append((text, STYLES[FIT_TONES[fit]]))
    if context is not None:
        words = f"{verb} with" if fit is Fit.NEVER else "with up to"
        each = " each" if several else ""
        parts.append((f"  {words} {context_text(context)} of context{each}", STYLES["dim"]))
    return Content.assemble(*parts)


def names_text(models: Sequence[ModelRecord]) -> str:
    """Return the names of some models: ``a, b, c and 2 more``."""
    names = [clean_line(model.id, limit=60) for model in models]
    more = len(names) - _NAMED
    if more > 0:
        return f"{', '.join(names[:_NAMED])} and {more} more"
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def marked_bar(marked: MarkedSet) -> tuple[list[BarPart], int, int | None]:
    """Return the parts of the memory with the set in it, their total, and the limit if exceeded."""
    limit, needs, room = marked.limit, marked.needs, marked.room
    if limit is None or needs is None or room is None:
        return [], 0, None
    parts = [
        BarPart(plain(model.id), size, "model", size_text(size).partition(" ")[0])
        for model in marked.models
        if (size := memory_of(model))
    ]
    others = max(0, limit - room)
    total = max(limit, others + needs)
    if others:
        parts.append(BarPart("others", others, "system", size_text(others)))
    if total > others + needs:
        free = total - others - needs
        parts.append(BarPart("free", free, "free", size_text(free)))
    return parts, total, limit if marked.fit is Fit.NEVER else None
