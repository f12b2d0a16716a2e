"""The meanings that a text can have. The app's theme and the command line give them colours."""

from __future__ import annotations

from typing import Literal

Tone = Literal["none", "good", "busy", "bad", "dim", "accent", "strong"]
"""``none`` is the plain foreground. A word or a sign always says the same as the tone."""

STATUS_TONES: dict[str, Tone] = {
    "loaded": "good",
    "loading": "busy",
    "queued": "busy",
    "unloading": "busy",
    "unloaded": "dim",
    "failed": "bad",
}
"""The tone of a model's state."""
