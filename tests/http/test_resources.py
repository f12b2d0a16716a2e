"""``/admin/resources`` over HTTP."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest

from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.records import ResourceSample, Trend, TrendMark, TrendPoint
from cyber_inference_tui.records.queries import TrendQuery
from tests.fakes.service import SAMPLE, FakeService, serving


async def test_the_newest_sample_or_those_of_a_time() -> None:
    service = FakeService()
    later = msgspec.structs.replace(SAMPLE, at=SAMPLE.at + timedelta(seconds=1))
    service.world.samples = [SAMPLE, later]
    async with serving(service) as front:
        async with front.client.get("/admin/resources") as answer:
            assert answer.status == 200
            assert msgspec.json.decode(await answer.read(), type=ResourceSample) == later
        async with front.client.get("/admin/resources?history=90") as answer:
            assert answer.content_type == "application/json"
            got = msgspec.json.decode(await answer.read(), type=list[ResourceSample])
            assert got == [SAMPLE, later]
        service.world.samples = []
        async with front.client.get("/admin/resources?history=0") as answer:
            assert await answer.read() == b"[]"
        async with front.client.post("/admin/resources", json={}) as answer:
            assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")
    assert service.reads == [("resource_history", 90), ("resource_history", 0)]


@pytest.mark.parametrize("text", ["", "-1", "1.5", "abc", "1e3", "9" * 20, "%D9%A3"])
async def test_a_bad_time_is_refused(text: str) -> None:
    service = FakeService()
    path = f"/admin/resources?history={text}"
    async with serving(service) as front, front.client.get(path) as answer:
        assert answer.status == 400
        assert (await answer.json())["error"]["param"] == "history"
    assert service.reads == []


async def test_a_missing_sample_is_an_error_in_shape() -> None:
    service = FakeService()
    service.failure = CyberError("The machine has not been read yet.", hint="Try again.")
    async with serving(service) as front, front.client.get("/admin/resources") as answer:
        assert answer.status == 500
        assert "not been read" in (await answer.json())["error"]["message"]


async def test_the_past_in_periods() -> None:
    service = FakeService()
    trend = Trend(
        step_seconds=2.0,
        points=(TrendPoint(at=SAMPLE.at, cpu_percent=7.5, tokens_per_second={"plum": 40.0}),),
        marks=(TrendMark(at=SAMPLE.at, kind="loaded", subject="plum", text="loaded"),),
    )
    service.world.trends[600] = trend
    async with serving(service) as front:
        async with front.client.get("/admin/trend?seconds=600&points=2000") as answer:
            assert answer.status == 200
            assert msgspec.json.decode(await answer.read(), type=Trend) == trend
        async with front.client.get("/admin/trend?seconds=99999999") as answer:
            assert (await answer.json())["points"] == []
        async with front.client.get("/admin/trend?points=few") as answer:
            assert answer.status == 400
    assert service.reads == [
        ("trend", TrendQuery(seconds=600, points=1000)),
        ("trend", TrendQuery(seconds=604_800)),
    ]
