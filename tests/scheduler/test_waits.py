"""How long somebody will wait, and what is remembered of loads."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from cyber_inference_tui.llama.needs import Footprint, Measurement
from cyber_inference_tui.records import ModelStatus
from cyber_inference_tui.scheduler.load_history import LoadHistory
from cyber_inference_tui.scheduler.wait_estimate import (
    QueueEntry,
    WaitEstimate,
    expected_wait,
    load_left,
)

QUEUED = QueueEntry(status=ModelStatus.QUEUED, load_seconds=10.0, request_seconds=2.0, places=4)


def measurement(signature: str, seconds: float, size: int | None = 1000) -> Measurement:
    return Measurement(
        signature=signature,
        model="m",
        footprint=Footprint(host=5),
        context_size=None,
        load_seconds=seconds,
        size_bytes=size,
        at=datetime(2026, 1, 31, tzinfo=UTC),
    )


def test_a_load_tells_by_its_progress_or_by_the_past() -> None:
    loading = QueueEntry(status=ModelStatus.LOADING, load_seconds=10.0, elapsed=4.0)
    assert load_left(loading) == 6.0
    half = QueueEntry(status=ModelStatus.LOADING, load_seconds=100.0, elapsed=4.0, progress=0.5)
    assert load_left(half) == 4.0
    late = QueueEntry(status=ModelStatus.LOADING, load_seconds=10.0, elapsed=40.0)
    assert load_left(late) == 0.0
    assert load_left(QueueEntry(status=ModelStatus.LOADING, elapsed=4.0)) is None


def test_a_wait_is_the_sum_of_what_comes_before() -> None:
    loading = QueueEntry(status=ModelStatus.LOADING, load_seconds=8.0, elapsed=5.0)
    busy = QueueEntry(status=ModelStatus.LOADED, request_seconds=7.0)
    assert expected_wait(QUEUED, 1, [], []) == 10.0
    assert expected_wait(QUEUED, 1, [loading, QUEUED], [busy]) == 3.0 + 10.0 + 10.0 + 7.0
    # Four at a time: the fifth waits for one turn of requests.
    assert expected_wait(QUEUED, 4, [], []) == 10.0
    assert expected_wait(QUEUED, 5, [], []) == 12.0


def test_where_a_part_is_unknown_nothing_is_made_up() -> None:
    unknown = QueueEntry(status=ModelStatus.QUEUED)
    assert expected_wait(unknown, 1, [], []) is None
    assert expected_wait(QUEUED, 1, [unknown], []) is None
    assert expected_wait(QUEUED, 1, [], [QueueEntry(status=ModelStatus.LOADED)]) is None
    assert expected_wait(QueueEntry(status=ModelStatus.LOADED), 1, [], []) is None


def test_a_full_server_serves_its_places_in_turn() -> None:
    full = QueueEntry(status=ModelStatus.LOADED, request_seconds=6.0, places=3)
    assert expected_wait(full, 1, [], []) == 2.0
    assert expected_wait(full, 6, [], []) == 12.0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, ""), (0.2, ", about 1 s"), (12.4, ", about 12 s"), (600.0, ", about 10 min")],
)
def test_words(seconds: float | None, words: str) -> None:
    queued = WaitEstimate(
        status=ModelStatus.QUEUED, progress=None, position=2, waiting=5, seconds=seconds
    )
    assert queued.in_words("tiny") == f"queued tiny, 2 of 5{words}"


def test_what_was_measured_is_known_and_the_speed_tells_of_others() -> None:
    told: list[Measurement] = []
    load_history = LoadHistory(on_new=told.append)
    assert load_history.load_seconds("a", 1000) is None
    load_history.recall(measurement("a", 2.0))
    assert told == []
    assert load_history.footprint("a") == Footprint(host=5)
    assert load_history.load_seconds("a", None) == 2.0
    # 500 bytes a second.
    assert load_history.load_seconds("b", 5000) == 10.0
    assert load_history.load_seconds("b", None) is None
    assert load_history.footprint("b") is None
    load_history.learn(measurement("a", 4.0))
    assert load_history.load_seconds("a", None) == 4.0
    assert told == [measurement("a", 4.0)]


def test_the_oldest_measurements_are_forgotten() -> None:
    load_history = LoadHistory()
    for number in range(2_100):
        load_history.recall(measurement(str(number), 1.0))
    assert load_history.footprint("0") is None
    assert load_history.footprint("2099") is not None
