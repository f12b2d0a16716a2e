"""A model's own port answers nobody but the service."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.real.conftest import StartFake, StartReal
from tests.real.service_process import chat_body

GUESSED = [
    {},
    {"Authorization": "Bearer sk-client"},
    {"x-api-key": "sk-client"},
    {"Origin": "http://evil.example", "Host": "evil.example"},
]


@pytest.mark.parametrize("headers", GUESSED, ids=str)
def test_a_models_port_answers_only_the_service(
    start_real: StartReal, headers: dict[str, str]
) -> None:
    service = start_real({"api_keys": ["sk-client"]})
    key = {"Authorization": "Bearer sk-client"}
    assert service.post("/v1/chat/completions", json=chat_body("demo"), headers=key).is_success
    port = service.model("demo")["port"]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers) as client:
        for path in ("/slots", "/props", "/v1/models", "/lora-adapters", "/metrics"):
            assert client.get(path).status_code == 401, path
        for path in ("/v1/chat/completions", "/completion", "/tokenize", "/slots/0?action=erase"):
            assert client.post(path, json=chat_body("demo")).status_code == 401, path
    # What the service asks for itself, and for its clients.
    for path in ("/slots", "/props", "/lora-adapters"):
        assert service.get(f"{path}?model=demo", headers=key).is_success, path
    server = psutil.Process(service.model("demo")["pid"])
    secret = server.environ()["LLAMA_API_KEY"]
    assert len(secret) >= 40
    assert secret not in " ".join(server.cmdline())
    assert secret not in service.get("/admin/logs/demo").text
    assert secret not in service.get("/admin/models/demo/details").text


def test_every_start_has_a_key_of_its_own(start_real: StartReal) -> None:
    service = start_real()
    keys = set()
    for _ in range(2):
        assert service.post("/admin/models/demo/load").is_success
        keys.add(psutil.Process(service.model("demo")["pid"]).environ()["LLAMA_API_KEY"])
        assert service.post("/admin/models/demo/unload").is_success
    assert len(keys) == 2


SERVER = """
import os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        admitted = self.headers["Authorization"] == f"Bearer {sys.argv[2]}"
        self.send_response(200 if admitted else 401)
        self.send_header("Content-Length", "0")
        self.end_headers()
    do_POST = do_GET

print(sys.argv[2], os.environ["CYBER_INFERENCE_UPSTREAM_KEY"], flush=True)
HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_a_command_gets_the_key_and_its_log_does_not_show_it(
    start_fake: StartFake, tmp_path: Path
) -> None:
    script = tmp_path / "server.py"
    script.write_text(SERVER)
    command = [sys.executable, "-u", str(script), "{port}", "{key}"]
    table: dict[str, Any] = {"command": command}
    service = start_fake({"own": {}}, tables={"own": table})
    for _ in range(2):
        client_key = {"Authorization": "Bearer client"}
        assert service.post("/upstream/own/x", headers=client_key).status_code == 200
    record = service.model("own")
    process = psutil.Process(record["pid"])
    secret = process.environ()["CYBER_INFERENCE_UPSTREAM_KEY"]
    assert process.cmdline()[-1] == secret
    assert httpx.get(f"http://127.0.0.1:{record['port']}/x").status_code == 401
    log = service.get("/admin/logs/own").text
    assert secret not in log
    assert "******** ********" in log
    details = service.get("/admin/models/own/details")
    assert details.json()["command"][-1] == "********"
    assert secret not in details.text
    assert secret.encode() not in b"".join(
        (service.data_dir / folder / name).read_bytes()
        for folder, _, names in os.walk(service.data_dir / "logs")
        for name in names
    )
