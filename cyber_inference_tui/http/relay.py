"""Passes the owner's calls for another box on to it: ``/admin/boxes/NAME/…`` is its ``/admin/…``.

The box is called with the key of its pairing, over the pinned channel. So it decides by the role
that it gave to this box, and its answer is passed back as it is. A call makes one hop: those of
other boxes are not passed on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import unquote

import aiohttp
from aiohttp import hdrs, web
from yarl import URL

from cyber_inference_tui.cancellation import until_called
from cyber_inference_tui.errors import NotFoundError, PeerError, PeerRightsError
from cyber_inference_tui.http.access import is_box
from cyber_inference_tui.http.body_limits import BODY_LIMITS
from cyber_inference_tui.http.event_streams import SEND_TIMEOUT
from cyber_inference_tui.http.request_body import read_body
from cyber_inference_tui.peers.peer import Peer
from cyber_inference_tui.records.endpoints import LOG_POSITION, NEXT_CURSOR
from cyber_inference_tui.records.peers import PeerState

if TYPE_CHECKING:
    from cyber_inference_tui.service.service import Service

PATH = "/admin/boxes/"
_CONNECT_SECONDS = 5.0
_ASKED = (hdrs.ACCEPT, hdrs.CONTENT_TYPE, "Last-Event-ID")
_ANSWERED = (
    *(hdrs.CONTENT_TYPE, hdrs.CACHE_CONTROL, hdrs.RETRY_AFTER, hdrs.ALLOW),
    *("X-Content-Type-Options", "X-Accel-Buffering", "X-Should-Retry", LOG_POSITION, NEXT_CURSOR),
)
_CANNOT = frozenset({PeerState.CLIENT, PeerState.REFUSED, PeerState.STALE})

_logger = logging.getLogger(__name__)


class Relay:
    """The handler of all paths under ``PATH``. Call ``close`` when the service ends.

    ``admits`` checks whether the login of a request is still valid: a stream ends with its login.
    """

    def __init__(self, service: Service, admits: Callable[[web.Request], bool]) -> None:
        self._service = service
        self._admits = admits
        self._session: aiohttp.ClientSession | None = None

    async def close(self, _: web.Application) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Pass a call on. Raises ``PeerError`` if the box does not answer, and the usual errors."""
        if is_box(request):
            raise PeerRightsError("A box passes on only what its own owner asks, not other boxes.")
        target, question, query = request.raw_path.partition("?")
        name, _, path = target.split("/", PATH.count("/"))[-1].partition("/")
        if not path or {".", ".."} & set(unquote(path).split("/")):
            raise NotFoundError(f"The path continues with a box and what it is asked: {PATH}NAME/…")
        peer = self._service.peers.peer(unquote(name))
        if (state := peer.record()).state in _CANNOT:
            why = state.problem or "It only asks this box, which has no address of it."
            raise PeerError(f"{peer.name} cannot be asked. {why}")
        with request.app[BODY_LIMITS].share() as share:
            body = await read_body(request, share, self._service.settings.max_body_size)
            url = f"{peer.base_url}/admin/{path}{question}{query}"
            return await self._pass_on(request, peer, url, bytes(body))

    async def _pass_on(
        self, request: web.Request, peer: Peer, url: str, body: bytes
    ) -> web.StreamResponse:
        response: web.StreamResponse | None = None
        try:
            async with (
                until_called(peer.on_lost),
                self._asked(request, peer, url, body) as answer,
            ):
                if answer.status == 401:
                    # Otherwise the client would ask for the login of this service.
                    raise PeerError(f"{peer.name} does not know this box any more.")
                response = web.StreamResponse(
                    status=answer.status, headers=_chosen(answer.headers, _ANSWERED)
                )
                await response.prepare(request)
                async for part in answer.content.iter_any():
                    if not self._admits(request):
                        break
                    await self._send(response, part)
                return response
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if response is None:
                why = str(error) or "The connection was lost."
                raise PeerError(f"{peer.name} does not answer: {why}") from None
            _logger.info("an answer of the box %s has ended early: %s", peer.name, error)
            if request.transport is not None:
                request.transport.abort()
            return response

    def _asked(
        self, request: web.Request, peer: Peer, url: str, body: bytes
    ) -> aiohttp.client._RequestContextManager:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
            )
        address = peer.address
        return self._session.request(
            request.method,
            URL(url, encoded=True),
            data=body or None,
            headers={
                hdrs.ACCEPT_ENCODING: "identity",
                **_chosen(request.headers, _ASKED),
                hdrs.AUTHORIZATION: f"Bearer {address.key}",
            },
            ssl=True if address.tls is None else address.tls,
            allow_redirects=False,
        )

    @staticmethod
    async def _send(response: web.StreamResponse, part: bytes) -> None:
        async with asyncio.timeout(SEND_TIMEOUT):
            await response.write(part)


def _chosen(headers: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    return {name: headers[name] for name in names if name in headers}
