"""Places that are counted without a lease for each request."""

from __future__ import annotations

import asyncio

import pytest

from cyber_inference_tui.scheduler.places import Places
from cyber_inference_tui.scheduler.scheduler import Scheduler
from tests.scheduler.virtual import World, model, run, ticks

A, B = model("a"), model("b")


def now() -> float:
    return asyncio.get_running_loop().time()


async def places_of(scheduler: Scheduler) -> Places:
    await scheduler.load(A)
    places = scheduler.places(A)
    assert places is not None
    return places


def test_a_place_is_taken_and_given_back() -> None:
    async def main() -> None:
        world = World()
        async with world.scheduler as scheduler:
            assert scheduler.places(A) is None
            places = await places_of(scheduler)
            state = scheduler.state("a")
            assert state is not None
            session = state.session
            assert session is not None
            since = now()
            assert places.take(since)
            assert places.take(since)
            assert (scheduler.in_flight, state.in_flight, session.unanswered) == (2, 2, 2)
            await asyncio.sleep(4)
            places.give_back(since, now(), 3, 5)
            assert (state.in_flight, session.unanswered, session.answered) == (1, 1, True)
            assert (session.requests, session.tokens_in, session.tokens_out) == (2, 3, 5)
            assert (state.request_seconds, state.last_used) == (4, now())
            places.give_back(since, now(), None, None)
            world.assert_at_rest()
        await world.assert_nothing_left()

    run(main())


def test_a_request_continues_with_a_lease() -> None:
    async def main() -> None:
        world = World()
        async with world.scheduler as scheduler:
            places = await places_of(scheduler)
            session = places.lease(now(), places.mark)._session
            assert session is not None
            assert places.take(now())
            lease = places.lease(now(), places.mark)
            # It is counted once.
            lease.sent()
            assert (scheduler.in_flight, session.unanswered) == (1, 1)
            lease.begun()
            assert session.unanswered == 0
            lease.release()
            world.assert_at_rest()

    run(main())


@pytest.mark.parametrize("full", [False, True])
def test_there_are_as_many_places_as_the_settings_allow(full: bool) -> None:
    async def main() -> None:
        world = World(max_concurrent_requests=1 if full else 2)
        async with world.scheduler as scheduler:
            places = await places_of(scheduler)
            assert places.take(now())
            assert places.take(now()) is not full
            if full:
                # Who waits comes first.
                waiting = asyncio.create_task(scheduler.acquire(A))
                await ticks()
                assert scheduler.waiting == 1
                assert not places.take(now())
                places.give_back(now(), now(), None, None)
                (await waiting).release()
            else:
                for _ in range(2):
                    places.give_back(now(), now(), None, None)
            world.assert_at_rest()

    run(main())


def test_a_model_that_leaves_or_has_left_has_no_place() -> None:
    async def main() -> None:
        world = World()
        async with world.scheduler as scheduler:
            places = await places_of(scheduler)
            assert places.take(now())
            leaving = asyncio.create_task(scheduler.unload(A))
            await ticks()
            assert not places.take(now())
            places.give_back(now(), now(), None, None)
            await leaving
            assert not places.take(now())
            await scheduler.load(A)
            # The places are those of the former server.
            assert not places.take(now())
            again = scheduler.places(A)
            assert again is not None
            assert again.take(now())
            again.give_back(now(), now(), None, None)
            scheduler.begin_shutdown()
            assert not again.take(now())

    run(main())


def test_requests_that_wait_for_another_model_are_overtaken_a_limited_number_of_times() -> None:
    async def main() -> None:
        world = World(max_loaded_models=1, max_overtake=3)
        async with world.scheduler as scheduler:
            places = await places_of(scheduler)
            assert places.take(now())
            waiting = asyncio.create_task(scheduler.acquire(B))
            await ticks()
            taken = 0
            while taken < 10 and places.take(now()):
                taken += 1
            assert taken == 3
            for _ in range(taken + 1):
                places.give_back(now(), now(), None, None)
            (await waiting).release()
            assert world.launcher.launched == ["a", "b"]

    run(main())
