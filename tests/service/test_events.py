"""The event bus: order, resume, gaps, bounds."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.records import GapEvent, LogEvent, LogLine, ServiceEvent
from cyber_inference_tui.service.events import BATCH_EVENTS, GAP, EventBus, Subscription


def drain(subscription: Subscription) -> list[tuple[int, str, bytes]]:
    found = []
    while batch := subscription.take():
        found += [(event.id, event.topic, event.json) for event in batch]
    return found


def log(text: str, log_id: str = "m") -> LogEvent:
    return LogEvent(id=log_id, lines=(LogLine(at=datetime.now(UTC), text=text),))


async def test_events_come_in_order_over_all_topics() -> None:
    bus = EventBus(first_id=1)
    reader = bus.subscribe()
    for number, topic in enumerate(["model", "log", "service", "model", "config"]):
        bus.publish(topic, {"n": number})
    batch = await anext(reader)
    assert [event.id for event in batch] == [1, 2, 3, 4, 5]
    assert [event.topic for event in batch] == ["model", "log", "service", "model", "config"]
    assert [msgspec.json.decode(event.json)["n"] for event in batch] == [0, 1, 2, 3, 4]


async def test_only_what_comes_after_subscribing_and_only_the_topics() -> None:
    bus = EventBus(first_id=1)
    bus.publish("model", {"n": 0})
    reader = bus.subscribe({"model"})
    bus.publish("log", {"n": 1})
    bus.publish("model", {"n": 2})
    assert drain(reader) == [(3, "model", b'{"n":2}')]


async def test_a_waiting_reader_is_woken_by_its_topics_only() -> None:
    bus = EventBus(first_id=1)
    waiting = asyncio.ensure_future(anext(bus.subscribe({"model"})))
    await asyncio.sleep(0)
    bus.publish("log", {"n": 1})
    await asyncio.sleep(0)
    assert not waiting.done()
    bus.publish("model", {"n": 2})
    bus.publish("model", {"n": 3})
    assert [event.id for event in await waiting] == [2, 3]


async def test_a_cancelled_wait_loses_nothing() -> None:
    bus = EventBus(first_id=1)
    reader = bus.subscribe()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await anext(reader)
    bus.publish("model", {"n": 1})
    assert [event.id for event in await anext(reader)] == [1]


async def test_resume_gives_what_came_after() -> None:
    bus = EventBus(first_id=1)
    for number in range(5):
        bus.publish("model" if number % 2 else "log", {"n": number})
    assert [event[0] for event in drain(bus.subscribe(after=2))] == [3, 4, 5]
    assert [event[0] for event in drain(bus.subscribe({"log"}, after=2))] == [3, 5]
    assert drain(bus.subscribe(after=5)) == []
    assert [event[0] for event in drain(bus.subscribe(after=0))] == [1, 2, 3, 4, 5]


async def test_a_slow_reader_gets_a_gap_that_counts() -> None:
    bus = EventBus(keep=3, first_id=1)
    reader = bus.subscribe({"log", "model"})
    bus.publish("model", {"n": 0})
    for number in range(10):
        bus.publish("log", {"n": number})
    events = drain(reader)
    assert [(id_, topic) for id_, topic, _ in events] == [
        (1, "model"),
        (8, GAP),
        (9, "log"),
        (10, "log"),
        (11, "log"),
    ]
    assert msgspec.json.decode(events[1][2], type=GapEvent) == GapEvent(missed=7, topic="log")
    # A reader that reconnects with the gap's id continues there, without a second gap.
    assert [event[0] for event in drain(bus.subscribe({"log"}, after=8))] == [9, 10, 11]


async def test_resuming_too_late_is_a_gap_of_unknown_size() -> None:
    bus = EventBus(keep=2, first_id=1)
    for number in range(6):
        bus.publish("log", {"n": number})
    events = drain(bus.subscribe({"log"}, after=1))
    assert [event[1] for event in events] == [GAP, "log", "log"]
    assert msgspec.json.decode(events[0][2]) == {"missed": None, "topic": "log"}


async def test_an_id_from_another_life_is_one_gap_then_all_that_is_kept() -> None:
    bus = EventBus(keep=2, first_id=1000)
    for number in range(4):
        bus.publish("log", {"n": number})
    for after in (0, 5, 998, 5000, -1, 2**70):
        events = drain(bus.subscribe(after=after))
        assert [event[1] for event in events] == [GAP, "log", "log"], after
        assert msgspec.json.decode(events[0][2]) == {"missed": None, "topic": None}
        assert events[0][0] < events[1][0]


async def test_ids_of_a_later_bus_are_higher() -> None:
    first = EventBus()
    first.publish("model", {})
    await asyncio.sleep(0.005)
    assert EventBus().first_id > first.last_id
    assert EventBus().first_id < 2**53


async def test_closing_delivers_the_rest_then_ends() -> None:
    bus = EventBus(first_id=1)
    ready, behind = bus.subscribe(), bus.subscribe()
    waiting = asyncio.ensure_future(anext(ready))
    await asyncio.sleep(0)
    bus.publish("service", ServiceEvent(state="stopping"))
    bus.close()
    assert [event.topic for event in await waiting] == ["service"]
    assert [len(batch) async for batch in behind] == [1]
    with pytest.raises(StopAsyncIteration):
        await anext(ready)


async def test_closing_ends_one_that_waits() -> None:
    bus = EventBus()
    waiting = asyncio.ensure_future(_collect(bus.subscribe()))
    await asyncio.sleep(0)
    bus.close()
    assert await waiting == []


async def _collect(subscription: Subscription) -> list[int]:
    return [event.id async for batch in subscription for event in batch]


async def test_batches_are_bounded_in_count_and_bytes() -> None:
    bus = EventBus(first_id=1)
    reader = bus.subscribe()
    for _ in range(600):
        bus.publish("model", {"n": 1})
    assert len(await anext(reader)) == BATCH_EVENTS
    bus = EventBus(first_id=1)
    reader = bus.subscribe()
    for _ in range(20):
        bus.publish("log", log("x" * 60_000))
    assert len(await anext(reader)) == 5


async def test_memory_is_bounded_by_bytes_for_large_events() -> None:
    bus = EventBus(keep=1000, keep_bytes=100_000, first_id=1)
    for _ in range(500):
        bus.publish("log", log("x" * 4000))
        bus.publish("config", {"value": "y" * 4000})
    for topic in ("log", "config"):
        held = sum(len(event.json) for event in bus.rings[topic].events)
        assert 50_000 < held <= 105_000
    # One that is larger than all the room still reaches who listens.
    reader = bus.subscribe()
    bus.publish("log", log("x" * 200_000))
    assert [event.topic for event in reader.take()] == ["log"]
    assert len(bus.rings["log"].events) == 1


async def test_encoding_waits_for_a_reader_and_happens_once() -> None:
    class Costly(msgspec.Struct, frozen=True):
        value: object

    bus = EventBus(first_id=1)
    bus.publish("model", Costly(object()))  # cannot be encoded: nobody tried
    bus = EventBus(first_id=1)
    one, two = bus.subscribe(), bus.subscribe()
    bus.publish("model", ServiceEvent(state="started"))
    assert one.take()[0].json is two.take()[0].json


async def test_a_dict_is_taken_as_it_was() -> None:
    bus = EventBus(first_id=1)
    reader = bus.subscribe()
    data = {"n": 1}
    bus.publish("model", data)
    data["n"] = 2
    assert drain(reader) == [(1, "model", b'{"n":1}')]


def test_unknown_topics_are_refused() -> None:
    bus = EventBus()
    with pytest.raises(ValueError, match="unknown topic 'nonsense'"):
        bus.subscribe({"model", "nonsense"})
    with pytest.raises(ValueError, match="gap"):
        bus.subscribe({"gap"})
    with pytest.raises(KeyError):
        bus.publish("nonsense", {})


@given(
    keep=st.integers(1, 5),
    steps=st.lists(st.sampled_from(["model", "log", "config", "read"]), max_size=60),
)
def test_every_event_is_delivered_once_or_counted_as_missed(keep: int, steps: list[str]) -> None:
    bus = EventBus(keep=keep, first_id=1)
    reader = bus.subscribe({"model", "log"})
    events: list[tuple[int, str, bytes]] = []
    for step in [*steps, "read"]:
        if step == "read":
            events += drain(reader)
        else:
            bus.publish(step, {})
    ids = [id_ for id_, topic, _ in events]
    assert ids == sorted(set(ids))
    for topic in ("model", "log"):
        seen = sum(event[1] == topic for event in events)
        gaps = [msgspec.json.decode(event[2]) for event in events if event[1] == GAP]
        missed = sum(gap["missed"] for gap in gaps if gap["topic"] == topic)
        assert seen + missed == steps.count(topic)


async def test_who_waits_or_has_just_read_is_a_reader() -> None:
    now = 100.0
    bus = EventBus(first_id=1, clock=lambda: now)
    assert not bus.has_readers("model", 10)
    reader = bus.subscribe({"model", "log"})
    assert not bus.has_readers("model", 10)
    waiting = asyncio.create_task(anext(reader))
    await asyncio.sleep(0)
    now = 1000.0
    assert bus.has_readers("model", 10)
    assert bus.has_readers("log", 10)
    assert not bus.has_readers("config", 10)
    bus.publish("model", {"n": 1})
    await waiting
    # It writes out what it read, or hangs, or has left.
    now = 1009.0
    assert bus.has_readers("model", 10)
    now = 1010.0
    assert not bus.has_readers("model", 10)


async def test_encoded_data_is_sent_as_it_is_and_weighed() -> None:
    bus = EventBus(first_id=1, keep_bytes=1000)
    reader = bus.subscribe({"resources"})
    for number in range(10):
        bus.publish("resources", b'{"n": %d, "x": "%b"}' % (number, b"x" * 284))
    events = drain(reader)
    assert [topic for _, topic, _ in events] == [GAP, *["resources"] * 3]
    assert [msgspec.json.decode(data)["n"] for _, _, data in events[1:]] == [7, 8, 9]


async def test_a_reader_of_one_log_gets_no_other() -> None:
    bus = EventBus(first_id=1)
    reader = bus.subscribe({"log", "model"}, logs={"m", "o"})
    for log_id in ("m", "n", "o"):
        bus.publish("log", log("x", log_id))
        bus.publish("model", {"id": log_id})
    assert [event[:2] for event in drain(reader)] == [
        (1, "log"),
        (2, "model"),
        (4, "model"),
        (5, "log"),
        (6, "model"),
    ]
    waiting = asyncio.ensure_future(anext(reader))
    await asyncio.sleep(0)
    bus.publish("log", log("x", "n"))
    await asyncio.sleep(0)
    assert not waiting.done()
    bus.publish("log", log("x", "m"))
    assert [event.id for event in await waiting] == [8]


async def test_a_flood_of_another_log_is_no_gap() -> None:
    bus = EventBus(keep=4, first_id=1)
    reader, ahead = bus.subscribe({"log"}, logs={"m"}), bus.subscribe({"log"}, logs={"m"})
    bus.publish("log", log("x"))
    assert [event[0] for event in drain(ahead)] == [1]
    for _ in range(20):
        bus.publish("log", log("x", "n"))
    # One had seen the line of its log, the other had not.
    assert drain(ahead) == []
    assert [event[1] for event in drain(reader)] == [GAP]
    resumed = bus.subscribe({"log"}, after=1, logs={"m"})
    too_late = bus.subscribe({"log"}, after=0, logs={"m"})
    assert drain(resumed) == []
    assert [msgspec.json.decode(event[2]) for event in drain(too_late)] == [
        {"missed": None, "topic": "log"}
    ]
    bus.publish("log", log("x"))
    for one in (reader, ahead, resumed, too_late):
        assert [event[0] for event in drain(one)] == [22]
    for _ in range(20):
        bus.publish("log", log("x", "n"))
    assert [drain(one) for one in (reader, ahead, resumed, too_late)] == [[], [], [], []]


@given(st.lists(st.sampled_from(["m", "n", "read"]), max_size=40), st.integers(1, 5))
def test_a_reader_of_one_log_gets_all_its_lines_or_a_gap(steps: list[str], keep: int) -> None:
    bus = EventBus(keep=keep, first_id=1)
    reader = bus.subscribe({"log"}, logs={"m"})
    unread: list[int] = []
    for step in [*steps, "read"]:
        if step != "read":
            bus.publish("log", log("x", step))
            if step == "m":
                unread.append(bus.last_id)
            continue
        kept = [number for number in unread if number > bus.last_id - keep]
        events = drain(reader)
        assert [number for number, topic, _ in events if topic == "log"] == kept
        assert (GAP in [topic for _, topic, _ in events]) == (len(kept) < len(unread))
        unread.clear()


@given(st.lists(st.integers(1, 9), max_size=30), st.integers(1, 40))
def test_events_of_a_batch_are_those_that_are_published_one_by_one(
    sizes: list[int], look_every: int
) -> None:
    together, alone = EventBus(first_id=1, keep=12), EventBus(first_id=1, keep=12)
    count = 0
    for number, size in enumerate(sizes):
        records = [ServiceEvent(state=f"{count + more}") for more in range(size)]
        count += size
        together.publish_all("service", records)
        for record in records:
            alone.publish("service", record)
        for bus in (together, alone):
            bus.publish("config", {"n": number})
        assert together.rings["service"].end == alone.rings["service"].end
        if number % look_every == 0:
            for after in (0, 1, count // 2, count):
                readers = [bus.subscribe({"service"}, after=after) for bus in (together, alone)]
                assert drain(readers[0]) == drain(readers[1])


def test_records_that_nobody_looks_at_are_few() -> None:
    bus = EventBus(first_id=1, keep=100)
    for _ in range(50):
        bus.publish_all("service", [ServiceEvent(state="x")] * 30)
    ring = bus.rings["service"]
    assert ring.end - ring.first < 130
    assert (ring.end, len(ring.events)) == (1500, 100)
