"""Events for the dashboard from the changes of a model."""

from __future__ import annotations

from datetime import datetime

from cyber_inference_tui.records import ModelRecord, ModelStatus
from cyber_inference_tui.terminal.tone import Tone
from cyber_inference_tui.tui.snapshot import RecentEvent
from cyber_inference_tui.units import size_text


def model_change_event(
    before: ModelRecord | None, after: ModelRecord | None, at: datetime
) -> RecentEvent | None:
    """Return an event for the change from ``before`` to ``after``, or ``None`` if it is minor."""
    if after is None:
        gone = "was removed from the disk"
        return RecentEvent(at=at, subject=before.id, text=gone) if before else None
    if before is None:
        return RecentEvent(at=at, subject=after.id, text="was found", tone="good")
    if before.status is not after.status:
        text, tone = _new_status(before, after)
        return RecentEvent(at=at, subject=after.id, text=text, tone=tone) if text else None
    if before.pinned != after.pinned:
        return RecentEvent(at=at, subject=after.id, text="pinned" if after.pinned else "unpinned")
    return None


def _new_status(before: ModelRecord, after: ModelRecord) -> tuple[str, Tone]:
    match after.status:
        case ModelStatus.QUEUED:
            waiting = "request waits" if after.queued == 1 else "requests wait"
            return (f"queued: {after.queued} {waiting}" if after.queued else "queued"), "busy"
        case ModelStatus.LOADING:
            return "loading", "busy"
        case ModelStatus.LOADED:
            took = f", uses {size_text(after.memory_bytes)}" if after.memory_bytes else ""
            return f"loaded{took}", "good"
        case ModelStatus.UNLOADING:
            return "unloading", "none"
        case ModelStatus.FAILED:
            return (after.error or "failed").splitlines()[0], "bad"
        case ModelStatus.UNLOADED:
            # A queued model whose requests all ended was never loaded.
            was_up = before.status in {ModelStatus.LOADED, ModelStatus.UNLOADING}
            return ("unloaded" if was_up else "no longer needed"), "none"
