"""The columns and rows of the dashboard: models, requests and events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from rich.cells import cell_len
from textual.content import Content

from cyber_inference_tui.records import (
    ActiveRequestRecord,
    ModelRecord,
    ModelStatus,
    RecentEvent,
    RequestRecord,
)
from cyber_inference_tui.terminal.charset import Charset
from cyber_inference_tui.terminal.clients import client_name, port_uses
from cyber_inference_tui.terminal.columns import Cell, Column, RenderContext
from cyber_inference_tui.terminal.text_width import cut, fold, plain
from cyber_inference_tui.terminal.tone import Tone
from cyber_inference_tui.tui.pages.models.sentences import STYLES, model_sentence
from cyber_inference_tui.tui.pages.models.table import (
    STATE_ORDER,
    box_cell,
    context_cell,
    memory_cell,
    name_cell,
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
    """A model and its tokens per second."""

    model: ModelRecord
    speed: float | None = None
    """Now, if it answers."""
    last_speed: float | None = None
    """Of its last answer."""
    spark: str = ""
    """Its history."""


Request = ActiveRequestRecord | RequestRecord

SPARK = 8
"""Cells of the history in a row."""
_THOUSAND = 999.5
_EVENT_LINES = 4
_EVENT_START = 10
"""The first cell of an event's text, after the time."""
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
    about = context.charset.about
    return f"{model.queued}" if wait is None else f"{model.queued} {about} {age_text(wait)}"


def _speed_cell(line: ModelLine, context: RenderContext) -> Cell | str:
    """Return the speed now, or dimmed that of the last answer."""
    if line.speed is not None:
        return speed_text(line.speed)
    return Cell(context.charset.known(line.last_speed, speed_text), "dim")


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
    tokens = one.tokens_out
    if tokens is None and isinstance(one, RequestRecord):
        tokens = one.tokens_in
    return "" if tokens is None else f"{tokens:,} tok"


def _rate_cell(one: Request, _: RenderContext) -> str:
    speed = one.tokens_per_second
    if speed is None:
        return ""
    return f"{speed:.0f}/s" if speed < _THOUSAND else f"{speed / 1000:.1f}k/s"


def _first_cell(one: Request, _: RenderContext) -> str:
    first = one.time_to_first_token_seconds
    return "" if first is None or not one.stream else f"{first:,.2f} s"


def _event_text(one: RecentEvent, charset: Charset) -> str:
    """Return an event with its subject, a sign for a failure and the number of repetitions."""
    sign = f"{charset.status_sign(ModelStatus.FAILED)} " if one.tone == "bad" else ""
    times = "×" if charset.unicode else "x"  # noqa: RUF001 - the sign is meant
    count = f"{times}{one.count} " if one.count > 1 else ""
    return f"{plain(one.subject, limit=200)}  {sign}{count}{plain(with_keys(one.text))}"


MODEL_COLUMNS: tuple[Column[ModelLine, RenderContext], ...] = (
    Column(
        "model",
        "MODEL",
        least=20,
        whole=True,
        cell=lambda line, context: name_cell(line.model, context),
    ),
    Column("box", "BOX", 11, cell=lambda line, context: box_cell(line.model, context)),
    Column(
        "state", "STATE", 14, cell=lambda line, context: state_cell(line.model, context.charset)
    ),
    Column(
        "context",
        "CONTEXT",
        10,
        right=True,
        priority=4,
        cell=lambda line, context: context_cell(line.model, context),
    ),
    Column("slots", "SLOTS", 5, _slots, right=True, priority=6),
    Column("speed", "TOKENS/S", 8, right=True, priority=1, cell=_speed_cell),
    Column("spark", "", SPARK, cell=lambda line, _: Cell(line.spark, "dim"), priority=3),
    Column("running", "RUNNING", 7, _running, right=True, priority=5, text=number_text),
    Column("waiting", "WAITING", 8, right=True, cell=_waiting_cell),
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
    Column(
        "time", "TIME", 8, priority=5, cell=lambda one, context: clock_text(one.at, context.now)
    ),
    Column("model", "MODEL", least=8, whole=True, cell=lambda one, _: plain(one.model)),
    Column("kind", "KIND", 10, lambda one: request_kind(one.path), priority=9),
    Column("client", "CLIENT", 14, client_name, priority=7),
    Column("status", "STATUS", 12, cell=status_cell),
    Column("first", "FIRST", 7, right=True, priority=8, cell=_first_cell),
    Column("took", "TOOK", 7, right=True, priority=4, cell=_took_cell),
    Column("tokens", "TOKENS", 9, right=True, priority=1, cell=_tokens_cell),
    Column("rate", "RATE", 6, right=True, priority=2, cell=_rate_cell),
    Column("spark", "", SPARK, priority=6),
)
EVENT_COLUMNS: tuple[Column[RecentEvent, RenderContext], ...] = (
    Column("time", "TIME", 8, value=str),
    Column("text", "TEXT", least=10, value=str),
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


def model_row(line: ModelLine, context: RenderContext) -> Row:
    """Return the row of a model."""
    idle = line.model.status is ModelStatus.UNLOADED
    return row_of(line.model.id, line, MODEL_COLUMNS, context, "dim" if idle else "none")


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
    sparks: Mapping[int, str] | None = None,
) -> list[Row]:
    """Return rows of the running requests, then of the waiting and the latest finished ones.

    ``sparks`` are the histories of running requests by their numbers.
    """
    rows = []
    for one in active:
        if _matches(one.model, needle):
            row = row_of(f"live {one.number}", one, REQUEST_COLUMNS[:-1], context)
            spark = Cell((sparks or {}).get(one.number, ""), "dim")
            rows.append(Row(row.key, (*row.cells, spark), row.tone))
    for place, done in enumerate(finished):
        if len(rows) >= _MOST_LISTED:
            break
        if _matches(done.model, needle):
            key = f"done {done.id} {done.at.timestamp()} {place}"
            rows.append(row_of(key, done, REQUEST_COLUMNS[:-1], context, "dim"))
    return rows[:_MOST_LISTED]


def event_rows(
    recent_events: Sequence[RecentEvent],
    context: RenderContext,
    needle: str = "",
    *,
    width: int,
    most: int = _MOST_LISTED,
) -> list[Row]:
    """Return ``most`` rows of the events, newest first, with sentences wrapped to ``width``."""
    rows: list[Row] = []
    for one in recent_events:
        if len(rows) >= most:
            break
        if not _matches(one.subject, needle):
            continue
        tone: Tone = "bad" if one.tone == "bad" else "none"
        time = Cell(clock_text(one.at, context.now), "dim")
        lines = wrapped(_event_text(one, context.charset), width - 10)
        for number, line in enumerate(lines[:_EVENT_LINES]):
            cut_here = number == _EVENT_LINES - 1 and len(lines) > _EVENT_LINES
            text = (
                cut(f"{line} {lines[number + 1]}", width - 10, context.charset.ellipsis)
                if cut_here
                else line
            )
            first = time if number == 0 else Cell("")
            rows.append(Row(f"{one.id}.{number}", (first, Cell(text, tone))))
    return rows[:most]


def wrapped(text: str, width: int) -> list[str]:
    """Return ``text`` in lines of at most ``width`` cells, broken between words."""
    lines: list[str] = []
    line = ""
    for word in text.split(" "):
        joined = f"{line} {word}" if line else word
        if cell_len(joined) <= width:
            line = joined
            continue
        if line:
            lines.append(line.rstrip())
        *whole, line = fold(word, max(2, width))
        lines += whole
    return [*lines, line] if line else lines


def _matches(name: str, needle: str) -> bool:
    return not needle or needle in plain(name).lower()
