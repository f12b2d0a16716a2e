"""Plain requests without aiohttp: the same answers and records as with it, byte for byte."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from types import SimpleNamespace

import msgspec
import pytest
from aiohttp import web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_parser import HttpRequestParser
from aiohttp.web_protocol import RequestHandler
from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.http import (
    client_response,
    lean_connection,
    lean_path,
    server_connections,
)
from cyber_inference_tui.http.access import AccessRules
from cyber_inference_tui.http.body_limits import BodyShare
from cyber_inference_tui.http.forward import Forwarding
from cyber_inference_tui.http.lean_path import LeanPath, message_size
from cyber_inference_tui.http.quick_forwarding import QuickForwarding
from cyber_inference_tui.records import RequestRecord
from cyber_inference_tui.settings.schema import Settings
from tests.fakes.service import make_settings
from tests.http.client_side import CHAT, post, stream
from tests.http.raw import Answer, head, read_answer
from tests.http.test_records import recorded
from tests.http.upstream import EVENTS, LAST, Recorder, Talk, World, answer, event, forwarding
from tests.scheduler.virtual import model
from tests.waiting import LIMIT, until

BODY = b'{"model":"m","input":"x"}'
STREAM = answer(*EVENTS) + event('{"n":1}') + event('{"n":2}') + LAST


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the paths of the requests that took the lean path, as they come."""
    found: list[str] = []
    start = QuickForwarding.start

    def note(self: QuickForwarding) -> bool:
        found.append(self._target.path)
        return start(self)

    monkeypatch.setattr(QuickForwarding, "start", note)
    return found


class Client:
    """A keep-alive connection of bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, *pieces: bytes) -> Answer:
        """Send pieces, each in a read of its own, and return the answer."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            for _ in range(4 if len(pieces) > 1 else 0):
                # The other end is in this loop, and reads in its turns.
                await asyncio.sleep(0)
        async with asyncio.timeout(LIMIT):
            got = await read_answer(self.reader)
            if got.headers.get("transfer-encoding") == "chunked":
                got.body = await self.reader.readuntil(LAST)
            return got


@asynccontextmanager
async def connected(world: World) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.front.port)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()


async def warm(world: World, taken: list[str]) -> None:
    """Load the model, and have an idle connection to its server."""
    async with connected(world) as client:
        await client.ask(post(BODY))
    await recorded(world)
    world.records.clear()
    taken.clear()


def bytewise(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def without_times(record: RequestRecord) -> RequestRecord:
    first = None if record.time_to_first_token_seconds is None else 0.0
    return msgspec.structs.replace(
        record,
        at=datetime(2026, 1, 1, tzinfo=UTC),
        duration_seconds=0.0,
        time_to_first_token_seconds=first,
        body_seconds=None,
        request_id=None,
    )


# The same with and without aiohttp

WHOLE = answer("Content-Type: application/json", "X-One: 1", body=b'{"usage":{"prompt_tokens":3}}')
ANSWERS = {
    "whole": WHOLE,
    "an error in it": answer(body=b'{"error":{"message":"odd"}}'),
    "empty": answer(),
    "refused": answer(body=b'{"error":{"message":"no"}}', status="400 Bad Request"),
    "not implemented": answer(body=b'{"error":{"message":"no"}}', status="501 Not Implemented"),
    "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "stream": STREAM,
    "events with a length": answer("Content-Type: text/event-stream", body=b"data: {}\n\n"),
    "coded": answer("Content-Encoding: br", body=b"\x00\x01"),
    "interim": b"HTTP/1.1 100 Continue\r\n\r\n" + WHOLE,
    "cors": answer("Access-Control-Allow-Origin: *", body=b"{}"),
}
PATHS = ("/v1/embeddings", "/tokenize", "/v1/messages", "/completion")


@pytest.mark.parametrize("closes", [False, True], ids=["keep-alive", "close"])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("reply", ANSWERS.values(), ids=ANSWERS)
async def test_whole_and_byte_by_byte_are_the_same(
    reply: bytes, path: str, closes: bool, taken: list[str]
) -> None:
    request = post(BODY, *(["Connection: close"] if closes else []), path=path)
    found = []
    async with forwarding(Recorder(reply), model("m"), model("x,y")) as world:
        await warm(world, taken)
        for pieces in ([request], bytewise(request)):
            before = len(taken)
            async with connected(world) as client:
                got = await client.ask(*pieces)
            await asyncio.sleep(0)
            records = [without_times(record) for record in world.records]
            assert got.headers.pop("x-request-id")
            found.append((got.status, got.headers, got.body, records, world.codes[-1:]))
            world.records.clear()
            assert len(taken) - before == (len(pieces) == 1)
        assert len(world.launcher.servers) == 1
    assert found[0] == found[1]


@pytest.mark.parametrize("name", ["m", "M", "nick", "x,y", "ruled"])
async def test_names_and_rules_are_applied(name: str, taken: list[str]) -> None:
    server = Recorder(answer(body=b'{"model":"x\x7fy"}'))
    models = (
        msgspec.structs.replace(model("m"), aliases=("nick",)),
        model("x,y"),
        model("ruled", request_defaults={"top_k": 1}),
    )
    request = post(b'{"model":"%b"}' % name.encode(), path="/v1/embeddings")
    found = []
    async with forwarding(server, *models) as world:
        for pieces in ([request], bytewise(request), [request], [request]):
            async with connected(world) as client:
                got = await client.ask(*pieces)
            assert got.headers.pop("x-request-id") == server.seen[-1].headers.pop("x-request-id")
            found.append((got.status, got.headers, got.body))
    assert found[0] == found[1] == found[2] == found[3]
    assert len({seen.body for seen in server.seen}) == 1
    assert all(seen.headers == server.seen[0].headers for seen in server.seen)
    assert len(taken) == 3


async def test_a_body_in_a_second_read_is_waited_for(taken: list[str]) -> None:
    request = post(BODY)
    async with forwarding(Recorder()) as world:
        await warm(world, taken)
        async with connected(world) as client:
            at = request.index(b"\r\n\r\n") + 4
            assert (await client.ask(request[:at], request[at:])).status == 200
            assert (await client.ask(request[:-1], request[-1:])).status == 200
        assert len(await recorded(world, 2)) == 2
    assert len(taken) == 2


async def test_reads_may_end_anywhere_around_the_end_of_a_head(taken: list[str]) -> None:
    """Also where the bytes so far are those of a known head, and one more."""
    request, reply = post(BODY), WHOLE
    cuts = iter(range(-4, 3))

    async def script(talk: Talk) -> None:
        await talk.request()
        await talk.say(reply)
        while True:
            await talk.request()
            at = reply.index(b"\r\n\r\n") + 4 + next(cuts)
            await talk.say(reply[:at])
            for _ in range(4):
                await asyncio.sleep(0)
            await talk.say(reply[at:])

    async with forwarding(script) as world:
        await warm(world, taken)
        async with connected(world) as client:
            for cut in range(-4, 3):
                at = request.index(b"\r\n\r\n") + 4 + cut
                got = await client.ask(request[:at], request[at:])
                assert (got.status, got.body) == (200, b'{"usage":{"prompt_tokens":3}}')
        records = await recorded(world, 7)
    assert [(one.status, one.tokens_in) for one in records] == [(200, 3)] * 7


async def test_a_body_that_is_late_is_aiohttps_business(
    taken: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lean_connection, "_BODY_SECONDS", 0.01)
    request = post(BODY)
    async with forwarding(Recorder()) as world:
        await warm(world, taken)
        async with connected(world) as client:
            client.writer.write(request[:-1])
            await asyncio.sleep(0.1)
            assert (await client.ask(request[-1:])).status == 200
            assert taken == []
            # The end of that request is certain, so the next may take the lean path.
            assert (await client.ask(request)).status == 200
            assert len(taken) == 1


async def test_other_requests_and_plain_ones_take_turns(taken: list[str]) -> None:
    other = head("GET /v1/models HTTP/1.1", "Host: localhost")
    chunked = head(f"POST {CHAT} HTTP/1.1", "Host: localhost", "Transfer-Encoding: chunked")
    chunked += b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
    async with forwarding(Recorder()) as world:
        await warm(world, taken)
        async with connected(world) as client:
            for data, lean in ((post(BODY), 1), (other, 0), (post(BODY), 1), (chunked, 0)):
                before = len(taken)
                assert (await client.ask(data)).status == 200
                assert len(taken) - before == lean
            # Where a chunked body ends is for aiohttp to say.
            assert (await client.ask(post(BODY))).status == 200
            assert len(taken) == 2


# Requests behind a request


async def test_pipelined_requests_are_answered_in_order(taken: list[str]) -> None:
    go = asyncio.Event()

    async def script(talk: Talk) -> None:
        while True:
            got = await talk.request()
            if b"slow" in got.body:
                await go.wait()
            await talk.say(answer(body=got.body))

    slow, quick = b'{"model":"m","slow":1}', b'{"model":"m","quick":1}'
    async with forwarding(script) as world:
        await warm(world, taken)
        async with connected(world) as client, asyncio.timeout(LIMIT):
            client.writer.write(post(slow))
            while not taken:
                await asyncio.sleep(0)
            client.writer.write(post(quick)[:50])
            await asyncio.sleep(0.01)
            client.writer.write(post(quick)[50:] + post(slow))
            await asyncio.sleep(0.01)
            go.set()
            bodies = [(await read_answer(client.reader)).body for _ in range(3)]
            assert bodies == [slow, quick, slow]


async def test_a_flood_behind_a_request_stays_in_the_kernel(taken: list[str]) -> None:
    go = asyncio.Event()

    async def script(talk: Talk) -> None:
        while True:
            await talk.request()
            await go.wait()
            await talk.say(answer(body=b"{}"))

    async with forwarding(script) as world:
        go.set()
        await warm(world, taken)
        go.clear()
        async with connected(world) as client, asyncio.timeout(60):
            client.writer.write(post(BODY))
            while not taken:
                await asyncio.sleep(0)
            sending = asyncio.create_task(flood(client, 400))
            await asyncio.sleep(0.2)
            assert not sending.done()
            go.set()
            for _ in range(401):
                assert (await read_answer(client.reader)).status == 200
            await sending


async def flood(client: Client, count: int) -> None:
    big = post(b'{"model":"m","x":"%b"}' % (b"x" * 50_000))
    for _ in range(count):
        client.writer.write(big)
        await client.writer.drain()


@pytest.mark.parametrize("more", [b"", post(BODY)])
async def test_a_half_closed_client_gets_all_answers(more: bytes, taken: list[str]) -> None:
    go = asyncio.Event()

    async def script(talk: Talk) -> None:
        while True:
            await talk.request()
            await go.wait()
            await talk.say(answer(body=b"{}"))

    async with forwarding(script) as world:
        go.set()
        await warm(world, taken)
        go.clear()
        async with connected(world) as client, asyncio.timeout(LIMIT):
            client.writer.write(post(BODY))
            while not taken:
                await asyncio.sleep(0)
            client.writer.write(more)
            client.writer.write_eof()
            await asyncio.sleep(0.02)
            go.set()
            received = await client.reader.read()
            assert received.count(b"HTTP/1.1 200") == (2 if more else 1)


# When something goes wrong


async def test_a_server_that_dies_is_replaced(taken: list[str]) -> None:
    async def script(talk: Talk) -> None:
        await talk.request()
        await talk.say(answer(body=b"{}"))
        got = await talk.request()
        if talk.number == 1:
            await talk.say(b"HTTP/1.1 20")
            world.launcher.servers[0].declare_hung("it died")
            talk.reset()
        else:
            await talk.say(answer(body=got.body))

    async with forwarding(script) as world:
        await warm(world, taken)
        async with connected(world) as client:
            assert (await client.ask(post(BODY))).body == b"{}"
            assert len(world.launcher.servers) == 2
            # The connection goes on.
            assert (await client.ask(post(BODY))).body == BODY
        assert [one.status for one in await recorded(world, 2)] == [200, 200]
    assert len(taken) == 2


@pytest.mark.parametrize("when", ["before the head", "in the stream"])
async def test_a_client_that_leaves_takes_its_request_along(when: str, taken: list[str]) -> None:
    gone = asyncio.Event()

    async def script(talk: Talk) -> None:
        await talk.request()
        await talk.say(answer(body=b"{}"))
        await talk.request()
        if when == "in the stream":
            await talk.say(answer(*EVENTS), event('{"n":1}'))
        assert await talk.reader.read() == b""
        gone.set()

    async with forwarding(script) as world:
        await warm(world, taken)
        async with connected(world) as client, asyncio.timeout(LIMIT):
            client.writer.write(post(stream()))
            if when == "in the stream":
                await client.reader.readuntil(b"\n\n")
            while not taken:
                await asyncio.sleep(0)
            client.writer.close()
            await gone.wait()
        (record,) = await recorded(world)
        assert (record.status, world.active()) == (499, [])
    assert len(taken) == 1


async def test_an_answer_that_stalls_is_an_error(taken: list[str]) -> None:
    async def script(talk: Talk) -> None:
        await talk.request()
        await talk.say(answer(body=b"{}"))
        await talk.request()
        await talk.say(answer(*EVENTS), event('{"n":1}'))
        await talk.reader.read()

    async with forwarding(script, stall_timeout=0.2) as world:
        await warm(world, taken)
        async with connected(world) as client, asyncio.timeout(LIMIT):
            client.writer.write(post(stream(), "Connection: close"))
            received = await client.reader.read()
        assert b"sent nothing for 0.2 s" in received
        assert received.endswith(LAST)
        (record,) = await recorded(world)
        assert "sent nothing" in (record.error or "")
    assert len(taken) == 1


async def test_a_server_that_closes_after_streams_has_a_spare_connection(
    taken: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[Forwarding] = []
    run = Forwarding.run

    async def note(self: Forwarding, share: BodyShare) -> web.StreamResponse:
        ran.append(self)
        return await run(self, share)

    monkeypatch.setattr(Forwarding, "run", note)
    go = asyncio.Event()
    go.set()

    async def script(talk: Talk) -> None:
        await talk.request()
        await talk.say(answer(*EVENTS), event('{"n":1}'))
        await go.wait()
        await talk.say(LAST)

    async with (
        forwarding(script) as world,
        connected(world) as client,
        connected(world) as other,
        asyncio.timeout(LIMIT),
    ):
        for _ in range(2):
            assert (await client.ask(post(stream()))).status == 200
        # The server is busy, so the next request finds a connection.
        go.clear()
        client.writer.write(post(stream()))
        await client.reader.readuntil(b"\n\n")
        pool = world.front.app[lean_path.LEAN_PATH].forwarder.pool
        while not pool.of(world.launcher.address).idle:
            await asyncio.sleep(0)
        ran.clear()
        other.writer.write(post(stream()))
        await other.reader.readuntil(b"\n\n")
        go.set()
        await other.reader.readuntil(LAST)
        assert ran == []


async def test_the_session_counts_requests_and_tokens(taken: list[str]) -> None:
    async with forwarding(Recorder(WHOLE)) as world:
        await warm(world, taken)
        state = world.scheduler.state("m")
        assert state is not None
        assert state.session is not None
        async with connected(world) as client:
            for _ in range(3):
                assert (await client.ask(post(BODY))).status == 200
        await recorded(world, 3)
        session = state.session
        assert (session.requests, session.tokens_in, session.tokens_out) == (4, 12, 0)
        assert (session.answered, session.unanswered, state.in_flight) == (True, 0, 0)
    assert len(taken) == 3


async def test_a_connection_with_one_request_left_is_replaced_before(taken: list[str]) -> None:
    """So the client after it waits for no connection."""
    numbers: list[int] = []

    async def script(talk: Talk) -> None:
        while True:
            await talk.request()
            numbers.append(talk.number)
            await talk.say(answer("Keep-Alive: timeout=5, max=5", body=b"{}"))

    async with forwarding(script) as world, connected(world) as client, asyncio.timeout(LIMIT):
        pool = world.front.app[lean_path.LEAN_PATH].forwarder.pool
        for number in range(1, 9):
            assert (await client.ask(post(BODY))).status == 200
            if number == 3:
                while len(pool.of(world.launcher.address).connections) < 2:
                    await asyncio.sleep(0)
        # A spare connection is taken first. The old one has a last request when both are needed.
        assert numbers[:3] == [1, 1, 1]
        assert set(numbers[3:6]) == {2}
    assert max(numbers.count(number) for number in set(numbers)) <= 4


async def test_a_spare_connection_that_closes_under_a_request_is_replaced(
    taken: list[str],
) -> None:
    async def script(talk: Talk) -> None:
        while True:
            await talk.request()
            if talk.number == 2:
                talk.reset()
                return
            await talk.say(answer("Keep-Alive: timeout=5, max=5", body=b"{}"))

    async with forwarding(script) as world, connected(world) as client, asyncio.timeout(LIMIT):
        connections = world.front.app[lean_path.LEAN_PATH].forwarder.pool.of(world.launcher.address)
        for _ in range(3):
            assert (await client.ask(post(BODY))).status == 200
        await until(lambda: world.connections == 2 and len(connections.connections) == 2)
        for _ in range(3):
            assert (await client.ask(post(BODY))).status == 200
        assert world.connections >= 3


async def test_of_many_idle_connections_the_newest_stay(
    taken: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_connections, "_MAX_IDLE", 2)
    go = asyncio.Event()

    async def script(talk: Talk) -> None:
        while True:
            await talk.request()
            await go.wait()
            await talk.say(answer(body=b"{}"))

    async with (
        forwarding(script) as world,
        asyncio.timeout(LIMIT),
        contextlib.AsyncExitStack() as s,
    ):
        clients = [await s.enter_async_context(connected(world)) for _ in range(4)]
        asked = [asyncio.create_task(client.ask(post(BODY))) for client in clients]
        connections = world.front.app[lean_path.LEAN_PATH].forwarder.pool.of(world.launcher.address)
        while len(connections.connections) < 4:
            await asyncio.sleep(0)
        go.set()
        assert [(await one).status for one in asked] == [200] * 4
        while len(connections.connections) > 2:
            await asyncio.sleep(0)
        assert connections.idle
        assert (await clients[0].ask(post(BODY))).status == 200


async def test_a_name_in_a_body_that_is_not_plain_json_is_not_remembered(taken: list[str]) -> None:
    """The body's name wins over the header's, also if it can only be read with care."""
    server = Recorder()
    lines = ["X-Model: m"]
    other, nameless = b'\xef\xbb\xbf{"model":"n"}', b'{"input":"abcd"}'
    assert len(other) == len(nameless)
    async with forwarding(server, model("m"), model("n")) as world:
        async with connected(world) as client:
            for body in (nameless, other, nameless, other):
                assert (await client.ask(post(body, *lines, path="/v1/embeddings"))).status == 200
        records = await recorded(world, 4)
    assert [one.model for one in records] == ["m", "n", "m", "n"]


@pytest.mark.parametrize(
    ("body", "lines"),
    [
        (b'{"model":"auto","input":"x"}', ()),
        (b'{"model":"Usual","input":"x"}', ()),
        (b'{"input":"x"}', ("X-Model: auto",)),
        (b'{"input":"x"}', ("X-Model: usual",)),
    ],
)
async def test_the_meaning_of_auto_is_not_remembered(
    body: bytes, lines: tuple[str, ...], taken: list[str]
) -> None:
    used = ["m", "n", "m"]
    async with forwarding(Recorder(), model("m"), model("n"), auto_aliases=("usual",)) as world:
        async with connected(world) as client:
            for name in used:
                named = b'{"model":"%b"}' % name.encode()
                for request in (post(named), post(body, *lines), post(body, *lines)):
                    assert (await client.ask(request)).status == 200
        records = await recorded(world, 9)
    assert [one.model for one in records] == [name for name in used for _ in range(3)]
    assert len(taken) == 9


async def test_a_model_that_is_loaded_again_is_found_on_its_new_port(taken: list[str]) -> None:
    first, second = Recorder(), Recorder()
    async with forwarding(first) as world:
        await warm(world, taken)
        async with connected(world) as client:
            assert (await client.ask(post(BODY))).status == 200
            await world.scheduler.unload(model("m"))

            async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                with contextlib.suppress(asyncio.IncompleteReadError):
                    await second(Talk(1, reader, writer))
                writer.close()

            server = await asyncio.start_server(play, "127.0.0.1", 0)
            world.launcher.port = server.sockets[0].getsockname()[1]
            for _ in range(3):
                assert (await client.ask(post(BODY))).status == 200
            server.close()
        assert len(second.seen) == 3
        hosts = {seen.headers["host"] for seen in second.seen}
        assert hosts == {f"127.0.0.1:{world.launcher.port}"}


BIG = 30_000_000


async def big(talk: Talk) -> None:
    """Answer with a small body, then with a big one."""
    await talk.request()
    await talk.say(answer(body=b"{}"))
    await talk.request()
    await talk.say(answer(f"Content-Length: {BIG}"))
    for _ in range(BIG // 100_000):
        await talk.say(b"x" * 100_000)


async def test_a_slow_client_gets_everything(taken: list[str]) -> None:
    async with forwarding(big) as world:
        await warm(world, taken)
        async with connected(world) as client, asyncio.timeout(60):
            client.writer.write(post(BODY))
            await client.reader.readuntil(b"\r\n\r\n")
            size = 0
            while size < BIG:
                size += len(await client.reader.read(1 << 20))
                await asyncio.sleep(0)
            assert size == BIG
        (record,) = await recorded(world)
        assert (record.status, record.error) == (200, None)
    assert len(taken) == 1


async def test_a_client_that_never_reads_is_given_up(
    taken: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_response, "SEND_TIMEOUT", 0.1)
    async with forwarding(big) as world:
        await warm(world, taken)
        async with connected(world) as client:
            client.writer.write(post(BODY))
            (record,) = await recorded(world)
            assert "did not read its answer" in (record.error or "")
    assert len(taken) == 1


async def test_a_long_answer_outlasts_the_keep_alive_time(
    taken: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    defaults = RequestHandler.__init__.__kwdefaults__ or {}
    monkeypatch.setitem(defaults, "keepalive_timeout", 0.05)

    async def script(talk: Talk) -> None:
        await talk.request()
        await talk.say(answer(body=b"{}"))
        await talk.request()
        await asyncio.sleep(0.3)
        await talk.say(answer(body=b'{"late":1}'))

    async with forwarding(script) as world:
        await warm(world, taken)
        async with connected(world) as client, asyncio.timeout(LIMIT):
            assert (await client.ask(post(BODY))).body == b'{"late":1}'
            # Then the time begins.
            assert await client.reader.read() == b""
    assert len(taken) == 1


async def test_an_answer_is_completed_while_the_service_ends(taken: list[str]) -> None:
    go = asyncio.Event()

    async def script(talk: Talk) -> None:
        await talk.request()
        await talk.say(answer(body=b"{}"))
        await talk.request()
        await go.wait()
        await talk.say(answer(body=b'{"late":1}'))

    async with forwarding(script) as world:
        await warm(world, taken)
        reader, writer = await asyncio.open_connection("127.0.0.1", world.front.port)
        writer.write(post(BODY))
        while not taken:
            await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(0.1, go.set)
    async with asyncio.timeout(LIMIT):
        assert (await reader.read()).endswith(b'{"late":1}')
    writer.close()


async def test_the_running_request_is_listed(taken: list[str]) -> None:
    go = asyncio.Event()

    async def script(talk: Talk) -> None:
        while True:
            await talk.request()
            await go.wait()
            await talk.say(answer(body=b"{}"))

    async with forwarding(script) as world:
        go.set()
        await warm(world, taken)
        go.clear()
        async with connected(world) as client, asyncio.timeout(LIMIT):
            client.writer.write(post(BODY))
            while not taken:
                await asyncio.sleep(0)
            (active,) = world.active()
            assert (active.model, active.path, active.phase.value) == ("m", CHAT, "processing")
            assert active.client == "127.0.0.1"
            go.set()
            assert (await read_answer(client.reader)).status == 200
        (record,) = await recorded(world)
        assert (record.path, record.client) == (CHAT, "127.0.0.1")


async def test_changed_settings_count_at_once(taken: list[str]) -> None:
    async with forwarding(Recorder(), front_settings=make_settings()) as world:
        await warm(world, taken)
        async with connected(world) as client:
            assert (await client.ask(post(BODY))).status == 200
            world.front.service.settings = make_settings(api_keys=("secret",))
            assert (await client.ask(post(BODY))).status == 401
        # A refused request with a body ends its connection.
        async with connected(world) as client:
            assert (await client.ask(post(BODY, "X-Api-Key: secret"))).status == 200
            assert (await client.ask(post(BODY, "X-Api-Key: wrong"))).status == 401
    assert len(taken) == 2


# What is not plain

PLAIN = [f"POST {CHAT} HTTP/1.1", "Host: localhost", f"Content-Length: {len(BODY)}"]
NOT_PLAIN = {
    "HTTP/1.0": [f"POST {CHAT} HTTP/1.0", *PLAIN[1:]],
    "absolute form": [f"POST http://localhost{CHAT} HTTP/1.1", *PLAIN[1:]],
    "a query": [f"POST {CHAT}?a=b HTTP/1.1", *PLAIN[1:]],
    "no host": [PLAIN[0], PLAIN[2]],
    "another host": [PLAIN[0], "Host: example.com", PLAIN[2]],
    "two hosts": [*PLAIN, "Host: localhost"],
    "two lengths": [*PLAIN, PLAIN[2]],
    "two unlike lengths": [*PLAIN, "Content-Length: 3"],
    "an empty length": [*PLAIN, "content-length:"],
    "chunks as well": [*PLAIN, "Transfer-Encoding: chunked"],
    "chunks in other letters": [*PLAIN, "tRANSFER-eNCODING: CHUNKED"],
    "a coding": [*PLAIN, "Content-Encoding: gzip"],
    "an expectation": [*PLAIN, "Expect: 100-continue"],
    "an upgrade": [*PLAIN, "Connection: upgrade", "Upgrade: h2c"],
    "a form": [*PLAIN, "Content-Type: multipart/form-data; boundary=x"],
    "an origin": [*PLAIN, "Origin: http://localhost"],
    "a page": [*PLAIN, "Sec-Fetch-Site: cross-site"],
    "a proxy": [*PLAIN, "X-Forwarded-For: 203.0.113.9"],
    "a standard proxy": [*PLAIN, "Forwarded: for=203.0.113.9"],
    "a proxy's address": [*PLAIN, "X-Real-IP: 203.0.113.9"],
    "a list": [*PLAIN, "Connection: keep-alive, te"],
    "a space before the colon": [*PLAIN, "X-One : 1"],
    "a folded line": [*PLAIN, "X-One: 1", " two"],
    "a control": [*PLAIN, "X-One: a\x01b"],
    "NUL": [*PLAIN, "X-One: a\x00b"],
    "obsolete text": [*PLAIN, "X-One: \xe9"],
    "a bare line feed": [*PLAIN, "X-One: 1\nX-Two: 2"],
    "a bare carriage return": [*PLAIN, "X-One: 1\rX-Two: 2"],
    "a line without a colon": [*PLAIN, "X-One"],
    "a line without a name": [*PLAIN, ": 1"],
    "a signed length": [*PLAIN[:2], f"Content-Length: +{len(BODY)}"],
    "spaces around the length": [*PLAIN[:2], f"Content-Length:  {len(BODY)} "],
    "a length of another base": [*PLAIN[:2], "Content-Length: 0x19"],
    "many headers": [*PLAIN, *(f"X-{n}: 1" for n in range(100))],
    "a long head": [*PLAIN, "X-One: " + "a" * 8100],
    "a line end in front": ["\r\n" + PLAIN[0], *PLAIN[1:]],
}


@pytest.mark.parametrize("lines", NOT_PLAIN.values(), ids=NOT_PLAIN)
async def test_everything_else_goes_to_aiohttp(lines: list[str], taken: list[str]) -> None:
    data = ("\r\n".join([*lines, "", ""])).encode("latin-1") + BODY
    found = []
    async with forwarding(Recorder()) as world:
        await warm(world, taken)
        for pieces in ([data], bytewise(data)):
            async with connected(world) as client:
                got = await client.ask(*pieces)
                found.append((got.status, got.body))
    assert taken == []
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"[]", 400),
        (b"{", 400),
        (b'{"model":1}', 400),
        (b'{"model":"unknown"}', 404),
        (b'\xef\xbb\xbf{"model":"m"}', 200),
        (b'{"input":"x"}', 200),
    ],
)
async def test_bodies_that_need_care(body: bytes, status: int, taken: list[str]) -> None:
    found = []
    async with forwarding(Recorder()) as world:
        await warm(world, taken)
        for pieces in ([post(body)], bytewise(post(body))):
            async with connected(world) as client:
                got = await client.ask(*pieces)
                found.append((got.status, got.body))
    assert found[0] == found[1]
    assert found[0][0] == status
    assert len(taken) == (status == 200)


async def test_a_body_above_the_limit(taken: list[str]) -> None:
    async with forwarding(Recorder(), max_body_size=1024) as world:
        await warm(world, taken)
        async with connected(world) as client:
            got = await client.ask(post(b'{"model":"m","x":"%b"}' % (b"x" * 2000)))
            assert got.status == 413
    assert taken == []


async def test_a_big_body_passes(taken: list[str]) -> None:
    server = Recorder()
    async with forwarding(server) as world:
        await warm(world, taken)
        for size in (100_000, 1_000_000):
            body = b'{"model":"m","x":"%b"}' % (b"x" * size)
            async with connected(world) as client:
                assert (await client.ask(post(body))).status == 200
            assert server.seen[-1].body == body
    assert len(taken) == 1


async def test_every_address(taken: list[str]) -> None:
    async with forwarding(Recorder()) as world:
        await warm(world, taken)
        world.front.service.address = ("0.0.0.0", world.front.port)
        async with connected(world) as client:
            for host, status in (("localhost", 200), ("127.0.0.1", 200), ("example.com", 403)):
                request = post(BODY).replace(b"Host: localhost", b"Host: " + host.encode())
                assert (await client.ask(request)).status == status
    assert len(taken) == 2


# The same as aiohttp's parser

NAMES = ["Content-Length", "content-length", "Transfer-Encoding", "Host", "X-One", "Connection"]
NAMES += ["Accept", "Content-Length ", " X-One", "X\tOne", "", "Content_Length"]
VALUES = ["5", "05", "+5", "5, 5", "0x5", "", " 5 ", "\t5", "chunked", "localhost", "keep-alive"]
VALUES += ["close", "Keep-Alive", "a\r", "a\n", "a\x00", "\xe9", "5\r\nX-Two: 1", "5\nX-Two: 1"]
SEPARATORS = [":", ": ", ":  ", " : ", ":\t", ""]
LINES = st.builds(
    "".join,
    st.tuples(st.sampled_from(NAMES), st.sampled_from(SEPARATORS), st.sampled_from(VALUES)),
)


@given(
    st.lists(LINES, max_size=5),
    st.sampled_from(["Content-Length: 5", "content-length:5", "Host: localhost"]),
    st.sampled_from(["\r\n", "\n", "\r"]),
    st.integers(0, 9),
)
def test_a_plain_request_is_what_aiohttp_reads(
    lines: list[str], more: str, line_end: str, size: int
) -> None:
    lines = [f"POST {CHAT} HTTP/1.1", "Host: localhost", more, *lines]
    data = (line_end.join(lines) + "\r\n\r\n").encode("latin-1") + b"x" * size
    service = SimpleNamespace(settings=Settings(), models=SimpleNamespace(catalog=None))
    access = SimpleNamespace(rules=AccessRules(service.settings, "127.0.0.1"))
    path = LeanPath(access, SimpleNamespace(service=service))  # type: ignore[arg-type]
    plain = path.read(data, asyncio.Transport())
    if plain is None or plain.size > len(data):
        return
    start, end = plain.start, plain.size
    loop = asyncio.new_event_loop()
    try:
        parser = HttpRequestParser(BaseProtocol(loop), loop, 1 << 16)
        ((message, payload),), upgraded, tail = parser.feed_data(data[:end])
        assert payload.is_eof() or end == start
        assert (upgraded, tail) == (False, b"")
        body = b"".join(payload._buffer) if end > start else b""
    finally:
        loop.close()
    assert body == data[start:end]
    assert (message.method, message.path) == ("POST", plain.head.path)
    assert plain.head.keep_alive is not message.should_close
    headers = {name.lower(): value for name, value in message.headers.items()}
    assert int(headers["content-length"]) == end - start
    headers["content-length"] = ""
    assert headers == {name.lower(): value for name, value in plain.head.headers.items()}


# Sizes


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (head("GET / HTTP/1.1", "Host: x"), 27),
        (head("POST / HTTP/1.1", "Content-Length: 5") + b"hal", 43),
        (head("POST / HTTP/1.1", "content-length: 5"), 43),
        (b"GET / HTTP/1.1\r\nHost: x\r\n", None),
        (head("POST / HTTP/1.1", "Content-Length: 5", "Content-Length: 5"), None),
        (head("POST / HTTP/1.1", "Content-Length : 5"), None),
        (head("POST / HTTP/1.1", "Transfer-Encoding: chunked"), None),
        (head("GET / HTTP/1.1", "Upgrade: websocket"), None),
        (head("CONNECT x:1 HTTP/1.1"), None),
        (b"\r\n" + head("GET / HTTP/1.1"), None),
        (b"GET / HTTP/1.1\nContent-Length: 9\n\nGET / HTTP/1.1\r\n\r\n", None),
        (b"", None),
    ],
)
def test_the_size_of_a_message(data: bytes, size: int | None) -> None:
    assert message_size(data) == (float("inf") if size is None else size)


@given(st.binary(max_size=300))
def test_any_bytes_have_a_size_or_none(data: bytes) -> None:
    assert message_size(data) > 0


async def test_heads_that_are_remembered_are_few(
    taken: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lean_path, "_MAX_HEADS", 4)
    monkeypatch.setattr(lean_path, "_MAX_REQUESTS", 3)
    async with forwarding(Recorder()) as world:
        await warm(world, taken)
        async with connected(world) as client:
            for number in range(20):
                assert (await client.ask(post(BODY, f"X-One: {number}"))).status == 200
        path = world.front.app[lean_path.LEAN_PATH]
        assert len(path._heads) <= 4
        assert len(path._requests) <= 3
