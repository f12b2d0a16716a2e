"""The endpoints with which another box uses memory of this one, all of them WebSockets.

``/peers/link`` is for measuring. ``/peers/worker`` starts a worker that lives as long as the
WebSocket, and ``/peers/worker/TOKEN`` is a connection to that worker.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import aiohttp
from aiohttp import web

from cyber_inference_tui.errors import CyberError, PeerError
from cyber_inference_tui.http.access import ACCESS, box_of
from cyber_inference_tui.http.query import read_query
from cyber_inference_tui.peers.peer import Peer
from cyber_inference_tui.peers.tunnel import CLOSE_SECONDS, MOST_MESSAGE, pass_bytes
from cyber_inference_tui.peers.worker_channel import PINGS
from cyber_inference_tui.records import to_json
from cyber_inference_tui.records.workers import WorkerQuery, WorkerState
from cyber_inference_tui.service.workers import Worker

if TYPE_CHECKING:
    from cyber_inference_tui.service.service import Service

_LINK_SECONDS = 60.0
_SEND_SECONDS = 5.0

_logger = logging.getLogger(__name__)


class PeerWorkers:
    """The handlers of ``/peers/link`` and ``/peers/worker``."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def link(self, request: web.Request) -> web.StreamResponse:
        """Say what this box lends, then answer each message with an empty one."""
        facts = await self._service.workers.facts(_box(request))
        socket = await _accepted(request)
        try:
            async with asyncio.timeout(_LINK_SECONDS):
                await socket.send_str(to_json(facts).decode())
                while (await socket.receive()).type is aiohttp.WSMsgType.BINARY:
                    await socket.send_bytes(b"")
        except (TimeoutError, ConnectionError):
            _logger.debug("a measurement of the link has ended early")
        await socket.close()
        return socket

    async def worker(self, request: web.Request) -> web.StreamResponse:
        """Run a worker until the WebSocket ends, or the owner here allows it no more."""
        box, asked = _box(request), read_query(WorkerQuery, request.query)
        peer = self._service.peers.peer(box)
        socket = await _accepted(request, pings=PINGS)
        ends = [
            asyncio.create_task(work, name=f"a worker for {box}")
            for work in (self._serve(socket, box, asked), _ended(socket), self._revoked(peer))
        ]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if not self._service.peers.has(peer):
                await _say(socket, ended="its owner has removed this box or changed its rights")
        finally:
            for task in ends:
                task.cancel()
            await asyncio.gather(*ends, return_exceptions=True)
        await socket.close()
        return socket

    async def _revoked(self, peer: Peer) -> None:
        """Return when a box is removed here, or has other settings."""
        gone = asyncio.Event()

        def look() -> None:
            if not self._service.peers.has(peer):
                gone.set()

        peer.on_lost.add(look)
        try:
            look()
            await gone.wait()
        finally:
            peer.on_lost.discard(look)

    async def _serve(self, socket: web.WebSocketResponse, box: str, asked: WorkerQuery) -> None:
        """Run a worker until it ends, and tell the other box about it."""
        try:
            async with self._service.workers.lend(box, asked) as worker:
                await _say(socket, ready=worker.token)
                await asyncio.wait({worker.server.exited})
                why = worker.server.exit_reason()[0].replace("its server", "it", 1)
        except CyberError as error:
            why = error.message
        await _say(socket, ended=why)

    async def tunnel(self, request: web.Request) -> web.StreamResponse:
        """Pass the bytes of one connection to a worker. Raises ``PeerError``, ``NotFoundError``."""
        worker: Worker = self._service.workers.find(request.match_info["token"], _box(request))
        try:
            reader, writer = await asyncio.open_connection(
                *worker.server.address[:2], limit=MOST_MESSAGE
            )
        except OSError as error:
            raise PeerError(f"The worker does not answer: {error}.") from None
        try:
            socket = await _accepted(request)
            await pass_bytes(socket, reader, writer)
        finally:
            writer.transport.abort()
        await socket.close()
        return socket


def _box(request: web.Request) -> str:
    box = box_of(request.app[ACCESS].rules, request.headers)
    if box is None:
        raise PeerError("The box was removed.")
    return box.name


async def _accepted(request: web.Request, *, pings: float | None = None) -> web.WebSocketResponse:
    socket = web.WebSocketResponse(
        heartbeat=pings, compress=False, max_msg_size=MOST_MESSAGE, timeout=CLOSE_SECONDS
    )
    await socket.prepare(request)
    return socket


async def _ended(socket: web.WebSocketResponse) -> None:
    """Return at the end of a channel, whose other end says nothing."""
    while not socket.closed:
        await socket.receive()


async def _say(socket: web.WebSocketResponse, *, ready: str = "", ended: str = "") -> None:
    """Send a state. A box that has left does not get it."""
    try:
        async with asyncio.timeout(_SEND_SECONDS):
            await socket.send_str(to_json(WorkerState(ready=ready, ended=ended)).decode())
    except (ConnectionError, TimeoutError, RuntimeError):
        _logger.debug("a box has left before the state of its worker")
