"""A program that listens on a server's port before the server does."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from tests.real.conftest import StartReal
from tests.waiting import eventually

# It says its port, then waits until it may start the server proper.
SLOW = """
echo "$1" >> "$0/ports"
while [ ! -e "$0/go" ]; do sleep 0.05; done
exec "$2" --host 127.0.0.1 --port "$1" --model "$3" --alias own --ctx-size 512 --offline
"""


class Foreign(BaseHTTPRequestHandler):
    """Knows no path, and notes what it is asked for."""

    asked: ClassVar[list[str]]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_error(404)

    do_POST = do_GET  # noqa: N815 - the name that the handler looks for

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.mark.parametrize("model_id", ["own", "demo"])
@pytest.mark.real
def test_prompts_go_to_our_own_server_alone(
    start_real: StartReal, llama_server: Path, demo_gguf: Path, tmp_path: Path, model_id: str
) -> None:
    """Of a command, and of a llama-server that is slow to start."""
    words = ["/bin/sh", "-c", SLOW, str(tmp_path)]
    slow = tmp_path / "llama-server"
    slow.write_text(
        '#!/bin/sh\ncase "$1" in --version|--help|--list-devices) exec '
        f'"{llama_server}" "$@";; esac\n'
        f'echo "$4" >> "{tmp_path}/ports"\n'
        f'while [ ! -e "{tmp_path}/go" ]; do sleep 0.05; done\nexec "{llama_server}" "$@"\n'
    )
    slow.chmod(0o755)
    command = [*words, "{port}", str(llama_server), str(demo_gguf)]
    service = start_real({"llama_server_path": str(slow), "models": {"own": {"command": command}}})
    ports = tmp_path / "ports"

    def started() -> list[int]:
        return [int(line) for line in ports.read_text().split()] if ports.exists() else []

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(service.chat, model_id, "a secret prompt")
        port = eventually(started, what="the start of the server")[0]
        Foreign.asked = []
        with ThreadingHTTPServer(("127.0.0.1", port), Foreign) as foreign:
            threading.Thread(target=foreign.serve_forever, daemon=True).start()
            eventually(lambda: len(started()) == 2, what="a second start")
            (tmp_path / "go").touch()
            assert answer.result(60).status_code == 200
            assert set(Foreign.asked) <= {"/health"}
            foreign.shutdown()
    record = service.model(model_id)
    assert record["port"] == started()[1] != port
    assert record["error"] is None
