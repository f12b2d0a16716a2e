"""Measures how the service grows with models, requests in flight, log lines and history."""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx

from benchmarks import exchange, llama_servers, load, peers, programs
from benchmarks.source import ANSWER_PART
from benchmarks.streams import source_stream
from benchmarks.table import OURS, ROUTER, STASH, Row
from benchmarks.targets import ROOT, Ground, source_script, source_service
from cyber_inference_tui.gguf.reader import read_header
from cyber_inference_tui.service.history_file import open_history

MODELS = (1, 10, 100, 1000)
IN_FLIGHT = (0, 1, 8, 64, 512)
LINES = (0, 1_000, 10_000, 50_000)
ROWS = (0, 1_000, 100_000, 1_000_000)
SCANNED = 10_000
LIST_LIMIT = 60.0
REQUESTS = 4000
CLIENTS = 8
LINE_SECONDS = 5.0

HOP_REQUESTS = 1000

_NO_HOP, _HOP = "asked directly", "over one hop"
_ASKED = exchange.request("/v1/embeddings", {"model": "source", "input": "hello"}, ANSWER_PART)


def hop(ground: Ground, model: Path, rounds: int) -> list[Row]:
    """Measure what the hop to another box adds: one box asks a second one that has the model."""
    folder = ground.own("hop")
    stream = source_stream(1, 0)
    found: dict[str, dict[str, list[float]]] = {}

    def note(what: str, seconds: dict[str, list[float]]) -> None:
        for said, at in (("p50", 0.5), ("p99", 0.99)):
            cut = {name: sorted(all_)[int(len(all_) * at)] * 1e3 for name, all_ in seconds.items()}
            values = found.setdefault(f"{what}: {said}", {})
            for name, value in cut.items():
                values.setdefault(name, []).append(value)
            more = found.setdefault(f"{what}: added {said}", {_HOP: []})
            more[_HOP].append(cut[_HOP] - cut[_NO_HOP])

    with (
        programs.service(folder / "here", {}, {}) as here,
        source_service(folder / "there", source_script(ground, folder)) as there,
    ):
        here.pair(there)
        ports = {_NO_HOP: there.port, _HOP: here.port}
        asked = {name: (port, stream) for name, port in ports.items()}
        for _ in range(rounds):
            seconds: dict[str, list[float]] = {name: [] for name in ports}
            for part in range(20):
                for name in random.sample(list(ports), len(ports)):
                    taken = load.run(load.requests(ports[name], _ASKED, HOP_REQUESTS // 20, 1))
                    seconds[name] += taken if part else []
            note("small request", seconds)
            note("first byte of a stream", load.run(load.first_bytes(asked, HOP_REQUESTS, 0.001)))
    return [Row("one hop", what, "ms", values) for what, values in found.items()]


def scan(ground: Ground, model: Path, rounds: int) -> list[Row]:
    """Measure how long each program that looks for models takes to list 10,000 files.

    One that does not do so in a minute is left out.
    """
    folder = ground.own("scan")
    files = folder / "models"
    files.mkdir()
    _write_copies(model, files)
    found: dict[str, dict[str, list[float]]] = {"time": {}, "CPU": {}}

    def service(folder: Path) -> tuple[float, float]:
        config = {"models_dir": str(files), "llama_server_path": str(ground.llama_server)}
        began = time.perf_counter()
        with programs.service(folder, config, {}) as running:
            return _listed(running.port, running.pid, began)

    def stash(folder: Path) -> tuple[float, float]:
        assert ground.llamastash is not None
        began = time.perf_counter()
        with peers.llamastash(ground.llamastash, folder, ground.llama_server, files) as running:
            return _listed(*running[:2], began)

    def router(folder: Path) -> tuple[float, float]:
        began = time.perf_counter()
        with llama_servers.router(folder, ground.llama_server, files) as running:
            return _listed(*running, began)

    actions = {OURS: service, ROUTER: router} | ({STASH: stash} if ground.llamastash else {})
    for number in range(rounds):
        for name, action in actions.items():
            try:
                seconds, cpu = action(folder / f"{name}{number}")
            except TimeoutError as error:
                print(f"{name}: {error}", file=sys.stderr)
                continue
            found["time"].setdefault(name, []).append(seconds)
            found["CPU"].setdefault(name, []).append(cpu)
    return [
        Row(
            f"scan of {SCANNED:,} models",
            f"from start to a list of all, {what}",
            "s",
            values,
            charted=what == "time",
        )
        for what, values in found.items()
    ]


def _write_copies(model: Path, folder: Path) -> None:
    """Write files that have the header of a model, and a hole in the place of its tensors."""
    size = model.stat().st_size
    with model.open("rb") as file:
        header = file.read(size - read_header(model).tensors.size)
    for number in range(SCANNED):
        with (folder / f"model-{number:05}.gguf").open("wb") as file:
            file.write(header)
            file.truncate(size)


def _listed(port: int, pid: int, began: float) -> tuple[float, float]:
    """Wait until all are listed; the seconds and the processor time until then."""
    deadline = time.monotonic() + LIST_LIMIT
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as client:
        while True:
            cpu, now = programs.cpu_seconds([pid]), time.perf_counter()
            answer = client.get("/v1/models")
            if answer.status_code == 200 and len(answer.json()["data"]) >= SCANNED:
                return now - began, cpu
            if time.monotonic() > deadline:
                raise TimeoutError(f"not all of {SCANNED} models are listed in time")
            time.sleep(0.2)


def models(ground: Ground, rounds: int) -> list[Row]:
    """Known models."""
    folder = ground.own("growth")
    script = source_script(ground, folder)
    costs: dict[str, list[float]] = {}
    memory: dict[str, list[float]] = {}
    for count in MODELS:
        with source_service(folder / f"models{count}", script, more=count - 1) as service:
            costs[f"{count:,}"] = [_small(service) for _ in range(rounds)]
            memory[f"{count:,}"] = [programs.resident_bytes([service.pid]) / 2**20]
    return [
        Row("models", f"small request, {CLIENTS} clients: CPU", "µs", costs),
        Row("models", "RSS", "MiB", memory),
    ]


def in_flight(ground: Ground, rounds: int) -> list[Row]:
    """Streams that are open and silent, while small requests come."""
    folder = ground.own("growth")
    costs: dict[str, list[float]] = {}
    with source_service(folder / "flight", source_script(ground, folder)) as service:

        async def measure(count: int) -> float:
            asked = source_stream(2, 600_000)
            async with load.open_streams(service.port, asked, count, 0.001):
                await asyncio.sleep(count * 0.001 + 1)
                before = programs.cpu_seconds([service.pid])
                await load.requests(service.port, _ASKED, REQUESTS, CLIENTS)
                return (programs.cpu_seconds([service.pid]) - before) / REQUESTS * 1e6

        for count in IN_FLIGHT:
            costs[str(count)] = [load.run(measure(count)) for _ in range(rounds)]
    return [Row("requests in flight", f"small request, {CLIENTS} clients: CPU", "µs", costs)]


def log_lines(ground: Ground, rounds: int) -> list[Row]:
    """Lines that a model logs each second."""
    folder = ground.own("growth")
    writer = [sys.executable, "-m", "benchmarks.logs", "--port", "{port}"]
    tables = {
        "source": {"command": [str(source_script(ground, folder)), "--port", "{port}"]},
        "writer": {"command": writer, "env": {"PYTHONPATH": str(ROOT)}},
    }
    shares: dict[str, list[float]] = {}
    read: dict[str, list[float]] = {}
    waits: dict[str, dict[str, list[float]]] = {"p50": {}, "p99": {}}
    with programs.service(folder / "lines", {"models": tables}, {}) as service:
        for name in tables:
            service.load(name)
        for rate in LINES:
            for _ in range(rounds):
                if rate:
                    count = round(rate * (LINE_SECONDS + 1))
                    service.post(f"/upstream/writer/?lines={count}&rate={rate}")
                before, first = programs.cpu_seconds([service.pid]), _lines_read(service)
                began = time.perf_counter()
                seconds = load.run(_for_seconds(service.port, LINE_SECONDS))
                took = time.perf_counter() - began
                share = (programs.cpu_seconds([service.pid]) - before) / took * 100
                shares.setdefault(f"{rate:,}", []).append(share)
                read.setdefault(f"{rate:,}", []).append((_lines_read(service) - first) / took)
                cuts = statistics.quantiles(seconds, n=100)
                for what, at in (("p50", 49), ("p99", 98)):
                    waits[what].setdefault(f"{rate:,}", []).append(cuts[at] * 1e3)
                time.sleep(1.5)  # until the lines have ended
    return [
        Row("log lines/s", "read each second", "lines", read, less_is_better=False),
        Row("log lines/s", "CPU, with 100 small requests/s", "% of a core", shares),
        *(Row("log lines/s", f"small request {p}", "ms", found) for p, found in waits.items()),
    ]


def _lines_read(service: programs.Service) -> int:
    logs = httpx.get(f"{service.url}/admin/logs", trust_env=False, timeout=60).json()
    return next(int(log["end"]) for log in logs if log["id"] == "writer")


async def _for_seconds(port: int, seconds: float) -> list[float]:
    """Ask a hundred times a second."""
    connection = load.Connection(port)
    taken = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        taken.append((await connection.ask(_ASKED))[1])
        await asyncio.sleep(0.01)
    connection.close()
    return taken


def history(ground: Ground, rounds: int) -> list[Row]:
    """Requests in the history when the service starts."""
    folder = ground.own("growth")
    script = source_script(ground, folder)
    costs: dict[str, list[float]] = {}
    lists: dict[str, list[float]] = {}
    memory: dict[str, list[float]] = {}
    for count in ROWS:
        own = folder / f"history{count}"
        _write_history(own / "data" / "history.sqlite3", count)
        with source_service(own, script) as service:
            name = f"{count:,}"
            costs[name] = [_small(service) for _ in range(rounds)]
            asked = exchange.request("/admin/requests?limit=100", expected=b"tokens_out")
            seconds = load.run(load.requests(service.port, asked, 30, 1))
            lists[name] = [statistics.median(seconds) * 1e3]
            memory[name] = [programs.resident_bytes([service.pid]) / 2**20]
    return [
        Row("requests in the history", f"small request, {CLIENTS} clients: CPU", "µs", costs),
        Row("requests in the history", "list of the last 100: p50", "ms", lists),
        Row("requests in the history", "RSS", "MiB", memory),
    ]


def _write_history(path: Path, rows: int) -> None:
    path.parent.mkdir(parents=True)
    now = datetime.now(UTC)
    connection = open_history(path, now=now)
    first = int(now.timestamp() * 1e6) - rows * 1_000_000
    connection.execute("BEGIN")
    connection.executemany(
        "INSERT INTO requests (at, model, path, status, stream, tokens_in, tokens_out,"
        " queue_seconds, duration_seconds) VALUES (?, 'm', '/v1/embeddings', 200, 0, 9, 9, 0, 1)",
        ((first + number * 1_000_000,) for number in range(rows)),
    )
    connection.execute("COMMIT")
    connection.close()


def _small(service: programs.Service) -> float:
    """Return the microseconds of processor time that a small request takes."""
    load.run(load.requests(service.port, _ASKED, CLIENTS * 20, CLIENTS))
    before = programs.cpu_seconds([service.pid])
    load.run(load.requests(service.port, _ASKED, REQUESTS, CLIENTS))
    return (programs.cpu_seconds([service.pid]) - before) / REQUESTS * 1e6
