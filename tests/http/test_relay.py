"""The owner's calls for a box that is a raw socket."""

from __future__ import annotations

import asyncio

from tests.fakes.service import FakeService, serving
from tests.http.raw import ask
from tests.http.scripted_boxes import answers, refuses_key, scripted
from tests.http.upstream import Got, Talk

ASKED = "GET /admin/boxes/a/status HTTP/1.1", "Host: localhost"


async def test_a_box_that_has_forgotten_this_one_is_no_reason_to_log_in_here() -> None:
    async with serving(FakeService()) as front, scripted(front.service, a=refuses_key):
        got = await ask(front.port, *ASKED)
    assert (got.status, got.error()["code"]) == (502, "peer_failed")
    assert "does not know this box any more" in got.error()["message"]


async def test_its_connections_are_closed_at_the_end() -> None:
    closed = asyncio.Event()

    async def script(talk: Talk, got: Got) -> None:
        await answers(talk, got)
        assert await talk.reader.read() == b""
        closed.set()

    service = FakeService()
    async with scripted(service, a=script):
        async with serving(service) as front:
            assert (await ask(front.port, *ASKED)).status == 200
            assert not closed.is_set()
        # Nobody's limit for an idle connection is that short: aiohttp's is 15 s.
        async with asyncio.timeout(10):
            await closed.wait()
