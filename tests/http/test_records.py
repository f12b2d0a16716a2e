from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from cyber_inference_tui.errors import ModelLoadError
from cyber_inference_tui.http import local_forwarding
from cyber_inference_tui.records import ActiveRequestRecord, Priority, RequestRecord
from tests.fakes.service import make_settings
from tests.http.client_side import CHAT, post, stream, to_the_end
from tests.http.raw import head
from tests.http.upstream import EVENTS, LAST, Script, Talk, World, answer, event, forwarding
from tests.waiting import LIMIT

TIMINGS = '"timings":{"cache_n":3,"prompt_n":4,"predicted_n":5,"predicted_per_second":12.5}'
WHOLE = answer(body=b'{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":5}}')
STREAM = answer(*EVENTS) + event('{"x":1}') + event("{" + TIMINGS + "}") + event("[DONE]") + LAST


def saying(*replies: bytes) -> Script:
    """Return a script that gives each request the same answer."""

    async def script(talk: Talk) -> None:
        while True:
            await talk.request()
            await talk.say(*replies)

    return script


async def recorded(world: World, count: int = 1) -> list[RequestRecord]:
    """Wait for ``count`` records and the end of all requests, and return the records."""
    async with asyncio.timeout(LIMIT):
        while len(world.records) < count or world.scheduler.in_flight:
            await asyncio.sleep(0)
    assert len(world.records) == count
    return world.records


async def test_a_whole_answer() -> None:
    async with forwarding(saying(WHOLE)) as world:
        async with world.front.client.post(CHAT + "?key=secret", data=b'{"model":"M"}') as got:
            assert got.status == 200
        (record,) = await recorded(world)
        state = world.scheduler.state("m")
        assert state is not None
        assert state.session is not None
        assert (state.session.tokens_in, state.session.tokens_out) == (7, 5)
    assert (record.model, record.path, record.status) == ("m", CHAT, 200)
    assert (record.tokens_in, record.tokens_out, record.tokens_per_second) == (7, 5, None)
    assert (record.stream, record.client, record.error) == (False, "127.0.0.1", None)
    first = record.time_to_first_token_seconds
    assert first is not None
    assert 0 < record.queue_seconds <= first <= record.duration_seconds
    assert record.at.tzinfo is not None


@pytest.mark.parametrize("lean", [True, False])
async def test_the_client_of_a_request(lean: bool) -> None:
    lines = ["User-Agent: OpenAI/Python 1.2.3", "x-api-key: b", "Connection: close"]
    lines += [] if lean else ["Origin: http://localhost"]
    settings = make_settings(api_keys=("a", "b"))
    async with forwarding(saying(WHOLE), front_settings=settings, api_keys=("a", "b")) as world:
        await to_the_end(world.front.port, post(b'{"model":"m"}', *lines))
        (record,) = await recorded(world)
        assert (record.user_agent, record.key_name) == ("OpenAI/Python 1.2.3", "2")
        assert record.port == world.front.port
        await to_the_end(world.front.port, post(b"{}", "x-api-key: c", "Connection: close"))
        ((refused, code),) = world.refusals
    assert (code, refused.key_name, refused.port) == ("invalid_api_key", None, record.port)


async def test_a_stream() -> None:
    async with forwarding(saying(STREAM)) as world:
        for _ in range(2):
            await to_the_end(world.front.port, post(stream(), "Connection: close"))
        first, second = await recorded(world, 2)
        state = world.scheduler.state("m")
        assert state is not None
        assert state.session is not None
        assert (state.session.tokens_in, state.session.tokens_out) == (14, 10)
    for record in (first, second):
        assert (record.stream, record.status, record.error) == (True, 200, None)
        assert (record.tokens_in, record.tokens_out, record.tokens_per_second) == (7, 5, 12.5)
        assert record.time_to_first_token_seconds is not None
    # The model was loaded for the second request.
    assert first.queue_seconds > second.queue_seconds == 0


async def test_an_encoded_answer_is_not_looked_into() -> None:
    for coding, tokens in (("identity", 7), ("gzip", None)):
        reply = WHOLE.replace(b"\r\n", f"\r\nContent-Encoding: {coding}\r\n".encode(), 1)
        async with forwarding(saying(reply)) as world:
            await to_the_end(world.front.port, post(stream(), "Connection: close"))
            (record,) = await recorded(world)
        assert (record.status, record.tokens_in) == (200, tokens)


@pytest.mark.parametrize(
    ("line", "body", "reply", "expected"),
    [
        ("GET /props?model=m", b"", answer(body=b"{}"), None),
        ("GET /props?model=m", b"", answer(status="500 X", body=b"no"), (500, "with status 500")),
        ("GET /upstream/m/a.js", b"", answer(status="404 No", body=b""), (404, "with status 404")),
        ("POST /tokenize", b'{"model":"m"}', answer(body=b'{"tokens":[]}'), None),
        (
            "POST /tokenize",
            b'{"model":"m"}',
            answer(status="400 Bad", body=b'{"error":{"message":"no\\u001b[1m text"}}'),
            (400, "no text"),
        ),
        ("POST /v1/audio/transcriptions?model=m", b"{}", answer(body=b"{}"), (200, None)),
        ("POST /upstream/m/v1/embeddings", b"{}", answer(body=b"{}"), (200, None)),
        ("POST /upstream/m/v1/embeddings", b"[", answer(body=b"{}"), None),
        ("POST /v1/embeddings", b"[", answer(body=b"{}"), None),
        ("POST /v1/embeddings", b'{"model":"none"}', answer(body=b"{}"), None),
        ("POST /nonsense?model=m", b"{}", answer(body=b"{}"), None),
    ],
)
async def test_fields_of_the_record(
    line: str, body: bytes, reply: bytes, expected: tuple[int, str | None] | None
) -> None:
    async with forwarding(saying(reply)) as world:
        request = head(
            f"{line} HTTP/1.1",
            "Host: localhost",
            "Connection: close",
            f"Content-Length: {len(body)}",
        )
        await to_the_end(world.front.port, request + body)
        records = await recorded(world, expected is not None)
    if expected is not None:
        status, words = expected
        assert records[0].status == status
        assert (records[0].error is None) == (words is None)
        assert (words or "") in (records[0].error or "")
        assert records[0].path == line.split()[1].partition("?")[0]
        assert (records[0].time_to_first_token_seconds is None) == (status != 200)


async def test_names_are_bounded_and_clean() -> None:
    async with forwarding(saying(answer(status="404 No"))) as world:
        path = "/upstream/m/%1b%5b31m" + "x" * 3000
        request = head(f"GET {path} HTTP/1.1", "Host: localhost", "Connection: close")
        await to_the_end(world.front.port, request)
        (record,) = await recorded(world)
    assert record.path.startswith("/upstream/m/xxx")
    assert len(record.path) < 300


# Requests without a complete answer


async def refused_load(world: World) -> None:
    world.launcher.failure = ModelLoadError("broken file", hint="Get another.")
    await to_the_end(world.front.port, post(stream(), "Connection: close"))


async def timed_out(world: World) -> None:
    world.launcher.gate.clear()
    await to_the_end(world.front.port, post(stream(), "Connection: close"))


async def left_waiting(world: World) -> None:
    world.launcher.gate.clear()
    await leave(world, lambda: world.scheduler.waiting > 0)


async def left_in_prefill(world: World) -> None:
    await leave(world, lambda: world.connections > 0)


async def left_in_stream(world: World) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.front.port)
    writer.write(post(stream()))
    async with asyncio.timeout(LIMIT):
        await reader.readuntil(b'{"x":1}\n\n')
    writer.transport.abort()


async def leave(world: World, when: Callable[[], bool]) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", world.front.port)
    writer.write(post(stream()))
    async with asyncio.timeout(LIMIT):
        while not when():
            await asyncio.sleep(0)
    writer.transport.abort()


async def asked(world: World) -> None:
    await to_the_end(world.front.port, post(stream(), "Connection: close"))


async def silent(talk: Talk) -> None:
    await talk.request()
    with contextlib.suppress(ConnectionError):
        await talk.reader.read()


async def one_event(talk: Talk) -> None:
    await talk.request()
    counted = '{"tokens_predicted":2,"tokens_evaluated":7}'
    await talk.say(answer(*EVENTS), event(counted), event('{"x":1}'))
    await asyncio.wait({asyncio.ensure_future(talk.reader.read())}, timeout=0.2)


async def closing(talk: Talk) -> None:
    await talk.request()


@pytest.mark.parametrize(
    ("script", "client", "settings", "expected"),
    [
        (closing, refused_load, {}, {"status": 503, "error": "broken file Get another."}),
        (closing, timed_out, {"queue_timeout": 0.05}, {"status": 503, "error": "queue_timeout"}),
        (closing, left_waiting, {}, {"status": 499, "error": "client went away"}),
        (silent, left_in_prefill, {}, {"status": 499, "error": "client went away"}),
        (one_event, left_in_stream, {}, {"status": 499, "tokens_out": 2, "tokens_in": 7}),
        (closing, asked, {}, {"status": 502, "error": "closed the connection"}),
        (one_event, asked, {}, {"status": 200, "tokens_out": 2, "error": "closed the connect"}),
        (
            saying(answer(*EVENTS) + event('{"error":{"message":"too long"}}') + LAST),
            asked,
            {},
            {"status": 200, "error": "too long"},
        ),
    ],
    ids=["load", "timeout", "waiting", "prefill", "stream", "closed", "cut", "error event"],
)
async def test_each_end_is_recorded_once(
    script: Script,
    client: Callable[[World], Awaitable[None]],
    settings: dict[str, Any],
    expected: dict[str, Any],
) -> None:
    async with forwarding(script, **settings) as world:
        await client(world)
        (record,) = await recorded(world)
        world.launcher.gate.set()
    words = expected.pop("error", "")
    assert words in (record.error or "")
    assert {name: getattr(record, name) for name in expected} == expected
    assert (record.model, record.stream) == ("m", True)
    assert [code is None for code in world.codes] == [record.error is None]
    assert 0 <= record.queue_seconds <= record.duration_seconds


async def test_one_too_many_is_recorded() -> None:
    async with forwarding(saying(WHOLE), max_queue=1) as world:
        world.launcher.gate.clear()
        first = asyncio.ensure_future(asked(world))
        async with asyncio.timeout(LIMIT):
            while not world.scheduler.waiting:
                await asyncio.sleep(0)
        await asked(world)
        (record,) = world.records
        assert (record.status, record.queue_seconds < record.duration_seconds) == (429, True)
        assert world.codes == ["queue_full"]
        world.launcher.gate.set()
        await first
        assert [one.status for one in await recorded(world, 2)] == [429, 200]


@pytest.mark.parametrize(
    ("reply", "tokens", "words"),
    [
        (answer(status="400 Bad", body=b'{"error":{"message":"too long"}}'), None, "too long"),
        (answer(status="500 Oops", body=b"<html>"), None, "with status 500"),
        (WHOLE, 7, ""),
        (STREAM, 7, ""),
    ],
)
async def test_behind_comments_the_status_is_200(
    reply: bytes, tokens: int | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_forwarding, "FIRST_COMMENT_AFTER", 0.01)
    async with forwarding(saying(reply)) as world:
        world.launcher.gate.clear()
        reader, writer = await asyncio.open_connection("127.0.0.1", world.front.port)
        writer.write(post(stream(), "Connection: close"))
        async with asyncio.timeout(LIMIT):
            await reader.readuntil(b": loading m\n\n")
            world.launcher.gate.set()
            await reader.read()
        writer.close()
        (record,) = await recorded(world)
    assert (record.status, record.tokens_in) == (200, tokens)
    assert words in (record.error or "")
    assert (record.error is None) == (not words)
    assert world.codes == ["server_error" if words else None]


async def test_a_defect_in_the_books_spoils_no_answer(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with forwarding(saying(WHOLE)) as world:
        world.on_request = lambda record: json.loads("")
        for _ in range(2):
            async with world.front.client.post(CHAT, data=stream()) as got:
                assert (got.status, await got.read()) == (200, WHOLE.partition(b"\r\n\r\n")[2])
    assert "a request was not recorded" in caplog.text


# Requests that are not finished


async def test_active_requests_move_through_their_phases() -> None:
    go_on = asyncio.Event()

    async def server(talk: Talk) -> None:
        await talk.request()
        await go_on.wait()
        go_on.clear()
        await talk.say(answer(*EVENTS) + event("{}"))
        await go_on.wait()
        await talk.say(LAST)

    async with forwarding(server) as world:
        world.launcher.gate.clear()

        async def phases(count: int, *wanted: str) -> list[ActiveRequestRecord]:
            async with asyncio.timeout(LIMIT):
                while True:
                    found = world.active()
                    # A request gets its place in the queue a turn of the loop after its phase.
                    placed = all(one.position for one in found if one.phase == "waiting")
                    if placed and [one.phase for one in found] == list(wanted):
                        assert len(found) == count
                        return found
                    await asyncio.sleep(0.005)

        port, request = world.front.port, post(stream(), "Connection: close")
        first = asyncio.create_task(to_the_end(port, request))
        await phases(1, "waiting")
        second = asyncio.create_task(to_the_end(port, request))
        one, two = await phases(2, "waiting", "waiting")
        assert one.number != two.number
        assert one.at <= two.at
        assert (one.position, two.position) == (1, 2)
        assert one.priority is Priority.NORMAL
        assert (one.model, one.path, one.stream, one.client) == ("m", CHAT, True, "127.0.0.1")
        assert one.time_to_first_token_seconds is None
        second.cancel()
        (same,) = await phases(1, "waiting")
        assert same.number == one.number
        assert same.queue_seconds > 0
        world.launcher.gate.set()
        (busy,) = await phases(1, "processing")
        assert busy.position is None
        assert busy.priority is None
        assert busy.queue_seconds >= same.queue_seconds
        go_on.set()
        (answering,) = await phases(1, "answering")
        assert answering.queue_seconds == busy.queue_seconds
        assert answering.time_to_first_token_seconds is not None
        assert answering.time_to_first_token_seconds >= answering.queue_seconds
        go_on.set()
        await first
        assert world.active() == []


async def test_a_request_that_fails_does_not_stay_active() -> None:
    async def server(talk: Talk) -> None:
        await talk.request()

    async with forwarding(server) as world:
        world.launcher.failure = ModelLoadError("it is damaged")
        async with world.front.client.post(CHAT, data=stream()) as answer:
            assert answer.status == 503
        world.launcher.failure = None
        async with world.front.client.post("/v1/nothing", data=stream()) as answer:
            assert answer.status == 404
        assert world.active() == []
