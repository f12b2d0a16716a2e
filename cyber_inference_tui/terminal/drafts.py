"""The drafts of answers in a few words: the part that was accepted, and what they gained."""

from __future__ import annotations

from cyber_inference_tui.records import DraftTotals
from cyber_inference_tui.units import number_text, percent_text


def accepted_text(drafted: int, accepted: int) -> str:
    """Return the part of the drafted tokens that became part of answers, in percent."""
    return percent_text(accepted / drafted) if drafted else ""


def gain(totals: DraftTotals) -> float | None:
    """Return the median speed with drafts as a multiple of that without.

    ``None`` = one of them was not measured.
    """
    with_drafts, without = totals.tokens_per_second_p50, totals.undrafted_tokens_per_second_p50
    return with_drafts / without if with_drafts and without else None


def gain_text(totals: DraftTotals) -> str:
    """Return the gain as a change in percent, such as ``+42 %``; empty if it was not measured."""
    times = gain(totals)
    if times is None:
        return ""
    percent = round(100 * (times - 1))
    return f"{'+' if percent >= 0 else '-'}{number_text(abs(percent))} %"
