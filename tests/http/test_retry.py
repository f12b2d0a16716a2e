"""Requests whose server crashes are sent to the next server, if that is possible."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from typing import Any

import pytest

from cyber_inference_tui.errors import ModelLoadError
from cyber_inference_tui.http import local_forwarding
from tests.http.client_side import CHAT, events_of, post, stream, to_the_end, unchunked
from tests.http.test_records import recorded
from tests.http.upstream import EVENTS, LAST, Talk, World, answer, event, forwarding
from tests.waiting import LIMIT

AGAIN = "Sending the request again"
STREAM = answer(*EVENTS) + event('{"n":1}') + LAST


class Mortal:
    """Crashes with its first ``deaths`` requests after ``last_words``, then answers ``reply``."""

    def __init__(self, *last_words: bytes, deaths: int = 1, reply: bytes = STREAM) -> None:
        self.last_words = last_words
        self.deaths = deaths
        self.reply = reply
        self.bodies: list[bytes] = []
        self.world: World | None = None

    async def __call__(self, talk: Talk) -> None:
        assert self.world is not None
        self.bodies.append((await talk.request()).body)
        if len(self.bodies) <= self.deaths:
            await talk.say(*self.last_words)
            await self.world.launcher.servers[-1].stop(0)
        else:
            await talk.say(self.reply)
            await talk.reader.read()


def retries(caplog: pytest.LogCaptureFixture) -> int:
    return sum(AGAIN in one.getMessage() for one in caplog.records)


@pytest.mark.parametrize(
    "last_words",
    [
        (),
        (b"HTTP/1.1 200 O",),
        # A head without a byte of the body is not passed on yet.
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n",),
    ],
    ids=["nothing", "half a head", "a head"],
)
async def test_the_next_server_answers(
    last_words: tuple[bytes, ...], caplog: pytest.LogCaptureFixture
) -> None:
    server = Mortal(*last_words)
    async with forwarding(server) as world:
        server.world = world
        received = await to_the_end(world.front.port, post(stream(), "Connection: close"))
        (record,) = await recorded(world)
        assert len(world.launcher.servers) == 2
    assert received.count(b"HTTP/1.1") == 1
    assert events_of(unchunked(received)) == [{"n": 1}]
    assert server.bodies == [stream(), stream()]
    assert (record.status, record.error) == (200, None)
    assert record.queue_seconds > 0
    assert retries(caplog) == 1


async def test_a_request_on_a_kept_connection_is_retried_as_well() -> None:
    seen = 0

    async def script(talk: Talk) -> None:
        nonlocal seen
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                await talk.request()
                seen += 1
                if seen == 2:
                    # The crash is noticed on the reused connection, and on the new one after it.
                    talk.reset()
                    return
                if seen == 3:
                    await world.launcher.servers[0].stop(0)
                    return
                await talk.say(answer(body=b"{}"))

    async with forwarding(script) as world:
        for _ in range(2):
            async with world.front.client.post(CHAT, data=stream()) as got:
                assert (got.status, await got.read()) == (200, b"{}")
        await recorded(world, 2)
        assert len(world.launcher.servers) == 2


@pytest.mark.parametrize(
    "last_words",
    [
        (),
        (answer(*EVENTS),),
        (answer("Content-Type: text/event-stream", "Content-Length: 9"), b""),
        (answer(status="500 Oops", body=b"{}")[:-1],),
    ],
    ids=["nothing", "a head", "a head with a length", "half an error"],
)
async def test_comments_are_no_part_of_the_answer(
    last_words: tuple[bytes, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_forwarding, "FIRST_COMMENT_AFTER", 0.01)
    monkeypatch.setattr(local_forwarding, "COMMENT_INTERVAL", 0.01)
    server = Mortal(*last_words)
    async with forwarding(server) as world:
        server.world = world
        world.launcher.gate.clear()
        reader, writer = await asyncio.open_connection("127.0.0.1", world.front.port)
        writer.write(post(stream(), "Connection: close"))
        async with asyncio.timeout(LIMIT):
            received = await reader.readuntil(b": loading m\n\n")
            world.launcher.gate.set()
            while len(world.launcher.servers) < 1:
                await asyncio.sleep(0)
            # The second load takes long, too, and has the same comments.
            world.launcher.gate.clear()
            while not world.launcher.servers[0].exited.done():
                await asyncio.sleep(0)
            received += await reader.readuntil(b": loading m\n\n")
            world.launcher.gate.set()
            received += await reader.read()
        writer.close()
        (record,) = await recorded(world)
    assert received.count(b"HTTP/1.1") == 1
    assert events_of(unchunked(received)) == [{"n": 1}]
    assert (record.status, record.error) == (200, None)


async def test_a_second_death_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    server = Mortal(deaths=2)
    async with forwarding(server) as world:
        server.world = world
        async with world.front.client.post(CHAT, data=stream()) as got:
            assert got.status == 502
            error = (await got.json())["error"]
        (record,) = await recorded(world)
    assert error["code"] == "upstream_failed"
    assert "killed by SIGSEGV" in error["message"]
    assert (record.status, len(server.bodies)) == (502, 2)
    assert retries(caplog) == 1


async def test_a_request_that_crashes_every_server_fails_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    everybody = asyncio.Event()
    first: list[bytes] = []
    bad = b'{"model":"m","n":0}'

    async def kills_with_the_bad_one(talk: Talk) -> None:
        body = (await talk.request()).body
        if len(first) < 4:
            first.append(body)
            if len(first) == 4:
                everybody.set()
        await everybody.wait()
        if body == bad:
            await world.launcher.servers[-1].stop(0)
            return
        # All requests at the server are lost with the bad one.
        await asyncio.wait({world.launcher.servers[-1].exited}, timeout=0.2)
        if not world.launcher.servers[-1].exited.done():
            await talk.say(answer(body=body))

    async with forwarding(kills_with_the_bad_one) as world, asyncio.timeout(LIMIT):

        async def ask(number: int) -> int:
            data = b'{"model":"m","n":%d}' % number
            async with world.front.client.post(CHAT, data=data) as got:
                await got.read()
                return got.status

        assert await asyncio.gather(*map(ask, range(4))) == [502, 200, 200, 200]
    assert retries(caplog) == 4


class Mine:
    """Servers that crash as soon as they have read a request that demands it."""

    def __init__(self) -> None:
        self.world: World | None = None
        self.seen: list[bytes] = []
        self.hold = asyncio.Event()
        """Good requests get no answer until it is set."""

    async def __call__(self, talk: Talk) -> None:
        assert self.world is not None
        body = (await talk.request()).body
        server = self.world.launcher.servers[-1]
        self.seen.append(body)
        if b"bad" in body:
            await server.stop(0)
            return
        waits: list[asyncio.Future[Any]] = [
            asyncio.ensure_future(self.hold.wait()),
            server.exited,
        ]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if not server.exited.done():
            await talk.say(answer(body=body))

    async def ask(self, name: str) -> int:
        assert self.world is not None
        data = json.dumps({"model": "m", "name": name}).encode()
        async with self.world.front.client.post(CHAT, data=data) as got:
            body = await got.read()
            assert got.status != 200 or body == data
            return got.status

    def tries(self, name: str) -> int:
        return sum(json.loads(body)["name"] == name for body in self.seen)

    async def until(self, name: str, tries: int) -> None:
        """Wait until the request was sent so many times."""
        while self.tries(name) < tries:
            await asyncio.sleep(0)


async def test_a_new_request_that_kills_waits_while_another_has_its_second_try() -> None:
    server = Mine()
    async with forwarding(server) as world, asyncio.timeout(LIMIT):
        server.world = world
        good = asyncio.ensure_future(server.ask("good"))
        await server.until("good", 1)
        bad = asyncio.ensure_future(server.ask("bad 1"))
        # The good request is lost with the bad one, and retried at the next server.
        await server.until("good", 2)
        new = [asyncio.ensure_future(server.ask(f"bad {number}")) for number in (2, 3)]
        other = asyncio.ensure_future(server.ask("other"))
        for _ in range(50):
            await asyncio.sleep(0)
        assert [server.tries(name) for name in ("bad 2", "bad 3", "other")] == [0, 0, 0]
        server.hold.set()
        asked = await asyncio.gather(good, bad, *new, other)
        assert list(asked) == [200, 502, 502, 502, 200]
        assert [server.tries(f"bad {number}") for number in (1, 2, 3)] == [2, 2, 2]
        assert server.tries("good") == 2


async def test_a_bad_request_from_the_queue_fails_alone() -> None:
    server = Mine()
    async with forwarding(server, max_concurrent_requests=2) as world, asyncio.timeout(LIMIT):
        server.world = world
        good = asyncio.ensure_future(server.ask("good"))
        await server.until("good", 1)
        other = asyncio.ensure_future(server.ask("other"))
        await server.until("other", 1)
        # It has no place yet when the first server crashes for another reason.
        queued = asyncio.ensure_future(server.ask("bad"))
        while not world.scheduler.waiting:
            await asyncio.sleep(0)
        server.hold.set()
        await world.launcher.servers[-1].stop(0)
        assert list(await asyncio.gather(good, other, queued)) == [200, 200, 502]
        assert server.tries("bad") == 2


async def test_several_bad_requests_are_found_and_no_other_is_lost() -> None:
    server = Mine()
    server.hold.set()
    everybody = [*(f"bad {number}" for number in range(3)), *(f"good {n}" for n in range(3))]
    async with forwarding(server) as world, asyncio.timeout(LIMIT):
        server.world = world
        asked = await asyncio.gather(*map(server.ask, everybody))
    assert asked == [502] * 3 + [200] * 3


async def test_requests_lost_together_again_and_again_have_a_last_try(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("TRIAL", "LONG_TRIAL"):
        monkeypatch.setattr(local_forwarding, name, 0.01)
    monkeypatch.setattr(local_forwarding, "_MOST_TRIES", 3)
    seen: list[bytes] = []

    async def dies_with_two(talk: Talk) -> None:
        server = world.launcher.servers[-1]
        seen.append((await talk.request()).body)
        if len(seen) % 2 == 0:
            await server.stop(0)
        await asyncio.wait({server.exited})

    async with forwarding(dies_with_two) as world, asyncio.timeout(LIMIT):

        async def ask(number: int) -> int:
            data = b'{"model":"m","n":%d}' % number
            async with world.front.client.post(CHAT, data=data) as got:
                await got.read()
                return got.status

        assert list(await asyncio.gather(ask(1), ask(2))) == [502, 502]
    assert len(seen) == 6


async def test_requests_that_wait_for_retries_are_counted() -> None:
    server = Mine()
    async with forwarding(server, max_queue=2) as world, asyncio.timeout(LIMIT):
        server.world = world
        good = asyncio.ensure_future(server.ask("good"))
        await server.until("good", 1)
        await world.launcher.servers[-1].stop(0)
        await server.until("good", 2)
        held = [asyncio.ensure_future(server.ask(f"held {number}")) for number in range(3)]
        refused, _ = await asyncio.wait(held, return_when=asyncio.FIRST_COMPLETED)
        assert [one.result() for one in refused] == [429]
        server.hold.set()
        assert await good == 200
        assert sorted(await asyncio.gather(*held)) == [200, 200, 429]


async def test_a_second_death_behind_comments_is_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_forwarding, "FIRST_COMMENT_AFTER", 0.01)
    server = Mortal(answer(*EVENTS), deaths=2)
    async with forwarding(server) as world:
        server.world = world
        world.launcher.gate.clear()
        asking = asyncio.ensure_future(
            to_the_end(world.front.port, post(stream(), "Connection: close"))
        )
        async with asyncio.timeout(LIMIT):
            while not world.scheduler.waiting:
                await asyncio.sleep(0)
            await asyncio.wait({asking}, timeout=0.1)
        world.launcher.gate.set()
        received = await asking
        (record,) = await recorded(world)
    assert b": loading m" in received
    (error,) = events_of(unchunked(received))
    assert isinstance(error, dict)
    assert error["error"]["code"] == "upstream_failed"
    assert record.status == 200
    assert "SIGSEGV" in (record.error or "")


@pytest.mark.parametrize(
    "last_words",
    [
        (answer(*EVENTS),),
        (answer(*EVENTS) + event('{"n":0}'),),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nh",),
    ],
    ids=["a stream's head", "an event", "a byte"],
)
async def test_an_answer_with_a_byte_at_the_client_is_not_repeated(
    last_words: tuple[bytes, ...],
) -> None:
    server = Mortal(*last_words)
    async with forwarding(server) as world:
        server.world = world
        received = await to_the_end(world.front.port, post(stream(), "Connection: close"))
        (record,) = await recorded(world)
    assert received.count(b"HTTP/1.1") == 1
    assert (len(server.bodies), record.status) == (1, 200)
    assert "SIGSEGV" in (record.error or "")


async def test_a_server_that_lives_on_gets_nothing_twice() -> None:
    async def script(talk: Talk) -> None:
        await talk.request()

    async with forwarding(script) as world:
        async with world.front.client.post(CHAT, data=stream()) as got:
            assert got.status == 502
        await recorded(world)
        assert world.connections == len(world.launcher.servers) == 1


async def test_a_server_that_was_ended_by_force_is_not_started_again() -> None:
    asked = asyncio.Event()

    async def script(talk: Talk) -> None:
        await talk.request()
        asked.set()
        await world.launcher.servers[0].exited

    async with forwarding(script) as world:
        asking = asyncio.ensure_future(
            to_the_end(world.front.port, post(stream(), "Connection: close"))
        )
        async with asyncio.timeout(LIMIT):
            await asked.wait()
        state = world.scheduler.state("m")
        assert state is not None
        await world.scheduler.unload(state.model, force=True)
        answer = await asking
        assert b" 502 " in answer.partition(b"\r\n")[0]
        assert b"m was unloaded by force before it had answered." in answer
        assert len(world.launcher.servers) == 1


async def test_force_ends_requests_before_their_server() -> None:
    asked, left = asyncio.Event(), asyncio.Event()

    async def script(talk: Talk) -> None:
        await talk.request()
        asked.set()
        await talk.reader.read()
        left.set()

    async with forwarding(script) as world:
        asking = asyncio.ensure_future(
            to_the_end(world.front.port, post(stream(), "Connection: close"))
        )
        async with asyncio.timeout(LIMIT):
            await asked.wait()
            world.launcher.servers[0].lingers = left
            state = world.scheduler.state("m")
            assert state is not None
            await world.scheduler.unload(state.model, force=True)
        assert b"unloaded by force" in await asking


async def test_the_end_of_the_service_is_no_death_to_recover_from() -> None:
    asked = asyncio.Event()

    async def script(talk: Talk) -> None:
        await talk.request()
        asked.set()
        await world.launcher.servers[0].exited

    async with forwarding(script) as world:
        asking = asyncio.ensure_future(
            to_the_end(world.front.port, post(stream(), "Connection: close"))
        )
        async with asyncio.timeout(LIMIT):
            await asked.wait()
            await world.scheduler.close()
        received = await asking
        (record,) = await recorded(world)
    assert json.loads(received.partition(b"\r\n\r\n")[2])["error"]["code"] == "shutting_down"
    assert record.status == 503


async def test_a_failed_second_load_is_reported_with_the_crash() -> None:
    async def script(talk: Talk) -> None:
        await talk.request()
        world.launcher.failure = ModelLoadError("broken file")
        await world.launcher.servers[0].stop(0)

    async with forwarding(script) as world:
        async with world.front.client.post(CHAT, data=stream()) as got:
            assert got.status == 502
            message = (await got.json())["error"]["message"]
        await recorded(world)
    assert "SIGSEGV" in message
    assert "broken file" in message


async def test_a_client_that_leaves_in_the_second_wait_leaves_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def script(talk: Talk) -> None:
        await talk.request()
        world.launcher.gate.clear()
        await world.launcher.servers[0].stop(0)

    async with forwarding(script) as world:
        _, writer = await asyncio.open_connection("127.0.0.1", world.front.port)
        writer.write(post(stream()))
        async with asyncio.timeout(LIMIT):
            while not retries(caplog):
                await asyncio.sleep(0)
            while not world.scheduler.waiting:
                await asyncio.sleep(0)
            writer.transport.abort()
        (record,) = await recorded(world)
        assert world.scheduler.waiting == 0
        world.launcher.gate.set()
    assert record.status == 499
    assert not [one for one in caplog.records if one.levelno >= logging.ERROR]
