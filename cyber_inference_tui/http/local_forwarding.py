"""Has a request answered by this box: a place at its model, and another server if one crashes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from cyber_inference_tui.cancellation import until_called
from cyber_inference_tui.errors import (
    CyberError,
    ModelLoadError,
    QueueTimeoutError,
    ShuttingDownError,
    UpstreamError,
)
from cyber_inference_tui.http.body_fields import LARGE
from cyber_inference_tui.http.box_place import BoxPlace
from cyber_inference_tui.http.framing import BadResponseError
from cyber_inference_tui.http.retry_queue import LONG_TRIAL, TRIAL, Retry
from cyber_inference_tui.http.server_connections import ServerConnections, StalledError
from cyber_inference_tui.http.server_exchange import ServerExchange, ShorterRequest
from cyber_inference_tui.http.spooled_body import SpooledBody
from cyber_inference_tui.http.upstream import UpstreamConnection, UpstreamLostError
from cyber_inference_tui.scheduler.lease import Lease
from cyber_inference_tui.scheduler.state import Waiter

T = TypeVar("T")

FIRST_COMMENT_AFTER = 2.0
COMMENT_INTERVAL = 4.0

_MOST_TRIES = 5

_EXIT_NOTICE = 0.5
# A killed process gives back its memory first, which may be much.
_KILL_NOTICE = 10.0

_logger = logging.getLogger(__name__)


class _LostServer(NamedTuple):
    """The loss of a request's server before its answer."""

    error: UpstreamError
    alone: bool
    """Whether it was the only request at the server without an answer."""


class LocalForwarding(ServerExchange):
    """The forwarding of a request to the model's server on this box."""

    _spooled: SpooledBody | None = None
    """The body, if it is in a file."""
    _waits_until: float | None = None
    """The loop's time until which it may wait for a place; ``None`` = as the scheduler says."""

    async def _serve(self) -> None:
        """Have the request answered, by the next server if the first one crashes.

        That is possible as long as the client has received only comments. If the request was the
        only one at a second server that crashed, it caused the crash, and fails. Otherwise it is
        sent again, at most ``_MOST_TRIES`` times in total. Of a model that is split over two boxes,
        a box that has the whole of it is asked first.
        """
        lost = await self._try()
        tries = 1
        if lost is not None and self._target.model.settings.split and await self._serve_whole():
            return
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

    async def _serve_whole(self) -> bool:
        """Have a box answer that does not split the model. Return whether one has answered."""
        return False

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
            async with asyncio.timeout_at(self._waits_until):
                lease = await self._wait_for_place(retry)
        except TimeoutError:
            raise QueueTimeoutError(
                f"{self._target.model.id} was not ready within queue_timeout."
            ) from None
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
                    self._send(lease, kept or await self._connected(lease, connections))
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

    async def _connected(
        self, lease: Lease | BoxPlace, connections: ServerConnections
    ) -> UpstreamConnection:
        """Return a new connection, for which a box has time as long as it is heard of.

        Raises ``OSError``.
        """
        if not isinstance(lease, BoxPlace):
            return await connections.connect()
        async with until_called(lease.on_lost):
            return await connections.connect()

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
