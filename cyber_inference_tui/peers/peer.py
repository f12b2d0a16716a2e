"""Another box: what it says of itself, and whether it can be asked."""

from __future__ import annotations

import asyncio
import logging
import math
import ssl
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from datetime import datetime

import aiohttp
import msgspec

from cyber_inference_tui.backoff import backoff
from cyber_inference_tui.certificates import trusting
from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.llama.http_get import ServerAddress
from cyber_inference_tui.peers.routing import Home
from cyber_inference_tui.peers.secrets import PeerSecrets
from cyber_inference_tui.peers.wake import PACKET_INTERVAL, send_packet
from cyber_inference_tui.records.machine import ResourceSample
from cyber_inference_tui.records.models import ModelRecord
from cyber_inference_tui.records.peers import PeerRecord, PeerState, PeerUpdate, Role
from cyber_inference_tui.settings.peer_address import address_problem, split_address
from cyber_inference_tui.settings.schema import PeerSettings
from cyber_inference_tui.text import clean_line

HEARTBEAT = 2.0
"""Seconds between the updates of a box, at most."""
STALE = 6.0
"""Seconds without an update after which a box is not asked."""
FIRST_REST, LONGEST_REST = 5.0, 60.0
"""Seconds for which a box that has failed is not asked; they double with each failure."""
_CONNECT_SECONDS = 5.0
_WAKING_PAUSE = 0.5
"""Seconds between two tries to reach a box that was just woken."""
_MOST_LINE = 8 << 20
_MOST_MODELS = 10_000
_REFUSALS = {401, 403}
_MOST_REFUSAL = 64 << 10
_MOST_VERSION = 64
_MOST_TEXT = 500

_logger = logging.getLogger(__name__)


class PeerServer:
    """A box in the place of a model's server, for the connections to it."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self.address = peer.address
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """Never done: another box is not a child process."""

    def declare_hung(self, reason: str) -> None:
        """Leave the box alone for a while."""
        self._peer.rest(reason)


class Peer:
    """Another box. ``run`` reads its updates until cancelled; ``now`` returns the time in UTC.

    ``changed`` is called after each update, and when its state changes. ``known`` are the models
    that it had when it was heard of last.
    """

    def __init__(
        self,
        name: str,
        settings: PeerSettings,
        secrets: PeerSecrets | None,
        *,
        now: Callable[[], datetime],
        changed: Callable[[], None],
        known: Iterable[ModelRecord] = (),
    ) -> None:
        self.name = name
        self.settings = settings
        self.secrets = secrets
        self._now = now
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        parts = split_address(settings.url) if settings.url else None
        self.address = ServerAddress(
            parts.hostname or "" if parts else "",
            parts.port or 0 if parts else 0,
            secrets.key if secrets else "",
            tls=_tls(secrets) if parts and parts.scheme == "https" else None,
        )
        self.server = PeerServer(self)
        self.models = {model.id: model for model in known}
        """Its models by id, as it has reported them."""
        self._awake = asyncio.Event()
        self._woken = asyncio.Event()
        """Set while somebody waits until it is awake."""
        self._packet_at = -math.inf
        self.sample: ResourceSample | None = None
        self.version: str | None = None
        self.lends = 0
        """The bytes that it would lend to a model of this box."""
        self._heard = -STALE
        """The loop's time of the last update."""
        self._heard_at: datetime | None = None
        self._failures = 0
        self._rests_until = 0.0
        self._problem: str | None = None
        self._refused = self._unusable = False
        self.sent: dict[str, int] = {}
        """The requests under way there, by model."""
        self.answers = 0
        """The requests that it has answered so far."""
        self.on_lost: set[Callable[[], None]] = set()
        """Called when the box is lost, and again for each try to reach it that fails."""
        if secrets is None:
            self._problem = "It is not paired: its keys are missing here. Remove and add it again."
            self._unusable = True
        elif settings.url and (why := address_problem(settings.url, insecure=settings.insecure)):
            self._problem, self._unusable = f"{settings.url}: {why}.", True

    @property
    def base_url(self) -> str:
        """Return its address without a path."""
        scheme = "http" if self.address.tls is None else "https"
        host = f"[{self.address.host}]" if ":" in self.address.host else self.address.host
        return f"{scheme}://{host}:{self.address.port}"

    @property
    def can_be_asked(self) -> bool:
        """Return whether a request may be sent there now."""
        now = self._loop.time()
        return now - self._heard < STALE and now >= self._rests_until

    @property
    def can_be_woken(self) -> bool:
        """Return whether it sleeps, as far as can be told, and can be woken."""
        wakes = bool(self.settings.wake and self.settings.url)
        return wakes and not (self._awake.is_set() or self._unusable or self._refused)

    async def wake(self, seconds: float) -> bool:
        """Wake it, and wait until it can be asked; return ``False`` after so many seconds."""
        self._woken.set()
        try:
            async with asyncio.timeout(seconds):
                while not self._awake.is_set():
                    if self._loop.time() - self._packet_at >= PACKET_INTERVAL:
                        self._packet_at = self._loop.time()
                        send_packet(self.settings.wake)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(PACKET_INTERVAL):
                            await self._awake.wait()
        except TimeoutError:
            self._woken.clear()
            return False
        return True

    def home(self, model_id: str, *, warm: bool = False) -> Home | None:
        """Return the place of a model there, if it can be asked for it."""
        record = self.models.get(model_id)
        if record is None or not self.can_be_asked:
            return None
        return Home(self.name, record, self.sent.get(model_id, 0), warm)

    def record(self) -> PeerRecord:
        """Return its record."""
        return PeerRecord(
            name=self.name,
            url=self.settings.url,
            role=Role(self.settings.role),
            state=self._state(),
            problem=self._problem if not self.can_be_asked else None,
            version=self.version,
            models=tuple(self.models.values()),
            sample=self.sample,
            heard_at=self._heard_at,
            requests=sum(self.sent.values()),
            lends=self.lends if self.can_be_asked else 0,
        )

    def _state(self) -> PeerState:
        if self._refused or self._unusable:
            return PeerState.REFUSED
        if not self.settings.url:
            return PeerState.CLIENT
        if self._loop.time() < self._rests_until:
            return PeerState.RESTING
        return PeerState.CONNECTED if self.can_be_asked else PeerState.STALE

    # Requests

    def begin(self, model_id: str) -> None:
        """Count a request that is sent there."""
        self.sent[model_id] = self.sent.get(model_id, 0) + 1

    def end(self, model_id: str) -> None:
        """Count its end."""
        left = self.sent.get(model_id, 0) - 1
        if left > 0:
            self.sent[model_id] = left
        else:
            self.sent.pop(model_id, None)

    def rest(self, reason: str) -> None:
        """Leave the box alone for a while, because a request there has failed."""
        now = self._loop.time()
        if now < self._rests_until:
            return
        self._failures += 1
        pause = backoff(FIRST_REST, LONGEST_REST, self._failures)
        self._rests_until, self._problem = now + pause, reason
        _logger.warning("the box %s gets no requests for %g s: %s", self.name, pause, reason)
        self._changed()

    def answered(self) -> None:
        """Note that a request there was answered."""
        self.answers += 1
        self._failures = 0

    # Its updates

    async def run(self) -> None:
        """Read its updates, and connect again after each loss. Runs until cancelled."""
        failures = 0
        while self.settings.url and not self._unusable:
            try:
                async for update in self._updates():
                    self._take(update)
                    failures = 0
                problem = "It has ended the connection."
            except aiohttp.ClientSSLError:
                problem = "Its certificate is not the one that it was paired with."
            except _RefusedError as refusal:
                # Perhaps it has not stored the pairing yet, or is paired again soon.
                self._refused, problem = True, str(refusal)
            except Exception as error:  # noqa: BLE001 - whatever a box sends, it is asked again
                said = clean_line(str(error), limit=200) or type(error).__name__
                problem = f"It does not answer: {said}."
            failures += 1
            self._lost(problem)
            if self._woken.is_set():
                await asyncio.sleep(_WAKING_PAUSE)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(backoff(0.25, 5.0, failures)):
                    await self._woken.wait()

    async def _updates(self) -> AsyncIterator[PeerUpdate]:
        address = self.address
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=STALE)
        async with (
            aiohttp.ClientSession(
                timeout=timeout, read_bufsize=_MOST_LINE, auto_decompress=False, trust_env=False
            ) as session,
            session.get(
                f"{self.base_url}/peers/events",
                headers={"Authorization": f"Bearer {address.key}"},
                ssl=True if address.tls is None else address.tls,
                allow_redirects=False,
            ) as answer,
        ):
            if answer.status in _REFUSALS:
                said = refusal_in(await answer.content.read(_MOST_REFUSAL))
                raise _RefusedError(f"It refuses this box: {said} Pair them again.")
            if answer.status != 200:
                raise ValueError(f"it answered with status {answer.status}")
            async for line in answer.content:
                if line.startswith(b"data: "):
                    yield msgspec.json.decode(line[6:], type=thread_safe(PeerUpdate))

    def _take(self, update: PeerUpdate) -> None:
        self._heard, self._heard_at = self._loop.time(), self._now()
        if update.version is not None:
            # A new connection begins with everything.
            self.version, self.models = clean_line(update.version, limit=_MOST_VERSION), {}
            _logger.info("the box %s is connected (%s)", self.name, self.version)
        for gone in update.gone:
            self.models.pop(gone, None)
        for model in update.models:
            if model.id in self.models or len(self.models) < _MOST_MODELS:
                self.models[model.id] = model
        if update.sample is not None:
            self.sample = update.sample
        self.lends = update.lends
        self._refused = False
        self._awake.set()
        self._woken.clear()
        if self._heard >= self._rests_until:
            self._problem = None
        self._changed()

    def _lost(self, problem: str) -> None:
        if self._problem != problem:
            _logger.warning("the box %s: %s", self.name, problem)
        self._problem = problem
        self._heard = -STALE
        self._awake.clear()
        self.lose()
        self._changed()

    def lose(self) -> None:
        """Have the requests that have no byte of an answer sent elsewhere, and silent ones end."""
        for call in list(self.on_lost):
            call()


def refusal_in(body: bytes) -> str:
    """Return the message in the body of an error that another box sends; empty if it is none."""
    with suppress(msgspec.MsgspecError, LookupError, TypeError):
        said = msgspec.json.decode(body, type=thread_safe(dict[str, dict[str, object]]))
        return clean_line(str(said["error"]["message"]), limit=_MOST_TEXT)
    return ""


class _RefusedError(Exception):
    """The box does not accept this one's key."""


def _tls(secrets: PeerSecrets | None) -> ssl.SSLContext | None:
    return trusting(secrets.certificate) if secrets is not None else None
