"""The table of requests."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from cyber_inference_tui.records import ActiveRequestRecord, RequestRecord
from cyber_inference_tui.terminal.charset import Charset
from cyber_inference_tui.terminal.clients import client_name
from cyber_inference_tui.terminal.columns import Cell, Column, Order, RenderContext
from cyber_inference_tui.terminal.phases import tokens_out_text
from cyber_inference_tui.terminal.text_width import plain
from cyber_inference_tui.tui.pages.requests.request_status import (
    clock_text,
    outcome_text,
    request_kind,
    status_cell,
)
from cyber_inference_tui.tui.snapshot import RequestIdentity, request_identity
from cyber_inference_tui.tui.ways_out import with_keys
from cyber_inference_tui.tui.widgets.live_table import Row, row_of
from cyber_inference_tui.units import energy_text, number_text, seconds_text, speed_text

AnyRequest = ActiveRequestRecord | RequestRecord

SPARK = 8
"""Cells of the history of a running request's speed."""


def first_token(record: AnyRequest) -> float | None:
    """Return the seconds to the first token of a stream; other answers come all at once."""
    return record.time_to_first_token_seconds if record.stream else None


def _tokens_in(record: AnyRequest) -> int | None:
    return record.tokens_in if isinstance(record, RequestRecord) else None


def _energy(record: AnyRequest) -> float | None:
    return record.energy_j if isinstance(record, RequestRecord) else None


def _tokens_out_cell(record: AnyRequest, context: RenderContext) -> str:
    if isinstance(record, RequestRecord):
        return tokens_out_text(record, context.charset)
    # Of a running request all are counted.
    return context.charset.known(record.tokens_out, number_text)


def _model_cell(record: AnyRequest, context: RenderContext) -> str:
    return plain(record.model) or context.charset.missing


def _time_cell(record: AnyRequest, context: RenderContext) -> Cell:
    dim = isinstance(record, RequestRecord)
    return Cell(clock_text(record.at, context.now), "dim" if dim else "none")


def _took_cell(record: AnyRequest, context: RenderContext) -> Cell | str:
    if isinstance(record, RequestRecord):
        return seconds_text(record.duration_seconds)
    age = max(0.0, (context.now - record.at).total_seconds())
    return Cell(f"{int(age):,} s", "busy")


def _queued_cell(record: AnyRequest, context: RenderContext) -> str:
    if isinstance(record, ActiveRequestRecord) and record.position is not None:
        return f"{int(record.queue_seconds):,} s"
    return context.charset.known(record.queue_seconds, seconds_text)


def _client_cell(record: AnyRequest, context: RenderContext) -> Cell:
    dim = isinstance(record, RequestRecord)
    name = plain(client_name(record)) or context.charset.missing
    return Cell(name, "dim" if dim else "none")


def _box_cell(record: AnyRequest, _: RenderContext) -> Cell:
    return Cell(record.box or "", "dim")


# Only finished requests are sorted; running ones stay on top.
COLUMNS: tuple[Column[Any, RenderContext], ...] = (
    Column("time", "TIME", 8, lambda r: r.at.timestamp(), cell=_time_cell, largest_first=True),
    Column("model", "MODEL", least=18, value=lambda r: r.model.lower(), cell=_model_cell),
    Column("kind", "KIND", 10, lambda r: request_kind(r.path), priority=5),
    Column(
        "status",
        "STATUS",
        12,
        lambda r: r.status,
        cell=status_cell,
        largest_first=True,
    ),
    Column("in", "IN", 7, _tokens_in, right=True, priority=7, text=number_text),
    Column("out", "OUT", 7, lambda r: r.tokens_out, right=True, priority=2, cell=_tokens_out_cell),
    Column("first", "1ST TOKEN", 9, first_token, right=True, priority=6, text=seconds_text),
    Column(
        "speed",
        "TOKENS/S",
        8,
        lambda r: r.tokens_per_second,
        right=True,
        priority=3,
        text=speed_text,
    ),
    Column("spark", "", SPARK, cell=lambda *_: "", priority=4),
    Column(
        "took", "TOOK", 8, lambda r: r.duration_seconds, right=True, priority=1, cell=_took_cell
    ),
    Column("energy", "ENERGY", 8, _energy, right=True, priority=4, text=energy_text),
    Column(
        "queue", "QUEUED", 7, lambda r: r.queue_seconds, right=True, priority=8, cell=_queued_cell
    ),
    Column("client", "CLIENT", 15, client_name, priority=9, cell=_client_cell),
    Column("box", "BOX", 11, priority=4, cell=_box_cell),
)
_SPARK_PLACE = next(place for place, column in enumerate(COLUMNS) if column.key == "spark")
NEWEST_FIRST: Order[RequestRecord] = Order(COLUMNS[0], descending=True)


def searchable_text(record: AnyRequest, charset: Charset) -> str:
    """Return the text that a filter searches, in lower case."""
    parts = [record.model, record.path, request_kind(record.path)]
    parts += [record.client or "", record.user_agent or "", client_name(record)]
    if isinstance(record, RequestRecord):
        parts += [outcome_text(record, charset), with_keys(record.error or "")]
    else:
        parts.append(record.phase.value)
    return " ".join(plain(part) for part in parts).lower()


def row_key(record: AnyRequest) -> str:
    """Return the key of its row, which never changes, so that the cursor stays on it."""
    at, model, path, client = request_identity(record)
    return f"{at.timestamp()} {model} {path} {client}"


def request_row(record: AnyRequest, context: RenderContext) -> Row:
    """Return the row of a finished request."""
    return row_of(row_key(record), record, COLUMNS, context)


def live_row(record: ActiveRequestRecord, context: RenderContext, spark: str = "") -> Row:
    """Return the row of a running request with the history of its speed."""
    row = request_row(record, context)
    cells = list(row.cells)
    cells[_SPARK_PLACE] = Cell(spark, "dim")
    return Row(row.key, tuple(cells), row.tone)


class FinishedRows:
    """Makes and reuses rows of finished requests, as thousands are shown every second."""

    def __init__(self, charset: Charset) -> None:
        self._charset = charset
        self._rows: dict[RequestIdentity, tuple[RequestRecord, Row]] = {}
        self._day = ""

    def rows(self, records: Sequence[RequestRecord], now: datetime) -> list[Row]:
        """Return a row for each of ``records``, in their order."""
        day = f"{now:%Y-%m-%d %z}"
        before = self._rows if day == self._day else {}
        self._day = day
        context = RenderContext(self._charset, now)
        made: dict[RequestIdentity, tuple[RequestRecord, Row]] = {}
        for record in records:
            name = request_identity(record)
            known = before.get(name)
            if known is None or known[0] is not record:
                known = (record, request_row(record, context))
            made[name] = known
        self._rows = made
        return [row for _, row in made.values()]
