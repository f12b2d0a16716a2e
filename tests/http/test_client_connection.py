"""Connections of clients: invalid HTTP, refused bodies, and the limit of their number."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from cyber_inference_tui.http import lean_connection, request_body
from cyber_inference_tui.http.error_responses import MAX_FIELD_BYTES, MAX_HEADERS, MAX_TARGET_BYTES
from tests.fakes.service import FakeService, make_settings, serving
from tests.waiting import LIMIT

from .raw import Answer, ask, converse, head, read_answer


def request(target: str = "/health", *lines: str) -> bytes:
    return head(f"GET {target} HTTP/1.1", "Host: localhost", *lines)


def target_of(size: int) -> str:
    return "/health?x=" + "a" * (size - len("/health?x="))


def field_of(size: int) -> str:
    return "X-Secret: " + "a" * size


# Too long


HEADS = [
    (request(target_of(MAX_TARGET_BYTES)), 200),
    (request(target_of(MAX_TARGET_BYTES + 1)), 414),
    (request(target_of(9_000)), 414),
    (request(target_of(300_000)), 414),
    (request("/health", field_of(MAX_FIELD_BYTES)), 200),
    (request("/health", field_of(MAX_FIELD_BYTES + 1)), 431),
    (request("/health", "Cookie: secret=" + "a" * 9_000), 431),
    (request("/health", "Cookie: secret=" + "a" * 300_000), 431),
    (request("/health", "X" * 9_000 + ": secret"), 431),
    (request("/health", *["X-Secret: a"] * (MAX_HEADERS - 1)), 200),
    (request("/health", *["X-Secret: a"] * MAX_HEADERS), 431),
    (request("/health", *["X-Secret: a"] * 5_000), 431),
]


@pytest.mark.parametrize(("data", "status"), HEADS, ids=range(len(HEADS)))
async def test_heads_have_limits(data: bytes, status: int) -> None:
    async with serving(FakeService()) as front:
        (answer,) = await converse(front.port, data, count=1)
    assert answer.status == status
    if status != 200:
        assert answer.headers["connection"] == "close"
        assert answer.headers["x-should-retry"] == "false"
        code = {414: "uri_too_long", 431: "headers_too_large"}[status]
        assert answer.error()["code"] == code
        tells_nothing(answer)


@pytest.mark.parametrize("size", [9_000, 200_000])
async def test_a_target_that_comes_in_pieces(size: int) -> None:
    data = request(target_of(size))
    async with serving(FakeService()) as front:
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        with contextlib.suppress(ConnectionError):
            for at in range(0, len(data), 1000):
                writer.write(data[at : at + 1000])
                await writer.drain()
        async with asyncio.timeout(LIMIT):
            assert (await read_answer(reader)).status == 414
            assert await reader.read() == b""
        writer.close()


def tells_nothing(answer: Answer) -> None:
    """The answer repeats nothing of the request, and nothing of Python."""
    text = answer.body.decode().lower()
    for part in ("secret", "aaaa", "bytearray", "b'", "\\x", "\\u00", "aiohttp"):
        assert part not in text


NOT_HTTP = [
    (b"SECRET-\x1b[31m\r\n\r\n", "not valid HTTP"),
    (b"GET /secret HTTP/9.9\r\nHost: localhost\r\n\r\n", "not valid HTTP"),
    (b"GET /secret\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n", "not valid HTTP"),
    (request("http://[secret/"), "its target is not a URL"),
    (b"GET / HTTP/1.1\r\nHost: x\r\nX: secret\x00\r\n\r\n", "header"),
    (b"GET / HTTP/1.1\r\nHost: x\r\nSecret Header: x\r\n\r\n", "header"),
    (b"GET / HTTP/1.1\r\nHost: x\r\nSecret\x1b: x\r\n\r\n", "header"),
    (b"\x16\x03\x01\x02\x00secret" + b"x" * 300 + b"\r\n\r\n", "use http://"),
]


@pytest.mark.parametrize(("data", "words"), NOT_HTTP, ids=range(len(NOT_HTTP)))
async def test_invalid_http_is_not_repeated(data: bytes, words: str) -> None:
    async with serving(FakeService()) as front:
        (answer,) = await converse(front.port, data, count=1)
    assert answer.status == 400
    assert words in answer.error()["message"]
    tells_nothing(answer)


async def test_no_answer_tells_a_version() -> None:
    answers = []
    async with serving(FakeService()) as front:
        for data in (
            request(),
            request("/nothing"),
            request("/admin/nothing"),
            request(target_of(9_000)),
            b"SECRET\r\n\r\n",
            head("GET /health HTTP/1.1", "Host: evil.example"),
        ):
            answers += await converse(front.port, data, count=1)
    assert {one.headers["server"] for one in answers} == {"cyber-inference-tui"}


# Bodies of refused requests


@pytest.mark.parametrize(
    ("lines", "content"),
    [
        ("Content-Encoding: gzip\r\nContent-Length: 3", b"abc"),
        ("Transfer-Encoding: chunked", b"nonsense\r\n"),
    ],
    ids=["not gzip", "not chunked"],
)
@pytest.mark.parametrize("key", ["wrong", "right"])
async def test_a_broken_body_is_no_line_in_the_log(
    lines: str, content: bytes, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = make_settings(api_keys=("right",))
    path = "/v1/models" if key == "right" else "/v1/chat/completions"
    async with serving(FakeService(settings=settings)) as front:
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        writer.write(head(f"POST {path} HTTP/1.1", "Host: localhost", f"X-Api-Key: {key}", lines))
        async with asyncio.timeout(LIMIT):
            answer = await read_answer(reader)
            writer.write(content)
            # Until the service has read this, too.
            writer.write_eof()
            await reader.read()
        writer.close()
    assert answer.status == (405 if key == "right" else 401)
    assert "Traceback" not in caplog.text
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


async def test_a_body_with_broken_framing_that_comes_in_pieces_is_refused_at_once() -> None:
    data = head(
        "POST /admin/login HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        "Transfer-Encoding: chunked",
    )
    async with serving(FakeService(settings=make_settings(admin_password="p"))) as front:
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        for piece in (data, b"{", b'"', b"p", b'"'):
            writer.write(piece)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        async with asyncio.timeout(LIMIT / 2):  # a body that only stops coming has LIMIT
            answer = await read_answer(reader)
            assert await reader.read() == b""
        writer.close()
    assert (answer.status, answer.headers["connection"]) == (400, "close")


REFUSED = {
    "no key": ("POST /v1/chat/completions", "Host: localhost", 401),
    "a foreign host": ("POST /health", "Host: evil.example", 403),
    "a foreign page": (
        "POST /v1/completions",
        "Host: localhost\r\nOrigin: http://evil.example",
        403,
    ),
    "no such endpoint": (
        "POST /admin/none",
        "Host: localhost\r\nContent-Type: application/json",
        404,
    ),
    "a wrong method": ("POST /health", "Host: localhost", 405),
    "a login": ("POST /admin/login", "Host: localhost\r\nContent-Type: application/json", 413),
    "a wrong type": ("POST /admin/models/m/load", "Host: localhost", 415),
}


@pytest.mark.parametrize(("first", "lines", "status"), REFUSED.values(), ids=REFUSED.keys())
async def test_the_body_of_a_refused_request_is_not_read(
    first: str, lines: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is answered at once, and the connection ends, however long the body would be."""

    def unpacked(*_: object) -> None:
        raise AssertionError("a refused body was unpacked")

    monkeypatch.setattr(request_body._Decoder, "unpacked", unpacked)
    settings = make_settings(api_keys=("k",), admin_password="p" if status != 415 else "")
    if status == 404:
        settings = make_settings()
    announced = ("Content-Encoding: gzip", "Content-Length: 10000000000")
    async with (
        serving(FakeService("m", settings=settings)) as front,
        connected(front.port) as (
            reader,
            writer,
        ),
    ):
        # More than aiohttp's buffer of a body, and all of it before the answer can be read.
        writer.write(head(f"{first} HTTP/1.1", lines, *announced) + b"\x1f\x8b" + bytes(600_000))
        async with asyncio.timeout(LIMIT):
            answer = await read_answer(reader)
            assert answer.status == status
            assert answer.headers["connection"] == "close"
            assert await reader.read() == b""


async def test_a_refused_body_that_is_all_there_ends_the_connection_too() -> None:
    service = FakeService("m", settings=make_settings(api_keys=("k",)))
    async with serving(service) as front:
        for body, last in ((b"{}", True), (b"", False)):
            answer = await ask(
                front.port,
                "POST /v1/completions HTTP/1.1",
                "Host: localhost",
                f"Content-Length: {len(body)}",
                body=body,
            )
            assert (answer.status, answer.headers.get("connection")) == (
                401,
                "close" if last else None,
            )


async def test_no_more_than_a_part_of_a_refused_body_is_taken_from_the_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lean_connection, "_MAX_DROPPED", 1 << 20)
    service = FakeService("m", settings=make_settings(api_keys=("k",)))
    async with serving(service) as front, connected(front.port) as (reader, writer):
        writer.write(head("POST /x HTTP/1.1", "Host: localhost", "Content-Length: 10000000000"))
        async with asyncio.timeout(LIMIT):
            assert (await read_answer(reader)).status == 401
            sent = 0
            with pytest.raises(ConnectionError):
                # The end is a reset: it no longer reads.
                while sent < 1 << 30:
                    writer.write(bytes(1 << 16))
                    await writer.drain()
                    sent += 1 << 16
        # What the buffers of the kernel hold comes on top.
        assert sent < 64 << 20


# The limit


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def test_idle_connections_make_room_the_oldest_first() -> None:
    async with (
        serving(FakeService(), most_connections=3) as front,
        connected(front.port) as (first, first_writer),
        connected(front.port) as (silent, _),
        connected(front.port) as (begun, begun_writer),
        asyncio.timeout(LIMIT),
    ):
        begun_writer.write(b"GET /health HTTP/1.1\r\nHost:")
        first_writer.write(request())
        assert (await read_answer(first)).status == 200
        # The first was used last: the silent connection is closed, then that with half a head.
        for gone in (silent, begun):
            async with connected(front.port) as (reader, writer):
                writer.write(request())
                assert (await read_answer(reader)).status == 200
                assert await gone.read() == b""
        first_writer.write(request())
        assert (await read_answer(first)).status == 200


async def test_a_connection_in_use_is_never_cut(caplog: pytest.LogCaptureFixture) -> None:
    entered, go = asyncio.Semaphore(0), asyncio.Event()

    async def waits(request: web.Request) -> web.StreamResponse:
        entered.release()
        await go.wait()
        return web.Response(text="done")

    async with (
        serving(FakeService(), waits, most_connections=2) as front,
        connected(front.port) as (one, one_writer),
        connected(front.port) as (two, two_writer),
        asyncio.timeout(LIMIT),
    ):
        for writer in (one_writer, two_writer):
            writer.write(request("/v1/x"))
            await entered.acquire()
        for _ in range(2):
            async with connected(front.port) as (reader, _):
                refused = await read_answer(reader)
                assert await reader.read() == b""
            assert (refused.status, refused.headers["retry-after"]) == (503, "1")
            assert refused.headers["x-request-id"]
            assert refused.error()["code"] == "too_many_connections"
        go.set()
        assert (await read_answer(one)).body == b"done"
        assert (await read_answer(two)).body == b"done"
        # Idle connections are closed for new ones.
        async with connected(front.port) as (reader, writer):
            writer.write(request())
            assert (await read_answer(reader)).status == 200
    warnings = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert len(warnings) == 1


async def test_one_address_does_not_get_all_connections() -> None:
    entered, go = asyncio.Semaphore(0), asyncio.Event()

    async def waits(request: web.Request) -> web.StreamResponse:
        entered.release()
        await go.wait()
        return web.Response(text="done")

    async with (
        serving(FakeService(), waits, most_connections=10, most_of_one=2) as front,
        connected(front.port) as (one, one_writer),
        connected(front.port) as (idle, _),
        asyncio.timeout(LIMIT),
    ):
        one_writer.write(request("/v1/x"))
        await entered.acquire()
        # An idle connection of the same address makes room.
        async with connected(front.port) as (two, two_writer):
            two_writer.write(request("/v1/x"))
            await entered.acquire()
            assert await idle.read() == b""
            async with connected(front.port) as (reader, _):
                refused = await read_answer(reader)
                assert await reader.read() == b""
            assert (refused.status, refused.error()["code"]) == (503, "too_many_connections")
            assert "this address" in refused.error()["message"]
            # Other addresses have their own.
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", front.port, local_addr=("127.0.0.2", 0)
            )
            writer.write(request())
            assert (await read_answer(reader)).status == 200
            writer.close()
            go.set()
            assert (await read_answer(one)).body == (await read_answer(two)).body == b"done"
        # Closed connections do not count.
        for _ in range(4):
            async with connected(front.port) as (reader, writer):
                writer.write(request())
                assert (await read_answer(reader)).status == 200


async def test_a_burst_of_connections_is_served_as_they_ask() -> None:
    async with (
        serving(FakeService(), most_connections=5) as front,
        contextlib.AsyncExitStack() as stack,
        asyncio.timeout(LIMIT),
    ):
        for _ in range(100):
            await stack.enter_async_context(connected(front.port))
        async with front.client.get("/health") as answer:
            assert answer.status == 200
