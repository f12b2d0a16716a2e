"""Passes the bytes of a TCP connection through a WebSocket between two boxes, unchanged."""

from __future__ import annotations

import asyncio

import aiohttp
from aiohttp import web

MOST_MESSAGE = 1 << 20
"""Bytes of one message."""
CLOSE_SECONDS = 2.0
_READ = 256 << 10


async def pass_bytes(
    socket: aiohttp.ClientWebSocketResponse | web.WebSocketResponse,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> bool:
    """Pass bytes in both directions until either side ends.

    Return whether the other box has ended it. Each direction holds one piece and the buffers of
    its two connections; a side that does not read holds up the other.
    """
    there = asyncio.ensure_future(_send(socket, reader))
    back = asyncio.ensure_future(_receive(socket, writer))
    try:
        await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
        return not there.done()
    finally:
        for one in (there, back):
            one.cancel()
        await asyncio.gather(there, back, return_exceptions=True)


async def _send(
    socket: aiohttp.ClientWebSocketResponse | web.WebSocketResponse, reader: asyncio.StreamReader
) -> None:
    while data := await reader.read(_READ):
        await socket.send_bytes(data)


async def _receive(
    socket: aiohttp.ClientWebSocketResponse | web.WebSocketResponse, writer: asyncio.StreamWriter
) -> None:
    while (message := await socket.receive()).type is aiohttp.WSMsgType.BINARY:
        writer.write(message.data)
        await writer.drain()
