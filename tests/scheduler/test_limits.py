"""The limits of requests in flight and in the queue of a model."""

from __future__ import annotations

import asyncio

import pytest

from cyber_inference_tui.errors import QueueFullError
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.settings.schema import Settings
from tests.scheduler.virtual import World, model, run, ticks

A = model("a")


async def ask(world: World, one: LocalModel, count: int) -> list[asyncio.Task[None]]:
    """Send so many requests of 10 seconds each."""
    tasks = [asyncio.ensure_future(world.use(one, 10)) for _ in range(count)]
    await ticks()
    return tasks


@pytest.mark.parametrize(
    ("general", "own", "takes", "places"),
    [
        # As many as the server accepts …
        (0, None, 256, 256),
        (0, None, None, 300),
        # … or as the settings say, those of the model first …
        (5, None, 256, 5),
        (5, None, None, 5),
        (5, 7, 256, 7),
        (5, 0, 256, 256),
        (0, 7, None, 7),
        # … but never more than the server accepts.
        (290, None, 256, 256),
        (5, 290, 256, 256),
    ],
)
def test_how_many_requests_a_model_gets_at_once(
    general: int, own: int | None, takes: int | None, places: int
) -> None:
    async def main() -> None:
        world = World(max_concurrent_requests=general, max_queue=1000)
        if takes is not None:
            world.launcher.most_requests["a"] = takes
        one = model("a", max_concurrent_requests=own)
        async with world.scheduler as scheduler:
            await scheduler.load(one)
            tasks = await ask(world, one, 300)
            assert (scheduler.in_flight, scheduler.waiting) == (places, 300 - places)
            await asyncio.gather(*tasks)
            world.assert_at_rest()

    run(main())


def test_another_limit_applies_to_a_loaded_model_at_once() -> None:
    async def main() -> None:
        world = World(max_concurrent_requests=2)
        async with world.scheduler as scheduler:
            await scheduler.load(A)
            tasks = await ask(world, A, 10)
            assert scheduler.in_flight == 2
            scheduler.configure(Settings(max_concurrent_requests=6))
            await ticks()
            assert (scheduler.in_flight, scheduler.waiting) == (6, 4)
            # A lower limit interrupts no request; the next ones wait until there are fewer.
            scheduler.configure(Settings(max_concurrent_requests=1))
            await ticks()
            assert (scheduler.in_flight, scheduler.waiting) == (6, 4)
            await asyncio.sleep(10)
            assert (scheduler.in_flight, scheduler.waiting) == (1, 3)
            # The model's own table has the same effect.
            scheduler.refresh(model("a", max_concurrent_requests=3))
            await ticks()
            assert (scheduler.in_flight, scheduler.waiting) == (3, 1)
            await asyncio.gather(*tasks)
            assert world.launcher.launched == ["a"]
            world.assert_at_rest()

    run(main())


def test_the_expected_wait_and_the_time_to_try_again_follow_the_limit() -> None:
    async def main() -> None:
        world = World(max_concurrent_requests=4, max_queue=8)
        async with world.scheduler as scheduler:
            await world.use(A, 10)
            tasks = await ask(world, A, 12)
            waits = [record.expected_wait_seconds for record in scheduler.waits.records()]
            assert waits == [2.5 * position for position in range(1, 9)]
            with pytest.raises(QueueFullError) as full:
                await scheduler.acquire(A)
            assert full.value.retry_after == 22.5
            scheduler.configure(Settings(max_concurrent_requests=8))
            await ticks()
            waits = [record.expected_wait_seconds for record in scheduler.waits.records()]
            assert waits == [1.2, 2.5, 3.8, 5.0]
            await asyncio.gather(*tasks)

    run(main())


def test_without_a_limit_there_is_no_wait_at_a_loaded_model() -> None:
    async def main() -> None:
        world = World(max_queue=0)
        async with world.scheduler as scheduler:
            await scheduler.load(A)
            tasks = await ask(world, A, 1000)
            state = scheduler.state("a")
            assert state is not None
            assert scheduler.waits.seconds_of_next(state) == 0.0
            assert scheduler.waiting == 0
            await asyncio.gather(*tasks)

    run(main())


def test_without_a_queue_a_request_still_has_its_model_loaded() -> None:
    async def main() -> None:
        world = World(max_queue=0, max_concurrent_requests=1)
        async with world.scheduler as scheduler:
            (first,) = await ask(world, A, 1)
            for _ in range(2):
                # While it loads, and when its only place is taken.
                with pytest.raises(QueueFullError) as full:
                    await scheduler.acquire(A)
                assert full.value.retry_after is not None
                assert full.value.retry_after >= 1
                await asyncio.sleep(5)
            await first
            world.assert_at_rest()

    run(main())
