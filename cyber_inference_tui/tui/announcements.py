"""Chooses what the app announces: in itself, on the desktop, and in the terminal's title."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from cyber_inference_tui.records import DownloadStatus, ModelStatus, RecentEvent
from cyber_inference_tui.tui.app_options import AppOptions
from cyber_inference_tui.tui.chrome import NAME
from cyber_inference_tui.tui.snapshot import Snapshot
from cyber_inference_tui.units import age_text, counted

SLOW_LOAD_SECONDS = 20.0
_HINTS = {
    ("download", "good"): "2 shows it.",
    ("download", "bad"): "3 and ] show it, r tries again.",
    ("install", "good"): "",
    ("install", "bad"): "4 shows its log.",
}
"""Kind and tone of the events that are announced, with what to do next."""


class Announcement(NamedTuple):
    """A sentence about an event, and what to do next."""

    text: str
    hint: str
    is_bad: bool = False


def announcements(events: Sequence[RecentEvent], after: int) -> list[Announcement]:
    """Return what to announce of the events with an id above ``after``, oldest first.

    ``events`` are the service's, newest first.
    """
    found = []
    for place, event in reversed(list(enumerate(events))):
        if event.id <= after:
            continue
        own = [one for one in events[place + 1 :] if one.subject == event.subject]
        hint = _HINTS.get((event.kind, event.tone))
        text = f"{event.subject} {event.text.rstrip('.')}."
        if event.kind == "model":
            if event.tone == "bad" and event.count == 1 and own and own[0].tone == "good":
                hint = "4 shows its log."
            elif (seconds := _load_seconds(event, own)) >= SLOW_LOAD_SECONDS:
                text, hint = f"{event.subject} is loaded, after {age_text(seconds)}.", ""
        if hint is not None:
            found.append(Announcement(text, hint, event.tone == "bad"))
    return found


def _load_seconds(event: RecentEvent, before: list[RecentEvent]) -> float:
    """Return how long a load took; 0 if ``event`` is not the end of one."""
    if event.tone != "good" or not before or before[0].text != "loading":
        return 0.0
    return (event.at - before[0].at).total_seconds()


def state_of(snapshot: Snapshot, place: str, options: AppOptions) -> tuple[str, int | None]:
    """Return the title of the terminal's window, and the percents of what is under way.

    ``place`` is the service's address.
    """
    host = urlsplit(place).netloc if options.attached else ""
    busy = _under_way(snapshot)
    parts = [f"{busy[1]} % {busy[0]}" if busy else "", host, NAME]
    return " - ".join(filter(None, parts)), busy[1] if busy else None


def _under_way(snapshot: Snapshot) -> tuple[str, int] | None:
    """Return the downloads together, or else the load that is nearest to its end."""
    running = [
        one
        for one in snapshot.downloads
        if one.status is DownloadStatus.RUNNING and one.bytes_total
    ]
    if running:
        total = sum(one.bytes_total or 0 for one in running)
        done = sum(one.bytes_done for one in running)
        what = running[0].name if len(running) == 1 else counted(len(running), "download")
        return what, min(99, 100 * done // total)
    loads = [
        (one.progress, one.id)
        for one in snapshot.models
        if one.status is ModelStatus.LOADING and one.progress is not None
    ]
    if not loads:
        return None
    progress, model_id = max(loads)
    return f"loading {model_id}", min(99, int(progress * 100))
