"""The programs that are compared, each started in a folder of its own and ended for sure."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import psutil
import tomli_w

START_LIMIT = 60.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def cpu_seconds(pids: list[int]) -> float:
    """Return the processor time of these processes so far, to the nanosecond.

    It includes threads that have ended (a router has a thread per request), but no child process.
    """
    # The kernel's number for the clock of another process: see CPUCLOCK_SCHED in posix-timers.h.
    return sum(time.clock_gettime_ns((~pid << 3) | 2) for pid in pids) / 1e9


def resident_bytes(pids: list[int]) -> int:
    return sum(psutil.Process(pid).memory_info().rss for pid in pids)


def wait_listening(port: int) -> None:
    deadline = time.monotonic() + START_LIMIT
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


@contextlib.contextmanager
def running(
    command: list[str],
    *,
    environ: Mapping[str, str] | None = None,
    log: Path | None = None,
    folder: Path | None = None,
    quiet: bool = False,
) -> Iterator[subprocess.Popen[bytes]]:
    """A program, run in ``folder``, ended by SIGTERM and, when that does not do, SIGKILL.

    Its stdout is a pipe, for ``line_of``, unless it is to be ``quiet``.
    """
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(log.open("ab")) if log else subprocess.DEVNULL
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=dict(environ) if environ is not None else None,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if quiet else subprocess.PIPE,
            stderr=output,
        )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()


def line_of(process: subprocess.Popen[bytes], part: bytes) -> str:
    """The next line of its stdout that contains ``part``."""
    assert process.stdout is not None
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline:
        if not select.select([process.stdout], [], [], 1)[0]:
            continue
        line = process.stdout.readline()
        if part in line:
            return line.decode().strip()
        if not line:
            raise RuntimeError(f"{process.args!r} ended with {process.wait()}")
    raise RuntimeError("no such line in time")


@contextlib.contextmanager
def source() -> Iterator[int]:
    """The fast event source; its port."""
    with running([sys.executable, "-m", "benchmarks.source"]) as process:
        yield int(line_of(process, b"listening").split()[-1])


_NGINX = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_requests 1000000;
  upstream models {{ server 127.0.0.1:{upstream}; keepalive 64; keepalive_timeout 4s; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://models;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      proxy_request_buffering off;
      proxy_read_timeout 600s;
    }}
  }}
}}
"""


@contextlib.contextmanager
def nginx(folder: Path, upstream: int) -> Iterator[tuple[int, list[int]]]:
    """nginx before ``upstream``; its port and its worker's pid."""
    program = shutil.which("nginx")
    if program is None:
        raise SystemExit("nginx is not on PATH: install it (any nginx package will do)")
    folder.mkdir(parents=True)
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(_NGINX.format(folder=folder, upstream=upstream, port=port))
    with running([program, "-p", str(folder), "-c", str(config)]) as process:
        wait_listening(port)
        yield port, [_only_child(process.pid)]


def _only_child(pid: int) -> int:
    """Wait for the worker: the port is open before the process that serves it exists."""
    deadline = time.monotonic() + START_LIMIT
    while not (children := psutil.Process(pid).children()):
        if time.monotonic() > deadline:
            raise RuntimeError("nginx has no worker")
        time.sleep(0.01)
    return children[0].pid


class Service:
    """A running service."""

    def __init__(self, pid: int, url: str, data_dir: Path) -> None:
        self.pid = pid
        self.url = url
        self.data_dir = data_dir
        self.port = int(url.rpartition(":")[2])

    def post(self, path: str, body: Mapping[str, str] = {}) -> dict[str, Any]:
        token = json.loads((self.data_dir / "service.json").read_text())["token"]
        answer = httpx.post(
            f"{self.url}{path}",
            json=body,
            headers={"Authorization": f"Bearer {token}"},
            timeout=120,
            trust_env=False,
        )
        answer.raise_for_status()
        record: dict[str, Any] = answer.json()
        return record

    def pair(self, there: Service) -> None:
        """Pair with another service, and wait until its models are known here."""
        code = {"code": "482913"}
        there.post("/admin/pairing", code)
        self.post("/admin/peers", {"url": there.url, **code})
        deadline = time.monotonic() + START_LIMIT
        while not httpx.get(f"{self.url}/v1/models", trust_env=False).json()["data"]:
            if time.monotonic() > deadline:
                raise RuntimeError("the other service's models did not come")
            time.sleep(0.05)

    def load(self, model: str) -> dict[str, Any]:
        return self.post(f"/admin/models/{model}/load")

    def unload(self, model: str) -> dict[str, Any]:
        return self.post(f"/admin/models/{model}/unload")


@contextlib.contextmanager
def service(
    folder: Path,
    config: Mapping[str, Any],
    models: Mapping[str, Path],
    checkout: Path | None = None,
) -> Iterator[Service]:
    """The service with these settings and models (ids and files), of this or another checkout."""
    folder.mkdir(parents=True, exist_ok=True)
    tables: dict[str, dict[str, Any]] = {
        model_id: {"path": str(path)} for model_id, path in models.items()
    }
    tables.update(config.get("models", {}))
    path = folder / "config.toml"
    path.write_text(
        tomli_w.dumps({"llama_server_base_port": 0, "discover": False, **config, "models": tables})
    )
    command = [sys.executable, "-m", "cyber_inference_tui", "--no-ui", "--port", "0"]
    command += ["--config", str(path), "--data-dir", str(folder / "data")]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("CYBER_")}
    with running(command, environ=environ, log=folder / "stderr", folder=checkout) as process:
        yield Service(process.pid, line_of(process, b"listening on").split()[-1], folder / "data")
