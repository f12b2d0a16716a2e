"""The limits of requests' bodies: the memory that all may take together, and their time."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cyber_inference_tui.http import spooled_body
from cyber_inference_tui.http.body_limits import BODY_LIMITS, BodyLimits, default_memory
from cyber_inference_tui.monitor.main_memory import MainMemoryReading
from tests.fakes.service import FakeService, make_settings, serving
from tests.http.client_side import CHAT, post, stream
from tests.http.raw import Answer, ask, head, read_answer
from tests.http.upstream import EVENTS, Recorder, Talk, World, answer, event, forwarding
from tests.waiting import LIMIT, until

KIB = 1 << 10
MIB = 1 << 20
LIMITED = make_settings(max_body_memory=1200 * KIB)


def body_of(size: int) -> bytes:
    """Return a request for the model ``m`` with this many bytes."""
    start, end = b'{"model":"m","x":"', b'"}'
    # Not compressible, so that no part of it can stand for another.
    text = os.urandom(size // 2).hex().encode()[: size - len(start) - len(end)]
    return start + text + end


def limits_of(world: World) -> BodyLimits:
    return world.front.app[BODY_LIMITS]


@contextlib.asynccontextmanager
async def sending(port: int, data: bytes) -> AsyncIterator[asyncio.StreamReader]:
    """Send ``data`` on a connection that stays open for the block."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    try:
        yield reader
    finally:
        writer.close()


def is_full(got: Answer, *, read_whole: bool = False) -> bool:
    if got.status != 503:
        return False
    assert got.error()["code"] == "body_memory_full"
    assert "max_body_memory" in got.error()["message"]
    assert int(got.headers["retry-after"]) >= 1
    assert "x-should-retry" not in got.headers
    # The rest of a body is not read.
    assert got.headers.get("connection") == (None if read_whole else "close")
    return True


async def test_waiting_bodies_share_one_memory() -> None:
    server = Recorder()
    body = body_of(500 * KIB)
    async with forwarding(server, front_settings=LIMITED) as world:
        world.launcher.gate.clear()
        limits, port = limits_of(world), world.front.port
        async with sending(port, post(body)) as one, sending(port, post(body)) as two:
            await until(lambda: world.scheduler.waiting == 2)
            assert limits.used == 1000 * KIB
            async with sending(port, post(body)) as third, asyncio.timeout(LIMIT):
                assert is_full(await read_answer(third))
                assert await third.read() == b""
            # Others still fit.
            async with sending(port, post(body_of(100 * KIB))):
                await until(lambda: world.scheduler.waiting == 3)
            await until(lambda: world.scheduler.waiting == 2)
            world.launcher.gate.set()
            async with asyncio.timeout(LIMIT):
                assert (await read_answer(one)).status == (await read_answer(two)).status == 200
        await until(lambda: limits.used == 0)
        async with sending(port, post(body)) as again, asyncio.timeout(LIMIT):
            assert (await read_answer(again)).status == 200
    assert [len(one.body) for one in server.seen] == [500 * KIB] * 3


async def test_bodies_count_from_their_first_byte() -> None:
    part = post(body_of(600 * KIB))[:-1000]
    async with forwarding(Recorder(), front_settings=LIMITED) as world:
        limits, port = limits_of(world), world.front.port
        async with sending(port, part):
            await until(lambda: limits.used > 590 * KIB)
            async with sending(port, part):
                await until(lambda: limits.used > 1180 * KIB)
                # Refused by its head alone.
                lines = "Host: localhost", f"Content-Length: {100 * KIB}"
                got = await ask(port, f"POST {CHAT} HTTP/1.1", *lines)
                assert is_full(got)
                # One without a length, as it arrives; a packed one, as it is unpacked.
                packed = gzip.compress(bytes(MIB))
                for more, data in (
                    ("Transfer-Encoding: chunked", b"%x\r\n%b" % (100 * KIB, bytes(100 * KIB))),
                    (f"Content-Encoding: gzip\r\nContent-Length: {len(packed)}", packed),
                ):
                    got = await ask(port, f"POST {CHAT} HTTP/1.1", lines[0], more, body=data)
                    assert is_full(got, read_whole=data is packed)
                # Bodies of the admin API are bodies, too.
                kind = "Content-Type: application/json"
                got = await ask(port, "POST /admin/downloads HTTP/1.1", kind, *lines)
                assert is_full(got)
        # Their clients have left.
        await until(lambda: limits.used == 0)


async def test_a_body_cannot_be_larger_than_the_memory() -> None:
    settings = make_settings(max_body_memory=1000)
    async with forwarding(Recorder(), front_settings=settings) as world:
        got = await ask(
            world.front.port, f"POST {CHAT} HTTP/1.1", "Host: localhost", "Content-Length: 1001"
        )
        assert (got.status, got.error()["code"]) == (413, "request_too_large")


async def test_a_long_answer_does_not_keep_its_body() -> None:
    asked, go = asyncio.Event(), asyncio.Event()

    async def talk(talk: Talk) -> None:
        await talk.request()
        asked.set()
        await go.wait()
        await talk.say(answer(*EVENTS), event("1"))
        await talk.request()

    body = stream(x="y" * 600 * KIB)
    async with forwarding(talk) as world:
        limits = limits_of(world)
        async with sending(world.front.port, post(body)) as reader, asyncio.timeout(LIMIT):
            await asked.wait()
            assert limits.used == len(body)
            go.set()
            await reader.readuntil(b"data: 1")
            assert limits.used == 0
            assert world.scheduler.in_flight == 1
        await until(lambda: world.scheduler.in_flight == 0)


# In a file


def spooled_in(folder: Path) -> set[str]:
    """Return the open files without a name in ``folder``."""
    found = set()
    for one in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add(str(one.readlink()))
    return {one for one in found if one.startswith(str(folder)) and one.endswith("(deleted)")}


@pytest.mark.parametrize("path", [CHAT, "/api/chat"])
async def test_a_large_body_waits_in_a_file(path: str, tmp_path: Path) -> None:
    server = Recorder()
    body = json.dumps({"model": "m", "messages": [], "x": os.urandom(MIB).hex()}).encode()
    if path != CHAT:
        said = {"role": "user", "content": os.urandom(MIB).hex()}
        body = json.dumps({"model": "m", "stream": False, "messages": [said]}).encode()
    async with forwarding(server, data_dir=tmp_path, max_queue=4) as world:
        world.launcher.gate.clear()
        limits, port = limits_of(world), world.front.port
        async with contextlib.AsyncExitStack() as stack:
            request = post(body, path=path)
            readers = [await stack.enter_async_context(sending(port, request)) for _ in "123"]
            await until(lambda: len(spooled_in(tmp_path)) == 3)
            await until(lambda: limits.used == 0)
            # A client that leaves takes its file with it.
            async with sending(port, request):
                await until(lambda: len(spooled_in(tmp_path)) == 4)
            await until(lambda: len(spooled_in(tmp_path)) == 3)
            assert list(tmp_path.iterdir()) == []
            world.launcher.gate.set()
            async with asyncio.timeout(LIMIT):
                for reader in readers:
                    await read_answer(reader)
        await until(lambda: not spooled_in(tmp_path))
        assert limits.used == 0
    assert len(server.seen) == 3
    for seen in server.seen:
        assert seen.body == body if path == CHAT else len(seen.body) > 2 * MIB


async def test_a_body_in_a_file_is_sent_again_after_a_crash(tmp_path: Path) -> None:
    seen: list[bytes] = []

    async def talk(talk: Talk) -> None:
        seen.append((await talk.request()).body)
        if len(seen) == 1:
            world.launcher.servers[0].exited.set_result(-11)
            talk.reset()
            return
        await talk.say(answer(body=b"{}"))

    body = body_of(2 * MIB)
    async with forwarding(talk, data_dir=tmp_path) as world:
        world.launcher.gate.clear()
        async with sending(world.front.port, post(body)) as reader, asyncio.timeout(LIMIT):
            await until(lambda: len(spooled_in(tmp_path)) == 1)
            world.launcher.gate.set()
            assert (await read_answer(reader)).status == 200
    assert seen == [body, body]


async def test_only_so_many_bodies_are_in_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spooled_body, "_MOST", 1)
    server = Recorder()
    request = post(body_of(2 * MIB))
    async with forwarding(server, data_dir=tmp_path) as world:
        world.launcher.gate.clear()
        limits, port = limits_of(world), world.front.port
        async with sending(port, request) as one, asyncio.timeout(LIMIT):
            await until(lambda: len(spooled_in(tmp_path)) == 1 and not limits.used)
            async with sending(port, request) as two:
                await until(lambda: world.scheduler.waiting == 2)
                assert limits.used == 2 * MIB
                world.launcher.gate.set()
                assert (await read_answer(one)).status == (await read_answer(two)).status == 200


async def test_without_room_on_the_disk_a_body_waits_in_memory(tmp_path: Path) -> None:
    server = Recorder()
    body = body_of(2 * MIB)
    async with forwarding(server, data_dir=tmp_path / "none") as world:
        world.launcher.gate.clear()
        async with sending(world.front.port, post(body)) as reader, asyncio.timeout(LIMIT):
            await until(lambda: world.scheduler.waiting == 1)
            assert limits_of(world).used == len(body)
            world.launcher.gate.set()
            assert (await read_answer(reader)).status == 200
    assert server.seen[0].body == body


# The time


@pytest.mark.parametrize(
    ("rate", "words"), [(1000.0, "No part"), (1e12, "longer than 1e+12 bytes a second")]
)
async def test_a_body_has_to_arrive_in_time(rate: float, words: str) -> None:
    async with serving(FakeService()) as front:
        limits = front.app[BODY_LIMITS]
        limits.timeout, limits.least_rate = 0.05, rate
        half = head("POST /v1/x HTTP/1.1", "Host: localhost", "Content-Length: 1000") + b"x" * 500
        async with sending(front.port, half) as reader, asyncio.timeout(LIMIT):
            got = await read_answer(reader)
            assert await reader.read() == b""
        assert (got.status, got.error()["code"]) == (408, "request_timeout")
        assert words in got.error()["message"]
        assert limits.used == 0


# The default


@pytest.mark.parametrize(
    ("total", "most"), [(64 << 30, 4 << 30), (8 << 30, 512 << 20), (2 << 30, 256 << 20)]
)
def test_the_default_follows_the_memory(total: int, most: int) -> None:
    assert default_memory(MainMemoryReading(total=total, available=0)) == most
    assert default_memory(None) == 256 << 20


async def test_the_setting_applies_at_once() -> None:
    service = FakeService()
    async with serving(service) as front:
        limits = front.app[BODY_LIMITS]
        assert limits.memory >= 256 << 20
        service.settings = make_settings(max_body_memory=5000)
        assert limits.memory == 5000
