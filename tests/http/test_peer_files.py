"""Model files for other boxes: who gets which bytes of them."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import msgspec
import pytest

from cyber_inference_tui.certificates import trusting
from cyber_inference_tui.http import peer_files as module
from cyber_inference_tui.http.application import assemble
from cyber_inference_tui.http.client_connection import Runner
from cyber_inference_tui.http.login import AdminLogin
from cyber_inference_tui.http.tls import ServerCertificate
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.peers.peers import PeerKey
from cyber_inference_tui.records.peers import Role
from cyber_inference_tui.service.shared_files import SharedFiles
from cyber_inference_tui.settings.credentials import digest_of
from cyber_inference_tui.sockets import listening_socket
from tests.certificates import Pair
from tests.fakes.service import FakeService, echo
from tests.hub.transfers import noise
from tests.waiting import LIMIT

KEY = "the key of the box"
CONTENT = noise(3_000_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
PATH = f"/peers/files/{DIGEST}?size={len(CONTENT)}"


class World(msgspec.Struct):
    service: FakeService
    session: aiohttp.ClientSession
    url: str
    path: Path

    def get(
        self, path: str = PATH, *, method: str = "GET", **headers: str
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        return self.session.request(
            method,
            self.url + path,
            headers={
                "Authorization": f"Bearer {KEY}",
                **{name.replace("_", "-"): value for name, value in headers.items()},
            },
        )


@asynccontextmanager
async def serving(folder: Path, *, tls: Pair | None = None) -> AsyncIterator[World]:
    service = FakeService("m")
    service.peers.keys = {digest_of(KEY): PeerKey("jetson", Role.SERVE)}
    path = folder / "a.gguf"
    path.write_bytes(CONTENT)
    model = LocalModel(id="a", path=path, shards=(path,), size_bytes=len(CONTENT))
    service.shared_files = SharedFiles(folder, lambda: {"a": model})
    await service.shared_files.note({path: DIGEST})
    app = assemble(service, echo, AdminLogin(service, folder / "login.secret"))
    certificate = ServerCertificate(tls.certificate, tls.key) if tls else None
    async with AsyncExitStack() as stack:
        runner = Runner(app, handler_cancellation=True, access_log=None, shutdown_timeout=2.0)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        listener = listening_socket("127.0.0.1", 0)
        service.address = ("127.0.0.1", listener.getsockname()[1])
        stack.push_async_callback(await runner.accept(listener, certificate=certificate))
        context: ssl.SSLContext | bool = trusting(tls.pem) if tls else True
        session = await stack.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context))
        )
        scheme = "https" if tls else "http"
        yield World(service, session, f"{scheme}://127.0.0.1:{service.address[1]}", path)


@pytest.fixture(params=["plain", "TLS"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    tls = Pair(tmp_path) if request.param == "TLS" else None
    async with serving(tmp_path, tls=tls) as there:
        yield there


async def test_a_box_gets_the_file(world: World) -> None:
    async with world.get() as answer:
        assert answer.status == 200
        assert answer.headers["ETag"] == f'"{DIGEST}"'
        assert answer.headers["Accept-Ranges"] == "bytes"
        assert await answer.read() == CONTENT
    # The connection serves the next request.
    async with world.get(method="HEAD") as answer:
        assert (answer.status, answer.content_length) == (200, len(CONTENT))
        assert await answer.read() == b""


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-", 0, 3_000_000),
        ("bytes=2999999-", 2_999_999, 3_000_000),
        ("bytes=10-19", 10, 20),
        ("bytes=10-9999999", 10, 3_000_000),
        ("bytes=-7", 2_999_993, 3_000_000),
    ],
)
async def test_a_part_of_it(tmp_path: Path, asked: str, start: int, stop: int) -> None:
    async with serving(tmp_path) as world, world.get(Range=asked) as answer:
        assert answer.status == 206
        assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/3000000"
        assert await answer.read() == CONTENT[start:stop]


async def test_a_part_that_does_not_exist_or_is_of_another_file(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        for asked in ("bytes=3000000-", "bytes=5-2", "lines=1-2"):
            async with world.get(Range=asked) as answer:
                assert answer.status == 416
                assert answer.headers["Content-Range"] == "bytes */3000000"
        async with world.get(Range="bytes=5-", If_Range='"other"') as answer:
            assert (answer.status, await answer.read()) == (200, CONTENT)
        async with world.get(Range="bytes=5-", If_Range=f'"{DIGEST}"') as answer:
            assert (answer.status, await answer.read()) == (206, CONTENT[5:])


async def test_nothing_else_is_sent(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        for path, status in {
            f"/peers/files/{'0' * 64}?size=3000000": 404,
            f"/peers/files/{DIGEST}?size=2": 404,
            f"/peers/files/{DIGEST}": 400,
            "/peers/files/..%2Flogin.secret?size=64": 404,
            f"/peers/files/{DIGEST}%2F..?size=3000000": 404,
        }.items():
            async with world.get(path) as answer:
                assert answer.status == status, path
        world.service.peers.keys = {}
        async with world.get() as answer:
            assert answer.status == 401


async def test_while_files_of_the_size_are_hashed_it_asks_for_patience(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        world.path.write_bytes(CONTENT)
        async with world.get(method="HEAD") as answer:
            assert answer.status == 503
            assert answer.headers["Retry-After"] == "2"

        async def ready() -> bool:
            async with world.get(method="HEAD") as answer:
                return answer.status == 200

        hashing = world.service.shared_files._hashing
        assert hashing is not None
        await hashing
        assert await ready()


async def slow_reader(world: World) -> socket.socket:
    """Ask for the file, and read the head of the answer and no more."""
    loop = asyncio.get_running_loop()
    wire = socket.socket()
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    wire.setblocking(False)
    await loop.sock_connect(wire, world.service.address)
    head = f"GET {PATH} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n\r\n"
    await loop.sock_sendall(wire, head.encode())
    assert (await loop.sock_recv(wire, 12)) == b"HTTP/1.1 200"
    return wire


async def test_a_few_are_sent_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 2)
    async with serving(tmp_path) as world:
        readers = [await slow_reader(world) for _ in range(2)]
        for method in ("GET", "HEAD"):
            async with world.get(method=method) as answer:
                assert answer.status == 503
        # A box that leaves makes room.
        readers.pop().close()

        async def status() -> int:
            async with world.get(method="HEAD") as answer:
                return answer.status

        async with asyncio.timeout(LIMIT):
            while await status() != 200:
                await asyncio.sleep(0.01)
        readers.pop().close()


async def rest_of(wire: socket.socket) -> bytes:
    loop = asyncio.get_running_loop()
    got = bytearray()
    with wire, suppress(ConnectionError):
        while data := await loop.sock_recv(wire, 1 << 20):
            got += data
    return bytes(got)


async def test_a_box_that_is_removed_gets_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_STEP", 64 << 10)
    async with serving(tmp_path) as world:
        wire = await slow_reader(world)
        world.service.peers.keys = {}
        assert len(await rest_of(wire)) < len(CONTENT)


async def test_a_file_that_becomes_shorter_ends_the_connection(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        wire = await slow_reader(world)
        os.truncate(world.path, 10)
        assert len(await rest_of(wire)) < len(CONTENT)
