"""The load generator: raw protocols on uvloop, so that it costs little beside what it measures.

Every answer is checked: its status, its end, and the text that its body must contain.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any, TypeVar

import uvloop

from benchmarks.exchange import AnswerReader, Request, check

T = TypeVar("T")

LIMIT = 300.0
"""Seconds that one measurement may take."""


def run(measurement: Coroutine[Any, Any, T]) -> T:
    """Run a measurement to its end."""
    return uvloop.run(measurement)


class Connection:
    """One keep-alive connection, for one request at a time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.reader: AnswerReader | None = None
        self._done: asyncio.Future[None] | None = None

    def _ended(self) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(None)

    async def ask(self, asked: Request) -> tuple[float, float, int]:
        """Return the seconds to the first event (or the end) and to the end, and the events."""
        loop = asyncio.get_running_loop()
        began = time.perf_counter()
        if self.reader is None or self.reader.transport is None:
            _, self.reader = await loop.create_connection(
                lambda: AnswerReader(self._ended), "127.0.0.1", self._port
            )
        self._done = loop.create_future()
        self.reader.ask(asked)
        async with asyncio.timeout(LIMIT):
            await self._done
        ended = time.perf_counter()
        check(self.reader, asked)
        return (self.reader.first or ended) - began, ended - began, self.reader.events

    def close(self) -> None:
        """Close it at once."""
        if self.reader is not None:
            self.reader.close()


class _Client:
    """Sends a request again and again, on one connection, until the turn's requests are used up.

    llama-server closes a connection after 100 requests, which may be seen only when the next one
    was sent: such a request is sent again, on a new connection, and counts once.
    """

    def __init__(self, turn: _Turn) -> None:
        self._turn = turn
        self._reader = AnswerReader(self._ended)

    async def connect(self) -> None:
        """Open a connection and send the next request, or the last one again."""
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: self._reader, "127.0.0.1", self._turn.port
            )
            self._reader.ask(self._turn.asked)
        except OSError as error:
            self._turn.fail(error)

    def start(self) -> None:
        """Send the first request."""
        self._turn.left -= 1
        self._began = time.perf_counter()
        self._turn.start(self.connect())

    def close(self) -> None:
        """Close the connection at once, and send no more."""
        self._reader.close()

    def _ended(self) -> None:
        reader, turn = self._reader, self._turn
        if reader.unanswered:
            self._reader = AnswerReader(self._ended)
            turn.start(self.connect())
            return
        now = time.perf_counter()
        try:
            check(reader, turn.asked)
        except (OSError, RuntimeError, ValueError) as error:
            turn.fail(error)
            return
        turn.seconds.append(now - self._began)
        if turn.left <= 0:
            turn.leave()
            return
        turn.left -= 1
        self._began = now
        if reader.transport is None:
            self._reader = AnswerReader(self._ended)
            turn.start(self.connect())
        else:
            reader.ask(turn.asked)


class _Turn:
    """The requests that some clients send together."""

    def __init__(self, port: int, asked: Request, count: int, clients: int) -> None:
        self.port, self.asked, self.left, self._clients = port, asked, count, clients
        self.seconds: list[float] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def leave(self) -> None:
        self._clients -= 1
        if self._clients == 0 and not self.done.done():
            self.done.set_result(None)

    def fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)


async def requests(port: int, asked: Request, count: int, clients: int) -> list[float]:
    """Return the seconds that each of ``count`` requests took, sent by so many clients."""
    turn = _Turn(port, asked, count, clients)
    sending = [_Client(turn) for _ in range(clients)]
    try:
        for client in sending:
            client.start()
        async with asyncio.timeout(LIMIT):
            await turn.done
    finally:
        for client in sending:
            client.close()
    return turn.seconds


async def streams(port: int, asked: Request, count: int, apart: float = 0.0007) -> int:
    """Return the events of ``count`` streams at once, begun some time apart as real ones are."""
    async with open_streams(port, asked, count, apart) as reading:
        return sum(await asyncio.gather(*reading))


@contextlib.asynccontextmanager
async def open_streams(
    port: int, asked: Request, count: int, apart: float = 0.0007
) -> AsyncIterator[Sequence[asyncio.Task[int]]]:
    """Begin streams; each task has the number of its stream's events. Leaving cuts them off."""
    connections = [Connection(port) for _ in range(count)]

    async def read(number: int, connection: Connection) -> int:
        await asyncio.sleep(number * apart)
        return (await connection.ask(asked))[2]

    reading = [asyncio.create_task(read(n, c)) for n, c in enumerate(connections)]
    try:
        yield reading
    finally:
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
        for connection in connections:
            connection.close()


async def first_bytes(
    targets: dict[str, tuple[int, Request]], rounds: int, pause: float
) -> dict[str, list[float]]:
    """Return the seconds to the first event of each request, target by target.

    In every round each target is asked once, in an order that changes; ``pause`` seconds before
    each request let the last one's aftermath end.
    """
    connections = {name: Connection(port) for name, (port, _) in targets.items()}
    taken: dict[str, list[float]] = {name: [] for name in targets}
    for number in range(rounds + 20):
        for name in random.sample(list(targets), len(targets)):
            await asyncio.sleep(pause)
            try:
                first, _, _ = await connections[name].ask(targets[name][1])
            except ConnectionError:
                # llama-server closes a connection after a stream without an announcement.
                reader = connections[name].reader
                if reader is None or not reader.unanswered:
                    raise
                continue
            if number >= 20:
                taken[name].append(first)
    for connection in connections.values():
        connection.close()
    return taken
