"""The real routing among simulated boxes with random loads, and routing that is worse in one way.

Each box has the same model, its own speed and its own clients, and tells its figures now and then.
The box that routes knows only these, and what it has sent. The invariants compare its choice with
what really comes of it; each is shown to fail if the routing is changed.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

import pytest

from cyber_inference_tui.peers import routing
from cyber_inference_tui.peers.routing import HERE, Home
from cyber_inference_tui.records.models import Fit, ModelRecord, ModelStatus

SEEDS = range(60)
SECONDS = 90.0
LONGEST_PAUSE = 2.0
"""Seconds between two reports of a box, at most."""
EVICTION, WARM = 20.0, 5.0
"""The worth of an eviction and of a warm cache, in seconds of waiting."""


class Job(NamedTuple):
    """A request at a box."""

    start: float
    end: float
    ours: bool


class BrokenError(AssertionError):
    """An invariant is broken."""


@dataclass
class Box:
    """A box: first come, first served, each request takes ``seconds`` in one of the slots."""

    name: str
    slots: int
    seconds: float
    load: float
    fits: Fit
    ready: float | None
    """The time at which its load ends; ``None`` = not loaded."""
    jobs: list[Job] = field(default_factory=list)
    free: list[float] = field(init=False)
    """The times at which the slots become free."""

    def __post_init__(self) -> None:
        self.free = [0.0] * self.slots

    def would_start(self, now: float) -> float:
        """The time at which a request that comes now would get its slot."""
        ready = now + self.load if self.ready is None else max(now, self.ready)
        return max(ready, self.free[0])

    def take(self, now: float, *, ours: bool) -> float:
        """Take a request; return its wait."""
        start = self.would_start(now)
        if self.ready is None:
            self.ready = now + self.load
        heapq.heapreplace(self.free, start + self.seconds)
        self.jobs.append(Job(start, start + self.seconds, ours))
        return start - now

    def settle(self, now: float) -> None:
        """Forget what has ended."""
        self.jobs = [job for job in self.jobs if job.end > now]

    def record(self, now: float) -> ModelRecord:
        """What the box tells of itself."""
        queued = sum(job.start > now for job in self.jobs)
        in_flight = len(self.jobs) - queued
        status = ModelStatus.LOADED
        if self.ready is None:
            status, wait = ModelStatus.UNLOADED, self.load
        elif self.ready > now:
            status, wait = ModelStatus.LOADING, self.ready - now
            wait += self.seconds * (queued // self.slots)
        else:
            wait = 0.0 if in_flight < self.slots else self.seconds * (queued + 1) / self.slots
        return ModelRecord(
            id="m",
            status=status,
            fits=self.fits,
            slots=self.slots,
            in_flight=in_flight,
            queued=queued,
            expected_wait_seconds=wait,
            size_bytes=1 << 30,
        )


def check(homes: list[Home], chosen: Home, boxes: dict[str, Box], now: float) -> None:
    """Check a choice against the homes, as they were known, and against the boxes, as they are."""
    here = homes[0]
    for home in homes:
        evicts = home.record.fits is Fit.AFTER_UNLOADING and boxes[home.box].ready is None
        if home is chosen and home.record.fits is Fit.NEVER:
            raise BrokenError("a box was chosen where the model never fits")
        is_same = home.record == chosen.record and home[2:] == chosen[2:]
        if home.box == HERE != chosen.box and is_same:
            raise BrokenError("a tie went to another box")
        is_idle = home.record.status is ModelStatus.LOADED and not home.record.in_flight
        if home.warm and is_idle and not home.sent and chosen is not home:
            raise BrokenError("a conversation left its box, which was idle")
        if home is chosen and evicts:
            others = [
                boxes[one.box].load
                for one in homes
                if one.record.fits is Fit.NOW and one.record.status is ModelStatus.UNLOADED
            ]
            if others and min(others) < boxes[home.box].load + EVICTION / 2:
                raise BrokenError("a model was evicted without need")
    box = boxes[chosen.box]
    if chosen.box != HERE and here.record.fits is not Fit.NEVER:
        wait = box.would_start(now) - now
        wait_here = boxes[HERE].would_start(now) - now
        # What this box cannot know: the other clients there, and a load or unload since the report.
        unknown = (sum(not job.ours for job in box.jobs) / box.slots + 1) * box.seconds
        unknown += LONGEST_PAUSE + (box.load if box.ready is None or box.ready > now else 0.0)
        unknown += WARM if chosen.warm else 0.0
        if here.record.fits is Fit.AFTER_UNLOADING and boxes[HERE].ready is None:
            unknown += EVICTION
        if wait > wait_here + unknown:
            raise BrokenError(f"a request waits {wait:g} s there, and {wait_here:g} s here")


def simulate(seed: int) -> int:
    """Run a random world; return how many requests another box has got."""
    random = Random(seed)
    names = [HERE, *"abc"[: random.randint(1, 3)]]
    slots, seconds, load = random.randint(1, 4), random.uniform(0.1, 6.0), random.uniform(1.0, 20.0)
    boxes = {}
    for name in names:
        # Some are the same in all, so that there are ties.
        box = Box(
            name,
            random.choice([slots, random.randint(1, 4)]),
            random.choice([seconds, random.uniform(0.1, 6.0)]),
            random.choice([load, random.uniform(1.0, 20.0)]),
            random.choice([Fit.NOW, Fit.NOW, Fit.AFTER_UNLOADING, Fit.NEVER]),
            None,
        )
        if box.fits is not Fit.NEVER and random.random() < 0.5:
            box.ready = 0.0
        boxes[name] = box
    told: dict[str, ModelRecord] = {}
    due = dict.fromkeys(names, 0.0)
    served: dict[int, str] = {}
    now, left = 0.0, 0
    passed_on = 0
    while now < SECONDS:
        # Bursts, in which a box hears nothing between two requests, and pauses.
        now += 0.01 if left else random.expovariate(0.6)
        left = left - 1 if left else random.choice([0, 0, 0, 3, 12])
        for name, box in boxes.items():
            box.settle(now)
            if box.ready is not None and not box.jobs and random.random() < 0.02:
                box.ready = None
            if box.fits is not Fit.NEVER and random.random() < 0.05:
                box.take(now, ours=False)
            if now >= due[name]:
                told[name] = box.record(now)
                due[name] = now + random.uniform(0.25, LONGEST_PAUSE)
        client = random.randrange(4)
        homes = [
            Home(
                name,
                box.record(now) if name == HERE else told[name],
                0 if name == HERE else sum(job.ours for job in box.jobs),
                served.get(client) == name,
            )
            for name, box in boxes.items()
        ]
        order = routing.order(homes)
        if not order:
            continue
        check(homes, order[0], boxes, now)
        name = order[0].box
        boxes[name].take(now, ours=True)
        served[client] = name
        passed_on += name != HERE
    return passed_on


def test_routing_keeps_every_promise() -> None:
    assert sum(simulate(seed) for seed in SEEDS) > 500


ORDER, COST, WAIT = routing.order, routing.cost, routing._wait


def no_eviction(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(routing, "_EVICTION", 0.0)


def no_warmth(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(routing, "_WARM", 0.0)


def inverted_tie(patch: pytest.MonkeyPatch) -> None:
    def order(homes: Iterable[Home]) -> list[Home]:
        able = [home for home in homes if routing.can_answer(home.record)]
        return sorted(able, key=lambda home: (COST(home._replace(box="x")), home.box == HERE))

    patch.setattr(routing, "order", order)


def sent_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(routing, "_wait", lambda record, sent: WAIT(record, 0))


def queues_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(routing, "_wait", lambda record, sent: 0.0)


def never_is_possible(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(routing, "can_answer", lambda record: True)


def turns_of_a_fixed_length(patch: pytest.MonkeyPatch) -> None:
    def wait(record: ModelRecord, sent: int) -> float:
        turns = max(record.in_flight + record.queued, sent) / (record.slots or 1)
        is_busy = record.status is ModelStatus.LOADED and turns >= 1
        return max(WAIT(record, sent), routing._TURN * turns if is_busy else 0.0)

    patch.setattr(routing, "_wait", wait)


@pytest.mark.parametrize(
    ("mutant", "broken"),
    [
        (no_eviction, "evicted without need"),
        (no_warmth, "left its box"),
        (inverted_tie, "a tie went"),
        (sent_ignored, "a request waits"),
        (queues_ignored, "a request waits"),
        (never_is_possible, "never fits"),
        (turns_of_a_fixed_length, "a request waits"),
    ],
)
def test_worse_routing_is_noticed(
    mutant: Callable[[pytest.MonkeyPatch], None], broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant(monkeypatch)
    found = []
    for seed in SEEDS:
        try:
            simulate(seed)
        except BrokenError as error:
            found.append(str(error))
    assert any(broken in one for one in found), found
