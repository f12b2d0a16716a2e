"""Options that the service owns: those of the real llama-server, refused wherever they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from cyber_inference_tui.llama.binary import option_names
from cyber_inference_tui.settings.owned_options import owned_option_problem, owned_variable_problem
from tests.real.conftest import StartReal
from tests.real.service_process import ServiceProcess
from tests.waiting import eventually

_ENTRY = re.compile(r"^(?=-)", re.MULTILINE)
_VARIABLE = re.compile(r"\(env: (\w+)\)")


@pytest.mark.real
def test_every_spelling_of_the_real_servers_options_is_known(llama_server: Path) -> None:
    told = subprocess.run([llama_server, "--help"], capture_output=True, check=True, text=True)
    owned = set()
    for entry in _ENTRY.split(told.stdout):
        names = list(option_names(entry))
        refused = [name for name in names if owned_option_problem(name) is not None]
        assert refused in ([], names)
        owned |= set(refused)
        variable = _VARIABLE.search(entry)
        if variable is not None:
            assert (owned_variable_problem(variable[1]) is not None) == bool(refused)
    assert {"--port", "--host", "--api-key", "--api-prefix", "--ssl-key-file"} <= owned
    assert {"--models-dir", "--no-models-autoload", "-h", "--usage", "--version", "-cl"} <= owned


@pytest.mark.real
def test_a_running_service_refuses_them_and_goes_on(start_real: StartReal) -> None:
    service = start_real()
    assert service.chat("demo").status_code == 200
    port = service.model("demo")["port"]
    before = service.config_path.read_text()
    for key, value, named in (
        ("llama_args", ["--port", "18080"], "--port is refused: the service gives"),
        ('models."demo".args', ["--host", "0.0.0.0"], "--host is refused: a model's server"),
        ('models."demo".env', {"LLAMA_ARG_API_KEY_FILE": "/k"}, "LLAMA_ARG_API_KEY_FILE is refu"),
    ):
        for check in ("", "?check=1"):
            with service.owner() as client:
                answer = client.put(f"/admin/config/{key}{check}", json={"value": value})
            assert answer.status_code == 400
            assert named in answer.json()["error"]["message"]
    assert service.config_path.read_text() == before
    service.config_path.write_text(f'{before}\n[models.other]\nargs = ["--api-prefix", "/x"]\n')
    line = before.count("\n") + 3
    eventually(lambda: "--api-prefix is refused" in service.errors(), what="the refusal in the log")
    assert f'{service.config_path}:{line}: models."other".args: item 1: ' in service.errors()
    assert service.chat("demo").status_code == 200
    assert service.model("demo")["port"] == port


def test_its_own_option_variables_are_named_at_start(tmp_path: Path) -> None:
    environ = {"LLAMA_ARG_PORT": "18080", "LLAMA_ARG_THREADS": "3", "LLAMA_API_KEY": "sk-hidden"}
    service = ServiceProcess(tmp_path / "service", {}, environ=environ)
    try:
        service.start()
        log = service.get("/admin/logs/service?lines=1000").text
    finally:
        service.stop()
    told = "LLAMA_API_KEY, LLAMA_ARG_PORT, LLAMA_ARG_THREADS: not passed on to the models' servers"
    assert log.count(told) == 1
    assert "sk-hidden" not in log + service.errors()


def test_the_command_line_names_file_line_key_and_reason(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('port = 1\nllama_args = ["-c", "512", "--version"]\n')
    command = [sys.executable, "-m", "cyber_inference_tui", "--config", str(config), "config"]
    checked = subprocess.run([*command, "check"], capture_output=True, text=True, check=False)
    assert checked.returncode == 5
    assert checked.stderr.startswith(f"{config}:2: llama_args: item 3: --version is refused: ")
    words = [*command, "set", "llama_args", '["--ssl-key-file", "/k"]']
    changed = subprocess.run(words, capture_output=True, text=True, check=False)
    assert changed.returncode == 5
    assert changed.stderr.startswith("llama_args: item 1: --ssl-key-file is refused: ")
