"""API keys with names at the endpoints: which models, how often, and until when."""

from __future__ import annotations

import asyncio
import json
from datetime import date, timedelta
from typing import Any

import msgspec
import pytest

from cyber_inference_tui.http.lean_path import LEAN_PATH
from cyber_inference_tui.records import NewKey, Priority
from cyber_inference_tui.scheduler.state import Waiter
from tests.fakes.service import FakeService, Front, make_settings, serving
from tests.http.client_side import CHAT
from tests.http.test_records import WHOLE, recorded, saying
from tests.http.upstream import Recorder, World, forwarding
from tests.scheduler.virtual import model
from tests.waiting import until

LAST_DAY = date(2999, 12, 31)
BODY = b'{"model":"m","messages":[]}'
REFUSED: dict[str, Any] = {
    "error": {
        "message": "This API key may not use m. It is for other, Third.",
        "type": "permission_error",
        "param": "model",
        "code": "model_not_allowed",
    }
}


async def made(front: Front, name: str, **limits: Any) -> dict[str, str]:
    """Create a key, and return the headers with it."""
    created = await front.service.keys.add(NewKey(name=name, **limits))
    return {"Authorization": f"Bearer {created.key}"}


async def sent(world: World, headers: dict[str, str], path: str = CHAT) -> tuple[int, Any]:
    async with world.front.client.post(path, data=BODY, headers=headers) as got:
        return got.status, json.loads(await got.read())


async def test_the_owner_creates_lists_and_removes_keys() -> None:
    async with serving(FakeService("m")) as front:
        client = front.client
        async with client.get("/v1/models") as got:
            assert got.status == 200
        body = {"name": "a/b", "models": ["m"], "expires": "2026-12-31", "priority": "high"}
        async with client.post("/admin/keys", json=body) as got:
            assert got.status == 201
            created = await got.json()
        assert created["key"].startswith("sk-")
        # From now on everybody needs a key.
        async with client.get("/v1/models") as got:
            assert (got.status, (await got.json())["error"]["code"]) == (401, "invalid_api_key")
        headers = {"x-api-key": created["key"]}
        async with client.get("/v1/models", headers=headers) as got:
            assert got.status == 200
        async with client.get("/admin/keys") as got:
            (listed,) = await got.json()
        assert listed.items() == {key: created[key] for key in created if key != "key"}.items()
        for wrong in ({**body, "name": "A/B"}, {**body, "priority": "top"}, {"names": "x"}, {}):
            async with client.post("/admin/keys", json=wrong) as got:
                assert got.status in {400, 409}, wrong
        async with client.delete("/admin/keys/x") as got:
            assert got.status == 404
        async with client.delete("/admin/keys/a%2Fb") as got:
            assert (got.status, (await got.json())["name"]) == (200, "a/b")
        async with client.get("/v1/models", headers=headers) as got:
            assert got.status == 200  # no key is needed any more


async def test_api_keys_go_on_beside_keys_with_names() -> None:
    service = FakeService("m", settings=make_settings(api_keys=("plain",)))
    async with serving(service) as front:
        named = await made(front, "a", models=("x",))
        for headers, count in (({"x-api-key": "plain"}, 1), (named, 0)):
            async with front.client.get("/v1/models", headers=headers) as got:
                assert len((await got.json())["data"]) == count
        async with front.client.get("/v1/models", headers={"x-api-key": "other"}) as got:
            assert got.status == 401


async def test_the_owners_own_programs_need_no_key() -> None:
    async with serving(FakeService("m")) as front:
        await made(front, "a", models=("x",))
        headers = {"Authorization": f"Bearer {front.login.process_token}"}
        async with front.client.get("/v1/models", headers=headers) as got:
            assert len((await got.json())["data"]) == 1


async def test_a_key_is_for_its_models_whatever_they_are_called() -> None:
    named = msgspec.structs.replace(model("m"), aliases=("Third",))
    known = (named, model("other"), model("z"))
    async with forwarding(saying(WHOLE), *known) as world:
        headers = await made(world.front, "a", models=("third", "other"))
        for name, status in (("m", 200), ("THIRD", 200), ("other", 200), ("z", 403)):
            body = json.dumps({"model": name}).encode()
            for _ in range(2):  # the second one is found by its bytes
                async with world.front.client.post(CHAT, data=body, headers=headers) as got:
                    assert got.status == status, name
        for path in ("/upstream/z/props", "/props?model=z"):
            async with world.front.client.get(path, headers=headers) as got:
                assert (got.status, got.headers["x-should-retry"]) == (403, "false"), path


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, REFUSED),
        (
            "/v1/messages",
            {
                "type": "error",
                "error": {
                    "type": "permission_error",
                    "message": REFUSED["error"]["message"],
                    "code": "model_not_allowed",
                },
            },
        ),
        ("/api/chat", {"error": REFUSED["error"]["message"]}),
    ],
)
async def test_another_model_is_refused_in_the_shape_of_the_api(path: str, body: Any) -> None:
    async with forwarding(saying(WHOLE)) as world:
        headers = await made(world.front, "a", models=("other", "Third"))
        assert await sent(world, headers, path) == (403, body)
        ((refused, code),) = world.refusals
        assert (code, refused.key_name) == ("model_not_allowed", "a")


async def test_auto_and_no_name_mean_a_model_of_the_key() -> None:
    async with forwarding(saying(WHOLE), model("a"), model("b")) as world:
        of_a = await made(world.front, "for a", models=("a",))
        of_b = await made(world.front, "for b", models=("b",))
        for headers, name in ((of_a, "a"), (of_b, "b")):
            for body in (b"{}", b'{"model":"auto"}'):
                async with world.front.client.post(CHAT, data=body, headers=headers) as got:
                    assert got.status == 200, (name, body)
        assert [record.model for record in await recorded(world, 4)] == ["a", "a", "b", "b"]
        of_none = await made(world.front, "for none", models=("c",))
        async with world.front.client.post(CHAT, data=b"{}", headers=of_none) as got:
            assert got.status == 404


async def test_lists_have_only_the_models_of_the_key() -> None:
    async with serving(FakeService("m", "n", "o")) as front:
        front.service.set_model("o", aliases=("alias",))
        headers = await made(front, "a", models=("n", "alias"))
        for path, entries, name in (
            ("/v1/models", "data", "id"),
            ("/models", "data", "id"),
            ("/api/tags", "models", "model"),
        ):
            async with front.client.get(path, headers=headers) as got:
                names = {one[name].removesuffix(":latest") for one in (await got.json())[entries]}
            assert names - {"alias"} == {"n", "o"}, path
        for method, path, body, status in (
            ("GET", "/v1/models/n", None, 200),
            ("GET", "/v1/models/m", None, 403),
            ("GET", "/models/m", None, 403),
            ("POST", "/models/load", {"model": "m"}, 403),
            ("POST", "/models/unload", {"model": "m"}, 403),
            ("POST", "/api/show", {"model": "m"}, 403),
            ("GET", "/metrics", None, 403),
            ("POST", "/api/copy", {"source": "m", "destination": "n"}, 403),
            ("DELETE", "/api/delete", {"model": "n"}, 403),
        ):
            async with front.client.request(method, path, json=body, headers=headers) as got:
                assert got.status == status, path
        assert [call for call in front.service.calls if call[0] != "keys"] == []
        async with front.client.get("/models/sse", headers=headers) as got:
            await got.content.readuntil(b"\n\n")
            front.service.set_model("m", status="loaded")
            front.service.set_model("n", status="loaded")
            line = await got.content.readuntil(b"\n\n")
            assert json.loads(line.removeprefix(b"data: "))["model"] == "n"
            await made(front, "b")
            await front.service.keys.remove("a")
            front.service.set_model("n", status="unloaded")
            assert await got.read() == b""


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        (CHAT, lambda got: (got["error"]["type"], got["error"]["code"])),
        ("/v1/messages", lambda got: (got["error"]["type"], got["error"]["code"])),
        ("/api/chat", lambda got: ("rate_limit_error", "rate_limited") if got["error"] else ()),
    ],
)
async def test_a_limit_is_refused_in_the_shape_of_the_api(path: str, shape: Any) -> None:
    async with forwarding(saying(WHOLE)) as world:
        headers = await made(world.front, "a", requests_per_minute=1)
        assert (await sent(world, headers))[0] == 200
        async with world.front.client.post(path, data=BODY, headers=headers) as got:
            assert (got.status, shape(json.loads(await got.read()))) == (
                429,
                ("rate_limit_error", "rate_limited"),
            )
            assert 1 <= int(got.headers["Retry-After"]) <= 60
            assert got.headers["X-RateLimit-Remaining-Requests"] == "0"
            assert "x-should-retry" not in got.headers
        (record,) = world.records
        assert record.key_name == "a"
        # Lists are no requests to a model.
        async with world.front.client.get("/v1/models", headers=headers) as got:
            assert got.status == 200


async def test_the_tokens_of_a_day_are_counted_at_the_end_of_each_request() -> None:
    async with forwarding(saying(WHOLE)) as world:  # 12 tokens each
        headers = await made(world.front, "a", tokens_per_day=20)
        assert [(await sent(world, headers))[0] for _ in range(3)] == [200, 200, 429]
        free = await made(world.front, "b")
        assert (await sent(world, free))[0] == 200
        world.front.service.now += timedelta(days=1)
        assert (await sent(world, headers))[0] == 200


async def test_an_expired_key_is_invalid_everywhere() -> None:
    async with forwarding(saying(WHOLE)) as world:
        service = world.front.service
        headers = await made(world.front, "a", expires=service.now.date())
        assert (await sent(world, headers))[0] == 200
        service.now += timedelta(days=1)
        status, body = await sent(world, headers)
        assert (status, body["error"]["code"]) == (401, "invalid_api_key")
        assert "expired on" in body["error"]["message"]
        async with world.front.client.get("/v1/models", headers=headers) as got:
            assert got.status == 401


@pytest.mark.parametrize("lean", [True, False])
async def test_limits_count_each_request_once(lean: bool) -> None:
    async with forwarding(Recorder(WHOLE)) as world:
        headers = await made(world.front, "a", requests_per_minute=4, expires=LAST_DAY)
        if not lean:
            headers["Origin"] = world.front.url
        assert [(await sent(world, headers))[0] for _ in range(5)] == [200] * 4 + [429]
        await recorded(world, 4)
        is_remembered = any(world.front.app[LEAN_PATH]._requests.values())
        assert is_remembered is lean


async def test_a_key_counts_from_the_next_request_on_an_open_connection() -> None:
    async with forwarding(Recorder(WHOLE)) as world:
        free = await made(world.front, "a")
        for _ in range(3):
            assert (await sent(world, free))[0] == 200
        assert world.front.app[LEAN_PATH]._requests  # it is on the lean path
        await world.front.service.keys.remove("a")
        await made(world.front, "b")
        assert (await sent(world, free))[0] == 401


async def test_no_models_server_gets_a_key_with_a_name() -> None:
    server = Recorder(WHOLE)
    async with forwarding(server) as world:
        for limits in ({}, {"requests_per_minute": 9}):
            headers = await made(world.front, f"a{len(limits)}", **limits)
            assert (await sent(world, headers))[0] == 200
            got = server.seen[-1].headers
            assert "x-api-key" not in got
            assert got["authorization"] not in headers.values()


async def test_a_waiting_request_has_the_priority_of_its_key() -> None:
    async with forwarding(saying(WHOLE)) as world:
        world.launcher.gate.clear()
        headers = await made(world.front, "a", priority=Priority.HIGH)
        asking = asyncio.create_task(sent(world, headers))

        def waiters() -> list[Waiter]:
            state = world.scheduler.state("m")
            return [] if state is None else list(state.waiters)

        await until(waiters)
        assert [one.priority for one in waiters()] == [Priority.HIGH]
        world.launcher.gate.set()
        assert (await asking)[0] == 200
