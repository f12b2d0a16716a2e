"""Has a request answered by the best of several boxes, and by the next if that one fails."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Mapping
from functools import partial

from cyber_inference_tui.errors import (
    CyberError,
    InvalidRequestError,
    PeerBusyError,
    PeerError,
    RequestTooLargeError,
    ShuttingDownError,
    UpstreamError,
)
from cyber_inference_tui.http.body_fields import read_fields, with_fields
from cyber_inference_tui.http.box_place import BoxPlace, BoxRefusedError, seconds_left_in
from cyber_inference_tui.http.local_forwarding import LocalForwarding
from cyber_inference_tui.http.upstream import UpstreamLostError
from cyber_inference_tui.peers.peer import STALE, Peer
from cyber_inference_tui.peers.routing import HERE, Home
from cyber_inference_tui.peers.wake import WAKE_SECONDS
from cyber_inference_tui.records.models import ModelRecord

_KINDS: Mapping[int, type[CyberError]] = {
    413: RequestTooLargeError,
    429: PeerBusyError,
    503: PeerBusyError,
}
"""The errors for refusals of another box by their status; ``PeerError`` for all others."""

_logger = logging.getLogger(__name__)


class BoxForwarding(LocalForwarding):
    """The forwarding of a request to this box or to another one."""

    async def _serve_somewhere(self) -> None:
        """Have the request answered by this box, or by another one that is better or able to."""
        homes = self._homes()
        if homes is not None or self._request.from_box:
            self._limit_wait()
        if homes is not None and not homes:
            homes = await self._woken()
            if homes is None:
                # This box says why it cannot answer, however little time is left.
                self._waits_until = None
        if homes is None:
            await self._serve()
        else:
            await self._serve_at_best(homes)

    async def _serve_at_best(self, homes: list[Home]) -> None:
        """Have the request answered by the first of these boxes that can.

        A box that cannot answer, or fails before the client has a part of the answer, leaves it to
        the next one.
        """
        failed: CyberError | None = None
        tried: set[str] = set()
        while homes and not (failed and self._seconds_left() <= 0):
            home = homes[0]
            tried.add(home.box)
            if failed is not None:
                _logger.warning(
                    "%s Asking %s (%s).",
                    failed.message,
                    home.box or "this box",
                    self._log.request_id,
                )
                self._answer.reset()
            try:
                await self._read_back()
                if home.box == HERE:
                    self._log.box = None
                    await self._serve()
                else:
                    await self._serve_at(self._service.peers.peer(home.box), home)
            except CyberError as error:
                retries = error.status >= 500 or error.status in {404, 413, 429}
                if self._answer.relayed or not retries or isinstance(error, ShuttingDownError):
                    raise
                failed = error
            else:
                self._service.peers.note_served(self._target.model.id, self._who(), home.box)
                return
            # Others may have been lost meanwhile, too, or be back.
            homes = [home for home in self._all_homes() if home.box not in tried]
        raise failed or PeerError(
            f"{self._target.model.id} is on another box, which does not answer now.",
            hint="`cyber-inference-tui peers list` says why.",
        )

    async def _serve_whole(self) -> bool:
        """Have a box answer that does not split the model. Return whether one has answered."""
        peers, model_id = self._service.peers, self._target.model.id
        if not peers or self._request.from_box or not self._target.is_work:
            return False
        for home in self._all_homes():
            if home.box == HERE or home.record.split:
                continue
            self._answer.reset()
            try:
                await self._read_back()
                await self._serve_at(peers.peer(home.box), home)
            except CyberError as error:
                if self._answer.relayed:
                    raise
                _logger.warning("%s (%s)", error.message, self._log.request_id)
                self._log.box = None
                continue
            peers.note_served(model_id, self._who(), home.box)
            return True
        return False

    def _limit_wait(self) -> None:
        """Limit the time for which the request may wait, on all boxes together."""
        limit = self._service.settings.queue_timeout or math.inf
        if self._request.from_box and (left := seconds_left_in(self._request.headers)) < limit:
            limit = left
        if limit < math.inf:
            self._waits_until = self._shared.loop.time() + limit

    def _seconds_left(self) -> float:
        return (self._waits_until or math.inf) - self._shared.loop.time()

    def _homes(self) -> list[Home] | None:
        """Return the boxes that can answer, the best first; ``None`` = only this one."""
        peers, model_id = self._service.peers, self._target.model.id
        if self._target.is_remote:
            return self._all_homes()
        # A box that has asked this one has chosen it: a request makes one hop.
        if not peers or self._request.from_box or not self._target.is_work:
            return None
        if self._lease is not None or self._has_ended:
            return None
        homes = self._all_homes()
        if not homes and not peers.sleepers(model_id, self._here()):
            return None
        return homes if [home.box for home in homes] != [HERE] else None

    def _all_homes(self) -> list[Home]:
        """Return the boxes that can answer now, the best first."""
        return self._service.peers.homes(self._target.model.id, self._here(), self._who())

    def _here(self) -> ModelRecord | None:
        """Return the model on this box; ``None`` if only others have it."""
        if self._target.is_remote:
            return None
        return self._service.models.record(self._target.model.id)

    async def _woken(self) -> list[Home] | None:
        """Wake the boxes that are known to have the model, until one is awake; return the homes.

        ``None`` = nobody has come, and this box has the model. Raises ``PeerError``.
        """
        model_id, here = self._target.model.id, self._here()
        sleepers = self._service.peers.sleepers(model_id, here)
        seconds = min(WAKE_SECONDS, self._seconds_left())
        self._log.start_waiting()
        try:
            for peer in sleepers:
                began = self._shared.loop.time()
                waking = asyncio.ensure_future(peer.wake(min(seconds, self._seconds_left())))
                if await self._commented(waking, partial(self._waking_text, peer.name, began)):
                    break
        finally:
            self._log.stop_waiting(None)
        homes = self._homes()
        if here is None and sleepers and not homes:
            names = " and ".join(peer.name for peer in sleepers)
            raise PeerError(f"{model_id} is on {names}, which did not wake within {seconds:.0f} s.")
        return homes if here is None else homes or None

    def _waking_text(self, name: str, began: float) -> str:
        return f"waking {name}, {self._shared.loop.time() - began:.0f} s"

    def _who(self) -> str:
        request = self._request
        return request.key_name or f"{self._log.client_address} {request.user_agent}"

    async def _serve_at(self, peer: Peer, home: Home) -> None:
        """Have the request answered by another box.

        Raises ``PeerError`` if it cannot; the client has no part of an answer then, unless the box
        was lost in the middle of one.
        """
        if not self._target.is_remote:
            self._name_model(home.record.id)
        place = self._lease = BoxPlace(peer, home.record.id, self._waits_until)
        self._log.box = peer.name
        peer.on_lost.add(self._box_lost)
        try:
            await self._have_answered(place)
        except BoxRefusedError as refusal:
            kind = _KINDS.get(refusal.status, PeerError)
            raise kind(f"{peer.name} cannot answer: {refusal}") from None
        except UpstreamError as error:
            # One bad request of many is no fault of the box.
            if not place.others_succeed:
                peer.rest(error.message)
            raise
        finally:
            peer.on_lost.discard(self._box_lost)
            self._release()

    def _name_model(self, model_id: str) -> None:
        """Have the request name its model, in a body that names none or uses an alias."""
        body = self._target.body
        if isinstance(body, memoryview):
            body = bytes(body)
        with contextlib.suppress(InvalidRequestError):
            if read_fields(body, must_be_object=True).model != model_id:
                self._set_body(
                    with_fields(body, strip=(), defaults={}, overrides={"model": model_id})
                )

    def _box_lost(self) -> None:
        """End the exchange with a box that is lost.

        If the answer has begun, do so only if no more of it comes for ``STALE`` seconds.
        """
        server = self._server
        if server is None:
            return
        if not self._answer.relayed:
            server.fail(UpstreamLostError(untouched=False))
            return
        server.take_new_bytes()
        lost_at = self._shared.loop.time()

        def end_if_silent() -> None:
            is_silent = not (server.has_new_bytes or server.paused or server.since > lost_at)
            if is_silent and server is self._server:
                server.fail(UpstreamLostError(untouched=False))

        self._shared.loop.call_later(STALE, end_if_silent)
