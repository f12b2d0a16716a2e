"""``GET /metrics``: those of the service or of a model's server, and access to them."""

from __future__ import annotations

from aiohttp import web

from cyber_inference_tui.http.json_io import json_answer
from tests.fakes.service import FakeService, make_settings, serving
from tests.http.upstream import Recorder, answer, forwarding


async def test_the_services_own_in_prometheus_form() -> None:
    async with serving(FakeService("m")) as front:
        async with front.client.get("/metrics") as got:
            assert got.status == 200
            assert got.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
            assert await got.text() == "up 1.0\n"
        async with front.client.head("/metrics") as got:
            assert got.status == 200
            assert await got.read() == b""
        async with front.client.post("/metrics") as got:
            assert got.status == 405


async def test_a_key_is_needed_when_there_are_keys() -> None:
    service = FakeService(settings=make_settings(api_keys=("k",)))
    async with serving(service) as front:
        for headers, status in (({}, 401), ({"Authorization": "Bearer k"}, 200)):
            async with front.client.get("/metrics", headers=headers) as got:
                assert got.status == status


async def test_a_named_models_server_answers() -> None:
    async def forward(request: web.Request) -> web.StreamResponse:
        return json_answer("forwarded")

    async with serving(FakeService("m"), forward) as front:
        for path, headers, forwarded in (
            ("/metrics", {}, False),
            ("/metrics?model=", {}, False),
            ("/metrics?x=1", {}, False),
            ("/metrics?model=m", {}, True),
            ("/metrics", {"X-Model": "m"}, True),
        ):
            async with front.client.get(path, headers=headers) as got:
                assert (await got.text() == '"forwarded"') is forwarded


async def test_a_models_server_hears_the_path() -> None:
    recorder = Recorder(answer(body=b"llamacpp:x 1\n"))
    async with forwarding(recorder) as world, world.front.client.get("/metrics?model=m") as got:
        assert await got.read() == b"llamacpp:x 1\n"
    assert [one.target.partition("?")[0] for one in recorder.seen] == ["/metrics"]


async def test_a_failure_has_our_shape() -> None:
    service = FakeService()
    service.failure = RuntimeError("broken")
    async with serving(service) as front, front.client.get("/metrics") as got:
        assert got.status == 500
        assert (await got.json())["error"]["code"] == "internal_error"
