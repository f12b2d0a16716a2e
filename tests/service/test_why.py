"""The reasons that are found for slow requests."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from cyber_inference_tui.records import PhaseName, RequestRecord
from cyber_inference_tui.service.why import explain, phases

NOW = datetime(2026, 3, 5, 12, 0, tzinfo=UTC)
USUAL = RequestRecord(
    id=1,
    at=NOW,
    model="m",
    path="/v1/chat/completions",
    status=200,
    stream=True,
    tokens_in=2000,
    tokens_cached=1900,
    tokens_out=100,
    tokens_per_second=50.0,
    time_to_first_token_seconds=0.11,
    duration_seconds=2.11,
    body_seconds=0.01,
    prompt_seconds=0.1,
    answer_seconds=2.0,
    stall_seconds=0.0,
    client="127.0.0.1",
)
BEFORE = [
    replace(USUAL, id=number, at=NOW - timedelta(minutes=10 - number)) for number in range(9, 0, -1)
]


def request(**changes: Any) -> RequestRecord:
    """A slow request after the usual ones."""
    return replace(USUAL, id=20, **changes)


def beside(model: str = "m", number: int = 19) -> RequestRecord:
    """A request that ran at the same time."""
    return replace(USUAL, id=number, model=model, at=NOW + timedelta(seconds=0.5))


LOADED = {"queue_seconds": 4.0, "load_seconds": 4.0, "duration_seconds": 6.1}
LOADED |= {"time_to_first_token_seconds": 4.11}
COLD = {"tokens_cached": 0, "prompt_seconds": 2.0, "duration_seconds": 4.0}
COLD |= {"time_to_first_token_seconds": 2.01}
QUEUED = {"queue_seconds": 4.0, "time_to_first_token_seconds": 4.11, "duration_seconds": 6.1}


@pytest.mark.parametrize(
    ("changes", "others", "cause", "words"),
    [
        (LOADED, [], "waited for a load", "m was not loaded, and its load took 4.00 s"),
        ({**QUEUED, "queue_ahead": 2}, [], "waited in the queue", "behind 2 requests to m"),
        (QUEUED, [beside()], "waited in the queue", "1 other request had all places of m"),
        (
            {**QUEUED, "load_seconds": 0.5},
            [beside("other")],
            "waited for memory",
            "until requests to other ended",
        ),
        (
            {"body_seconds": 3.0, "time_to_first_token_seconds": 3.1, "duration_seconds": 5.1},
            [],
            "a slow upload",
            "took 3.00 s to arrive",
        ),
        (
            {"time_to_first_token_seconds": 5.11, "duration_seconds": 7.11},
            [beside(), beside(number=18)],
            "waited for a slot",
            "2 other requests took all slots",
        ),
        (
            {**COLD, "prompt_differs_at": 72, "prompt_differs_in": "the system prompt"},
            [],
            "a cold prompt",
            "near character 72 (in the system prompt)",
        ),
        ({**COLD, "client": "10.0.0.9"}, [], "a cold prompt", "another client's conversation"),
        (
            {**COLD, "queue_seconds": 0.5, "load_seconds": 0.5},
            [],
            "a cold prompt",
            "had just been loaded",
        ),
        (
            {
                "tokens_in": 6000,
                "tokens_cached": 3100,
                "prompt_seconds": 2.9,
                "time_to_first_token_seconds": 2.91,
                "duration_seconds": 4.9,
            },
            [],
            "a long prompt",
            "2,900 new tokens",
        ),
        (
            {"prompt_seconds": 2.0, "time_to_first_token_seconds": 2.01, "duration_seconds": 4.01},
            [],
            "a slow prompt",
            "50.0 tokens/s instead of 1,000.0",
        ),
        (
            {"tokens_out": 400, "answer_seconds": 8.0, "duration_seconds": 8.11},
            [],
            "a long answer",
            "400 tokens, at its usual speed",
        ),
        (
            {
                "tokens_out": 4000,
                "tokens_per_second": 25.0,
                "answer_seconds": 160.0,
                "duration_seconds": 160.11,
            },
            [],
            "a long answer",
            "It wrote 4,000 tokens.",
        ),
        (
            {"tokens_per_second": 10.0, "answer_seconds": 10.0, "duration_seconds": 10.11},
            [beside()],
            "slow writing",
            "1 other request ran at the same server",
        ),
        (
            {"tokens_per_second": 10.0, "answer_seconds": 10.0, "duration_seconds": 10.11},
            [],
            "slow writing",
            "it was throttled",
        ),
        (
            {"stall_seconds": 6.0, "duration_seconds": 8.11},
            [],
            "a slow client",
            "its client did not take the answer",
        ),
    ],
)
def test_the_cause_is_named(
    changes: dict[str, Any], others: Sequence[RequestRecord], cause: str, words: str
) -> None:
    why = explain(request(**changes), BEFORE, others)
    assert (why.cause, why.compared) == (cause, 9)
    assert words in " ".join(why.explanation)
    assert why.usual_seconds == USUAL.duration_seconds


def test_a_request_that_is_not_slow_has_no_cause() -> None:
    why = explain(request(), BEFORE, [])
    assert why.cause == ""
    assert why.explanation == ("It took no longer than usual.",)
    # Twice a very short time is no reason to worry.
    quick = {"duration_seconds": 0.01, "answer_seconds": 0.004, "prompt_seconds": 0.001}
    quick |= {"body_seconds": 0.0, "time_to_first_token_seconds": 0.002}
    before = [replace(one, **quick) for one in BEFORE]
    assert explain(request(**{**quick, "duration_seconds": 0.03}), before, []).cause == ""


def test_a_failed_request_has_its_error_as_the_explanation() -> None:
    failed = request(**LOADED, status=503, error="The model could not be loaded.")
    why = explain(failed, BEFORE, [])
    assert why.cause == ""
    assert why.explanation == ("It failed: The model could not be loaded.",)
    left = request(**LOADED, error="The client went away.")
    assert explain(replace(left, status=499), BEFORE, []).cause == "waited for a load"


def test_without_others_to_compare_it_with_the_longest_phase_is_named() -> None:
    why = explain(request(**LOADED), BEFORE[:2], [])
    assert (why.cause, why.usual_seconds) == ("waited for a load", None)
    assert why.explanation[-1] == "There are too few requests to m to compare it with."


def test_the_program_that_changes_its_prompt_is_known() -> None:
    changes = {**COLD, "prompt_differs_at": 72, "prompt_differs_in": "the system prompt"}
    why = explain(request(**changes, user_agent="claude-cli/2.0 (external)"), BEFORE, [])
    assert "CLAUDE_CODE_ATTRIBUTION_HEADER=0" in why.explanation[-1]


def test_requests_to_other_paths_are_not_compared() -> None:
    other = [replace(one, path="/v1/embeddings", duration_seconds=0.01) for one in BEFORE]
    assert explain(request(), other, []).compared == 0


def test_a_request_without_the_servers_times_has_phases() -> None:
    bare = {"prompt_seconds": None, "answer_seconds": None, "stall_seconds": None}
    found = {phase.name: phase.seconds for phase in phases(request(**bare))}
    assert found == {
        PhaseName.NETWORK: 0.01,
        PhaseName.PROMPT: pytest.approx(0.1),
        PhaseName.WRITING: pytest.approx(2.0),
    }


_SECONDS = st.floats(0, 1e4)
_TIMES = st.fixed_dictionaries(
    {"duration_seconds": _SECONDS, "queue_seconds": _SECONDS, "stream": st.booleans()}
    | dict.fromkeys(
        [
            "body_seconds",
            "load_seconds",
            "time_to_first_token_seconds",
            "prompt_seconds",
            "answer_seconds",
            "stall_seconds",
        ],
        st.none() | _SECONDS,
    )
)


@given(_TIMES)
def test_any_record_is_explained(times: dict[str, Any]) -> None:
    record = request(**times, tokens_in=None, tokens_cached=None, tokens_out=None)
    why = explain(record, BEFORE, [beside()])
    assert all(phase.seconds > 0 for phase in why.phases)
    assert why.explanation
