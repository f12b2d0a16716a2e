"""The shares of requests that run at once add up to the meter's energy."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.monitor.energy_shares import LONGEST_HOLD, MOST_POINTS, EnergyShares


class Machine:
    """A machine whose power is constant from one reading to the next."""

    def __init__(self) -> None:
        self.shares = EnergyShares()
        self.now = 100.0
        self.joules = self.idle_joules = 0.0
        self.running = 0
        self.idle_seconds = self.seconds = 0.0
        self.read()

    def run(self, seconds: float) -> None:
        self.now += seconds
        self.seconds += seconds
        if not self.running:
            self.idle_seconds += seconds

    def begin(self) -> float:
        self.shares.begin(self.now, self.running)
        self.running += 1
        return self.shares.mark

    def end(self) -> float:
        self.shares.end(self.now, self.running)
        self.running -= 1
        return self.shares.mark

    def read(self, watts: float = 0.0, *, after_gap: bool = False) -> None:
        """Read the meter: so many watts since the last reading."""
        self.joules += watts * self.seconds
        self.idle_joules += watts * self.idle_seconds
        self.seconds = self.idle_seconds = 0.0
        self.shares.move(self.now, self.running)
        self.shares.add(self.now, self.shares.mark, self.joules, after_gap=after_gap)


class Step(NamedTuple):
    seconds: float
    begins: int
    ends: list[int]
    watts: float | None
    """``None`` = no reading."""


SECONDS = st.floats(0.001, 20.0)
STEPS = st.lists(
    st.builds(
        Step,
        seconds=SECONDS,
        begins=st.integers(0, 3),
        ends=st.lists(st.integers(0, 5), max_size=3),
        watts=st.none() | st.floats(0.0, 500.0),
    ),
    max_size=40,
)


@given(STEPS, SECONDS, st.floats(0.0, 500.0))
def test_all_shares_with_the_idle_rest_are_the_meters_energy(
    steps: list[Step], last_seconds: float, last_watts: float
) -> None:
    machine = Machine()
    running: list[float] = []
    over: list[tuple[float, float]] = []
    for step in steps:
        machine.run(step.seconds)
        running += [machine.begin() for _ in range(step.begins)]
        over.extend(
            (running.pop(number), machine.end()) for number in step.ends if number < len(running)
        )
        if step.watts is not None:
            machine.read(step.watts)
    machine.run(last_seconds)
    over += [(begin, machine.end()) for begin in running]
    machine.read(last_watts)
    shares = [machine.shares.joules(begin, end) for begin, end in over]
    assert None not in shares
    total = sum(share for share in shares if share is not None)
    assert total + machine.idle_joules == pytest.approx(machine.joules, rel=1e-6, abs=1e-6)


def test_requests_at_once_have_equal_shares() -> None:
    machine = Machine()
    first = machine.begin()
    machine.run(2.0)
    second = machine.begin()
    machine.run(4.0)
    first_end = machine.end()
    machine.run(1.0)
    second_end = machine.end()
    machine.run(3.0)
    machine.read(10.0)
    assert machine.shares.joules(first, first_end) == pytest.approx(20.0 + 20.0)
    assert machine.shares.joules(second, second_end) == pytest.approx(20.0 + 10.0)
    assert machine.joules == pytest.approx(70.0 + 30.0)


def test_the_energy_of_a_time_with_a_gap_is_not_known() -> None:
    machine = Machine()
    before = machine.begin()
    machine.run(1.0)
    machine.read(10.0)
    machine.run(60.0)
    machine.read(after_gap=True)
    after = machine.begin()
    machine.run(2.0)
    end = machine.end()
    machine.read(10.0)
    assert machine.shares.joules(before, end) is None
    assert machine.shares.joules(after, end) == pytest.approx(10.0)


def test_without_a_reading_nothing_is_known() -> None:
    shares = EnergyShares()
    assert shares.joules(0.0, 0.0) is None


def test_a_request_that_is_asked_for_before_the_next_reading_has_the_last_power() -> None:
    machine = Machine()
    first = machine.begin()
    machine.run(1.0)
    machine.read(10.0)
    machine.run(0.5)
    end, second = machine.end(), machine.begin()
    assert machine.shares.joules(first, end) == pytest.approx(15.0)
    # The power was 20 W since the reading, so what follows pays for the rest.
    machine.run(0.5)
    end = machine.end()
    machine.read(20.0)
    assert machine.shares.joules(second, end) == pytest.approx(15.0)
    assert machine.joules == pytest.approx(30.0)


def test_after_too_high_a_power_nothing_is_counted_twice() -> None:
    machine = Machine()
    first = machine.begin()
    machine.run(1.0)
    machine.read(100.0)
    machine.run(0.5)
    end, second = machine.end(), machine.begin()
    assert machine.shares.joules(first, end) == pytest.approx(150.0)
    machine.run(0.5)
    machine.read(0.0)
    machine.run(1.0)
    end = machine.end()
    machine.read(100.0)
    assert machine.shares.joules(second, end) == pytest.approx(50.0)
    assert machine.joules == pytest.approx(200.0)


def test_an_old_power_is_not_held() -> None:
    machine = Machine()
    begin = machine.begin()
    machine.run(1.0)
    machine.read(10.0)
    machine.run(LONGEST_HOLD + 0.1)
    end = machine.end()
    assert machine.shares.joules(begin, end) is None
    machine.read(10.0)
    assert machine.shares.joules(begin, end) == pytest.approx(21.0)


def test_a_long_request_keeps_its_energy_in_bounded_memory() -> None:
    machine = Machine()
    begin = machine.begin()
    for number in range(3 * MOST_POINTS):
        machine.run(0.25)
        machine.read(10.0 + number % 7)
    end = machine.end()
    assert len(machine.shares._marks) <= MOST_POINTS
    assert machine.shares.joules(begin, end) == pytest.approx(machine.joules)


def test_a_reading_is_asked_for_once_at_the_edge_of_a_rest() -> None:
    shares = EnergyShares()
    asked: list[float] = []
    shares.on_edge = lambda: asked.append(shares.due)
    shares.begin(1.0, 0)
    shares.end(1.5, 1)
    shares.due = 2.0
    shares.begin(1.6, 0)
    shares.begin(2.5, 1)
    shares.end(3.0, 2)
    assert asked == []
    shares.end(3.5, 1)
    shares.begin(4.0, 0)
    assert len(asked) == 1
    shares.due = 5.0
    shares.begin(5.5, 0)
    assert len(asked) == 2
