"""Measures streams of each program: a chunk, the first byte, and the most at once."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from benchmarks import exchange, load, programs
from benchmarks.table import DIRECT, Row
from benchmarks.targets import Ground, Target, chat, on_llama_server, on_source, warm, with_direct

STREAMS = (1, 16, 48)
INTERVAL = 3.0
"""Milliseconds between the chunks of one stream."""
SECONDS = 4.0
HELD_INTERVAL = 20.0
HELD_CHUNKS = 150
HELD_MOST = 512
HELD_STEP = 32
HELD_LIMIT = 8.0


def source_stream(chunks: int, interval: float) -> exchange.Request:
    """Return a request for a stream of the fast source."""
    return chat("source", query=f"?chunks={chunks}&interval={interval}")


def per_chunk(ground: Ground, model: Path, rounds: int) -> list[Row]:
    """Processor time per chunk."""
    chunks = round(SECONDS * 1000 / INTERVAL)
    asked = source_stream(chunks, INTERVAL)
    rows: list[Row] = []
    with on_source(ground, model) as found:
        targets = [target for target in found if target.name != DIRECT]
        for count in STREAMS:
            costs: dict[str, list[float]] = {target.name: [] for target in targets}
            for _ in range(rounds):
                for target in random.sample(targets, len(targets)):
                    before = programs.cpu_seconds(target.pids)
                    events = load.run(load.streams(target.port, asked, count))
                    spent = programs.cpu_seconds(target.pids) - before
                    _check_events(target, events, count, chunks)
                    costs[target.name].append(spent / (count * chunks) * 1e6)
            said = f"{count} stream{'s' * (count > 1)}: CPU per chunk"
            rows.append(Row("streams", said, "µs", costs, charted=count == STREAMS[-1]))
    return rows


def first_byte(ground: Ground, model: Path, rounds: int) -> list[Row]:
    """Time to the first byte of a stream of a real llama-server."""
    asked = chat("demo", tokens=4)
    added: dict[str, dict[str, list[float]]] = {"p50": {}, "p99": {}}
    with (
        on_llama_server(ground, {"demo": model}) as (found, by_hand),
        with_direct(ground, found, by_hand["demo"]) as targets,
    ):
        warm(targets, asked)
        ports = {target.name: (target.port, asked) for target in targets}
        for _ in range(rounds):
            taken = load.run(load.first_bytes(ports, 150, 0.001))
            for what, at in (("p50", 0.5), ("p99", 0.99)):
                cut = {name: sorted(all_)[int(len(all_) * at)] for name, all_ in taken.items()}
                for name, value in cut.items():
                    if name != DIRECT:
                        more = (value - cut[DIRECT]) * 1e3
                        added[what].setdefault(name, []).append(more)
    said = "first byte of a stream, real llama-server: added"
    return [
        Row("streams", f"{said} {what}", "ms", found_, charted=what == "p50")
        for what, found_ in added.items()
    ]


def most_held(ground: Ground, model: Path, rounds: int) -> list[Row]:
    """The most streams of 50 chunks a second that arrive in time."""
    with on_source(ground, model) as targets:
        most: dict[str, list[float]] = {target.name: [] for target in targets}
        for _ in range(rounds):
            for target in random.sample(targets, len(targets)):
                most[target.name].append(_most_held(target))
    said = f"most streams of {1000 / HELD_INTERVAL:.0f} chunks/s held ({HELD_MOST} tried)"
    return [
        Row(
            "streams",
            said,
            "streams",
            most,
            less_is_better=False,
            charted=True,
        )
    ]


def _most_held(target: Target) -> int:
    """Try the most, then halve the distance between what was held and what was not."""
    held, failed = 0, HELD_MOST + HELD_STEP
    count = HELD_MOST
    while failed - held > HELD_STEP:
        if load.run(_is_held(target, count)):
            held = count
        else:
            failed = count
        count = (held + failed) // 2
    return held


async def _is_held(target: Target, count: int) -> bool:
    """Whether each stream took no longer than its source, with 5 % and 50 ms to spare."""
    asked = source_stream(HELD_CHUNKS, HELD_INTERVAL)
    connections = [load.Connection(target.port) for _ in range(count)]

    async def took(number: int, connection: load.Connection) -> float:
        await asyncio.sleep(number * HELD_INTERVAL / 1000 / 16)
        first, total, events = await connection.ask(asked)
        _check_events(target, events, 1, HELD_CHUNKS)
        return total - first

    try:
        async with asyncio.timeout(HELD_LIMIT):
            seconds = await asyncio.gather(*(took(n, c) for n, c in enumerate(connections)))
    except (OSError, RuntimeError):  # late, refused or cut off
        return False
    finally:
        for connection in connections:
            connection.close()
    return max(seconds) <= HELD_CHUNKS * HELD_INTERVAL / 1000 * 1.05 + 0.05


def _check_events(target: Target, events: int, streams: int, chunks: int) -> None:
    if events != streams * (chunks + 1):  # the last says that it is done
        raise RuntimeError(f"{target.name}: {events} events of {streams * (chunks + 1)}")
