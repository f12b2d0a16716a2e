"""The requests page's tables: requests and totals as rows, in the wanted order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cyber_inference_tui.records import ActiveRequestRecord, ModelTotals, RequestRecord
from cyber_inference_tui.terminal.charset import Charset
from cyber_inference_tui.terminal.columns import Column
from cyber_inference_tui.terminal.text_width import plain
from cyber_inference_tui.tui.figures import age_text, number_text
from cyber_inference_tui.tui.pages.request_history import Identity, identity
from cyber_inference_tui.tui.pages.request_words import (
    clock,
    kind_of,
    outcome,
    outcome_tone,
    phase_sign,
)
from cyber_inference_tui.tui.widgets.table import Cell, Row

COLUMNS = (
    Column(key="time", title="TIME", width=8),
    Column(key="model", title="MODEL", least=18),
    Column(key="kind", title="KIND", width=10, priority=4),
    Column(key="status", title="STATUS", width=12),
    Column(key="in", title="IN", width=7, align="right", priority=6),
    Column(key="out", title="OUT", width=7, align="right", priority=2),
    Column(key="first", title="1ST TOKEN", width=9, align="right", priority=5),
    Column(key="speed", title="TOKENS/S", width=8, align="right", priority=3),
    Column(key="took", title="TOOK", width=8, align="right", priority=1),
    Column(key="queue", title="QUEUED", width=7, align="right", priority=7),
    Column(key="client", title="CLIENT", width=15, priority=8),
)
TOTAL_COLUMNS = (
    Column(key="model", title="MODEL", least=18),
    Column(key="requests", title="REQUESTS", width=9, align="right"),
    Column(key="failures", title="FAILURES", width=9, align="right"),
    Column(key="in", title="TOKENS IN", width=13, align="right", priority=2),
    Column(key="out", title="TOKENS OUT", width=13, align="right", priority=1),
    Column(key="used", title="LAST USED", width=10, align="right"),
)
SORT_TITLES = {column.key: column.title for column in COLUMNS}


def first_token(record: ActiveRequestRecord | RequestRecord) -> float | None:
    """Seconds until the first token. An answer that is not streamed shows none of its tokens
    before the last: what comes first of it is all of it."""
    return record.time_to_first_token_seconds if record.stream else None


_VALUES: dict[str, Callable[[RequestRecord], float | str | None]] = {
    "time": lambda one: one.at.timestamp(),
    "model": lambda one: one.model.lower(),
    "kind": lambda one: kind_of(one.path),
    "status": lambda one: one.status,
    "in": lambda one: one.tokens_in,
    "out": lambda one: one.tokens_out,
    "first": first_token,
    "speed": lambda one: one.tokens_per_second,
    "took": lambda one: one.duration_seconds,
    "queue": lambda one: one.queue_seconds,
    "client": lambda one: one.client,
}
_BY_NAME = {"model", "kind", "client"}


@dataclass(frozen=True, slots=True)
class Order:
    """How the finished requests are sorted."""

    column: str = "time"
    descending: bool = True

    def next(self, columns: Sequence[str]) -> Order:
        """By the next one of ``columns``: names from A on, numbers from the largest down."""
        at = columns.index(self.column) + 1 if self.column in columns else 0
        column = columns[at % len(columns)]
        return Order(column, column not in _BY_NAME)

    def turned(self) -> Order:
        """The other way round."""
        return Order(self.column, not self.descending)

    def sort(self, records: Iterable[RequestRecord]) -> list[RequestRecord]:
        """``records`` in this order; those without a value come last, whichever way it goes.

        Equal ones stay in the order in which they come.
        """
        value = _VALUES[self.column]
        known: list[tuple[Any, RequestRecord]] = []
        unknown: list[RequestRecord] = []
        for record in records:
            if (found := value(record)) is None:
                unknown.append(record)
            else:
                known.append((found, record))
        known.sort(key=lambda pair: pair[0], reverse=self.descending)
        return [record for _, record in known] + unknown


def words_of(record: ActiveRequestRecord | RequestRecord, charset: Charset) -> str:
    """What a text filter looks in, in lower case."""
    parts = [record.model, record.path, kind_of(record.path), record.client or ""]
    if isinstance(record, RequestRecord):
        parts += [outcome(record, charset), record.error or ""]
    else:
        parts.append(record.phase.value)
    return " ".join(plain(part) for part in parts).lower()


def row_key(record: ActiveRequestRecord | RequestRecord) -> str:
    """The key of its row: the same while it lives, when it is done, and when the history has
    given it a number, so that the cursor stays on it."""
    at, model, path, client = identity(record)
    return f"{at.timestamp()} {model} {path} {client}"


def live_row(record: ActiveRequestRecord, now: datetime, charset: Charset) -> Row:
    """One that is not finished: where it stands, and for how long."""
    age = max(0.0, (now - record.at).total_seconds())
    waited = record.queue_seconds
    return Row(
        key=row_key(record),
        cells=(
            clock(record.at, now),
            plain(record.model),
            kind_of(record.path),
            Cell(phase_sign(record, charset), "busy"),
            charset.missing,
            charset.missing,
            seconds_text(first_token(record), charset),
            charset.missing,
            Cell(f"{int(age):,} s", "busy"),
            f"{int(waited):,} s" if record.position is not None else seconds_text(waited, charset),
            plain(record.client or charset.missing),
        ),
    )


def finished_row(record: RequestRecord, now: datetime, charset: Charset) -> Row:
    """One that is done."""
    return Row(
        key=row_key(record),
        cells=(
            Cell(clock(record.at, now), "dim"),
            plain(record.model or charset.missing),
            kind_of(record.path),
            Cell(outcome(record, charset), outcome_tone(record)),
            number_text(record.tokens_in, charset=charset),
            number_text(record.tokens_out, charset=charset),
            seconds_text(first_token(record), charset),
            number_text(record.tokens_per_second, decimals=1, charset=charset),
            seconds_text(record.duration_seconds, charset),
            seconds_text(record.queue_seconds, charset),
            Cell(plain(record.client or charset.missing), "dim"),
        ),
    )


class FinishedRows:
    """Makes rows of finished requests, each once: thousands of them are shown every second."""

    def __init__(self, charset: Charset) -> None:
        self._charset = charset
        self._rows: dict[Identity, tuple[RequestRecord, Row]] = {}
        self._day = ""

    def rows(self, records: Sequence[RequestRecord], now: datetime) -> list[Row]:
        """One row for each of ``records``, in their order."""
        day = f"{now:%Y-%m-%d %z}"
        before = self._rows if day == self._day else {}
        self._day = day
        made: dict[Identity, tuple[RequestRecord, Row]] = {}
        for record in records:
            name = identity(record)
            known = before.get(name)
            if known is None or known[0] is not record:
                known = (record, finished_row(record, now, self._charset))
            made[name] = known
        self._rows = made
        return [row for _, row in made.values()]


def total_rows(totals: Sequence[ModelTotals], now: datetime, charset: Charset) -> list[Row]:
    """Sums by model, the last used first."""
    ordered = sorted(totals, key=lambda one: one.last_used_at, reverse=True)
    return [
        Row(
            key=one.model,
            cells=(
                plain(one.model),
                number_text(one.requests, charset=charset),
                Cell(number_text(one.failures, charset=charset), "bad" if one.failures else "dim"),
                number_text(one.tokens_in, charset=charset),
                number_text(one.tokens_out, charset=charset),
                age_text(max(0.0, (now - one.last_used_at).total_seconds())),
            ),
        )
        for one in ordered
    ]


def seconds_text(seconds: float | None, charset: Charset) -> str:
    """Seconds with two decimals, all down the column."""
    return number_text(seconds, decimals=2, unit="s", charset=charset)
