"""Installing a llama-server, and adding the built-in model, over HTTP."""

from __future__ import annotations

import pytest

from tests.fakes.service import FakeService, serving


async def test_begin_look_and_cancel() -> None:
    async with serving(FakeService()) as front:
        async with front.client.get("/admin/install") as answer:
            assert (answer.status, (await answer.json())["state"]) == (200, "idle")
        async with front.client.post("/admin/install", json={"from": "github"}) as answer:
            assert answer.status == 202
            assert (await answer.json())["source"] == "github"
        async with front.client.post("/admin/install", json={}) as answer:
            assert answer.status == 409
            assert (await answer.json())["error"]["code"] == "conflict"
        for _ in range(2):
            async with front.client.delete("/admin/install") as answer:
                assert (answer.status, (await answer.json())["state"]) == (200, "cancelled")


async def test_the_default_source_is_auto() -> None:
    async with (
        serving(FakeService()) as front,
        front.client.post("/admin/install") as answer,
    ):
        assert (await answer.json())["source"] == "auto"


@pytest.mark.parametrize(
    "body",
    [{"from": "elsewhere"}, {"from": None}, {"from": "--config"}, {"form": "auto"}, ["auto"]],
)
async def test_invalid_sources_are_refused(body: object) -> None:
    service = FakeService()
    async with (
        serving(service) as front,
        front.client.post("/admin/install", json=body) as answer,
    ):
        assert answer.status == 400
        assert '"from"' in (await answer.json())["error"]["message"]
    assert (await service.installation.state()).source is None


async def test_a_page_elsewhere_begins_nothing() -> None:
    service = FakeService()
    async with serving(service) as front:
        headers = {"Content-Type": "text/plain"}
        async with front.client.post("/admin/install", data="{}", headers=headers) as answer:
            assert answer.status == 415
    assert (await service.installation.state()).source is None


async def test_the_demo_is_added_once() -> None:
    service = FakeService("other")
    async with serving(service) as front:
        for _ in range(2):
            async with front.client.post("/admin/demo", json={}) as answer:
                assert (answer.status, (await answer.json())["id"]) == (200, "demo")
    assert sorted(service.world.models) == ["demo", "other"]
