"""Half-closed clients get their answers, unless they are gone."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest

from tests.http.client_side import post, stream, unchunked
from tests.http.raw import head
from tests.http.upstream import EVENTS, LAST, Talk, answer, event, forwarding
from tests.waiting import LIMIT

GET = head("GET /health HTTP/1.1", "Host: localhost")


async def half_closed(port: int, data: bytes, host: str = "127.0.0.1") -> bytes:
    """Send ``data``, close the sending side, and return all bytes of the answer."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(data)
        writer.write_eof()
        async with asyncio.timeout(LIMIT):
            return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_the_answer_comes_whole(version: str) -> None:
    async def script(talk: Talk) -> None:
        await talk.request()
        # Longer than several checks of the client.
        await asyncio.sleep(1.5)
        await talk.say(answer(body=b'{"late":1}'))

    async with forwarding(script) as world:
        got = await half_closed(world.front.port, post(b'{"model":"m"}', version=version))
        assert got.startswith(b"HTTP/1.1 200 ")
        assert got.endswith(b'{"late":1}')


async def test_a_stream_comes_whole() -> None:
    async def script(talk: Talk) -> None:
        await talk.request()
        await talk.say(answer(*EVENTS), event('{"n":1}'))
        await asyncio.sleep(1.2)
        await talk.say(event('{"n":2}'), LAST)

    async with forwarding(script) as world:
        got = await half_closed(world.front.port, post(stream()))
        assert unchunked(got) == b'data: {"n":1}\n\ndata: {"n":2}\n\n'


async def test_every_pipelined_request_is_answered() -> None:
    async def script(talk: Talk) -> None:
        await talk.request()
        await talk.say(answer(body=b"one"))

    async with forwarding(script) as world:
        got = await half_closed(world.front.port, post(b'{"model":"m"}') + GET + GET)
        assert got.count(b"HTTP/1.1 200 ") == 3


async def test_incomplete_requests_are_not_waited_for() -> None:
    async def script(talk: Talk) -> None:
        pytest.fail("nothing whole was asked")

    whole = post(b'{"model":"m"}')
    async with forwarding(script) as world:
        for data in (b"", whole[:20], whole[:-1]):
            assert b"200" not in await half_closed(world.front.port, data)


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("first", ["half-closed", "open"])
async def test_a_client_that_left_ends_its_request(first: str, reset: bool) -> None:
    gone = asyncio.Event()
    asked = asyncio.Event()

    async def script(talk: Talk) -> None:
        await talk.request()
        asked.set()
        assert await talk.reader.read() == b""
        gone.set()

    async with forwarding(script) as world:
        client = socket.create_connection(("127.0.0.1", world.front.port))
        client.sendall(post(b'{"model":"m"}'))
        if first == "half-closed":
            client.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(LIMIT):
            await asked.wait()
            if reset:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            await gone.wait()


async def test_many_that_leave_at_once_are_all_noticed() -> None:
    gone = 0
    everybody = asyncio.Event()

    async def script(talk: Talk) -> None:
        nonlocal gone
        await talk.request()
        assert await talk.reader.read() == b""
        gone += 1
        if gone == 20:
            everybody.set()

    async with forwarding(script) as world:
        clients = [socket.create_connection(("127.0.0.1", world.front.port)) for _ in range(20)]
        for client in clients:
            client.sendall(post(b'{"model":"m"}'))
        async with asyncio.timeout(LIMIT):
            while world.connections < 20:
                await asyncio.sleep(0.01)
            for client in clients:
                client.close()
            await everybody.wait()
