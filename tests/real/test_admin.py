"""The admin endpoints as a black box: records, logs, settings, events."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cyber_inference_tui.records.logs import message_of
from tests.real.conftest import Starter, StartFake, StartReal
from tests.real.service_process import ServiceProcess
from tests.waiting import eventually

SWITCHES: dict[str, dict[str, Any]] = {
    "loads": {},
    "dies": {"die": {"stderr": ["error: cudaMalloc failed: out of memory"]}},
    "guarded": {},
    "stays": {},
    "goes": {},
    "told": {},
}
"""The models of the service that some tests share, each for one of them."""


@pytest.fixture(scope="module")
def service(module_starter: Starter) -> ServiceProcess:
    return module_starter.fake(SWITCHES)


def read_events(response: httpx.Response) -> Iterator[tuple[int, str, Any]]:
    """``(id, event, data)`` of an event stream, comments skipped."""
    fields: dict[str, str] = {}
    for line in response.iter_lines():
        if not line and fields:
            yield int(fields.get("id", 0)), fields.get("event", ""), json.loads(fields["data"])
            fields = {}
        elif line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name] = value


def test_status(start_fake: StartFake) -> None:
    service = start_fake()
    assert service.chat("a").status_code == 200
    status = service.get("/admin/status").json()
    assert service.process is not None
    assert status["pid"] == service.process.pid
    assert status["port"] == service.port
    assert status["models_loaded"] == 1
    assert status["llama_server"]["version"]
    assert status["uptime_seconds"] > 0


def test_another_llama_server_is_looked_at_when_it_is_set(start_fake: StartFake) -> None:
    service = start_fake()
    before = service.get("/admin/status").json()["llama_server"]
    for path, there in (("/nowhere/llama-server", False), (before["path"], True)):
        with service.owner() as client:
            answer = client.put("/admin/config/llama_server_path", json={"value": path})
        assert answer.status_code == 200
        now = service.get("/admin/status").json()["llama_server"]
        assert (now["path"] is not None) == there
        assert now["problem"] is None if there else "no such file" in now["problem"]


def test_load_and_unload(service: ServiceProcess) -> None:
    record = service.post("/admin/models/loads/load", json={}).json()
    assert record["status"] == "loaded"
    assert record["pid"] in {server.pid for server in service.servers()}
    assert record["loaded_at"]
    record = service.post("/admin/models/loads/unload", json={}).json()
    assert (record["status"], record["pid"]) == ("unloaded", None)
    assert service.post("/admin/models/nope/load", json={}).status_code == 404
    assert service.post("/admin/models/nope/unload", json={}).status_code == 404


def test_load_of_a_failing_model_tells_why(service: ServiceProcess) -> None:
    answer = service.post("/admin/models/dies/load", json={})
    assert answer.status_code == 503
    assert "out of GPU memory" in answer.json()["error"]["message"]


def test_admin_writes_want_json_and_no_foreign_origin(service: ServiceProcess) -> None:
    form = service.post("/admin/models/guarded/load", data={"x": "y"})
    assert form.status_code == 415
    foreign = service.post(
        "/admin/models/guarded/load", json={}, headers={"Origin": "http://evil.example"}
    )
    assert foreign.status_code == 403
    record = service.model("guarded")
    assert (record["status"], record["pid"]) == ("unloaded", None)


def test_delete_removes_only_under_models_dir(service: ServiceProcess) -> None:
    assert service.chat("stays").status_code == 200
    with service.client() as client:
        assert client.delete("/admin/models/goes", headers=JSON).status_code == 200
        assert client.delete("/admin/models/goes", headers=JSON).status_code == 404
    assert not (service.data_dir / "models" / "goes.gguf").exists()
    assert (service.data_dir / "models" / "stays.gguf").exists()


JSON = {"Content-Type": "application/json"}


def test_new_and_removed_files_are_noticed(service: ServiceProcess) -> None:
    folder = service.data_dir / "models"
    (folder / "sub").mkdir()
    (folder / "sub" / "new.gguf").write_bytes((folder / "stays.gguf").read_bytes())
    eventually(lambda: "new" in service.models())
    (folder / "sub" / "new.gguf").unlink()
    eventually(lambda: "new" not in service.models())


@pytest.mark.real
def test_logs_of_a_real_server_and_of_the_service(start_real: StartReal) -> None:
    service = start_real()
    assert service.chat("demo").status_code == 200
    answer = service.get("/admin/logs/demo?lines=500")
    assert answer.headers["content-type"].startswith("text/plain")
    assert "listening on" in answer.text
    assert len(service.get("/admin/logs/demo?lines=3").text.splitlines()) == 3
    assert "demo" in service.get("/admin/logs/service?lines=500").text
    assert service.get("/admin/logs/nope").status_code == 404
    logs = service.data_dir / "logs"
    eventually(lambda: "listening on" in (logs / "demo.000000000.log").read_text())
    assert stat.S_IMODE(logs.stat().st_mode) == 0o700


@pytest.mark.real
def test_logs_by_number_with_levels_and_runs(start_real: StartReal) -> None:
    service = start_real()
    for _ in range(2):
        assert service.chat("demo").status_code == 200
        # llama-server warns of a request without its key.
        port = service.model("demo")["port"]
        assert httpx.get(f"http://127.0.0.1:{port}/slots").status_code == 401
        service.post("/admin/models/demo/unload", json={})
    logs = {log["id"]: log for log in service.get("/admin/logs").json()}
    assert set(logs) == {"demo", "install", "service"}
    demo, own = logs["demo"], logs["service"]
    assert (demo["id"], demo["running"], own["id"], own["running"]) == (
        "demo",
        False,
        "service",
        True,
    )
    assert [run["first"] for run in own["runs"]] == [0]
    first, second = demo["runs"]
    assert first["pid"] != second["pid"]
    page = service.get(f"/admin/log-lines/demo?after={second['first']}&limit=1").json()
    (line,) = page["lines"]
    assert line["text"].startswith("--- starting: ")
    assert (line["number"], page["searched_to"]) == (second["first"], second["first"] + 1)
    page = service.get("/admin/log-lines/demo?q=LISTENING%20on").json()
    numbers = [line["number"] for line in page["lines"]]
    assert len(numbers) == 2
    assert page["log"] == demo
    path = "/admin/log-matches/demo?q=listening&q=ON%20"
    assert service.get(path).json()["numbers"] == numbers
    warnings = service.get("/admin/log-lines/demo?level=warning").json()["lines"]
    assert {line["level"] for line in warnings} == {"warning"}
    assert {line["text"].split(" ")[1] for line in warnings} == {"W"}
    # What the build writes before the text is known.
    assert not {message_of(line["text"])[:2] for line in warnings} & {"W ", "0."}


def test_config_shows_sources_and_masks_secrets(start_fake: StartFake) -> None:
    service = start_fake(config={"api_keys": ["sesame-key"], "stop_timeout": 7})
    with service.client(headers={"Authorization": "Bearer sesame-key"}) as client:
        values = {entry["key"]: entry for entry in client.get("/admin/config").json()}
    assert (values["stop_timeout"]["value"], values["stop_timeout"]["source"]) == (7, "file")
    assert values["port"]["source"] == "flag"
    assert values["load_timeout"]["source"] == "default"
    assert "sesame" not in json.dumps(values)


def put_config(service: ServiceProcess, key: str, value: Any) -> httpx.Response:
    with service.client() as client:
        return client.put(f"/admin/config/{key}", json={"value": value})


def test_config_put_is_written_and_applied(start_fake: StartFake) -> None:
    service = start_fake()
    text = service.config_path.read_text()
    service.config_path.write_text("# mine\n" + text)
    assert service.chat("a").status_code == 200
    answer = put_config(service, "model_idle_timeout", 0.2)
    assert answer.status_code == 200
    assert answer.json()["value"] == 0.2
    service.wait_status("a", "unloaded")
    written = service.config_path.read_text()
    assert written.startswith("# mine\n")
    assert tomllib.loads(written)["model_idle_timeout"] == 0.2


def test_config_put_refuses_what_is_wrong(service: ServiceProcess) -> None:
    before = service.config_path.read_text()
    assert put_config(service, "model_idle_timeout", "soon").status_code == 400
    assert put_config(service, "model_idle_timeot", 5).status_code == 404
    assert put_config(service, "port", -1).status_code == 400
    assert service.config_path.read_text() == before


def test_api_keys_guard_the_model_endpoints(start_fake: StartFake) -> None:
    service = start_fake(config={"api_keys": ["sesame", "open-up"]})
    refused = service.chat("a")
    assert refused.status_code == 401
    assert refused.json()["error"]["code"] == "invalid_api_key"
    assert service.get("/v1/models").status_code == 401
    assert service.get("/upstream/a/health").status_code == 401
    assert service.get("/health").status_code == 200
    body = {"model": "a", "messages": []}
    for headers in ({"Authorization": "Bearer open-up"}, {"x-api-key": "sesame"}):
        assert service.post("/v1/chat/completions", json=body, headers=headers).status_code == 200
    wrong = {"Authorization": "Bearer sesam"}
    assert service.post("/v1/chat/completions", json=body, headers=wrong).status_code == 401


def test_events_tell_a_models_life_and_resume(service: ServiceProcess) -> None:
    seen: list[tuple[int, str]] = []
    with service.client() as client, client.stream("GET", "/admin/events?topics=model") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        events = read_events(stream)
        assert service.chat("told").status_code == 200
        for number, topic, data in events:
            assert topic == "model"
            if data["id"] == "told":
                seen.append((number, data["status"]))
                if data["status"] == "loaded":
                    break
    statuses = [status for _, status in seen]
    assert "loading" in statuses
    assert statuses.index("loading") < statuses.index("loaded")
    numbers = [number for number, _ in seen]
    assert numbers == sorted(set(numbers))
    service.post("/admin/models/told/unload", json={})
    headers = {"Last-Event-ID": str(numbers[-1])}
    with (
        service.client() as client,
        client.stream("GET", "/admin/events?topics=model", headers=headers) as stream,
    ):
        for number, _, data in read_events(stream):
            assert number > numbers[-1]
            if (data["id"], data["status"]) == ("told", "unloaded"):
                break


def test_events_tell_of_a_gap(start_fake: StartFake) -> None:
    service = start_fake({"a": {"flood": {"kind": "plain", "lines": 60_000}}})
    with service.client() as client, client.stream("GET", "/admin/events?topics=log") as stream:
        events = read_events(stream)
        assert service.chat("a").status_code == 200
        next(events)
    assert service.get("/health").status_code == 200
    # The ring has turned over long since: a resumed reader is told what it missed.
    eventually(lambda: "59999 " in service.get("/admin/logs/a?lines=50").text)
    headers = {"Last-Event-ID": "1"}
    with (
        service.client() as client,
        client.stream("GET", "/admin/events?topics=log", headers=headers) as stream,
    ):
        _, topic, data = next(read_events(stream))
    assert topic == "gap"
    assert "missed" in data


def test_the_service_says_plainly_where_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "cyber_inference_tui", "serve", "--port", "0"),
            *("--data-dir", str(tmp_path / "data")),
            *("--models-dir", str(tmp_path / "file" / "models")),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "Cannot create" in done.stderr
    assert "Traceback" not in done.stderr
