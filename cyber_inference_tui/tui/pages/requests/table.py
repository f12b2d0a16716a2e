"""The tables of requests and of totals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from cyber_inference_tui.records import ActiveRequestRecord, KeyTotals, ModelTotals, RequestRecord
from cyber_inference_tui.terminal.charset import Charset
from cyber_inference_tui.terminal.clients import client_name
from cyber_inference_tui.terminal.columns import Cell, Column, Order, RenderContext
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
from cyber_inference_tui.units import age_text, number_text, seconds_text, speed_text

AnyRequest = ActiveRequestRecord | RequestRecord


def first_token(record: AnyRequest) -> float | None:
    """Return the seconds to the first token of a stream; other answers come all at once."""
    return record.time_to_first_token_seconds if record.stream else None


def _finished(name: str) -> Callable[[AnyRequest], Any]:
    """Return a function for a field that only finished requests have."""
    return lambda record: getattr(record, name, None)


def _model_cell(record: AnyRequest, context: RenderContext) -> str:
    return plain(record.model) or context.charset.missing


def _failures_cell(totals: ModelTotals | KeyTotals, context: RenderContext) -> Cell:
    text = number_text(totals.failures)
    return Cell(text, "bad" if totals.failures else "dim")


def _used_cell(totals: ModelTotals | KeyTotals, context: RenderContext) -> str:
    return age_text(max(0.0, (context.now - totals.last_used_at).total_seconds()))


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


# Only finished requests are sorted; running ones stay on top.
COLUMNS: tuple[Column[Any, RenderContext], ...] = (
    Column("time", "TIME", 8, lambda r: r.at.timestamp(), cell=_time_cell, largest_first=True),
    Column("model", "MODEL", least=18, value=lambda r: r.model.lower(), cell=_model_cell),
    Column("kind", "KIND", 10, lambda r: request_kind(r.path), priority=4),
    Column(
        "status",
        "STATUS",
        12,
        lambda r: r.status,
        cell=status_cell,
        largest_first=True,
    ),
    Column("in", "IN", 7, _finished("tokens_in"), right=True, priority=6, text=number_text),
    Column("out", "OUT", 7, _finished("tokens_out"), right=True, priority=2, text=number_text),
    Column("first", "1ST TOKEN", 9, first_token, right=True, priority=5, text=seconds_text),
    Column(
        "speed",
        "TOKENS/S",
        8,
        _finished("tokens_per_second"),
        right=True,
        priority=3,
        text=speed_text,
    ),
    Column(
        "took", "TOOK", 8, lambda r: r.duration_seconds, right=True, priority=1, cell=_took_cell
    ),
    Column(
        "queue", "QUEUED", 7, lambda r: r.queue_seconds, right=True, priority=7, cell=_queued_cell
    ),
    Column("client", "CLIENT", 15, client_name, priority=8, cell=_client_cell),
)
NEWEST_FIRST: Order[RequestRecord] = Order(COLUMNS[0], descending=True)
_SUMS: tuple[Column[Any, RenderContext], ...] = (
    Column("requests", "REQUESTS", 9, lambda t: t.requests, right=True, text=number_text),
    Column("failures", "FAILURES", 9, right=True, cell=_failures_cell),
    Column("in", "TOKENS IN", 13, lambda t: t.tokens_in, right=True, priority=2, text=number_text),
    Column(
        "out", "TOKENS OUT", 13, lambda t: t.tokens_out, right=True, priority=1, text=number_text
    ),
    Column("used", "LAST USED", 10, right=True, cell=_used_cell),
)
TOTAL_COLUMNS: tuple[Column[ModelTotals, RenderContext], ...] = (
    Column("model", "MODEL", least=18, value=lambda t: t.model),
    *_SUMS,
)
KEY_TOTAL_COLUMNS: tuple[Column[KeyTotals, RenderContext], ...] = (
    Column("key", "KEY", least=18, cell=lambda t, _: plain(t.key_name)),
    *_SUMS,
)


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
    """Return the row of a running or finished request."""
    return row_of(row_key(record), record, COLUMNS, context)


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


def total_rows(totals: Sequence[ModelTotals], context: RenderContext) -> list[Row]:
    """Return the rows of the totals, the most recently used model first."""
    ordered = sorted(totals, key=lambda one: one.last_used_at, reverse=True)
    return [row_of(one.model, one, TOTAL_COLUMNS, context) for one in ordered]


def key_total_rows(totals: Sequence[KeyTotals], context: RenderContext) -> list[Row]:
    """Return the rows of the totals by key, the most recently used key first."""
    ordered = sorted(totals, key=lambda one: one.last_used_at, reverse=True)
    return [row_of(one.key_name, one, KEY_TOTAL_COLUMNS, context) for one in ordered]
