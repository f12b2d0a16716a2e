"""Requests that other boxes answer, which fail at exactly one moment."""

from __future__ import annotations

import asyncio
import json
from contextlib import AbstractAsyncContextManager
from time import monotonic

import pytest

from cyber_inference_tui.http import client_response
from cyber_inference_tui.http.server_connections import ServerConnections
from cyber_inference_tui.http.upstream import UpstreamConnection
from cyber_inference_tui.peers.peer import Peer
from cyber_inference_tui.peers.peers import PeerKey
from cyber_inference_tui.records.peers import PeerState, Role
from cyber_inference_tui.settings.credentials import digest_of
from tests.http.client_side import post
from tests.http.raw import Answer, converse
from tests.http.scripted_boxes import Script, answers, refuses_key, scripted
from tests.http.upstream import EVENTS, Got, Recorder, Talk, World, answer, event, forwarding
from tests.waiting import LIMIT, until

FAR = {"model": "far"}


def boxes(world: World, **scripts: Script) -> AbstractAsyncContextManager[list[Peer]]:
    return scripted(world.front.service, **scripts)


async def ask(world: World, *lines: str, **fields: object) -> Answer:
    body = json.dumps({**FAR, **fields}).encode()
    (got,) = await converse(world.front.port, post(body, *lines), count=1)
    return got


async def test_a_connection_to_a_box_is_not_awaited_longer_than_the_box_is_heard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connect = ServerConnections.connect
    begun = asyncio.Event()

    async def connect_or_hang(self: ServerConnections) -> UpstreamConnection:
        if self._address == first.address:
            begun.set()
            await asyncio.Event().wait()
        return await connect(self)

    monkeypatch.setattr(ServerConnections, "connect", connect_or_hang)
    async with (
        forwarding(Recorder()) as world,
        boxes(world, a=answers, b=answers) as (first, _),
    ):
        asked = asyncio.create_task(ask(world))
        async with asyncio.timeout(LIMIT):
            await begun.wait()
            first.lose()
            await asyncio.sleep(0)
            # While the wait for the connection ends.
            first.lose()
            got = await asked
        assert got.status == 200
    assert [one.box for one in world.records] == ["b"]


async def test_a_box_that_is_lost_meanwhile_is_not_tried() -> None:
    asked: list[str] = []

    async def fails(talk: Talk, _: Got) -> None:
        asked.append("a")
        second._lost("It is gone.")
        talk.reset()

    async def noted(talk: Talk, got: Got) -> None:
        asked.append("b")
        await answers(talk, got)

    async with (
        forwarding(Recorder()) as world,
        boxes(world, a=fails, b=noted, c=answers) as (_, second, _),
    ):
        assert (await ask(world)).status == 200
    assert asked == ["a"]
    assert [one.box for one in world.records] == ["c"]


async def test_all_boxes_together_have_the_time_of_one_queue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits: list[str] = []

    async def fails(talk: Talk, got: Got) -> None:
        limits.append(got.headers["x-queue-timeout"])
        # Five seconds pass.
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: monotonic() + 5.0)
        await talk.say(answer(status="503 Busy"))

    async with (
        forwarding(Recorder(), queue_timeout=50.0) as world,
        boxes(world, a=fails, b=fails),
    ):
        assert (await ask(world, "X-Queue-Timeout: 0")).status == 503
    assert limits == ["50", "45"]


async def test_no_further_box_is_asked_once_that_time_is_over() -> None:
    asked: list[Got] = []

    async def fails(talk: Talk, got: Got) -> None:
        asked.append(got)
        await asyncio.sleep(0.01)
        await talk.say(answer(status="503 Busy"))

    async with (
        forwarding(Recorder(), queue_timeout=0.01) as world,
        boxes(world, a=fails, b=fails),
    ):
        assert (await ask(world)).status == 503
    assert len(asked) == 1


async def test_a_box_limits_the_wait_of_its_request() -> None:
    server = Recorder()
    async with forwarding(server) as world:
        peers = world.front.service.peers
        peers.keys = {digest_of("of-the-box"): PeerKey("box", Role.SERVE)}
        world.launcher.gate.clear()
        key = "Authorization: Bearer of-the-box"
        got = await ask(world, key, "X-Queue-Timeout: 0.01", model="m")
        assert (got.status, got.error()["code"]) == (503, "queue_timeout")
        # A client that is no box has no say in it; nor does nonsense.
        waiting = [
            asyncio.create_task(ask(world, *lines, model="m"))
            for lines in (["X-Queue-Timeout: 0"], [key, "X-Queue-Timeout: soon"], [key])
        ]
        await until(lambda: world.scheduler.waiting == 3, what="the queue")
        world.launcher.gate.set()
        assert [one.status for one in await asyncio.gather(*waiting)] == [200, 200, 200]
    assert not any("x-queue-timeout" in one.headers for one in server.seen)


async def test_a_refused_key_is_no_refusal_of_the_client() -> None:
    async with forwarding(Recorder()) as world, boxes(world, a=refuses_key):
        got = await ask(world)
        assert (got.status, got.error()["code"]) == (502, "peer_failed")
        assert "Wrong key." in got.error()["message"]
    async with (
        forwarding(Recorder()) as world,
        boxes(world, a=refuses_key, b=answers),
    ):
        assert (await ask(world)).status == 200


async def test_one_bad_request_is_no_reason_to_let_a_box_rest() -> None:
    held, answered = asyncio.Event(), asyncio.Event()

    async def script(talk: Talk, got: Got) -> None:
        if b"bad" in got.body:
            held.set()
            await answered.wait()
            talk.reset()
        else:
            await answers(talk, got)

    async with forwarding(Recorder()) as world, boxes(world, a=script) as (box,):
        bad = asyncio.create_task(ask(world, bad=True))
        async with asyncio.timeout(LIMIT):
            await held.wait()
            assert (await ask(world)).status == 200
            answered.set()
            assert (await bad).status == 502
        assert box.record().state is PeerState.CONNECTED
        # Alone, it is one.
        held.clear()
        assert (await ask(world, bad=True)).status == 502
        assert box.record().state is PeerState.RESTING


async def test_a_client_that_does_not_read_is_no_reason_to_let_its_box_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client_response, "SEND_TIMEOUT", 0.05)

    async def floods(talk: Talk, _: Got) -> None:
        await talk.say(answer(*EVENTS))
        part = event("x" * 60_000)
        while True:
            await talk.say(part)

    async with forwarding(Recorder()) as world, boxes(world, a=floods) as (box,):
        _, writer = await asyncio.open_connection("127.0.0.1", world.front.port, limit=1 << 10)
        writer.write(post(json.dumps({**FAR, "stream": True}).encode()))
        await until(lambda: world.records, what="the end of the request")
        assert "did not read" in str(world.records[0].error)
        assert box.record().state is PeerState.CONNECTED
        writer.transport.abort()
