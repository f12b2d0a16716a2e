"""Read bodies, however they are framed, on both event loops."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import uvloop

from cyber_inference_tui.errors import HubUnreachableError
from cyber_inference_tui.hub.endpoint import HubEndpoint
from cyber_inference_tui.hub.partial import HubFile
from cyber_inference_tui.hub.transfer import Transfer, TransferContext, TransferLimits, open_session

from .transfers import MIB, QUICK, noise

CONTENT = noise(9 * MIB + 12_345)
ORIGIN = HubFile(repo="o/n", revision="0" * 40, path="a.gguf")
LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
ENDLESS = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
SENT = [
    pytest.param(size, content, id=f"{len(content)} bytes by {size}")
    for size, content in [
        (700, CONTENT[:MIB]),
        (65_536, CONTENT),
        (3 * MIB, CONTENT),
        (len(CONTENT), CONTENT),
    ]
]
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}

Send = Callable[[asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Callable[[Awaitable[None]], None]:
    def run(work: Awaitable[None]) -> None:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(work)  # type: ignore[arg-type]

    return run


def pieces(content: bytes, size: int) -> list[bytes]:
    return [content[at : at + size] for at in range(0, len(content), size)]


def chunks(content: bytes, size: int) -> list[bytes]:
    framed = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces(content, size)]
    return [*framed, b"0\r\n\r\n"]


@asynccontextmanager
async def serving(send: Send, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await send(writer)
        except OSError:
            pass  # the client went away
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def bring(
    send: Send,
    target: Path,
    *,
    origin: HubFile = ORIGIN,
    pace: TransferLimits = QUICK,
    server_tls: ssl.SSLContext | None = None,
) -> Transfer:
    executor = ThreadPoolExecutor(4)
    async with serving(send, server_tls) as port, open_session(pace) as session:
        endpoint = HubEndpoint(url=f"http{'s' if server_tls else ''}://127.0.0.1:{port}")
        shared = TransferContext(
            session=session,
            endpoint=lambda: endpoint,
            executor=executor,
            environ={},
            boot="this",
            pace=pace,
        )
        try:
            transfer = Transfer(shared, origin, target)
            await transfer.run()
            return transfer
        finally:
            executor.shutdown()


def sending(head: bytes, body: Sequence[bytes]) -> Send:
    async def send(writer: asyncio.StreamWriter) -> None:
        # The first bytes arrive together with the head.
        writer.write(head + b"".join(body[:1]))
        for piece in body[1:]:
            writer.write(piece)
            await writer.drain()

    return send


@pytest.mark.parametrize(("size", "content"), SENT)
@pytest.mark.parametrize("way", ["length", "chunked", "until it ends"])
def test_a_body_arrives_as_it_was_sent(
    run: Callable[[Awaitable[None]], None], tmp_path: Path, way: str, size: int, content: bytes
) -> None:
    target = tmp_path / "a.gguf"
    send = {
        "length": sending(LENGTH % len(content), pieces(content, size)),
        "chunked": sending(CHUNKED, chunks(content, size)),
        "until it ends": sending(ENDLESS, pieces(content, size)),
    }[way]

    async def work() -> None:
        transfer = await bring(send, target)
        assert transfer.received == len(content)

    run(work())
    assert target.read_bytes() == content


def test_a_body_over_tls(
    run: Callable[[Awaitable[None]], None],
    certificate: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server_tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_tls.load_cert_chain(certificate[0], certificate[1])
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    target = tmp_path / "a.gguf"
    send = sending(LENGTH % len(CONTENT), pieces(CONTENT, 100_000))

    async def work() -> None:
        await bring(send, target, server_tls=server_tls)

    run(work())
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("way", ["length", "chunked"])
@pytest.mark.parametrize("after", [0, 1, 300_000, 5 * MIB])
def test_silence_ends_a_try_and_keeps_the_bytes(
    run: Callable[[Awaitable[None]], None], tmp_path: Path, way: str, after: int
) -> None:
    target = tmp_path / "a.gguf"
    ended = threading.Event()

    async def send(writer: asyncio.StreamWriter) -> None:
        if way == "length":
            writer.write(LENGTH % len(CONTENT) + CONTENT[:after])
        else:
            writer.write(CHUNKED + b"".join(chunks(CONTENT[:after], MIB)[:-1]))
        await writer.drain()
        # Send nothing more until the other side gives up.
        await asyncio.wait_for(writer.wait_closed(), 20)
        ended.set()

    pace = msgspec.structs.replace(QUICK, stall_timeout=0.2, tries=1)
    origin = msgspec.structs.replace(ORIGIN, size=len(CONTENT))

    async def work() -> None:
        with pytest.raises(HubUnreachableError, match=r"no byte has arrived|has not sent a byte"):
            await bring(send, target, origin=origin, pace=pace)

    run(work())
    part = target.with_name("a.gguf.part")
    assert part.read_bytes() == CONTENT[:after]
