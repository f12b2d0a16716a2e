"""Requests as bytes, because no client library would send them."""

from __future__ import annotations

import asyncio

import msgspec

from tests.waiting import LIMIT


class Answer(msgspec.Struct):
    status: int
    headers: dict[str, str]
    body: bytes

    def error(self) -> dict[str, str]:
        error: dict[str, str] = msgspec.json.decode(self.body)["error"]
        return error


async def ask(port: int, *lines: str, body: bytes = b"", host: str = "127.0.0.1") -> Answer:
    """Send a head of ``lines`` and ``body``, and return the answer."""
    (answer,) = await converse(port, head(*lines) + body, count=1, host=host)
    return answer


def head(*lines: str) -> bytes:
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def converse(port: int, data: bytes, *, count: int, host: str = "127.0.0.1") -> list[Answer]:
    """Send ``data``, and return the first ``count`` answers (with a Content-Length each)."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(data)
        async with asyncio.timeout(LIMIT):
            return [await read_answer(reader) for _ in range(count)]
    finally:
        writer.close()


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    first, *rest = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in rest if line)
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Answer(int(first.split()[1]), headers, body)
