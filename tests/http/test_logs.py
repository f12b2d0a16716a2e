"""The logs over HTTP: queries, and refused queries."""

from __future__ import annotations

import pytest

from cyber_inference_tui.records import LogLevel
from cyber_inference_tui.records.queries import LinesQuery
from tests.fakes.service import FakeService, serving


async def test_all_logs() -> None:
    async with serving(FakeService()) as front, front.client.get("/admin/logs") as answer:
        (record,) = await answer.json()
        assert record == {
            "id": "service",
            "first": 3,
            "end": 7,
            "running": False,
            "last_at": "2026-01-31T12:00:00Z",
            "last_error": None,
            "runs": [],
        }


@pytest.mark.parametrize(
    ("path", "log_id", "query"),
    [
        ("m", "m", LinesQuery(limit=1_000)),
        ("service?before=5&limit=7", "service", LinesQuery(before=5, limit=7)),
        ("sub/m?after=0&limit=999999", "sub/m", LinesQuery(after=0, limit=5_000)),
        ("sub%2Fm?after=3&before=9", "sub/m", LinesQuery(before=9, after=3)),
        ("m?q=a&q=b", "m", LinesQuery(q=("a", "b"))),
        ("m?level=WARNING&q=a+b%26c", "m", LinesQuery(level=LogLevel.WARNING, q=("a b&c",))),
        (f"m?q={'x' * 256}&limit=0", "m", LinesQuery(limit=0, q=("x" * 256,))),
    ],
)
async def test_a_part_of_a_log(path: str, log_id: str, query: LinesQuery) -> None:
    service = FakeService("m", "sub/m")
    async with (
        serving(service) as front,
        front.client.get(f"/admin/log-lines/{path}") as answer,
    ):
        assert answer.status == 200
        page = await answer.json()
        assert set(page) == {"log", "lines", "searched_to"}
    assert service.reads == [("log_lines", log_id, query)]


@pytest.mark.parametrize(
    ("path", "status", "param"),
    [
        ("log-lines/nothing", 404, None),
        ("log-lines/", 404, None),
        ("log-lines", 404, None),
        ("log-lines/m?before=-1", 400, "before"),
        ("log-lines/m?after=x", 400, "after"),
        ("log-lines/m?limit=", 400, "limit"),
        ("log-lines/m?level=loud", 400, "level"),
        (f"log-lines/m?q={'x' * 257}", 400, "q"),
        ("log-lines/m?" + "q=x&" * 5, 400, "q"),
        ("log-matches/nothing", 404, None),
        ("events?topics=log&log=nothing", 404, None),
        ("events?topics=model&log=m", 400, "log"),
        ("events?topics=log" + "&log=m" * 101, 400, "log"),
    ],
)
async def test_what_is_refused(path: str, status: int, param: str | None) -> None:
    async with (
        serving(FakeService("m")) as front,
        front.client.get(f"/admin/{path}") as answer,
    ):
        error = (await answer.json())["error"]
        assert (answer.status, error["param"]) == (status, param)
        assert error["message"].endswith(".")


async def test_a_log_is_only_read() -> None:
    async with serving(FakeService("m")) as front:
        for path in ("/admin/logs", "/admin/log-lines/m", "/admin/log-matches/m"):
            async with front.client.post(path, json={}) as answer:
                assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")
