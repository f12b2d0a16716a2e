"""The examples of ``docs/clients.md``, as a reader would run them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.real.service_process import ServiceProcess
from tests.test_docs import ROOT, blocks
from tests.tools import client_python, tool

pytestmark = pytest.mark.real

TEXT = (ROOT / "docs" / "clients.md").read_text("utf-8")


def examples(language: str, beginning: str) -> list[str]:
    """The page's blocks of a language that begin with some text."""
    return [
        content
        for name, content, _ in blocks(TEXT)
        if name == language and content.lstrip().startswith(beginning)
    ]


def run(command: list[str], folder: Path) -> str:
    """What it prints; it must succeed."""
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OPENAI_", "ANTHROPIC_", "OLLAMA_"))
        and not name.lower().endswith("_proxy")
    }
    # Otherwise litellm asks the internet for prices.
    environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    result = subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stdout


def at(service: ServiceProcess, code: str) -> str:
    """An example, pointed at this service and its models."""
    assert "http://127.0.0.1:8337" in code
    code = code.replace("http://127.0.0.1:8337", service.url)
    return code.replace("my-embedding-model", "embedder").replace("my-reranker", "ranker")


def test_curl(demo_service: ServiceProcess, tmp_path: Path) -> None:
    tool("curl")
    codes = examples("sh", "curl ")
    assert len(codes) >= 4
    for code in codes:
        # --fail-with-body: an error answer is a failure.
        script = at(demo_service, code).replace("curl ", "curl -sS --fail-with-body ")
        assert run(["bash", "-euc", script], tmp_path).strip()


@pytest.mark.parametrize("library", ["openai", "anthropic", "ollama"])
def test_python(demo_service: ServiceProcess, tmp_path: Path, library: str) -> None:
    codes = [code for code in examples("python", "") if f"from {library} import" in code]
    assert len(codes) >= 2
    # One process for all: importing such a library takes longer than the requests.
    script = "\n\n".join(at(demo_service, code) for code in codes)
    assert run([sys.executable, "-c", script], tmp_path).strip()


@pytest.mark.parametrize(
    "library", ["langchain_ollama", "langchain_openai", "litellm", "pydantic_ai"]
)
def test_bigger_libraries(demo_service: ServiceProcess, tmp_path: Path, library: str) -> None:
    codes = [code for code in examples("python", "") if f"from {library} import" in code]
    assert codes
    script = "\n\n".join(at(demo_service, code) for code in codes)
    assert run([client_python(), "-c", script], tmp_path).strip()


def test_readme_shows_what_its_request_prints(demo_service: ServiceProcess, tmp_path: Path) -> None:
    tool("curl")
    parts = [
        (name, content) for name, content, _ in blocks((ROOT / "README.md").read_text("utf-8"))
    ]
    place = next(i for i, (_, content) in enumerate(parts) if content.startswith("curl "))
    assert parts[place + 1][0] == "json"
    shown = json.loads(" ".join(parts[place + 1][1].split()))
    printed = json.loads(run(["bash", "-euc", at(demo_service, parts[place][1])], tmp_path))
    beginning = shown["choices"][0]["message"]["content"].removesuffix("…")
    assert printed["choices"][0]["message"]["content"].startswith(beginning)
    assert shown["usage"].items() <= printed["usage"].items()
