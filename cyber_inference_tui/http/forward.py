"""Forwards requests to the models' servers. This is the hot path.

For a loaded model, a request costs one scan of its JSON and one look-up in the scheduler. Then the
server's bytes are written straight to the client's transport, with back-pressure in both
directions. The lease that keeps the model loaded ends with the last byte.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.http.body_fields import LARGE, Body
from cyber_inference_tui.http.body_limits import BODY_LIMITS, BodyShare
from cyber_inference_tui.http.box_forwarding import BoxForwarding
from cyber_inference_tui.http.error_responses import error_response, internal_error
from cyber_inference_tui.http.form import FormSearch, is_form
from cyber_inference_tui.http.model_request import ClientSide, RequestHead, client_of, head_of
from cyber_inference_tui.http.ollama.call import OnlyLoadError
from cyber_inference_tui.http.ollama.loads import load_or_unload
from cyber_inference_tui.http.request_body import read_body
from cyber_inference_tui.http.request_id import id_of, set_id
from cyber_inference_tui.http.retry_queue import RetryQueue
from cyber_inference_tui.http.server_connections import ConnectionPool
from cyber_inference_tui.http.spooled_body import Spool
from cyber_inference_tui.http.target import TargetFinder
from cyber_inference_tui.service.finished_requests import FinishedRequests
from cyber_inference_tui.service.prompt_prefixes import LEAST_BYTES, Difference, PromptPrefixes

if TYPE_CHECKING:
    from cyber_inference_tui.service.service import Service

_logger = logging.getLogger(__name__)


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


class Forwarding(BoxForwarding):
    """The forwarding of a request whose target is known.

    ``run`` does in a task all that was not done before, if it has begun as a ``QuickForwarding``.
    """

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
