"""API keys, as the app and the command line show them."""

from __future__ import annotations

from cyber_inference_tui.records import KeyRecord, Priority
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.units import number_text


def limits_text(record: KeyRecord) -> str:
    """Return the limits of a key in a few words; empty without any."""
    parts = []
    if record.expired:
        parts.append("expired")
    elif record.expires is not None:
        parts.append(f"until {record.expires}")
    if record.requests_per_minute:
        parts.append(f"{number_text(record.requests_per_minute)} requests/min")
    if record.tokens_per_day:
        parts.append(f"{number_text(record.tokens_per_day)} tokens/day")
    if record.priority is not Priority.NORMAL:
        parts.append(f"{record.priority.value} priority")
    if record.models:
        parts.append(f"only {clean_line(', '.join(record.models))}")
    return ", ".join(parts)
