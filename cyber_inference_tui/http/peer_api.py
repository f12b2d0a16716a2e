"""The endpoints for other boxes: pairing, and the stream of what this box has."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import msgspec
from aiohttp import hdrs, web

from cyber_inference_tui import __version__
from cyber_inference_tui.errors import GuardedSettingError
from cyber_inference_tui.http.access import ACCESS, box_of, client_address, is_box
from cyber_inference_tui.http.json_io import json_answer, read_json
from cyber_inference_tui.http.peer_files import PeerFiles
from cyber_inference_tui.http.peer_worker import PeerWorkers
from cyber_inference_tui.http.routing import Call, RouteTable
from cyber_inference_tui.peers.peer import HEARTBEAT
from cyber_inference_tui.records import ModelRecord, ResourceSample, endpoints, to_json
from cyber_inference_tui.records.peers import (
    NewPeer,
    PairingProof,
    PairingQuery,
    PairingRecord,
    PairingRequest,
    PeerRecord,
    PeerSuggestion,
    PeerUpdate,
)
from cyber_inference_tui.records.queries import Nothing

if TYPE_CHECKING:
    from cyber_inference_tui.service.service import Service

_MOST_BODY = 128 << 10
_PAUSE = 0.25
"""Seconds between two updates, at least."""
_SEND_TIMEOUT = 30.0

_logger = logging.getLogger(__name__)


def add_peers(table: RouteTable, service: Service) -> None:
    """Add the endpoints for other boxes, and those of the owner about them."""
    peers = service.peers

    async def add(call: Call[Nothing, NewPeer]) -> PeerRecord:
        _check_owner(call.by_owner)
        record = await peers.add(call.body, service.own_box)
        await service.audit.note("peer_added", name=record.name, role=record.role)
        return record

    async def remove(call: Call[Nothing, Nothing]) -> PeerRecord:
        record = await peers.remove(call.name)
        await service.audit.note("peer_removed", name=record.name)
        return record

    async def suggestions(_: Call[Nothing, Nothing]) -> list[PeerSuggestion]:
        found = await service.discovery.suggestions()
        return [one for one in found if not peers.knows(one)]

    def open_pairing(call: Call[Nothing, PairingRequest]) -> PairingRecord:
        _check_owner(call.by_owner)
        return peers.acceptance.open(call.body)

    def close_pairing(_: Call[Nothing, Nothing]) -> PairingRecord:
        peers.acceptance.close("It was ended.")
        return peers.acceptance.record()

    async def pairing(call: Call[PairingQuery, Nothing]) -> PairingRecord:
        if call.query.wait:
            return await peers.acceptance.ended()
        return peers.acceptance.record()

    async def proof(request: web.Request) -> web.StreamResponse:
        given = await read_json(request, PairingProof, limit=_MOST_BODY)
        address = client_address(request) or ""
        host = f"[{address}]" if ":" in address else address
        box = given.box
        answer = await peers.acceptance.proof(
            given,
            service.own_box(True),
            service.own_fingerprint(),
            came_from=box.url.replace("*", host, 1),
        )
        await service.audit.note("peer_added", name=box.name)
        return json_answer(answer)

    table.answer(endpoints.PEERS, lambda call: service.peer_records())
    table.answer(endpoints.ADD_PEER, add)
    table.answer(endpoints.REMOVE_PEER, remove)
    table.answer(endpoints.PEER_SUGGESTIONS, suggestions)
    table.answer(endpoints.PAIRING, pairing)
    table.answer(endpoints.OPEN_PAIRING, open_pairing)
    table.answer(endpoints.CLOSE_PAIRING, close_pairing)
    table.answer(endpoints.PAIR, lambda call: peers.acceptance.hello(call.body))
    table.handle(endpoints.PAIR_PROOF, proof)
    table.handle(endpoints.PEER_EVENTS, PeerEvents(service).handle)
    table.handle(endpoints.PEER_FILE, PeerFiles(service).handle)
    workers = PeerWorkers(service)
    table.handle(endpoints.PEER_LINK, workers.link)
    table.handle(endpoints.PEER_WORKER, workers.worker)
    table.handle(endpoints.PEER_TUNNEL, workers.tunnel)
    table.answer(endpoints.CHECK_SPLIT, lambda call: service.check_split(call.name, call.body))


def _check_owner(by_owner: bool) -> None:
    if not by_owner:
        raise GuardedSettingError(
            "Another box may ask this one for good once they are paired, so only the owner of the"
            " service may pair it.",
            hint="Use 'cyber-inference-tui peers' as the service's user, or set admin_password and"
            " log in.",
        )


class PeerEvents:
    """The handler of ``GET /peers/events``: the models and the machine, as they change."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Send an update at once, at each change, and every ``HEARTBEAT`` seconds."""
        service = self._service
        response = web.StreamResponse(
            headers={hdrs.CONTENT_TYPE: "text/event-stream", hdrs.CACHE_CONTROL: "no-store"}
        )
        await response.prepare(request)
        subscription = service.events.subscribe({"model"})
        sent: dict[str, ModelRecord] = {}
        sample: ResourceSample | None = None
        version: str | None = __version__
        try:
            while is_box(request):
                now = {record.id: _public(record) for record in service.models.records()}
                last = service.monitoring.last
                box = box_of(request.app[ACCESS].rules, request.headers)
                update = PeerUpdate(
                    version=version,
                    models=tuple(one for one in now.values() if sent.get(one.id) != one),
                    gone=tuple(sent.keys() - now.keys()),
                    sample=None if last is sample else last,
                    lends=service.workers.lends(box.name) if box is not None else 0,
                )
                sent, sample, version = now, last, None
                async with asyncio.timeout(_SEND_TIMEOUT):
                    await response.write(b"data: %b\n\n" % to_json(update))
                try:
                    async with asyncio.timeout(HEARTBEAT):
                        await anext(subscription)
                except TimeoutError:
                    continue
                # More changes follow a first one.
                await asyncio.sleep(_PAUSE)
        except StopAsyncIteration:
            pass
        except (ConnectionError, TimeoutError):
            _logger.debug("a box has left the stream of updates")
        return response


def _public(record: ModelRecord) -> ModelRecord:
    """Return a record without what concerns only this machine."""
    return msgspec.structs.replace(record, path=None, port=None, pid=None)
