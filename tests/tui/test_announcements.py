"""Announcements of the app, and the title of its window."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from cyber_inference_tui.records import (
    DownloadRecord,
    DownloadStatus,
    ModelRecord,
    ModelStatus,
    RecentEvent,
    with_event,
)
from cyber_inference_tui.tui.announcements import announcements, state_of
from cyber_inference_tui.tui.app_options import AppOptions
from cyber_inference_tui.tui.snapshot import Snapshot
from tests.tui.world import NOW


def announced(*steps: tuple[float, str, str]) -> list[tuple[str, bool]]:
    """Return the announcement of the last of some events of a model: seconds, text and tone."""
    events: tuple[RecentEvent, ...] = ()
    for number, (seconds, text, tone) in enumerate(steps, 1):
        event: Any = {"kind": "model", "subject": "plum", "text": text, "tone": tone}
        new = RecentEvent(id=number, at=NOW + timedelta(seconds=seconds), **event)
        events = with_event(events, new)
    return [(one.text, one.is_bad) for one in announcements(events, len(steps) - 1)]


LOADING, LOADED = (0.0, "loading", "busy"), (34.0, "loaded, uses 4 GiB", "good")
CRASH = (40.0, "crashed.", "bad")


def test_slow_loads_and_crashes_are_announced() -> None:
    assert announced(LOADING, LOADED) == [("plum is loaded, after 34 s.", False)]
    assert announced(LOADING, (19.0, "loaded", "good")) == []
    assert announced(LOADED) == []
    assert announced(LOADING, LOADED, CRASH) == [("plum crashed.", True)]


def test_a_load_that_fails_and_crashes_in_a_row_are_not() -> None:
    assert announced(LOADING, CRASH) == []
    assert announced(LOADING, LOADED, CRASH, LOADING, LOADED, CRASH) == []


def test_the_title_says_what_is_under_way() -> None:
    loading = ModelRecord(id="plum", status=ModelStatus.LOADING, progress=0.649)
    unknown = ModelRecord(id="other", status=ModelStatus.LOADING)
    snapshot = Snapshot(models=(loading, unknown))
    local, remote = AppOptions(), AppOptions(attached=True)
    assert state_of(Snapshot(), "ssh://ann@box", remote) == ("ann@box - cyber-inference", None)
    assert state_of(Snapshot(), "http://127.0.0.1:8337", local) == ("cyber-inference", None)
    assert state_of(snapshot, "", local) == ("64 % loading plum - cyber-inference", 64)
    running = DownloadStatus.RUNNING
    one = DownloadRecord(
        id="1", repo="a/b", filename="b.gguf", status=running, bytes_done=30, bytes_total=40
    )
    snapshot = replace(snapshot, downloads=(one,))
    assert state_of(snapshot, "", local) == (f"75 % {one.name} - cyber-inference", 75)
    both = replace(snapshot, downloads=(one, one))
    assert state_of(both, "", local) == ("75 % 2 downloads - cyber-inference", 75)
