"""Repeated measurements: the order of variants, their noise, and how they differ."""

from __future__ import annotations

import itertools
import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.rounds import in_turns, paired, spread, unpaired

SPEEDS = st.floats(0.1, 1e6)


def measured(
    speeds: dict[str, float], rounds: int, *, drift: float = 0.0, noise: float = 0.0, seed: int = 0
) -> dict[str, list[float]]:
    """What a machine measures that gets slower by ``drift`` with each measurement."""
    chance = random.Random(seed)
    found: dict[str, list[float]] = {name: [] for name in speeds}
    for count, (_, name) in enumerate(in_turns(list(speeds), rounds)):
        off = math.exp(chance.gauss(0.0, noise) - drift * count)
        found[name].append(speeds[name] * off)
    return found


@given(st.integers(1, 5), st.integers(1, 9))
def test_each_round_has_each_variant_once_and_turns_around(variants: int, rounds: int) -> None:
    order = list(in_turns(range(variants), rounds))
    by_round = [[one for number, one in order if number == n] for n in range(rounds)]
    assert [sorted(one) for one in by_round] == [list(range(variants))] * rounds
    assert all(two == one[::-1] for one, two in itertools.pairwise(by_round))


@given(st.lists(SPEEDS, min_size=1))
def test_half_of_the_values_lie_within_the_deviation(values: list[float]) -> None:
    found = spread(values)
    assert found is not None
    assert found.median == statistics.median(values)
    near = [one for one in values if abs(one - found.median) <= found.deviation * (1 + 1e-9)]
    assert len(near) * 2 >= len(values)
    assert spread([]) is None


@given(SPEEDS, st.floats(-0.5, 1.0), st.integers(3, 20), st.floats(-0.05, 0.05))
def test_a_steady_drift_changes_no_difference(
    speed: float, change: float, rounds: int, drift: float
) -> None:
    found = measured({"a": speed, "b": speed * (1 + change)}, rounds, drift=drift)
    difference = paired(found["a"], found["b"])
    assert difference is not None
    assert difference.change == pytest.approx(change, abs=1e-6)
    assert difference.noise == pytest.approx(0.0, abs=1e-5)


def test_noise_alone_is_rarely_taken_for_a_difference() -> None:
    verdicts = []
    for seed in range(1000):
        found = measured({"a": 20.0, "b": 20.0}, 6, drift=0.01, noise=0.02, seed=seed)
        for compare in (paired, unpaired):
            difference = compare(found["a"], found["b"])
            assert difference is not None
            verdicts.append(difference.is_real)
    # 95 % confidence: one of 20 is wrong, in either direction.
    assert sum(verdicts[::2]) < 80
    assert sum(verdicts[1::2]) < 80


def test_a_difference_beyond_the_noise_is_found() -> None:
    found = [measured({"a": 20.0, "b": 18.8}, 8, noise=0.01, seed=seed) for seed in range(200)]
    differences = [paired(one["a"], one["b"]) for one in found]
    assert sum(one is not None and one.is_real and one.change < 0 for one in differences) > 190


@given(st.lists(SPEEDS, min_size=3, max_size=8), st.lists(SPEEDS, min_size=3, max_size=8))
def test_different_runs_may_have_different_numbers_of_rounds(
    first: list[float], second: list[float]
) -> None:
    there, back = unpaired(first, second), unpaired(second, first)
    assert there is not None
    assert back is not None
    assert (1 + there.change) * (1 + back.change) == pytest.approx(1.0)
    on_the_edge = abs(there.change) == pytest.approx(there.noise)
    assert there.is_real == back.is_real or on_the_edge


def test_too_few_rounds_decide_nothing() -> None:
    for compare in (paired, unpaired):
        difference = compare([10.0, 10.0], [20.0, 20.0])
        assert difference is not None
        assert difference.change == pytest.approx(1.0)
        assert not difference.is_real
        assert compare([], []) is None
        assert compare([0.0, 1.0, 1.0], [1.0, 1.0, 1.0]) is None
