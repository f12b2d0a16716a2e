"""llama.cpp's RPC worker: it lends this machine's memory to the llama-server of another box.

The program has no key and no TLS, and serves one llama-server at a time. So a worker is started
for one model, listens on loopback, and ends with the channel to the box that asked for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from cyber_inference_tui.llama.binary import WORKERS, LlamaBinary
from cyber_inference_tui.llama.command import child_environment
from cyber_inference_tui.llama.program import run_program
from cyber_inference_tui.llama.standstill import Look

OVERHEAD = 128 << 20
"""Bytes that a worker takes beside the parts of a model: its program and tensors on their way."""
_LOOK_INTERVAL = 2.0
_STOPPED_LOOKS = 2
_PROTOCOL = re.compile(rb"Starting RPC server v(\d+\.\d+\.\d+)")
_PROTOCOL_SECONDS = 10.0
_HOST = "127.0.0.1"


class WorkerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The worker of an installed build."""

    program: Path | None = None
    """``None`` = the build has none."""
    build: str = ""
    protocol: str = ""
    """The version of its RPC protocol, as it says itself; empty = it does not run."""
    gpus: int = 0


def worker_program(llama_server: Path) -> Path | None:
    """Return the worker of the same build; ``None`` = it has none."""
    # Debian's package llama.cpp-tools-extra has it in a folder of its own.
    apart = llama_server.parent.parent.glob(f"libexec/*/llama/bin/{WORKERS[0]}")
    places = [*(llama_server.with_name(name) for name in WORKERS), *sorted(apart)]
    return next((path for path in places if path.is_file()), None)


def worker_argv(program: Path, *, port: int, threads: int) -> list[str]:
    """Return the command line of a worker.

    Without ``-c``: its cache of tensors on the disk has no bound.
    """
    return [str(program), "-H", _HOST, "-p", str(port), "-t", str(threads)]


def examine_worker(binary: LlamaBinary, environ: Mapping[str, str]) -> WorkerFacts:
    """Return the facts of a build's worker, which is started for a moment. Blocks."""
    build = binary.version if binary.build is None else f"{binary.version} (build {binary.build})"
    facts = WorkerFacts(build=build, gpus=len(binary.devices or ()))
    program = worker_program(binary.path)
    if program is None:
        return facts
    with socket.create_server((_HOST, 0)) as probe:
        port = probe.getsockname()[1]
    output, seen = bytearray(), threading.Event()

    def take(data: bytes) -> None:
        output.extend(data)
        if _PROTOCOL.search(output):
            seen.set()

    with contextlib.suppress(OSError):
        run_program(
            worker_argv(program, port=port, threads=1),
            environ=child_environment(environ, binary.env),
            time_limit=_PROTOCOL_SECONDS,
            on_output=take,
            stop=seen,
        )
    found = _PROTOCOL.search(output)
    return msgspec.structs.replace(
        facts, program=program, protocol=found[1].decode() if found else ""
    )


async def watch_stopped(look: Callable[[], Look | None]) -> None:
    """Return when a process is stopped (SIGSTOP), as two looks in a row show.

    A llama-server that waits for its worker has no time limit, and answers ``/health`` meanwhile.
    """
    count = 0
    while count < _STOPPED_LOOKS:
        await asyncio.sleep(_LOOK_INTERVAL)
        seen = await asyncio.to_thread(look)
        # The first state is that of the process (``T`` and ``t`` in proc_pid_stat(5)).
        count = count + 1 if seen is not None and seen.states[:1] in {b"T", b"t"} else 0
