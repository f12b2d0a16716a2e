"""Forwards requests to the models' servers. This is the hot path.

For a loaded model, a request costs one scan of its JSON and one look-up in the scheduler. Then the
server's bytes are written straight to the client's transport, with back-pressure in both
directions. The lease that keeps the model loaded ends with the last byte.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from aiohttp import hdrs, web

from cyber_inference_tui.errors import (
    CyberError,
    InvalidRequestError,
    ModelLoadError,
    PeerBusyError,
    PeerError,
    QueueTimeoutError,
    RequestTooLargeError,
    ShuttingDownError,
    UpstreamError,
)
from cyber_inference_tui.http.body_fields import LARGE, Body, read_fields, with_fields
from cyber_inference_tui.http.body_limits import BODY_LIMITS, BodyShare
from cyber_inference_tui.http.box_place import BoxPlace, BoxRefusedError
from cyber_inference_tui.http.error_responses import error_response, internal_error
from cyber_inference_tui.http.form import FormSearch, is_form
from cyber_inference_tui.http.framing import BadResponseError
from cyber_inference_tui.http.model_request import ClientSide, RequestHead, client_of, head_of
from cyber_inference_tui.http.ollama.call import OnlyLoadError
from cyber_inference_tui.http.ollama.loads import load_or_unload
from cyber_inference_tui.http.request_body import read_body
from cyber_inference_tui.http.request_id import id_of, set_id
from cyber_inference_tui.http.retry_queue import LONG_TRIAL, TRIAL, Retry, RetryQueue
from cyber_inference_tui.http.server_connections import ConnectionPool, StalledError
from cyber_inference_tui.http.server_exchange import ServerExchange, ShorterRequest
from cyber_inference_tui.http.spooled_body import Spool, SpooledBody
from cyber_inference_tui.http.target import TargetFinder
from cyber_inference_tui.http.upstream import UpstreamLostError
from cyber_inference_tui.peers.peer import STALE, Peer
from cyber_inference_tui.peers.routing import HERE, Home
from cyber_inference_tui.peers.wake import WAKE_SECONDS
from cyber_inference_tui.scheduler.lease import Lease
from cyber_inference_tui.scheduler.state import Waiter
from cyber_inference_tui.service.finished_requests import FinishedRequests
from cyber_inference_tui.service.prompt_prefixes import LEAST_BYTES, Difference, PromptPrefixes

if TYPE_CHECKING:
    from cyber_inference_tui.service.service import Service

FIRST_COMMENT_AFTER = 2.0
COMMENT_INTERVAL = 4.0

_MOST_TRIES = 5

_EXIT_NOTICE = 0.5
# A killed process gives back its memory first, which may be much.
_KILL_NOTICE = 10.0

_KINDS: Mapping[int, type[CyberError]] = {
    413: RequestTooLargeError,
    429: PeerBusyError,
    503: PeerBusyError,
}
"""The errors for refusals of another box by their status; ``PeerError`` for all others."""
T = TypeVar("T")

_logger = logging.getLogger(__name__)


class _LostServer(NamedTuple):
    """The loss of a request's server before its answer."""

    error: UpstreamError
    alone: bool
    """Whether it was the only request at the server without an answer."""


class _WrittenResponse(web.StreamResponse):
    """Shows aiohttp that the answer is already written to the transport."""

    def __init__(self, *, keep_alive: bool) -> None:
        super().__init__()
        self._stays_open = keep_alive

    @property
    def keep_alive(self) -> bool | None:
        """Return whether the connection can serve another request."""
        return self._stays_open

    async def prepare(self, request: web.BaseRequest) -> None:
        """Do nothing: the head is already written."""

    async def write_eof(self, data: object = b"") -> None:
        """Do nothing: the end is already written."""


class Forwarder:
    """Answers every model endpoint. Call ``close`` when the service ends.

    ``finished`` gets each finished request that asked a model for output (the inference endpoints,
    and any POST under ``/v1/``). Of other requests (``/props``, ``/tokenize``, files of a server's
    web page …) it gets those that failed. A request whose model is not known raises an error
    instead, and has no record. ``now`` returns the time with its zone.
    """

    def __init__(
        self,
        service: Service,
        *,
        finished: FinishedRequests,
        now: Callable[[], datetime],
    ) -> None:
        self.service = service
        self._now = now
        self._zero, self._zone = 0.0, now().tzinfo
        """The time, in seconds since 1970, at which the loop's clock was zero."""
        self._zero_found_at = -math.inf
        # Kept, because before Python 3.12 every look-up of the loop costs a system call.
        self.loop = asyncio.get_running_loop()
        self.targets = TargetFinder(service)
        self.pool = ConnectionPool()
        self.retry_queue = RetryQueue()
        self.spool = Spool(service.settings.data_dir)
        self._prompts = PromptPrefixes()
        self.finished = finished
        self.energy = service.scheduler.energy

    async def close(self) -> None:
        """Close the idle connections, and record the last requests."""
        self.pool.close()
        self.finished.flush()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Find the model, wait for a place, pass on the request, and pass back the answer."""
        with request.app[BODY_LIMITS].share() as share:
            try:
                forwarding = client_of(request).take_begun() or await self._begin(request, share)
                set_id(request, forwarding.request_id)
            except OnlyLoadError as asked:
                return await load_or_unload(self.service, asked)
            return await forwarding.run(share)

    async def _begin(self, request: web.Request, share: BodyShare) -> Forwarding:
        """Read a request; return its forwarding, which alone keeps the body."""
        arrived = self.loop.time()
        settings = self.service.settings
        head = head_of(request)
        route = self.targets.route(head)
        self.count(head)
        kind = head.headers.get(hdrs.CONTENT_TYPE, "")
        form = FormSearch(kind) if is_form(kind) else None
        body = await read_body(request, share, settings.max_body_size, form)
        body_seconds = self.loop.time() - arrived
        if len(body) < LARGE:
            target = self.targets.find(route, head, body, form)
        else:
            async with share.limits.turns:
                target = self.targets.find(route, head, body, form)
                await asyncio.sleep(0)
        client = client_of(request)
        differs = None
        if target.is_work:
            differs = self.difference(target.model.id, head, client, target.body)
        return Forwarding(
            self,
            head,
            client,
            target,
            arrived,
            request_id=id_of(request),
            body_seconds=body_seconds,
            differs=differs,
        )

    def count(self, head: RequestHead) -> None:
        """Count a request by its key. Raises ``RateLimitedError`` or ``InvalidApiKeyError``."""
        if head.key_name is not None and head.limits.changes:
            self.finished.flush()
            self.service.keys.admit(head.key_name, head.limits)

    def difference(
        self, model_id: str, request: RequestHead, client: ClientSide, body: Body | memoryview
    ) -> Difference | None:
        """Return where a long prompt differs from the last ones of its client for this model."""
        if len(body) < LEAST_BYTES:
            return None
        who = request.key_name or f"{request.client or client.remote} {request.user_agent}"
        return self._prompts.take(model_id, who, body)

    def time_of(self, moment: float) -> datetime:
        """Return the time, with its zone, at a moment of the loop's clock."""
        at = self.loop.time()
        if at != self._zero_found_at:
            # The same for all records of a batch.
            self._zero_found_at, now = at, self._now()
            self._zero, self._zone = now.timestamp() - at, now.tzinfo
        return datetime.fromtimestamp(self._zero + moment, self._zone)


class Forwarding(ServerExchange):
    """The forwarding of a request whose target is known.

    ``run`` does in a task all that was not done before, if it has begun as a ``QuickForwarding``.
    """

    _spooled: SpooledBody | None = None
    """The body, if it is in a file."""

    async def run(self, share: BodyShare) -> web.StreamResponse:
        """Have the request answered, and record it. ``share`` counts its body."""
        answer, log = self._answer, self._log
        self.quick_client = None
        try:
            self._share = share
            if not answer.begun:
                share.resize(len(self._target.body))
            await self._serve_somewhere()
        except CyberError as error:
            log.error = error
            if not answer.begun:
                # Not raised: the middleware would record the request a second time.
                return error_response(error, self._request.path)
            answer.fail(error)
        except (asyncio.CancelledError, ConnectionError):
            self._client_gone()
            raise
        except Exception:
            log.error = internal_error()
            if not answer.begun:
                raise
            # Our own defect. A second answer inside the first would make it worse.
            _logger.exception("forwarding %s failed (%s)", self._target.path, self._log.request_id)
            answer.cut()
        finally:
            self._close()
        return _WrittenResponse(keep_alive=answer.keep_alive)

    async def _serve_somewhere(self) -> None:
        """Have the request answered by this box, or by another one that is better or able to.

        A box that cannot answer, or fails before the client has a part of the answer, leaves it to
        the next one.
        """
        homes = self._homes()
        if homes is not None and not homes:
            homes = await self._woken()
        if homes is None:
            await self._serve()
            return
        peers, target = self._service.peers, self._target
        began, limit = self._shared.loop.time(), self._service.settings.queue_timeout
        failed: CyberError | None = None
        for home in homes:
            if failed is not None:
                if limit and self._shared.loop.time() - began > limit:
                    break
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
                    await self._serve_at(peers.peer(home.box), home)
            except CyberError as error:
                retries = error.status >= 500 or error.status in {404, 413, 429}
                if self._answer.relayed or not retries or isinstance(error, ShuttingDownError):
                    raise
                failed = error
                continue
            peers.note_served(target.model.id, self._who(), home.box)
            return
        raise failed or PeerError(
            f"{target.model.id} is on another box, which does not answer now.",
            hint="`cyber-inference-tui peers list` says why.",
        )

    def _homes(self) -> list[Home] | None:
        """Return the boxes that can answer, the best first; ``None`` = only this one."""
        peers, model_id = self._service.peers, self._target.model.id
        if self._target.is_remote:
            return peers.homes(model_id, None, self._who())
        # A box that has asked this one has chosen it: a request makes one hop.
        if not peers or self._request.from_box or not self._target.is_work:
            return None
        if self._lease is not None or self._has_ended:
            return None
        here = self._service.models.record(model_id)
        homes = peers.homes(model_id, here, self._who())
        if not homes and not peers.sleepers(model_id, here):
            return None
        return homes if [home.box for home in homes] != [HERE] else None

    async def _woken(self) -> list[Home] | None:
        """Wake the boxes that are known to have the model, until one is awake; return the homes.

        ``None`` = nobody has come, and this box has the model. Raises ``PeerError``.
        """
        peers, model_id = self._service.peers, self._target.model.id
        here = None if self._target.is_remote else self._service.models.record(model_id)
        seconds = min(WAKE_SECONDS, self._service.settings.queue_timeout or WAKE_SECONDS)
        sleepers = peers.sleepers(model_id, here)
        self._log.start_waiting()
        try:
            for peer in sleepers:
                began = self._shared.loop.time()
                waking = asyncio.ensure_future(peer.wake(seconds))
                if await self._commented(waking, partial(self._waking_text, peer.name, began)):
                    break
        finally:
            self._log.stop_waiting(None)
        homes = self._homes()
        if here is None and sleepers and not homes:
            names = " and ".join(peer.name for peer in sleepers)
            raise PeerError(f"{model_id} is on {names}, which did not wake within {seconds:g} s.")
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
        place = self._lease = BoxPlace(peer, home.record.id)
        self._log.box = peer.name
        peer.on_lost.add(self._box_lost)
        try:
            await self._have_answered(place)
        except BoxRefusedError as refusal:
            kind = _KINDS.get(refusal.status, PeerError)
            raise kind(f"{peer.name} cannot answer: {refusal}") from None
        except UpstreamError as error:
            # A client that does not read its answer, or one bad request of many, is no fault of it.
            if not (place.others_succeed or self._answer.client_is_gone):
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

    async def _serve(self) -> None:
        """Have the request answered, by the next server if the first one crashes.

        That is possible as long as the client has received only comments. If the request was the
        only one at a second server that crashed, it caused the crash, and fails. Otherwise it is
        sent again, at most ``_MOST_TRIES`` times in total.
        """
        lost = await self._try()
        tries = 1
        while lost is not None:
            if tries > 1 and (lost.alone or tries >= _MOST_TRIES):
                raise lost.error
            _logger.warning(
                "%s Sending the request again (%s).", lost.error.message, self._log.request_id
            )
            self._answer.reset()
            tries += 1
            trial = TRIAL if tries == 2 else LONG_TRIAL
            with self._shared.retry_queue.retry(
                self._target.model.id, trial, suspect=lost.alone
            ) as retry:
                lost = await self._try(retry, lost)

    async def _try(
        self, retry: Retry | None = None, before: _LostServer | None = None
    ) -> _LostServer | None:
        """Have the request answered by a server.

        Return its loss, if another server may be tried. After a loss ``before``, the request waits
        for its ``retry``.
        """
        lease = self._lease if isinstance(self._lease, Lease) else None
        if lease is None and not self._shared.retry_queue.is_active(self._target.model.id):
            lease = self._service.scheduler.try_acquire(
                self._target.model, self._request.limits.priority
            )
        if lease is None:
            try:
                lease = await self._place(retry)
            except CyberError as error:
                if before is None or isinstance(error, ShuttingDownError):
                    raise
                failed = UpstreamError(
                    f"{before.error.message} It could not be sent again: {error.message}"
                )
                failed.needs_person = error.permanent
                raise failed from error
        self._lease = lease
        try:
            if retry is not None:
                lease.mark_retry()
                await lease.wait_alone(retry.trial)
                retry.begin_trial()
            self._retry = retry
            await self._have_answered(lease)
        except UpstreamError as error:
            if self._answer.relayed or not lease.server_exited or lease.stopped_on_purpose:
                raise
            return _LostServer(error, alone=lease.was_alone)
        finally:
            self._release()
        return None

    # A place at the model

    async def _place(self, retry: Retry | None) -> Lease:
        """Wait for the ``retry``, if any, and for a place at the model.

        Meanwhile a large body is in a file.
        """
        self._log.start_waiting()
        spooling = None
        if not isinstance(self._target.body, memoryview) and len(self._target.body) >= LARGE:
            spooling = asyncio.create_task(self._spool_body(), name="spool a body")
        try:
            lease = await self._wait_for_place(retry)
        finally:
            self._log.stop_waiting(self._service.scheduler.state(self._target.model.id))
            if spooling is not None:
                spooling.cancel()
        try:
            await self._read_back()
        except BaseException:
            lease.release()
            raise
        return lease

    async def _read_back(self) -> None:
        """Have the body, which may be in a file, ready to be sent. Raises ``StorageError``."""
        if self._spooled is not None and not self._target.body:
            self._set_body(await self._shared.spool.read(self._spooled))

    async def _spool_body(self) -> None:
        """Move the body to a file. If that cannot be done, it stays in memory."""
        body = self._target.body
        if not isinstance(body, memoryview):
            self._spooled = await self._shared.spool.write(body)
        if self._spooled is not None:
            self._set_body(b"")

    async def _acquire(self, retry: Retry | None) -> Lease:
        limit = self._service.settings.queue_timeout
        if retry is not None:
            try:
                async with asyncio.timeout(limit or None):
                    await retry.wait_turn()
            except TimeoutError:
                raise QueueTimeoutError(
                    f"Other requests of a crashed server took longer than {limit:g} s."
                ) from None
        else:
            await self._shared.retry_queue.wait_until_empty(
                self._target.model.id, timeout=limit, most=self._service.settings.max_queue
            )
        while True:
            try:
                return await self._service.scheduler.acquire(
                    self._target.model,
                    on_wait=self._note_waiter,
                    priority=self._request.limits.priority,
                )
            except ModelLoadError as error:
                pause = error.retry_after
                if retry is None or retry.suspect or pause is None or pause > TRIAL:
                    raise
                # Other requests crashed the servers before, so the pause is short.
                await asyncio.sleep(pause)

    def _note_waiter(self, waiter: Waiter) -> None:
        ahead = self._service.scheduler.waits.ahead(self._target.model.id, waiter)
        self._log.set_waiter(waiter, ahead)

    async def _wait_for_place(self, retry: Retry | None) -> Lease:
        if not self._answer.may_comment:
            return await self._acquire(retry)
        waiting = asyncio.ensure_future(self._acquire(retry))
        try:
            return await self._commented(waiting, self._wait_text)
        except BaseException:
            waiting.cancel()
            # If it has got its place in this moment, give it back.
            with contextlib.suppress(asyncio.CancelledError, CyberError):
                (await waiting).release()
            raise

    async def _commented(self, waiting: asyncio.Future[T], text: Callable[[], str]) -> T:
        """Wait, and tell the client now and then with this text that it waits."""
        try:
            pause = FIRST_COMMENT_AFTER
            while not (await asyncio.wait({waiting}, timeout=pause))[0]:
                if self._answer.may_comment:
                    self._answer.comment(text())
                pause = COMMENT_INTERVAL
        except BaseException:
            waiting.cancel()
            raise
        return waiting.result()

    def _wait_text(self) -> str:
        model_id, waiter = self._target.model.id, self._log.waiter
        estimate = None
        if waiter is not None:
            estimate = self._service.scheduler.waits.estimate(model_id, waiter)
        return estimate.in_words(model_id) if estimate else f"queued {model_id}"

    # The end of an exchange

    async def _have_answered(self, lease: Lease | BoxPlace) -> None:
        """Have the request answered by the server of ``lease``, if ``start`` has not sent it."""
        connections = self._shared.pool.of(lease.address)
        fresh = False
        while True:
            server = self._server
            if server is None:
                kept = None if fresh else connections.take()
                try:
                    self._send(lease, kept or await connections.connect())
                except OSError as error:
                    refused = isinstance(error, ConnectionRefusedError)
                    if refused and connections.end_deaf(lease.server):
                        await lease.wait_exited(_KILL_NOTICE)
                    raise await self._upstream_error(lease, "its server does not answer") from None
                continue
            try:
                await self._wait_for_end()
            except UpstreamLostError as error:
                if server.kept and error.untouched and not (fresh or lease.server_exited):
                    # The server is still there. It closed an idle connection as it was used, and
                    # sent no byte, so it cannot have started to work on the request.
                    fresh = True
                    continue
                raise await self._upstream_error(
                    lease, "its server closed the connection"
                ) from None
            except ShorterRequest as shorter:
                self._spooled = None
                self._set_body(shorter.body)
                self._answer.reset()
                continue
            except StalledError as error:
                raise await self._stall_error(lease, error) from None
            except BadResponseError as error:
                raise await self._upstream_error(lease, str(error)) from None
            finally:
                self._end_exchange()
            lease.answered()
            return

    async def _upstream_error(self, lease: Lease | BoxPlace, what: str) -> CyberError:
        """Return the error of a lost server. Its exit is noticed a moment after its connection."""
        if self._service.scheduler.closing:
            return ShuttingDownError("The service is shutting down.")
        if lease.stopped_on_purpose:
            return UpstreamError(f"{lease.model_id} was unloaded by force before it had answered.")
        await lease.wait_exited(_EXIT_NOTICE)
        if lease.server_exited:
            what = lease.exit_reason()
        return UpstreamError(f"{lease.model_id} failed to answer: {what}.")

    async def _stall_error(self, lease: Lease | BoxPlace, stalled: StalledError) -> CyberError:
        if stalled.hung:
            await lease.wait_exited(_KILL_NOTICE)
        return UpstreamError(f"{lease.model_id} failed to answer: its server {stalled}.")
