"""Keeps a worker on another box running, and gives a llama-server here a way to it.

The channel is a WebSocket over the pinned connection of the pairing. The worker runs as long as it
is open, and both ends notice its loss by pings. Each connection to the local port becomes a
WebSocket of its own, so a slow reader holds up only its own connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import TypeVar
from urllib.parse import quote, urlencode

import aiohttp
import msgspec
from aiohttp import hdrs

from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.errors import PeerError
from cyber_inference_tui.peers.peer import Peer
from cyber_inference_tui.peers.tunnel import CLOSE_SECONDS, MOST_MESSAGE, pass_bytes
from cyber_inference_tui.records.workers import WorkerState
from cyber_inference_tui.text import clean_line

PINGS = 8.0
"""Seconds between two pings; an end that does not answer one within half of that is lost."""
_CONNECT_SECONDS = 5.0
_READY_SECONDS = 120.0
"""For a worker to run: idle models may have to be unloaded for it."""
_LAST_WORDS = 2.0
"""Seconds to wait for the reason, when a connection to the worker has ended."""
_MOST_TEXT = 64 << 10

T = TypeVar("T")

_logger = logging.getLogger(__name__)


def box_session() -> aiohttp.ClientSession:
    """Return a session for WebSockets to boxes."""
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
    )


@contextlib.asynccontextmanager
async def box_socket(
    session: aiohttp.ClientSession, peer: Peer, path: str, *, pings: float | None = None
) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """Open a WebSocket to another box. Raises ``PeerError`` if it does not accept it."""
    address = peer.address
    try:
        socket = await session.ws_connect(
            f"{peer.base_url}{path}",
            headers={hdrs.AUTHORIZATION: f"Bearer {address.key}"},
            ssl=True if address.tls is None else address.tls,
            heartbeat=pings,
            max_msg_size=MOST_MESSAGE,
            timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_SECONDS),
        )
    except aiohttp.WSServerHandshakeError as error:
        if error.status in {401, 403}:
            raise PeerError(f"{peer.name} refuses this box. Pair them again.") from None
        raise PeerError(
            f"{peer.name} cannot hold a part of a model (status {error.status}).",
            hint="Both boxes need the same version of this program.",
        ) from None
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        why = clean_line(str(error), limit=200) or type(error).__name__
        raise PeerError(f"{peer.name} does not answer: {why}.") from None
    async with socket:
        yield socket


async def message_of(socket: aiohttp.ClientWebSocketResponse, kind: type[T], name: str) -> T:
    """Return the next message of a box. Raises ``PeerError`` if there is none."""
    message = await socket.receive()
    if message.type is aiohttp.WSMsgType.TEXT and len(message.data) <= _MOST_TEXT:
        with contextlib.suppress(msgspec.MsgspecError):
            return msgspec.json.decode(message.data, type=thread_safe(kind))
    raise PeerError(f"{name} has ended the connection.")


class WorkerChannel:
    """The channel to a worker, made by ``open``."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._session = box_session()
        self._token = ""
        self._end = contextlib.AsyncExitStack()
        self._tasks: set[asyncio.Task[None]] = set()
        self._following: asyncio.Task[None] | None = None
        self.port = 0
        """The port of 127.0.0.1 for the llama-server."""
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Done with the reason when the worker cannot be used any more."""

    @classmethod
    async def open(cls, peer: Peer, *, model: str, memory: int) -> WorkerChannel:
        """Have a box start a worker with ``memory`` bytes. Raises ``PeerError``."""
        channel = cls(peer)
        try:
            await channel._open(model, memory)
        except BaseException:
            await channel.close()
            raise
        return channel

    async def _open(self, model: str, memory: int) -> None:
        self._end.push_async_callback(self._session.close)
        query = urlencode({"model": model, "memory": memory})
        socket = await self._end.enter_async_context(
            box_socket(self._session, self._peer, f"/peers/worker?{query}", pings=PINGS)
        )
        try:
            async with asyncio.timeout(_READY_SECONDS):
                state = await message_of(socket, WorkerState, self._peer.name)
        except TimeoutError:
            raise PeerError(
                f"{self._peer.name} has not started a worker within {_READY_SECONDS:g} s."
            ) from None
        if not state.ready:
            raise PeerError(f"{self._peer.name} runs no worker: {clean_line(state.ended)}")
        self._token = state.ready
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=MOST_MESSAGE)
        self._end.callback(server.close)
        self.port = server.sockets[0].getsockname()[1]
        self._following = asyncio.create_task(self._follow(socket), name="follow a worker")

    async def close(self) -> None:
        """End the channel, and with it the worker."""
        tasks = {*self._tasks, *({self._following} if self._following else ())}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._end.aclose()

    def lose(self, reason: str) -> None:
        """Note that the worker cannot be used any more. The first reason counts."""
        if not self.lost.done():
            _logger.warning("%s", reason)
            self.lost.set_result(reason)

    async def _follow(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        name = self._peer.name
        try:
            state = await message_of(socket, WorkerState, name)
            self.lose(f"the worker on {name} ended: {clean_line(state.ended).rstrip('.')}")
        except PeerError:
            self.lose(f"the connection to the worker on {name} is lost")

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._tunnel(reader, writer), name="reach a worker")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = f"/peers/worker/{quote(self._token, safe='')}"
        try:
            try:
                async with box_socket(self._session, self._peer, path) as socket:
                    broken = await pass_bytes(socket, reader, writer)
            except (PeerError, OSError, aiohttp.ClientError):
                broken = True
            if broken:
                # Its llama-server is killed first: one that loses its worker aborts, and that would
                # hide the reason.
                await self._explain()
                await asyncio.sleep(0)
        finally:
            writer.transport.abort()

    async def _explain(self) -> None:
        """Note the loss of the worker, with its reason if that comes within a moment."""
        await asyncio.wait({self.lost}, timeout=_LAST_WORDS)
        self.lose(f"the connection to the worker on {self._peer.name} is lost")
