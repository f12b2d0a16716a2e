"""The measurements. Each gives rows of a table; all that a row compares is taken in one run."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from benchmarks import load, programs

Row = tuple[str, str, str, str]
"""What, how much, against what it is compared, the ratio."""

STREAM_COUNTS = (1, 16)
TOKENS = 4


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.3f} ms" if seconds < 0.1 else f"{seconds * 1000:.0f} ms"


def _chat(model: str, *, stream: bool = True, tokens: int = TOKENS) -> bytes:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": tokens,
        "stream": stream,
        "temperature": 0,
        "ignore_eos": True,
    }
    return load.request_bytes("/v1/chat/completions", body)


async def _first_token(port: int, request: bytes, began: float) -> float:
    connection = load.Connection("127.0.0.1", port)
    asked = time.perf_counter()
    status, first, _, _ = await connection.ask(request)
    connection.close()
    if status != 200:
        raise RuntimeError(f"status {status}")
    return asked - began + first


def _healthy(port: int) -> bool:
    # As cheap as can be: an HTTP library would take the processor from the load it waits for.
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(
                b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            )
            return connection.recv(64).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def cold_first_token(folder: Path, llama_server: Path, models_dir: Path, rounds: int) -> list[Row]:
    """From nothing to the first token: by hand, through the service, through the router.

    By hand is the very command line that the service uses, its ``/health`` asked every 2 ms.
    """
    model = models_dir / "big.gguf"
    size = model.stat().st_size
    with model.open("rb") as file:  # warm: the page cache holds it
        while file.read(1 << 24):
            pass
    config = {"llama_server_path": str(llama_server), "llama_threads": 0}
    by_hand: list[float] = []
    by_service: list[float] = []
    by_router: list[float] = []
    request = _chat("big")
    with programs.service(folder / "cold", config, {"big": model}) as service:
        record = service.load("big")
        process = psutil.Process(record["pid"])
        command, environ = process.cmdline(), process.environ()
        service.unload("big")
        environ.pop("LLAMA_SERVER_ROUTER_PORT", None)
        for _ in range(rounds):
            by_hand.append(_hand_round(command, environ, request))
            began = time.perf_counter()
            by_service.append(asyncio.run(_first_token(service.port, request, began)))
            service.unload("big")
            with programs.router(folder / f"router{len(by_router)}", llama_server, models_dir) as (
                port,
                _,
            ):
                while not _healthy(port):
                    time.sleep(0.01)
                began = time.perf_counter()
                by_router.append(asyncio.run(_first_token(port, request, began)))
    hand, ours, theirs = map(statistics.median, (by_hand, by_service, by_router))
    what = f"cold first token, {size / 1e6:.0f} MB, median of {rounds}"
    return [
        (f"{what}: llama-server by hand", _milliseconds(hand), "", "1.00"),
        (f"{what}: this service", _milliseconds(ours), "by hand", f"{ours / hand:.2f}"),
        (
            f"{what}: llama-server's router",
            _milliseconds(theirs),
            "by hand",
            f"{theirs / hand:.2f}",
        ),
    ]


def _hand_round(command: list[str], environ: dict[str, str], request: bytes) -> float:
    port = programs.free_port()
    own = list(command)
    own[own.index("--port") + 1] = str(port)
    began = time.perf_counter()
    with subprocess.Popen(
        own,
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            while not _healthy(port):
                if process.poll() is not None:
                    raise RuntimeError(f"{own} ended with {process.returncode}")
                time.sleep(0.002)
            return asyncio.run(_first_token(port, request, began))
        finally:
            process.terminate()
            process.wait(20)


def streamed_chunk(folder: Path, seconds: float) -> list[Row]:
    """Processor time per streamed chunk: the service and nginx before the same fast source."""
    interval = 3.0  # milliseconds between the chunks of one stream
    count = round(seconds * 1000 / interval)
    rows: list[Row] = []
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(programs.source())
        nginx_port, nginx_pids = stack.enter_context(programs.nginx(folder / "nginx", upstream))
        service = stack.enter_context(source_service(folder / "chunks"))
        body = {"model": "source", "messages": [], "stream": True}
        path = f"/v1/chat/completions?chunks={count}&interval={interval}"
        request = load.request_bytes(path, body)
        for streams in STREAM_COUNTS:
            costs: dict[str, list[float]] = {"nginx": [], "service": []}
            for _ in range(3):
                for name, port, pids in (
                    ("nginx", nginx_port, nginx_pids),
                    ("service", service.port, [service.pid]),
                ):
                    before = programs.cpu_seconds(pids)
                    asyncio.run(load.streams(port, request, streams))
                    spent = programs.cpu_seconds(pids) - before
                    costs[name].append(spent / (streams * count))
            nginx, ours = (statistics.median(costs[name]) for name in ("nginx", "service"))
            what = f"CPU per streamed chunk, {streams} streams at once"
            rows += [
                (f"{what}: nginx, proxy_buffering off", f"{nginx * 1e6:.1f} µs", "", "1.00"),
                (f"{what}: this service", f"{ours * 1e6:.1f} µs", "nginx", f"{ours / nginx:.2f}"),
            ]
    return rows


def real_chunk(folder: Path, llama_server: Path, models_dir: Path) -> list[Row]:
    """Processor time per chunk that a real llama-server streams: the service and the router."""
    tokens = 2000
    request = _chat("demo", tokens=tokens)
    config = {"llama_server_path": str(llama_server), "llama_threads": 1}
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(
            programs.service(folder / "real", config, {"demo": models_dir / "demo.gguf"})
        )
        port, pid = stack.enter_context(
            programs.router(folder / "router", llama_server, models_dir)
        )
        while not _healthy(port):
            time.sleep(0.01)
        costs = {}
        for name, at, owner in (("service", service.port, service.pid), ("router", port, pid)):
            asyncio.run(load.streams(at, _chat("demo"), 1))
            before = programs.cpu_seconds([owner])
            events = asyncio.run(load.streams(at, request, 4))
            costs[name] = (programs.cpu_seconds([owner]) - before) / events
    ours, theirs = costs["service"], costs["router"]
    what = "CPU per chunk of a real llama-server"
    return [
        (f"{what}: llama-server's router", f"{theirs * 1e6:.1f} µs", "", "1.00"),
        (f"{what}: this service", f"{ours * 1e6:.1f} µs", "router", f"{ours / theirs:.2f}"),
    ]


@contextlib.contextmanager
def source_service(folder: Path, checkout: Path | None = None) -> Iterator[programs.Service]:
    """The service of this or another checkout, with the fast source as its model, loaded."""
    root = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-m", "benchmarks.source", "--port", "{port}"]
    model = {"command": command, "env": {"PYTHONPATH": str(root)}}
    with programs.service(folder, {"models": {"source": model}}, {}, checkout) as service:
        service.load("source")
        yield service


def _percentile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100)[percent - 1]


def added_latency(folder: Path, rounds: int, pause: float) -> list[Row]:
    """What nginx and the service add to a small JSON request before the same fast source."""
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(programs.source())
        nginx_port, _ = stack.enter_context(programs.nginx(folder / "nginx2", upstream))
        service = stack.enter_context(source_service(folder / "latency"))
        request = load.request_bytes("/tokenize", {"model": "source", "content": "hello"})
        targets = {
            "direct": (upstream, request),
            "nginx": (nginx_port, request),
            "service": (service.port, request),
        }
        taken = asyncio.run(load.latencies(targets, rounds, pause))
    return _latency_rows("small JSON request, fast source", taken, "nginx")


def real_latency(
    folder: Path, llama_server: Path, models_dir: Path, rounds: int, pause: float
) -> list[Row]:
    """The same before a real llama-server (``/tokenize``), its own router mode among them."""
    config = {"llama_server_path": str(llama_server), "llama_threads": 1}
    demo = {"demo": models_dir / "demo.gguf"}
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(programs.service(folder / "tokenize", config, demo))
        upstream = service.load("demo")["port"]
        nginx_port, _ = stack.enter_context(programs.nginx(folder / "nginx3", upstream))
        port, _ = stack.enter_context(
            programs.router(folder / "router-l", llama_server, models_dir)
        )
        while not _healthy(port):
            time.sleep(0.01)
        asyncio.run(load.streams(port, _chat("demo"), 1))
        request = load.request_bytes("/tokenize", {"model": "demo", "content": "hello"})
        targets = {
            "direct": (upstream, request),
            "nginx": (nginx_port, request),
            "router": (port, request),
            "service": (service.port, request),
        }
        taken = asyncio.run(load.latencies(targets, rounds, pause))
    return _latency_rows("small JSON request, llama-server /tokenize", taken, "nginx")


def _latency_rows(what: str, taken: dict[str, list[float]], base: str) -> list[Row]:
    names = {
        "nginx": "added by nginx",
        "service": "added by this service",
        "router": "added by llama-server's router",
    }
    rows: list[Row] = []
    for percent in (50, 99):
        direct = _percentile(taken["direct"], percent)
        rows.append((f"{what}, p{percent}: direct", _milliseconds(direct), "", ""))
        against = _percentile(taken[base], percent) - direct
        for name, values in taken.items():
            if name == "direct":
                continue
            added = _percentile(values, percent) - direct
            ratio = f"{added / against:.2f}" if against > 0 else "-"
            rows.append((f"{what}, p{percent}: {names[name]}", _milliseconds(added), base, ratio))
    return rows


def at_rest(folder: Path, llama_server: Path, models_dir: Path, seconds: float) -> list[Row]:
    """Resident memory and idle processor time of the service alone with a model loaded."""
    config = {"llama_server_path": str(llama_server), "llama_threads": 1}
    demo = {"demo": models_dir / "demo.gguf"}
    with programs.service(folder / "rest", config, demo) as service:
        service.load("demo")
        asyncio.run(load.streams(service.port, _chat("demo", tokens=100), 4))
        time.sleep(2)
        before, began = programs.cpu_seconds([service.pid]), time.perf_counter()
        time.sleep(seconds)
        share = (programs.cpu_seconds([service.pid]) - before) / (time.perf_counter() - began)
        resident = programs.resident_bytes([service.pid])
    return [
        (
            "resident memory with a model loaded",
            f"{resident / 2**20:.1f} MiB",
            "60 MB",
            f"{resident / 60e6:.2f}",
        ),
        (
            f"idle CPU over {seconds:.0f} s",
            f"{share * 100:.2f} % of a core",
            "1 %",
            f"{share * 100:.2f}",
        ),
    ]


def table(rows: list[Row], note: Callable[[], str]) -> str:
    """The rows as a Markdown table."""
    lines = ["| measured | value | against | ratio |", "|---|---:|---|---:|"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, "", note()])
