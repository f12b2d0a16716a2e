"""``check``: what it asks the service for, and what it prints."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from cyber_inference_tui.records.checks import Ability, ModelCheck, Outcome, Trial
from tests.cli.conftest import CommandLine
from tests.cli.stand_in import StandIn

CHECK = ModelCheck(
    at=datetime(2026, 3, 4, 5, tzinfo=UTC),
    build="b11669",
    trials=(
        Trial(ability=Ability.STREAM, outcome=Outcome.YES, evidence="64 parts"),
        Trial(ability=Ability.NO_THINKING, outcome=Outcome.NO, evidence="it thinks\x1b[31m"),
        Trial(ability=Ability.VISION, outcome=Outcome.NOT_TRIED, evidence="no projector"),
    ),
)


def test_the_results_are_a_table_or_json(call: CommandLine, stand_in: StandIn) -> None:
    stand_in.answers["POST", "/admin/models/m/check"] = CHECK
    outcome = call("check", "m", "--port", str(stand_in.port))
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.splitlines() == [
        "ABILITY      RESULT     EVIDENCE",
        "stream       yes        64 parts",
        "no thinking  no         it thinks",
        "vision       not tried  no projector",
    ]
    outcome = call("check", "m", "--json", "--port", str(stand_in.port))
    found = json.loads(outcome.out)
    assert found["build"] == "b11669"
    assert [trial["outcome"] for trial in found["trials"]] == ["yes", "no", "not tried"]
