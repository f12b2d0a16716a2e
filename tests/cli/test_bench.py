"""``bench``: what it asks the service for, what it prints, and how it ends."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from cyber_inference_tui.records.bench import (
    BenchFigure,
    BenchRequest,
    BenchResult,
    BenchState,
    BenchStatus,
)
from tests.cli.conftest import CommandLine
from tests.cli.stand_in import StandIn

AT = datetime(2026, 3, 4, 5, tzinfo=UTC)
ALL = ("GET", "/admin/bench/results?limit=1000")


def result(model: str, *speeds: float, **more: Any) -> BenchResult:
    figure = BenchFigure(median=speeds[0], spread=0.2, values=speeds)
    return BenchResult(
        run=AT, at=AT, model=model, prompt=512, tokens=128, tokens_per_second=figure, **more
    )


SLOW = result("slow", 20.0, 20.1, 19.9, peak_memory_bytes=1 << 30)
FAST = result("fast", 24.0, 24.1, 23.9, throttled=("cpu: temperature",))


@pytest.fixture
def at(stand_in: StandIn) -> list[str]:
    return ["--port", str(stand_in.port)]


def test_models_are_measured_and_compared(
    call: CommandLine, at: list[str], stand_in: StandIn
) -> None:
    running = BenchStatus(state=BenchState.RUNNING, step="slow, round 1 of 6", started_at=AT)
    done = BenchStatus(state=BenchState.DONE, started_at=AT, results=(SLOW, FAST))
    stand_in.answers["POST", "/admin/bench"] = running
    stand_in.answers["GET", "/admin/bench"] = done

    outcome = call("bench", "slow", "fast", "--prompt", "64", "--parallel", "2", *at)

    assert outcome.code == 0, outcome.err
    body = next(body for method, path, _, body in stand_in.requests if method == "POST")
    asked = msgspec.json.decode(body, type=BenchRequest)
    assert asked == BenchRequest(models=("slow", "fast"), prompt=64, parallel=2)
    title, first, second, _, *notes = outcome.out.splitlines()
    assert title.split()[:3] == ["TIME", "MODEL", "BUILD"]
    assert "20.0 ± 0.2" in first
    assert "1.00 GiB" in first
    assert "+20 %" in second
    assert notes == [
        "fast: the machine was slowed down (cpu: temperature).",
        "fast is 20 % faster than slow (± 0.6 %).",
    ]
    rows = json.loads(call("bench", "slow", "fast", "--json", *at).out)
    assert [row["result"]["model"] for row in rows] == ["slow", "fast"]
    assert rows[1]["differences"]["generation"]["change"] == pytest.approx(0.2, abs=0.001)
    assert rows[1]["differences"]["energy"] is None


@pytest.mark.parametrize(
    ("state", "error", "said"),
    [
        (BenchState.STOPPED, "A request came after 3 of 6 measurements.", "A request came after 3"),
        (BenchState.CANCELLED, None, "The bench was cancelled."),
    ],
)
def test_an_early_end_is_a_failure_with_its_reason(
    call: CommandLine,
    at: list[str],
    stand_in: StandIn,
    *,
    state: BenchState,
    error: str | None,
    said: str,
) -> None:
    stand_in.answers["POST", "/admin/bench"] = BenchStatus(state=state, error=error, started_at=AT)
    outcome = call("bench", "slow", *at)
    assert (outcome.code, outcome.out) == (1, "")
    assert said in outcome.err


def test_earlier_results_are_listed_and_compared(
    call: CommandLine, at: list[str], stand_in: StandIn
) -> None:
    stand_in.answers[ALL] = [FAST, SLOW]
    listed = call("bench", "--list", *at).out.splitlines()
    assert [line.split()[2] for line in listed[1:3]] == ["fast", "slow"]
    assert "CHANGE" not in listed[0]
    assert json.loads(call("bench", "--list", "SLOW", "--json", *at).out)[0]["model"] == "slow"
    compared = call("bench", "--compare", *at).out
    assert " than " in compared
    stand_in.answers[ALL] = []
    nothing = call("bench", "--compare", *at)
    assert (nothing.code, nothing.out) == (0, "")
    assert "bench ID" in nothing.err


def test_a_model_has_to_be_named(call: CommandLine, at: list[str]) -> None:
    assert call("bench", *at).code == 2
    assert call("bench", "slow", "--tokens", "1", *at).code == 2
