"""Real child processes for the tests of this package: started, watched, and never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import sys
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import psutil
import uvloop

from cyber_inference_tui.llama.http_get import ServerAddress
from cyber_inference_tui.llama.launch_plan import LaunchPlan
from cyber_inference_tui.llama.log import Log
from cyber_inference_tui.llama.prompts import ServerPrompts
from cyber_inference_tui.llama.server import ServerProcess
from tests.waiting import LIMIT, is_alive

T = TypeVar("T")
Run = Callable[[Coroutine[Any, Any, Any]], Any]

HOST = "127.0.0.1"
STATE = "cmd_child_to_router:state:"
ENVIRONMENT = {"PATH": os.defpath}
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


def runner_on(kind: str) -> Run:
    """Return a function that runs a coroutine on this kind of loop; messages of the loop fail."""

    def run(work: Coroutine[Any, Any, T]) -> T:
        problems: list[dict[str, Any]] = []
        with asyncio.Runner(loop_factory=LOOPS[kind]) as runner:
            runner.get_loop().set_exception_handler(lambda _, context: problems.append(context))
            result = runner.run(work)
        assert not problems, problems
        return result

    return run


def wait_gone(pid: int, seconds: float = LIMIT) -> bool:
    """Return whether a process (not necessarily our child) ends within ``seconds``."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)


def named(folder: Path) -> list[psutil.Process]:
    """Return the processes that have a folder in their command line."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if str(folder) in " ".join(process.cmdline()) and is_alive(process):
                found.append(process)
    return found


class Child:
    """A ``ServerProcess`` with its output."""

    def __init__(self) -> None:
        self.log = Log(now=lambda: datetime.now(UTC))
        self.progress: list[float | None] = []
        self.server: ServerProcess
        self._new_lines = asyncio.Event()
        self.log.listeners.append(lambda _: self._new_lines.set())

    @property
    def lines(self) -> list[str]:
        """Return its output so far."""
        return [line.text for line in self.log.tail(10**6)]

    async def line_after(self, beginning: str) -> str:
        """Wait for a line with this beginning; return the rest of it."""
        async with asyncio.timeout(LIMIT):
            while True:
                for line in self.lines:
                    if line.startswith(beginning):
                        return line[len(beginning) :].strip()
                self._new_lines.clear()
                await self._new_lines.wait()


async def spawn(
    *argv: str,
    port: int = 1,
    protocol: bool = True,
    environment: Mapping[str, str] = ENVIRONMENT,
    prompts: ServerPrompts | None = None,
) -> Child:
    """Start a program as a server."""
    child = Child()
    launch = LaunchPlan(
        name="m",
        argv=argv,
        environment=environment,
        address=ServerAddress(HOST, port, "server-key"),
        speaks_protocol=protocol,
        prompts=prompts,
    )
    child.server = await ServerProcess.spawn(launch, log=child.log, progress=child.progress.append)
    return child


async def spawn_shell(script: str, *, protocol: bool = True) -> Child:
    """Start a shell script as a server."""
    return await spawn("/bin/sh", "-c", script, protocol=protocol)


async def spawn_python(script: str, *, port: int = 1, protocol: bool = True) -> Child:
    """Start a Python script as a server."""
    return await spawn(sys.executable, "-I", "-S", "-c", script, port=port, protocol=protocol)
