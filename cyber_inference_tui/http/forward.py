"""The hot path: a request for a model in, the model's server's own bytes out.

For a loaded model a request costs one look at its JSON, one look-up in the scheduler, and then
bytes are written from the server's connection straight to the client's transport, with
back-pressure both ways. The lease that keeps the model loaded ends with the last byte.
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
from cyber_inference_tui.http.errors import error_response, internal_error
from cyber_inference_tui.http.framing import HOP_BY_HOP, BadResponseError
from cyber_inference_tui.http.renaming import Renaming
from cyber_inference_tui.http.request_log import RequestLog
from cyber_inference_tui.http.retry_queue import LONG_TRIAL, TRIAL, Retry, RetryQueue
from cyber_inference_tui.http.stall import StalledError, StallWatch
from cyber_inference_tui.http.target import BODYLESS, Target, Targets
from cyber_inference_tui.http.upstream import ConnectionPool, UpstreamLostError
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.llama.command import server_alias
from cyber_inference_tui.llama.launcher import SERVER_HOST
from cyber_inference_tui.records import RequestRecord
from cyber_inference_tui.scheduler.state import Lease, Waiter

if TYPE_CHECKING:
    from cyber_inference_tui.service.service import Service

FIRST_COMMENT_AFTER = 2.0
COMMENT_INTERVAL = 4.0

_MOST_TRIES = 5

_EXIT_NOTICE = 0.5
# A killed process gives back its memory first, which may be much.
_KILL_NOTICE = 10.0
# The body is passed on as it was read: unpacked. With a conversation's id llama-server goes on
# generating for whoever may ask again (/v1/stream) when the client is gone, unseen from here.
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


def _renaming(model: LocalModel) -> Renaming | None:
    alias = server_alias(model.id)
    return None if alias == model.id or model.settings.command else Renaming(alias, model.id)


class _Lost(NamedTuple):
    """The end of a request's server before its answer."""

    error: UpstreamError
    alone: bool
    """It was the only request there without an answer."""


class _Written(web.StreamResponse):
    """Tells aiohttp that the answer is on the transport already."""

    def __init__(self, *, keep_alive: bool) -> None:
        super().__init__()
        self._stays_open = keep_alive

    @property
    def keep_alive(self) -> bool | None:
        """Whether the connection serves another request."""
        return self._stays_open

    async def prepare(self, request: web.BaseRequest) -> None:
        """Nothing: the head is written."""

    async def write_eof(self, data: object = b"") -> None:
        """Nothing: the end is written."""


class Forwarder:
    """Answers every model endpoint. ``close`` it when the service ends.

    ``on_request`` is told of finished requests, each once, with a code for what went wrong if
    anything did: all that asked a model for something (the inference endpoints and any POST under
    ``/v1/``), and of the others (``/props``, ``/tokenize``, the files of a server's web page …)
    those that failed. An error that it raises is one of a request that has no record: its model is
    not known. ``now`` gives the time of day with its zone.
    """

    def __init__(
        self,
        service: Service,
        *,
        on_request: Callable[[RequestRecord, str | None], None],
        now: Callable[[], datetime],
    ) -> None:
        self._service = service
        self._on_request = on_request
        self._now = now
        self._targets = Targets(service)
        self._pool = ConnectionPool(SERVER_HOST)
        self._stalls = StallWatch()
        self._retry_queue = RetryQueue()

    async def close(self) -> None:
        """Close the idle connections."""
        self._pool.close()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Find the model, get a place at it, pass the request on and its answer back."""
        entry = RequestLog(request, self._now)
        target = await self._targets.find(request)
        answer = ClientResponse(request, target.stream, _renaming(target.model))
        number = self._service.active.come(entry.of(target, answer))
        try:
            await self._serve(request, target, answer, entry)
        except CyberError as error:
            entry.error = error
            if not answer.begun:
                # Not raised: whoever meets it outside takes the request for one without a record.
                return error_response(error, request.path)
            answer.fail(error)
        except (asyncio.CancelledError, ConnectionError):
            self._given_up(answer, entry)
            raise
        except Exception:
            entry.error = internal_error()
            if not answer.begun:
                raise
            # A defect of ours; a second answer inside the first would make it worse.
            _logger.exception("forwarding %s failed", target.path)
            answer.cut()
        finally:
            self._service.active.go(number)
            self._note(target, answer, entry)
        return _Written(keep_alive=answer.keep_alive)

    def _given_up(self, answer: ClientResponse, entry: RequestLog) -> None:
        """The client's connection is gone, or the service ends and waits no longer."""
        if self._service.scheduler.closing:
            entry.error = ShuttingDownError("The service is shutting down.")
        elif not (answer.complete or answer.says_done):
            entry.client_left = True
        answer.cut()

    def _note(self, target: Target, answer: ClientResponse, entry: RequestLog) -> None:
        if not (target.is_work or answer.refused or entry.failed):
            return
        try:
            self._on_request(entry.record(), entry.error_code)
        except Exception:
            # Whoever keeps the books must not spoil an answer.
            _logger.exception("a request was not recorded")

    async def _serve(
        self, request: web.Request, target: Target, answer: ClientResponse, entry: RequestLog
    ) -> None:
        """Have the request answered; by the next server, where the first one dies.

        That is possible while the client has nothing of an answer but comments. A request that was
        alone with a second server when that died has killed it, and fails. One that had company is
        tried again, at most ``_MOST_TRIES`` times in all.
        """
        lost = await self._try(request, target, answer, entry)
        tries = 1
        while lost is not None:
            if tries > 1 and (lost.alone or tries >= _MOST_TRIES):
                raise lost.error
            _logger.warning("%s The request is sent once more.", lost.error.message)
            answer.forget()
            tries += 1
            trial = TRIAL if tries == 2 else LONG_TRIAL
            with self._retry_queue.of(target.model.id, trial, suspect=lost.alone) as turn:
                lost = await self._try(request, target, answer, entry, turn=turn, before=lost)

    async def _try(
        self,
        request: web.Request,
        target: Target,
        answer: ClientResponse,
        entry: RequestLog,
        *,
        turn: Retry | None = None,
        before: _Lost | None = None,
    ) -> _Lost | None:
        """How the request was lost, if another server may be tried. ``before`` = the time before,
        after which it waits for its ``turn``."""
        lease = None
        if not self._retry_queue.under_way(target.model.id):
            lease = self._service.scheduler.try_acquire(target.model)
        if lease is None:
            try:
                lease = await self._place(target, answer, entry, turn)
            except CyberError as error:
                if before is None or isinstance(error, ShuttingDownError):
                    raise
                failed = UpstreamError(
                    f"{before.error.message} It was not possible to try again: {error.message}"
                )
                failed.needs_person = error.permanent
                raise failed from error
        try:
            await self._use(lease, request, target, answer, entry=entry, turn=turn)
        except UpstreamError as error:
            if answer.relayed or not lease.server_exited or lease.dismissed:
                raise
            return _Lost(error, alone=lease.was_alone)
        return None

    async def _use(
        self,
        lease: Lease,
        request: web.Request,
        target: Target,
        answer: ClientResponse,
        *,
        entry: RequestLog,
        turn: Retry | None = None,
    ) -> None:
        """Have the request answered by this server."""
        with lease:
            if turn is not None:
                lease.again()
                await lease.wait_alone(turn.trial)
                turn.begin_trial()
            lease.sent()
            try:
                await self._exchange(request, target, lease, answer, turn)
                lease.answered()
            finally:
                if target.is_work or answer.refused:
                    usage = entry.usage = answer.usage()
                    lease.count(usage.tokens_in, usage.tokens_out)

    # A place at the model

    async def _place(
        self, target: Target, answer: ClientResponse, entry: RequestLog, turn: Retry | None = None
    ) -> Lease:
        """Wait for a place, and before that for the ``turn``."""
        entry.waits()
        try:
            return await self._wait_for_place(target, answer, entry, turn)
        finally:
            entry.has_place()

    async def _acquire(self, target: Target, entry: RequestLog, turn: Retry | None) -> Lease:
        limit = self._service.settings.queue_timeout
        if turn is not None:
            try:
                async with asyncio.timeout(limit or None):
                    await turn.come()
            except TimeoutError:
                raise QueueTimeoutError(f"Its turn did not come within {limit:g} s.") from None
        else:
            await self._retry_queue.wait_over(
                target.model.id, timeout=limit, most=self._service.settings.max_queue
            )
        while True:
            try:
                return await self._service.scheduler.acquire(target.model, on_wait=entry.stands_at)
            except ModelLoadError as error:
                pause = error.retry_after
                if turn is None or turn.suspect or pause is None or pause > TRIAL:
                    raise
                # Others killed the servers before, and it is its turn now.
                await asyncio.sleep(pause)

    async def _wait_for_place(
        self, target: Target, answer: ClientResponse, entry: RequestLog, turn: Retry | None
    ) -> Lease:
        if not answer.may_comment:
            return await self._acquire(target, entry, turn)
        waiting = asyncio.ensure_future(self._acquire(target, entry, turn))
        try:
            pause = FIRST_COMMENT_AFTER
            while not (await asyncio.wait({waiting}, timeout=pause))[0]:
                answer.comment(self._outlook_of(target.model, entry.waiter))
                pause = COMMENT_INTERVAL
        except BaseException:
            waiting.cancel()
            # It may have got its place in this very moment: then that is given back.
            with contextlib.suppress(asyncio.CancelledError, CyberError):
                (await waiting).release()
            raise
        return waiting.result()

    def _outlook_of(self, model: LocalModel, waiter: Waiter | None) -> str:
        outlook = None
        if waiter is not None:
            outlook = self._service.scheduler.waits.outlook(model.id, waiter)
        return outlook.in_words(model.id) if outlook else f"queued {model.id}"

    # The exchange

    async def _exchange(
        self,
        request: web.Request,
        target: Target,
        lease: Lease,
        answer: ClientResponse,
        turn: Retry | None,
    ) -> None:
        head = self._request_head(request, target, lease.port)
        limit = self._service.settings.stall_timeout
        fresh = False
        while True:
            try:
                connection = await self._pool.connect(lease.port, fresh=fresh)
            except OSError:
                raise await self._upstream_error(lease, "its server does not answer") from None
            exchange = connection.begin(request.method, head, target.body)
            end = partial(exchange.fail, UpstreamLostError(untouched=False))
            lease.at_dismissal(end)
            try:
                with self._stalls.over(exchange, lease, limit) if limit else _UNWATCHED:
                    response = await exchange.head()
                    lease.begun()
                    if turn is not None:
                        turn.end()
                    await answer.relay(response, exchange)
            except UpstreamLostError as error:
                if connection.reused and error.untouched and not fresh:
                    # The server closed a kept connection in the moment we used it again; it
                    # cannot have begun to work on a request that it never answered a byte to.
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
                lease.stays(end)
                exchange.finish()
            return

    async def _upstream_error(self, lease: Lease, what: str) -> CyberError:
        """Why the server failed the request; its exit is noticed a moment after its connection."""
        if self._service.scheduler.closing:
            return ShuttingDownError("The service is shutting down.")
        if lease.dismissed:
            return UpstreamError(f"{lease.model_id} was unloaded by force before it had answered.")
        await lease.wait_exited(_EXIT_NOTICE)
        if lease.server_exited:
            what = lease.failure()
        return UpstreamError(f"{lease.model_id} failed to answer: {what}.")

    async def _stall_error(self, lease: Lease, stalled: StalledError) -> CyberError:
        if stalled.hung:
            await lease.wait_exited(_KILL_NOTICE)
        return UpstreamError(f"{lease.model_id} failed to answer: its server {stalled}.")

    def _request_head(self, request: web.Request, target: Target, port: int) -> bytes:
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
