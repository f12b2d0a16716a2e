"""The details of a request as names and values."""

from __future__ import annotations

from datetime import datetime
from textwrap import wrap

from textual.content import Content

from cyber_inference_tui.records import (
    ActiveRequestRecord,
    Priority,
    RequestPhase,
    RequestRecord,
)
from cyber_inference_tui.terminal.charset import Charset
from cyber_inference_tui.terminal.clients import client_name
from cyber_inference_tui.terminal.drafts import accepted_text
from cyber_inference_tui.terminal.phases import tokens_out_text
from cyber_inference_tui.terminal.text_width import plain
from cyber_inference_tui.text import clean_line, program
from cyber_inference_tui.tui.pages.requests.request_status import CLIENT_LEFT, failed
from cyber_inference_tui.tui.ways_out import with_keys
from cyber_inference_tui.units import energy_text, number_text, seconds_text, speed_text

_NAME = 15
_LONGEST_ERROR = 4000
_PHASES = {
    RequestPhase.WAITING: "waiting for its model",
    RequestPhase.PROCESSING: "sent to the model's server, no answer yet",
    RequestPhase.ANSWERING: "answering",
}
Lines = list[tuple[str, str]]


def details(record: ActiveRequestRecord | RequestRecord, now: datetime, charset: Charset) -> Lines:
    """Return names and values, the most important first; an error is complete and first."""
    lines: Lines = []
    if isinstance(record, RequestRecord):
        if record.error is not None:
            lines.append(("error", clean_line(with_keys(record.error), limit=_LONGEST_ERROR)))
        elif failed(record):
            lines.append(("error", "No reason is recorded. See the model's log."))
        lines.append(("status", _status(record)))
    else:
        place = "" if record.position is None else f", place {record.position}"
        lines.append(("status", f"{_PHASES[record.phase]}{place}"))
        if record.priority not in {None, Priority.NORMAL}:
            lines.append(("priority", f"{record.priority}"))
    if isinstance(record, RequestRecord):
        lines.append(("took", seconds_text(record.duration_seconds)))
    # The table shows growing times; here they would be painted every second.
    waits = isinstance(record, ActiveRequestRecord) and record.phase is RequestPhase.WAITING
    if not waits:
        queued = charset.known(record.queue_seconds, seconds_text)
        if isinstance(record, RequestRecord) and record.load_seconds:
            queued += f" (load {seconds_text(record.load_seconds)})"
        lines.append(("queued", queued))
        first = charset.known(record.time_to_first_token_seconds, seconds_text)
        lines.append(("first token" if record.stream else "answered after", first))
    if isinstance(record, RequestRecord):
        lines += [
            ("tokens in", _tokens_in(record, charset)),
            ("tokens out", tokens_out_text(record, charset)),
            ("tokens/s", charset.known(record.tokens_per_second, speed_text)),
        ]
        if record.energy_j is not None:
            lines.append(("energy", energy_text(record.energy_j)))
        if record.tokens_drafted is not None:
            lines.append(("drafted", _drafted(record.tokens_drafted, record, charset)))
    local = record.at.astimezone(now.tzinfo)
    lines += [
        ("received", f"{local:%Y-%m-%d %H:%M:%S}"),
        ("path", plain(record.path)),
        ("model", plain(record.model or charset.missing)),
        ("streamed", "yes" if record.stream else "no"),
        ("client", plain(client_name(record)) or charset.missing),
    ]
    if record.user_agent:
        lines.append(("address", plain(record.client or charset.missing)))
        if record.user_agent != program(record.user_agent):
            lines.append(("user agent", plain(record.user_agent)))
    if record.key_name is not None:
        lines.append(("API key", plain(record.key_name)))
    if record.box is not None:
        lines.append(("box", record.box))
    if record.port is not None:
        lines.append(("port", str(record.port)))
    if isinstance(record, RequestRecord) and record.id:
        lines.append(("number", str(record.id)))
    if record.request_id is not None:
        lines.append(("request id", plain(record.request_id)))
    return lines


def _tokens_in(record: RequestRecord, charset: Charset) -> str:
    text = charset.known(record.tokens_in, number_text)
    if record.tokens_cached is None:
        return text
    return f"{text}, {number_text(record.tokens_cached)} cached"


def _status(record: RequestRecord) -> str:
    if record.status == CLIENT_LEFT:
        return f"{record.status}, the client disconnected"
    if failed(record):
        return (
            f"{record.status}, failed" if record.status >= 400 else f"{record.status}, broken off"
        )
    return f"{record.status}, answered"


def details_content(lines: Lines, width: int) -> Content:
    """Return the details in ``width`` cells, with short ones side by side."""
    columns = max(1, min(3, width // 36))
    cell = width // columns
    parts: list[tuple[str, str]] = []
    used = 0
    for name, value in lines:
        long = name == "error" or len(value) + _NAME + 2 > cell
        if used and (long or used == columns):
            parts.append(("\n", ""))
            used = 0
        parts.append((name.ljust(_NAME), "$text-muted"))
        # The lines of a long text begin below each other, after the name.
        rows = wrap(value, max(10, width - _NAME)) if long else [value]
        style = "$error" if name == "error" else ""
        parts.append((f"\n{' ' * _NAME}".join(rows), style))
        if long:
            parts.append(("\n", ""))
        else:
            used += 1
            parts.append((" " * max(1, cell - _NAME - len(value)) if used < columns else "", ""))
    return Content.assemble(*parts)


def details_text(lines: Lines) -> str:
    """Return the details as plain text for the clipboard."""
    return "\n".join(f"{name}: {value}" for name, value in lines)


def _drafted(drafted: int, record: RequestRecord, charset: Charset) -> str:
    """Return how many tokens of the answer came from a draft, and so how many each step wrote."""
    accepted = record.tokens_accepted
    text = f"{number_text(drafted)}, {charset.known(accepted, number_text)} accepted"
    if accepted is None or not drafted:
        return text
    text += f" ({accepted_text(drafted, accepted)})"
    steps = (record.tokens_out or 0) - accepted
    if steps > 0:
        text += f", {number_text((record.tokens_out or 0) / steps, decimals=1)} tokens a step"
    return text
