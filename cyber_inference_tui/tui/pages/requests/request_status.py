"""The kind, the phase and the result of a request in words."""

from __future__ import annotations

from datetime import datetime, timedelta

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
"""The status of a request whose client disconnected."""

# Ends of paths of the OpenAI API, Anthropic's Messages API and llama-server.
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
    """Return a word for the endpoint such as ``chat``, else the last part of the path."""
    path = plain(path, limit=200).partition("?")[0].rstrip("/")
    for ending, word in _KINDS:
        if path.endswith(ending):
            return word
    return path.rpartition("/")[2] or "/"


def failed(record: RequestRecord) -> bool:
    """Return whether it ended with an error or before its answer was complete."""
    return record.status >= 400 or record.error is not None


def outcome_text(record: RequestRecord, charset: Charset) -> str:
    """Return its result as sign and status, or ``gone`` if the client disconnected."""
    if not failed(record):
        return f"{charset.check} {record.status}"
    sign = charset.status_sign(ModelStatus.FAILED)
    if record.status == CLIENT_LEFT:
        return f"{sign} gone"
    return f"{sign} {record.status}" if record.status >= 400 else f"{sign} broke off"


def outcome_tone(record: RequestRecord) -> Tone:
    """Return the tone of its result; a client that disconnected is no failure."""
    if not failed(record):
        return "good"
    return "dim" if record.status == CLIENT_LEFT else "bad"


def phase_text(record: ActiveRequestRecord, charset: Charset) -> str:
    """Return the phase of a running request, with its place in the queue."""
    if record.phase is RequestPhase.WAITING:
        place = "" if record.position is None else f" {record.position}"
        return f"{charset.status_sign(ModelStatus.QUEUED)} waiting{place}"
    return f"{charset.status_sign(ModelStatus.LOADING)} {record.phase.value}"


def status_cell(record: ActiveRequestRecord | RequestRecord, context: RenderContext) -> Cell:
    """Return the phase of a running request or the result of a finished one."""
    if isinstance(record, RequestRecord):
        return Cell(outcome_text(record, context.charset), outcome_tone(record))
    return Cell(phase_text(record, context.charset), "busy")


def clock_text(at: datetime, now: datetime) -> str:
    """Return the local time of day, or the date if it is more than a day ago."""
    local = at.astimezone(now.tzinfo)
    if now - local < timedelta(days=1):
        return local.strftime("%H:%M:%S")
    return local.strftime("%d %b")
