"""``python -m benchmarks.requests``: what a small request costs the service, beside nginx.

Clients send a small JSON request again and again, each on a connection of its own, to a fast
source: by way of nginx and of the service, in shuffled turns. Needs nginx on PATH. ``--other PATH``
measures another checkout in the same turns. Prints a Markdown table of medians over the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple, cast

from benchmarks import load, measure, programs

PATHS = ("/tokenize", "/v1/embeddings")
"""The second is recorded in the history."""


class _Client(asyncio.Protocol):
    """Sends a request until the turn's requests are used up, and checks every answer."""

    def __init__(self, turn: _Turn) -> None:
        self.turn = turn
        self.received = b""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.send()

    def send(self) -> None:
        assert self.transport is not None
        if self.turn.left <= 0:
            self.transport.abort()
            self.turn.leave()
            return
        self.turn.left -= 1
        self.began = time.perf_counter()
        self.transport.write(self.turn.request)

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, end, body = self.received.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or b"-1")
        if end and len(body) >= length:
            if not head.startswith(b"HTTP/1.1 200 ") or len(body) != length:
                self.turn.fail(RuntimeError(repr(self.received[:500])))
            self.received = b""
            self.turn.seconds.append(time.perf_counter() - self.began)
            self.send()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.turn.left > 0:
            self.turn.fail(exc or ConnectionError("closed"))


class _Turn:
    """The requests of one target in one round."""

    def __init__(self, request: bytes, count: int, clients: int) -> None:
        self.request = request
        self.left = count
        self.clients = clients
        self.seconds: list[float] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def leave(self) -> None:
        self.clients -= 1
        if self.clients == 0 and not self.done.done():
            self.done.set_result(None)

    def fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)


async def _turn(port: int, request: bytes, count: int, clients: int) -> list[float]:
    turn = _Turn(request, count, clients)
    loop = asyncio.get_running_loop()
    for _ in range(clients):
        await loop.create_connection(lambda: _Client(turn), "127.0.0.1", port)
    async with asyncio.timeout(300):
        await turn.done
    return turn.seconds


class Cost(NamedTuple):
    """Of one round: seconds of processor time and of waiting per request."""

    cpu: float
    p50: float
    p99: float
    per_second: float


def _measured(port: int, pids: list[int], request: bytes, count: int, clients: int) -> Cost:
    before, began = programs.cpu_seconds(pids), time.perf_counter()
    seconds = asyncio.run(_turn(port, request, count, clients))
    took = time.perf_counter() - began
    cuts = statistics.quantiles(seconds, n=100)
    return Cost((programs.cpu_seconds(pids) - before) / count, cuts[49], cuts[98], count / took)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--other", type=Path, help="another checkout, measured beside this one")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--requests", type=int, default=10_000, help="of each turn")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print("| path, clients | target | CPU | ratio | p50 | p99 | requests/s |")
    print("|---|---|---:|---:|---:|---:|---:|")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cyber-benchmark-")))
        source = stack.enter_context(programs.source())
        targets = {"nginx": stack.enter_context(programs.nginx(folder / "nginx", source))}
        for name, root in (("this service", None), ("other checkout", options.other)):
            if name == "this service" or root is not None:
                service = stack.enter_context(measure.source_service(folder / name, root))
                targets[name] = (service.port, [service.pid])
        for path in PATHS:
            request = load.request_bytes(path, {"model": "source", "input": "hello"})
            for clients in options.clients:
                costs: dict[str, list[Cost]] = {name: [] for name in targets}
                for number in range(options.rounds + 1):
                    for name in random.sample(list(targets), len(targets)):
                        count = options.requests if number else 500
                        cost = _measured(*targets[name], request, count, clients)
                        if number:
                            costs[name].append(cost)
                medians = {
                    name: Cost(*map(statistics.median, zip(*rounds, strict=True)))
                    for name, rounds in costs.items()
                }
                for name, cost in medians.items():
                    print(
                        f"| {path}, {clients} | {name} | {cost.cpu * 1e6:.1f} µs"
                        f" | {cost.cpu / medians['nginx'].cpu:.2f} | {cost.p50 * 1e3:.2f} ms"
                        f" | {cost.p99 * 1e3:.2f} ms | {cost.per_second:,.0f} |",
                        flush=True,
                    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
