"""Another program takes a server's port: before the server binds it, or after its release."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cyber_inference_tui.errors import ModelLoadError
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.llama.binary import LlamaBinary
from cyber_inference_tui.llama.health import HealthLimits
from cyber_inference_tui.llama.log import Log
from cyber_inference_tui.settings.schema import ModelSettings
from tests.llama.children import HOST
from tests.llama.test_launcher import Room, ended, get
from tests.waiting import LIMIT, is_alive

# It never counts as hung: servers end here because another program has their port.
PATIENT = HealthLimits(interval=0.05, timeout=1.0, strikes=10**6)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
CHILD = """
import os, signal, socket, sys, threading
folder, slow_starts, words = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
port = int(words[words.index("--port") + 1])
number = len(os.listdir(folder))
open(os.path.join(folder, str(number)), "w").close()
signal.signal(signal.SIGTERM, lambda *_: print("asked to end", flush=True))
def report(state):
    if "LLAMA_SERVER_ROUTER_PORT" in os.environ:
        print('cmd_child_to_router:state:{"state":"' + state + '"}', flush=True)
if number < slow_starts:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    report("loading")
    print("not yet at", port, "by", os.getpid(), flush=True)
    if "LLAMA_SERVER_ROUTER_PORT" in os.environ:
        signal.sigwait({signal.SIGUSR1})
        report("ready")
else:
    listener = socket.create_server(("127.0.0.1", port))
    report("loading")
    print("listening at", port, flush=True)
    report("ready")
    while True:
        connection, _ = listener.accept()
        request = connection.recv(1000)
        connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\n\\r\\n")
        connection.close()
        if request.startswith(b"GET /leave "):
            break
    listener.close()
    print("left", port, flush=True)
while True:
    signal.pause()
"""


class Starts:
    """A model whose server is a script, with its output and the ports of its starts."""

    def __init__(
        self, folder: Path, *, by_command: bool, slow: int, protocol: bool = False
    ) -> None:
        script = folder / "child.py"
        script.write_text(CHILD)
        self.folder = folder / "starts"
        self.folder.mkdir()
        words = (sys.executable, "-I", "-S", str(script), str(self.folder), str(slow))
        self.room = Room(folder, self._binary, health=PATIENT)
        self._program = folder / "llama-server"
        self._program.write_text(f'#!/bin/sh\nexec {" ".join(words)} "$@"\n')
        self._program.chmod(0o755)
        command = (*words, "--port", "{port}") if by_command else ()
        self._protocol = protocol
        own = ModelSettings(command=command)
        self.model = LocalModel(id="m", path=folder / "m.gguf", settings=own)
        self._new_lines = asyncio.Event()
        self._read = 0
        self.log.listeners.append(lambda _: self._new_lines.set())

    def _binary(self) -> LlamaBinary:
        return LlamaBinary(path=self._program, version="script", router_child=self._protocol)

    @property
    def log(self) -> Log:
        return self.room.log_for("m")

    @property
    def count(self) -> int:
        return len(list(self.folder.iterdir()))

    async def not_yet(self) -> tuple[int, int]:
        """Return the port and the pid of the next start that does not listen."""
        port, _, pid = (await self.wait_for("not yet at ")).split()
        return int(port), int(pid)

    async def wait_for(self, beginning: str) -> str:
        """Return the rest of the next line with this beginning."""
        async with asyncio.timeout(LIMIT):
            while True:
                lines = [line.text for line in self.log.tail(10**6)][self._read :]
                for number, line in enumerate(lines):
                    if line.startswith(beginning):
                        self._read += number + 1
                        return line.removeprefix(beginning).strip()
                self._new_lines.clear()
                await self._new_lines.wait()


class Foreign:
    """A program (this one) that answers on a server's port."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.asked: list[bytes] = []

    @asynccontextmanager
    async def at(self, port: int) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._serve, HOST, port)
        yield
        server.close()
        await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append(await reader.readline())
        writer.write(self.answer)
        writer.close()


@pytest.fixture(params=[False, True], ids=["llama-server", "command"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[int], Starts]:
    """Makes a model whose first starts never listen."""
    return lambda slow: Starts(tmp_path, by_command=request.param, slow=slow)


Make = Callable[[int], Starts]


@pytest.mark.parametrize("status", [b"404 Not Found", b"200 OK", b"503 Busy", b"what?"])
async def test_a_program_that_is_faster_gets_no_prompts(make: Make, status: bytes) -> None:
    starts, foreign = make(1), Foreign(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")
    launch = asyncio.ensure_future(starts.room.launch(starts.model, stop_timeout=0.2))
    port, _ = await starts.not_yet()
    async with foreign.at(port), asyncio.timeout(LIMIT):
        server = await launch
        assert server.address.port != port
        assert starts.count == 2
        assert {line.split(b" ")[1] for line in foreign.asked} == {b"/health"}
        assert (await get(server.address, "/v1/models")).startswith(b"HTTP/1.1 200")
        await server.stop(0.2)
    assert starts.room.recorded() == []


async def test_a_report_of_readiness_does_not_make_up_for_the_port(tmp_path: Path) -> None:
    starts, foreign = Starts(tmp_path, by_command=False, slow=1, protocol=True), Foreign(OK)
    launch = asyncio.ensure_future(starts.room.launch(starts.model, stop_timeout=0.2))
    port, pid = await starts.not_yet()
    async with foreign.at(port), asyncio.timeout(LIMIT):
        os.kill(pid, signal.SIGUSR1)
        server = await launch
        assert server.address.port != port
        assert starts.count == 2
        assert foreign.asked == []
        await server.stop(0.2)
    assert starts.room.recorded() == []


async def test_ports_that_others_take_each_time_are_a_failed_load(make: Make) -> None:
    starts, foreign = make(9), Foreign(OK)
    launch = asyncio.ensure_future(starts.room.launch(starts.model, stop_timeout=0.2))
    first, _ = await starts.not_yet()
    async with foreign.at(first), foreign.at((await starts.not_yet())[0]):
        last, _ = await starts.not_yet()
        async with foreign.at(last), asyncio.timeout(LIMIT):
            with pytest.raises(ModelLoadError) as error:
                await launch
    message = f"m could not be loaded: its port {last} is taken by "
    assert error.value.message.startswith(message)
    assert error.value.message.endswith(f" (pid {os.getpid()}).")
    assert error.value.hint == "Set llama_server_base_port to a free range."
    assert starts.count == 3
    assert starts.room.recorded() == []


async def test_a_cancelled_load_does_not_go_on_at_another_port(make: Make) -> None:
    starts, foreign = make(9), Foreign(OK)
    launch = asyncio.ensure_future(starts.room.launch(starts.model, stop_timeout=0.5))
    async with foreign.at((await starts.not_yet())[0]):
        # It is being stopped, to try another port.
        await starts.wait_for("asked to end")
        launch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await launch
    assert starts.count == 1
    assert starts.room.recorded() == []


async def test_a_port_that_the_server_lets_go_of_is_not_the_next_programs(make: Make) -> None:
    starts, foreign = make(0), Foreign(OK)
    server = await starts.room.launch(starts.model)
    await get(server.address, "/leave")
    await starts.wait_for("left ")
    async with foreign.at(server.address.port):
        await ended(server)
    reason, _ = server.exit_reason()
    assert reason.startswith(f"its port {server.address.port} is taken by ")
    await server.stop(0)
    assert not is_alive(server.pid)
