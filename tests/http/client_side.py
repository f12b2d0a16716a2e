"""Requests and answers of a client, as bytes."""

from __future__ import annotations

import asyncio
import json

from tests.http.raw import head
from tests.waiting import LIMIT

CHAT = "/v1/chat/completions"


def post(body: bytes, *lines: str, path: str = CHAT, version: str = "1.1") -> bytes:
    return (
        head(
            f"POST {path} HTTP/{version}",
            "Host: localhost",
            f"Content-Length: {len(body)}",
            *lines,
        )
        + body
    )


def stream(**fields: object) -> bytes:
    return json.dumps({"model": "m", "stream": True, **fields}).encode()


async def to_the_end(port: int, data: bytes) -> bytes:
    """Return all bytes until the service closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        async with asyncio.timeout(LIMIT):
            return await reader.read()
    finally:
        writer.close()


def unchunked(received: bytes) -> bytes:
    """Return the content of a chunked answer. Fails unless the framing is complete."""
    _, _, rest = received.partition(b"\r\n\r\n")
    content = b""
    while True:
        line, _, rest = rest.partition(b"\r\n")
        size = int(line, 16)
        assert rest[size : size + 2] == b"\r\n"
        content, rest = content + rest[:size], rest[size + 2 :]
        if size == 0:
            assert rest == b""
            return content


def events_of(content: bytes) -> list[object]:
    assert content.endswith(b"\n\n")
    return [
        json.loads(block.removeprefix(b"data: "))
        for block in content.split(b"\n\n")
        if block.startswith(b"data: ")
    ]
