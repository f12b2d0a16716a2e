"""The curl lines of ``docs/http-api.md``, as a reader would run them on the built-in model."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.real.service_process import ServiceProcess
from tests.test_docs import ROOT, blocks
from tests.tools import tool

pytestmark = pytest.mark.real

_PLACEHOLDER = re.compile(r"OWNER|DID|KEY|PASSWORD|TOKEN|/admin/(hub|downloads|install)")
"""Lines with a name to fill in, and those that need the network."""


def curl_lines() -> list[str]:
    """Each curl command of the page on one line."""
    text = (ROOT / "docs" / "http-api.md").read_text("utf-8")
    shell = "\n".join(content for language, content, _ in blocks(text) if language == "sh")
    lines = shell.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("curl ") and not _PLACEHOLDER.search(line)]


def test_every_line_gets_an_answer(demo_service: ServiceProcess, tmp_path: Path) -> None:
    tool("curl")
    lines = curl_lines()
    assert len(lines) > 20
    for line in lines:
        refused = re.search(r"# (\d{3}):", line)
        stream = "-N" in line.split()
        options = f"-sS -o answer -w '%{{http_code}}' --max-time {2 if stream else 60}"
        script = f"U={demo_service.url}\n" + line.replace("curl", f"curl {options}", 1)
        result = subprocess.run(
            ["bash", "-uc", script], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        answer = (tmp_path / "answer").read_text("utf-8")
        code = refused[1] if refused else "200"
        assert result.stdout == code, f"{line}: {result.stderr}{answer[:500]}"
        assert result.returncode == (28 if stream else 0), line
        assert answer.strip(), line
