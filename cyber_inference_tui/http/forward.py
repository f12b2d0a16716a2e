"""Forwards requests to the models' servers. This is the hot path.

For a loaded model, a request costs one scan of its JSON and one look-up in the scheduler. Then the
server's bytes are written straight to the client's transport, with back-pressure in both
directions. The lease that keeps the model loaded ends with the last byte.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from aiohttp import web

from cyber_inference_tui.errors import (
    CyberError,
    ModelLoadError,
    QueueTimeoutError,
    ShuttingDownError,
    UpstreamError,
)
from cyber_inference_tui.http.client_response import ClientResponse
from cyber_inference_tui.http.error_responses import error_response, internal_error
from cyber_inference_tui.http.framing import HOP_BY_HOP, BadResponseError
from cyber_inference_tui.http.name_replacer import NameReplacer
from cyber_inference_tui.http.request_log import RequestLog
from cyber_inference_tui.http.retry_queue import LONG_TRIAL, TRIAL, Retry, RetryQueue
from cyber_inference_tui.http.stall_watch import StalledError, StallWatch
from cyber_inference_tui.http.target import BODYLESS, Target, TargetFinder
from cyber_inference_tui.http.upstream import ConnectionPool, UpstreamLostError
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.llama.command import server_alias
from cyber_inference_tui.llama.launcher import SERVER_HOST
from cyber_inference_tui.records import RequestRecord
from cyber_inference_tui.scheduler.lease import Lease

if TYPE_CHECKING:
    from cyber_inference_tui.service.service import Service

FIRST_COMMENT_AFTER = 2.0
COMMENT_INTERVAL = 4.0

_MOST_TRIES = 5

_EXIT_NOTICE = 0.5
# A killed process gives back its memory first, which may be much.
_KILL_NOTICE = 10.0
# The body is passed on decompressed. With a conversation's id, llama-server would continue to
# generate after the client has left, for a later request to /v1/stream, unknown to the service.
_DROPPED = HOP_BY_HOP | {
    b"host",
    b"content-length",
    b"content-encoding",
    b"expect",
    b"x-conversation-id",
}
_KEYS = frozenset({b"authorization", b"x-api-key"})

_UNWATCHED = contextlib.nullcontext()

_logger = logging.getLogger(__name__)


def _name_replacer(model: LocalModel) -> NameReplacer | None:
    alias = server_alias(model.id)
    return None if alias == model.id or model.settings.command else NameReplacer(alias, model.id)


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

    ``on_request`` is called once for each finished request that asked a model for output (the
    inference endpoints, and any POST under ``/v1/``), with the code of its error if it failed. For
    other requests (``/props``, ``/tokenize``, files of a server's web page …) it is called only if
    they failed. A request whose model is not known raises an error instead, and has no record.
    ``now`` returns the time with its zone.
    """

    def __init__(
        self,
        service: Service,
        *,
        on_request: Callable[[RequestRecord, str | None], None],
        now: Callable[[], datetime],
    ) -> None:
        self.service = service
        self.on_request = on_request
        self._now = now
        self._targets = TargetFinder(service)
        self.pool = ConnectionPool(SERVER_HOST)
        self.stalls = StallWatch()
        self.retry_queue = RetryQueue()

    async def close(self) -> None:
        """Close the idle connections."""
        self.pool.close()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Find the model, wait for a place, pass on the request, and pass back the answer."""
        log = RequestLog(request, self._now)
        target = await self._targets.find(request)
        return await _Forwarding(self, request, target, log).run()


class _Forwarding:
    """The forwarding of a request whose target is known."""

    def __init__(
        self, forwarder: Forwarder, request: web.Request, target: Target, log: RequestLog
    ) -> None:
        self._shared = forwarder
        self._service = forwarder.service
        self._request = request
        self._target = target
        self._log = log
        self._answer = ClientResponse(request, target.stream, _name_replacer(target.model))

    async def run(self) -> web.StreamResponse:
        """Have the request answered, and record it."""
        answer, log = self._answer, self._log
        number = self._service.active.add(log.start(self._target, answer).active)
        try:
            await self._serve()
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
            _logger.exception("forwarding %s failed", self._target.path)
            answer.cut()
        finally:
            self._service.active.remove(number)
            self._note()
        return _WrittenResponse(keep_alive=answer.keep_alive)

    def _client_gone(self) -> None:
        """Note that the client has left, or that the service ends."""
        if self._service.scheduler.closing:
            self._log.error = ShuttingDownError("The service is shutting down.")
        elif not (self._answer.complete or self._answer.says_done):
            self._log.client_left = True
        self._answer.cut()

    def _note(self) -> None:
        if not (self._target.is_work or self._answer.refused or self._log.failed):
            return
        try:
            self._shared.on_request(self._log.record(), self._log.error_code)
        except Exception:
            # An error in recording must not break the answer.
            _logger.exception("a request was not recorded")

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
            _logger.warning("%s Sending the request again.", lost.error.message)
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
        lease = None
        if not self._shared.retry_queue.is_active(self._target.model.id):
            lease = self._service.scheduler.try_acquire(self._target.model)
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
        try:
            await self._use(lease, retry)
        except UpstreamError as error:
            if self._answer.relayed or not lease.server_exited or lease.stopped_on_purpose:
                raise
            return _LostServer(error, alone=lease.was_alone)
        return None

    async def _use(self, lease: Lease, retry: Retry | None) -> None:
        """Have the request answered by the server of ``lease``."""
        with lease:
            if retry is not None:
                lease.mark_retry()
                await lease.wait_alone(retry.trial)
                retry.begin_trial()
            lease.sent()
            try:
                await self._exchange(lease, retry)
                lease.answered()
            finally:
                if self._target.is_work or self._answer.refused:
                    usage = self._log.usage = self._answer.usage()
                    lease.count(usage.tokens_in, usage.tokens_out)

    # A place at the model

    async def _place(self, retry: Retry | None) -> Lease:
        """Wait for the ``retry``, if any, and for a place at the model."""
        self._log.start_waiting()
        try:
            return await self._wait_for_place(retry)
        finally:
            self._log.stop_waiting()

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
                    self._target.model, on_wait=self._log.set_waiter
                )
            except ModelLoadError as error:
                pause = error.retry_after
                if retry is None or retry.suspect or pause is None or pause > TRIAL:
                    raise
                # Other requests crashed the servers before, so the pause is short.
                await asyncio.sleep(pause)

    async def _wait_for_place(self, retry: Retry | None) -> Lease:
        if not self._answer.may_comment:
            return await self._acquire(retry)
        waiting = asyncio.ensure_future(self._acquire(retry))
        try:
            pause = FIRST_COMMENT_AFTER
            while not (await asyncio.wait({waiting}, timeout=pause))[0]:
                self._answer.comment(self._wait_text())
                pause = COMMENT_INTERVAL
        except BaseException:
            waiting.cancel()
            # If it has got its place in this moment, give it back.
            with contextlib.suppress(asyncio.CancelledError, CyberError):
                (await waiting).release()
            raise
        return waiting.result()

    def _wait_text(self) -> str:
        model_id, waiter = self._target.model.id, self._log.waiter
        estimate = None
        if waiter is not None:
            estimate = self._service.scheduler.waits.estimate(model_id, waiter)
        return estimate.in_words(model_id) if estimate else f"queued {model_id}"

    # The exchange

    async def _exchange(self, lease: Lease, retry: Retry | None) -> None:
        head = self._request_head(lease.port)
        limit = self._service.settings.stall_timeout
        fresh = False
        while True:
            try:
                connection = await self._shared.pool.connect(lease.port, fresh=fresh)
            except OSError:
                raise await self._upstream_error(lease, "its server does not answer") from None
            exchange = connection.begin(self._request.method, head, self._target.body)
            end = partial(exchange.fail, UpstreamLostError(untouched=False))
            lease.on_forced_unload.add(end)
            try:
                with self._shared.stalls.watch(exchange, lease, limit) if limit else _UNWATCHED:
                    response = await exchange.head()
                    lease.begun()
                    if retry is not None:
                        retry.end()
                    await self._answer.relay(response, exchange)
            except UpstreamLostError as error:
                if connection.reused and error.untouched and not fresh:
                    # The server closed a kept connection just as it was used again, and sent no
                    # byte, so it cannot have started to work on the request.
                    fresh = True
                    continue
                raise await self._upstream_error(
                    lease, "its server closed the connection"
                ) from None
            except StalledError as error:
                raise await self._stall_error(lease, error) from None
            except BadResponseError as error:
                raise await self._upstream_error(lease, str(error)) from None
            finally:
                lease.on_forced_unload.discard(end)
                exchange.finish()
            return

    async def _upstream_error(self, lease: Lease, what: str) -> CyberError:
        """Return the error of a lost server. Its exit is noticed a moment after its connection."""
        if self._service.scheduler.closing:
            return ShuttingDownError("The service is shutting down.")
        if lease.stopped_on_purpose:
            return UpstreamError(f"{lease.model_id} was unloaded by force before it had answered.")
        await lease.wait_exited(_EXIT_NOTICE)
        if lease.server_exited:
            what = lease.exit_reason()
        return UpstreamError(f"{lease.model_id} failed to answer: {what}.")

    async def _stall_error(self, lease: Lease, stalled: StalledError) -> CyberError:
        if stalled.hung:
            await lease.wait_exited(_KILL_NOTICE)
        return UpstreamError(f"{lease.model_id} failed to answer: its server {stalled}.")

    def _request_head(self, port: int) -> bytes:
        request, target = self._request, self._target
        dropped = _DROPPED | _KEYS if self._service.settings.api_keys else _DROPPED
        lines = [
            f"{request.method} {target.path} HTTP/1.1\r\nHost: {SERVER_HOST}:{port}\r\n".encode()
        ]
        lines += [
            b"%b: %b\r\n" % (name, value)
            for name, value in request.raw_headers
            if name.lower() not in dropped
        ]
        if target.body or request.method not in BODYLESS:
            lines.append(b"Content-Length: %d\r\n" % len(target.body))
        lines.append(b"\r\n")
        return b"".join(lines)
