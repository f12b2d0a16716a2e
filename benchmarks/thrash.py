"""``python -m benchmarks.thrash``: two models, room for one, clients that alternate between them.

The service beside llama-server's router mode (``--models-max 1``), one after the other in each
round, with the same models, clients and answers. Prints a Markdown table: loads, the longest and
the mean wait for an answer's first byte, and answers a second. Needs a llama-server.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import httpx
import msgspec
import psutil

from benchmarks import llama_servers, programs
from benchmarks.big_model import write_models

MODELS = ("one", "two")


class Outcome(msgspec.Struct, frozen=True):
    """What the clients saw; seconds."""

    loads: int
    failed: int
    waits: list[float]
    duration: float


async def _client(client: httpx.AsyncClient, number: int, turns: int, waits: list[float]) -> int:
    failed = 0
    for turn in range(turns):
        body = {
            "model": MODELS[(number + turn) % 2],
            "messages": [{"role": "user", "content": "hello"}],
            "max_tokens": 8,
            "ignore_eos": True,
            "stream": True,
        }
        began = time.perf_counter()
        first: float | None = None
        async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            async for line in answer.aiter_lines():
                if first is None and line.startswith("data:"):
                    first = time.perf_counter() - began
                    failed += '"error"' in line
        if first is None:
            failed += 1
        else:
            waits.append(first)
    return failed


async def _run(port: int, clients: int, turns: int) -> tuple[int, list[float], float]:
    waits: list[float] = []
    began = time.perf_counter()
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}",
        timeout=600,
        trust_env=False,
        limits=httpx.Limits(max_connections=clients),
    ) as client:
        failed = sum(
            await asyncio.gather(*(_client(client, n, turns, waits) for n in range(clients)))
        )
    return failed, waits, time.perf_counter() - began


class _Births:
    """Counts the processes that a program starts, by looking often."""

    def __init__(self, pid: int) -> None:
        self._parent = psutil.Process(pid)
        self.seen: set[tuple[int, float]] = set()

    async def watch(self) -> None:
        while True:
            for child in self._parent.children():
                try:
                    if "llama" in child.name():
                        self.seen.add((child.pid, child.create_time()))
                except psutil.NoSuchProcess:
                    continue
            await asyncio.sleep(0.02)


async def _measured(port: int, pid: int, clients: int, turns: int) -> Outcome:
    births = _Births(pid)
    watching = asyncio.ensure_future(births.watch())
    try:
        failed, waits, duration = await _run(port, clients, turns)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    return Outcome(len(births.seen), failed, waits, duration)


def ours(folder: Path, server: Path, models: Path, clients: int, turns: int) -> Outcome:
    """The clients against the service."""
    config = {"llama_server_path": str(server), "llama_threads": 1, "max_loaded_models": 1}
    files = {name: models / f"{name}.gguf" for name in MODELS}
    with programs.service(folder, config, files) as service:
        return asyncio.run(_measured(service.port, service.pid, clients, turns))


def router(folder: Path, server: Path, models: Path, clients: int, turns: int) -> Outcome:
    """The clients against llama-server's router."""
    with llama_servers.router(folder, server, models, "--threads", "1", "--models-max", "1") as (
        port,
        pid,
    ):
        return asyncio.run(_measured(port, pid, clients, turns))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--llama-server", default=os.environ.get("CYBER_TEST_LLAMA_SERVER"))
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--turns", type=int, default=5, help="requests of each client")
    parser.add_argument("--megabytes", type=int, default=400, help="of each model")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if not options.llama_server:
        parser.error("name a llama-server")
    server = Path(options.llama_server).resolve()
    found: dict[str, list[Outcome]] = {"this service": [], "llama-server's router": []}
    with tempfile.TemporaryDirectory(prefix="cyber-thrash-") as name:
        folder = Path(name)
        models = folder / "models"
        models.mkdir()
        write_models(models, options.megabytes)
        (models / "demo.gguf").unlink()
        (models / "big.gguf").rename(models / "one.gguf")
        (models / "two.gguf").hardlink_to(models / "one.gguf")
        for turn in range(options.rounds):
            for who, run in zip(found, (ours, router), strict=True):
                outcome = run(
                    folder / f"{run.__name__}{turn}", server, models, options.clients, options.turns
                )
                found[who].append(outcome)
                print(f"{who}: {outcome.duration:.0f} s", file=sys.stderr)
    print(
        f"{options.clients} clients, {options.turns} requests each, two models of"
        f" {options.megabytes} MB, room for one; medians of {options.rounds} runs\n"
    )
    print("| | loads | failed | longest wait | mean wait | answers a second |")
    print("|---|---|---|---|---|---|")
    for who, outcomes in found.items():
        answered = [len(one.waits) / one.duration for one in outcomes]
        print(
            f"| {who} | {statistics.median(one.loads for one in outcomes):g}"
            f" | {sum(one.failed for one in outcomes)}"
            f" | {statistics.median(max(one.waits) for one in outcomes):.1f} s"
            f" | {statistics.median(statistics.fmean(one.waits) for one in outcomes):.1f} s"
            f" | {statistics.median(answered):.2f} |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
