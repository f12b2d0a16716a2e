"""Judges whether a model can be split over the link to another box, and measures the link."""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple

import aiohttp

from cyber_inference_tui.llama.worker import WorkerFacts
from cyber_inference_tui.records.workers import LendingFacts

MOST_ROUND_TRIP = 2.0
"""Milliseconds. Each token makes a round trip."""
LEAST_GBIT = 0.9
"""Gigabits of data a second: a link of 1 Gbit/s carries so much beside the headers of Ethernet, IP,
TCP and TLS."""
_ECHOES = 20
_ROUNDS = 16
_ROUND_SECONDS = 0.125
_ROUND_BYTES = 4 << 20
_PIECE = bytes(256 << 10)
_LONGEST_WAIT = 10.0

_GPU_SPEED, _SPEED = 300e9, 50e9
"""Bytes a second at which a box reads weights: the memory of a middling graphics card, and two
channels of DDR4-3200."""


class Link(NamedTuple):
    """A measured link."""

    round_trip_ms: float
    gbit_per_second: float


def split_problems(
    name: str, here: WorkerFacts, there: LendingFacts, link: Link
) -> tuple[str, ...]:
    """Return why no model can be split over this box and the box ``name``; empty = it can."""
    if there.problem:
        return (f"{name} lends no memory: {there.problem}",)
    found = []
    if not here.protocol:
        found.append(
            "This box's llama.cpp has no RPC server that runs (ggml-rpc-server); `install-llama`"
            " gets a build that has it."
        )
    elif here.build != there.build:
        found.append(
            f"The builds of llama.cpp differ: {here.build} here, {there.build} on {name}."
            " `install-llama` on both gets the same."
        )
    elif here.protocol != there.protocol:
        found.append(f"The RPC protocols differ: {here.protocol} here, {there.protocol} on {name}.")
    if link.round_trip_ms > MOST_ROUND_TRIP:
        found.append(
            f"A round trip to {name} takes {link.round_trip_ms:.1f} ms, and at most"
            f" {MOST_ROUND_TRIP:g} ms are bearable."
        )
    if link.gbit_per_second < LEAST_GBIT:
        found.append(
            f"The link to {name} carries {link.gbit_per_second:.2f} Gbit/s of data. A link of"
            f" 1 Gbit/s, the least, carries {LEAST_GBIT:g}."
        )
    return tuple(found)


def expected_speed(
    here_bytes: int, there_bytes: int, *, gpu_here: bool, gpu_there: bool, round_trip_ms: float
) -> float:
    """Estimate the tokens per second of one request to a split model.

    For a token each box reads its part of the model once, one after the other, at the speed of its
    memory, and there is one round trip (as seen with llama.cpp b11669). The speeds of memories are
    typical values, not measured. A mixture of experts reads a part of its weights only, and is
    faster.
    """
    seconds = here_bytes / (_GPU_SPEED if gpu_here else _SPEED)
    seconds += there_bytes / (_GPU_SPEED if gpu_there else _SPEED)
    return 1 / (seconds + round_trip_ms / 1000)


async def measure(socket: aiohttp.ClientWebSocketResponse) -> Link:
    """Measure the link by a WebSocket whose other end answers each message with an empty one.

    The best of many short tries counts, because other work on the boxes delays most. Raises
    ``TimeoutError`` and ``ConnectionError``.
    """
    trips = []
    for _ in range(_ECHOES):
        began = time.perf_counter()
        await socket.send_bytes(b"1")
        await _answer(socket)
        trips.append(time.perf_counter() - began)
    rates = [await _rate(socket) for _ in range(_ROUNDS)]
    return Link(min(trips) * 1000, max(rates) * 8 / 1e9)


async def _rate(socket: aiohttp.ClientWebSocketResponse) -> float:
    """Send for a moment; return the bytes a second that have arrived."""
    began = time.perf_counter()
    sent = 0
    while sent < _ROUND_BYTES // len(_PIECE) and time.perf_counter() - began < _ROUND_SECONDS:
        async with asyncio.timeout(_LONGEST_WAIT):
            await socket.send_bytes(_PIECE)
        sent += 1
    for _ in range(sent):
        await _answer(socket)
    return sent * len(_PIECE) / (time.perf_counter() - began)


async def _answer(socket: aiohttp.ClientWebSocketResponse) -> None:
    async with asyncio.timeout(_LONGEST_WAIT):
        message = await socket.receive()
    if message.type is not aiohttp.WSMsgType.BINARY:
        raise ConnectionError("it has ended the connection")
