"""Keeps a snapshot of the service up to date.

It reads everything, then follows the events, and starts again when the connection breaks. Changes
are collected and delivered a few times per second, so that a busy service does not cost the
terminal more than an idle one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Set
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

import msgspec

from cyber_inference_tui.backoff import backoff
from cyber_inference_tui.client.service_client import ServiceClient
from cyber_inference_tui.client.sse import ServerEvent
from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.errors import (
    AdminLoginError,
    CyberError,
    NoServiceError,
    NotFoundError,
)
from cyber_inference_tui.records import (
    EVENTS_KEPT,
    DownloadRecord,
    LiveRequest,
    LiveRequests,
    ModelRecord,
    RecentEvent,
    RequestRecord,
    ResourceSample,
    ServiceEvent,
    TrendPoint,
    endpoints,
    queries,
    with_event,
)
from cyber_inference_tui.records.peers import PeerChange, PeerRecord
from cyber_inference_tui.tui.snapshot import (
    Link,
    Snapshot,
    remote_models,
    request_identity,
    trend_point,
)

T = TypeVar("T")
D = TypeVar("D")
E = TypeVar("E")

TOPICS = ("model", "resources", "request", "download", "config", "service", "peers")
FINISHED_KEPT = 200
TREND_SECONDS = 900
TREND_POINTS = 450
TREND_KEPT = 1800
RATES_KEPT = 16
"""Last rates of each running request."""
_BETWEEN_FIGURES = timedelta(seconds=0.45)
_BETWEEN_RATES = timedelta(seconds=0.9)
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 2.0
_LONGEST_FIRST_PAUSE = 5.0
"""Seconds between attempts to connect to a service that has not answered yet."""
_ANSWER_SECONDS = 10.0
"""Seconds after which the app says that the service does not answer."""
_POLL_SECONDS = 1.0
_QUIET_SECONDS = 3.0
"""Seconds without an event after which the service's status is read: with a long
``sample_interval`` a healthy service sends events rarely."""


class _LostError(Exception):
    """Raised when the event stream ended and everything has to be read again."""


class _ChangedRecord(msgspec.Struct):
    """The data of an event: ``status`` is ``None`` when the record was removed."""

    id: str
    status: str | None = None


class _RequestEvent(msgspec.Struct):
    """The data of an event: ``live`` is not empty if it is about requests in progress."""

    live: msgspec.Raw = msgspec.Raw()


class _ConfigEvent(msgspec.Struct):
    error: str | None = None


class Feed:
    """Follows the service and calls ``on_change`` with new snapshots, at most ``rate`` per second.

    ``on_login`` is awaited when the service asks for a password, and logs ``client`` in. ``now``
    returns the time with its time zone, ``sleep`` waits for seconds.
    """

    def __init__(
        self,
        client: ServiceClient,
        *,
        on_change: Callable[[Snapshot], None],
        on_login: Callable[[], Awaitable[None]],
        now: Callable[[], datetime],
        rate: float = 4.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._client = client
        self._on_change = on_change
        self._on_login = on_login
        self._now = now
        self._pause = 1 / rate
        self._sleep = sleep
        self._changed = asyncio.Event()
        self._handle: dict[str, Callable[[bytes], None]] = {
            "model": self._model,
            "resources": self._resources,
            "request": self._request,
            "download": self._download,
            "config": self._config,
            "service": self._service,
            "peers": self._peers,
        }
        self._has_boxes = True
        """The service can pair with other boxes; an older one cannot."""
        self._to_read: set[Callable[[], Coroutine[Any, Any, None]]] = set()
        self._live_at: datetime | None = None
        self._live_numbers: Set[int] = frozenset()
        """The requests of the last live figures."""
        self._rated_at: datetime | None = None
        self._rest: asyncio.Task[None] | None = None
        self.snapshot = Snapshot()

    async def run(self) -> None:
        """Follow the service until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._deliver())
            tasks.create_task(self._follow())

    async def _deliver(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            self._on_change(self.snapshot)
            await self._sleep(self._pause)

    def _set(self, **changes: Any) -> None:
        self.snapshot = replace(self.snapshot, **changes)
        self._changed.set()

    # The connection

    async def _follow(self) -> None:
        failures = 0
        while True:
            problem: Exception | None = None
            if self.snapshot.retry_at is not None:
                self._set(retry_at=None)
            try:
                await self._session()
            except* (CyberError, _LostError) as group:
                problem = _first(group)
            if self.snapshot.live:
                failures = 0
            if isinstance(problem, AdminLoginError):
                await self._on_login()
            else:
                failures += 1
                longest = _LONGEST_PAUSE if self.snapshot.reached else _LONGEST_FIRST_PAUSE
                pause = backoff(_FIRST_PAUSE, longest, failures)
                self._set(
                    link=Link.LOST,
                    problem=_reason(problem),
                    retry_at=self._now() + timedelta(seconds=pause),
                )
                await self._wait(pause)

    async def _wait(self, seconds: float) -> None:
        self._rest = asyncio.ensure_future(self._sleep(seconds))
        try:
            await asyncio.wait({self._rest})
        finally:
            self._rest.cancel()

    def retry(self) -> None:
        """Connect now, if the feed waits for its next attempt."""
        if self._rest is not None:
            self._rest.cancel()

    async def _session(self) -> None:
        """Read everything and follow the events; raise an exception group when that ends."""
        async with asyncio.TaskGroup() as tasks:
            after = await self._read_all()
            tasks.create_task(self._poll())
            topics = TOPICS if self._has_boxes else TOPICS[:-1]
            events = self._client.events(topics, after=after, patience=0.0, on_lost=_lost)
            async with aclosing(events):
                async for event in events:
                    self._take(event)
            raise _LostError

    async def _read_all(self) -> int | None:
        """Read everything; return the id of the last event that it includes."""
        client = self._client
        status = await client.call(endpoints.STATUS, timeout=_ANSWER_SECONDS)
        models, sample, trend, finished, recent_events = await asyncio.gather(
            client.call(endpoints.MODELS),
            client.call(endpoints.RESOURCES),
            self._trend(),
            client.call(endpoints.REQUESTS, query=queries.RequestQuery(limit=FINISHED_KEPT)),
            self._recent_events(),
        )
        now = self._now()
        self._set(
            link=Link.LIVE,
            problem="",
            updated_at=now,
            status=status,
            status_at=now,
            models=tuple(models),
            sample=sample,
            trend=trend,
            finished=tuple(finished),
            speeds=None,
            rates={},
            recent_events=recent_events,
            config_version=self.snapshot.config_version + 1,
            config_problem="",
        )
        await self._read_rooms()
        await self._read_active()
        await self._read_downloads()
        await self._read_install()
        await self._read_problems()
        await self._read_boxes()
        return status.last_event_id or None  # an older service does not send it

    async def _trend(self) -> tuple[TrendPoint, ...]:
        """Read the last minutes, which new samples continue."""
        query = queries.TrendQuery(seconds=TREND_SECONDS, points=TREND_POINTS)
        read = self._client.call(endpoints.TREND, query=query)
        trend = await self._part("graphs", read, None, None)
        return self.snapshot.trend if trend is None else trend.points

    async def _recent_events(self) -> tuple[RecentEvent, ...]:
        """Read the last events, and add those before a restart of the service."""
        before = self.snapshot.recent_events
        events = await self._part("events", self._client.call(endpoints.RECENT_EVENTS), before, ())
        first = events[-1].id if events else 0
        return (*events, *(event for event in before if event.id < first))[:EVENTS_KEPT]

    async def _poll(self) -> None:
        """Read once per second what events do not contain, while there is anything to read."""
        while True:
            if self.snapshot.active or any(m.in_flight or m.queued for m in self.snapshot.models):
                await self._read_active()
            to_read, self._to_read = self._to_read, set()
            updated_at = self.snapshot.updated_at
            if updated_at and (self._now() - updated_at).total_seconds() >= _QUIET_SECONDS:
                to_read.add(self._read_status)
            for read in to_read:
                await read()
            await self._sleep(_POLL_SECONDS)

    async def _read_rooms(self) -> None:
        before = self.snapshot.rooms
        rooms = await self._part("memory", self._client.call(endpoints.MEMORY), before, ())
        if tuple(rooms) != before:
            self._set(rooms=tuple(rooms))

    async def _read_active(self) -> None:
        before = self.snapshot.active
        active = await self._part(
            "live requests", self._client.call(endpoints.ACTIVE_REQUESTS), before, ()
        )
        # The response may be older than an event about the end of a request.
        over = {request_identity(one) for one in self.snapshot.finished}
        now = tuple(one for one in active if request_identity(one) not in over)
        if now != self.snapshot.active:
            self._set(active=now)

    async def _read_downloads(self) -> None:
        before = self.snapshot.downloads
        downloads = await self._part(
            "downloads", self._client.call(endpoints.DOWNLOADS), before, ()
        )
        self._set(downloads=tuple(downloads))

    async def _read_install(self) -> None:
        before = self.snapshot.install
        self._set(
            install=await self._part(
                "install", self._client.call(endpoints.INSTALLATION), before, None
            )
        )

    async def _read_problems(self) -> None:
        before = self.snapshot.problems
        problems = await self._part(
            "unusable files", self._client.call(endpoints.PROBLEMS), before, ()
        )
        if tuple(problems) != before:
            self._set(problems=tuple(problems))

    async def _read_boxes(self) -> None:
        before = self.snapshot.boxes
        boxes = await self._part("boxes", self._client.call(endpoints.PEERS), before, None)
        self._has_boxes = boxes is not None
        self._set_boxes({box.name: box for box in boxes or ()})

    def _set_boxes(self, boxes: dict[str, PeerRecord]) -> None:
        found = tuple(boxes[name] for name in sorted(boxes))
        elsewhere = tuple(model for box in found for model in remote_models(box))
        if found != self.snapshot.boxes or elsewhere != self.snapshot.elsewhere:
            self._set(boxes=found, elsewhere=elsewhere)

    async def _read_status(self) -> None:
        status = await self._client.call(endpoints.STATUS)
        now = self._now()
        self._set(status=status, status_at=now, updated_at=now)

    async def _part(self, name: str, call: Awaitable[T], before: D, otherwise: E) -> T | D | E:
        """Read one part of the snapshot.

        If the service fails to answer, return ``before`` and add ``name`` to the outdated parts.
        If it does not have the endpoint, return ``otherwise``.
        """
        try:
            found: T | E = await call
        except NotFoundError:
            found = otherwise
        except (NoServiceError, AdminLoginError):
            raise
        except CyberError:
            self._set_outdated(self.snapshot.outdated | {name})
            return before
        self._set_outdated(self.snapshot.outdated - {name})
        return found

    def _set_outdated(self, names: frozenset[str]) -> None:
        if names != self.snapshot.outdated:
            self._set(outdated=names)

    # Events

    def _take(self, event: ServerEvent) -> None:
        if event.topic == "gap":
            raise _LostError
        handle = self._handle.get(event.topic)
        if handle is None:
            return
        try:
            handle(event.data)
        except msgspec.MsgspecError as error:
            raise CyberError(f"The service has an incompatible version: {error}.") from error
        self._set(updated_at=self._now())

    def _model(self, data: bytes) -> None:
        news = msgspec.json.decode(data, type=thread_safe(_ChangedRecord))
        after = (
            None
            if news.status is None
            else msgspec.json.decode(data, type=thread_safe(ModelRecord))
        )
        models = {model.id: model for model in self.snapshot.models}
        models.pop(news.id, None)
        if after is not None:
            models[after.id] = after
        self._set(models=tuple(models[key] for key in sorted(models)))

    def _resources(self, data: bytes) -> None:
        sample = msgspec.json.decode(data, type=thread_safe(ResourceSample))
        point = trend_point(sample)
        if self.snapshot.speeds is not None:
            # These are measured more often, and at every server.
            point = msgspec.structs.replace(point, tokens_per_second=self.snapshot.speeds_now)
        trend = (*self.snapshot.trend, point)[-TREND_KEPT:]
        self._set(sample=sample, trend=trend)
        self._to_read.add(self._read_rooms)

    def _request(self, data: bytes) -> None:
        if msgspec.json.decode(data, type=thread_safe(_RequestEvent)).live:
            self._live(msgspec.json.decode(data, type=thread_safe(LiveRequests)))
            return
        record = msgspec.json.decode(data, type=thread_safe(RequestRecord))
        name = request_identity(record)
        if any(name == request_identity(known) for known in self.snapshot.finished):
            return
        self._set(
            finished=(record, *self.snapshot.finished)[:FINISHED_KEPT],
            active=tuple(one for one in self.snapshot.active if request_identity(one) != name),
        )

    def _live(self, news: LiveRequests) -> None:
        """Take new figures, twice a second: people cannot read them faster.

        The last ones, without any speed, are always taken.
        """
        figures = {one.number: one for one in news.live}
        now = self._now()
        early = self._live_at is not None and now - self._live_at < _BETWEEN_FIGURES
        if early and news.tokens_per_second and figures.keys() == self._live_numbers:
            return
        self._live_at, self._live_numbers = now, figures.keys()
        known = {one.number for one in self.snapshot.active}
        if not known >= figures.keys():
            self._to_read.add(self._read_active)
        active = tuple(
            one
            if (figure := figures.get(one.number)) is None
            else msgspec.structs.replace(
                one,
                phase=figure.phase,
                tokens_out=figure.tokens_out,
                tokens_per_second=figure.tokens_per_second,
            )
            for one in self.snapshot.active
        )
        self._set(active=active, speeds=news.tokens_per_second, rates=self._rates(figures))

    def _rates(self, figures: dict[int, LiveRequest]) -> dict[int, tuple[float, ...]]:
        """Add the rates of running requests to their last ones, once a second."""
        before, now = self.snapshot.rates, self._now()
        if self._rated_at is not None and now - self._rated_at < _BETWEEN_RATES:
            return {number: rates for number, rates in before.items() if number in figures}
        self._rated_at = now
        return {
            number: (*before.get(number, ()), one.tokens_per_second)[-RATES_KEPT:]
            for number, one in figures.items()
            if one.tokens_per_second is not None
        }

    def _download(self, data: bytes) -> None:
        news = msgspec.json.decode(data, type=thread_safe(_ChangedRecord))
        known = {one.id: one for one in self.snapshot.downloads}
        if news.status is None:
            known.pop(news.id, None)
        else:
            known[news.id] = msgspec.json.decode(data, type=thread_safe(DownloadRecord))
        self._set(downloads=tuple(known.values()))

    def _peers(self, data: bytes) -> None:
        news = msgspec.json.decode(data, type=thread_safe(PeerChange))
        boxes = {box.name: box for box in self.snapshot.boxes}
        before = boxes.pop(news.name, None)
        if news.box is not None:
            models = {model.id: model for model in (before.models if before else ())}
            models |= {model.id: model for model in news.models}
            left = tuple(model for name, model in models.items() if name not in news.gone)
            boxes[news.name] = msgspec.structs.replace(news.box, models=left)
        self._set_boxes(boxes)

    def _config(self, data: bytes) -> None:
        news = msgspec.json.decode(data, type=thread_safe(_ConfigEvent))
        self._set(config_version=self.snapshot.config_version + 1, config_problem=news.error or "")
        self._to_read.add(self._read_status)

    def _service(self, data: bytes) -> None:
        news = msgspec.json.decode(data, type=thread_safe(ServiceEvent))
        if isinstance(news.event, RecentEvent):
            self._take_recent(news.event)
        elif news.state == "problems":
            self._to_read.add(self._read_problems)
        elif news.state.startswith("install"):
            self._to_read |= {self._read_install, self._read_status}

    def _take_recent(self, event: RecentEvent) -> None:
        known = self.snapshot.recent_events
        if known and event.id <= known[0].id:
            return  # the list that was read has it already
        self._set(recent_events=with_event(known, event))
        if event.kind == "model":
            self._to_read |= {self._read_rooms, self._read_status}


def _first(group: BaseExceptionGroup[Any]) -> Exception:
    """Return the first error of a group."""
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def _reason(problem: Exception | None) -> str:
    if isinstance(problem, NoServiceError):
        return problem.message  # the app knows better hints than the command line's
    return str(problem) if isinstance(problem, CyberError) else "The connection was lost."


def _lost() -> None:
    raise _LostError
