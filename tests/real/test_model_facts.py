"""What the service tells of models, requests, memory and settings, as a black box."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pytest

from tests.real.conftest import Starter, StartFake, StartReal
from tests.real.service_process import ServiceProcess
from tests.real.test_admin import read_events
from tests.waiting import eventually


def details(service: ServiceProcess, model_id: str) -> Any:
    return service.get(f"/admin/models/{quote(model_id, safe='')}/details").json()


@pytest.mark.real
def test_the_command_is_the_one_that_runs(start_real: StartReal) -> None:
    service = start_real()
    # The first reading of the memory may come after the first request.
    eventually(lambda: service.model("demo")["fits"])
    planned = details(service, "demo")
    assert planned["command"][planned["command"].index("--port") + 1] == "PORT"
    assert planned["model"]["fits"] == "now"
    assert service.post("/admin/models/demo/load", json={}).status_code == 200
    found = details(service, "demo")
    record = found["model"]
    assert found["command"] == psutil.Process(record["pid"]).cmdline()
    cmdline = Path(f"/proc/{record['pid']}/cmdline").read_bytes()
    assert found["command"] == cmdline.decode().removesuffix("\0").split("\0")
    # Nothing but the port was left open, and the prompt cache, which goes by the free memory.
    changed = {
        option
        for option, before, after in zip(
            found["command"], planned["command"][1:], found["command"][1:], strict=False
        )
        if before != after
    }
    assert changed <= {"--port", "--cache-ram"}
    assert found["command_problem"] is None
    props = service.upstream("demo", "/props")
    assert record["slots"] == props["total_slots"]
    assert record["fits"] is None
    (current,) = [row for row in found["memory"] if row["current"]]
    assert current["context_size"] == record["context_size"]
    assert current["total_bytes"] == sum(part["size_bytes"] for part in current["parts"])
    assert [row["context_size"] for row in found["memory"]] == [2048, 4096, 8192, 16384, 32768]
    assert {row["fits"] for row in found["memory"]} == {"now"}
    assert found["facts"]["architecture"] == record["architecture"]
    assert found["files"] == [{"path": record["path"], "size_bytes": record["size_bytes"]}]


@pytest.fixture(scope="module")
def service(module_starter: Starter) -> ServiceProcess:
    """A service that some tests share, each with a model of its own."""
    return module_starter.fake({"loaded": {}, "rests": {}})


def test_of_a_file_that_cannot_be_read_no_memory_is_told(service: ServiceProcess) -> None:
    (service.data_dir / "models" / "broken.gguf").write_bytes(b"GGUFgarbage")
    eventually(lambda: "broken" in {one["id"] for one in service.get("/admin/models").json()})
    told = details(service, "broken")
    assert told["model"]["error"]
    assert told["memory"] == []


@pytest.mark.real
def test_a_stream_is_active_while_it_runs(start_real: StartReal) -> None:
    service = start_real()
    body = {"max_tokens": 1500, "ignore_eos": True, "temperature": 0}
    with service.stream("demo", **body) as response:
        lines = response.iter_lines()
        assert any("content" in line for line in lines)
        (active,) = service.get("/admin/requests/active").json()
        assert active["phase"] == "answering"
        assert (active["model"], active["stream"]) == ("demo", True)
        assert active["path"] == "/v1/chat/completions"
        assert active["time_to_first_token_seconds"] > 0
        assert service.model("demo")["unload_at"] is None
    eventually(lambda: service.get("/admin/requests/active").json() == [])
    assert service.model("demo")["unload_at"]


def test_when_a_model_goes_is_told_and_moves_with_its_use(start_fake: StartFake) -> None:
    service = start_fake(config={"model_idle_timeout": 600})
    with (
        service.client() as client,
        client.stream("GET", "/admin/events?topics=model") as response,
    ):
        events = (data for _, event, data in read_events(response) if event == "model")

        def unload_at(after: datetime) -> datetime:
            for data in events:
                if data["status"] == "loaded" and data["unload_at"]:
                    told = datetime.fromisoformat(data["unload_at"])
                    if told > after:
                        return told
            raise AssertionError

        assert service.chat("a").status_code == 200
        first = unload_at(datetime.now(UTC))
        used = datetime.fromisoformat(service.model("a")["last_used_at"])
        assert first - used <= timedelta(seconds=600)
        assert service.chat("a").status_code == 200
        second = unload_at(first)
        # Asking to load what is loaded counts as a use.
        assert service.post("/admin/models/a/load", json={}).status_code == 200
        third = unload_at(second)
        put(service, "model_idle_timeout", 1200)
        assert unload_at(third) - third == timedelta(seconds=600)


def test_a_model_that_was_only_loaded_is_told_to_go(service: ServiceProcess) -> None:
    with (
        service.client() as client,
        client.stream("GET", "/admin/events?topics=model") as response,
    ):
        events = (data for _, event, data in read_events(response) if event == "model")
        assert service.post("/admin/models/loaded/load", json={}).status_code == 200
        told = next(data for data in events if data["id"] == "loaded" and data["unload_at"])
        assert told["status"] == "loaded"


def test_a_model_that_no_longer_fits_is_told_of(start_fake: StartFake) -> None:
    service = start_fake({"a": {}, "b": {}}, config={"max_loaded_models": 1})
    eventually(lambda: service.model("b")["fits"] == "now")
    with (
        service.client() as client,
        client.stream("GET", "/admin/events?topics=model") as response,
    ):
        assert service.chat("a").status_code == 200
        fits = (
            data
            for _, event, data in read_events(response)
            if event == "model" and data["id"] == "b" and data["fits"] == "after unloading"
        )
        reason = next(fits)["fits_reason"]
    assert "a would be unloaded" in reason
    assert service.model("a")["fits"] is None


def put(service: ServiceProcess, key: str, value: Any, query: str = "") -> Any:
    with service.client() as client:
        answer = client.put(f"/admin/config/{quote(key, safe='')}{query}", json={"value": value})
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.mark.parametrize("model_id", ['we.ird "id" x', "sub/b", "plain"])
def test_any_models_table_is_edited_through_its_details(
    start_fake: StartFake, model_id: str
) -> None:
    service = start_fake({"a": {}}, start=False)
    models_dir = service.data_dir / "models"
    target = models_dir / f"{model_id}.gguf"
    target.parent.mkdir(exist_ok=True)
    (models_dir / "a.gguf").rename(target)
    if "/" in model_id:
        # Two of one name: then the directory is a part of the id.
        (models_dir / "b.gguf").write_bytes(target.read_bytes())
    service.start()
    key = f"models.{json.dumps(model_id)}.context_size"
    assert put(service, key, 512, "?check=1")["effect"] == "now"
    assert put(service, key, 512)["value"] == 512
    (row,) = [one for one in details(service, model_id)["settings"] if one["key"] == "context_size"]
    assert (row["value"], row["effective"], row["source"]) == (512, 512, "model")
    assert (
        service.post(f"/admin/models/{quote(model_id, safe='')}/load", json={}).status_code == 200
    )
    check = put(service, key, 1024, "?check=1")
    assert (check["effect"], check["models"]) == ("restarts models", [model_id])
    assert service.model(model_id)["context_size"] == 512
    with service.client() as client:
        answer = client.delete(f"/admin/config/{quote(key, safe='')}")
        assert answer.json()["source"] == "default"
    (row,) = [one for one in details(service, model_id)["settings"] if one["key"] == "context_size"]
    assert (row["value"], row["source"]) == (None, "default")


def test_why_there_is_no_command(start_fake: StartFake, tmp_path: Path) -> None:
    service = start_fake({"a": {}}, config={"llama_server_path": str(tmp_path / "none")})
    found = details(service, "a")
    assert found["command"] == []
    assert str(tmp_path / "none") in found["command_problem"]
    assert found["memory"]


def test_the_memory_for_models(start_fake: StartFake) -> None:
    service = start_fake({"a": {}}, config={"max_memory_percent": 50})

    def read() -> dict[str, Any] | None:
        # The first reading may come after the first request.
        memory: dict[str, Any] = service.get("/admin/memory").json()[0]
        return memory if memory["limit_bytes"] is not None else None

    memory = eventually(read)
    assert memory["pool"] == "memory"
    sample = service.get("/admin/resources").json()
    assert memory["limit_bytes"] == pytest.approx(sample["memory"]["total"] / 2, rel=0.01)
    assert 0 <= memory["free_bytes"] <= memory["free_after_unloading_bytes"]
    assert memory["free_after_unloading_bytes"] <= memory["limit_bytes"]


def test_a_model_that_rests_is_told_of_by_its_settings_now(service: ServiceProcess) -> None:
    assert service.chat("rests").status_code == 200
    assert service.post("/admin/models/rests/unload", json={}).status_code == 200
    before = service.model("rests")
    assert before["context_size"] == 8192
    put(service, 'models."rests".context_size', 1024)
    after = service.model("rests")
    assert after["context_size"] == 1024
    (current,) = [row for row in details(service, "rests")["memory"] if row["current"]]
    assert current["context_size"] == 1024
