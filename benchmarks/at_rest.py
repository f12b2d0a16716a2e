"""Measures the memory of each program at several moments, and its processor time at rest."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from benchmarks import exchange, load, programs
from benchmarks.source import ANSWER_PART
from benchmarks.streams import source_stream
from benchmarks.table import DIRECT, Row
from benchmarks.targets import Ground, Target, chat, on_llama_server, on_source, warm, with_direct

REQUESTS = 20_000
STREAMS = 500


def memory(ground: Ground, model: Path) -> list[Row]:
    """Resident memory: with a model loaded, after many requests, with many streams open."""
    asked = exchange.request("/v1/embeddings", {"model": "source", "input": "hello"}, ANSWER_PART)
    found: dict[str, dict[str, list[float]]] = {
        "a model loaded": {},
        f"after {REQUESTS:,} requests": {},
        f"with {STREAMS} streams": {},
    }
    with on_source(ground, model) as all_targets:
        targets = [target for target in all_targets if target.name != DIRECT]
        time.sleep(2)
        actions: Sequence[Callable[[Target], float]] = (
            _mebibytes,
            lambda target: _many(target, asked),
            _streaming,
        )
        for (_, values), action in zip(found.items(), actions, strict=True):
            for target in targets:
                values[target.name] = [action(target)]
    return [
        Row("memory and rest", f"RSS: {said}", "MiB", values, charted="requests" in said)
        for said, values in found.items()
    ]


def _mebibytes(target: Target) -> float:
    return programs.resident_bytes(target.pids) / 2**20


def _many(target: Target, asked: exchange.Request) -> float:
    load.run(load.requests(target.port, asked, REQUESTS, 8))
    time.sleep(1)
    return _mebibytes(target)


def _streaming(target: Target) -> float:
    async def measure() -> float:
        asked = source_stream(600, 1000)
        async with load.open_streams(target.port, asked, STREAMS, 0.002) as reading:
            await asyncio.sleep(STREAMS * 0.002 + 3)
            for task in reading:
                if task.done():
                    raise RuntimeError(f"{target.name}: a stream ended") from task.exception()
            return _mebibytes(target)

    return load.run(measure())


def rest(ground: Ground, model: Path, seconds: float) -> list[Row]:
    """Processor time with a model loaded and nothing to do, of all programs at the same time.

    It includes programs that a target runs and ends meanwhile.
    """
    with (
        on_llama_server(ground, {"demo": model}) as (found, by_hand),
        with_direct(ground, found, by_hand["demo"]) as all_targets,
    ):
        warm(all_targets, chat("demo", stream=False))
        targets = [target for target in all_targets if target.name != DIRECT]
        time.sleep(10)  # what follows a start is not rest
        before = [_spent(target) for target in targets]
        began = time.monotonic()
        time.sleep(seconds)
        took = time.monotonic() - began
        shares = {
            target.name: [(_spent(target) - start) / took * 100]
            for target, start in zip(targets, before, strict=True)
        }
    said = f"CPU at rest over {seconds:.0f} s, a model loaded"
    return [Row("memory and rest", said, "% of a core", shares, charted=True)]


def _spent(target: Target) -> float:
    ended = [psutil.Process(pid).cpu_times() for pid in target.pids]
    return programs.cpu_seconds(target.pids) + sum(
        one.children_user + one.children_system for one in ended
    )
