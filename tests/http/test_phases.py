"""The phases of a request, and the tokens of its answer so far."""

from __future__ import annotations

import asyncio
import json
from functools import partial

import pytest

from cyber_inference_tui.errors import ModelLoadError
from tests.http.client_side import CHAT, post, stream, to_the_end
from tests.http.test_records import recorded, saying
from tests.http.upstream import EVENTS, LAST, Talk, World, answer, event, forwarding
from tests.waiting import LIMIT, until

CLOSE = "Connection: close"
TIMINGS = {"cache_n": 30, "prompt_n": 4, "prompt_ms": 250.0, "predicted_n": 5}
TIMINGS |= {"predicted_ms": 500.0, "predicted_per_second": 10.0, "draft_n": 8}
TIMINGS |= {"draft_n_accepted": 3}
TOKEN = event('{"choices":[{"index":0,"delta":{"content":"hi"}}]}')
ROLE = event('{"choices":[{"index":0,"delta":{"role":"assistant","content":null}}]}')


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("lean", [False, True])
async def test_the_times_and_counts_of_the_server(is_stream: bool, lean: bool) -> None:
    figures = json.dumps({"choices": [], "timings": TIMINGS})
    reply = answer(body=figures.encode())
    if is_stream:
        reply = answer(*EVENTS) + TOKEN + event(figures) + event("[DONE]") + LAST
    lines = [CLOSE, *([] if lean else ["Origin: http://localhost"])]
    async with forwarding(saying(reply)) as world:
        for _ in range(2):
            await to_the_end(world.front.port, post(stream(), *lines))
        first, record = await recorded(world, 2)
    assert (record.tokens_in, record.tokens_cached, record.tokens_out) == (34, 30, 5)
    assert (record.tokens_drafted, record.tokens_accepted) == (8, 3)
    assert record.tokens_counted is None
    assert (record.prompt_seconds, record.answer_seconds) == (0.25, 0.5)
    assert record.stall_seconds is None
    if lean:
        # Its head was known, and its body came with it.
        assert record.body_seconds is None
    else:
        assert record.body_seconds is not None
        assert 0 < record.body_seconds < record.duration_seconds
    assert (record.queue_ahead, record.load_seconds) == (None, None)
    # The first one had to wait for the load.
    assert first.queue_ahead == 0
    assert first.load_seconds is not None
    assert 0 < first.load_seconds <= first.queue_seconds


def waits_for(world: World, count: int) -> bool:
    return world.scheduler.waiting == count


async def test_a_wait_for_a_load_and_one_for_others() -> None:
    go_on = asyncio.Event()

    async def server(talk: Talk) -> None:
        await talk.request()
        await go_on.wait()
        await talk.say(answer(body=b"{}"))

    async with forwarding(server, max_concurrent_requests=1) as world:
        world.launcher.gate.clear()
        asking = []
        for count in range(1, 4):
            request = post(b'{"model":"m"}', CLOSE)
            asking.append(asyncio.create_task(to_the_end(world.front.port, request)))
            await until(partial(waits_for, world, count))
        world.launcher.gate.set()
        await until(partial(waits_for, world, 2))
        late = asyncio.create_task(to_the_end(world.front.port, post(b'{"model":"m"}', CLOSE)))
        await until(partial(waits_for, world, 3))
        go_on.set()
        await asyncio.gather(*asking, late)
        *loading, last = sorted(await recorded(world, 4), key=lambda record: record.at)
    assert [record.queue_ahead for record in loading] == [0, 1, 2]
    for record in loading:
        assert record.load_seconds is not None
        assert 0 < record.load_seconds <= record.queue_seconds
    # It came after the load.
    assert (last.queue_ahead, last.load_seconds) == (2, 0)
    assert last.queue_seconds > 0


async def test_a_wait_for_a_load_that_fails() -> None:
    async with forwarding(saying(answer())) as world:
        world.launcher.gate.clear()
        world.launcher.failure = ModelLoadError("it is damaged")
        asking = asyncio.create_task(to_the_end(world.front.port, post(stream(), CLOSE)))
        await until(partial(waits_for, world, 1))
        world.launcher.gate.set()
        await asking
        (record,) = await recorded(world)
    assert record.status == 503
    assert record.load_seconds is not None
    assert 0 < record.load_seconds <= record.queue_seconds


@pytest.mark.parametrize("lean", [False, True])
async def test_a_body_that_comes_slowly(lean: bool) -> None:
    request = post(b'{"model":"m"}', CLOSE, *([] if lean else ["Origin: http://localhost"]))
    async with forwarding(saying(answer(body=b"{}"))) as world:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.front.port)
        writer.write(request[:-3])
        await asyncio.sleep(0.1)
        writer.write(request[-3:])
        async with asyncio.timeout(LIMIT):
            assert await reader.read()
        writer.close()
        (record,) = await recorded(world)
    assert record.body_seconds is not None
    # The service may have begun a moment after the first bytes were sent.
    assert 0.05 < record.body_seconds <= record.duration_seconds


async def test_a_client_that_does_not_read() -> None:
    text = "x" * 4000
    many = event(json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]})) * 5000

    async def server(talk: Talk) -> None:
        await talk.request()
        await talk.say(answer(*EVENTS), many, LAST)

    async with forwarding(server) as world:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.front.port, limit=1024)
        writer.write(post(stream(), CLOSE))
        await until(lambda: any(one.phase == "answering" for one in world.active()))
        await asyncio.sleep(0.3)
        async with asyncio.timeout(LIMIT):
            while await reader.read(1 << 20):
                pass
        writer.close()
        (record,) = await recorded(world)
    assert record.stall_seconds is not None
    assert 0.1 < record.stall_seconds < record.duration_seconds
    # The server reported nothing; of each piece of the stream a mark may be lost.
    assert record.tokens_out == pytest.approx(5000, rel=0.02)
    assert record.tokens_counted


async def test_a_complete_stream_without_figures_keeps_the_counted_tokens() -> None:
    said = answer(*EVENTS) + ROLE + TOKEN * 7 + event("[DONE]") + LAST
    async with forwarding(saying(said)) as world:
        await to_the_end(world.front.port, post(stream(), CLOSE))
        (record,) = await recorded(world)
        state = world.scheduler.state("m")
        assert state is not None
        assert state.session is not None
        assert state.session.tokens_out == 7
    assert (record.tokens_out, record.tokens_counted, record.error) == (7, True, None)


async def test_an_answer_that_is_cut_keeps_its_tokens() -> None:
    async def server(talk: Talk) -> None:
        await talk.request()
        await talk.say(answer(*EVENTS), ROLE, TOKEN * 7)
        await talk.reader.read()

    async with forwarding(server) as world:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.front.port)
        writer.write(post(stream(), "X-Request-Id: cut"))
        async with asyncio.timeout(LIMIT):
            for _ in range(8):
                await reader.readuntil(b"}]}\n\n")
        (active,) = world.active()
        assert (active.tokens_out, active.request_id, active.path) == (7, "cut", CHAT)
        writer.transport.abort()
        (record,) = await recorded(world)
        state = world.scheduler.state("m")
        assert state is not None
        assert state.session is not None
        assert state.session.tokens_out == 7
    assert (record.status, record.tokens_out, record.request_id) == (499, 7, "cut")
    assert record.tokens_counted


async def test_an_answer_that_ends_with_an_error_keeps_its_tokens() -> None:
    error = event('{"error":{"message":"the context is full"}}')
    async with forwarding(saying(answer(*EVENTS), ROLE, TOKEN * 7, error, LAST)) as world:
        await to_the_end(world.front.port, post(stream(), CLOSE))
        (record,) = await recorded(world)
    assert (record.tokens_out, record.error) == (7, "the context is full")
