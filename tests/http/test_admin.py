"""The admin endpoints, the model list and the front page, over the wire."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import msgspec
import pytest
from yarl import URL

from cyber_inference_tui.records import (
    ActiveRequestRecord,
    ModelRecord,
    ModelStatus,
    RequestPhase,
    ServiceEvent,
)
from tests.fakes.service import FakeService, make_settings, serving

from .raw import ask

ODD_IDS = [
    "plain",
    "sub/Name-Q4_K_M",
    "a/b/load",
    "load",
    "x/unload/pin",
    "with space & ünïcode %41",
    "..",
    "../../etc/passwd",
    "a//b",
    "q?x=1#y",
    "日本/モデル",
]


@pytest.mark.parametrize("model_id", ODD_IDS)
async def test_any_id_works_with_slashes_encoded(model_id: str) -> None:
    service = FakeService(model_id, "other", "a/b")
    async with serving(service) as front:
        base = f"/admin/models/{quote(model_id, safe='')}"
        target = f"{base}/load HTTP/1.1"
        answer = await ask(front.port, f"POST {target}", "Host: localhost")
        assert answer.status == 200
        assert msgspec.json.decode(answer.body)["id"] == model_id
        for path in (base, f"/v1/models/{quote(model_id, safe='')}"):
            answer = await ask(front.port, f"GET {path} HTTP/1.1", "Host: localhost")
            assert msgspec.json.decode(answer.body)["id"] == model_id
        path = f"/admin/logs/{quote(model_id, safe='')}"
        answer = await ask(front.port, f"GET {path} HTTP/1.1", "Host: localhost")
        assert answer.status == 200
        service.world.models[model_id] = ModelRecord(id=model_id)
        answer = await ask(front.port, f"DELETE {base} HTTP/1.1", "Host: localhost")
        assert answer.status == 200
    assert service.calls == [("load", model_id, True), ("delete", model_id)]


@pytest.mark.parametrize("model_id", ["sub/Name-Q4_K_M", "a/b/load", "load", ".."])
async def test_ids_with_plain_slashes_work_too(model_id: str) -> None:
    service = FakeService(model_id)
    async with serving(service) as front:
        line = f"POST /admin/models/{model_id}/pin HTTP/1.1"
        answer = await ask(front.port, line, "Host: localhost")
        assert answer.status == 200
        answer = await ask(front.port, f"GET /v1/models/{model_id} HTTP/1.1", "Host: localhost")
        assert answer.status == 200
    assert service.calls == [("pin", model_id, True)]


async def test_an_encoded_slash_belongs_to_the_id_not_to_the_action() -> None:
    service = FakeService("a", "a/load")
    async with serving(service) as front:
        answer = await ask(front.port, "POST /admin/models/a%2Fload HTTP/1.1", "Host: localhost")
        assert answer.status == 405
        answer = await ask(
            front.port, "POST /admin/models/a%2Fload/load HTTP/1.1", "Host: localhost"
        )
        assert answer.status == 200
    assert service.calls == [("load", "a/load", True)]


async def test_actions_and_their_parameters() -> None:
    service = FakeService("m")
    async with serving(service) as front:
        for path in (
            "load?wait=0",
            "load?wait=1",
            "load",
            "unload?force=1",
            "unload",
            "pin",
            "unpin",
        ):
            async with front.client.post(f"/admin/models/m/{path}") as answer:
                assert answer.status == 200, path
                record = msgspec.json.decode(await answer.read(), type=ModelRecord)
                assert record == service.world.models["m"]
    assert service.calls == [
        ("load", "m", False),
        ("load", "m", True),
        ("load", "m", True),
        ("unload", "m", True),
        ("unload", "m", False),
        ("pin", "m", True),
        ("pin", "m", False),
    ]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/admin/models/m/load?wait=maybe", None, 400, "invalid_request_error"),
        ("POST", "/admin/models/m/unload?force=", None, 400, "invalid_request_error"),
        ("POST", "/admin/models/m/load", '{"wait": false}', 400, "invalid_request_error"),
        ("POST", "/admin/models/m/load", "[]", 400, "invalid_request_error"),
        ("POST", "/admin/models/m/load", "{", 400, "invalid_request_error"),
        ("POST", "/admin/models/nothing/load", None, 404, "model_not_found"),
        ("POST", "/admin/models/m/explode", None, 404, "not_found"),
        ("POST", "/admin/models/m", None, 405, "method_not_allowed"),
        ("PUT", "/admin/models/m", None, 405, "method_not_allowed"),
        ("POST", "/admin/models", None, 405, "method_not_allowed"),
        ("GET", "/admin/models/nothing", None, 404, "model_not_found"),
        ("GET", "/admin/models/", None, 404, "not_found"),
        ("DELETE", "/admin/models/nothing", None, 404, "model_not_found"),
        ("DELETE", "/admin/models/busy", None, 409, "conflict"),
        ("GET", "/admin/logs/m?lines=abc", None, 400, "invalid_request_error"),
        ("GET", "/admin/logs/m?lines=-1", None, 400, "invalid_request_error"),
        ("GET", "/admin/logs/m?lines=", None, 400, "invalid_request_error"),
        ("GET", "/admin/logs/m?lines=1e3", None, 400, "invalid_request_error"),
        ("GET", f"/admin/logs/m?lines={'9' * 5000}", None, 400, "invalid_request_error"),
        ("GET", "/admin/logs/nothing", None, 404, "model_not_found"),
        ("GET", "/admin/logs/", None, 404, "not_found"),
        ("PUT", "/admin/config/max_queue", None, 400, "invalid_request_error"),
        ("PUT", "/admin/config/max_queue", "7", 400, "invalid_request_error"),
        ("PUT", "/admin/config/max_queue", '{"val": 7}', 400, "invalid_request_error"),
        ("PUT", "/admin/config/max_queue", '{"value": 7, "x": 1}', 400, "invalid_request_error"),
        ("PUT", "/admin/config/max_queue", '{"value": "x"}', 400, "config_invalid"),
        ("PUT", "/admin/config/nothing", '{"value": 7}', 404, "not_found"),
        ("PUT", "/admin/config/max_queue", '{"value": ' + "[" * 3000, 400, "invalid_request_error"),
        ("GET", "/admin/config/max_queue", None, 405, "method_not_allowed"),
        ("GET", "/admin", None, 200, ""),  # the stand-in's forwarder: no admin endpoint
        ("GET", "/admin/nothing", None, 404, "not_found"),
        ("GET", "/ws/nothing", None, 404, "not_found"),
        ("GET", "/v1/models/nothing", None, 404, "model_not_found"),
        ("POST", "/v1/models", None, 405, "method_not_allowed"),
        ("DELETE", "/v1/models/m", None, 405, "method_not_allowed"),
        ("POST", "/health", None, 405, "method_not_allowed"),
        ("PUT", "/", None, 405, "method_not_allowed"),
        ("HEAD", "/admin/events", None, 405, ""),
        ("GET", "/admin/events?topics=nothing", None, 400, "invalid_request_error"),
        ("GET", "/admin/events?last_event_id=x", None, 400, "invalid_request_error"),
        ("GET", "/ws/logs", None, 400, "invalid_request_error"),
    ],
)
async def test_wrong_requests_get_errors(
    method: str, path: str, body: str | None, status: int, code: str
) -> None:
    service = FakeService("m", "busy")
    service.world.models["busy"] = ModelRecord(id="busy", status=ModelStatus.LOADED)
    headers = {"Content-Type": "application/json"} if body is not None else {}
    async with (
        serving(service) as front,
        front.client.request(method, path, data=body, headers=headers) as answer,
    ):
        assert answer.status == status
        if code:
            error = (await answer.json())["error"]
            assert error["code"] == code
            assert error["message"]
            assert set(error) == {"message", "type", "param", "code"}
        if status == 405:
            assert answer.headers["Allow"]
    assert service.calls == []
    assert service.world.config["max_queue"].value == 128


async def test_a_body_over_the_limit_is_refused() -> None:
    service = FakeService(settings=make_settings(max_body_size=1000))
    async with serving(service) as front:
        async with front.client.put(
            "/admin/config/max_queue", json={"value": "x" * 2000}
        ) as answer:
            assert answer.status == 413
            assert (await answer.json())["error"]["code"] == "request_too_large"
            assert answer.headers["Connection"] == "close"
        async with front.client.get("/health") as answer:
            assert answer.status == 200


async def test_status_models_config() -> None:
    service = FakeService("b", "a")
    async with serving(service) as front:
        async with front.client.get("/admin/status") as answer:
            status = await answer.json()
            assert answer.content_type == "application/json"
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert set(status) == {
            "version",
            "pid",
            "uptime_seconds",
            "config_path",
            "extra_ports",
            "last_event_id",
            "data_dir",
            "models_dir",
            "host",
            "port",
            "llama_server",
            "models_loaded",
            "requests_in_flight",
            "requests_queued",
        }
        async with front.client.get("/admin/models") as answer:
            assert [record["id"] for record in await answer.json()] == ["a", "b"]
        async with front.client.put("/admin/config/max_queue", json={"value": 7}) as answer:
            assert (await answer.json())["value"] == 7
        async with front.client.get("/admin/config") as answer:
            (record,) = await answer.json()
            assert (record["key"], record["value"], record["source"]) == ("max_queue", 7, "file")
        async with front.client.head("/admin/status") as answer:
            assert answer.status == 200


async def test_logs_are_plain_text_with_the_place_to_follow_from() -> None:
    service = FakeService("m")
    service.world.logs["m"] = service.world.logs["service"]
    service.events.publish("service", ServiceEvent(state="started"))
    async with serving(service) as front:
        async with front.client.get("/admin/logs/m?lines=3") as answer:
            assert await answer.text() == "line 4\nline 5\nline 6\n"
            assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["X-Last-Event-ID"] == "1"
        async with front.client.get("/admin/logs/service?lines=0") as answer:
            assert (answer.status, await answer.text()) == (200, "")
        async with front.client.get(f"/admin/logs/service?lines={10**18}") as answer:
            assert len((await answer.text()).splitlines()) == 4


async def test_models_as_openai_lists_them(tmp_path: Path) -> None:
    file = tmp_path / "a.gguf"
    file.write_bytes(b"GGUF")
    service = FakeService()
    service.world.models = {
        "b": ModelRecord(id="b", aliases=("beta",), path=str(tmp_path / "gone.gguf")),
        "a": ModelRecord(
            id="a",
            path=str(file),
            port=8338,
            pid=5,
            status=ModelStatus.LOADED,
            context_length=4096,
            loaded_at=datetime.now(UTC),
        ),
        "c": ModelRecord(id="c"),
    }
    service.written = {"a": 1_700_000_000}
    async with serving(service) as front:
        for path in ("/v1/models", "/models"):
            async with front.client.get(path) as answer:
                listed = await answer.json()
            assert listed["object"] == "list"
            first, second, third = listed["data"]
            assert first["id"] == "a"
            assert first["object"] == "model"
            assert first["owned_by"] == "llamacpp"
            assert first["created"] == 1_700_000_000
            assert first["status"]["value"] == first["state"] == "loaded"
            assert first["context_length"] == 4096
            assert (second["created"], third["created"]) == (0, 0)
            # Paths on the disk are only for the owner.
            assert str(tmp_path) not in msgspec.json.encode(listed).decode()
            assert "pid" not in first
        async with front.client.get("/v1/models/beta") as answer:
            assert (await answer.json())["id"] == "b"
    assert service.calls == []


async def test_names_that_are_not_utf8_do_not_break_the_lists() -> None:
    service = FakeService()
    service.world.models = {
        "a": ModelRecord(id="a", path="/models/\udcff.gguf", error="bad \udc80")
    }
    async with serving(service) as front:
        async with front.client.get("/admin/models") as answer:
            assert (await answer.json())[0]["path"] == "/models/?.gguf"
        async with front.client.get("/v1/models") as answer:
            assert answer.status == 200


async def test_health_and_the_front_page() -> None:
    async with serving(FakeService()) as front:
        async with front.client.get("/health") as answer:
            assert await answer.json() == {"status": "ok"}
        async with front.client.get("/") as answer:
            assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
            assert "/v1" in await answer.text()


async def test_everything_else_is_forwarded() -> None:
    async with serving(FakeService()) as front:
        for method, path in (
            ("POST", "/v1/chat/completions"),
            ("GET", "/slots"),
            ("DELETE", "/upstream/a/b"),
            ("OPTIONS", "/v1/chat/completions"),
        ):
            async with front.client.request(method, path) as answer:
                assert (await answer.json())["path"] == path


async def test_details_of_a_model_with_any_name() -> None:
    service = FakeService("x", "y/details", "sub/z")
    async with serving(service) as front:
        for path, model_id, has_facts in (
            ("x/details", "x", True),
            ("sub/z/details", "sub/z", True),
            ("sub%2Fz/details", "sub/z", True),
            # A model with exactly this name comes before the details of another model.
            ("y/details", "y/details", False),
            ("y%2Fdetails", "y/details", False),
            ("y/details/details", "y/details", True),
        ):
            async with front.client.get(URL(f"/admin/models/{path}", encoded=True)) as answer:
                assert answer.status == 200, path
                body = await answer.json()
            assert ("facts" in body) is has_facts, path
            assert (body["model"] if has_facts else body)["id"] == model_id
        for path in ("nope/details", "details"):
            async with front.client.get(f"/admin/models/{path}") as answer:
                assert answer.status == 404
                assert (await answer.json())["error"]["code"] == "model_not_found"


async def test_memory_and_active_requests() -> None:
    service = FakeService("m")
    service.world.active = [
        ActiveRequestRecord(
            number=7,
            at=datetime(2026, 1, 31, tzinfo=UTC),
            model="m",
            path="/v1/completions",
            phase=RequestPhase.WAITING,
            position=1,
        )
    ]
    async with serving(service) as front:
        async with front.client.get("/admin/memory") as answer:
            assert await answer.json() == [
                {
                    "pool": "memory",
                    "limit_bytes": 8,
                    "free_bytes": 4,
                    "free_after_unloading_bytes": None,
                }
            ]
        async with front.client.get("/admin/problems") as answer:
            assert await answer.json() == [
                {"where": "/models/lora.gguf", "reason": "it is an adapter"}
            ]
        async with front.client.get("/admin/requests/active") as answer:
            (active,) = await answer.json()
        assert (active["number"], active["phase"], active["position"]) == (7, "waiting", 1)


async def test_a_setting_is_checked_and_reset() -> None:
    service = FakeService()
    path = "/admin/config/max_queue"
    async with serving(service) as front:
        async with front.client.put(f"{path}?check=1", json={"value": 5}) as answer:
            assert await answer.json() == {
                "key": "max_queue",
                "value": 5,
                "effect": "now",
                "models": [],
            }
        assert service.world.config["max_queue"].value == 128
        async with front.client.put(f"{path}?check=perhaps", json={"value": 5}) as answer:
            assert answer.status == 400
        async with front.client.put(path, json={"value": 5}) as answer:
            assert answer.status == 200
        async with front.client.delete(path, data="{}") as answer:
            assert answer.status == 415
        async with front.client.delete(path) as answer:
            assert (await answer.json())["value"] == 128
