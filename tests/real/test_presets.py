"""Presets of a model: their names in all APIs, and which of them share a server."""

from __future__ import annotations

from typing import Any

import pytest

from tests.real.conftest import StartFake, StartReal
from tests.real.service_process import ServiceProcess
from tests.waiting import eventually

TABLE: dict[str, Any] = {
    "context_size": 4096,
    "aliases": ["d"],
    "presets": {
        "long": {"context_size": 8192},
        "short": {"request_defaults": {"max_tokens": 2}},
    },
}


def listed(service: ServiceProcess) -> dict[str, Any]:
    return {one["id"]: one for one in service.get("/v1/models").json()["data"]}


@pytest.mark.real
def test_only_a_preset_that_changes_the_server_starts_one(start_real: StartReal) -> None:
    service = start_real({"models": {"demo": TABLE}})
    assert service.chat("demo", max_tokens=4).status_code == 200
    pid = service.model("demo")["pid"]
    for name in ("demo:short", "d:short", "DEMO:SHORT:latest"):
        answer = service.post(
            "/v1/chat/completions",
            json={"model": name, "messages": [{"role": "user", "content": "Hello"}]},
        ).json()
        assert answer["usage"]["completion_tokens"] <= 2
        assert answer["model"] == "demo"
    assert [one["model"] for one in service.get("/admin/sessions").json()] == ["demo"]

    assert service.chat("d:long", max_tokens=4).json()["model"] == "demo:long"
    long = service.model("demo:long")
    assert (long["status"], long["context_length"], long["preset_of"]) == ("loaded", 8192, "demo")
    assert service.upstream("demo:long", "/props")["default_generation_settings"]["n_ctx"] == 8192
    assert service.model("demo")["pid"] == pid != long["pid"]

    def edit(key: str, value: Any) -> None:
        path = f"/admin/config/models.demo.presets.{key}"
        with service.client() as client:
            assert client.put(path, json={"value": value}).status_code == 200

    edit("short.request_defaults", {"max_tokens": 1})
    answer = service.post(
        "/v1/chat/completions",
        json={"model": "demo:short", "messages": [{"role": "user", "content": "Hello"}]},
    )
    assert answer.json()["usage"]["completion_tokens"] == 1
    edit("long.context_size", 16384)
    eventually(lambda: service.model("demo:long")["context_length"] == 16384)
    assert service.model("demo")["pid"] == pid


@pytest.mark.real
def test_every_list_has_them(start_real: StartReal) -> None:
    service = start_real({"models": {"demo": TABLE}})
    models = listed(service)
    assert list(models) == ["demo", "demo:short", "demo:long"]
    assert models["demo:short"]["preset_of"] == models["demo:long"]["preset_of"] == "demo"
    assert models["demo:long"]["aliases"] == ["d:long"]
    assert (models["demo:short"]["context_length"], models["demo:long"]["context_length"]) == (
        4096,
        8192,
    )
    tags = [one["name"] for one in service.get("/api/tags").json()["models"]]
    assert set(tags) == {
        *("demo", "d", "demo:short", "d:short", "demo:long", "d:long"),
    }
    answer = service.post("/api/generate", json={"model": "d:long", "prompt": "a", "stream": False})
    assert answer.json()["done"]
    assert service.model("demo:long")["status"] == "loaded"
    assert service.model("demo")["status"] == "unloaded"
    answer = service.post("/api/copy", json={"source": "demo:long", "destination": "x"})
    assert answer.status_code == 409
    assert "demo:long is a preset of demo" in answer.text


def test_a_preset_may_be_preloaded_and_its_files_are_in_use(start_fake: StartFake) -> None:
    table = {"preload": True, "pinned": True, "presets": {"p": {"threads": 1, "preload": True}}}
    service = start_fake({"a": {}}, tables={"a": table})
    for name in ("a", "a:p"):
        service.wait_status(name, "loaded")
    assert (service.model("a")["pinned"], service.model("a:p")["pinned"]) == (True, False)
    assert service.post("/admin/models/a/unload", json={}).status_code == 200
    with service.client() as client:
        answer = client.delete("/admin/models/a")
        assert answer.status_code == 409
        assert "a:p is loaded." in answer.text
        assert client.post("/admin/models/a:p/unload", json={}).status_code == 200
        assert client.delete("/admin/models/a").status_code == 200
    assert service.models() == {}


@pytest.mark.real
def test_a_request_without_a_name_means_the_only_model(start_real: StartReal) -> None:
    service = start_real({"models": {"demo": TABLE}})
    body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
    for named in ({"model": "auto"}, {}):
        answer = service.post("/v1/chat/completions", json=body | named)
        assert answer.json()["model"] == "demo"
        assert service.post("/admin/models/demo/unload", json={}).status_code == 200
