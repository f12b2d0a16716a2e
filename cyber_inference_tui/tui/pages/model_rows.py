"""Models as the rows of a table: what each column says, their order, and the filter. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cyber_inference_tui.records import Fit, ModelRecord, ModelStatus
from cyber_inference_tui.terminal.charset import Charset
from cyber_inference_tui.terminal.tone import STATUS_TONES, Tone
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.figures import age_text, memory_text, status_text
from cyber_inference_tui.tui.widgets.table import Cell, Column, Row
from cyber_inference_tui.units import context_text

COLUMNS = (
    Column(key="model", title="MODEL", least=29),
    Column(key="state", title="STATE", width=14),
    Column(key="quant", title="QUANT", width=7, priority=4),
    Column(key="size", title="SIZE", width=9, align="right", priority=3),
    Column(key="params", title="PARAMS", width=7, align="right", priority=8),
    Column(key="context", title="CONTEXT", width=7, align="right", priority=5),
    Column(key="marks", title="", width=8, priority=6),
    Column(key="fits", title="FITS", width=9, priority=1),
    Column(key="memory", title="MEMORY", width=10, align="right", priority=2),
    Column(key="used", title="USED", width=6, align="right", priority=7),
)
UNSORTED = frozenset({"marks"})
"""Columns without an order."""
_LARGEST_FIRST = frozenset({"size", "params", "context", "memory"})

FIT_WORDS: dict[Fit, str] = {
    Fit.NOW: "fits",
    Fit.AFTER_UNLOADING: "evicts",
    Fit.NEVER: "too big",
}
FIT_TONES: dict[Fit, Tone] = {Fit.NOW: "good", Fit.AFTER_UNLOADING: "busy", Fit.NEVER: "bad"}

# The busiest first: those are what one looks for.
_STATE_ORDER = (
    ModelStatus.LOADED,
    ModelStatus.LOADING,
    ModelStatus.QUEUED,
    ModelStatus.UNLOADING,
    ModelStatus.FAILED,
    ModelStatus.UNLOADED,
)
_LONGEST = 300
"""Characters of a name that are looked at; no screen is that wide."""


@dataclass(frozen=True, slots=True)
class Order:
    """By which column the rows are sorted."""

    column: str = "model"
    descending: bool = False

    def by(self, column: str) -> Order:
        """Sorted by another column, the way that is wanted most; the same one turns round."""
        if column in UNSORTED:
            return self
        if column == self.column:
            return Order(column, not self.descending)
        return Order(column, column in _LARGEST_FIRST)

    def next(self, shown: Iterable[str]) -> Order:
        """Sorted by the next of the columns that are shown."""
        columns = [column for column in shown if column not in UNSORTED] or [self.column]
        at = columns.index(self.column) + 1 if self.column in columns else 0
        column = columns[at % len(columns)]
        return self if column == self.column else self.by(column)


def sorted_models(models: Iterable[ModelRecord], order: Order) -> list[ModelRecord]:
    """``models`` in this order; those of which the value is not known come last either way."""
    known: list[tuple[Any, ModelRecord]] = []
    unknown = []
    for model in sorted(models, key=lambda model: model.id.casefold()):
        value = _value(model, order.column)
        if value is None:
            unknown.append(model)
        else:
            known.append((value, model))
    # Sorting is stable in both directions: equals stay in the order of their names.
    known.sort(key=lambda pair: pair[0], reverse=order.descending)
    return [model for _, model in known] + unknown


def _value(model: ModelRecord, column: str) -> Any:
    match column:
        case "state":
            return _STATE_ORDER.index(model.status)
        case "quant":
            return model.quantization
        case "size":
            return model.size_bytes
        case "params":
            return model.parameters
        case "context":
            return model.context_length
        case "fits":
            return None if model.fits is None else list(Fit).index(model.fits)
        case "memory":
            return memory_of(model)
        case "used":
            # By age, so that ascending begins with the last used one.
            return None if model.last_used_at is None else -model.last_used_at.timestamp()
        case _:
            return model.id.casefold()


def memory_of(model: ModelRecord) -> int | None:
    """Bytes that it takes, or would take."""
    return model.memory_bytes if model.memory_bytes is not None else model.memory_estimate_bytes


def matches(model: ModelRecord, wanted: str) -> bool:
    """Every word of ``wanted`` is in its id, an alias, its architecture or its quantization."""
    words = wanted.casefold().split()
    if not words:
        return True
    names = (model.id, *model.aliases, model.architecture or "", model.quantization or "")
    told = "\n".join(names).casefold()
    return all(word in told for word in words)


def params_text(parameters: int | None, charset: Charset) -> str:
    """How many weights: ``4.0 B``, ``475 M``."""
    if parameters is None:
        return charset.missing
    for size, unit in ((1e12, "T"), (1e9, "B")):
        if parameters >= 0.9995 * size:
            return f"{parameters / size:.1f} {unit}"
    return f"{parameters / 1e6:.0f} M" if parameters >= 999_500 else f"{parameters:,}"


def fit_cell(fit: Fit | None, charset: Charset) -> Cell:
    """Whether it fits, as sign and word."""
    if fit is None:
        return Cell(charset.missing, "dim")
    signs = {
        Fit.NOW: charset.check,
        Fit.AFTER_UNLOADING: charset.status_sign(ModelStatus.UNLOADING),
        Fit.NEVER: charset.status_sign(ModelStatus.FAILED),
    }
    return Cell(f"{signs[fit]} {FIT_WORDS[fit]}", FIT_TONES[fit])


def marks_text(model: ModelRecord, charset: Charset) -> str:
    """What else there is to know, in 8 cells: the pin, and what it takes or makes."""
    kinds = {(True, False): "vision", (False, True): "embed", (True, True): "vis+em"}
    pin = charset.pin if model.pinned else " "
    return f"{pin} {kinds.get((model.vision, model.embedding), '')}".rstrip()


def model_row(model: ModelRecord, age: str, charset: Charset) -> Row:
    """The row of one model; ``age``: how long ago it was used."""
    dim: Tone = "dim" if model.error and model.status is ModelStatus.UNLOADED else "none"
    memory = memory_text(memory_of(model), estimate=model.memory_bytes is None, charset=charset)
    return Row(
        model.id,
        (
            clean_line(model.id, limit=_LONGEST),
            _state_cell(model, charset),
            clean_line(model.quantization or charset.missing, limit=_LONGEST),
            memory_text(model.size_bytes, charset=charset),
            params_text(model.parameters, charset),
            context_text(model.context_length) if model.context_length else charset.missing,
            Cell(marks_text(model, charset), "accent"),
            fit_cell(model.fits, charset),
            memory if model.memory_bytes is not None else Cell(memory, "dim"),
            Cell(age, "dim"),
        ),
        tone=dim,
    )


def _state_cell(model: ModelRecord, charset: Charset) -> Cell:
    if model.error and model.status is ModelStatus.UNLOADED:
        return Cell(f"{charset.status_sign(ModelStatus.FAILED)} unreadable", "bad")
    text = status_text(model.status, model.progress, charset=charset)
    return Cell(text, STATUS_TONES[model.status])


def title_text(shown: int, total: int, wanted: str) -> str:
    """The page's title: ``Models  12``, ``Models  3 of 12  /qwen``."""
    if not wanted:
        return f"Models  {total}" if total else "Models"
    return f"Models  {shown} of {total}  /{clean_line(wanted, limit=60)}"


def _same(one: ModelRecord, other: ModelRecord) -> bool:
    return one is other or one == other


class Rows:
    """Makes rows, and keeps those whose models have not changed.

    A service sends news several times a second; with hundreds of models nearly all stay as they
    were.
    """

    def __init__(self, charset: Charset) -> None:
        self._charset = charset
        self._made: dict[str, tuple[ModelRecord, str, Row]] = {}

    def of(
        self, models: Iterable[ModelRecord], *, wanted: str, order: Order, now: datetime
    ) -> list[Row]:
        """The rows of those that match, in order."""
        chosen = sorted_models((model for model in models if matches(model, wanted)), order)
        made = {}
        for model in chosen:
            used = model.last_used_at
            seconds = None if used is None else max(0.0, (now - used).total_seconds())
            age = age_text(seconds, charset=self._charset)
            known = self._made.get(model.id)
            if known is None or known[1] != age or not _same(known[0], model):
                known = (model, age, model_row(model, age, self._charset))
            made[model.id] = known
        self._made = made
        return [row for _, _, row in made.values()]
