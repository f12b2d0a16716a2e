"""``tune``: what it asks the service for, and what it prints."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import msgspec
import pytest

from cyber_inference_tui.records.bench import BenchState, BenchStatus
from cyber_inference_tui.records.tuning import (
    Goal,
    TuneOutcome,
    TuneRequest,
    TuneTrial,
    TuneUndone,
)
from tests.cli.conftest import CommandLine
from tests.cli.stand_in import StandIn

AT = datetime(2026, 3, 4, 5, tzinfo=UTC)
BETTER = TuneOutcome(
    values={"threads": 4, "args": ["--flash-attn", "off"]},
    gain=0.21,
    noise=0.02,
    summary="Better for speed: 21.0 % faster (± 2.0 %), 24.2 tokens/s, before 20.0 tokens/s.",
    trials=(
        TuneTrial(change="4 threads", gain=0.2, noise=0.02, taken=True, reason="better"),
        TuneTrial(change="q8_0 cache", gain=0.01, noise=0.03, reason="too noisy to tell"),
        TuneTrial(change="batches of 256 tokens", reason="a could not be loaded"),
    ),
)


@pytest.fixture
def at(stand_in: StandIn) -> list[str]:
    return ["--port", str(stand_in.port)]


def ends_with(stand_in: StandIn, status: BenchStatus) -> None:
    running = BenchStatus(state=BenchState.RUNNING, step="a, 4 threads", started_at=AT)
    stand_in.answers["POST", "/admin/tune"] = running
    stand_in.answers["GET", "/admin/bench"] = msgspec.structs.replace(status, started_at=AT)


def test_the_trials_and_the_better_settings_are_printed(
    call: CommandLine, at: list[str], stand_in: StandIn
) -> None:
    ends_with(stand_in, BenchStatus(state=BenchState.DONE, outcome=BETTER))
    outcome = call("tune", "a", "--for", "energy", "--prompt", "64", *at)
    assert outcome.code == 0, outcome.err
    body = next(body for method, _, _, body in stand_in.requests if method == "POST")
    assert msgspec.json.decode(body, type=TuneRequest) == TuneRequest(
        model="a", goal=Goal.ENERGY, prompt=64
    )
    title, *trials, blank, summary, threads, args = outcome.out.splitlines()
    assert title.split() == ["CHANGE", "GAIN", "RESULT"]
    assert [line.split("  ")[0].strip() for line in trials] == [
        *("4 threads", "q8_0 cache", "batches of 256 tokens")
    ]
    assert "+20 %" in trials[0]
    assert "± 3.0 %" in trials[1]
    assert (blank, summary) == ("", BETTER.summary)
    assert (threads, args) == ("threads = 4", 'args = ["--flash-attn", "off"]')


def test_json_has_the_whole_outcome(call: CommandLine, at: list[str], stand_in: StandIn) -> None:
    ends_with(stand_in, BenchStatus(state=BenchState.DONE, outcome=BETTER))
    outcome = call("tune", "a", "--json", *at)
    assert msgspec.convert(json.loads(outcome.out), TuneOutcome) == BETTER


def test_a_tuning_that_made_way_fails_with_the_reason(
    call: CommandLine, at: list[str], stand_in: StandIn
) -> None:
    reason = "A request came after 2 of 7 trials."
    ends_with(stand_in, BenchStatus(state=BenchState.STOPPED, error=reason))
    outcome = call("tune", "a", *at)
    assert outcome.code == 1
    assert reason in outcome.err


def test_undo_says_what_is_back_and_what_stays(
    call: CommandLine, at: list[str], stand_in: StandIn
) -> None:
    stand_in.answers["DELETE", "/admin/tune/a"] = TuneUndone(
        model="a", values={"threads": 99, "parallel": None}, changed_since=("args",)
    )
    outcome = call("tune", "a", "--undo", *at)
    assert outcome.out.splitlines() == [
        "threads = 99",
        "parallel is not set any more.",
        "args was changed since, and stays.",
    ]
