"""The table of models: its columns, its filter and its rows."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime
from functools import partial

from cyber_inference_tui.records import Fit, ModelRecord, ModelStatus
from cyber_inference_tui.terminal.charset import Charset
from cyber_inference_tui.terminal.columns import Cell, Column, Order, RenderContext
from cyber_inference_tui.terminal.text_width import plain
from cyber_inference_tui.terminal.tone import STATUS_TONES, Tone
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.snapshot import EVERYWHERE, RemoteModel
from cyber_inference_tui.tui.widgets.live_table import Row, row_of
from cyber_inference_tui.units import (
    age_text,
    contexts_text,
    count_text,
    size_text,
)

HERE = "here"
"""The name of this box in a column of boxes."""
FIT_WORDS: dict[Fit, str] = {
    Fit.NOW: "fits",
    Fit.AFTER_UNLOADING: "evicts",
    Fit.NEVER: "too big",
}
FIT_TONES: dict[Fit, Tone] = {Fit.NOW: "good", Fit.AFTER_UNLOADING: "busy", Fit.NEVER: "bad"}

# The busiest states first.
STATE_ORDER = (
    ModelStatus.LOADED,
    ModelStatus.LOADING,
    ModelStatus.QUEUED,
    ModelStatus.UNLOADING,
    ModelStatus.FAILED,
    ModelStatus.UNLOADED,
)


def memory_of(model: ModelRecord) -> int | None:
    """Return the bytes that it uses, or the estimate."""
    return model.memory_bytes if model.memory_bytes is not None else model.memory_estimate_bytes


def fit_cell(fit: Fit | None, charset: Charset) -> Cell:
    """Return the sign and word for ``fit``."""
    if fit is None:
        return Cell(charset.missing, "dim")
    signs = {
        Fit.NOW: charset.check,
        Fit.AFTER_UNLOADING: charset.status_sign(ModelStatus.UNLOADING),
        Fit.NEVER: charset.status_sign(ModelStatus.FAILED),
    }
    return Cell(f"{signs[fit]} {FIT_WORDS[fit]}", FIT_TONES[fit])


def flags_text(model: ModelRecord, charset: Charset) -> str:
    """Return the pin, and whether it has vision or makes embeddings, in 8 cells."""
    kinds = {(True, False): "vision", (False, True): "embed", (True, True): "vis+em"}
    pin = charset.pin if model.pinned else " "
    return f"{pin} {kinds.get((model.vision, model.embedding), '')}".rstrip()


def state_cell(model: ModelRecord, charset: Charset) -> Cell:
    """Return the state as sign and word, with the progress of a load."""
    if model.unreadable:
        return Cell(f"{charset.status_sign(ModelStatus.FAILED)} unreadable", "bad")
    text = charset.status_text(model.status, model.progress)
    return Cell(text, STATUS_TONES[model.status])


def context_cell(model: ModelRecord, context: RenderContext) -> str:
    """Return the context in force and the trained one."""
    text = contexts_text(model.context_length, model.trained_context_length)
    return text or context.charset.missing


def memory_cell(model: ModelRecord, context: RenderContext) -> Cell:
    """Return the memory that it takes, or dimmed the estimate of what it would take."""
    estimate = model.memory_bytes is None
    text = context.charset.known(memory_of(model), partial(size_text, estimate=estimate))
    return Cell(text, "dim" if estimate else "none")


def name_cell(model: ModelRecord, context: RenderContext) -> str:
    """Return its id on its box, behind the sign of a favourite."""
    name = plain(model.there if isinstance(model, RemoteModel) else model.id)
    return f"{context.charset.favourite} {name}" if model.id in context.favourites else name


def box_cell(model: ModelRecord, _: RenderContext) -> Cell:
    """Return the box that has it."""
    return Cell(model.box if isinstance(model, RemoteModel) else HERE, "dim")


def _flags_cell(model: ModelRecord, context: RenderContext) -> Cell:
    return Cell(flags_text(model, context.charset), "accent")


def fits_cell(model: ModelRecord, context: RenderContext) -> Cell:
    """Return whether it fits, as sign and word."""
    return fit_cell(model.fits, context.charset)


def _fit_rank(model: ModelRecord) -> int | None:
    return None if model.fits is None else list(Fit).index(model.fits)


def _age_order(model: ModelRecord) -> float | None:
    return -model.last_used_at.timestamp() if model.last_used_at else None


def _used_cell(model: ModelRecord, context: RenderContext) -> Cell:
    return Cell(_age_text(model, context), "dim")


def _age_text(model: ModelRecord, context: RenderContext) -> str:
    used = model.last_used_at
    seconds = None if used is None else max(0.0, (context.now - used).total_seconds())
    return context.charset.known(seconds, age_text)


COLUMNS: tuple[Column[ModelRecord, RenderContext], ...] = (
    Column("model", "MODEL", least=24, value=lambda m: m.id.casefold(), cell=name_cell),
    Column("box", "BOX", 11, cell=box_cell),
    Column(
        "state",
        "STATE",
        14,
        lambda m: STATE_ORDER.index(m.status),
        cell=lambda m, context: state_cell(m, context.charset),
    ),
    Column("quant", "QUANT", 7, lambda m: m.quantization, priority=4),
    Column("size", "SIZE", 9, lambda m: m.size_bytes, right=True, priority=3, text=size_text),
    Column("params", "PARAMS", 7, lambda m: m.parameters, right=True, priority=8, text=count_text),
    Column(
        "context",
        "CONTEXT",
        11,
        lambda m: m.context_length or None,
        right=True,
        priority=5,
        cell=context_cell,
    ),
    Column("kind", "KIND", 8, priority=6, cell=_flags_cell),
    Column("fits", "FITS", 9, _fit_rank, priority=1, cell=fits_cell),
    Column("memory", "MEMORY", 10, memory_of, right=True, priority=2, cell=memory_cell),
    # By age, so that the ascending order begins with the most recently used model.
    Column(
        "used", "USED", 6, _age_order, right=True, priority=7, cell=_used_cell, largest_first=False
    ),
)


def sorted_models(
    models: Iterable[ModelRecord], order: Order[ModelRecord], favourites: Collection[str] = ()
) -> list[ModelRecord]:
    """Sort ``models`` by ``order``, then by name; ``favourites`` come first."""
    found = order.sort(sorted(models, key=lambda model: model.id.casefold()))
    return sorted(found, key=lambda model: model.id not in favourites)


def matches(model: ModelRecord, wanted: str) -> bool:
    """Return whether id, aliases, architecture and quantization contain every word."""
    words = wanted.casefold().split()
    if not words:
        return True
    names = (model.id, *model.aliases, model.architecture or "", model.quantization or "")
    text = "\n".join(names).casefold()
    return all(word in text for word in words)


def model_row(model: ModelRecord, context: RenderContext) -> Row:
    """Return the row of a model."""
    return row_of(model.id, model, COLUMNS, context, "dim" if model.unreadable else "none")


def title_text(shown: int, total: int, wanted: str) -> str:
    """Return what follows the page's title: ``5``, ``3 of 12  /qwen``."""
    if not wanted:
        return f"  {total}" if total else ""
    return f"  {shown} of {total}  /{clean_line(wanted, limit=60)}"


def box_text(box: str) -> str:
    """Return the boxes whose models are shown, in words."""
    if box == EVERYWHERE:
        return "on all boxes"
    return f"on {box}" if box else "on this box"


class Rows:
    """Makes rows and reuses those of unchanged models.

    Events come several times per second, and of hundreds of models hardly any changes.
    """

    def __init__(self, charset: Charset) -> None:
        self._charset = charset
        self._made: dict[str, tuple[ModelRecord, tuple[str, bool], Row]] = {}

    def of(
        self,
        models: Iterable[ModelRecord],
        *,
        wanted: str,
        order: Order[ModelRecord],
        now: datetime,
        favourites: Collection[str] = (),
    ) -> list[Row]:
        """Return the rows of the matching models in order."""
        context = RenderContext(self._charset, now, favourites)
        matching = (model for model in models if matches(model, wanted))
        made = {}
        for model in sorted_models(matching, order, favourites):
            beside = _age_text(model, context), model.id in favourites
            known = self._made.get(model.id)
            if known is None or known[1] != beside or (known[0] is not model and known[0] != model):
                known = (model, beside, model_row(model, context))
            made[model.id] = known
        self._made = made
        return [row for _, _, row in made.values()]
