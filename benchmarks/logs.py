"""``python -m benchmarks.logs``: a model that writes 50,000 log lines a second, and who suffers.

A small admin request and a stream of another model, first at rest and then while the lines come:
percentiles and their ratios. Also what was taken of the lines, the service's processor time, its
memory with a full million of them, and how long it is searched. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import msgspec

from benchmarks import programs
from benchmarks.exchange import request_bytes

_TICK = 0.01
_CHUNK_INTERVAL = 3.0
_DISTINCT_LINES = 50_000


class Felt(msgspec.Struct, frozen=True):
    """What was felt meanwhile; seconds, one for each request and each chunk."""

    requests: list[float]
    gaps: list[float]


def made_lines() -> list[bytes]:
    """Lines as llama-server writes them in its work, 100 characters on average, all different."""
    chance = random.Random(1)
    kinds = (
        "slot update_slots: id {a} | task {b} | prompt processing progress, n_tokens = {c}, "
        "batch.n_tokens = {d}, progress = {x:.6f}",
        "slot print_timing: id {a} | task {b} | prompt eval time = {y:.2f} ms / {d} tokens ( "
        "{x:.2f} ms per token, {y:.2f} tokens per second)",
        "srv  log_server_r: done request: POST /v1/chat/completions 127.0.0.1 200",
        "slot launch_slot_: id {a} | task {b} | processing task, is_child = 0",
        "srv  update_slots: all slots are idle",
        "slot      release: id {a} | task {b} | stop processing: n_tokens = {c}, truncated = 0",
    )
    lines = []
    micros = 0
    for number in range(_DISTINCT_LINES):
        micros += chance.randrange(3_000)
        stamp = f"{micros // 60_000_000}.{micros // 1_000_000 % 60:02d}"
        stamp += f".{micros // 1_000 % 1_000:03d}.{micros % 1_000:03d}"
        text = kinds[number % len(kinds)].format(
            a=chance.randrange(4),
            b=chance.randrange(100_000),
            c=chance.randrange(10_000),
            d=chance.randrange(512),
            x=chance.random(),
            y=chance.random() * 999,
        )
        lines.append(f"{stamp} I {text}\n".encode())
    return lines


# The model that writes


def _write(lines: list[bytes], count: int, rate: int) -> None:
    """``count`` lines, ``rate`` a second; with 0 as fast as they are taken."""
    step = max(1, round(rate * _TICK)) if rate else 500
    due = time.monotonic()
    for at in range(0, count, step):
        chosen = [lines[number % len(lines)] for number in range(at, min(at + step, count))]
        data = memoryview(b"".join(chosen))
        while data:
            data = data[os.write(2, data) :]
        due += step / rate if rate else 0.0
        if rate and (left := due - time.monotonic()) > 0:
            time.sleep(left)


async def _serve_writer(port: int) -> None:
    lines = made_lines()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(head.split(b" ", 2)[1].decode()).query)
        if "lines" in query:
            arguments = (lines, int(query["lines"][0]), int(query["rate"][0]))
            threading.Thread(target=_write, args=arguments, daemon=True).start()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        await writer.drain()
        writer.close()

    await asyncio.start_server(answer, "127.0.0.1", port)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()


# The measurement


async def _ask(port: int, done: asyncio.Event) -> list[float]:
    """``GET /admin/status`` again and again until ``done``, some milliseconds apart."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    request = request_bytes("/admin/status")
    taken = []
    while not done.is_set():
        began = time.perf_counter()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        taken.append(time.perf_counter() - began)
        await asyncio.sleep(0.005)
    writer.close()
    return taken


async def _stream(port: int, seconds: float) -> list[float]:
    """Seconds between the chunks of a stream that has one each 3 ms."""
    chunks = round(seconds * 1000 / _CHUNK_INTERVAL)
    path = f"/v1/chat/completions?chunks={chunks}&interval={_CHUNK_INTERVAL}"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request_bytes(path, {"model": "source", "messages": [], "stream": True}))
    gaps = []
    last = 0.0
    while b"[DONE]" not in (data := await reader.read(65536)):
        if b"data:" in data:
            now = time.perf_counter()
            if last:
                gaps.append(now - last)
            last = now
    writer.close()
    return gaps


async def _felt(port: int, seconds: float) -> Felt:
    done = asyncio.Event()
    asking = asyncio.ensure_future(_ask(port, done))
    gaps = await _stream(port, seconds)
    done.set()
    return Felt(await asking, gaps)


def _log(client: httpx.Client) -> dict[str, Any]:
    logs: list[dict[str, Any]] = client.get("/admin/logs").json()
    return next(log for log in logs if log["id"] == "writer")


def _flood(client: httpx.Client, lines: int, rate: int) -> int:
    """Have the model write; the number that its log's next line has then."""
    before: int = _log(client)["end"]
    body = {"model": "writer", "messages": []}
    path = f"/v1/chat/completions?lines={lines}&rate={rate}"
    client.post(path, json=body).raise_for_status()
    return before + lines


def _wait(url: str, end: int) -> float:
    """Wait until all lines up to ``end`` were taken; the moment when they were."""
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        while _log(client)["end"] < end:
            time.sleep(0.1)
    return time.perf_counter()


def _search(url: str, stop: threading.Event) -> None:
    """Search the whole log again and again, in vain, until ``stop``."""
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        while not stop.is_set():
            client.get("/admin/log-lines/writer", params={"q": "nothing like this"})


def _row(what: str, felt: Felt, rest: Felt) -> list[tuple[str, str, str]]:
    rows = []
    for name in ("requests", "gaps"):
        for percent in (50, 99):
            now, then = (
                statistics.quantiles(getattr(one, name), n=100)[percent - 1] for one in (felt, rest)
            )
            said = "GET /admin/status" if name == "requests" else "3 ms between chunks"
            rows.append((f"{said}, p{percent}: {what}", f"{now * 1e3:.2f} ms", f"{now / then:.2f}"))
    return rows


def measure(folder: Path, rate: int, seconds: float) -> list[tuple[str, str, str]]:
    """All of it; rows of what, value and ratio to the service at rest."""
    environment = {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    models = {
        name: {"command": [sys.executable, "-m", module, "--port", "{port}"], "env": environment}
        for name, module in (("source", "benchmarks.source"), ("writer", "benchmarks.logs"))
    }
    with (
        programs.service(
            folder / "logs", {"models": models, "log_max_size": 1 << 26}, {}
        ) as service,
        httpx.Client(base_url=service.url, timeout=60, trust_env=False) as client,
        ThreadPoolExecutor(1) as waiter,
    ):
        for name in models:
            service.load(name)
        asyncio.run(_felt(service.port, 1))
        rest = asyncio.run(_felt(service.port, seconds))
        rows = _row("at rest", rest, rest)
        resident = programs.resident_bytes([service.pid])

        lines = round(rate * seconds)
        cpu, began = programs.cpu_seconds([service.pid]), time.perf_counter()
        ended = waiter.submit(_wait, service.url, _flood(client, lines, rate))
        felt = asyncio.run(_felt(service.port, seconds))
        share = (programs.cpu_seconds([service.pid]) - cpu) / (time.perf_counter() - began)
        taken = lines / (ended.result() - began)
        rows += _row(f"{rate} lines/s", felt, rest)
        rows += [
            (f"{lines} lines at {rate}/s: taken each second, none lost", f"{taken:.0f}", ""),
            ("the same: processor time of the service", f"{share:.0%} of a core", ""),
        ]

        # As many again as fast as they are taken: the pipe makes the writer wait.
        began = time.perf_counter()
        ended = waiter.submit(_wait, service.url, _flood(client, 1_000_000, 0))
        felt = asyncio.run(_felt(service.port, 3))
        taken = 1_000_000 / (ended.result() - began)
        rows += _row("as fast as it can", felt, rest)
        rows.append(("as fast as it can: lines taken each second", f"{taken:.0f}", ""))

        log = _log(client)
        more = programs.resident_bytes([service.pid]) - resident
        kept = log["end"] - log["first"]
        rows.append((f"memory of {kept} lines", f"{more / 2**20:.1f} MiB", ""))
        for what, query, times in (
            ("a page of 1,000 lines from the middle", {"before": log["first"] + kept // 2}, 30),
            ("the newest page", {}, 30),
            ("the last line alone", {"limit": 1}, 30),
            ("search for what is not there", {"q": "nothing like this"}, 3),
            ("search for lines with errors", {"level": "error"}, 3),
        ):
            spent = []
            for _ in range(times):
                began = time.perf_counter()
                page = client.get("/admin/log-lines/writer", params=query).json()
                spent.append(time.perf_counter() - began)
            whole = page["searched_to"] == log["first"] and page["lines"] == []
            said = f"{what}{', all of it' if whole else ''}, median of {times}"
            rows.append((said, f"{statistics.median(spent) * 1e3:.1f} ms", ""))
        stop = threading.Event()
        searching = waiter.submit(_search, service.url, stop)
        felt = asyncio.run(_felt(service.port, 5))
        stop.set()
        searching.result()
        rows += _row("while one client searches", felt, rest)
    return rows


def main() -> None:
    """Measure and print, or be the model that writes (with ``--port``)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--rate", type=int, default=50_000, help="lines a second")
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    if options.port is not None:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        asyncio.run(_serve_writer(options.port))
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), options.rate, options.seconds)
    print("| measured | value | against rest |\n|---|---:|---:|")
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
