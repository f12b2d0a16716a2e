"""The lines that the app offers to copy, run as they are."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from cyber_inference_tui.connect.connection import Connection, Model
from cyber_inference_tui.connect.ready_lines import Kind, ready_lines
from tests.real.service_process import ServiceProcess
from tests.real.test_clients_page import run
from tests.tools import tool

pytestmark = pytest.mark.real

KINDS: dict[str, Kind] = {"demo": "chat", "embedder": "embeddings", "ranker": "rerank"}


def texts(service: ServiceProcess, name: str) -> dict[str, str]:
    # The context is the demo model's: an answer has a quarter of it.
    model = Model(name, 256)
    connection = Connection(service.url, "", model, model, (model,))
    return {lines.title: lines.text for lines in ready_lines(connection, KINDS[name])}


@pytest.mark.parametrize("name", KINDS)
def test_curl(demo_service: ServiceProcess, tmp_path: Path, name: str) -> None:
    tool("curl")
    script = texts(demo_service, name)["curl"].replace("curl ", "curl -sS --fail-with-body ", 1)
    answer = json.loads(run(["bash", "-euc", script], tmp_path))
    assert answer.get("choices") or answer.get("data") or answer.get("results")


def test_python(demo_service: ServiceProcess, tmp_path: Path) -> None:
    found = [
        text
        for name in ("demo", "embedder")
        for title, text in texts(demo_service, name).items()
        if title in {"OpenAI Python", "Anthropic"}
    ]
    assert len(found) == 3
    # One process for all: importing such a library takes longer than the requests.
    assert run([sys.executable, "-c", "\n".join(found)], tmp_path).strip()


def test_the_shell(demo_service: ServiceProcess, tmp_path: Path) -> None:
    lines = texts(demo_service, "demo")
    variables = lines["Claude Code"].removesuffix("claude\n")
    script = f"{lines['Shell']}{variables}env"
    shown = run(["bash", "-euc", script], tmp_path)
    assert f"OPENAI_BASE_URL={demo_service.url}/v1\n" in shown
    assert f"ANTHROPIC_BASE_URL={demo_service.url}\n" in shown
