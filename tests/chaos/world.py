"""The service under test with its models, and what the system says about its processes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil

from cyber_inference_tui.gguf.demo import write_demo
from tests.chaos.checks import Down, Seen, Usage, orphans
from tests.chaos.clients import DYING, EMBEDDER, FAKE, MODELS
from tests.fakes.launcher import SCRIPT
from tests.real.service_process import ServiceProcess, free_low_port, read_json
from tests.waiting import eventually

PORTS = 16
"""Neighbouring ports, of which the service's servers get the first that are free."""
_MEMINFO = "MemTotal: 16777216 kB\nMemFree: {0} kB\nMemAvailable: {0} kB\n"
_FREE, _FULL = 12 << 20, 64 << 10
_ENDS_LATE = 20.0
_FAKES: dict[str, dict[str, Any]] = {
    "fake": {},
    "fake-slow": {"load_seconds": 1.0},
    "fake-stubborn": {"ignore_sigterm": True, "ignore_stdin": True, "outlive_parent": 60.0},
    DYING: {"die": {"after": 0.2}},
}


class World:
    """One service in ``folder``; a path that no other process has in its environment."""

    def __init__(self, folder: Path, llama_server: Path) -> None:
        self.folder = folder
        self.downs: list[Down] = []
        self.base_port = free_low_port(PORTS)
        self.meminfo = folder / "machine" / "proc" / "meminfo"
        self.meminfo.parent.mkdir(parents=True)
        self.fill_memory(False)
        self.config = self._config(self._program(llama_server))
        self.service = ServiceProcess(folder, self.config)
        self.models_dir = self.service.data_dir / "models"
        self.models_dir.mkdir(parents=True)
        self.gguf = folder / "demo.gguf"
        write_demo(self.gguf)
        for model in MODELS:
            if model != "own":
                shutil.copyfile(self.gguf, self.models_dir / f"{model}.gguf")

    def _program(self, llama_server: Path) -> Path:
        """A llama-server that is the fake for models named so, and else the real one."""
        path = self.folder / "program" / "llama-server"
        path.parent.mkdir()
        path.write_text(
            "#!/bin/sh\n# cmd_child_to_router: cmd_router_to_child:exit\n"
            f'case "$*" in */fake*.gguf*) exec "{sys.executable}" -I -S "{SCRIPT}" "$@";; esac\n'
            f'exec "{llama_server}" "$@"\n'
        )
        path.chmod(0o755)
        return path

    def _config(self, program: Path) -> dict[str, Any]:
        tables: dict[str, Any] = {
            model: {"env": {"FAKE_LLAMA": json.dumps({**switches, "max_life": 3600})}}
            for model, switches in _FAKES.items()
        }
        tables[EMBEDDER] = {"args": ["--embedding", "--pooling", "mean"]}
        options = ["--host", "{host}", "--port", "{port}"]
        tables["own"] = {"command": [sys.executable, "-I", "-S", str(SCRIPT), *options]}
        return {
            "llama_server_path": str(program),
            "llama_server_base_port": self.base_port,
            "llama_threads": 1,
            "default_context_size": 512,
            "max_loaded_models": 4,
            "stop_timeout": 1,
            "shutdown_timeout": 8,
            "queue_timeout": 30,
            "load_timeout": 40,
            "system_root": str(self.meminfo.parents[1]),
            "models": tables,
        }

    # Its life

    def start(self) -> None:
        """Start the service."""
        self.service.start()

    @property
    def pid(self) -> int:
        """The service's process."""
        assert self.service.process is not None
        return self.service.process.pid

    @contextlib.contextmanager
    def away(self, *, killed: bool) -> Iterator[None]:
        """Note that the service cannot take new requests in the block."""
        began = time.monotonic()
        # It counts at once: whoever asks now may lose.
        self.downs.append(Down(began, float("inf"), killed))
        place = len(self.downs) - 1
        try:
            yield
        finally:
            self.downs[place] = Down(began, time.monotonic(), killed)

    @contextlib.contextmanager
    def restarted(self, *, killed: bool) -> Iterator[None]:
        """Start the service again after the block has ended it, and left no process of it."""
        with self.away(killed=killed):
            yield
            self.assert_no_process()
            self.start()

    def assert_no_process(self) -> None:
        """Wait until nothing of the service is left."""

        def gone() -> bool:
            return not self.marked()

        try:
            eventually(gone, limit=_ENDS_LATE, interval=0.05)
        except AssertionError:
            raise AssertionError(f"the service is gone; left: {self.marked()}") from None

    def end(self) -> None:
        """End the service and whatever it left."""
        process = self.service.process
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGTERM)
        try:
            code = self.service.wait()
            assert code == 0, f"it ended with {code} at the end"
            self.assert_no_process()
        finally:
            for pid in self.marked():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def marked(self) -> dict[int, str]:
        """The processes of this run, with their command lines."""
        return marked(self.service.data_dir)

    # What is

    def see(self) -> Seen:
        """Ask the service, and look at its servers."""
        models = list(self.service.models().values())
        status = read_json(self.service.port, "/admin/status")
        listening = {process.pid: _ports(process) for process in self.service.servers()}
        return Seen(models, status, listening, MODELS)

    def orphans(self) -> list[str]:
        """The processes of this run that are not below its service."""
        marked = self.marked()
        family = {self.pid, *(process.pid for process in self.service.note_children())}
        # A process that began between the two looks is in neither, or in the second alone.
        return orphans(marked, family)

    def usage(self) -> Usage:
        """What the service's own process holds."""
        process = psutil.Process(self.pid)
        return Usage(process.num_fds(), process.memory_info().rss)

    def log(self, count: int = 50) -> str:
        """The last lines that the service wrote."""
        return "\n".join(self.service.errors_path.read_text(errors="replace").split("\n")[-count:])

    # What faults need

    def fill_memory(self, full: bool) -> None:
        """Let the machine say that its memory is full, or free."""
        beside = self.meminfo.with_suffix(".new")
        beside.write_text(_MEMINFO.format(_FULL if full else _FREE))
        beside.replace(self.meminfo)

    def post(self, path: str, limit: float = 20.0) -> None:
        """Ask for something, whatever comes of it."""
        with contextlib.suppress(OSError, httpx.HTTPError), self.service.client() as client:
            client.post(path, json={}, timeout=limit)

    def load(self, model: str) -> None:
        """Begin to load a model."""
        self.post(f"/admin/models/{model}/load?wait=0")

    def unload_all(self) -> None:
        """Unload every model at once."""
        for model in MODELS:
            self.post(f"/admin/models/{model}/unload?force=1")

    def history(self) -> sqlite3.Connection:
        """Open its history as another program would."""
        return sqlite3.connect(self.service.data_dir / "history.sqlite3", timeout=0.5)


def marked(folder: Path) -> dict[int, str]:
    """The processes whose environment or command line names the folder, and their command lines."""
    mark = os.fsencode(folder)
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_bytes()
                if mark in command or mark in (entry / "environ").read_bytes():
                    found[int(entry.name)] = command.replace(b"\0", b" ").decode()[:200]
    return found


def _ports(process: psutil.Process) -> set[int]:
    try:
        connections = process.net_connections("tcp")
    except psutil.Error:
        return set()
    return {one.laddr.port for one in connections if one.status == psutil.CONN_LISTEN}


assert set(FAKE) | {DYING} == _FAKES.keys() | {"own"}
