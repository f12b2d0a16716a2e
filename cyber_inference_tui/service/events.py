"""Publish events to any number of readers, in bounded memory.

Each topic keeps its last events in a ring, and a subscription is only a cursor into the rings. So a
slow reader costs nothing: it loses the events that it did not read in time, and gets a ``gap``
event in their place. Everything here runs on one event loop.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Self

import msgspec

from cyber_inference_tui.records import GapEvent, LogEvent, to_json

TOPICS = frozenset(
    {"model", "log", "resources", "request", "download", "config", "service", "peers", "bench"}
)
"""The topics of subscriptions."""

GAP = "gap"
"""The topic of an event that reports lost events; nobody subscribes to it or publishes it."""

BATCH_EVENTS = 256
BATCH_BYTES = 256 * 1024

_ASSUMED_BYTES = 512
"""The weight of an event that is not encoded yet; log events are weighed by their text."""

Data = msgspec.Struct | dict[str, Any] | bytes
"""A record, its fields, or JSON that is encoded already."""


class Event:
    """A published event; ``id`` is its sequence number over all topics."""

    __slots__ = ("_json", "data", "id", "topic", "weight")

    def __init__(self, id: int, topic: str, data: Data) -> None:  # noqa: A002 - the wire's word
        self.id = id
        self.topic = topic
        self.data = data
        self._json: bytes | None = None
        self.weight = _ASSUMED_BYTES
        if isinstance(data, bytes):
            self._json = data
            self.weight = len(data)
        elif type(data) is LogEvent:
            self.weight = sum(100 + len(line.text) for line in data.lines)
        elif type(data) is dict:
            # Its size is unknown and its owner may change it later: encode it now.
            self.weight = len(self.json)

    @property
    def json(self) -> bytes:
        """``data`` as JSON on one line, encoded for the first reader and then kept."""
        if self._json is None:
            self._json = to_json(self.data)
        return self._json

    def __repr__(self) -> str:
        return f"Event({self.id}, {self.topic!r}, {self.json!r})"


class _Ring:
    """The last events of a topic; ``first`` is the ordinal of the oldest event kept, from 0.

    Records that are published together become events when somebody looks at them: most are dropped
    before.
    """

    __slots__ = (
        "_batches",
        "_bytes",
        "_in_batches",
        "_keep",
        "_keep_bytes",
        "_made",
        "_topic",
        "dropped_id",
        "dropped_logs",
        "first",
    )

    def __init__(self, topic: str, keep: int, keep_bytes: int) -> None:
        self._topic = topic
        self._keep = keep
        self._keep_bytes = keep_bytes
        self._made: deque[Event] = deque()
        self._bytes = 0
        self._batches: deque[tuple[int, Sequence[msgspec.Struct]]] = deque()
        """Records of newer events, each batch with the id of its first."""
        self._in_batches = 0
        self.first = 0
        self.dropped_id = 0
        """The id of the newest event that is no longer kept."""
        self.dropped_logs: dict[str, int] = {}
        """The same for each log, by the log's id."""

    def add(self, event: Event) -> None:
        events = self.events
        events.append(event)
        self._bytes += event.weight
        while len(events) > self._keep or (self._bytes > self._keep_bytes and len(events) > 1):
            self.drop_oldest()

    def add_batch(self, first_id: int, batch: Sequence[msgspec.Struct]) -> None:
        self._batches.append((first_id, batch))
        self._in_batches += len(batch)
        while self._in_batches - len(self._batches[0][1]) >= self._keep:
            while self._made:
                self.drop_oldest()
            first_id, batch = self._batches.popleft()
            self.first += len(batch)
            self._in_batches -= len(batch)
            self.dropped_id = first_id + len(batch) - 1

    @property
    def events(self) -> deque[Event]:
        """The events, the oldest first. Ask for them before ``first``, ``end`` and the others."""
        if self._batches:
            batches, self._batches, self._in_batches = self._batches, deque(), 0
            for first_id, batch in batches:
                for number, data in enumerate(batch, first_id):
                    self.add(Event(number, self._topic, data))
        return self._made

    def drop_oldest(self) -> None:
        event = self._made.popleft()
        self.first += 1
        self._bytes -= event.weight
        self.dropped_id = event.id
        if type(event.data) is LogEvent:
            self.dropped_logs[event.data.id] = event.id

    @property
    def end(self) -> int:
        """The ordinal of the next event."""
        return self.first + len(self._made) + self._in_batches


class EventBus:
    """Keeps the last events of each topic for its subscriptions.

    ``keep`` and ``keep_bytes`` bound each topic. Ids go up by one from ``first_id``, which is by
    default the wall clock in milliseconds: ids of an earlier service are lower, so a client that
    resumes with such an id learns that it missed events. ``clock`` is monotonic, in seconds.
    """

    def __init__(
        self,
        *,
        keep: int = 2048,
        keep_bytes: int = 2 * 1024 * 1024,
        first_id: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.first_id = time.time_ns() // 1_000_000 if first_id is None else first_id
        self.last_id = self.first_id - 1
        """The id of the newest event; one below ``first_id`` while there is none."""
        self.rings = {topic: _Ring(topic, keep, keep_bytes) for topic in sorted(TOPICS)}
        self._waiting: set[Subscription] = set()
        self._clock = clock
        self._read_at: dict[str, float] = {}
        self.closed = False

    def publish(self, topic: str, data: Data) -> None:
        """Publish ``data`` to the readers of ``topic``. A struct must not change afterwards."""
        self.last_id += 1
        self.rings[topic].add(Event(self.last_id, topic, data))
        self._wake(topic)

    def publish_all(self, topic: str, records: Sequence[msgspec.Struct]) -> None:
        """Publish small records, in order."""
        if records:
            self.rings[topic].add_batch(self.last_id + 1, records)
            self.last_id += len(records)
            self._wake(topic)

    def _wake(self, topic: str) -> None:
        if self._waiting:
            for subscription in [s for s in self._waiting if topic in s.topics]:
                subscription.wake()

    def subscribe(
        self,
        topics: Iterable[str] | None = None,
        after: int | None = None,
        *,
        logs: Collection[str] | None = None,
    ) -> Subscription:
        """Return a subscription to ``topics`` (``None`` = all) from now on.

        With ``after`` it resumes after the event with this id, as far as events are kept. With
        ``logs`` (ids of logs) the events of all other logs are left out, and gaps are reported
        only if events of these logs were lost. Raises ``ValueError`` for an unknown topic. A
        subscription needs no closing.
        """
        chosen = TOPICS if topics is None else frozenset(topics)
        if unknown := chosen - TOPICS:
            raise ValueError(f"unknown topic {min(unknown)!r}")
        return Subscription(self, chosen, after, None if logs is None else frozenset(logs))

    def has_readers(self, topic: str, patience: float) -> bool:
        """Return whether a reader of ``topic`` waits, or has read in the last ``patience`` s.

        A reader that has left, or that does not take what it was sent, does not count.
        """
        read_at = self._read_at.get(topic)
        if read_at is not None and self._clock() - read_at < patience:
            return True
        return any(topic in subscription.topics for subscription in self._waiting)

    def expect_reader(self, topic: str) -> None:
        """Take note of a client that is about to read ``topic`` (see ``has_readers``)."""
        self._read_at[topic] = self._clock()

    def leave_out(self, log_id: str) -> None:
        """Count an event of this log, which nobody reads, as lost: to make it takes time.

        A client that resumes before it gets a gap, so older events are of no use.
        """
        ring = self.rings["log"]
        while ring.events:
            ring.drop_oldest()
        self.last_id += 1
        ring.first += 1
        ring.dropped_id = ring.dropped_logs[log_id] = self.last_id

    def close(self) -> None:
        """End all subscriptions once they have delivered all events."""
        self.closed = True
        for subscription in list(self._waiting):
            subscription.wake()

    def wait(self, subscription: Subscription) -> None:
        """Wake ``subscription`` at the next event of its topics. For ``Subscription``."""
        self._waiting.add(subscription)

    def forget(self, subscription: Subscription) -> None:
        """Undo ``wait``. For ``Subscription``."""
        self._waiting.discard(subscription)

    def note_read(self, subscription: Subscription) -> None:
        """Note that ``subscription`` reads now. For ``Subscription``."""
        now = self._clock()
        for topic in subscription.topics:
            self._read_at[topic] = now


class Subscription:
    """An async iterator of non-empty batches of events, ordered by id, for one reader.

    A batch is bounded in count and bytes, so that it can be written as a whole. Cancelling a wait
    loses nothing.
    """

    def __init__(
        self,
        bus: EventBus,
        topics: frozenset[str],
        after: int | None,
        logs: frozenset[str] | None,
    ) -> None:
        self.topics = topics
        self._logs = logs
        self._looked_to = bus.last_id if after is None else after
        """The id of the newest log event that was looked at, or a later one."""
        self._bus = bus
        self._rings = [(topic, ring) for topic, ring in bus.rings.items() if topic in topics]
        self._wakeup: asyncio.Future[None] | None = None
        self._from_elsewhere = False
        self._unknown: set[str] = set()
        """Topics that lost an unknown number of events before the subscription began."""
        if after is None:
            self._next = {topic: ring.end for topic, ring in self._rings}
            return
        # An id that this bus never gave is that of another service: all events are new.
        self._from_elsewhere = not bus.first_id - 1 <= after <= bus.last_id
        if self._from_elsewhere:
            self._looked_to = after = bus.first_id - 1
        self._next = {topic: self._resume(topic, ring, after) for topic, ring in self._rings}

    def _resume(self, topic: str, ring: _Ring, after: int) -> int:
        """Return the ordinal of the first event of ``ring`` after the id ``after``."""
        events = ring.events
        if after < ring.dropped_id:
            self._unknown.add(topic)
            return ring.first
        return ring.first + bisect_right(events, after, key=lambda event: event.id)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[Event]:
        while True:
            self._bus.note_read(self)
            batch = self.take()
            if batch:
                return batch
            if self._bus.closed:
                raise StopAsyncIteration
            self._wakeup = asyncio.get_running_loop().create_future()
            self._bus.wait(self)
            try:
                await self._wakeup
            finally:
                self._bus.forget(self)
                self._wakeup = None

    def wake(self) -> None:
        """Wake the reader. For ``EventBus``."""
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)

    def take(self) -> list[Event]:
        """Return a batch of the events there are now; may be empty."""
        batch: list[Event] = []
        if self._from_elsewhere:
            self._from_elsewhere = False
            self._unknown.clear()
            batch.append(Event(self._bus.first_id - 1, GAP, GapEvent(missed=None, topic=None)))
        size = 0
        while len(batch) < BATCH_EVENTS and size < BATCH_BYTES:
            # The oldest of all topics; a gap has the place of the newest lost event.
            heads = [
                (head, topic, ring)
                for topic, ring in self._rings
                if (head := self._head(topic, ring)) is not None
            ]
            if not heads:
                break
            head_id, topic, ring = min(heads, key=lambda head: head[0])
            at = self._next[topic]
            if topic in self._unknown or at < ring.first:
                known = topic not in self._unknown and not self._chooses(topic)
                self._unknown.discard(topic)
                self._next[topic] = max(at, ring.first)
                if self._has_lost(topic, ring):
                    missed = ring.first - at if known else None
                    batch.append(Event(head_id, GAP, GapEvent(missed=missed, topic=topic)))
                if self._chooses(topic):
                    self._looked_to = head_id
                continue
            event = ring.events[at - ring.first]
            self._next[topic] = at + 1
            if self._chooses(topic):
                self._looked_to = event.id
                if not self._is_chosen(event):
                    continue
            size += len(event.json)
            batch.append(event)
        return batch

    def _chooses(self, topic: str) -> bool:
        return self._logs is not None and topic == "log"

    def _is_chosen(self, event: Event) -> bool:
        return type(event.data) is LogEvent and event.data.id in (self._logs or ())

    def _has_lost(self, topic: str, ring: _Ring) -> bool:
        """Return whether events that this reader wants were dropped unread."""
        if not self._chooses(topic):
            return True
        return any(ring.dropped_logs.get(log, -1) > self._looked_to for log in self._logs or ())

    def _head(self, topic: str, ring: _Ring) -> int | None:
        """Return the id of the next event or gap of this topic, ``None`` if there is none."""
        at, events = self._next[topic], ring.events
        if at < ring.first or topic in self._unknown:
            return ring.dropped_id
        return events[at - ring.first].id if at < ring.end else None
