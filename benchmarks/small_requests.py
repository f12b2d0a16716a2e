"""Measures small requests to each program: processor time, added latency, and rate."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import exchange, load, programs
from benchmarks.source import ANSWER_PART
from benchmarks.table import DIRECT, Row
from benchmarks.targets import Ground, Target, chat, on_llama_server, on_source, warm, with_direct

CLIENTS = (1, 8, 64)
CHARTED_CLIENTS = 8


def fast_source(ground: Ground, model: Path, rounds: int) -> list[Row]:
    """Before the fast source."""
    body = {"model": "source", "input": "hello"}
    with on_source(ground, model) as targets:
        asked = exchange.request("/v1/embeddings", body, ANSWER_PART)
        return _rows("small request, fast source", targets, asked, 4000, rounds)


def one_token(ground: Ground, model: Path, rounds: int) -> list[Row]:
    """Before a real llama-server: a chat of one token."""
    with (
        on_llama_server(ground, {"demo": model}) as (found, by_hand),
        with_direct(ground, found, by_hand["demo"]) as targets,
    ):
        asked = chat("demo", stream=False)
        return _rows("one token, real llama-server", targets, asked, 600, rounds)


def embeddings(ground: Ground, model: Path, rounds: int) -> list[Row]:
    """Before a real llama-server: embeddings."""
    arguments = ["--embedding", "--pooling", "mean"]
    with (
        on_llama_server(ground, {"demo": model}, arguments=arguments) as (found, by_hand),
        with_direct(ground, found, by_hand["demo"]) as targets,
    ):
        body = {"model": "demo", "input": "hello"}
        asked = exchange.request("/v1/embeddings", body, b'"embedding"')
        return _rows("embeddings, real llama-server", targets, asked, 600, rounds)


def _rows(
    group: str, targets: Sequence[Target], asked: exchange.Request, count: int, rounds: int
) -> list[Row]:
    """Measure at each number of clients, in shuffled turns."""
    warm(targets, asked)
    rows: list[Row] = []
    for clients in CLIENTS:
        found: dict[str, dict[str, list[float]]] = {
            what: {target.name: [] for target in targets} for what in ("cpu", "p50", "p99", "rate")
        }
        for number in range(rounds + 1):
            turns: dict[str, dict[str, float]] = {}
            for target in random.sample(targets, len(targets)):
                turns[target.name] = _turn(target, asked, count if number else clients * 5, clients)
            if not number:  # to warm up
                continue
            direct = turns[DIRECT]
            for name, turn in turns.items():
                found["cpu"][name].append(turn["cpu"] * 1e6)
                found["p50"][name].append((turn["p50"] - direct["p50"]) * 1e3)
                found["p99"][name].append((turn["p99"] - direct["p99"]) * 1e3)
                found["rate"][name].append(turn["rate"] / direct["rate"])
        for what in ("cpu", "p50", "p99"):
            del found[what][DIRECT]
        said = f"{clients} client{'s' * (clients > 1)}"
        charted = clients == CHARTED_CLIENTS
        rows += [
            Row(group, f"{said}: CPU per request", "µs", found["cpu"], charted=charted),
            Row(group, f"{said}: added p50", "ms", found["p50"]),
            Row(group, f"{said}: added p99", "ms", found["p99"]),
            Row(
                group,
                f"{said}: requests/s, ratio to direct",
                "",
                found["rate"],
                less_is_better=False,
                charted=charted,
            ),
        ]
    return rows


def _turn(target: Target, asked: exchange.Request, count: int, clients: int) -> dict[str, float]:
    cpu, began = programs.cpu_seconds(target.pids), time.perf_counter()
    seconds = load.run(load.requests(target.port, asked, count, clients))
    took, spent = time.perf_counter() - began, programs.cpu_seconds(target.pids) - cpu
    cuts = statistics.quantiles(seconds, n=100)
    return {"cpu": spent / count, "p50": cuts[49], "p99": cuts[98], "rate": count / took}
