"""The selected model's details, beside the models on a wide screen."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from textual.content import Content

from cyber_inference_tui.records import ModelRecord, RequestRecord
from cyber_inference_tui.terminal.charset import Charset
from cyber_inference_tui.terminal.text_width import cut, plain
from cyber_inference_tui.tui.pages.models.sentences import (
    STYLES,
    description_text,
    model_sentence,
)
from cyber_inference_tui.tui.pages.requests.request_status import clock_text, failed
from cyber_inference_tui.tui.snapshot import Snapshot, model_of
from cyber_inference_tui.tui.ways_out import with_keys
from cyber_inference_tui.units import seconds_text, speed_text


def details(
    model: ModelRecord, snapshot: Snapshot, now: datetime, width: int, charset: Charset
) -> Content:
    """Return name, description, state and the figures of the last requests."""
    sentence, tone = model_sentence(model, now, charset)
    own = [one for one in snapshot.finished if model_of(one) == model.id]
    parts: list[tuple[str, str]] = [
        (cut(plain(model.id), width, charset.ellipsis), "bold"),
        (f"\n{plain(description_text(model, charset))}", STYLES["dim"]),
        (f"\n\n{sentence}", STYLES[tone]),
    ]
    if own:
        parts.append((f"\n\n{_figures(own, charset)}", STYLES["none"]))
        bad = next((one for one in own if failed(one)), None)
        if bad is not None:
            reason = plain(with_keys(bad.error or f"status {bad.status}"))
            text = f"\nlast failed {clock_text(bad.at, now)}: {reason}"
            parts.append((text, STYLES["dim"]))
    return Content.assemble(*parts)


def _figures(requests: Sequence[RequestRecord], charset: Charset) -> str:
    """Return the number of the last requests with their medians."""
    several = len(requests) > 1
    parts = [f"last {len(requests):,} requests" if several else "last request"]
    speed = _median([one.tokens_per_second for one in requests])
    first = _median([one.time_to_first_token_seconds for one in requests if one.stream])
    failures = sum(failed(one) for one in requests)
    if speed is not None:
        parts.append(f"{'p50 ' if several else ''}{speed_text(speed)} tokens/s")
    if first is not None:
        parts.append(f"first token {seconds_text(first)}")
    if failures:
        parts.append(f"{failures:,} failed")
    return f" {charset.dot} ".join(parts)


def _median(values: Sequence[float | None]) -> float | None:
    known = sorted(value for value in values if value is not None)
    return known[len(known) // 2] if known else None
