"""Other boxes as raw sockets, so that they can fail at any byte."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec

from cyber_inference_tui.peers.peer import Peer
from cyber_inference_tui.peers.secrets import PeerSecrets
from cyber_inference_tui.records.models import ModelRecord, ModelStatus
from cyber_inference_tui.records.peers import PeerUpdate
from cyber_inference_tui.settings.schema import PeerSettings
from tests.fakes.service import FakeService
from tests.http.upstream import Got, Talk, answer
from tests.waiting import until

FOLLOWING = answer("Content-Type: text/event-stream", "Content-Length: 1000000")
UPDATE = PeerUpdate(
    version="1.0", models=(ModelRecord(id="far", status=ModelStatus.LOADED, size_bytes=1),)
)
Script = Callable[[Talk, Got], Awaitable[None]]


async def answers(talk: Talk, _: Got) -> None:
    await talk.say(answer(body=b"{}"))


async def refuses_key(talk: Talk, _: Got) -> None:
    body = b'{"error": {"message": "Wrong key."}}'
    await talk.say(answer(body=body, status="401 Unauthorized"))


@asynccontextmanager
async def scripted(service: FakeService, **scripts: Script) -> AsyncIterator[list[Peer]]:
    """Boxes with the model ``far``; each script plays the requests that its box gets."""
    peers = service.peers
    secrets = PeerSecrets(key="k", digest="00" * 32)
    talking: set[asyncio.Task[None]] = set()

    async def play(
        script: Script, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        talking.add(task)
        talk = Talk(0, reader, writer)
        try:
            while True:
                got = await talk.request()
                if got.target == "/peers/events":
                    await talk.say(FOLLOWING, b"data: %b\n\n" % msgspec.json.encode(UPDATE))
                else:
                    await script(talk, got)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    servers, tables = [], {}
    for name, script in scripts.items():

        async def serve(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter, script: Script = script
        ) -> None:
            await play(script, reader, writer)

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        servers.append(server)
        port = server.sockets[0].getsockname()[1]
        tables[name] = PeerSettings(url=f"http://127.0.0.1:{port}")
    peers._secrets = dict.fromkeys(scripts, secrets)
    await peers.configure(tables)
    found = [peers.peer(name) for name in scripts]
    try:
        await until(lambda: all(one.can_be_asked for one in found), what="the boxes")
        yield found
    finally:
        await peers.close()
        for server in servers:
            server.close()
        for task in talking:
            task.cancel()
        await asyncio.gather(*talking, return_exceptions=True)
