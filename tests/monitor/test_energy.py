"""The energy between readings of power and of counters; gaps are stated, and never filled."""

from __future__ import annotations

import pytest

from cyber_inference_tui.monitor.energy import LONGEST_STEP, EnergyMeter, Part, energy_between
from cyber_inference_tui.records import EnergyRecord


def board(watts: float) -> tuple[Part, ...]:
    return (Part("board", watts=watts),)


def cpu(joules: float, wraps_at: float | None = 262_143.0) -> tuple[Part, ...]:
    return (Part("CPU", counter_j=joules, wraps_at_j=wraps_at),)


def record(*readings: tuple[float, tuple[Part, ...]]) -> EnergyRecord | None:
    meter = EnergyMeter()
    for at, parts in readings:
        meter.add(at, parts)
    return meter.record


def test_power_counts_as_a_straight_line_between_readings() -> None:
    assert record((10.0, board(4.0)), (12.0, board(8.0)), (13.0, board(6.0))) == EnergyRecord(
        joules=12.0 + 7.0, seconds=3.0, covers=("board",)
    )


def test_a_counter_counts_by_its_difference_also_when_it_wraps() -> None:
    found = record((0.0, cpu(100.0)), (5.0, cpu(350.0)), (10.0, cpu(600.0)))
    assert found == EnergyRecord(joules=500.0, seconds=10.0, covers=("CPU",))
    wrapped = record((0.0, cpu(262_100.0)), (5.0, cpu(57.0)))
    assert wrapped is not None
    assert wrapped.joules == pytest.approx(100.0)


@pytest.mark.parametrize(
    "later",
    [
        pytest.param((5.0, cpu(50.0, None)), id="a counter that never wraps went back"),
        pytest.param((5.0, cpu(50.0)), id="set back while suspended: too much for a wrap"),
        pytest.param((LONGEST_STEP + 1, cpu(200.0)), id="no reading for too long"),
        pytest.param((5.0, (*cpu(200.0), *board(5.0))), id="another part"),
        pytest.param((5.0, (Part("CPU", watts=5.0),)), id="power in place of a counter"),
        pytest.param((-1.0, cpu(200.0)), id="a clock that was set back"),
    ],
)
def test_what_is_not_known_is_a_gap(later: tuple[float, tuple[Part, ...]]) -> None:
    found = record((0.0, cpu(100.0)), later)
    assert found is not None
    assert (found.joules, found.seconds, found.gaps) == (0.0, 0.0, 1)
    assert found.longest_gap_seconds == max(0.0, later[0])


def test_the_longest_gap_is_stated_and_measuring_goes_on() -> None:
    found = record((0.0, board(5.0)), (60.0, board(5.0)), (61.0, board(5.0)), (100.0, board(5.0)))
    assert found is not None
    assert (found.joules, found.seconds) == (5.0, 1.0)
    assert (found.gaps, found.longest_gap_seconds) == (2, 60.0)


def test_a_reading_of_nothing_does_not_count() -> None:
    assert record((0.0, ())) is None
    found = record((0.0, board(5.0)), (1.0, ()), (2.0, board(5.0)))
    assert found == EnergyRecord(joules=10.0, seconds=2.0, covers=("board",))


def test_the_energy_between_two_moments_is_known_without_a_gap_only() -> None:
    first = EnergyRecord(joules=10.0, seconds=5.0, covers=("board",))
    later = EnergyRecord(joules=25.0, seconds=7.0, covers=("board",))
    assert energy_between(first, later) == 15.0
    after_gap = EnergyRecord(joules=25.0, seconds=7.0, covers=("board",), gaps=1)
    assert energy_between(first, after_gap) is None
    assert energy_between(None, later) is None
    assert energy_between(first, None) is None
