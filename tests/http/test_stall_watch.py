"""Servers that send nothing: stalled requests, and hanging servers."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest

from tests.http.client_side import events_of, post, stream, to_the_end, unchunked
from tests.http.test_records import recorded
from tests.http.upstream import EVENTS, LAST, Talk, World, answer, event, forwarding
from tests.waiting import LIMIT

STALL = 0.2
STREAM = answer(*EVENTS) + event('{"n":1}') + LAST
WORDS = "sent nothing for 0.2 s (stall_timeout)"


async def asked(world: World, **fields: object) -> bytes:
    return await to_the_end(world.front.port, post(stream(**fields), "Connection: close"))


async def silence(talk: Talk) -> None:
    """Keep the connection and send nothing, until the other end closes it."""
    with contextlib.suppress(ConnectionError):
        await talk.reader.read()


def hung(world: World) -> list[str | None]:
    return [server.hung for server in world.launcher.servers]


@pytest.mark.parametrize(
    "words",
    [b"", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"],
    ids=["nothing", "half a head", "a head"],
)
async def test_a_server_that_is_silent_to_all_is_ended_and_replaced(words: bytes) -> None:
    async def script(talk: Talk) -> None:
        await talk.request()
        if talk.number == 1:
            await talk.say(words)
            await silence(talk)
        else:
            await talk.say(STREAM)

    async with forwarding(script, stall_timeout=STALL) as world:
        received = await asked(world)
        (record,) = await recorded(world)
        assert hung(world) == [WORDS, None]
    assert events_of(unchunked(received)) == [{"n": 1}]
    assert (record.status, record.error) == (200, None)
    assert record.duration_seconds >= STALL


async def test_a_second_server_that_hangs_is_an_error() -> None:
    async def script(talk: Talk) -> None:
        await talk.request()
        await silence(talk)

    async with forwarding(script, stall_timeout=STALL) as world:
        received = await asked(world)
        (record,) = await recorded(world)
        assert hung(world) == [WORDS, WORDS]
    error = json.loads(received.partition(b"\r\n\r\n")[2])["error"]
    assert error["code"] == "upstream_failed"
    assert WORDS in error["message"]
    assert record.status == 502


async def test_a_stream_that_stops_ends_with_an_event() -> None:
    async def script(talk: Talk) -> None:
        await talk.request()
        await talk.say(answer(*EVENTS), event('{"n":1}'))
        await silence(talk)

    async with forwarding(script, stall_timeout=STALL) as world:
        received = await asked(world)
        (record,) = await recorded(world)
        assert hung(world) == [WORDS]
    first, error = events_of(unchunked(received))
    assert first == {"n": 1}
    assert isinstance(error, dict)
    assert WORDS in error["error"]["message"]
    assert record.status == 200
    assert WORDS in (record.error or "")


async def ticking(talk: Talk, until: asyncio.Event) -> None:
    """A stream that continues until an event is set."""
    await talk.say(answer(*EVENTS))
    while not until.is_set():
        await talk.say(event('{"n":1}'))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(until.wait(), STALL / 10)
    await talk.say(LAST)


async def test_only_the_stalled_request_ends_while_another_gets_bytes() -> None:
    stalled_ended = asyncio.Event()

    async def script(talk: Talk) -> None:
        got = await talk.request()
        if json.loads(got.body)["which"] == "stalls":
            await talk.say(answer(*EVENTS), event('{"n":1}'))
            await silence(talk)
        else:
            await ticking(talk, stalled_ended)

    async with forwarding(script, stall_timeout=STALL) as world:
        going = asyncio.ensure_future(asked(world, which="goes"))
        received = await asked(world, which="stalls")
        assert not going.done()
        stalled_ended.set()
        whole = events_of(unchunked(await going))
        records = await recorded(world, 2)
        assert hung(world) == [None]
    assert WORDS in str(events_of(unchunked(received))[-1])
    assert {"n": 1} in whole
    assert not [one for one in whole if one != {"n": 1}]
    assert [WORDS in (one.error or "") for one in records] == [True, False]


async def test_a_stalled_request_without_a_byte_fails_beside_others() -> None:
    stalled_ended = asyncio.Event()

    async def script(talk: Talk) -> None:
        got = await talk.request()
        if json.loads(got.body)["which"] == "stalls":
            await silence(talk)
        else:
            await ticking(talk, stalled_ended)

    async with forwarding(script, stall_timeout=STALL) as world:
        going = asyncio.ensure_future(asked(world, which="goes"))
        received = await asked(world, which="stalls")
        stalled_ended.set()
        await going
        await recorded(world, 2)
        # The server is alive, so the request is not sent again.
        assert (world.connections, hung(world)) == (2, [None])
    assert received.startswith(b"HTTP/1.1 502 ")
    assert WORDS.encode() in received


async def test_answers_that_are_over_show_life_as_well() -> None:
    async def script(talk: Talk) -> None:
        while True:
            got = await talk.request()
            if json.loads(got.body)["which"] == "stalls":
                await silence(talk)
                return
            await talk.say(answer(body=b"{}"))

    async with forwarding(script, stall_timeout=STALL) as world:
        stalled = asyncio.ensure_future(asked(world, which="stalls"))
        while not stalled.done():
            await asked(world, which="is quick")
            await asyncio.wait({stalled}, timeout=STALL / 10)
        assert (await stalled).startswith(b"HTTP/1.1 502 ")
        assert hung(world) == [None]


async def test_both_of_two_that_stall_get_the_next_server() -> None:
    async def script(talk: Talk) -> None:
        await talk.request()
        if len(world.launcher.servers) == 1:
            await silence(talk)
        else:
            await talk.say(STREAM)

    async with forwarding(script, stall_timeout=STALL) as world:
        one, two = await asyncio.gather(asked(world), asked(world))
        await recorded(world, 2)
        assert hung(world) == [WORDS, None]
    assert events_of(unchunked(one)) == events_of(unchunked(two)) == [{"n": 1}]


async def test_a_client_that_does_not_read_is_no_stall() -> None:
    total = 32 << 20

    async def script(talk: Talk) -> None:
        await talk.request()
        await talk.say(answer(f"Content-Length: {total}"))
        for _ in range(total >> 16):
            await talk.say(b"x" * (1 << 16))

    async with forwarding(script, stall_timeout=STALL) as world:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.front.port, limit=1 << 16)
        writer.write(post(stream()))
        async with asyncio.timeout(LIMIT):
            await reader.readuntil(b"\r\n\r\n")
            # This time must not count, however long it is.
            await asyncio.sleep(4 * STALL)
            size = 0
            while size < total:
                part = await reader.read(1 << 20)
                assert part
                size += len(part)
        writer.close()
        (record,) = await recorded(world)
        assert hung(world) == [None]
    assert record.error is None


async def test_a_slow_client_keeps_its_server_from_being_hung() -> None:
    async def script(talk: Talk) -> None:
        got = await talk.request()
        if json.loads(got.body)["which"] == "stalls":
            await silence(talk)
        else:
            with contextlib.suppress(ConnectionError):
                await talk.say(answer("Content-Length: 100000000"), b"x" * 100_000_000)

    async with forwarding(script, stall_timeout=STALL) as world:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.front.port, limit=1000)
        writer.write(post(stream(which="is not read")))
        async with asyncio.timeout(LIMIT):
            await reader.readuntil(b"\r\n\r\n")
        # So long that its last bytes are no sign of life any more.
        await asyncio.sleep(4 * STALL)
        received = await asked(world, which="stalls")
        assert hung(world) == [None]
        writer.transport.abort()
        await recorded(world, 2)
    assert received.startswith(b"HTTP/1.1 502 ")


async def test_without_the_setting_there_is_no_limit() -> None:
    asked_for = asyncio.Event()
    go_on = asyncio.Event()

    async def script(talk: Talk) -> None:
        await talk.request()
        asked_for.set()
        await go_on.wait()
        await talk.say(STREAM)

    async with forwarding(script) as world:
        asking = asyncio.ensure_future(asked(world))
        async with asyncio.timeout(LIMIT):
            await asked_for.wait()
        assert not (await asyncio.wait({asking}, timeout=3 * STALL))[0]
        go_on.set()
        assert events_of(unchunked(await asking)) == [{"n": 1}]
        assert hung(world) == [None]
