"""TLS as users have it: a real service and llama-server, real clients, the app with --attach."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from openai import DefaultHttpxClient, OpenAI

from cyber_inference_tui.certificates import trusting
from tests.certificates import Pair
from tests.real.conftest import StartReal
from tests.real.terminal import Terminal
from tests.tools import tool
from tests.waiting import eventually

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]


def test_clients_and_commands_of_a_service_with_tls(start_real: StartReal, tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        extra = probe.getsockname()[1]
    service = start_real({**pair.settings, "extra_ports": [extra]})
    assert service.url.startswith("https://")
    http = DefaultHttpxClient(verify=trusting(pair.pem), trust_env=False)
    with OpenAI(base_url=f"{service.url}/v1", api_key="none", http_client=http) as client:
        for _ in range(3):  # after the first one, on the lean path
            answer = client.completions.create(model="demo", prompt="Hello", max_tokens=8)
            assert answer.choices[0].text
        stream = client.completions.create(model="demo", prompt="Hello", max_tokens=8, stream=True)
        assert [chunk.choices[0].finish_reason for chunk in stream][-1] == "length"
        assert http.get(f"https://127.0.0.1:{extra}/health").status_code == 200
    ours = [
        sys.executable, "-m", "cyber_inference_tui", "--config", str(service.config_path),
        "--data-dir", str(service.data_dir), "--port", "0",
    ]  # fmt: skip
    curl = [tool("curl"), "-sS", "--cacert", str(pair.certificate)]
    assert output(*curl, f"https://localhost:{service.port}/health") == '{"status":"ok"}'
    assert "Begin the address with https://." in output(*curl, f"http://localhost:{service.port}/")
    assert service.url in output(*ours, "status")
    shown = output(*ours, "connect", "env", "--model", "demo")
    assert f"{service.url}/v1" in shown
    assert "SSL_CERT_FILE" in shown


def output(*command: str) -> str:
    """What a program prints, its errors included."""
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return done.stdout


def test_the_app_asks_about_a_fingerprint_once(start_real: StartReal, tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    service = start_real(pair.settings)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "config.toml").touch()
    attach = [
        sys.executable, "-m", "cyber_inference_tui", "--attach", service.url,
        "--config", str(elsewhere / "config.toml"), "--data-dir", str(elsewhere / "data"),
    ]  # fmt: skip
    with Terminal(attach, folder=elsewhere) as terminal:
        terminal.wait_for("Its SHA-256 fingerprint is", "Trust it from now on? [y/N]")
        assert pair.fingerprint in terminal.screen().replace("\n", "")
        terminal.type("y")
        terminal.press("Enter")
        terminal.wait_for("attached", "demo", "unloaded")
        terminal.press("q")
        terminal.wait_for("ended with 0")
    with Terminal(attach, folder=elsewhere) as terminal:
        terminal.wait_for("attached", "demo", "unloaded")
        terminal.press("q")
        terminal.wait_for("ended with 0")
    pair.renew()
    eventually(lambda: pair.fingerprint in service.errors())
    with Terminal(attach, folder=elsewhere) as terminal:
        shown = terminal.wait_for("ended with 1").replace("\n", "")
        assert "is not the known one: somebody may be in between" in shown
