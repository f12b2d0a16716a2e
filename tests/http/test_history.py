"""The admin endpoints of the history, over HTTP."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.records import ModelTotals, RequestRecord, SessionRecord, SpeedTotals
from cyber_inference_tui.records.queries import HistoryQuery, RequestQuery, SpeedQuery
from tests.fakes.service import FakeService, serving

AT = datetime(2026, 1, 31, 12, tzinfo=UTC)
REQUEST = RequestRecord(id=7, at=AT, model="m", path="/v1/x", status=200, duration_seconds=0.5)
SESSION = SessionRecord(id=3, model="m", load_reason="asked", loaded_at=AT, load_seconds=1.5)
TOTALS = ModelTotals(model="m", requests=2, failures=1, tokens_in=3, tokens_out=4, last_used_at=AT)


async def test_lists_and_sums_are_plain_arrays() -> None:
    service = FakeService()
    service.world.requests = [REQUEST]
    service.world.sessions = [SESSION]
    service.world.totals = [TOTALS]
    expected: list[tuple[str, msgspec.Struct]] = [
        ("requests", REQUEST),
        ("sessions", SESSION),
        ("totals", TOTALS),
    ]
    async with serving(service) as front:
        for path, record in expected:
            async with front.client.get(f"/admin/{path}") as answer:
                assert answer.status == 200
                assert answer.content_type == "application/json"
                assert msgspec.json.decode(await answer.read()) == [msgspec.to_builtins(record)]
            async with front.client.head(f"/admin/{path}") as answer:
                assert answer.status == 200
            async with front.client.delete(f"/admin/{path}") as answer:
                assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    ("query", "call"),
    [
        ("", (100, None, None, None, None)),
        ("?limit=5&before=77&model=a%2Fb&failed=1", (5, 77, "a/b", True, None)),
        ("?limit=0&failed=0", (0, None, None, False, None)),
        ("?limit=5000&failed=true", (1000, None, None, True, None)),
        ("?since=2026-01-31T12:00:00Z", (100, None, None, None, AT)),
        ("?since=2026-01-31T12:00:00", (100, None, None, None, AT)),
        ("?since=2026-01-31T14:00:00%2B02:00", (100, None, None, None, AT)),
        ("?since=2026-01-31", (100, None, None, None, AT - timedelta(hours=12))),
        ("?unknown=1", (100, None, None, None, None)),
    ],
)
async def test_queries_reach_the_service(query: str, call: tuple[Any, ...]) -> None:
    service = FakeService()
    async with serving(service) as front:
        async with front.client.get(f"/admin/requests{query}") as answer:
            assert (answer.status, await answer.json()) == (200, [])
        async with front.client.get(f"/admin/sessions{query}") as answer:
            assert (answer.status, await answer.json()) == (200, [])
    limit, before, model, failed, since = call
    chosen = {"limit": limit, "before": before, "model": model, "since": since}
    assert service.reads == [
        ("requests", RequestQuery(**chosen, failed=failed)),
        ("sessions", HistoryQuery(**chosen)),
    ]


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("limit", ""),
        ("limit", "-1"),
        ("limit", "1e3"),
        ("limit", "ten"),
        ("limit", "9" * 50),
        ("before", ""),
        ("before", "-1"),
        ("before", "x"),
        ("since", ""),
        ("since", "yesterday"),
        ("since", "2026-13-01"),
        ("since", "1700000000.5"),
        ("since", "2026-01-31T14:00:00+02:00"),  # the plus means a space
        ("failed", "maybe"),
        ("failed", ""),
    ],
)
async def test_invalid_requests_are_refused(param: str, value: str) -> None:
    service = FakeService()
    async with serving(service) as front:
        for path in ("requests", "sessions"):
            if (path, param) == ("sessions", "failed"):
                continue
            async with front.client.get(f"/admin/{path}?{param}={value}") as answer:
                assert answer.status == 400
                error = (await answer.json())["error"]
            assert (error["code"], error["param"]) == ("invalid_request_error", param)
    assert service.reads == []


async def test_names_that_are_not_utf8_and_a_failing_disk() -> None:
    service = FakeService()
    service.world.requests = [msgspec.structs.replace(REQUEST, model="m\udcff")]
    async with serving(service) as front:
        async with front.client.get("/admin/requests?model=m%FF") as answer:
            assert answer.status == 200
        async with front.client.get("/admin/requests") as answer:
            assert (await answer.json())[0]["model"] == "m?"
        service.failure = CyberError("The disk of the history does not answer.")
        async with front.client.get("/admin/requests") as answer:
            assert answer.status == 500
            assert (await answer.json())["error"]["message"].startswith("The disk")


async def test_speeds_are_summed_up_by_a_known_name() -> None:
    service = FakeService()
    speeds = SpeedTotals(
        name="2026-01-31",
        requests=2,
        failures=0,
        tokens_in=3,
        tokens_out=4,
        tokens_per_second_p50=41.5,
        last_used_at=AT,
    )
    service.world.speed_totals["day"] = [speeds]
    async with serving(service) as front:
        async with front.client.get("/admin/totals/speed?by=day&since=2026-01-31") as answer:
            assert await answer.json() == [msgspec.to_builtins(speeds)]
        async with front.client.get("/admin/totals/speed") as answer:
            assert await answer.json() == []
        async with front.client.get("/admin/totals/speed?by=moon") as answer:
            assert answer.status == 400
            error = (await answer.json())["error"]
            assert error["param"] == "by"
            assert "client, day, key, model" in error["message"]
    assert service.reads == [
        ("speed_totals", SpeedQuery(by="day", since=AT - timedelta(hours=12))),
        ("speed_totals", SpeedQuery()),
    ]
