"""Other programs that start llama-servers and forward requests to them; each is left out if absent.

Each has the same models as the service, and the same arguments for llama-server as far as it takes
any. What they would find or measure elsewhere on the machine is switched off.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import httpx

from benchmarks.programs import START_LIMIT, free_port, running, wait_listening

_LIMITS = {"concurrencyLimit": 10_000}
"""Without it, llama-swap refuses the eleventh request of a model."""
Unload = Callable[[str], object]
"""Unload a model by its id."""


@contextlib.contextmanager
def llama_swap(
    program: Path, folder: Path, models: Mapping[str, Sequence[str]]
) -> Iterator[tuple[int, int, Unload]]:
    """Run llama-swap: its port, its pid, and how a model is unloaded.

    ``models`` are command lines, in which ``{port}`` stands for the port.
    """
    folder.mkdir(parents=True)
    entries = {}
    for model_id, command in models.items():
        own = str(free_port())
        line = shlex.join(word.replace("{port}", own) for word in command)
        entries[model_id] = {"cmd": line, "proxy": f"http://127.0.0.1:{own}", "ttl": 0, **_LIMITS}
    config = folder / "config.yaml"
    config.write_text(json.dumps({"models": entries}))
    port = free_port()
    listen = f"127.0.0.1:{port}"

    def unload(model: str) -> None:
        url = f"http://{listen}/api/models/unload/{model}"
        httpx.post(url, timeout=60, trust_env=False).raise_for_status()

    command = [str(program), "--config", str(config), "--listen", listen]
    with running(command, quiet=True) as process:
        wait_listening(port)
        yield port, process.pid, unload


@contextlib.contextmanager
def llamastash(
    program: Path, folder: Path, server: Path, models_dir: Path, arguments: Sequence[str] = ()
) -> Iterator[tuple[int, int, Unload]]:
    """Run LlamaStash over a folder of models: its port, its pid, and how a model is unloaded.

    With ``arguments`` for llama-server, its models are started with them, and then again whenever
    a request needs one: it remembers the last ones.
    """
    folder.mkdir(parents=True)
    port, first = free_port(), free_port()
    nothing = {"enabled": False}
    config = {
        "model_paths": [str(models_dir)],
        "disable_default_cache_paths": {"huggingface": True, "ollama": True, "lm_studio": True},
        "gpu": {"enable_vulkan_probe": False},
        "daemon": {"port_range": {"start": first, "end": min(first + 50, 65535)}},
        "proxy": {"port": port, "fallback_enabled": False},
        "backend": {
            "llamacpp": {"servers": [{"binary": str(server)}]},
            "lemonade": nothing,
            "ds4": nothing,
            "vllm": nothing,
        },
    }
    (folder / "config.yaml").write_text(json.dumps(config))
    environ = {name: value for name, value in os.environ.items() if "LLAMASTASH" not in name}
    environ["HOME"] = str(folder)
    environ |= {f"LLAMASTASH_{name}_DIR": str(folder) for name in ("CONFIG", "STATE", "CACHE")}

    def call(*words: str) -> None:
        command = [str(program), "--no-spawn", *words]
        done = subprocess.run(
            command, env=environ, capture_output=True, text=True, timeout=120, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{command} failed: {done.stdout}{done.stderr}")

    def unload(model: str) -> None:
        call("stop", model)

    command = [str(program), "daemon", "start", "--foreground"]
    with running(command, environ=environ, log=folder / "stderr", quiet=True) as process:
        wait_listening(port)
        _wait_for(folder / "runtime.json")
        if arguments:
            mode = "embedding" if "--embedding" in arguments else "chat"
            for path in models_dir.glob("*.gguf"):
                call("start", path.stem, "--wait", "--mode", mode, "--", *arguments)
        try:
            yield port, process.pid, unload
        finally:
            with contextlib.suppress(RuntimeError):
                call("stop", "--all", "--yes")


def _wait_for(path: Path) -> None:
    """Wait until LlamaStash has written how its other commands reach it."""
    deadline = time.monotonic() + START_LIMIT
    while not path.exists():
        if time.monotonic() > deadline:
            raise RuntimeError(f"there is no {path}")
        time.sleep(0.01)
