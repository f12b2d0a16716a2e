from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import logging
import socket

import pytest

from cyber_inference_tui.errors import ModelLoadError
from cyber_inference_tui.http import client_response as answers
from cyber_inference_tui.http import local_forwarding
from tests.fakes.service import make_settings
from tests.http.client_side import CHAT, events_of, post, stream, to_the_end, unchunked
from tests.http.raw import ask, converse, head, read_answer
from tests.http.upstream import EVENTS, LAST, Recorder, Talk, World, answer, event, forwarding
from tests.scheduler.virtual import model
from tests.waiting import LIMIT


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelno >= logging.ERROR]


# Byte for byte


async def test_requests_and_answers_pass_unchanged() -> None:
    reply = answer("X-One: 1", "x-one: 2", "Content-Type: text/x", body=b"\x00\xff\r\n")
    server = Recorder(reply)
    body = b'\n{"model" : "m", "model":"m","n":1.50E1}\n'
    async with forwarding(server) as world:
        got = await ask(
            world.front.port,
            f"POST {CHAT}?a=%2F&b=c+d HTTP/1.1",
            "Host: localhost",
            f"Content-Length: {len(body)}",
            "X-Odd: \xe9\xff",
            "Connection: keep-alive",
            "TE: trailers",
            "Authorization: Bearer user",
            body=body,
        )
    (seen,) = server.seen
    assert seen.body == body
    assert seen.target == f"{CHAT}?a=%2F&b=c+d"
    assert seen.headers["x-odd"] == "\xe9\xff"
    assert seen.headers["host"] == f"127.0.0.1:{world.launcher.port}"
    # The service's key for the server, never the client's.
    assert seen.headers["authorization"] == "Bearer server-key"
    assert not {"connection", "te"} & set(seen.headers)
    assert got.body == b"\x00\xff\r\n"
    assert got.headers["x-one"] == "2"
    assert got.headers["content-type"] == "text/x"


async def test_our_keys_stay_here_and_cors_is_ours_to_say() -> None:
    reply = answer("Access-Control-Allow-Origin: *", "access-control-allow-headers: *", body=b"{}")
    server = Recorder(reply)
    settings = make_settings(api_keys=("secret",))
    async with forwarding(server, front_settings=settings, api_keys=("secret",)) as world:
        for key in ({"Authorization": "Bearer secret"}, {"x-api-key": "secret"}):
            async with world.front.client.post(CHAT, data=stream(), headers=key) as got:
                assert got.status == 200
                assert not [one for one in got.headers if one.lower().startswith("access-")]
    for seen in server.seen:
        assert seen.headers["authorization"] == "Bearer server-key"
        assert "x-api-key" not in seen.headers


async def test_odd_paths_reach_the_server_as_they_are() -> None:
    server = Recorder()
    async with forwarding(server) as world:
        for path in ("/a%20b/%E9?x=%00", "//x/../y", ""):
            line = f"GET /upstream/m{path} HTTP/1.1"
            got = await ask(world.front.port, line, "Host: localhost")
            assert got.status == 200, path
    assert [one.target for one in server.seen] == [
        "/a%20b/%E9?x=%00",
        "//x/../y",
        "/",
    ]


async def test_a_decompressed_request_has_no_content_encoding() -> None:
    server = Recorder()
    async with forwarding(server) as world:
        got = await ask(
            world.front.port,
            f"POST {CHAT} HTTP/1.1",
            "Host: localhost",
            "Content-Encoding: gzip",
            f"Content-Length: {len(gzip.compress(stream()))}",
            body=gzip.compress(stream()),
        )
    assert got.status == 200
    (seen,) = server.seen
    assert seen.body == stream()
    assert "content-encoding" not in seen.headers


async def test_a_body_that_is_not_compressed_as_announced(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = Recorder()
    async with forwarding(server) as world:
        for path in (CHAT, "/v1/messages"):
            got = await ask(
                world.front.port,
                f"POST {path} HTTP/1.1",
                "Host: localhost",
                "Content-Encoding: gzip",
                f"Content-Length: {len(stream())}",
                body=stream(),
            )
            assert got.status == 400
            assert got.headers["connection"] == "close"
            error = json.loads(got.body)["error"]
            assert error["code"] == "invalid_request_error"
            assert "not compressed as its Content-Encoding says" in error["message"]
    assert server.seen == []
    assert "Traceback" not in caplog.text


async def test_defaults_and_names_of_other_servers() -> None:
    server = Recorder()
    defaulted = model("d", request_defaults={"top_k": 1})
    custom = model("c", command=("x",))
    async with forwarding(server, defaulted, custom) as world:
        client = world.front.client
        for body, code in (
            (b'{"model":"d", "x":1}', 200),
            (b'{"model":"d","top_k":null}', 200),
            (b'{"model":"C"}', 200),
            (b'{"model":"d","\xff":1}', 400),
            (b"", 400),
        ):
            async with client.post(CHAT, data=body) as got:
                assert got.status == code, await got.text()
        # A GET has no body for defaults. The server judges the path.
        async with client.get("/upstream/d" + CHAT) as got:
            assert got.status == 200
    assert [one.body for one in server.seen] == [
        b'{"top_k":1,"model":"d", "x":1}',
        b'{"model":"d","top_k":null}',
        b'{"model":"c"}',
        b"",
    ]


# Connections


async def test_a_kept_connection_that_was_closed_is_not_seen_by_the_client() -> None:
    bodies = []

    async def script(talk: Talk) -> None:
        got = await talk.request()
        bodies.append(got.body)
        await talk.say(answer(body=b"{}"))
        if talk.number == 1:
            # Closed just when the next request arrives.
            await talk.request()
            talk.reset()
        else:
            await talk.request()

    async with forwarding(script) as world:
        for number in (1, 2):
            async with world.front.client.post(CHAT, data=stream(n=number)) as got:
                assert (got.status, await got.read()) == (200, b"{}")
        assert world.connections == 2
    assert bodies == [stream(n=1), stream(n=2)]


@pytest.mark.parametrize("hard", [False, True])
async def test_a_fresh_connection_that_closes_is_an_error(hard: bool) -> None:
    async def script(talk: Talk) -> None:
        await talk.request()
        if hard:
            talk.reset()

    async with forwarding(script) as world:
        async with world.front.client.post(CHAT, data=stream()) as got:
            assert got.status == 502
            assert (await got.json())["error"]["code"] == "upstream_failed"
        assert world.connections == 1


async def test_a_request_that_was_begun_to_be_answered_is_not_sent_twice() -> None:
    async def script(talk: Talk) -> None:
        await talk.request()
        await talk.say(answer(body=b"{}"))
        await talk.request()
        await talk.say(b"HTTP/1.1 20")

    async with forwarding(script) as world:
        for status in (200, 502):
            async with world.front.client.post(CHAT, data=stream()) as got:
                assert got.status == status
        assert world.connections == 1


async def test_the_error_names_the_end_of_the_server() -> None:
    async def script(talk: Talk) -> None:
        await talk.request()
        await world.launcher.servers[-1].stop(0)

    async with forwarding(script) as world, world.front.client.post(CHAT, data=stream()) as got:
        assert got.status == 502
        assert "killed by SIGSEGV" in (await got.json())["error"]["message"]


@pytest.mark.parametrize(
    "reply",
    [
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000,
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\n{}",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\n\r\n" * 10_000,
    ],
    ids=["other", "negative", "long", "endless", "line-feeds", "upgrade", "interim"],
)
async def test_invalid_answers_are_errors(reply: bytes) -> None:
    async with forwarding(Recorder(reply)) as world:
        (got,) = await converse(world.front.port, post(stream()), count=1)
        assert got.status == 502


async def test_chunks_count_and_not_a_length_before_them() -> None:
    body = event("1") + LAST
    reply = answer("Content-Length: 2", "Transfer-Encoding: chunked") + body
    async with forwarding(Recorder(reply)) as world:
        for _ in range(3):
            async with world.front.client.post(CHAT, data=stream()) as got:
                assert await got.read() == b"data: 1\n\n"
                assert "content-length" not in got.headers
        assert world.connections == 1


async def test_headers_that_connection_names_stay_here() -> None:
    server = Recorder(answer("Connection: keep-alive, X-Theirs", "X-Theirs: 1", body=b"{}"))
    async with forwarding(server) as world:
        request = post(stream(), "Connection: close, X-Ours", "X-Ours: 1")
        received = await to_the_end(world.front.port, request)
    assert b"x-theirs" not in received.lower()
    assert "x-ours" not in server.seen[0].headers


async def test_no_server_echoes_a_request_with_its_key() -> None:
    async with forwarding(Recorder()) as world:
        url = "/upstream/m/x"
        async with world.front.client.request("TRACE", url) as got:
            assert got.status == 405
            assert "TRACE" not in got.headers["Allow"]


@pytest.mark.parametrize(
    "reply",
    [
        answer(body=b"{}") + b"HTTP/1.1 200 OK\r\n",
        answer("Transfer-Encoding: chunked") + event("1") + LAST + b"x",
    ],
    ids=["length", "chunked"],
)
async def test_more_than_the_answer_never_becomes_part_of_the_next(reply: bytes) -> None:
    async def script(talk: Talk) -> None:
        await talk.request()
        await talk.say(reply if talk.number == 1 else answer(body=b"next"))
        await talk.request()

    async with forwarding(script) as world:
        first = await to_the_end(world.front.port, post(stream(), "Connection: close"))
        assert first.count(b"HTTP/1.1") == 1
        async with world.front.client.post(CHAT, data=stream()) as got:
            assert await got.read() == b"next"
        assert world.connections == 2


# Early ends


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("half", [b"", b"7", b"20\r\nhalf of a chunk"])
async def test_a_cut_stream_ends_with_one_error_event(
    half: bytes, hard: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def script(talk: Talk) -> None:
        await talk.request()
        await talk.say(answer(*EVENTS), event('{"n":1}'), event('{"n":2}'))
        await seen.wait()
        await talk.say(half)
        if hard:
            talk.reset()

    seen = asyncio.Event()
    async with forwarding(script) as world:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.front.port)
        writer.write(post(stream()))
        async with asyncio.timeout(LIMIT):
            received = await reader.readuntil(b'{"n":2}\n\n\r\n')
            seen.set()
            received += await reader.readuntil(LAST)
            # It is complete, so the connection stays open.
            writer.write(head("GET /health HTTP/1.1", "Host: localhost"))
            assert (await read_answer(reader)).status == 200
        writer.close()
    one, two, error = events_of(unchunked(received))
    assert (one, two) == ({"n": 1}, {"n": 2})
    assert isinstance(error, dict)
    assert error["error"]["code"] == "upstream_failed"
    assert not warnings_in(caplog)


async def test_anthropics_clients_get_the_error_in_their_shape() -> None:
    async def script(talk: Talk) -> None:
        await talk.request()
        await talk.say(answer(*EVENTS), event('{"n":1}'))

    async with forwarding(script) as world:
        data = post(stream(), "Connection: close", path="/v1/messages")
        content = unchunked(await to_the_end(world.front.port, data))
    assert content.count(b"event: error\ndata: {") == 1


@pytest.mark.parametrize(
    "reply",
    [
        answer("Content-Length: 100", body=b'{"half":'),
        answer("Content-Length: 100", "Content-Type: text/event-stream", body=b"data: 1"),
        answer("Transfer-Encoding: chunked") + event("1"),
        answer(*EVENTS) + b"fffff\r\n" + b"x" * 100_000,
    ],
    ids=["length", "stream with a length", "chunked", "in a big chunk"],
)
async def test_another_body_that_is_cut_ends_the_connection(reply: bytes) -> None:
    async def script(talk: Talk) -> None:
        await talk.request()
        await talk.say(reply)

    async with forwarding(script) as world:
        received = await to_the_end(world.front.port, post(stream()))
    assert received.count(b"HTTP/1.1") == 1
    assert not received.endswith(LAST)
    assert b"error" not in received


# Framings


async def test_a_body_that_ends_with_its_connection_gets_a_framing() -> None:
    async def script(talk: Talk) -> None:
        await talk.request()
        await talk.say(b"HTTP/1.1 200 OK\r\n\r\n", b"some")
        await talk.say(b" thing")

    async with forwarding(script) as world:
        received = await to_the_end(world.front.port, post(stream(), "Connection: close"))
        assert b"transfer-encoding: chunked" in received.lower()
        assert unchunked(received) == b"some thing"
        old = await to_the_end(world.front.port, post(stream(), version="1.0"))
        assert old.partition(b"\r\n\r\n")[2] == b"some thing"


async def test_old_clients_get_no_chunks() -> None:
    async def script(talk: Talk) -> None:
        await talk.request()
        await talk.say(answer(*EVENTS), event("1"), event("2"))
        if whole:
            await talk.say(LAST)

    async with forwarding(script) as world:
        whole = True
        data = post(stream(), "Connection: keep-alive", version="1.0")
        received = await to_the_end(world.front.port, data)
        assert b"chunked" not in received
        assert received.endswith(b"\r\n\r\ndata: 1\n\ndata: 2\n\n")
        whole = False
        received = await to_the_end(world.front.port, data)
        content = received.partition(b"\r\n\r\n")[2]
        assert events_of(content)[:2] == [1, 2]
        assert content.count(b'data: {"error"') == 1
        assert received.endswith(b"}\n\n")


@pytest.mark.parametrize(
    ("method", "reply"),
    [
        ("HEAD", answer("Content-Length: 42")),
        ("HEAD", answer("Transfer-Encoding: chunked")),
        ("GET", answer("Content-Length: 42", "ETag: x", status="304 Not Modified")),
        ("GET", answer(status="204 No Content")),
    ],
)
async def test_answers_without_a_body(method: str, reply: bytes) -> None:
    async with forwarding(Recorder(reply)) as world:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.front.port)
        for _ in range(2):
            writer.write(head(f"{method} /props?model=m HTTP/1.1", "Host: localhost"))
            async with asyncio.timeout(LIMIT):
                received = await reader.readuntil(b"\r\n\r\n")
            assert received.split()[1] == reply.split()[1]
            assert (b"Content-Length: 42" in received) == (b"42" in reply)
        writer.close()
        assert world.connections == 1


async def test_a_body_that_must_not_exist_is_not_passed_on() -> None:
    reply = answer("Content-Length: 5", body=b"12345")
    async with forwarding(Recorder(reply)) as world:
        data = head("HEAD /props?model=m HTTP/1.1", "Host: localhost", "Connection: close")
        received = await to_the_end(world.front.port, data)
        assert received.endswith(b"\r\n\r\n")
        again = await to_the_end(world.front.port, data)
        assert again.endswith(b"\r\n\r\n")
        assert world.connections == 2


async def test_interim_answers_stay_here() -> None:
    reply = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\nA: b\r\n\r\n"
    async with forwarding(Recorder(reply + answer(body=b"{}"))) as world:
        (got,) = await converse(world.front.port, post(stream()), count=1)
        assert (got.status, got.body) == (200, b"{}")


# Slow and leaving clients


async def test_a_client_that_does_not_read_holds_the_server_up() -> None:
    total = 64 << 20
    block = b"x" * (1 << 16)
    sent = 0
    finished = asyncio.Event()
    stalled = asyncio.Event()

    async def script(talk: Talk) -> None:
        nonlocal sent
        await talk.request()
        await talk.say(answer(f"Content-Length: {total}"))
        while sent < total:
            talk.writer.write(block)
            sent += len(block)
            try:
                async with asyncio.timeout(None if stalled.is_set() else 0.3):
                    await talk.writer.drain()
            except TimeoutError:
                stalled.set()
                await talk.writer.drain()
        finished.set()

    async with forwarding(script) as world:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, ("127.0.0.1", world.front.port))
        reader, writer = await asyncio.open_connection(sock=client, limit=1 << 16)
        writer.write(post(stream()))
        async with asyncio.timeout(LIMIT):
            await stalled.wait()
        # A little more than the kernel's buffers, but not the whole body.
        assert sent < total // 2
        assert world.scheduler.in_flight == 1
        async with asyncio.timeout(60):
            await reader.readuntil(b"\r\n\r\n")
            size = 0
            while size < total:
                size += len(await reader.read(1 << 20))
            await finished.wait()
        writer.close()


async def test_a_client_that_never_reads_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "SEND_TIMEOUT", 0.2)
    gone = asyncio.Event()

    async def script(talk: Talk) -> None:
        await talk.request()
        try:
            await talk.say(answer("Content-Length: 100000000"), b"x" * 100_000_000)
        except ConnectionError:
            gone.set()

    async with forwarding(script) as world:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.front.port, limit=1000)
        writer.write(post(stream()))
        async with asyncio.timeout(LIMIT):
            await gone.wait()
            size = 0
            with contextlib.suppress(ConnectionError):
                while part := await reader.read(1 << 20):
                    size += len(part)
        assert size < 100_000_000
        writer.close()


@pytest.mark.parametrize("when", ["before the head", "in the stream"])
async def test_a_client_that_leaves_takes_its_request_along(
    when: str, caplog: pytest.LogCaptureFixture
) -> None:
    reached, gone = asyncio.Event(), asyncio.Event()

    async def script(talk: Talk) -> None:
        await talk.request()
        if when == "in the stream":
            await talk.say(answer(*EVENTS), event("1"))
        reached.set()
        with contextlib.suppress(ConnectionError):
            assert await talk.reader.read() == b""
        gone.set()

    async with forwarding(script) as world:
        _, writer = await asyncio.open_connection("127.0.0.1", world.front.port)
        writer.write(post(stream()))
        async with asyncio.timeout(LIMIT):
            await reached.wait()
            writer.transport.abort()
            await gone.wait()
            while world.scheduler.in_flight:
                await asyncio.sleep(0)
    assert not warnings_in(caplog)


# Waiting for a model


def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_forwarding, "FIRST_COMMENT_AFTER", 0.02)
    monkeypatch.setattr(local_forwarding, "COMMENT_INTERVAL", 0.02)


async def commented(world: World, data: bytes) -> bytes:
    """Send a request, continue the load after two comments, and return the whole answer."""
    world.launcher.gate.clear()
    reader, writer = await asyncio.open_connection("127.0.0.1", world.front.port)
    try:
        writer.write(data)
        async with asyncio.timeout(LIMIT):
            received = await reader.readuntil(b": loading m\n\n")
            world.launcher.progress(0.42)
            received += await reader.readuntil(b": loading m 42%, about 1 s left\n\n")
            world.launcher.gate.set()
            return received + await reader.read()
    finally:
        writer.close()


LENGTHS = [
    answer(*EVENTS) + event('{"n":1}') + LAST,
    answer("Content-Type: text/event-stream", body=b'data: {"n":1}\n\n'),
    answer("Content-Type: application/json", body=b'{"n":\n1}'),
]


@pytest.mark.parametrize("reply", LENGTHS, ids=["chunked", "length", "json"])
async def test_comments_while_it_loads_then_the_stream(
    reply: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient(monkeypatch)
    async with forwarding(Recorder(reply)) as world:
        received = await commented(world, post(stream(), "Connection: close"))
    assert received.count(b"HTTP/1.1") == 1
    assert b"Content-Type: text/event-stream" in received
    assert events_of(unchunked(received)) == [{"n": 1}]


@pytest.mark.parametrize("reply", LENGTHS, ids=["chunked", "length", "json"])
@pytest.mark.parametrize("lines", [(), ("Connection: keep-alive",)])
async def test_comments_reach_http_10_until_the_connection_ends(
    reply: bytes, lines: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reverse proxies use HTTP/1.0 in their default configuration."""
    impatient(monkeypatch)
    async with forwarding(Recorder(reply)) as world:
        received = await commented(world, post(stream(), *lines, version="1.0"))
    head, _, content = received.partition(b"\r\n\r\n")
    assert head.count(b"HTTP/1.1 200 OK") == 1
    assert b"Content-Type: text/event-stream" in head
    # Otherwise a proxy would hold back the comments.
    assert b"X-Accel-Buffering: no" in head
    assert b"Connection: close" in head
    assert b"chunked" not in received
    assert b"Content-Length" not in received
    assert content.startswith(b": loading m\n\n")
    assert events_of(content) == [{"n": 1}]


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize(
    ("path", "method"),
    [
        ("/completion", "POST"),
        ("/infill", "POST"),
        ("/v1/responses", "POST"),
        ("/v1/messages", "POST"),
        ("/upstream/m/v1/chat/completions", "POST"),
        ("/upstream/m/events", "GET"),
    ],
)
async def test_comments_in_every_kind_of_stream(
    path: str, method: str, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient(monkeypatch)
    lines = ["Connection: close"]
    if method == "GET":
        data = head(
            f"GET {path} HTTP/{version}", "Host: localhost", "Accept: text/event-stream", *lines
        )
    else:
        data = post(stream(), *lines, path=path, version=version)
    async with forwarding(Recorder(LENGTHS[0])) as world:
        received = await commented(world, data)
    content = unchunked(received) if version == "1.1" else received.partition(b"\r\n\r\n")[2]
    assert events_of(content) == [{"n": 1}]


async def test_a_stream_that_passes_is_not_held_back_by_a_proxy() -> None:
    own = answer(*EVENTS, "X-Accel-Buffering: yes") + LAST
    for reply, expected in ((LENGTHS[0], ["no"]), (own, ["yes"]), (answer(body=b"{}"), [])):
        async with (
            forwarding(Recorder(reply)) as world,
            world.front.client.post(CHAT, data=stream()) as got,
        ):
            assert got.headers.getall("X-Accel-Buffering", []) == expected


@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_a_load_that_fails_after_comments_is_an_event(
    version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient(monkeypatch)
    async with forwarding(Recorder()) as world:
        world.launcher.failure = ModelLoadError("out of memory", log_tail=("E last",))
        received = await commented(world, post(stream(), "Connection: close", version=version))
    content = unchunked(received) if version == "1.1" else received.partition(b"\r\n\r\n")[2]
    (error,) = events_of(content)
    assert isinstance(error, dict)
    assert error["error"]["code"] == "model_load_failed"
    assert "E last" in error["error"]["message"]


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (answer(status="400 Bad Request", body=b'{"error":\n{"message":"too long"}}'), "too long"),
        (answer(status="500 Oops", body=b"<html>"), "answered 500: <html>"),
        (b"", "closed the connection"),
        (answer("Content-Length: 100", body=b"half"), "closed the connection"),
        (answer("Content-Length: 9", *EVENTS[:1], body=b"data: "), "closed the connection"),
        (answer(*EVENTS), "closed the connection"),
    ],
)
async def test_an_error_of_the_server_after_comments_is_an_event(
    reply: bytes, words: str, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient(monkeypatch)

    async def script(talk: Talk) -> None:
        await talk.request()
        await talk.say(reply)

    async with forwarding(script) as world:
        received = await commented(world, post(stream(), "Connection: close", version=version))
    content = unchunked(received) if version == "1.1" else received.partition(b"\r\n\r\n")[2]
    assert words in content.decode()
    assert content.count(b'"error"') == 1


async def test_a_quick_failure_has_its_status() -> None:
    async with forwarding(Recorder()) as world:
        world.launcher.failure = ModelLoadError("broken file")
        async with world.front.client.post(CHAT, data=stream()) as got:
            assert got.status == 503
            assert (await got.json())["error"]["code"] == "model_load_failed"


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("accept", ["application/json, text/event-stream", "*/*"])
async def test_others_get_no_comments(
    version: str, accept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient(monkeypatch)
    body = b'{"model":"m"}'
    data = post(body, "Connection: close", f"Accept: {accept}", version=version)
    async with forwarding(Recorder()) as world:
        world.launcher.gate.clear()
        waiting = asyncio.ensure_future(to_the_end(world.front.port, data))
        done, _ = await asyncio.wait({waiting}, timeout=0.15)
        assert not done
        world.launcher.gate.set()
        received = await waiting
    assert received.endswith(b"\r\n\r\n{}")
    assert b": loading" not in received


async def test_a_client_that_leaves_while_it_waits_leaves_the_queue(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    impatient(monkeypatch)
    async with forwarding(Recorder()) as world:
        world.launcher.gate.clear()
        reader, writer = await asyncio.open_connection("127.0.0.1", world.front.port)
        writer.write(post(stream()))
        async with asyncio.timeout(LIMIT):
            await reader.readuntil(b": loading")
            assert world.scheduler.waiting == 1
            writer.transport.abort()
            while world.scheduler.waiting:
                await asyncio.sleep(0)
        world.launcher.gate.set()
    assert not warnings_in(caplog)


# The model


async def test_where_the_model_is_named() -> None:
    server = Recorder()
    async with forwarding(server, model("m"), model("team/a"), model("team")) as world:
        client = world.front.client
        for url, headers, body, status in (
            ("/tokenize", {}, b"{}", 400),  # nobody named it and none is loaded
            ("/tokenize", {"X-Model": "m"}, b"{}", 200),
            ("/tokenize", {}, b"{}", 200),  # the only one loaded
            ("/tokenize?model=none", {"X-Model": "m"}, b"{}", 404),
            ("/tokenize?model=none", {}, b'{"model":"M"}', 200),
            ("/tokenize?model=m", {"X-Model": "none"}, b"{}", 200),
            ("/upstream/team/a/tokenize", {}, b"", 200),
            ("/upstream/team%2Fa/tokenize", {}, b"not json", 200),
            ("/upstream/team/b", {}, b"", 200),
            ("/upstream/none/b", {}, b"", 404),
            ("/tokenize", {}, b"{}", 400),  # three are loaded
            ("/nonsense?model=m", {}, b"{}", 404),
            ("/slots?model=m", {}, b"{}", 405),
        ):
            async with client.post(url, data=body, headers=headers) as got:
                assert got.status == status, url
                await got.read()
    assert [one.target for one in server.seen] == [
        *["/tokenize"] * 2,
        "/tokenize?model=none",
        "/tokenize?model=m",
        *["/tokenize"] * 2,
        "/b",
    ]


@pytest.mark.parametrize("body", [b"zz\r\n", b"5\r\nhelloXX"])
async def test_a_body_in_broken_chunks_is_the_clients_mistake(
    body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with forwarding(Recorder()) as world:
        got = await ask(
            world.front.port,
            f"POST {CHAT} HTTP/1.1",
            "Host: localhost",
            "Transfer-Encoding: chunked",
            body=body,
        )
        assert got.status == 400
        assert not world.launcher.servers
    assert not warnings_in(caplog)


async def test_half_a_body_loads_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with forwarding(Recorder()) as world:
        _, writer = await asyncio.open_connection("127.0.0.1", world.front.port)
        writer.write(post(stream())[:-5])
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        async with world.front.client.get("/health") as got:
            assert got.status == 200
        assert not world.launcher.servers
    assert not warnings_in(caplog)
