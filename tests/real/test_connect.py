"""Every client of ``connect`` gets its answer from a real service, as ``doctor`` sees it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cyber_inference_tui.cli.main import run
from cyber_inference_tui.connect.clients import CLIENTS
from tests.real.service_process import ServiceProcess, plain_environ

pytestmark = pytest.mark.real


def test_connected_clients_get_answers(
    demo_service: ServiceProcess, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    environ = {
        **plain_environ(),
        "HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path / ".config"),
        "CYBER_INFERENCE_DATA_DIR": str(tmp_path / "data"),
        "CYBER_INFERENCE_PORT": str(demo_service.port),
    }

    def findings() -> dict[str, list[dict[str, Any]]]:
        capfd.readouterr()
        run(["doctor", "--offline", "--clients", "--json"], environ)
        found: dict[str, list[dict[str, Any]]] = {"ok": [], "hint": [], "warning": [], "error": []}
        for finding in json.loads(capfd.readouterr().out):
            if finding["check"] == "clients":
                found[finding["level"]].append(finding)
        return found

    filed = [client for client in CLIENTS.values() if client.printed is None]
    for client in filed:
        code = run(["connect", client.name, "--model", "demo", "--yes"], environ)
        assert code == 0, capfd.readouterr().err
    found = findings()
    assert (found["warning"], found["error"]) == ([], [])
    messages = [finding["message"] for finding in found["ok"]]
    assert messages == [
        f"{client.title}: demo answers through the {client.api} API." for client in filed
    ]

    # A value that somebody has changed, and a file that is gone.
    path = tmp_path / ".claude" / "settings.json"
    path.write_text(path.read_text().replace(demo_service.url, "http://elsewhere"))
    (tmp_path / ".codex" / "config.toml").unlink()
    changed, gone = findings()["warning"]
    assert "env.ANTHROPIC_BASE_URL in" in changed["message"]
    assert "config.toml (No such file or directory)" in gone["message"]
    assert "connect codex --model demo" in gone["fix"]
