"""``doctor`` on this machine, with a real llama-server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def test_doctor_knows_the_real_llama_server(llama_server: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        f"llama_server_path = '{llama_server}'\ndata_dir = '{tmp_path}/data'\n"
        "port = 0\nllama_server_base_port = 0\n"
    )
    command = ["doctor", "--offline", "--json", "--config", str(config)]
    done = subprocess.run(
        [sys.executable, "-m", "cyber_inference_tui", *command],
        env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == 0, done.stdout
    (found,) = [one for one in json.loads(done.stdout) if one["check"] == "llama-server"]
    assert found["level"] == "ok"
    assert str(llama_server.resolve()) in found["message"]
    assert not (tmp_path / "data").exists()
