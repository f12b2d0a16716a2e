"""What another box sends in its stream of updates, and what becomes of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import msgspec
import pytest

from cyber_inference_tui.peers.peer import Peer
from cyber_inference_tui.peers.secrets import PeerSecrets
from cyber_inference_tui.records.models import ModelRecord, ModelStatus
from cyber_inference_tui.records.peers import PeerState, PeerUpdate
from cyber_inference_tui.settings.schema import PeerSettings
from tests.waiting import until

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
CHUNKED = HEAD[:-2] + b"Transfer-Encoding: chunked\r\n\r\n"
UPDATE = msgspec.json.encode(
    PeerUpdate(version="1.0", models=(ModelRecord(id="a", status=ModelStatus.LOADED),))
)
FORBIDDEN = b'{"error": {"message": "This service does not accept the host box.example."}}'


@asynccontextmanager
async def followed(*answers: bytes) -> AsyncIterator[Peer]:
    """A box that gives these answers, one for each connection; the last one stays open."""
    left = list(answers)
    keep = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(left.pop(0) if left else answers[-1])
        if not left:
            await keep.wait()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    peer = Peer(
        "box",
        PeerSettings(url=f"http://127.0.0.1:{port}"),
        PeerSecrets(key="k", digest="00"),
        now=lambda: datetime.now(UTC),
        changed=lambda: None,
    )
    following = asyncio.create_task(peer.run())
    try:
        yield peer
        assert not following.done()
    finally:
        keep.set()
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        server.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\x16\x03\x01\x02 no HTTP\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n",
        HEAD + b"data: no JSON\n\n",
        HEAD + b"data: \xff\xfe\n\n",
        HEAD + b"data: " + b"[" * 100_000 + b"\n\n",
        HEAD + b'data: {"later": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n\n",
        HEAD + b"data: " + b"x" * (20 << 20) + b"\n\n",
        CHUNKED + b"zz\r\nno chunk",
        HEAD[:-2] + b"Content-Length: 99\r\n\r\ndata: {}\n\n",
        HEAD[:-2] + b"Content-Encoding: gzip\r\n\r\nno gzip",
    ],
    ids=range(13),
)
async def test_a_box_that_sends_nonsense_is_asked_again(answer: bytes) -> None:
    async with followed(answer, HEAD + b"data: " + UPDATE + b"\n\n") as peer:
        await until(lambda: "a" in peer.models, what="the update")
        assert peer.record().state is PeerState.CONNECTED


async def test_a_refusal_says_why() -> None:
    refusal = b"HTTP/1.1 403 Forbidden\r\nContent-Length: %d\r\n\r\n" % len(FORBIDDEN)
    async with followed(refusal + FORBIDDEN) as peer:
        await until(lambda: peer.record().problem, what="the refusal")
        assert peer.record().state is PeerState.REFUSED
        assert "does not accept the host box.example" in (peer.record().problem or "")
