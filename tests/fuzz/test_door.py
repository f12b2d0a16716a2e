"""Damaged requests and damaged servers' answers, with and without aiohttp.

A request that comes in one read takes the lean path if it is plain. In single bytes it never does.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.damage import Change, changes, damaged
from tests.http.client_side import CHAT, post
from tests.http.upstream import EVENTS, LAST, Got, Talk, World, answer, event, forwarding
from tests.scheduler.virtual import model
from tests.waiting import LIMIT

PATHS = (CHAT, "/v1/messages", "/v1/embeddings", "/completion", "/api/chat", "/tokenize")
BODIES = (
    b'{"model":"m","messages":[{"role":"user","content":"hello"}]}',
    b'{"model":"m","stream":true,"input":"x","n":[1,2.5,null]}',
    b'{"input":"no model"}',
)
REQUESTS = [post(body, "Accept: */*", path=path) for path in PATHS for body in BODIES]
WHOLE = answer("Content-Type: application/json", body=b'{"choices":[{"index":0}],"usage":{}}')
ANSWERS = [
    WHOLE,
    answer("Content-Type: application/json", body=b'{"error":{"message":"no"}}', status="400 Bad"),
    answer(*EVENTS) + event('{"n":1}') + event("[DONE]") + LAST,
    b"HTTP/1.1 100 Continue\r\n\r\n" + WHOLE,
    b"HTTP/1.1 204 No Content\r\n\r\n",
]


class Server:
    """Answers with ``reply``, or each marked request with its mark; keeps the requests."""

    def __init__(self) -> None:
        self.reply: bytes | None = None
        self.seen: list[Got] = []

    async def __call__(self, talk: Talk) -> None:
        while True:
            got = await talk.request()
            self.seen.append(got)
            if found := re.search(rb"mark-\d+", got.body):
                await talk.say(answer(body=b'{"is":"%b"}' % found[0]))
                continue
            await talk.say(WHOLE if self.reply is None else self.reply)
            if self.reply is not None:
                # What is missing will never come.
                talk.writer.write_eof()


class Told(NamedTuple):
    """What a client got, and what the model's server got for it."""

    answer: bytes
    requests: list[tuple[str, str, bytes]]


class Door:
    """A front with a model, in an event loop of its own."""

    def __init__(self, runner: asyncio.Runner, world: World, server: Server) -> None:
        self.runner = runner
        self.world = world
        self.server = server
        self.marks = 0

    def ask(self, data: bytes, *, bytewise: bool) -> Told:
        """Send bytes and their end, and return all that comes."""
        return self.runner.run(self._ask(data, bytewise))

    async def _ask(self, data: bytes, bytewise: bool) -> Told:
        self.server.seen.clear()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.world.front.port)
        # All the time: what was refused is not read, so the connection may end with a reset.
        received = bytearray()
        reading = asyncio.create_task(self._read(reader, received))
        try:
            for piece in [data[at : at + 1] for at in range(len(data))] if bytewise else [data]:
                if reading.done():
                    break
                writer.write(piece)
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            with contextlib.suppress(OSError):
                writer.write_eof()
            async with asyncio.timeout(LIMIT):
                await reading
        finally:
            writer.close()
        async with asyncio.timeout(LIMIT):
            while self.world.scheduler.in_flight:
                await asyncio.sleep(0)
        got = [(one.method, one.target, one.body) for one in self.server.seen]
        return Told(bytes(received), got)

    @staticmethod
    async def _read(reader: asyncio.StreamReader, received: bytearray) -> None:
        with contextlib.suppress(ConnectionError):
            while block := await reader.read(1 << 16):
                received += block

    def works(self) -> bool:
        """Whether a good request gets its own answer: nothing is left of those before it."""
        self.marks += 1
        mark = b"mark-%d" % self.marks
        told = self.ask(post(b'{"model":"m","input":"%b"}' % mark), bytewise=False)
        return told.answer.startswith(b"HTTP/1.1 200") and told.answer.endswith(
            b'{"is":"%b"}' % mark
        )


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    server = Server()
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        world = runner.run(stack.enter_async_context(forwarding(server, model("m"))))
        one = Door(runner, world, server)
        assert one.works()
        yield one
        runner.run(stack.aclose())


def statuses(told: Told) -> list[int]:
    return [int(found) for found in re.findall(rb"HTTP/\d\.\d (\d{3}) ", told.answer)]


def refused(told: Told) -> list[bool]:
    """Whether each answer is a refusal; a client that gets none has been refused as well."""
    return [400 <= status < 500 for status in statuses(told)] or [True]


@given(st.sampled_from(REQUESTS), changes())
def test_damaged_requests_are_the_same_in_one_read_and_in_many(
    door: Door, good: bytes, done: list[Change]
) -> None:
    door.server.reply = None
    data = damaged(good, done)
    at_once, in_bytes = (door.ask(data, bytewise=bytewise) for bytewise in (False, True))
    assert b"Traceback" not in at_once.answer + in_bytes.answer
    assert 500 not in statuses(at_once) + statuses(in_bytes)
    if (at_once.requests, statuses(at_once)) != (in_bytes.requests, statuses(in_bytes)):
        # What follows a request in the same read, and is none, has aiohttp refuse both.
        assert at_once.requests == []
        assert all(refused(at_once))
        assert any(refused(in_bytes))
    assert door.works()


@pytest.mark.timeout(1800)  # a lost answer takes half a second: the server might have exited
@given(st.sampled_from(REQUESTS[:15]), st.sampled_from(ANSWERS), changes(), st.booleans())
def test_damaged_answers_end_and_leave_nothing_behind(
    door: Door, request_data: bytes, good: bytes, done: list[Change], bytewise: bool
) -> None:
    door.server.reply = damaged(good, done)
    told = door.ask(request_data, bytewise=bytewise)
    assert told.answer.startswith(b"HTTP/1.1 ")
    assert b"Traceback" not in told.answer
    assert 500 not in statuses(told) or b"500" in door.server.reply
    door.server.reply = None
    assert door.works()
