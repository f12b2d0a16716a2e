"""The load generator counts exactly, checks every answer, and puts up with closed connections."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from benchmarks import exchange, load

ASKED = exchange.request("/v1/embeddings", {"model": "m"}, b"expected")
Answer = Callable[[int, asyncio.StreamWriter], Awaitable[None]]
"""Answers the request with this number, counted on each connection."""


def with_length(body: bytes, status: int = 200, more: str = "") -> bytes:
    return f"HTTP/1.1 {status} OK\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body


async def serving(answer: Answer, measure: Callable[[int], Awaitable[object]]) -> object:
    """What ``measure`` gives for the port of a server that answers so."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = 0
        while not writer.is_closing():
            try:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0]))
            except (asyncio.IncompleteReadError, ConnectionError):
                break
            await answer(number, writer)
            number += 1
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        return await measure(server.sockets[0].getsockname()[1])


def requests(answer: Answer, count: int = 50, clients: int = 3) -> list[float]:
    taken = load.run(serving(answer, lambda port: load.requests(port, ASKED, count, clients)))
    assert isinstance(taken, list)
    return taken


async def good(number: int, writer: asyncio.StreamWriter) -> None:
    writer.write(with_length(b"as expected"))


def test_every_request_is_counted_once() -> None:
    assert len(requests(good)) == 50


def test_the_events_of_a_stream_are_counted_by_their_mark() -> None:
    async def answer(number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for done in (b"false", b"false", b"true"):
            line = b'{"text":"data: data: ","done":%b}\n' % done
            writer.write(b"%x\r\n%b\r\n" % (len(line), line))
        writer.write(b"0\r\n\r\n")

    asked = ASKED._replace(mark=b'"done":')
    assert load.run(serving(answer, lambda port: load.streams(port, asked, 2))) == 6


def test_an_announced_close_is_followed_by_a_new_connection() -> None:
    async def answer(number: int, writer: asyncio.StreamWriter) -> None:
        if number == 9:
            writer.write(with_length(b"as expected", more="Connection: close\r\n"))
            writer.close()
        else:
            await good(number, writer)

    assert len(requests(answer)) == 50


def test_a_request_is_sent_again_where_a_used_connection_was_closed() -> None:
    async def answer(number: int, writer: asyncio.StreamWriter) -> None:
        if number == 9:
            writer.close()
        else:
            await good(number, writer)

    assert len(requests(answer)) == 50


def test_a_new_connection_that_is_closed_fails() -> None:
    async def answer(number: int, writer: asyncio.StreamWriter) -> None:
        writer.close()

    with pytest.raises(ConnectionError):
        requests(answer)


@pytest.mark.parametrize("data", [with_length(b"as expected", 500), with_length(b"something else")])
def test_a_wrong_answer_fails(data: bytes) -> None:
    async def answer(number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(data if number == 5 else with_length(b"as expected"))

    with pytest.raises(RuntimeError, match="status"):
        requests(answer)


def test_half_an_answer_fails() -> None:
    async def answer(number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(with_length(b"as expected")[:-1])
        writer.close()

    with pytest.raises(ConnectionError, match="before the end"):
        requests(answer)


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_events_are_counted_exactly_wherever_they_are_cut(size: int) -> None:
    events = b"".join(b"%x\r\n%b\r\n" % (len(e), e) for e in [b"data: {}\n\n"] * 20)
    whole = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + events + b"0\r\n\r\n"

    async def answer(number: int, writer: asyncio.StreamWriter) -> None:
        for at in range(0, len(whole), size):
            writer.write(whole[at : at + size])
            await writer.drain()
            await asyncio.sleep(0)

    found = load.run(serving(answer, lambda port: load.streams(port, ASKED, 3, 0)))
    assert found == 60


def test_a_stream_without_a_length_ends_with_its_connection() -> None:
    async def answer(number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\ndata: 1\n\ndata: 2\n\n")
        writer.close()

    assert load.run(serving(answer, lambda port: load.streams(port, ASKED, 2, 0))) == 4


def test_first_bytes_are_measured_target_by_target() -> None:
    async def answer(number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\ndata: 1\n\n")
        writer.close()

    async def measure(port: int) -> dict[str, list[float]]:
        return await load.first_bytes({"a": (port, ASKED), "b": (port, ASKED)}, 5, 0)

    found = load.run(serving(answer, measure))
    assert isinstance(found, dict)
    assert {name: len(taken) for name, taken in found.items()} == {"a": 5, "b": 5}
