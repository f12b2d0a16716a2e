from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from itertools import pairwise

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.client.sse import EventParser, ServerEvent, follow_events
from cyber_inference_tui.errors import CyberError, InvalidApiKeyError, NoServiceError

STREAM = (
    b": hello\n\n"
    b'id: 7\nevent: model\ndata: {"id":"a\xe2\x80\xa8b"}\n\n'
    b"event: log\r\ndata: one\r\ndata: two\r\n\r\n"
    b"id: x\ndata:tight\n\n"
    b"event: nothing\n\n"
)
EVENTS = [
    ServerEvent(comment="hello"),
    ServerEvent(id=7, topic="model", data='{"id":"a\u2028b"}'.encode()),
    ServerEvent(topic="log", data=b"one\ntwo"),
    ServerEvent(topic="message", data=b"tight"),
]


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_events_come_out_the_same_wherever_the_bytes_are_cut(cuts: list[int]) -> None:
    parser = EventParser()
    edges = [0, *sorted(cuts), len(STREAM)]
    events = [e for start, end in pairwise(edges) for e in parser.feed(STREAM[start:end])]
    assert events == EVENTS


@given(st.binary(max_size=400))
def test_any_bytes_are_survived(data: bytes) -> None:
    list(EventParser().feed(data))


@pytest.mark.parametrize("piece", [b"x", b"data: xxxxxxxxx\n"])
def test_an_event_without_end_is_refused(piece: bytes) -> None:
    parser = EventParser(limit=1000)
    with pytest.raises(CyberError, match="more than 1000 bytes"):
        for _ in range(1001):
            list(parser.feed(piece))


class Scripted:
    """Connections with a script: bytes to send, or the error of opening."""

    def __init__(self, *script: bytes | Exception) -> None:
        self.script = list(script)
        self.asked: list[int | None] = []
        self.now = 0.0
        self.pauses: list[float] = []

    @asynccontextmanager
    async def open(self, last: int | None) -> AsyncIterator[httpx.Response]:
        self.asked.append(last)
        step = self.script.pop(0) if self.script else NoServiceError("gone")
        if isinstance(step, Exception):
            raise step
        yield httpx.Response(200, content=step)

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    async def read(self, lost: list[str], after: int | None = None) -> list[bytes]:
        seen: list[ServerEvent] = []
        async with aclosing(
            follow_events(
                self.open,
                after=after,
                patience=10,
                sleep=self.sleep,
                clock=lambda: self.now,
                on_lost=lambda: lost.append("lost"),
            )
        ) as events:
            try:
                while True:
                    seen.append(await anext(events))
            except NoServiceError:
                return [event.data for event in seen]


async def test_a_new_connection_resumes_behind_the_last_event() -> None:
    lost: list[str] = []
    script = Scripted(
        b"id: 4\ndata: a\n\nid: 5\ndata: cut",
        NoServiceError("not yet"),
        NoServiceError("reset"),
        b"id: 5\ndata: b\n\n",
    )
    assert await script.read(lost, after=3) == [b"a", b"b"]
    assert script.asked[:4] == [3, 4, 4, 4]
    assert lost == ["lost", "lost"]


async def test_it_gives_up_after_growing_pauses() -> None:
    script = Scripted(b"id: 1\ndata: a\n\n")
    assert await script.read([]) == [b"a"]
    assert script.pauses[:5] == [0.2, 0.4, 0.8, 1.6, 3.2]
    assert max(script.pauses) <= 5
    assert sum(script.pauses) < 10 + 5


async def test_a_server_that_ends_each_stream_at_once_is_given_up_too() -> None:
    script = Scripted(*[b""] * 50)
    assert await script.read([]) == []


async def test_a_first_connection_that_fails_raises_at_once() -> None:
    script = Scripted(NoServiceError("nobody"))
    assert await script.read([]) == []
    assert script.pauses == []


async def test_a_refusal_is_not_tried_again() -> None:
    script = Scripted(b"data: a\n\n", InvalidApiKeyError("no key"))
    with pytest.raises(InvalidApiKeyError):
        await script.read([])
