"""A fast stand-in for a model's server: pre-made chunks on raw asyncio transports.

It costs so little that what is measured is the proxy in front of it. Run as a program it serves
``POST``: with ``?chunks=N&interval=MS`` an event stream of N chunks, one each MS milliseconds; the
options ``--chunks`` and ``--interval`` are for requests without them. Without any, it is a small
JSON answer. ``GET /health`` says 200, so that the service can supervise it.
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
ANSWER_PART = b'"tokens"'
"""Of each small answer."""
_WHOLE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
    len(_ANSWER),
    _ANSWER,
)


class _Source(asyncio.Protocol):
    def __init__(self, default: str = "") -> None:
        self.default = default
        """Stands for the query of a request that has none."""
        self.buffer = b""
        self.transport: asyncio.Transport | None = None
        self.left = 0
        self.interval = self.due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while self.transport is not None and (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end]
            length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
            whole = end + 4 + int(length or b"0")
            if len(self.buffer) < whole:
                return
            self.buffer = self.buffer[whole:]
            self.answer(head.split(b" ", 2)[1].decode())

    def answer(self, target: str) -> None:
        assert self.transport is not None
        _, _, text = target.partition("?")
        text = text or self.default
        query = urllib.parse.parse_qs(text) if text else {}
        if "chunks" not in query:
            self.transport.write(_WHOLE)
            return
        self.left = int(query["chunks"][0])
        self.interval = float(query["interval"][0]) / 1000
        self.due = asyncio.get_running_loop().time()
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
        # By the clock, so that a late chunk does not make the stream longer.
        self.due += self.interval
        asyncio.get_running_loop().call_at(self.due, self.step)


async def _serve(port: int, default: str) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Source(default), "127.0.0.1", port, backlog=4096)
    print(f"listening on {server.sockets[0].getsockname()[1]}", flush=True)
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--chunks", type=int, default=0)
    parser.add_argument("--interval", type=float, default=0.0)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    # Not uvloop: its timers have whole milliseconds, which would bring all streams into step.
    # Started in the place of llama-server, it has more arguments, which mean nothing here.
    options = parser.parse_known_args()[0]
    default = f"chunks={options.chunks}&interval={options.interval}" if options.chunks else ""
    asyncio.run(_serve(options.port, default))


if __name__ == "__main__":
    main()
