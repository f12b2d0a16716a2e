"""The columns and rows of the dashboard: models, requests and events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from textual.content import Content

from cyber_inference_tui.records import (
    ActiveRequestRecord,
    ModelRecord,
    ModelStatus,
    RecentEvent,
    RequestRecord,
    ResourceSample,
)
from cyber_inference_tui.terminal.charset import Charset
from cyber_inference_tui.terminal.clients import port_uses
from cyber_inference_tui.terminal.columns import Cell, Column, RenderContext
from cyber_inference_tui.terminal.text_width import plain
from cyber_inference_tui.tui.pages.models.sentences import STYLES, model_sentence
from cyber_inference_tui.tui.pages.models.table import (
    STATE_ORDER,
    context_cell,
    memory_cell,
    state_cell,
)
from cyber_inference_tui.tui.pages.requests.request_status import (
    clock_text,
    request_kind,
    status_cell,
)
from cyber_inference_tui.tui.snapshot import Snapshot
from cyber_inference_tui.tui.ways_out import with_keys
from cyber_inference_tui.tui.widgets.live_table import Row, row_of
from cyber_inference_tui.units import (
    age_text,
    countdown_text,
    number_text,
    speed_text,
)


@dataclass(frozen=True, slots=True)
class ModelLine:
    """A model, and the tokens per second that its server generates now."""

    model: ModelRecord
    tokens_per_second: float | None


Request = ActiveRequestRecord | RequestRecord

_CLIENTS = 2
"""Clients of a port that its line names, so that all ports are in sight."""


def _slots(line: ModelLine) -> str | None:
    model = line.model
    if model.status is not ModelStatus.LOADED or model.slots is None:
        return None
    return f"{min(model.in_flight, model.slots)} / {model.slots}"


def _running(line: ModelLine) -> int | None:
    return line.model.in_flight if line.model.status is ModelStatus.LOADED else None


def _waiting_cell(line: ModelLine, context: RenderContext) -> str:
    """Return the number of waiting requests and the expected wait: ``3 ≈ 6 s``."""
    model = line.model
    if not model.queued:
        return context.charset.missing
    wait = model.expected_wait_seconds
    about = "≈" if context.charset.unicode else "~"
    return f"{model.queued}" if wait is None else f"{model.queued} {about} {age_text(wait)}"


def _idle_cell(line: ModelLine, context: RenderContext) -> str:
    model, charset = line.model, context.charset
    if model.pinned:
        return f"{charset.pin} pinned"
    if model.status is not ModelStatus.LOADED:
        return charset.missing
    if model.in_flight:
        return "busy"
    if model.unload_at is None:
        return charset.missing
    return countdown_text((model.unload_at - context.now).total_seconds())


def _took_cell(one: Request, context: RenderContext) -> str:
    if isinstance(one, RequestRecord):
        return f"{one.duration_seconds:,.2f} s"
    return f"{int(max(0.0, (context.now - one.at).total_seconds()))} s"


def _tokens_cell(one: Request, _: RenderContext) -> str:
    if not isinstance(one, RequestRecord):
        return ""
    tokens = one.tokens_out if one.tokens_out is not None else one.tokens_in
    return "" if tokens is None else f"{tokens:,} tok"


def _event_cell(one: RecentEvent, context: RenderContext) -> Cell:
    """Return the text of an event, with a sign for a failure and the number of repetitions."""
    bad = one.tone == "bad"
    sign = f"{context.charset.status_sign(ModelStatus.FAILED)} " if bad else ""
    times = "×" if context.charset.unicode else "x"  # noqa: RUF001 - the sign is meant
    count = f"{times}{one.count} " if one.count > 1 else ""
    return Cell(f"{sign}{count}{plain(with_keys(one.text))}", "bad" if bad else "dim")


MODEL_COLUMNS: tuple[Column[ModelLine, RenderContext], ...] = (
    Column("model", "MODEL", least=22, value=lambda line: line.model.id),
    Column(
        "state", "STATE", 14, cell=lambda line, context: state_cell(line.model, context.charset)
    ),
    Column(
        "context",
        "CONTEXT",
        11,
        right=True,
        priority=4,
        cell=lambda line, context: context_cell(line.model, context),
    ),
    Column("slots", "SLOTS", 5, _slots, right=True, priority=5),
    Column(
        "speed",
        "TOKENS/S",
        8,
        lambda line: line.tokens_per_second,
        right=True,
        priority=1,
        text=speed_text,
    ),
    Column("running", "RUNNING", 7, _running, right=True, priority=3, text=number_text),
    Column("waiting", "WAITING", 9, right=True, cell=_waiting_cell),
    Column(
        "memory",
        "MEMORY",
        10,
        right=True,
        cell=lambda line, context: memory_cell(line.model, context),
    ),
    Column("idle", "IDLE OUT", 8, right=True, priority=2, cell=_idle_cell),
)
REQUEST_COLUMNS: tuple[Column[Request, RenderContext], ...] = (
    Column("time", "TIME", 8, cell=lambda request, context: clock_text(request.at, context.now)),
    Column("model", "MODEL", least=8, cell=lambda request, _: plain(request.model)),
    Column("kind", "KIND", 10, lambda request: request_kind(request.path), priority=2),
    Column("status", "STATUS", 12, cell=status_cell),
    Column("took", "TOOK", 8, right=True, cell=_took_cell),
    Column("tokens", "TOKENS", 9, right=True, priority=1, cell=_tokens_cell),
)
EVENT_COLUMNS: tuple[Column[RecentEvent, RenderContext], ...] = (
    Column(
        "time",
        "TIME",
        8,
        cell=lambda event, context: Cell(clock_text(event.at, context.now), "dim"),
    ),
    Column("subject", "SUBJECT", 14, cell=lambda event, _: plain(event.subject)),
    Column("text", "TEXT", least=10, cell=_event_cell),
)
_MOST_LISTED = 50


def ordered(models: Sequence[ModelRecord], needle: str) -> list[ModelRecord]:
    """Return the matching models: active ones, then failed ones, then others by last use."""

    def place(model: ModelRecord) -> tuple[int, float, str]:
        used = model.last_used_at.timestamp() if model.last_used_at else 0.0
        resting = model.status is ModelStatus.UNLOADED
        return STATE_ORDER.index(model.status), -used if resting else 0.0, model.id

    found = (one for one in models if not needle or needle in plain(one.id).lower())
    return sorted(found, key=place)


def model_row(model: ModelRecord, sample: ResourceSample | None, context: RenderContext) -> Row:
    """Return the row of a model."""
    usage = next((one for one in sample.models if one.id == model.id), None) if sample else None
    loaded = model.status is ModelStatus.LOADED
    line = ModelLine(model, usage.tokens_per_second if usage and loaded else None)
    idle = model.status is ModelStatus.UNLOADED
    return row_of(model.id, line, MODEL_COLUMNS, context, "dim" if idle else "none")


def explanation(model: ModelRecord | None, now: datetime, charset: Charset) -> Content:
    """Return the state of the selected model with its reason and the keys that help."""
    if model is None:
        return Content("")
    text, tone = model_sentence(model, now, charset)
    keys = "  o opens its log, l tries again" if model.status is ModelStatus.FAILED else ""
    return Content.assemble((text, STYLES[tone]), (keys, STYLES["dim"]))


def ports_line(snapshot: Snapshot, charset: Charset) -> Content:
    """Return the ports and their clients in a line; nothing if there are no extra ports."""
    status = snapshot.status
    if status is None or not status.extra_ports:
        return Content("")
    parts: list[tuple[str, str]] = []
    for use in port_uses(status, (*snapshot.active, *snapshot.finished)):
        parts.append((f"  {charset.dot}  " if parts else "Ports  ", "$text-muted"))
        parts.append((f"{use.port}", "" if use.problem is None else "$error"))
        more = len(use.clients) - _CLIENTS
        names = [*use.clients[:_CLIENTS], *([f"+{more}"] if more > 0 else [])]
        words = plain(use.problem or ", ".join(names))
        parts.append((f" {words}" if words else "", "$text-muted"))
    return Content.assemble(*parts)


def request_rows(
    active: Sequence[ActiveRequestRecord],
    finished: Sequence[RequestRecord],
    context: RenderContext,
    needle: str = "",
) -> list[Row]:
    """Return rows of the running requests, then of the waiting and the latest finished ones."""
    rows = [
        row_of(f"live {one.number}", one, REQUEST_COLUMNS, context)
        for one in active
        if _matches(one.model, needle)
    ]
    for place, one in enumerate(finished):
        if len(rows) >= _MOST_LISTED:
            break
        if _matches(one.model, needle):
            key = f"done {one.id} {one.at.timestamp()} {place}"
            rows.append(row_of(key, one, REQUEST_COLUMNS, context, "dim"))
    return rows[:_MOST_LISTED]


def event_rows(
    recent_events: Sequence[RecentEvent], context: RenderContext, needle: str = ""
) -> list[Row]:
    """Return rows of the events, newest first."""
    return [
        row_of(str(one.id), one, EVENT_COLUMNS, context)
        for one in recent_events[:_MOST_LISTED]
        if _matches(one.subject, needle)
    ]


def _matches(name: str, needle: str) -> bool:
    return not needle or needle in plain(name).lower()
