"""A fast stand-in for a model's server: pre-made chunks on raw asyncio transports.

It costs so little that what is measured is the proxy in front of it. Run as a program it serves
``POST``: with ``?chunks=N&interval=MS`` an event stream of N chunks, one each MS milliseconds,
without it a small JSON answer. ``GET /health`` says 200, so that the service can supervise it.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import json
import signal
import urllib.parse
from typing import cast

_CHUNK = json.dumps(
    {
        "choices": [{"finish_reason": None, "index": 0, "delta": {"content": " something"}}],
        "created": 1_750_000_000,
        "id": "chatcmpl-Jr5Yk0nZk4ZpUu0hN2mSxq8gVt0bXcWf",
        "model": "source",
        "system_fingerprint": "b11669-fake",
        "object": "chat.completion.chunk",
    }
).encode()


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


_EVENT = _framed(b"data: " + _CHUNK + b"\n\n")
_LAST = _framed(b"data: [DONE]\n\n") + b"0\r\n\r\n"
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)
_ANSWER = json.dumps({"tokens": list(range(20)), "model": "source"}).encode()
_WHOLE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
    len(_ANSWER),
    _ANSWER,
)


class _Source(asyncio.Protocol):
    def __init__(self) -> None:
        self.buffer = b""
        self.transport: asyncio.Transport | None = None
        self.left = 0
        self.interval = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while self.transport is not None and (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].decode("latin-1")
            length = 0
            for line in head.split("\r\n")[1:]:
                name, _, value = line.partition(":")
                if name.lower() == "content-length":
                    length = int(value)
            if len(self.buffer) < end + 4 + length:
                return
            self.buffer = self.buffer[end + 4 + length :]
            self.answer(head.split(" ", 2)[1])

    def answer(self, target: str) -> None:
        assert self.transport is not None
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(target).query)
        if "chunks" not in query:
            self.transport.write(_WHOLE)
            return
        self.left = int(query["chunks"][0])
        self.interval = float(query["interval"][0]) / 1000
        self.transport.write(_STREAM_HEAD)
        self.step()

    def step(self) -> None:
        if self.transport is None:
            return
        if not self.left:
            self.transport.write(_LAST)
            return
        self.left -= 1
        self.transport.write(_EVENT)
        asyncio.get_running_loop().call_later(self.interval, self.step)


async def _serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Source, "127.0.0.1", port)
    print(f"listening on {server.sockets[0].getsockname()[1]}", flush=True)
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    # Not uvloop: its timers have whole milliseconds, which would bring all streams into step.
    asyncio.run(_serve(parser.parse_args().port))


if __name__ == "__main__":
    main()
