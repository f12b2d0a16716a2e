"""Questions about adapters to servers that answer oddly; the real one is asked in tests/real."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from cyber_inference_tui.llama.http_get import ServerAddress
from cyber_inference_tui.llama.lora import LoadedAdapter, ask_adapters, set_scales

_LIMIT = 5.0


@asynccontextmanager
async def server(answer: bytes) -> AsyncIterator[tuple[ServerAddress, list[bytes]]]:
    """Run a server with one answer; yield its address and the requests that it gets."""
    asked: list[bytes] = []

    async def answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        _, _, length = head.partition(b"Content-Length: ")
        asked.append(head + await reader.readexactly(int(length.split()[0]) if length else 0))
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(answered, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        yield ServerAddress("127.0.0.1", port, "k"), asked


async def test_the_adapters_of_a_server() -> None:
    body = b'[{"id":0,"path":"/a.gguf","scale":0.5,"task_name":"","prompt_prefix":""}]'
    async with server(b"HTTP/1.1 200 OK\r\n\r\n" + body) as (address, asked):
        assert await ask_adapters(address, _LIMIT) == (LoadedAdapter(0, "/a.gguf", 0.5),)
    assert asked[0].startswith(b"GET /lora-adapters HTTP/1.1\r\n")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 404 Not Found\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\n\r\n{}",
        b'HTTP/1.1 200 OK\r\n\r\n[{"id":0,"path":7}]',
        b"HTTP/1.1 200 OK\r\n\r\n\xff",
    ],
)
async def test_other_answers_are_none(answer: bytes) -> None:
    async with server(answer) as (address, _):
        assert await ask_adapters(address, _LIMIT) is None
        if not answer.startswith(b"HTTP/1.1 200"):
            assert not await set_scales(address, {0: 1.0}, _LIMIT)


async def test_all_strengths_are_set_at_once() -> None:
    async with server(b"HTTP/1.1 200 OK\r\n\r\n{}") as (address, asked):
        assert await set_scales(address, {0: 0.0, 1: 0.75}, _LIMIT)
    assert asked[0].startswith(b"POST /lora-adapters HTTP/1.1\r\n")
    assert asked[0].endswith(b'\r\n\r\n[{"id":0,"scale":0.0},{"id":1,"scale":0.75}]')


async def test_nobody_listens() -> None:
    async with server(b"") as (address, _):
        pass
    assert await ask_adapters(address, _LIMIT) is None
    assert not await set_scales(address, {}, _LIMIT)
