"""Power modes: which results belong together, and which mode is better."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cyber_inference_tui.records.bench import BenchFigure, BenchResult
from cyber_inference_tui.terminal.power_modes import (
    better_modes,
    conditions,
    measured_modes,
    tokens_per_joule,
)

DAY = datetime(2026, 3, 4, 12, tzinfo=UTC)
BOARD = ("15W", "25W", "MAXN")


def figure(*values: float) -> BenchFigure:
    return BenchFigure(median=sorted(values)[len(values) // 2], spread=0.1, values=values)


def result(
    mode: str | None, speed: float, joules: float | None = None, **fields: Any
) -> BenchResult:
    """A result whose rounds differ by about 1 %."""

    def rounds(value: float) -> BenchFigure:
        return figure(0.99 * value, value, 1.01 * value, value)

    base: dict[str, Any] = {
        "run": DAY,
        "at": DAY,
        "model": "m",
        "power_mode": mode,
        "context_size": 8192,
        "prompt": 512,
        "tokens": 128,
        "tokens_per_second": rounds(speed),
        "joules_per_token": None if joules is None else rounds(joules),
    }
    return BenchResult(**{**base, **fields})


def test_the_newest_result_of_each_mode_counts_and_the_fastest_is_first() -> None:
    low, middle, high = result("15W", 10.0), result("25W", 14.0), result("MAXN", 20.0)
    old = result("25W", 13.0, at=DAY - timedelta(days=9))
    assert measured_modes([low, middle, high, old], BOARD) == [high, middle, low]
    assert measured_modes([low, high], ("15W",)) == [low], "another board has other modes"
    assert measured_modes([result(None, 9.0)], BOARD) == []
    assert measured_modes([result("15W", 9.0, tokens_per_second=None)], BOARD) == []


@pytest.mark.parametrize(
    "other", [{"model": "n"}, {"context_size": 4096}, {"tokens": 9}, {"build": "b2"}]
)
def test_only_results_that_are_alike_stand_beside_each_other(other: dict[str, Any]) -> None:
    alike = [result("15W", 10.0), result("25W", 14.0)]
    apart = result("25W", 90.0, **other)
    assert measured_modes([apart, *alike], BOARD) == alike[::-1]
    assert measured_modes([apart, alike[0]], BOARD) == [apart]
    # Two newer ones are enough.
    more = [result(mode, 9.0, **other) for mode in BOARD]
    assert measured_modes([*alike, *more], BOARD) == alike[::-1]


def test_a_better_mode_beats_the_present_one_by_more_than_the_noise() -> None:
    low, middle = result("15W", 10.0, 0.4), result("25W", 14.0, 0.5)
    high = result("MAXN", 20.0, 0.9)
    modes = [high, middle, low]
    assert better_modes(modes, middle) == [high, low]
    assert better_modes(modes, high) == [low]
    assert better_modes(modes, low) == [high]
    assert better_modes([middle], middle) == []
    best = result("MAXN", 20.0, 0.3)
    assert better_modes([best, middle, low], middle) == [best]
    hardly = result("MAXN", 14.05, 0.499)
    assert better_modes([hardly, middle], middle) == []


def test_tokens_per_joule_need_a_meter() -> None:
    found = tokens_per_joule(result("15W", 1.0, joules_per_token=figure(0.5, 0.25, 1.0)))
    assert found == BenchFigure(median=2.0, spread=1.0, values=(2.0, 4.0, 1.0))
    assert tokens_per_joule(result("15W", 1.0)) is None
    assert tokens_per_joule(result("15W", 1.0, joules_per_token=figure(0.0, 1.0))) is None


def test_the_conditions_have_the_days_of_all_modes() -> None:
    one = result("15W", 10.0, parallel=2)
    assert conditions([one]) == "m, 8K, 512 + 128 tokens, 2 requests at once, 2026-03-04"
    old = result("25W", 10.0, at=DAY - timedelta(days=2))
    assert conditions([old, one]).endswith(", 2026-03-02 to 2026-03-04")
