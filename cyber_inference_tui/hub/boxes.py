"""Copy a file from another box of the same owner, which is nearer than the hub.

A box is asked for the file with a SHA-256 and a size. It may have it, may not have it, or may ask
for patience: it hashes the files that it has not downloaded itself, and sends a few at once.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import NamedTuple

import aiohttp
from aiohttp import hdrs
from yarl import URL

from cyber_inference_tui.backoff import backoff
from cyber_inference_tui.cancellation import until_called
from cyber_inference_tui.errors import HubAnswerError, HubError, HubUnreachableError
from cyber_inference_tui.hub.request import (
    FileResponse,
    HubResponse,
    PastEnd,
    file_response,
    unreachable,
)

_ANSWER_SECONDS = 3.0
"""Seconds in which a box says whether it has a file."""
_LONGEST_PAUSE = 60.0

_logger = logging.getLogger(__name__)


class NearbyBox(NamedTuple):
    """A box that can be asked for files."""

    name: str
    host: str
    port: int
    key: str
    tls: ssl.SSLContext | None
    """Accepts the certificate of the box alone; ``None`` = without TLS."""
    on_lost: set[Callable[[], None]]
    """The calls for the moment at which nothing is heard of the box any more."""


class FileBoxes:
    """The boxes that may have a file, for one transfer of it.

    ``boxes`` returns those that can be asked now. ``wrong`` has the names and digests of files that
    were not what a box said. Without a digest or a size no box is asked.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        boxes: Callable[[], Sequence[NearbyBox]],
        wrong: set[tuple[str, str]],
        *,
        sha256: str | None,
        size: int | None,
        interval: float,
        stall_timeout: float,
    ) -> None:
        self._session = session
        self._boxes = boxes if sha256 is not None and size is not None else tuple
        self._wrong = wrong
        self._sha256 = sha256 or ""
        self._size = size
        self._interval = interval
        self._stall_timeout = stall_timeout
        self._loop = asyncio.get_running_loop()
        self._without: set[str] = set()
        self._failures: Counter[str] = Counter()
        self._not_before: dict[str, float] = {}
        """The loop's time from which on a box that has failed is asked again."""
        self._used: set[str] = set()
        """The boxes that have sent a part of the file."""
        self.ready = asyncio.Event()
        """Set while ``watching`` knows a box with the file."""

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Look for a box with the file again and again, while the hub is asked."""
        looking = asyncio.create_task(self._look(), name="look for a box with a file")
        try:
            yield
        finally:
            looking.cancel()
            self.ready.clear()

    async def _look(self) -> None:
        while not self.ready.is_set():
            await asyncio.sleep(self._interval)
            if await self.find() is not None:
                self.ready.set()

    async def find(self) -> NearbyBox | None:
        """Return a box that has the file now."""
        now = self._loop.time()
        asked = [
            box
            for box in self._boxes()
            if box.name not in self._without
            and (box.name, self._sha256) not in self._wrong
            and now >= self._not_before.get(box.name, now)
        ]
        has = await asyncio.gather(*map(self._has, asked))
        return next((box for box, yes in zip(asked, has, strict=True) if yes), None)

    async def _has(self, box: NearbyBox) -> bool:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS), self._request("HEAD", box, 0) as answer:
                if answer.status in {400, 404, 405}:
                    self._without.add(box.name)
                return answer.status == 200 and answer.content_length == self._size
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            _logger.debug("the box %s does not say whether it has a file: %s", box.name, error)
            return False

    @asynccontextmanager
    async def get(self, box: NearbyBox, offset: int) -> AsyncIterator[FileResponse]:
        """Request the file from ``offset`` on.

        Raises ``HubError``, also while it is read, and as soon as the box is lost.
        """
        try:
            async with until_called(box.on_lost), self._request("GET", box, offset) as answer:
                if answer.status not in {200, 206}:
                    raise HubUnreachableError(f"The box answers with status {answer.status}.")
                reply = file_response(
                    HubResponse(answer, answer.url, {}), offset, self._stall_timeout
                )
                if isinstance(reply, PastEnd) or reply.total != self._size:
                    raise HubAnswerError("The box has another file.")
                self._used.add(box.name)
                yield reply
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise unreachable(box.name, error) from error

    def put_off(self, box: NearbyBox, error: HubError) -> None:
        """Do not ask a box for a while that has broken off."""
        _logger.warning("the copy from the box %s has broken off: %s", box.name, error)
        self._failures[box.name] += 1
        pause = backoff(self._interval, _LONGEST_PAUSE, self._failures[box.name])
        self._not_before[box.name] = self._loop.time() + pause

    def blame(self) -> bool:
        """Note that the file is wrong. Return whether a box may be to blame; none of them is asked
        for it again."""
        used, self._used = self._used, set()
        for name in used:
            _logger.warning("a file of the box %s is wrong, and is fetched again", name)
            self._wrong.add((name, self._sha256))
        return bool(used)

    def _request(
        self, method: str, box: NearbyBox, offset: int
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        headers = {hdrs.AUTHORIZATION: f"Bearer {box.key}", hdrs.ACCEPT_ENCODING: "identity"}
        if offset:
            headers[hdrs.RANGE] = f"bytes={offset}-"
        scheme = "http" if box.tls is None else "https"
        url = URL.build(scheme=scheme, host=box.host, port=box.port)
        return self._session.request(
            method,
            url.with_path(f"/peers/files/{self._sha256}").with_query(size=str(self._size)),
            headers=headers,
            ssl=True if box.tls is None else box.tls,
            allow_redirects=False,
        )
