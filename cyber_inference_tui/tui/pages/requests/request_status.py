"""Requests in words: what kind one is, where it stands, how it ended."""

from __future__ import annotations

from datetime import datetime

from cyber_inference_tui.records import (
    ActiveRequestRecord,
    ModelStatus,
    RequestPhase,
    RequestRecord,
)
from cyber_inference_tui.terminal.charset import Charset
from cyber_inference_tui.terminal.columns import Cell, RenderContext
from cyber_inference_tui.terminal.text_width import plain
from cyber_inference_tui.terminal.tone import Tone

CLIENT_LEFT = 499
"""The status of a request whose client went away first."""

# Endings of the paths of the OpenAI API, of Anthropic's messages, and of llama-server.
_KINDS = (
    ("/chat/completions", "chat"),
    ("/completions", "completion"),
    ("/completion", "completion"),
    ("/infill", "infill"),
    ("/embeddings", "embeddings"),
    ("/embedding", "embeddings"),
    ("/messages/count_tokens", "count"),
    ("/messages", "messages"),
    ("/responses", "responses"),
    ("/rerank", "rerank"),
    ("/reranking", "rerank"),
    ("/tokenize", "tokenize"),
    ("/detokenize", "detokenize"),
)


def request_kind(path: str) -> str:
    """A short word for what is asked: ``chat``, ``embeddings``; else the end of the path."""
    path = plain(path, limit=200).partition("?")[0].rstrip("/")
    for ending, word in _KINDS:
        if path.endswith(ending):
            return word
    return path.rpartition("/")[2] or "/"


def failed(record: RequestRecord) -> bool:
    """It ended with an error, or before its client had all of it."""
    return record.status >= 400 or record.error is not None


def outcome_text(record: RequestRecord, charset: Charset) -> str:
    """How it ended: sign and status, or ``gone`` where the client did not wait for the end."""
    if not failed(record):
        return f"{charset.check} {record.status}"
    sign = charset.status_sign(ModelStatus.FAILED)
    if record.status == CLIENT_LEFT:
        return f"{sign} gone"
    return f"{sign} {record.status}" if record.status >= 400 else f"{sign} broke off"


def outcome_tone(record: RequestRecord) -> Tone:
    """Its colour: a client that went away is no failure of the service."""
    if not failed(record):
        return "good"
    return "dim" if record.status == CLIENT_LEFT else "bad"


def phase_text(record: ActiveRequestRecord, charset: Charset) -> str:
    """Where one that is not finished stands, with its place while it waits."""
    if record.phase is RequestPhase.WAITING:
        place = "" if record.position is None else f" {record.position}"
        return f"{charset.status_sign(ModelStatus.QUEUED)} waiting{place}"
    return f"{charset.status_sign(ModelStatus.LOADING)} {record.phase.value}"


def status_cell(record: ActiveRequestRecord | RequestRecord, context: RenderContext) -> Cell:
    """Where a running request stands, or how a finished one ended."""
    if isinstance(record, RequestRecord):
        return Cell(outcome_text(record, context.charset), outcome_tone(record))
    return Cell(phase_text(record, context.charset), "busy")


def clock_text(at: datetime, now: datetime) -> str:
    """The time of day where ``now`` is; of another day, the day."""
    local = at.astimezone(now.tzinfo)
    if local.date() == now.date():
        return local.strftime("%H:%M:%S")
    return local.strftime("%d %b")
