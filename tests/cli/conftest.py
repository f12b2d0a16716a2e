from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from cyber_inference_tui.cli.main import run
from cyber_inference_tui.service.runtime import data_directory_holder
from tests.cli.stand_in import StandIn


@dataclass(frozen=True)
class Outcome:
    """The exit code and the output of one command line."""

    code: int
    out: str
    err: str


CommandLine = Callable[..., Outcome]
Spawn = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    with StandIn().running() as service:
        yield service


@pytest.fixture
def environ(tmp_path: Path) -> Mapping[str, str]:
    """The environment of a user who has never run the program, without this machine's variables."""
    return {
        "HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "XDG_DATA_HOME": str(tmp_path / "share"),
        "OLLAMA_MODELS": str(tmp_path / "ollama"),
        "CYBER_INFERENCE_CONFIG": str(tmp_path / "config.toml"),
        "CYBER_INFERENCE_DATA_DIR": str(tmp_path / "data"),
        "PATH": os.environ["PATH"],
        "PYTHONUTF8": "1",
        # A service in the background imports the program from where the tests do.
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
    }


@pytest.fixture
def data_dir(environ: Mapping[str, str]) -> Iterator[Path]:
    """The data directory; a service that runs there is killed at the end."""
    path = Path(environ["CYBER_INFERENCE_DATA_DIR"])
    yield path
    pid = data_directory_holder(path)
    if pid is not None and pid != os.getpid():
        process = psutil.Process(pid)
        process.kill()
        process.wait(60)


@pytest.fixture
def config(environ: Mapping[str, str]) -> Path:
    """The configuration file, empty at first."""
    path = Path(environ["CYBER_INFERENCE_CONFIG"])
    path.touch()
    return path


@pytest.fixture
def call(
    environ: Mapping[str, str], config: Path, capfd: pytest.CaptureFixture[str]
) -> CommandLine:
    """Run a command line in this process."""

    def call(*argv: str) -> Outcome:
        capfd.readouterr()
        code = run(argv, environ)
        captured = capfd.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


@pytest.fixture
def spawn(environ: Mapping[str, str], config: Path) -> Iterator[Spawn]:
    """Start a command line as a process; kill it at the end of the test if it still runs."""
    started: list[subprocess.Popen[bytes]] = []

    def spawn(*argv: str, **options: object) -> subprocess.Popen[bytes]:
        more: dict[str, str] = options.pop("environ", {})  # type: ignore[assignment]
        process: subprocess.Popen[bytes] = subprocess.Popen(
            [sys.executable, "-m", "cyber_inference_tui", *argv],
            env={**environ, **more},
            **options,  # type: ignore[call-overload]
        )
        started.append(process)
        return process

    yield spawn
    for process in started:
        process.kill()
        process.wait(60)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()
