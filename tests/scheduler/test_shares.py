"""Priorities: shares of one model's places, and turns of models that exclude each other."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.errors import QueueFullError
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.records import ModelStatus, Priority
from cyber_inference_tui.scheduler.free_memory import FreeMemory
from cyber_inference_tui.scheduler.policy import Policy, decide
from cyber_inference_tui.scheduler.shares import WEIGHTS, Shares
from cyber_inference_tui.scheduler.state import Waiter
from cyber_inference_tui.scheduler.views import Decision, LoadLimits, ModelView
from tests.scheduler.virtual import VirtualLauncher, VirtualMachine, World, model, now, run, ticks

LOW, NORMAL, HIGH = Priority
A, B = model("a"), model("b")
MOST_BETWEEN = 22
"""Admissions between two of the lowest priority: 16 and 4, and one more of each."""


class BrokenError(AssertionError):
    """A promise about the shares is broken."""


class Line:
    """The queue of one model, which checks the shares at every admission."""

    def __init__(self, shares: Shares) -> None:
        self.shares = shares
        self.waiters: list[Waiter] = []
        self.arrivals = 0
        self.together: dict[tuple[Priority, Priority], Counter[Priority]] = {}
        """By pairs that wait: the admissions since both have been waiting."""
        self.passed: Counter[Priority] = Counter()
        """By priority that waits: the admissions of others since its last one."""

    def arrive(self, priority: Priority) -> None:
        self.arrivals += 1
        waiter = Waiter(
            asyncio.Future(loop=_LOOP),
            arrival=self.arrivals,
            since=0.0,
            takes_place=True,
            reason="request",
            priority=priority,
        )
        self.waiters.append(waiter)

    def leave(self, number: int) -> None:
        if self.waiters:
            del self.waiters[number % len(self.waiters)]
        self._forget()

    def admit(self) -> None:
        if not self.waiters:
            return
        expected = self.shares.in_order(self.waiters)[0]
        waiter = self.shares.heads(self.waiters)[0]
        assert waiter is expected
        self._check(waiter)
        self.waiters.remove(waiter)
        self.shares.admit(waiter, self.waiters)
        self._forget()

    def _check(self, admitted: Waiter) -> None:
        waiting = {waiter.priority for waiter in self.waiters}
        if any(
            waiter.priority is admitted.priority and waiter.arrival < admitted.arrival
            for waiter in self.waiters
        ):
            raise BrokenError("order: a later request of the same priority is first")
        for pair in combinations(Priority, 2):
            if not waiting.issuperset(pair):
                continue
            counts = self.together.setdefault(pair, Counter())
            counts[admitted.priority] += 1
            one, other = pair
            gap = counts[one] / WEIGHTS[one] - counts[other] / WEIGHTS[other]
            if abs(gap) > 1 / WEIGHTS[one] + 1 / WEIGHTS[other]:
                raise BrokenError(f"share: {counts}")
        for priority in waiting - {admitted.priority}:
            self.passed[priority] += 1
            if self.passed[priority] > MOST_BETWEEN:
                raise BrokenError(f"starved: {priority}")
        self.passed[admitted.priority] = 0

    def _forget(self) -> None:
        waiting = {waiter.priority for waiter in self.waiters}
        self.together = {
            pair: counts for pair, counts in self.together.items() if waiting.issuperset(pair)
        }
        self.passed = Counter({one: self.passed[one] for one in waiting})


_LOOP = asyncio.new_event_loop()
_LOOP.close()

events = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(Priority), st.integers(1, 40)),
        st.tuples(st.just("admit"), st.integers(1, 40)),
        st.tuples(st.just("leave"), st.integers(0, 40)),
    ),
    max_size=30,
)


def _live(line: Line, happens: Sequence[tuple[str, int]]) -> None:
    for what, number in happens:
        if what == "leave":
            line.leave(number)
            continue
        for _ in range(number):
            if what == "admit":
                line.admit()
            else:
                line.arrive(Priority(what))


@given(events)
def test_shares_are_kept_and_nobody_starves(happens: list[tuple[str, int]]) -> None:
    _live(Line(Shares()), happens)


@given(events)
def test_the_order_is_known_before(happens: list[tuple[str, int]]) -> None:
    line = Line(Shares())
    _live(line, happens)
    expected = line.shares.in_order(line.waiters)
    admitted = []
    while line.waiters:
        admitted.append(line.shares.heads(line.waiters)[0])
        line.admit()
    assert admitted == expected


def test_a_request_of_a_high_priority_is_next() -> None:
    line = Line(Shares())
    for priority in [LOW] * 5 + [NORMAL] * 5:
        line.arrive(priority)
    for _ in range(3):
        line.admit()
    line.arrive(HIGH)
    assert line.shares.in_order(line.waiters)[0].priority is HIGH


class _Strict(Shares):
    def heads(self, waiters: Iterable[Waiter]) -> list[Waiter]:
        return sorted(super().heads(waiters), key=lambda one: -WEIGHTS[one.priority])

    def in_order(self, waiters: Iterable[Waiter]) -> list[Waiter]:
        return self.heads(waiters)


class _Blind(Shares):
    def heads(self, waiters: Iterable[Waiter]) -> list[Waiter]:
        return sorted(super().heads(waiters), key=lambda one: one.arrival)

    def in_order(self, waiters: Iterable[Waiter]) -> list[Waiter]:
        return self.heads(waiters)


class _Saving(Shares):
    def admit(self, waiter: Waiter, left: Iterable[Waiter]) -> None:
        # Everybody seems to wait, so that nobody's clock follows the others.
        others = [Line(self) for _ in Priority]
        for line, priority in zip(others, Priority, strict=True):
            line.arrive(priority)
        super().admit(waiter, [line.waiters[0] for line in others])


FLOOD = [("low", 40), ("normal", 40), ("high", 40), ("admit", 60)]
RETURNS = [*[("normal", 40), ("admit", 30)] * 4, ("low", 40), ("admit", 30)]


@pytest.mark.parametrize(
    ("mutant", "happens", "problem"),
    [
        (_Strict, FLOOD, "share|starved"),
        (_Blind, FLOOD, "share"),
        (_Saving, RETURNS, "share|starved"),
    ],
)
def test_worse_shares_are_noticed(
    mutant: type[Shares], happens: list[tuple[str, int]], problem: str
) -> None:
    with pytest.raises(BrokenError, match=problem):
        _live(Line(mutant()), happens)


# One model


class Crowd(World):
    """Clients with one request after another, who note their waits."""

    def __init__(self, policy: Policy = decide, **settings: int) -> None:
        super().__init__(launcher=VirtualLauncher(), policy=policy, **settings)
        self.waits: dict[Priority, list[float]] = {priority: [] for priority in Priority}

    async def client(self, one: LocalModel, priority: Priority, seconds: float = 1.0) -> None:
        while True:
            began = now()
            with await self.scheduler.acquire(one, priority=priority):
                self.waits[priority].append(now() - began)
                await asyncio.sleep(seconds)

    async def live(self, seconds: float, *clients: tuple[LocalModel, Priority]) -> None:
        """Have these clients send requests for so many seconds."""
        async with self.scheduler, asyncio.timeout(seconds + 60):
            tasks = [asyncio.ensure_future(self.client(*client)) for client in clients]
            await asyncio.sleep(seconds)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(5)
            self.assert_at_rest()


def test_a_full_model_is_shared_by_weights() -> None:
    async def main() -> None:
        world = Crowd(max_concurrent_requests=2)
        await world.live(420, *[(A, priority) for priority in Priority for _ in range(40)])
        counts = {priority: len(waits) for priority, waits in world.waits.items()}
        assert sum(counts.values()) == pytest.approx(840, abs=5)
        for priority, weight in WEIGHTS.items():
            assert counts[priority] == pytest.approx(40 * weight, abs=3)

    run(main())


def test_one_client_waits_for_one_place_however_many_of_a_lower_priority_there_are() -> None:
    async def main() -> None:
        world = Crowd(max_concurrent_requests=2)
        await world.live(200, (A, HIGH), *[(A, LOW)] * 60, *[(A, NORMAL)] * 60)
        assert max(world.waits[HIGH][1:]) <= 1.0
        assert len(world.waits[LOW]) > 20

    run(main())


def test_a_server_gets_no_more_than_its_slots_once_priorities_matter() -> None:
    async def main() -> None:
        world = World()
        world.launcher.slots["a"] = 2
        async with world.scheduler as scheduler:
            await scheduler.load(A)
            tasks = [asyncio.ensure_future(world.use(A, 1)) for _ in range(6)]
            await ticks()
            assert (scheduler.in_flight, scheduler.waiting) == (6, 0)
            assert scheduler.places(A) is not None
            for priority in (LOW, NORMAL, HIGH):
                tasks.append(asyncio.ensure_future(world.use(A, 1, priority)))
                await ticks()
            assert (scheduler.in_flight, scheduler.waiting) == (6, 3)
            # A request without a record of its priority has no way around the queue.
            assert scheduler.places(A, HIGH) is None
            places = scheduler.places(A)
            assert places is not None
            assert not places.take(now())
            records = scheduler.waits.records()
            assert [record.priority for record in records] == [HIGH, NORMAL, LOW]
            assert [record.position for record in records] == [1, 2, 3]
            await asyncio.gather(*tasks)
            tasks = [asyncio.ensure_future(world.use(A, 1)) for _ in range(6)]
            await ticks()
            assert (scheduler.in_flight, scheduler.waiting) == (2, 4)
            await asyncio.gather(*tasks)
            world.assert_at_rest()

    run(main())


def test_requests_of_a_lower_priority_do_not_fill_the_queue_for_others() -> None:
    async def main() -> None:
        world = World(max_concurrent_requests=1, max_queue=2)
        async with world.scheduler as scheduler:
            tasks = [asyncio.ensure_future(world.use(A, 1, LOW))]
            await asyncio.sleep(1.5)
            for priority in (LOW, LOW, NORMAL, HIGH):
                tasks.append(asyncio.ensure_future(world.use(A, 1, priority)))
                await ticks()
            # Two low requests, or two that are normal or higher.
            for priority in (LOW, NORMAL):
                with pytest.raises(QueueFullError):
                    await scheduler.acquire(A, priority=priority)
            tasks.append(asyncio.ensure_future(world.use(A, 1, HIGH)))
            await ticks()
            with pytest.raises(QueueFullError):
                await scheduler.acquire(A, priority=HIGH)
            await asyncio.gather(*tasks)
            world.assert_at_rest()

    run(main())


# Several models


def test_the_model_of_the_higher_priority_is_loaded_first() -> None:
    async def main() -> None:
        world = World()
        async with world.scheduler:
            blocker = asyncio.ensure_future(world.use(model("c")))
            await ticks()
            low = asyncio.ensure_future(world.use(A, 0, LOW))
            await ticks()
            high = asyncio.ensure_future(world.use(B, 0, HIGH))
            await asyncio.gather(blocker, low, high)
        assert world.launcher.launched == ["c", "b", "a"]

    run(main())


def test_the_expected_wait_knows_which_model_is_first() -> None:
    async def main() -> None:
        # Only the loads of servers that report their memory are remembered.
        world = World(launcher=VirtualLauncher(machine=VirtualMachine(10**12)))
        c = model("c")
        async with world.scheduler as scheduler:
            for one in (A, B, c):
                await scheduler.load(one)
                await scheduler.unload(one)
            tasks = [asyncio.ensure_future(world.use(c))]
            while world.status("c") is not ModelStatus.LOADING:
                await asyncio.sleep(0.1)
            for one, priority in ((A, LOW), (B, HIGH)):
                tasks.append(asyncio.ensure_future(world.use(one, 0, priority)))
                await ticks()
            # Each load takes a second.
            left = scheduler.waits
            waits = {one.model: one.expected_wait_seconds or 0.0 for one in left.records()}
            assert waits["b"] == pytest.approx(waits["c"] + 1.0)
            assert waits["a"] == pytest.approx(waits["b"] + 1.0)
            await asyncio.gather(*tasks)
            assert world.launcher.launched[3:] == ["c", "b", "a"]

    run(main())


async def _two_models(policy: Policy = decide) -> None:
    """Have many requests for one model and few of a lower priority for another, one at a time."""
    world = Crowd(policy, max_loaded_models=1, max_concurrent_requests=2)
    await world.live(1000, *[(A, HIGH)] * 4, *[(B, LOW)] * 4)
    high, low = (len(world.waits[one]) for one in (HIGH, LOW))
    if max(world.waits[LOW][4:], default=1000) > 150:
        raise BrokenError("starved: low")
    if high < 16 * low:
        raise BrokenError(f"share: {high} and {low}")
    if max(world.waits[HIGH][4:]) > 15:
        raise BrokenError("delayed: high")


def test_models_take_turns_by_weights() -> None:
    run(_two_models())


def knows_no_priorities(
    models: Sequence[ModelView], limits: LoadLimits, memory: FreeMemory, time: float
) -> Decision:
    equal = [msgspec.structs.replace(one, priority=NORMAL) for one in models]
    return decide(equal, limits, memory, time)


def never_has_enough(
    models: Sequence[ModelView], limits: LoadLimits, memory: FreeMemory, time: float
) -> Decision:
    patient = [
        msgspec.structs.replace(one, overtaken=0.0, waiting_since=time)
        if one.priority is LOW
        else one
        for one in models
    ]
    return decide(patient, limits, memory, time)


@pytest.mark.parametrize(
    ("mutant", "problem"), [(knows_no_priorities, "share"), (never_has_enough, "starved")]
)
def test_a_worse_policy_is_noticed(mutant: Policy, problem: str) -> None:
    with pytest.raises(BrokenError, match=problem):
        run(_two_models(mutant))


def test_overtaking_without_weights_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    for priority in Priority:
        monkeypatch.setitem(WEIGHTS, priority, 1)
    with pytest.raises(BrokenError, match="share"):
        run(_two_models())


def _waits(model_id: str, arrival: int, priority: Priority, **more: float) -> ModelView:
    return ModelView(
        id=model_id,
        status=ModelStatus.QUEUED,
        waiting=1,
        arrival=arrival,
        priority=priority,
        waiting_since=more.get("since", 1000.0),
        overtaken=more.get("overtaken", 0.0),
    )


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (_waits("a", 1, LOW), _waits("b", 2, HIGH)),
        (_waits("a", 1, LOW), _waits("b", 2, NORMAL)),
        (_waits("a", 1, NORMAL), _waits("b", 2, HIGH)),
    ],
)
def test_a_request_of_a_lower_priority_is_not_passed_over_for_ever(
    first: ModelView, second: ModelView
) -> None:
    def loads(one: ModelView, at: float) -> str | None:
        memory = FreeMemory(at=float("-inf"), free=None)
        return decide([one, second], LoadLimits(), memory, at).load

    assert loads(first, 1000.0) == "b"
    ratio = WEIGHTS[second.priority] / WEIGHTS[first.priority]
    assert loads(first, 1000.0 + 5 * ratio - 0.1) == "b"
    assert loads(first, 1000.0 + 5 * ratio) == "a"
    assert loads(msgspec.structs.replace(first, overtaken=8.0), 1000.0) == "a"
