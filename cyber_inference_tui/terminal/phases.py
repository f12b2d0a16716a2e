"""The phases of a request as lines with bars, and its tokens, for the app and the command line."""

from __future__ import annotations

from typing import NamedTuple

from cyber_inference_tui.records import PhaseRecord, RequestRecord, RequestWhy
from cyber_inference_tui.terminal.charset import Charset
from cyber_inference_tui.units import counted, number_text, seconds_text, speed_text


class PhaseLine(NamedTuple):
    """A phase: its name and time, its bar among the others, and its figures in words."""

    name: str
    took: str
    bar: str
    """As wide as all bars; the phase has its part of it."""
    note: str


def phase_lines(why: RequestWhy, width: int, charset: Charset) -> list[PhaseLine]:
    """Return a line for each phase, with bars of ``width`` cells one after the other."""
    total = sum(phase.seconds for phase in why.phases)
    lines, end = [], 0.0
    for phase in why.phases:
        start, end = end, end + phase.seconds
        first = min(width - 1, round(start / total * width))
        last = max(first + 1, round(end / total * width))
        bar = " " * first + ("█" if charset.unicode else "#") * (last - first)
        lines.append(
            PhaseLine(phase.name, seconds_text(phase.seconds), bar.ljust(width), _note(phase))
        )
    return lines


def slowness(why: RequestWhy) -> str:
    """Return how a request's time compares with the usual, and the cause, in a few words."""
    if not why.cause and why.request.error is not None:
        return "failed"
    if not why.cause:
        return "" if why.usual_seconds is None else "no slower than usual"
    if not why.usual_seconds:
        return why.cause
    times = why.request.duration_seconds / why.usual_seconds
    figure = number_text(times, decimals=1 if times < 100 else 0)
    return f"{figure} times its usual time: {why.cause}"


def tokens_out_text(record: RequestRecord, charset: Charset) -> str:
    """Return the tokens of an answer, with a sign if they were counted as they passed."""
    text = charset.known(record.tokens_out, number_text)
    return f"{charset.about} {text}" if record.tokens_counted else text


def _note(phase: PhaseRecord) -> str:
    parts = []
    if phase.tokens is not None:
        new = "new " if phase.tokens_cached is not None else ""
        parts.append(counted(phase.tokens, f"{new}token"))
    if phase.tokens_cached is not None:
        parts.append(f"{number_text(phase.tokens_cached)} cached")
    if phase.tokens_per_second is not None:
        parts.append(f"{speed_text(phase.tokens_per_second)}/s")
    if phase.usual_seconds is not None:
        usual = seconds_text(phase.usual_seconds) if phase.usual_seconds else "none"
        parts.append(f"usually {usual}")
    return ", ".join(parts)
