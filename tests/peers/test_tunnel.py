"""Bytes of a connection through a WebSocket between two boxes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web

from cyber_inference_tui.peers.tunnel import MOST_MESSAGE, pass_bytes
from tests.waiting import LIMIT, until

Play = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Tunnel:
    """A way from a port here through a WebSocket to ``worker``."""

    def __init__(self, port: int, server: asyncio.Server) -> None:
        self.port = port
        self._server = server
        self.ended_there: list[bool] = []
        """By connection: whether the far end has ended it."""


@asynccontextmanager
async def tunnel(worker: Play) -> AsyncIterator[Tunnel]:
    far = await asyncio.start_server(worker, "127.0.0.1", 0, limit=1 << 20)
    made: Tunnel

    async def accept(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(max_msg_size=MOST_MESSAGE, compress=False)
        reader, writer = await asyncio.open_connection(*far.sockets[0].getsockname(), limit=1 << 20)
        await socket.prepare(request)
        await pass_bytes(socket, reader, writer)
        writer.close()
        await socket.close()
        return socket

    app = web.Application()
    app.router.add_get("/", accept)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/"

    async def near(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with session.ws_connect(url, max_msg_size=MOST_MESSAGE) as socket:
            made.ended_there.append(await pass_bytes(socket, reader, writer))
        writer.close()

    async with aiohttp.ClientSession() as session, asyncio.timeout(LIMIT):
        server = await asyncio.start_server(near, "127.0.0.1", 0, limit=1 << 20)
        made = Tunnel(server.sockets[0].getsockname()[1], server)
        yield made
        server.close()
    await runner.cleanup()
    far.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.close()


async def test_all_bytes_pass_in_both_directions() -> None:
    sent = os.urandom(5 << 20)
    async with tunnel(echo) as way:
        reader, writer = await asyncio.open_connection("127.0.0.1", way.port)
        writing = asyncio.ensure_future(_write(writer, sent))
        assert await reader.readexactly(len(sent)) == sent
        await writing
        writer.close()
        await until(lambda: way.ended_there, what="the end")
        assert way.ended_there == [False]


async def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


async def test_a_worker_that_ends_is_told_apart() -> None:
    async def leaves(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(3)
        writer.close()

    async with tunnel(leaves) as way:
        _, writer = await asyncio.open_connection("127.0.0.1", way.port)
        writer.write(b"abc")
        await until(lambda: way.ended_there, what="the end")
        assert way.ended_there == [True]
        writer.close()


async def test_a_worker_that_does_not_read_holds_up_its_sender() -> None:
    goes_on = asyncio.Event()
    got = 0

    async def waits(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal got
        await goes_on.wait()
        while data := await reader.read(1 << 20):
            got += len(data)
        writer.close()

    async with tunnel(waits) as way:
        _, writer = await asyncio.open_connection("127.0.0.1", way.port)
        writer.transport.set_write_buffer_limits(0)
        sent, piece = 0, bytes(1 << 20)
        # Each piece is sent when the way has room; at some time it has none.
        while True:
            writer.write(piece)
            draining = asyncio.ensure_future(writer.drain())
            if not (await asyncio.wait({draining}, timeout=1.0))[0]:
                break
            sent += 1
            assert sent < 64, "all is taken, so it is in memory"
        goes_on.set()
        await draining
        await until(lambda: got == (sent + 1) << 20, what="all bytes")
        writer.close()
