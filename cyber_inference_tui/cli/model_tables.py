"""Model records as tables: the library, and what the service is busy with."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from cyber_inference_tui.cli.tables import Cell, Column, render_table
from cyber_inference_tui.records import HubModelRecord, ModelRecord, ModelStatus, ProblemRecord
from cyber_inference_tui.terminal.stream import BOLD, DIM, RED, TONE_CODES, YELLOW, Terminal
from cyber_inference_tui.terminal.tone import STATUS_TONES
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.units import context_text, count_text, duration_text, size_text

_NOTHING = Cell("-", (DIM,))


def library_table(records: Sequence[ModelRecord], terminal: Terminal) -> list[str]:
    """All local models: id, state, quantization, size, context, memory, origin, what is wrong."""
    columns = [
        Column(title="ID", least=16),
        Column(title="STATE"),
        Column(title="QUANT", rank=2),
        Column(title="SIZE", right=True, rank=1),
        Column(title="CONTEXT", right=True, rank=3),
        Column(title="MEMORY", right=True, rank=2),
        Column(title="ORIGIN", rank=4),
    ]
    rows = [
        [
            _id_cell(record),
            _state_cell(record, terminal),
            Cell(record.quantization) if record.quantization else _NOTHING,
            _size_cell(record.size_bytes),
            Cell(context_text(record.context_length)) if record.context_length else _NOTHING,
            _memory_cell(record),
            Cell(record.origin, (DIM,)),
        ]
        for record in records
    ]
    if any(record.error for record in records):
        columns.append(Column(title="PROBLEM", least=16, rank=1))
        for row, record in zip(rows, records, strict=True):
            row.append(Cell(record.error or "", (RED,)))
    return render_table(columns, rows, terminal)


def problem_lines(problems: Sequence[ProblemRecord], terminal: Terminal) -> list[str]:
    """Files that cannot be used, with two uncut lines each: the place and the reason."""
    lines = [terminal.paint("CANNOT BE USED", DIM)]
    for problem in problems:
        lines.append(clean_line(problem.where))
        lines.append(f"  {terminal.paint(clean_line(problem.reason), RED)}")
    return lines


def hub_table(records: Sequence[HubModelRecord], terminal: Terminal) -> list[str]:
    """What a search found: name, parameters, architecture, downloads, likes, last change, gate."""
    columns = [
        Column(title="REPO", least=24),
        Column(title="PARAMS", right=True, rank=1),
        Column(title="ARCH", rank=3),
        Column(title="DOWNLOADS", right=True, rank=2),
        Column(title="LIKES", right=True, rank=4),
        Column(title="UPDATED", rank=3),
        Column(title="GATED", rank=2),
    ]
    rows = [
        [
            Cell(record.repo),
            _text_cell(None if record.parameters is None else count_text(record.parameters)),
            _text_cell(record.architecture),
            _text_cell(None if record.downloads is None else f"{record.downloads:,}"),
            _text_cell(None if record.likes is None else f"{record.likes:,}"),
            _text_cell(record.updated_at.date().isoformat() if record.updated_at else None),
            Cell("gated", (YELLOW,)) if record.gated else Cell(""),
        ]
        for record in records
    ]
    return render_table(columns, rows, terminal)


def _text_cell(text: str | None) -> Cell:
    return Cell(text) if text else _NOTHING


def busy_table(records: Sequence[ModelRecord], now: datetime, terminal: Terminal) -> list[str]:
    """Models in use: id, state, requests, waiting, port, memory, last use, and what is wrong."""
    columns = [
        Column(title="ID", least=16),
        Column(title="STATE"),
        Column(title="REQUESTS", right=True, rank=1),
        Column(title="WAITING", right=True, rank=3),
        Column(title="PORT", right=True, rank=4),
        Column(title="MEMORY", right=True, rank=2),
        Column(title="LAST USED", right=True, rank=3),
    ]
    rows = [
        [
            _id_cell(record),
            _state_cell(record, terminal),
            Cell(str(record.in_flight)),
            Cell(str(record.queued)),
            Cell(str(record.port)) if record.port else _NOTHING,
            _memory_cell(record),
            _ago_cell(record.last_used_at, now),
        ]
        for record in records
    ]
    if any(record.error for record in records):
        columns.append(Column(title="PROBLEM", least=16, rank=1))
        for row, record in zip(rows, records, strict=True):
            row.append(Cell(record.error or "", (RED,)))
    return render_table(columns, rows, terminal)


def _id_cell(record: ModelRecord) -> Cell:
    return Cell(record.id, (BOLD,) if record.status is ModelStatus.LOADED else ())


def _state_cell(record: ModelRecord, terminal: Terminal) -> Cell:
    text = record.status.value
    if terminal.interactive:
        text = f"{terminal.charset.status_sign(record.status)} {text}"
    if record.status is ModelStatus.LOADING and record.progress is not None:
        text = f"{text} {record.progress:.0%}"
    return Cell(text, TONE_CODES[STATUS_TONES[record.status]])


def _size_cell(size: int | None) -> Cell:
    return _NOTHING if size is None else Cell(size_text(size))


def _memory_cell(record: ModelRecord) -> Cell:
    if record.memory_bytes is not None:
        return Cell(size_text(record.memory_bytes))
    if record.memory_estimate_bytes is not None:
        return Cell(f"~{size_text(record.memory_estimate_bytes)}", (DIM,))
    return _NOTHING


def _ago_cell(moment: datetime | None, now: datetime) -> Cell:
    if moment is None:
        return _NOTHING
    return Cell(f"{duration_text(max(0.0, (now - moment).total_seconds()))} ago")
