"""What the service's clients feel of a terminal app: attached, frozen, in a terminal unread."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator

import msgspec

from benchmarks import app_rest, programs
from benchmarks.app_ground import Ground, Row
from benchmarks.exchange import request_bytes
from benchmarks.terminal import Terminal

_INTERVAL = 3.0
_CHUNKS = 100
"""Of one stream; each is a request of its own, so that first bytes are counted as well."""


class Felt(msgspec.Struct, frozen=True):
    """Seconds to the first chunk of each stream, and between the chunks of all."""

    first: list[float]
    gaps: list[float]


async def _streams(port: int, seconds: float) -> Felt:
    path = f"/v1/chat/completions?chunks={_CHUNKS}&interval={_INTERVAL}"
    request = request_bytes(path, {"model": "source", "messages": [], "stream": True})
    felt = Felt([], [])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        last = began = time.perf_counter()
        writer.write(request)
        data = b""
        while b"[DONE]" not in data:
            data = await reader.read(65536)
            if not data:
                raise ConnectionError("the stream broke off")
            now = time.perf_counter()
            if b"data:" in data:
                if last == began:
                    felt.first.append(now - began)
                else:
                    felt.gaps.append(now - last)
                last = now
        while not data.endswith(b"0\r\n\r\n"):
            data += await reader.read(65536)
    writer.close()
    return felt


@contextlib.contextmanager
def _nobody(ground: Ground) -> Iterator[None]:
    yield


@contextlib.contextmanager
def _attached(ground: Ground) -> Iterator[Terminal]:
    """An app that follows a log which gets lines all the time, in a terminal that is read."""
    with ground.app() as terminal:
        app_rest.open_log(terminal)
        yield terminal


@contextlib.contextmanager
def _stopped(ground: Ground) -> Iterator[None]:
    with _attached(ground) as terminal:
        os.kill(terminal.pid, signal.SIGSTOP)
        yield


@contextlib.contextmanager
def _unread(ground: Ground) -> Iterator[None]:
    with _attached(ground):
        yield


Case = Callable[[Ground], contextlib.AbstractContextManager[Terminal | None]]
CASES: dict[str, Case] = {
    "no app": _nobody,
    "app attached": _attached,
    "app stopped": _stopped,
    "app whose terminal is not read": _unread,
}


def latency(ground: Ground, seconds: float, rounds: int) -> list[Row]:
    """Streams with and without an app, in turns, while a log gets lines."""
    felt = {name: Felt([], []) for name in CASES}
    app_rest.write_log(ground, 10_000_000, 200)
    for _ in range(rounds):
        for name, case in CASES.items():
            with case(ground) as terminal:
                reading = asyncio.run(_measured(ground.service.port, seconds, terminal))
                felt[name].first.extend(reading.first)
                felt[name].gaps.extend(reading.gaps)
    rows: list[Row] = []
    base = felt["no app"]
    for field, said in (("first", "to the first byte"), ("gaps", "between chunks")):
        for percent in (50, 99):
            for name, found in felt.items():
                value, against = (
                    statistics.quantiles(getattr(one, field), n=100)[percent - 1]
                    for one in (found, base)
                )
                what = f"streamed, {said}, p{percent}: {name}"
                rows.append((what, f"{value * 1e3:.2f} ms", "no app", f"{value / against:.2f}"))
    return rows


async def _measured(port: int, seconds: float, terminal: Terminal | None) -> Felt:
    reading = None
    if terminal is not None:
        reading = asyncio.create_task(asyncio.to_thread(terminal.read, seconds))
    felt = await _streams(port, seconds)
    if reading is not None:
        await reading
    return felt


def unread(ground: Ground, seconds: float, rate: int) -> list[Row]:
    """A terminal that is not read while a log is flooded, then read again; memory of both."""
    service, rows = ground.service, []
    with ground.app() as terminal:
        app_rest.open_log(terminal)
        # The log itself fills its share of the service's memory first.
        app_rest.write_log(ground, 1_000_000, 0)
        terminal.read(12.0)
        before = {pid: programs.resident_bytes([pid]) for pid in (terminal.pid, service.pid)}
        app_rest.write_log(ground, round(rate * seconds), rate)
        time.sleep(seconds - 10)
        service.unload("source")
        time.sleep(10)
        after = {pid: programs.resident_bytes([pid]) for pid in before}
        terminal.read(3.0)
        pressed = terminal.press("2")
        at, _ = terminal.read_until(b"unloaded", limit=10)
        rows.append(
            (
                f"terminal unread for {seconds:.0f} s: read again, key to right values",
                f"{(at - pressed) * 1e3:.0f} ms",
                "",
                "",
            )
        )
        for name, pid in (("app", terminal.pid), ("service", service.pid)):
            more = (after[pid] - before[pid]) / 1e6
            rows.append((f"the same: growth of the {name}", f"{more:.1f} MB", "", ""))
        service.load("source")
        terminal.read_until(b"loaded for")
    with ground.app() as terminal:
        app_rest.open_log(terminal)
        os.kill(terminal.pid, signal.SIGSTOP)
        before_stop = programs.resident_bytes([service.pid])
        app_rest.write_log(ground, round(rate * seconds), rate)
        time.sleep(seconds + 1)
        more = (programs.resident_bytes([service.pid]) - before_stop) / 1e6
        rows.append(
            (f"app stopped for {seconds:.0f} s: growth of the service", f"{more:.1f} MB", "", "")
        )
        os.kill(terminal.pid, signal.SIGCONT)
    return rows
