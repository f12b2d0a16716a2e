from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.monitor.ring import RECENT_SAMPLES, SampleRing

START = datetime(2026, 1, 31, 12, tzinfo=UTC)
BEGIN = datetime(1970, 1, 1, tzinfo=UTC)


def filled(seconds: int, step: float = 1.0) -> SampleRing[float]:
    ring: SampleRing[float] = SampleRing()
    for count in range(int(seconds / step)):
        ring.add(START + timedelta(seconds=count * step), count * step)
    return ring


def test_the_last_quarter_of_an_hour_is_kept() -> None:
    assert filled(3600).since(BEGIN) == [float(second) for second in range(2699, 3600)]


def test_the_number_is_bounded() -> None:
    quick = filled(1200, step=0.2)
    assert len(quick) == RECENT_SAMPLES
    assert quick.since(BEGIN)[-1] == 1199.8


def test_the_requested_samples_are_returned() -> None:
    ring: SampleRing[str] = SampleRing()
    assert ring.since(BEGIN) == []
    ring.add(START, "a")
    assert ring.since(START) == ["a"]
    assert ring.since(START + timedelta(microseconds=1)) == []


def test_a_clock_that_was_set_back_leaves_times_in_order() -> None:
    ring = filled(600)
    ring.add(START + timedelta(seconds=90), -1.0)
    assert ring.since(BEGIN) == [*map(float, range(90)), -1.0]


def test_a_clock_that_was_set_forward_by_years_empties_the_ring() -> None:
    ring = filled(600)
    ring.add(START + timedelta(days=3650), -1.0)
    assert ring.since(BEGIN) == [-1.0]


@given(st.lists(st.integers(-100_000, 200_000), max_size=200))
def test_any_times_leave_it_sorted_and_bounded(seconds: list[int]) -> None:
    ring: SampleRing[datetime] = SampleRing()
    for second in seconds:
        ring.add(START + timedelta(seconds=second), START + timedelta(seconds=second))
    kept = ring.since(BEGIN)
    assert kept == sorted(set(kept))
    assert len(ring) <= RECENT_SAMPLES
    if seconds:
        assert kept[-1] == START + timedelta(seconds=seconds[-1])
