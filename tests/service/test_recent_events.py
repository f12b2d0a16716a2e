"""The last events in words: which there are, and how repeated failures are folded."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cyber_inference_tui.records import (
    EVENTS_KEPT,
    DownloadRecord,
    DownloadStatus,
    ModelRecord,
    ModelStatus,
    ServiceEvent,
    TrendMark,
)
from cyber_inference_tui.service.recent_events import RecentEvents

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


class Clock:
    """A clock that goes on by a second with each look."""

    def __init__(self) -> None:
        self.now = BEGAN

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


def begun(*models: str) -> RecentEvents:
    """A bus with these models."""
    bus = RecentEvents(now=Clock(), first_id=1)
    bus.begin([ModelRecord(id=model) for model in models])
    return bus


def texts(bus: RecentEvents) -> list[str]:
    """The events in words, newest first, with their number."""
    return [
        f"{one.subject} {one.text}" + (f" x{one.count}" if one.count > 1 else "")
        for one in bus.recent
    ]


def go(bus: RecentEvents, model_id: str, *statuses: str, **changes: Any) -> None:
    """Publish a model in each of these states."""
    for status in statuses:
        bus.publish("model", ModelRecord(id=model_id, status=ModelStatus(status), **changes))


async def test_what_happened_is_kept_with_its_time_and_announced_before_it() -> None:
    bus = begun("plum")
    subscription = bus.subscribe({"service", "model"})
    go(bus, "plum", "queued", queued=2)
    go(bus, "plum", "loading")
    bus.publish("model", ModelRecord(id="plum", status=ModelStatus.LOADING, progress=0.5))
    go(bus, "plum", "loaded", memory_bytes=3 << 30)
    assert texts(bus) == [
        "plum loaded, uses 3.00 GiB",
        "plum loading",
        "plum queued: 2 requests wait",
        "service started",
    ]
    assert [one.at - BEGAN for one in reversed(bus.recent)] == [
        timedelta(seconds=second) for second in (1, 2, 3, 4)
    ]
    batch = subscription.take()
    assert [event.topic for event in batch] == [
        "service", "model", "service", "model", "model", "service", "model"
    ]  # fmt: skip
    announced = [event.data for event in batch if isinstance(event.data, ServiceEvent)]
    assert [one.event for one in announced] == [*bus.recent[-2::-1]]
    assert [one.id for one in bus.recent] == sorted({one.id for one in bus.recent}, reverse=True)


def test_models_found_before_the_beginning_are_no_events() -> None:
    bus = RecentEvents(now=Clock(), first_id=1)
    go(bus, "plum", "unloaded")
    assert bus.recent == ()
    bus.begin([ModelRecord(id="plum")])
    go(bus, "plum", "unloaded")
    assert texts(bus) == ["service started"]
    go(bus, "pear", "unloaded")
    bus.publish("model", {"id": "plum", "status": None})
    bus.publish("model", {"id": "plum", "status": None})
    assert texts(bus)[:-1] == ["plum was removed from the disk", "pear was found"]


@pytest.mark.parametrize("attempt", [["queued"], ["queued", "loading"]])
def test_endless_failures_of_one_model_are_one_event(attempt: list[str]) -> None:
    bus = begun("plum", "pear")
    for number in range(12):
        go(bus, "plum", *attempt)
        go(bus, "plum", "failed", error=f"plum needs {number} GiB.\nIts log")
        go(bus, "pear", "queued", "loading")
        go(bus, "pear", "failed", error="pear stopped.")
    assert texts(bus) == ["pear stopped. x12", "plum needs 11 GiB. x12", "service started"]


def test_crashes_in_a_row_are_one_event() -> None:
    bus = begun("plum")
    for _ in range(3):
        go(bus, "plum", "queued", "loading", "loaded")
        go(bus, "plum", "failed", error="plum stopped: it was killed.")
    # It was loaded before the first crash.
    assert texts(bus) == [
        "plum stopped: it was killed. x3",
        "plum loaded",
        "plum loading",
        "plum queued",
        "service started",
    ]


def test_a_model_that_was_unloaded_in_between_fails_for_the_first_time() -> None:
    bus = begun("plum")
    go(bus, "plum", "failed", error="plum is broken.")
    go(bus, "plum", "loaded", "unloading", "unloaded")
    go(bus, "plum", "failed", error="plum is broken.")
    assert texts(bus)[::-1] == [
        "service started",
        "plum is broken.",
        "plum loaded",
        "plum unloading",
        "plum unloaded",
        "plum is broken.",
    ]


def test_a_failure_that_a_change_of_settings_ends_is_not_called_unwanted() -> None:
    bus = begun("plum")
    go(bus, "plum", "failed", "unloaded")
    assert texts(bus)[0] == "plum can be tried again"
    go(bus, "plum", "queued", "unloaded")
    assert texts(bus)[0] == "plum no longer needed"


def test_the_end_of_a_download_is_an_event() -> None:
    bus = begun()

    def publish(**changes: Any) -> None:
        bus.publish(
            "download",
            DownloadRecord(id="d1", repo="o/r", filename="sub/Plum-Q4.gguf", **changes),
        )

    publish(status=DownloadStatus.DONE)  # of an earlier run
    assert texts(bus) == ["service started"]
    for _ in range(2):
        publish(status=DownloadStatus.RUNNING)
        publish(status=DownloadStatus.RUNNING, bytes_done=5)
        publish(status=DownloadStatus.FAILED, error="The disk is full.")
    publish(status=DownloadStatus.RUNNING)
    publish(status=DownloadStatus.CANCELLED)
    publish(status=DownloadStatus.CANCELLED)
    publish(status=DownloadStatus.RUNNING)
    publish(status=DownloadStatus.VERIFYING)
    publish(status=DownloadStatus.DONE, model_id="o/Plum-Q4", bytes_total=5 << 30)
    assert texts(bus) == [
        "o/Plum-Q4 was downloaded, 5.00 GiB",
        "Plum-Q4 download cancelled",
        "Plum-Q4 was not downloaded: The disk is full. x2",
        "service started",
    ]


def test_settings_and_installations_are_events() -> None:
    bus = begun()
    bus.publish("config", {"error": None})
    bus.publish("config", {"error": "line 3: no such key."})
    bus.publish("service", ServiceEvent(state="installing", message="compiling"))
    bus.publish("service", ServiceEvent(state="install failed", message="no compiler."))
    bus.publish("service", ServiceEvent(state="installed", message="llama-server b9 is installed."))
    bus.publish("service", ServiceEvent(state="problems"))
    bus.publish("service", ServiceEvent(state="stopping"))
    assert texts(bus)[::-1] == [
        "service started",
        "service applied changed settings",
        "service line 3: no such key.",
        "llama-server was not installed: no compiler.",
        "llama-server b9 is installed.",
        "service is stopping",
    ]


def test_no_more_than_the_last_events_are_kept() -> None:
    bus = begun("plum")
    for _ in range(EVENTS_KEPT):
        go(bus, "plum", "loaded", "unloaded")
    assert len(bus.recent) == EVENTS_KEPT
    assert texts(bus)[:2] == ["plum unloaded", "plum loaded"]


async def test_a_long_reason_is_cut_and_kept_on_one_line() -> None:
    bus = begun()
    bus.publish("config", {"error": "port is wrong\n" * 10_000})
    text = bus.recent[0].text
    assert text.startswith("port is wrong port is wrong")
    assert text.endswith("… (+138999 characters)")


def test_loads_unloads_and_failures_are_marks() -> None:
    marks: list[TrendMark] = []
    bus = RecentEvents(now=Clock(), first_id=1, on_mark=marks.append)
    bus.begin([ModelRecord(id="plum")])
    go(bus, "plum", "queued", "loading")
    go(bus, "plum", "loaded", memory_bytes=3 << 30)
    go(bus, "plum", "loaded", pinned=True)
    go(bus, "plum", "unloading", "unloaded", "queued", "unloaded", "loading")
    go(bus, "plum", "failed", error="plum crashed: " + "x" * 500)
    go(bus, "plum", "unloaded", "queued", "loading", "loaded", "failed")
    assert [(mark.kind, mark.subject, mark.text[:20]) for mark in marks] == [
        ("loaded", "plum", "loaded, uses 3.00 Gi"),
        ("unloaded", "plum", "unloaded"),
        ("failed", "plum", "crashed: xxxxxxxxxxx"),
        ("loaded", "plum", "loaded"),
        ("failed", "plum", "failed"),
    ]
    assert marks[0].at in {event.at for event in bus.recent}
    assert max(len(mark.text) for mark in marks) < 250
