"""The meanings that a piece of text can have; which colour each gets is the theme's matter."""

from __future__ import annotations

from typing import Literal

from cyber_inference_tui.records import ModelStatus

Tone = Literal["none", "good", "busy", "bad", "dim", "accent"]
"""``none`` is the plain foreground. A tone never stands alone: a word or a sign tells the same."""

STATUS_TONES: dict[ModelStatus, Tone] = {
    ModelStatus.LOADED: "good",
    ModelStatus.LOADING: "busy",
    ModelStatus.QUEUED: "busy",
    ModelStatus.UNLOADING: "busy",
    ModelStatus.UNLOADED: "dim",
    ModelStatus.FAILED: "bad",
}
