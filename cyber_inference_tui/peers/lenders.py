"""The other boxes as lenders of memory for models of this one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import aiohttp

from cyber_inference_tui.errors import PeerError
from cyber_inference_tui.llama.split import Lender
from cyber_inference_tui.llama.worker import WorkerFacts
from cyber_inference_tui.peers.link import measure, split_problems
from cyber_inference_tui.peers.peer import Peer
from cyber_inference_tui.peers.peers import Peers
from cyber_inference_tui.peers.worker_channel import (
    WorkerChannel,
    box_session,
    box_socket,
    message_of,
)
from cyber_inference_tui.records.workers import LendingFacts, SplitCheck
from cyber_inference_tui.text import clean_line


class PeerLenders:
    """Lenders among ``peers``; ``own_facts`` returns those of this box's worker."""

    def __init__(self, peers: Peers, own_facts: Callable[[], Awaitable[WorkerFacts]]) -> None:
        self._peers = peers
        self._own_facts = own_facts

    def lends(self, box: str) -> int | None:
        """Return the bytes that a box would lend now; ``None`` = it lends nothing."""
        return self._peers.lending().get(box)

    async def measured(self, box: str) -> tuple[SplitCheck, LendingFacts]:
        """Measure the link to a box, and judge it. Raises ``CyberError`` if it does not answer."""
        peer = self._asked(box)
        own = await self._own_facts()
        async with box_session() as session, box_socket(session, peer, "/peers/link") as socket:
            there = await message_of(socket, LendingFacts, box)
            try:
                link = await measure(socket)
            except (OSError, TimeoutError, aiohttp.ClientError) as error:
                raise PeerError(f"{box} does not answer: {error}.") from None
        check = SplitCheck(
            name=box,
            build_here=own.build,
            build_there=clean_line(there.build, limit=80),
            protocol_here=own.protocol,
            protocol_there=clean_line(there.protocol, limit=80),
            round_trip_ms=round(link.round_trip_ms, 3),
            gbit_per_second=round(link.gbit_per_second, 3),
            memory_there_bytes=there.memory,
            problems=tuple(
                clean_line(one, limit=500) for one in split_problems(box, own, there, link)
            ),
        )
        return check, there

    async def check(self, box: str) -> Lender:
        """Measure the link to a box. Raises ``PeerError`` if no model can be split over it."""
        check, there = await self.measured(box)
        if check.problems:
            raise PeerError(" ".join(check.problems))
        return Lender(memory=there.memory, devices=there.devices)

    async def open(self, box: str, *, model: str, memory: int) -> WorkerChannel:
        """Have a box start a worker. Raises ``CyberError``."""
        peer = self._asked(box)
        channel = await WorkerChannel.open(peer, model=model, memory=memory)

        def end_if_removed() -> None:
            if not self._peers.has(peer):
                channel.lose(f"the box {box} was removed or has other settings")

        peer.on_lost.add(end_if_removed)
        channel.lost.add_done_callback(lambda _: peer.on_lost.discard(end_if_removed))
        return channel

    def _asked(self, box: str) -> Peer:
        peer = self._peers.peer(box)
        if not peer.can_be_asked:
            raise PeerError(f"{box} is not connected.")
        return peer
