"""Tones: the meanings of a text, which themes and the command line map to colours."""

from __future__ import annotations

from typing import Literal

Tone = Literal["none", "good", "busy", "bad", "dim", "accent", "strong"]
"""``none`` is the plain foreground. A tone never stands alone: a word or sign means the same."""

STATUS_TONES: dict[str, Tone] = {
    "loaded": "good",
    "loading": "busy",
    "queued": "busy",
    "unloading": "busy",
    "unloaded": "dim",
    "failed": "bad",
}
"""The tone of a model's state."""

OUTCOME_TONES: dict[str, Tone] = {"yes": "good", "no": "bad", "not tried": "dim"}
"""The tone of the result of a trial."""
