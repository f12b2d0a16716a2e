"""Ollama's calls that list, show, get and name models, on a running service."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.hub.stand_in_hub import Fault, StandInHub
from tests.real.conftest import StartFake, StartReal
from tests.real.service_process import ServiceProcess
from tests.waiting import eventually

REPO = "owner/tiny-GGUF"
NAME = f"hf.co/{REPO}:Q8_0"


def call(service: ServiceProcess, path: str, body: Any, method: str = "POST") -> httpx.Response:
    """Send a body as ``curl -d`` does, with the content type of a form."""
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    with service.client() as client:
        return client.request(method, f"/api/{path}", content=json.dumps(body), headers=kind)


def delete(service: ServiceProcess, name: str) -> httpx.Response:
    return call(service, "delete", {"model": name}, "DELETE")


def lines(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


def names(service: ServiceProcess) -> list[str]:
    return sorted(one["name"] for one in service.get("/api/tags").json()["models"])


def aliases(service: ServiceProcess, model_id: str) -> Any:
    """The aliases of a model in the configuration file."""
    config = tomllib.loads(service.config_path.read_text())
    return config.get("models", {}).get(model_id, {}).get("aliases")


def test_a_copy_is_an_alias_in_the_file(start_fake: StartFake) -> None:
    service = start_fake({"a": {}, "b": {}}, tables={"b": {"aliases": ["old"]}})
    text = service.config_path.read_text()
    service.config_path.write_text(f"# mine\n{text}")
    answer = call(service, "copy", {"source": "A", "destination": "copy:latest"})
    assert (answer.status_code, answer.content) == (200, b"")
    assert aliases(service, "a") == ["copy"]
    assert service.config_path.read_text().startswith("# mine\n")
    assert names(service) == ["a", "b", "copy", "old"]
    assert service.chat("copy").json()["model"] == "a"
    # A name that another model has moves, whatever its case.
    assert call(service, "copy", {"source": "copy", "destination": "OLD"}).status_code == 200
    assert (aliases(service, "a"), aliases(service, "b")) == (["copy", "OLD"], None)
    assert service.chat("old").json()["model"] == "a"
    for name in ("COPY", "old"):
        assert (delete(service, name).status_code, delete(service, name).status_code) == (200, 404)
    assert aliases(service, "a") is None
    assert names(service) == ["a", "b"]


def test_ids_are_not_replaced(start_fake: StartFake) -> None:
    service = start_fake({"a": {}, "b": {}})
    before = service.config_path.read_bytes()
    for destination in ("b", "B", "a", "auto"):
        answer = call(service, "copy", {"source": "a", "destination": destination})
        assert answer.status_code == 409
        assert "is the id of a model" in answer.json()["error"]
    assert call(service, "copy", {"source": "a", "destination": " x"}).status_code == 400
    assert service.config_path.read_bytes() == before


def test_a_creation_is_an_alias_with_defaults(start_fake: StartFake) -> None:
    service = start_fake({"a": {}})
    options = {"temperature": 0.5, "stop": ["END"], "num_predict": 3, "num_ctx": 512}
    body: dict[str, Any]
    body = {"model": "brief", "from": "a", "system": "Be brief.", "parameters": options}
    *_, last = lines(call(service, "create", body))
    assert last == {"status": "success"}
    defaults = {"system": "Be brief.", "temperature": 0.5, "stop": ["END"], "max_tokens": 3}
    assert aliases(service, "a") == {"brief": {"request_defaults": defaults}}
    shown = call(service, "show", {"model": "brief"}).json()
    assert shown["system"] == "Be brief."
    assert "temperature                    0.5" in shown["parameters"].splitlines()
    assert 'stop                           "END"' in shown["parameters"].splitlines()
    # A variant of a variant has its parameters, too.
    body = {"model": "warm", "from": "brief", "parameters": {"temperature": 1.5}, "stream": False}
    answer = call(service, "create", body)
    assert answer.json() == {"status": "success"}
    warm = aliases(service, "a")["warm"]["request_defaults"]
    assert warm == {**defaults, "temperature": 1.5}
    assert call(service, "copy", {"source": "a", "destination": "plain"}).status_code == 200
    assert aliases(service, "a")["plain"] == {}
    assert "system" not in call(service, "show", {"model": "plain"}).json()
    for name in ("brief", "warm"):
        assert delete(service, name).status_code == 200
    assert aliases(service, "a") == ["plain"]


def test_an_option_of_an_impossible_kind_changes_nothing(start_fake: StartFake) -> None:
    service = start_fake({"a": {}})
    body = {"model": "x", "from": "a", "parameters": {"stop": {"a": 1}}}
    *_, last = lines(call(service, "create", body))
    assert last == {"error": 'option "stop" must be of type array'}
    assert aliases(service, "a") is None


def test_auto_has_names_but_no_parameters(start_fake: StartFake) -> None:
    service = start_fake({"a": {}, "b": {}}, config={"default_model": "b"})
    assert call(service, "copy", {"source": "auto", "destination": "best"}).status_code == 200
    assert aliases(service, "auto") == ["best"]
    tags = service.get("/api/tags").json()["models"]
    assert [one["name"] for one in tags[:2]] == ["auto", "best"]
    body = {"model": "brief", "from": "best", "system": "x", "stream": False}
    assert call(service, "create", body).status_code == 409
    assert delete(service, "auto").status_code == 409
    assert delete(service, "best").status_code == 200
    assert aliases(service, "auto") is None


def test_no_other_name_than_the_id_deletes_files(start_fake: StartFake) -> None:
    # The same letters, composed and in parts.
    service = start_fake({"a": {}}, tables={"a": {"aliases": ["caf\u00e9"]}})
    assert delete(service, "cafe\u0301").status_code == 200
    assert aliases(service, "a") is None
    assert names(service) == ["a"]


def test_a_file_is_deleted_after_its_requests(start_fake: StartFake) -> None:
    service = start_fake({"a": {}, "b": {}})
    assert service.chat("a").status_code == 200
    path = service.data_dir / "models" / "a.gguf"
    assert path.exists()
    assert delete(service, "a").status_code == 200
    assert not path.exists()
    assert names(service) == ["b"]
    assert service.get("/api/ps").json() == {"models": []}


def test_loaded_models_expire(start_fake: StartFake) -> None:
    tables: dict[str, dict[str, Any]]
    tables = {"a": {"idle_timeout": 600}, "b": {"idle_timeout": 0}, "c": {"pinned": True}}
    service = start_fake({"a": {}, "b": {}, "c": {}, "d": {}}, tables=tables)
    for model_id in tables:
        assert service.chat(model_id).status_code == 200
    *stay, first = service.get("/api/ps").json()["models"]
    now = datetime.now(UTC)
    assert {one["name"] for one in stay} == {"b", "c"}
    for one in stay:
        assert read_time(one["expires_at"]).year - now.year > 200
    assert first["name"] == first["model"] == "a"
    expires = read_time(first["expires_at"])
    assert now < expires <= now + timedelta(seconds=600)
    assert first["context_length"] > 0
    assert first["size"] > 0
    tag = {one["name"]: one for one in service.get("/api/tags").json()["models"]}["a"]
    assert tag["digest"] == first["digest"]


def test_a_busy_model_stays_after_its_request(start_fake: StartFake) -> None:
    service = start_fake({"a": {}}, tables={"a": {"idle_timeout": 600}})
    with service.stream("a", fake={"tokens": 10_000, "interval": 0.1}):
        eventually(lambda: service.model("a")["in_flight"] == 1)
        (one,) = service.get("/api/ps").json()["models"]
        assert read_time(one["expires_at"]) > datetime.now(UTC) + timedelta(seconds=500)


def read_time(text: str) -> datetime:
    assert len(text) == len("2026-11-28T21:53:39.504417725Z")
    return datetime.fromisoformat(text[:26] + "Z")


@pytest.mark.real
def test_the_facts_of_a_model(start_real: StartReal) -> None:
    service = start_real()
    shown = call(service, "show", {"name": "demo"}).json()
    assert shown["capabilities"] == ["completion", "tools"]
    assert "tools" in shown["template"]
    info = shown["model_info"]
    assert info["general.architecture"] == "llama"
    assert info["llama.context_length"] == service.model("demo")["context_length"] == 8192
    assert info["general.parameter_count"] == service.model("demo")["parameters"]
    assert info["tokenizer.ggml.tokens"] == []
    assert "num_ctx                        8192" in shown["parameters"]
    tag = service.get("/api/tags").json()["models"][0]
    assert tag["details"].items() >= shown["details"].items()
    assert read_time(shown["modified_at"]) == read_time(tag["modified_at"])
    # What it shows as its template may be sent back.
    body = {"model": "same", "from": "demo", "template": shown["template"], "stream": False}
    assert call(service, "create", body).json() == {"status": "success"}


@pytest.mark.real
def test_a_system_prompt_reaches_the_model(start_real: StartReal) -> None:
    service = start_real()
    body = {"model": "sea", "from": "demo", "system": "Tell me about the sea. " * 20}
    lines(call(service, "create", body))
    assert service.chat("demo").json()["usage"]["prompt_tokens"] < 50
    assert service.chat("sea").json()["usage"]["prompt_tokens"] > 100
    hello = {"messages": [{"role": "user", "content": "hello"}], "stream": False}
    for model, is_long in (("demo", False), ("sea:latest", True)):
        answer = call(service, "chat", {"model": model, **hello}).json()
        assert (answer["prompt_eval_count"] > 100) is is_long
        assert answer["model"] == model


# Pulls


@pytest.fixture(scope="module")
def content(demo_gguf: Path) -> bytes:
    """A file that differs from those of the other models: a copy would not be downloaded."""
    return demo_gguf.read_bytes() + bytes(4096)


@pytest.fixture
def hub(content: bytes) -> Iterator[StandInHub]:
    with StandInHub() as running:
        running.add(REPO, {"Tiny-Q8_0.gguf": content})
        yield running


def of_hub(hub: StandInHub) -> dict[str, Any]:
    return {"hf_endpoint": hub.url, "hf_allowed_hosts": [hub.cdn]}


def test_a_pulled_model_has_the_name_it_was_pulled_by(
    start_fake: StartFake, hub: StandInHub
) -> None:
    service = start_fake({"a": {}}, config=of_hub(hub))
    first, *progress, verifying, writing, last = lines(call(service, "pull", {"model": NAME}))
    assert first == {"status": "pulling manifest"}
    assert last == {"status": "success"}
    assert verifying == {"status": "verifying sha256 digest"}
    assert writing == {"status": "writing manifest"}
    done = [one for one in progress if "digest" in one][-1]
    assert done["completed"] == done["total"] > 0
    assert "Tiny-Q8_0" in names(service)
    assert NAME in names(service)
    assert aliases(service, "Tiny-Q8_0") == [NAME]
    before = len(hub.asked)
    assert lines(call(service, "pull", {"model": NAME}))[1:] == [{"status": "success"}]
    assert len(hub.asked) == before
    assert delete(service, NAME).status_code == 200
    assert "Tiny-Q8_0" in names(service)
    # The files are still here, and get the name again.
    assert call(service, "pull", {"model": NAME, "stream": False}).json() == {"status": "success"}
    assert NAME in names(service)
    assert delete(service, "tiny-q8_0").status_code == 200
    assert names(service) == ["a"]


def test_a_creation_pulls_its_model(start_fake: StartFake, hub: StandInHub) -> None:
    service = start_fake({"a": {}}, config=of_hub(hub))
    body = {"model": "brief", "from": f"hf.co/{REPO}", "system": "Be brief."}
    said = lines(call(service, "create", body))
    assert [one for one in said if one == {"status": "success"}] == [said[-1]]
    assert set(aliases(service, "Tiny-Q8_0")) == {f"hf.co/{REPO}", "brief"}


def test_what_the_hub_refuses_is_the_last_line(start_fake: StartFake, hub: StandInHub) -> None:
    service = start_fake({"a": {}}, config=of_hub(hub))
    for name in ("hf.co/owner/none", f"hf.co/{REPO}:Q2_K"):
        first, last = lines(call(service, "pull", {"model": name}))
        assert first == {"status": "pulling manifest"}
        assert last.keys() == {"error"}
        answer = call(service, "pull", {"model": name, "stream": False})
        assert answer.status_code == 404
        assert answer.json() == last


def test_a_pull_that_is_broken_off_continues(
    start_fake: StartFake, hub: StandInHub, content: bytes
) -> None:
    service = start_fake({"a": {}}, config=of_hub(hub))
    stall = Fault("stall", len(content) // 2)
    hub.faults["Tiny-Q8_0.gguf"].append(stall)
    with (
        service.client() as client,
        client.stream("POST", "/api/pull", json={"model": NAME}) as answer,
    ):
        for line in answer.iter_lines():
            if json.loads(line).get("completed"):
                break

    def cancelled() -> bool:
        (record,) = service.get("/admin/downloads").json()
        return bool(record["status"] == "cancelled")

    eventually(cancelled, what="the end of the download")
    stall.go.set()
    assert lines(call(service, "pull", {"model": NAME}))[-1] == {"status": "success"}
    assert hub.sent["Tiny-Q8_0.gguf"] < 2 * len(content)
