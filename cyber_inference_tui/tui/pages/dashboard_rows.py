"""The dashboard's tables: models, requests and events as rows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from textual.content import Content

from cyber_inference_tui.records import (
    ActiveRequestRecord,
    ModelRecord,
    ModelStatus,
    RequestRecord,
    ResourceSample,
)
from cyber_inference_tui.terminal.charset import Charset
from cyber_inference_tui.terminal.columns import Column
from cyber_inference_tui.terminal.text_width import plain
from cyber_inference_tui.terminal.tone import STATUS_TONES
from cyber_inference_tui.tui.figures import (
    age_text,
    countdown_text,
    memory_text,
    number_text,
    status_text,
)
from cyber_inference_tui.tui.pages.model_lines import STYLES, model_sentence
from cyber_inference_tui.tui.pages.request_words import (
    clock,
    kind_of,
    outcome,
    outcome_tone,
    phase_sign,
)
from cyber_inference_tui.tui.snapshot import Happening
from cyber_inference_tui.tui.widgets.table import Cell, Row

MODEL_COLUMNS = (
    Column(key="model", title="MODEL", least=22),
    Column(key="state", title="STATE", width=14),
    Column(key="context", title="CONTEXT", width=7, align="right", priority=3),
    Column(key="slots", title="SLOTS", width=5, align="right", priority=4),
    Column(key="speed", title="TOKENS/S", width=8, align="right"),
    Column(key="running", title="RUNNING", width=7, align="right", priority=2),
    Column(key="waiting", title="WAITING", width=9, align="right"),
    Column(key="memory", title="MEMORY", width=9, align="right"),
    Column(key="idle", title="IDLE OUT", width=8, align="right", priority=1),
)
REQUEST_COLUMNS = (
    Column(key="time", title="TIME", width=8),
    Column(key="model", title="MODEL", least=8),
    Column(key="kind", title="KIND", width=10, priority=1),
    Column(key="status", title="STATUS", width=12),
    Column(key="took", title="TOOK", width=8, align="right"),
    Column(key="tokens", title="TOKENS", width=9, align="right", priority=2),
)
EVENT_COLUMNS = (
    Column(key="time", title="TIME", width=8),
    Column(key="subject", title="SUBJECT", width=14),
    Column(key="text", title="TEXT", least=10),
)
_MOST_LISTED = 50
_RANK = {
    ModelStatus.LOADED: 0,
    ModelStatus.LOADING: 1,
    ModelStatus.QUEUED: 2,
    ModelStatus.UNLOADING: 3,
    ModelStatus.FAILED: 4,
    ModelStatus.UNLOADED: 5,
}


def ordered(models: Sequence[ModelRecord], needle: str) -> list[ModelRecord]:
    """Those that are awake first, then the failed ones, then the rest, the last used first."""

    def place(model: ModelRecord) -> tuple[int, float, str]:
        used = model.last_used_at.timestamp() if model.last_used_at else 0.0
        resting = model.status is ModelStatus.UNLOADED
        return _RANK[model.status], -used if resting else 0.0, model.id

    found = (one for one in models if not needle or needle in plain(one.id).lower())
    return sorted(found, key=place)


def model_row(
    model: ModelRecord, sample: ResourceSample | None, now: datetime, charset: Charset
) -> Row:
    """One model."""
    loaded = model.status is ModelStatus.LOADED
    usage = next((one for one in sample.models if one.id == model.id), None) if sample else None
    speed = usage.tokens_per_second if usage and loaded else None
    slots = charset.missing
    if loaded and model.slots is not None:
        slots = f"{min(model.in_flight, model.slots)} / {model.slots}"
    memory = memory_text(model.memory_estimate_bytes, estimate=True, charset=charset)
    if model.memory_bytes is not None:
        memory = memory_text(model.memory_bytes, charset=charset)
    status = status_text(model.status, model.progress, charset=charset)
    idle = model.status is ModelStatus.UNLOADED
    return Row(
        key=model.id,
        tone="dim" if idle else "none",
        cells=(
            plain(model.id),
            Cell(status, STATUS_TONES[model.status]),
            number_text(model.context_length or None, charset=charset),
            slots,
            number_text(speed, decimals=1, charset=charset),
            number_text(model.in_flight if loaded else None, charset=charset),
            waiting_text(model, charset),
            memory,
            _idle_out(model, now, charset),
        ),
    )


def waiting_text(model: ModelRecord, charset: Charset) -> str:
    """How many wait for it, and for how long: ``3 ≈ 6 s``."""
    if not model.queued:
        return charset.missing
    wait = model.expected_wait_seconds
    about = "≈" if charset.unicode else "~"
    return f"{model.queued}" if wait is None else f"{model.queued} {about} {age_text(wait)}"


def _idle_out(model: ModelRecord, now: datetime, charset: Charset) -> str:
    if model.pinned:
        return f"{charset.pin} pinned"
    if model.status is not ModelStatus.LOADED:
        return charset.missing
    if model.in_flight:
        return "busy"
    if model.unload_at is None:
        return charset.missing
    return countdown_text((model.unload_at - now).total_seconds(), charset=charset)


def explanation(model: ModelRecord | None, now: datetime, charset: Charset) -> Content:
    """The state of the selected model, with its reason and the keys that help."""
    if model is None:
        return Content("")
    text, tone = model_sentence(model, now, charset)
    keys = "  o opens its log, l tries again" if model.status is ModelStatus.FAILED else ""
    return Content.assemble((text, STYLES[tone]), (keys, STYLES["dim"]))


def request_rows(
    active: Sequence[ActiveRequestRecord],
    finished: Sequence[RequestRecord],
    now: datetime,
    charset: Charset,
    needle: str = "",
) -> list[Row]:
    """The requests that are not finished, those that wait last, then the latest finished ones."""
    rows = [_active_row(one, now, charset) for one in active if _matches(one.model, needle)]
    for place, one in enumerate(finished):
        if len(rows) >= _MOST_LISTED:
            break
        if _matches(one.model, needle):
            rows.append(_finished_row(one, place, now, charset))
    return rows[:_MOST_LISTED]


def _matches(model: str, needle: str) -> bool:
    return not needle or needle in plain(model).lower()


def _active_row(one: ActiveRequestRecord, now: datetime, charset: Charset) -> Row:
    age = max(0.0, (now - one.at).total_seconds())
    return Row(
        key=f"live {one.number}",
        cells=(
            clock(one.at, now),
            plain(one.model),
            kind_of(one.path),
            Cell(phase_sign(one, charset), "busy"),
            f"{int(age)} s",
            "",
        ),
    )


def _finished_row(one: RequestRecord, place: int, now: datetime, charset: Charset) -> Row:
    tokens = one.tokens_out if one.tokens_out is not None else one.tokens_in
    return Row(
        key=f"done {one.id} {one.at.timestamp()} {place}",
        tone="dim",
        cells=(
            clock(one.at, now),
            plain(one.model),
            kind_of(one.path),
            Cell(outcome(one, charset), outcome_tone(one)),
            f"{one.duration_seconds:,.2f} s",
            "" if tokens is None else f"{tokens:,} tok",
        ),
    )


def event_rows(
    happenings: Sequence[Happening], now: datetime, charset: Charset, needle: str = ""
) -> list[Row]:
    """What happened, the newest first; what went wrong has a sign."""
    rows = []
    for place, one in enumerate(happenings[:_MOST_LISTED]):
        if not _matches(one.subject, needle):
            continue
        sign = f"{charset.status_sign(ModelStatus.FAILED)} " if one.tone == "bad" else ""
        rows.append(
            Row(
                key=f"{one.at.timestamp()} {one.subject} {len(happenings) - place}",
                cells=(
                    Cell(clock(one.at, now), "dim"),
                    plain(one.subject),
                    Cell(f"{sign}{plain(one.text)}", one.tone if one.tone == "bad" else "dim"),
                ),
            )
        )
    return rows
