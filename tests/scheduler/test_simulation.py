"""The real policy and the real scheduler in a virtual world where everything goes wrong.

Random models, requests, impatient clients, crashes, failing loads, pins, changing limits and other
programs that use memory, in virtual time. The invariants are checked all the time, and each check
is shown to fail if the policy is made worse in one way.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import re
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from cyber_inference_tui.errors import CyberError, InsufficientMemoryError
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.llama.needs import Footprint, Need, NeedSource
from cyber_inference_tui.records import ModelStatus, Priority
from cyber_inference_tui.scheduler.free_memory import FreeMemory
from cyber_inference_tui.scheduler.memory_tracker import RETURN_PATIENCE
from cyber_inference_tui.scheduler.policy import MEMORY_FRESH, Policy, decide
from cyber_inference_tui.scheduler.shares import WEIGHTS, highest
from cyber_inference_tui.scheduler.views import (
    Decision,
    LoadLimits,
    ModelView,
    Reason,
    Refusal,
)
from tests.scheduler.virtual import (
    VirtualLauncher,
    VirtualMachine,
    World,
    load_error,
    model,
    now,
    run,
    ticks,
)

GB = 10**9
TOTAL = 16 * GB
MAX_OVERTAKE = 3
OVERTAKE_SLACK = 0


NEXT = {
    "unloaded": {"queued"},
    "queued": {"loading", "unloaded", "failed"},
    "loading": {"loaded", "failed", "unloading", "queued"},
    "loaded": {"unloading", "failed"},
    "unloading": {"unloaded", "queued"},
    "failed": {"queued", "unloaded"},
}
"""The possible changes of status."""


class BrokenError(AssertionError):
    """An invariant is broken."""


class Fleet(msgspec.Struct, frozen=True):
    """The models by their sizes in GB, and their machine."""

    sizes: tuple[int, ...]
    mapped: tuple[bool, ...]
    max_loaded: int
    connections: int
    back_seconds: float
    cards: bool
    max_queue: int = 1000
    queue_timeout: float = 0.0


class Step(msgspec.Struct, frozen=True):
    """An action with a model after a pause."""

    what: str
    model: int
    pause: float
    seconds: float
    priority: Priority = Priority.NORMAL


class _Waiting(NamedTuple):
    """A waiting request, with the weights of later requests that were admitted elsewhere."""

    model_id: str
    priority: Priority
    passed: dict[str, float]


class Watched(World):
    """A world that checks the invariants."""

    def __init__(self, fleet: Fleet, policy: Policy) -> None:
        self.models = [
            model(f"m{number}", idle_timeout=30 + 10 * number) for number in range(len(fleet.sizes))
        ]
        needs = {}
        for one, size, mapped in zip(self.models, fleet.sizes, fleet.mapped, strict=True):
            main = "device" if fleet.cards else "mapped" if mapped else "host"
            parts = {main: size * GB, "host": size * GB if main == "host" else GB // 8}
            needs[one.id] = Need(footprint=Footprint(**parts), source=NeedSource.FORMULA)
        machine = VirtualMachine(
            TOTAL, cards=(TOTAL,) if fleet.cards else (), back_seconds=fleet.back_seconds
        )
        launcher = VirtualLauncher(load_seconds=1.0, stop_seconds=0.5, machine=machine, needs=needs)
        launcher.on_launch = self._look_at_launch
        self.blocked: frozenset[str] = frozenset()
        """The blocked models by the true policy, not by the policy under test."""

        def watched(
            models: Sequence[ModelView], limits: LoadLimits, memory: FreeMemory, time: float
        ) -> Decision:
            true = decide(models, limits, memory, time)
            self.blocked = true.blocked
            return true if policy is decide else policy(models, limits, memory, time)

        super().__init__(
            launcher=launcher,
            max_concurrent_requests=fleet.connections,
            policy=watched,
            max_loaded_models=fleet.max_loaded,
            max_overtake=MAX_OVERTAKE,
            max_queue=fleet.max_queue,
            queue_timeout=fleet.queue_timeout,
            model_idle_timeout=60,
            max_memory_percent=80,
            max_gpu_memory_percent=80,
        )
        self.machine = machine
        self.took: deque[tuple[float, int]] = deque([(float("-inf"), 0)])
        """The times and sizes of changes of the memory of other programs."""
        self.others_hold_some = asyncio.Event()
        self.forced: set[str] = set()
        """Models that are being unloaded by force."""
        self.short_since: float | None = None
        self.waiting: dict[int, _Waiting] = {}
        """Waiting requests by arrival."""
        self.trace: list[tuple[float, str, str]] = []
        """The changes of status and the admissions, with their times."""
        self.arrivals = 0
        self.unpinned: dict[str, float] = {}
        """By model: the time when its last pin was removed."""

    # Memory

    def others_take(self, size: int) -> None:
        """Set the memory that other programs use from now on."""
        self.machine.others = size
        self.took.append((now(), size))
        if size:
            self.others_hold_some.set()
        else:
            self.others_hold_some.clear()

    def _look_at_launch(self, model_id: str, footprint: Footprint) -> None:
        # Memory that others allocated after the reading could not be known.
        seen = [size for at, size in self.took if at >= now() - MEMORY_FRESH - 0.01]
        before = [size for at, size in self.took if at < now() - MEMORY_FRESH - 0.01][-1:]
        others = min(seen + before)
        host = footprint.mapped + footprint.host + (0 if self.machine.cards else footprint.device)
        ours = sum(
            one.mapped + one.host + (0 if self.machine.cards else one.device)
            for pid, one in self.machine.held.items()
            if any(server.pid == pid for server in self.launcher.alive)
        )
        if others + ours + host > TOTAL * 0.8 + 1:
            self.launcher.problems.append(f"memory: {model_id} is loaded beyond the limit")
        device = self.machine.device_used() + footprint.device
        if self.machine.cards and device > TOTAL * 0.8 + 1:
            # Memory that is freed late was awaited for 5 s at most.
            late = sum(one.device for one in self.machine.held.values()) - sum(
                self.machine.held[server.pid].device for server in self.launcher.alive
            )
            if device - late > TOTAL * 0.8 + 1:
                self.launcher.problems.append(f"memory: {model_id} is loaded beyond the cards")

    # Unloading

    def _on_state(self, model_id: str) -> None:
        before = self.statuses_of(model_id)[-1:] or ["unloaded"]
        super()._on_state(model_id)
        after = self.statuses_of(model_id)[-1]
        if after == before[0]:
            # A notification for another reason, such as a pin.
            return
        self.trace.append((now(), model_id, after))
        if after not in NEXT[before[0]]:
            self.launcher.problems.append(f"life: {model_id} from {before[0]} to {after}")
        state = self.scheduler.state(model_id)
        if state is None or self.scheduler.closing:
            return
        if state.status is ModelStatus.UNLOADING and state.server is not None:
            if model_id in self.forced:
                return
            if state.in_flight:
                self.launcher.problems.append(f"busy: {model_id} is unloaded")
            if state.is_pinned and state.leaving is None:
                self.launcher.problems.append(f"pinned: {model_id} is unloaded")

    async def watch_shortage(self) -> None:
        """Check that no idle model is loaded while memory is short for long.

        Models alone stay below the limit: memory is short only because of other programs.
        """
        while True:
            if not self.others_hold_some.is_set():
                self.short_since = None
                await self.others_hold_some.wait()
            await asyncio.sleep(1)
            states = self.scheduler.states()
            ours = sum(one.mapped for one in self.machine.held.values())
            calm = not any(
                state.status in {ModelStatus.LOADING, ModelStatus.UNLOADING} for state in states
            )
            idle = any(
                state.status is ModelStatus.LOADED
                and not (state.in_flight or state.waiters or state.is_pinned)
                and state.last_used < now() - 10
                for state in states
            )
            short = self.machine.total - self.machine.used() - ours < TOTAL * 0.05
            if not (short and calm and idle):
                self.short_since = None
            elif self.short_since is None:
                self.short_since = now()
            elif now() - self.short_since > 10:
                raise BrokenError("shortage: idle models keep the memory that others need")

    # Order

    async def ask(self, one: LocalModel, seconds: float, priority: Priority) -> None:
        """Send a request and count the later requests that overtake it."""
        self.arrivals += 1
        mine = self.arrivals
        self.waiting[mine] = _Waiting(one.id, priority, {})
        try:
            lease = await self.scheduler.acquire(one, priority=priority)
        except InsufficientMemoryError:
            self._look_at_refusal(one.id)
            raise
        finally:
            del self.waiting[mine]
        with lease:
            self.trace.append((now(), one.id, f"request {mine}"))
            self._count(one.id, mine, priority)
            await asyncio.sleep(seconds)

    def _look_at_refusal(self, model_id: str) -> None:
        footprint = self.launcher.needs[model_id].footprint
        host = footprint.mapped + footprint.host + (0 if self.machine.cards else footprint.device)
        # A size counts until 20 s after the next one, however long it was there before.
        ends = [*[at for at, _ in self.took][1:], math.inf]
        others = max(
            size for (_, size), end in zip(self.took, ends, strict=True) if end >= now() - 20
        )
        # Memory that is freed late looks as if other programs used it.
        late = self.machine.back_seconds > RETURN_PATIENCE or any(
            not any(server.pid == pid for server in self.launcher.alive)
            for pid in self.machine.held
        )
        pinned = sum(
            one.mapped + one.host + (0 if self.machine.cards else one.device)
            for pid, one in self.machine.held.items()
            for server in self.launcher.alive
            if server.pid == pid and self._is_pinned(server.model_id)
        )
        fits_on_card = not self.machine.cards or footprint.device < TOTAL * 0.8 - 1
        pins_on_card = self.machine.cards and pinned
        if (
            not late
            and fits_on_card
            and not pins_on_card
            and host + others + pinned < TOTAL * 0.8 - 1
        ):
            raise BrokenError(f"refused: {model_id} would fit")

    def _is_pinned(self, model_id: str) -> bool:
        state = self.scheduler.state(model_id)
        # A refusal may be seen a moment after the decision, when the pin is gone.
        return self.unpinned.get(model_id) == now() or (state is not None and state.is_pinned)

    def _count(self, model_id: str, arrival: int, priority: Priority) -> None:
        state = self.scheduler.state(model_id)
        assert state is not None
        if state.is_pinned:
            return
        blocked = self.blocked
        heads: set[str] = set()
        for other, (waits_for, _, passed) in sorted(self.waiting.items()):
            if waits_for == model_id or waits_for in heads or other > arrival:
                continue
            heads.add(waits_for)
            head = self.scheduler.state(waits_for)
            if head is None or head.status is ModelStatus.LOADED or waits_for not in blocked:
                continue
            if sum(passed.values()) >= MAX_OVERTAKE:
                raise BrokenError(f"order: {waits_for} waits behind {passed} and {model_id}")
            mates = (one.priority for one in self.waiting.values() if one.model_id == waits_for)
            weight = WEIGHTS[highest(mates)] / WEIGHTS[priority]
            passed[model_id] = passed.get(model_id, 0) + weight


async def _do(world: Watched, step: Step) -> None:
    scheduler = world.scheduler
    chosen = world.models[step.model % len(world.models)]
    with contextlib.suppress(CyberError, TimeoutError):
        match step.what:
            case "use":
                await world.ask(chosen, step.seconds, step.priority)
            case "impatient":
                async with asyncio.timeout(step.seconds):
                    await world.ask(chosen, 1, step.priority)
            case "load":
                await scheduler.load(chosen)
            case "unload" | "force":
                if step.what == "force":
                    world.forced.add(chosen.id)
                await scheduler.unload(chosen, force=step.what == "force")
                world.forced.discard(chosen.id)
            case "crash":
                for server in list(world.launcher.alive):
                    if server.model_id == chosen.id:
                        server.end(1)
            case "fail":
                world.launcher.failures.setdefault(chosen.id, []).append(load_error())
            case "pin" | "unpin":
                if step.what == "unpin":
                    world.unpinned[chosen.id] = now()
                scheduler.pin(chosen, step.what == "pin")
            case "others":
                world.others_take(int(step.seconds) * GB)
            case "settings":
                world.settings = msgspec.structs.replace(
                    world.settings, llama_args=(str(step.seconds),)
                )
                scheduler.configure(world.settings)


async def _live(
    fleet: Fleet, schedule: Sequence[Step], policy: Policy, close_after: float | None
) -> Watched:
    world = Watched(fleet, policy)
    if close_after is not None:
        await _live_and_close(world, schedule, close_after)
        return world
    async with world.scheduler as scheduler:
        doing = []
        watch = asyncio.ensure_future(world.watch_shortage())
        for step in schedule:
            await asyncio.sleep(step.pause)
            doing.append(asyncio.ensure_future(_do(world, step)))
        # In the end other programs free memory, pins are removed, and all requests are answered.
        await asyncio.sleep(30)
        world.others_take(0)
        for one in world.models:
            scheduler.pin(one, False)
        done, waiting = await asyncio.wait(doing, timeout=3000) if doing else (set(), set())
        if waiting:
            raise BrokenError(f"end: {len(waiting)} are neither answered nor refused")
        for task in done:
            task.result()
        if world.launcher.problems:
            raise BrokenError("; ".join(world.launcher.problems))
        await ticks()
        await asyncio.sleep(200)
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        if not watch.cancelled():
            watch.result()
        if len(world.launcher.alive) > 0:
            raise BrokenError("rest: idle models are loaded still")
        world.assert_at_rest()
        if world.machine.held:
            raise BrokenError(f"rest: memory is held by nobody: {world.machine.held}")
    await world.assert_nothing_left()
    return world


async def _live_and_close(world: Watched, schedule: Sequence[Step], close_after: float) -> None:
    """Run a schedule during which the service ends."""
    async with world.scheduler:
        doing = []
        for step in schedule:
            await asyncio.sleep(step.pause)
            doing.append(asyncio.ensure_future(_do(world, step)))
        await asyncio.sleep(close_after)
    await asyncio.gather(*doing)
    await world.assert_nothing_left()


def simulate(
    fleet: Fleet,
    schedule: Sequence[Step],
    policy: Policy = decide,
    close_after: float | None = None,
) -> list[tuple[float, str, str]]:
    """Run one schedule and return its trace; raises ``BrokenError`` or another ``AssertionError``.

    With ``close_after`` the service ends so many seconds after the last step.
    """
    return run(_live(fleet, schedule, policy, close_after)).trace


fleets = st.integers(1, 5).flatmap(
    lambda count: st.builds(
        Fleet,
        sizes=st.tuples(*[st.integers(1, 14)] * count),
        mapped=st.tuples(*[st.booleans()] * count),
        max_loaded=st.sampled_from([0, 0, 1, 2]),
        connections=st.integers(1, 4),
        back_seconds=st.sampled_from([0.0, 0.0, 0.3, 8.0]),
        cards=st.booleans(),
        max_queue=st.sampled_from([2, 1000, 1000]),
        queue_timeout=st.sampled_from([0.0, 0.0, 20.0]),
    )
)
steps = st.builds(
    Step,
    what=st.sampled_from(
        [
            *("use", "use", "use", "use", "use", "impatient", "load", "unload", "force"),
            *("crash", "fail", "pin", "unpin", "others", "settings"),
        ]
    ),
    model=st.integers(0, 4),
    pause=st.sampled_from([0.0, 0.0, 0.0, 0.25, 0.5, 1.0, 5.0]),
    seconds=st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0, 7.0]),
    priority=st.sampled_from([Priority.NORMAL, Priority.NORMAL, Priority.LOW, Priority.HIGH]),
)
schedules = st.lists(steps, max_size=40)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


# Two idle models are unloaded, one after the other, and nobody waits.
TWO_HAVE_TO_GO = [
    Step("use", 0, 0.0, 0.0),
    Step("use", 1, 0.0, 0.0),
    Step("use", 0, 5.0, 0.0),
    Step("others", 0, 0.0, 7.0),
]


# A load is cancelled, and its memory becomes free a moment later.
GIVEN_UP = [
    Step("use", 0, 0.0, 0.0),
    Step("unload", 0, 5.0, 0.0),
    Step("use", 0, 0.25, 0.0),
    Step("use", 0, 1.0, 0.0),
    Step("use", 1, 0.25, 0.0),
    Step("force", 0, 0.0, 0.0),
    Step("use", 0, 1.0, 0.0),
]


# A model is refused beside a pinned one, whose pin is removed at the same moment.
UNPINNED_TOO_LATE = [
    Step("use", 0, 0.0, 0.0),
    Step("pin", 0, 0.0, 0.0),
    Step("use", 1, 1.0, 0.0),
    Step("use", 0, 0.0, 0.0),
    Step("unpin", 0, 0.0, 0.0),
]


# A model is refused, and the other programs free their memory at the same moment.
FREED_TOO_LATE = [
    Step("use", 0, 0.0, 0.0),
    Step("others", 0, 0.0, 7.0),
    Step("use", 0, 0.25, 0.0),
    *[Step("use", 0, 5.0, 0.0)] * 3,
    Step("use", 2, 5.0, 0.0),
    Step("use", 0, 0.0, 0.0),
    Step("others", 0, 0.0, 0.0),
]


# While memory for one model is awaited, a later model that would fit does not get it.
TAKING_TURNS = [
    Step("use", 0, 0.0, 7.0),
    Step("use", 0, 0.0, 2.0),
    Step("use", 1, 5.0, 0.25),
    Step("use", 1, 0.0, 1.0),
    Step("use", 0, 1.0, 0.25),
]


# Every run has the same worlds, so that a failure comes from a change of the code. Their number is
# enough to detect each mutant below. --hypothesis-profile=thorough tries more of them.
@settings(max_examples=10 * settings().max_examples, derandomize=True)
@given(fleet=fleets, schedule=schedules)
@example(
    fleet=Fleet((9, 1), (False, False), 0, connections=1, back_seconds=0.0, cards=False),
    schedule=TWO_HAVE_TO_GO,
)
@example(
    fleet=Fleet((7, 6), (False, False), 0, connections=1, back_seconds=0.3, cards=False),
    schedule=GIVEN_UP,
)
@example(
    fleet=Fleet((6, 12), (False, True), 0, connections=1, back_seconds=0.3, cards=False),
    schedule=TAKING_TURNS,
)
@example(
    fleet=Fleet((1, 12), (False, False), 0, connections=1, back_seconds=0.0, cards=False),
    schedule=UNPINNED_TOO_LATE,
)
@example(
    fleet=Fleet((1, 1, 6), (False,) * 3, 0, connections=1, back_seconds=0.0, cards=False),
    schedule=FREED_TOO_LATE,
)
def test_the_invariants_hold_in_random_worlds(fleet: Fleet, schedule: list[Step]) -> None:
    simulate(fleet, schedule)


@settings(max_examples=4 * settings().max_examples, derandomize=True)
@given(fleet=fleets, schedule=schedules, close_after=st.sampled_from([0.0, 0.5, 2.0]))
def test_nothing_is_left_over_when_the_service_ends(
    fleet: Fleet, schedule: list[Step], close_after: float
) -> None:
    simulate(fleet, schedule, close_after=close_after)


@settings(max_examples=4 * settings().max_examples, derandomize=True)
@given(fleet=fleets, schedule=schedules, priority=st.sampled_from([Priority.LOW, Priority.HIGH]))
def test_equal_priorities_change_nothing(
    fleet: Fleet, schedule: list[Step], priority: Priority
) -> None:
    # Loads that are asked for, and those after a change of settings, are of normal priority.
    requests = [step for step in schedule if step.what not in {"load", "settings"}]
    traces = [
        simulate(fleet, [msgspec.structs.replace(step, priority=one) for step in requests])
        for one in (Priority.NORMAL, priority)
    ]
    assert traces[0] == traces[1]


# Mutants: the policy made worse in one way, to show that each check can fail


def forgets_the_memory(
    models: Sequence[ModelView], limits: LoadLimits, memory: FreeMemory, time: float
) -> Decision:
    return decide(models, limits, msgspec.structs.replace(memory, free=None), time)


def believes_old_readings(
    models: Sequence[ModelView], limits: LoadLimits, memory: FreeMemory, time: float
) -> Decision:
    known = memory.at > float("-inf")
    return decide(
        models,
        msgspec.structs.replace(limits, memory_changed_at=0.0, awaited=None),
        msgspec.structs.replace(memory, at=time) if known else memory,
        time,
    )


def cuts_answers(
    models: Sequence[ModelView], limits: LoadLimits, memory: FreeMemory, time: float
) -> Decision:
    idle = [msgspec.structs.replace(model, in_flight=0) for model in models]
    return decide(idle, limits, memory, time)


def forgets_pins(
    models: Sequence[ModelView], limits: LoadLimits, memory: FreeMemory, time: float
) -> Decision:
    free = [msgspec.structs.replace(model, pinned=False) for model in models]
    return decide(free, limits, memory, time)


def loads_two_at_once(
    models: Sequence[ModelView], limits: LoadLimits, memory: FreeMemory, time: float
) -> Decision:
    calm = [
        msgspec.structs.replace(model, status=ModelStatus.LOADED)
        if model.status is ModelStatus.LOADING
        else model
        for model in models
    ]
    return decide(calm, limits, memory, time)


def does_not_wait_for_the_end(
    models: Sequence[ModelView], limits: LoadLimits, memory: FreeMemory, time: float
) -> Decision:
    gone = [
        msgspec.structs.replace(model, status=ModelStatus.UNLOADED)
        if model.status is ModelStatus.UNLOADING and not model.waiting
        else model
        for model in models
    ]
    return decide(gone, limits, memory, time)


def lets_everybody_overtake(
    models: Sequence[ModelView], limits: LoadLimits, memory: FreeMemory, time: float
) -> Decision:
    decision = decide(models, limits, memory, time)
    return msgspec.structs.replace(decision, admit_before={}, blocked=frozenset())


def never_wakes(
    models: Sequence[ModelView], limits: LoadLimits, memory: FreeMemory, time: float
) -> Decision:
    return msgspec.structs.replace(decide(models, limits, memory, time), wake_at=None)


def never_makes_room(
    models: Sequence[ModelView], limits: LoadLimits, memory: FreeMemory, time: float
) -> Decision:
    decision = decide(models, limits, memory, time)
    kept = tuple(step for step in decision.unload if step.reason is not Reason.ROOM)
    idle_ones_stay = tuple(step for step in kept if step.reason is not Reason.IDLE)
    return msgspec.structs.replace(decision, unload=idle_ones_stay)


def refuses_who_must_wait(
    models: Sequence[ModelView], limits: LoadLimits, memory: FreeMemory, time: float
) -> Decision:
    decision = decide(models, limits, memory, time)
    if memory.free is None:
        return decision
    refusals = tuple(
        Refusal(id=model_id, needed=memory.free, free_at_best=memory.free)
        for model_id in decision.blocked
    )
    return msgspec.structs.replace(decision, refuse=refusals, blocked=frozenset(), admit_before={})


def keeps_what_others_need(
    models: Sequence[ModelView], limits: LoadLimits, memory: FreeMemory, time: float
) -> Decision:
    return decide(models, limits, msgspec.structs.replace(memory, short=False), time)


MUTANTS: dict[Policy, str] = {
    forgets_the_memory: "memory",
    believes_old_readings: "memory",
    cuts_answers: "busy",
    forgets_pins: "pinned",
    loads_two_at_once: "is loaded while",
    does_not_wait_for_the_end: "memory|max_loaded_models|is loaded while",
    lets_everybody_overtake: "order",
    never_wakes: "rest",
    never_makes_room: "end|rest",
    refuses_who_must_wait: "refused",
    keeps_what_others_need: "shortage",
}


ONE_OR_THE_OTHER = Fleet(
    sizes=(9, 9), mapped=(False, False), max_loaded=0, connections=4, back_seconds=0.0, cards=False
)
ONE_WAITS_BEHIND_MANY = [
    Step("use", 0, 0.0, 2.0),
    Step("use", 1, 2.0, 2.0),
    *(Step("use", 0, 0.5, 2.0) for _ in range(12)),
]
ONE_IS_PINNED = [
    Step("use", 0, 0.0, 0.5),
    Step("pin", 0, 0.0, 0.0),
    Step("use", 1, 5.0, 0.5),
]
OTHERS_TAKE_THE_REST = [Step("use", 0, 0.0, 0.5), Step("others", 0, 5.0, 7.0)]


class NoticedError(Exception):
    """A check failed as expected."""


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda one: one.__name__)
def test_a_worse_policy_is_noticed(mutant: Policy) -> None:
    @settings(
        max_examples=400,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        report_multiple_bugs=False,  # stop at the first world that shows it
    )
    @given(fleet=fleets, schedule=schedules)
    @example(fleet=ONE_OR_THE_OTHER, schedule=ONE_WAITS_BEHIND_MANY)
    @example(fleet=ONE_OR_THE_OTHER, schedule=ONE_IS_PINNED)
    @example(fleet=ONE_OR_THE_OTHER, schedule=OTHERS_TAKE_THE_REST)
    def look(fleet: Fleet, schedule: list[Step]) -> None:
        try:
            simulate(fleet, schedule, mutant)
        except AssertionError as error:
            if re.search(MUTANTS[mutant], str(error)):
                raise NoticedError from error

    with pytest.raises(NoticedError):
        look()
