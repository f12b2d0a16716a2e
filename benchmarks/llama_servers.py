"""llama-servers without the service: started by hand, and in router mode."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil

from benchmarks.programs import START_LIMIT, free_port, running


@contextlib.contextmanager
def router(
    folder: Path, llama_server: Path, models_dir: Path, *more: str
) -> Iterator[tuple[int, int]]:
    """llama-server in router mode over a folder of models; its port and pid."""
    folder.mkdir(parents=True)
    port = free_port()
    command = [str(llama_server), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--models-dir", str(models_dir), *more]
    with running(command, log=folder / "stderr", quiet=True) as process:
        wait_healthy(port, process)
        yield port, process.pid


def router_unload(port: int) -> Callable[[str], None]:
    """Return what unloads a model of that router, and waits until it is."""

    def unload(model: str) -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            client.post("/models/unload", json={"model": model}).raise_for_status()
            deadline = time.monotonic() + START_LIMIT
            while any(
                entry["id"] == model and entry["status"]["value"] != "unloaded"
                for entry in client.get("/models").json()["data"]
            ):
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{model} is not unloaded in time")
                time.sleep(0.01)

    return unload


class ByHand:
    """A llama-server, as one would start it by hand."""

    def __init__(self, command: list[str], environ: dict[str, str]) -> None:
        self._command = command
        self._environ = environ

    @classmethod
    def like(cls, pid: int) -> ByHand:
        """Return the same command line as that of a server which the service started."""
        server = psutil.Process(pid)
        command, environ = server.cmdline(), server.environ()
        environ.pop("LLAMA_SERVER_ROUTER_PORT", None)
        if "--verbosity" in command:  # the service's own wish: it reads what a load allocates
            at = command.index("--verbosity")
            del command[at : at + 2]
        return cls(command, environ)

    def command_for(self, port: str) -> list[str]:
        """Return the command line with another port."""
        command = list(self._command)
        command[command.index("--port") + 1] = port
        return command

    @property
    def options(self) -> list[str]:
        """Return what a program that starts servers itself may be given: all but what it owns."""
        words = iter(self._command[1:])
        kept = []
        for word in words:
            if word in {"--host", "--port", "--alias", "--model"}:
                next(words)
            else:
                kept.append(word)
        return kept

    @contextlib.contextmanager
    def started(self) -> Iterator[int]:
        """Start it, wait until it is ready, and end it; its port."""
        port = free_port()
        with running(self.command_for(str(port)), environ=self._environ, quiet=True) as process:
            wait_healthy(port, process)
            yield port


def wait_healthy(port: int, process: subprocess.Popen[bytes]) -> None:
    """Ask a llama-server every 2 ms until it is ready.

    As cheaply as can be: an HTTP library would take the processor from the load it waits for.
    """
    deadline = time.monotonic() + START_LIMIT
    while not _is_healthy(port):
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"{process.args!r} is not ready in time")
        time.sleep(0.002)


def _is_healthy(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(
                b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            )
            return connection.recv(64).startswith(b"HTTP/1.1 200")
    except OSError:
        return False
