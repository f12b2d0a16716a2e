"""What the measurements of the terminal app stand on: a service with models, the app's command."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks import programs
from benchmarks.big_model import write_models
from benchmarks.terminal import COLUMNS, LINES, Terminal

Row = tuple[str, str, str, str]
"""What, how much, against what it is held, the ratio."""

ROOT = Path(__file__).resolve().parent.parent
BARE = [sys.executable, "-m", "benchmarks.bare_app"]
BARE_MARK = b"nothing but this"
APP_MARK = b"Dashboard"
LOADED_MARK = b"loaded"
STREAMERS = ("gemma-3-4b-it-Q4_K_M", "llama-3.2-3b-Q8_0", "qwen3-8b-Q4_K_M")


class Ground:
    """A running service, and the terminal app on it."""

    def __init__(self, folder: Path, service: programs.Service) -> None:
        self.service = service
        self._arguments = ["--config", str(folder / "config.toml")]
        self._arguments += ["--data-dir", str(folder / "data"), "--port", str(service.port)]

    def app(self, size: tuple[int, int] = (COLUMNS, LINES)) -> Terminal:
        """The app in a terminal."""
        argv = [sys.executable, "-m", "cyber_inference_tui", *self._arguments]
        return Terminal(argv, size=size, environ=environ())


def environ() -> dict[str, str]:
    """The environment of what is measured: nothing set for the service, byte code kept."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CYBER_")}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    return kept | {"PYTHONPATH": str(ROOT)}


def bare() -> Terminal:
    """The least app there is, in a terminal."""
    return Terminal(BARE, environ=environ())


@contextlib.contextmanager
def demo_ground(folder: Path, llama_server: Path) -> Iterator[Ground]:
    """A service with two copies of the demo model, loaded and idle."""
    models = folder / "models"
    models.mkdir(parents=True)
    write_models(models, 0)
    (models / "demo.gguf").rename(models / "one.gguf")
    (models / "two.gguf").hardlink_to(models / "one.gguf")
    files = {name: models / f"{name}.gguf" for name in ("one", "two")}
    config = {"llama_server_path": str(llama_server), "llama_threads": 1}
    with programs.service(folder / "service", config, files) as service:
        for name in files:
            service.load(name)
        yield Ground(folder / "service", service)


@contextlib.contextmanager
def busy_ground(folder: Path, llama_server: Path) -> Iterator[Ground]:
    """A service with a model that streams (``source``) and one that writes a log (``writer``)."""
    with _ground_of(
        folder,
        llama_server,
        {"source": ["benchmarks.source"], "writer": ["benchmarks.logs"]},
    ) as ground:
        yield ground


@contextlib.contextmanager
def streams_ground(folder: Path, llama_server: Path) -> Iterator[Ground]:
    """A service with three models (``STREAMERS``) whose answers are streams of 40 tokens/s."""
    command = ["benchmarks.source", "--chunks", "4000", "--interval", "25"]
    with _ground_of(folder, llama_server, dict.fromkeys(STREAMERS, command)) as ground:
        yield ground


@contextlib.contextmanager
def _ground_of(
    folder: Path, llama_server: Path, modules: Mapping[str, Sequence[str]]
) -> Iterator[Ground]:
    """A service with loaded models, each of which is a module of ours with its arguments."""
    models = {
        name: {
            "command": [sys.executable, "-m", *command, "--port", "{port}"],
            "env": {"PYTHONPATH": str(ROOT)},
        }
        for name, command in modules.items()
    }
    config = {"llama_server_path": str(llama_server), "models": models}
    with programs.service(folder / "service", config, {}) as service:
        for name in models:
            service.load(name)
        yield Ground(folder / "service", service)


def percent_row(what: str, share: float, budget: float) -> Row:
    """Of a core, against a budget."""
    return (what, f"{share:.1%} of a core", f"{budget:.0%}", f"{share / budget:.2f}")
