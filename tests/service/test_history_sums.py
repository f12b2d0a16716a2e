"""Sums and speeds by model, client, key and day."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cyber_inference_tui.records import DraftTotals, SpeedTotals
from cyber_inference_tui.records.queries import SpeedQuery
from cyber_inference_tui.service.history_sums import LEAST_COMPARED, MAX_NAMES, MAX_SPEEDS

from .history_records import NOW, open_history, request


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.sqlite3"


def answer(number: int = 0, speed: float | None = None, **fields: Any) -> Any:
    return request(number, tokens_in=2, tokens_out=3, tokens_per_second=speed, **fields)


async def test_speeds_have_a_median_and_a_slow_end(path: Path) -> None:
    async with open_history(path) as history:
        history.add_all(
            [
                answer(n, speed=float(n), stream=True, time_to_first_token_seconds=n / 100)
                for n in range(1, 101)
            ]
        )
        found = await history.speed_totals(SpeedQuery())
    assert found == [
        SpeedTotals(
            name="m",
            requests=100,
            failures=0,
            tokens_in=200,
            tokens_out=300,
            tokens_per_second_p50=51.0,
            tokens_per_second_p95=6.0,
            first_token_seconds_p50=0.5,
            first_token_seconds_p95=0.95,
            last_used_at=NOW + timedelta(seconds=100),
        )
    ]


async def test_failures_and_answers_at_once_have_no_part_in_the_speeds(path: Path) -> None:
    async with open_history(path) as history:
        history.add_all(
            [
                answer(speed=40.0, stream=True, time_to_first_token_seconds=0.5),
                answer(speed=20.0, time_to_first_token_seconds=30.0),
                answer(speed=1.0, status=502, stream=True, time_to_first_token_seconds=60.0),
                answer(model="vectors"),
            ]
        )
        found = {one.name: one for one in await history.speed_totals(SpeedQuery())}
    assert (found["m"].requests, found["m"].failures) == (3, 1)
    assert (found["m"].tokens_per_second_p50, found["m"].tokens_per_second_p95) == (40.0, 20.0)
    assert found["m"].first_token_seconds_p50 == found["m"].first_token_seconds_p95 == 0.5
    assert found["vectors"].tokens_per_second_p50 is None


async def test_names_are_models_clients_keys_or_days(path: Path) -> None:
    day = timedelta(days=1)
    async with open_history(path) as history:
        history.add_all(
            [
                request(0, key_name="laptop", user_agent="OpenAI/Python 1.2.3", client="10.0.0.1"),
                request(1, user_agent="OpenAI/Python 1.2.3", client="10.0.0.1", at=NOW - day),
                request(2, user_agent="claude-cli/2.0.1", client="10.0.0.1", at=NOW - day),
                request(3, user_agent="claude-cli/2.1.0", client="10.0.0.2", model="n"),
                request(4, user_agent="", client="10.0.0.3", model=""),
                request(5, client="10.0.0.3", at=NOW - 9 * day),
            ]
        )

        async def names(**query: Any) -> dict[str, int]:
            found = await history.speed_totals(SpeedQuery(**query))
            return {one.name: one.requests for one in found}

        assert await names() == {"m": 4, "n": 1}
        assert await names(by="client") == {
            "10.0.0.3": 2,
            "OpenAI/Python": 1,
            "claude-cli": 2,
            "laptop": 1,
        }
        assert await names(by="key") == {"laptop": 1}
        assert await names(by="day") == {"2026-02-23": 1, "2026-03-03": 2, "2026-03-04": 3}
        assert await names(by="day", since=NOW) == {"2026-03-04": 3}
        assert await names(since=NOW + day) == {}


async def test_the_work_is_bounded(path: Path) -> None:
    async with open_history(path) as history:
        # The oldest are not looked at.
        history.add_all([answer(speed=1.0) for _ in range(1000)])
        for _ in range(MAX_SPEEDS // 5000):
            history.add_all([answer(speed=50.0) for _ in range(5000)])
            await history.flush()
        (busy,) = await history.speed_totals(SpeedQuery())
        assert (busy.requests, busy.tokens_per_second_p95) == (MAX_SPEEDS + 1000, 50.0)
        history.add_all([request(n, user_agent=f"scanner{n}") for n in range(MAX_NAMES + 1)])
        names = {one.name for one in await history.speed_totals(SpeedQuery(by="client"))}
    assert len(names) == MAX_NAMES
    assert "scanner0" not in names


async def test_known_energies_are_summed_and_have_a_cost(path: Path) -> None:
    async with open_history(path) as history:
        history.add_all(
            [
                answer(energy_j=1_000_000.0, key_name="k"),
                answer(energy_j=800_000.0),
                answer(),
                answer(model="unknown", key_name="k"),
            ]
        )
        found = await history.speed_totals(SpeedQuery(), price_per_kwh=0.4)
        assert [(one.name, one.energy_j, one.cost) for one in found] == [
            ("m", 1_800_000.0, pytest.approx(0.2)),
            ("unknown", None, None),
        ]
        (free,) = await history.speed_totals(SpeedQuery(by="key"))
        assert (free.energy_j, free.cost) == (1_000_000.0, None)
        assert [one.energy_j for one in await history.totals()] == [1_800_000.0, None]
        assert [one.energy_j for one in await history.key_totals()] == [1_000_000.0]


# Drafts


async def test_drafts_are_summed_and_compared_by_model(path: Path) -> None:
    async with open_history(path) as history:
        history.add_all(
            [answer(n, speed=30.0 + n, tokens_drafted=10, tokens_accepted=6) for n in range(5)]
            + [answer(n, speed=20.0 + n) for n in range(10, 15)]
            + [answer(20, speed=50.0, model="plain")]
        )
        (drafting, plain) = await history.speed_totals(SpeedQuery())
        (day,) = await history.speed_totals(SpeedQuery(by="day"))
        alone = await history.drafted("m")
        nothing = await history.drafted("plain")
    assert (
        drafting.drafted
        == alone
        == DraftTotals(
            tokens_drafted=50,
            tokens_accepted=30,
            tokens_per_second_p50=32.0,
            undrafted_tokens_per_second_p50=32.0,
        )
    )
    assert plain.drafted is None
    assert nothing is None
    # Models differ in speed, so a day's answers with and without drafts say nothing.
    assert day.drafted is None


async def test_a_gain_needs_enough_answers_of_both_kinds(path: Path) -> None:
    async with open_history(path) as history:
        drafts = [
            answer(n, speed=30.0, tokens_drafted=10, tokens_accepted=0)
            for n in range(LEAST_COMPARED - 1)
        ]
        history.add_all([*drafts, *(answer(n + 10, speed=20.0) for n in range(LEAST_COMPARED))])
        found = await history.drafted("m")
        history.add(drafts[0])
        more = await history.drafted("m")
    assert found is not None
    assert (found.tokens_per_second_p50, found.undrafted_tokens_per_second_p50) == (None, 20.0)
    assert more is not None
    assert more.tokens_per_second_p50 == 30.0
    assert more.tokens_accepted == 0
