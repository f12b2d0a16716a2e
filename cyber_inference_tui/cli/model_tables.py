"""Tables of models: the library, the busy models and search results."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from cyber_inference_tui.cli.text_table import render_table
from cyber_inference_tui.records import (
    AdapterRecord,
    HubModelRecord,
    ModelRecord,
    ModelStatus,
    ProblemRecord,
)
from cyber_inference_tui.records.checks import Trial
from cyber_inference_tui.terminal.columns import Cell, Column
from cyber_inference_tui.terminal.stream import DIM, RED, Terminal
from cyber_inference_tui.terminal.tone import OUTCOME_TONES, STATUS_TONES
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.units import contexts_text, count_text, duration_text, size_text

_NOTHING = Cell("-", "dim")


def library_table(records: Sequence[ModelRecord], now: datetime, terminal: Terminal) -> list[str]:
    """Return all local models: id, state, quantization, size, context, memory, origin, last use,
    problem."""
    columns: list[Column[ModelRecord, Terminal]] = [
        _ID,
        _STATE,
        Column("quant", "QUANT", priority=2, cell=lambda model, _: _text(model.quantization)),
        Column(
            "size", "SIZE", right=True, priority=1, cell=lambda model, _: _size(model.size_bytes)
        ),
        Column("context", "CONTEXT", right=True, priority=3, cell=_context_cell),
        _MEMORY,
        Column("origin", "ORIGIN", priority=4, cell=lambda model, _: Cell(model.origin, "dim")),
        _used_column(now),
        *_problem_columns(records),
    ]
    return render_table(columns, records, terminal)


def problem_lines(problems: Sequence[ProblemRecord], terminal: Terminal) -> list[str]:
    """Return two uncut lines for each unusable file: its path and the reason."""
    lines = [terminal.paint("CANNOT BE USED", DIM)]
    for problem in problems:
        lines.append(clean_line(problem.where))
        lines.append(f"  {terminal.paint(clean_line(problem.reason), RED)}")
    return lines


def adapter_table(records: Sequence[AdapterRecord], terminal: Terminal) -> list[str]:
    """Return LoRA adapters: number, name, size, strength, and the strength at each start."""
    columns: list[Column[AdapterRecord, Terminal]] = [
        Column("number", "NUMBER", right=True, cell=lambda one, _: str(one.id)),
        Column("name", "ADAPTER", least=12, cell=lambda one, _: one.name),
        Column("size", "SIZE", right=True, priority=2, cell=lambda one, _: _size(one.size_bytes)),
        Column("scale", "STRENGTH", right=True, cell=lambda one, _: _scale(one.scale)),
        Column(
            "initial",
            "AT START",
            right=True,
            priority=1,
            cell=lambda one, _: _scale(one.initial_scale),
        ),
    ]
    return render_table(columns, records, terminal)


def _scale(scale: float | None) -> Cell:
    return _NOTHING if scale is None else Cell(f"{scale:.4g}")


def hub_table(records: Sequence[HubModelRecord], terminal: Terminal) -> list[str]:
    """Return search results: name, parameters, architecture, downloads, likes, last change,
    licence, gate."""
    return render_table(_HUB, records, terminal)


def busy_table(records: Sequence[ModelRecord], now: datetime, terminal: Terminal) -> list[str]:
    """Return models in use: id, state, requests, waiting, port, memory, last use, problem."""
    columns: list[Column[ModelRecord, Terminal]] = [
        _ID,
        _STATE,
        Column(
            "requests",
            "REQUESTS",
            right=True,
            priority=1,
            cell=lambda model, _: f"{model.in_flight}",
        ),
        Column(
            "waiting", "WAITING", right=True, priority=3, cell=lambda model, _: f"{model.queued}"
        ),
        Column("port", "PORT", right=True, priority=4, cell=lambda model, _: _text(model.port)),
        _MEMORY,
        _used_column(now),
        *_problem_columns(records),
    ]
    return render_table(columns, records, terminal)


def trial_table(trials: Sequence[Trial], terminal: Terminal) -> list[str]:
    """Return what was tried with a model: ability, result, evidence."""
    columns: list[Column[Trial, Terminal]] = [
        Column("ability", "ABILITY", value=lambda trial: trial.ability.value),
        Column(
            "result",
            "RESULT",
            cell=lambda trial, _: Cell(trial.outcome.value, OUTCOME_TONES[trial.outcome]),
        ),
        Column("evidence", "EVIDENCE", least=20, cell=lambda trial, _: Cell(trial.evidence, "dim")),
    ]
    return render_table(columns, trials, terminal)


def _text(shown: object) -> Cell | str:
    return str(shown) if shown else _NOTHING


def _number(number: int | None) -> Cell | str:
    return _NOTHING if number is None else f"{number:,}"


def _size(size: int | None) -> Cell | str:
    return _NOTHING if size is None else size_text(size)


def _used_column(now: datetime) -> Column[ModelRecord, Terminal]:
    return Column(
        "used",
        "LAST USED",
        right=True,
        priority=3,
        cell=lambda model, _: _ago(model.last_used_at, now),
    )


def _ago(moment: datetime | None, now: datetime) -> Cell | str:
    if moment is None:
        return _NOTHING
    return f"{duration_text(max(0.0, (now - moment).total_seconds()))} ago"


def _id_cell(record: ModelRecord, _: Terminal) -> Cell:
    return Cell(record.id, "strong" if record.status is ModelStatus.LOADED else "none")


def _state_cell(record: ModelRecord, terminal: Terminal) -> Cell:
    status = ModelStatus.FAILED if record.unreadable else record.status
    text = "unreadable" if record.unreadable else status.value
    if terminal.interactive:
        text = f"{terminal.charset.status_sign(status)} {text}"
    if status is ModelStatus.LOADING and record.progress is not None:
        text = f"{text} {record.progress:.0%}"
    return Cell(text, STATUS_TONES[status])


def _context_cell(record: ModelRecord, _: Terminal) -> Cell | str:
    return contexts_text(record.context_length, record.trained_context_length) or _NOTHING


def _memory_cell(record: ModelRecord, _: Terminal) -> Cell | str:
    if record.memory_bytes is not None:
        return size_text(record.memory_bytes)
    if record.memory_estimate_bytes is not None:
        return Cell(size_text(record.memory_estimate_bytes, estimate=True), "dim")
    return _NOTHING


def _problem_columns(records: Sequence[ModelRecord]) -> list[Column[ModelRecord, Terminal]]:
    """Return a column for problems if any model has one."""
    if not any(record.error for record in records):
        return []
    return [
        Column(
            "problem",
            "PROBLEM",
            least=16,
            priority=1,
            cell=lambda model, _: Cell(model.error or "", "bad"),
        )
    ]


_ID: Column[ModelRecord, Terminal] = Column("id", "ID", least=16, cell=_id_cell)
_STATE: Column[ModelRecord, Terminal] = Column("state", "STATE", cell=_state_cell)
_MEMORY: Column[ModelRecord, Terminal] = Column(
    "memory", "MEMORY", right=True, priority=2, cell=_memory_cell
)
_HUB: tuple[Column[HubModelRecord, Terminal], ...] = (
    Column("repo", "REPO", least=24, cell=lambda model, _: model.repo),
    Column(
        "params",
        "PARAMS",
        right=True,
        priority=1,
        cell=lambda model, _: (
            _NOTHING if model.parameters is None else count_text(model.parameters)
        ),
    ),
    Column("arch", "ARCH", priority=3, cell=lambda model, _: _text(model.architecture)),
    Column(
        "downloads",
        "DOWNLOADS",
        right=True,
        priority=2,
        cell=lambda model, _: _number(model.downloads),
    ),
    Column("likes", "LIKES", right=True, priority=4, cell=lambda model, _: _number(model.likes)),
    Column(
        "updated",
        "UPDATED",
        priority=3,
        cell=lambda model, _: _text(model.updated_at and model.updated_at.date().isoformat()),
    ),
    Column("licence", "LICENCE", priority=5, cell=lambda model, _: _text(model.licence)),
    Column(
        "gated",
        "GATED",
        priority=2,
        cell=lambda model, _: Cell("gated" if model.gated else "", "busy"),
    ),
)
