"""The scheduler, driven on a virtual clock over virtual servers."""

from __future__ import annotations

import asyncio
import errno
import logging

import pytest

from cyber_inference_tui.errors import (
    CyberError,
    ModelLoadError,
    QueueFullError,
    QueueTimeoutError,
    ShuttingDownError,
)
from cyber_inference_tui.records import ModelStatus
from tests.scheduler.virtual import (
    NothingCanHappenError,
    VirtualLauncher,
    World,
    load_error,
    model,
    now,
    run,
    ticks,
)

A, B, C = model("a"), model("b"), model("c")


# Loading


def test_many_askers_of_an_unloaded_model_share_one_load() -> None:
    async def main() -> None:
        world = World()
        async with world.scheduler as scheduler:
            leases = await asyncio.gather(*(scheduler.acquire(A) for _ in range(25)))
            assert world.launcher.launched == ["a"]
            assert {lease.address for lease in leases} == {world.server("a").address}
            assert scheduler.in_flight == 25
            for lease in leases:
                lease.release()
            assert world.statuses_of("a") == ["queued", "loading", "loaded"]
            world.assert_at_rest()
        await world.assert_nothing_left()
        assert world.statuses_of("a")[3:] == ["unloading", "unloaded"]

    run(main())


def test_a_loaded_model_has_a_place_at_once() -> None:
    async def main() -> None:
        world = World()
        async with world.scheduler as scheduler:
            assert scheduler.try_acquire(A) is None
            await scheduler.load(A)
            lease = scheduler.try_acquire(A)
            assert lease is not None
            assert lease.model_id == "a"
            lease.release()
            lease.release()
            assert scheduler.in_flight == 0
            assert scheduler.loaded_ids == ["a"]

    run(main())


def test_different_models_load_one_after_the_other() -> None:
    async def main() -> None:
        world = World()
        async with world.scheduler as scheduler:
            await asyncio.gather(*(scheduler.load(each) for each in (A, B, C)))
            assert world.launcher.launched == ["a", "b", "c"]
            assert now() == 3.0

    run(main())


def test_progress_is_visible_while_loading() -> None:
    async def main() -> None:
        world = World()
        async with world.scheduler as scheduler:
            scheduler.request_load(A)
            await asyncio.sleep(0.6)
            state = scheduler.state("a")
            assert state is not None
            assert (state.status, state.progress) == (ModelStatus.LOADING, 0.5)

    run(main())


def test_a_failed_load_fails_everybody_with_the_same_error() -> None:
    async def main() -> None:
        world = World()
        error = load_error()
        world.launcher.failures["a"] = [error]
        async with world.scheduler as scheduler:
            results = await asyncio.gather(
                *(scheduler.acquire(A) for _ in range(3)),
                scheduler.load(A),
                return_exceptions=True,
            )
            assert results == [error] * 4
            assert world.status("a") is ModelStatus.FAILED
            world.assert_at_rest()
            # The first failure has no backoff: the next request tries again.
            await world.use(A)
            assert world.statuses_of("a") == [
                "queued",
                "loading",
                "failed",
                "queued",
                "loading",
                "loaded",
            ]
        await world.assert_nothing_left()

    run(main())


def test_a_lack_of_descriptors_fails_the_load_in_plain_words() -> None:
    async def main() -> None:
        world = World()
        world.launcher.failures["a"] = [OSError(errno.EMFILE, "Too many open files")]
        async with world.scheduler as scheduler:
            with pytest.raises(ModelLoadError, match="a cannot be loaded: Too many open files"):
                await scheduler.load(A)

    run(main())


def test_a_defect_in_the_launcher_fails_the_load_instead_of_hanging_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        world = World()
        world.launcher.failures["a"] = [ZeroDivisionError("ours")]
        async with world.scheduler as scheduler:
            with pytest.raises(ModelLoadError, match="see the service's log"):
                await scheduler.load(A)
            assert world.status("a") is ModelStatus.FAILED

    with caplog.at_level(logging.CRITICAL):
        run(main())


def test_backoff_grows_while_loads_fail_and_is_reset_by_an_unload() -> None:
    async def main() -> None:
        world = World()
        world.launcher.failures["a"] = [load_error(str(n)) for n in range(4)]
        async with world.scheduler as scheduler:
            pauses = []
            for _ in range(4):
                began = now()
                while True:
                    try:
                        await scheduler.acquire(A)
                    except CyberError as error:
                        if "next try" not in error.hint:
                            break
                        assert isinstance(error, ModelLoadError)
                        assert error.log_tail
                        await asyncio.sleep(0.25)
                pauses.append(now() - began - world.launcher.load_seconds)
            assert pauses == [0, 0, 1, 2]
            with pytest.raises(ModelLoadError, match="possible in 4 s"):
                await scheduler.acquire(A)
            await scheduler.unload(A)
            assert world.status("a") is ModelStatus.UNLOADED
            await world.use(A)
            await scheduler.unload(A)
            # The unload of a working server forgets failures, too.
            world.launcher.failures["a"] = [load_error(), load_error()]
            for _ in range(2):
                with pytest.raises(ModelLoadError):
                    await scheduler.load(A)
            await scheduler.load(A)
            await scheduler.unload(A)
            world.launcher.failures["a"] = [load_error()]
            with pytest.raises(ModelLoadError):
                await scheduler.acquire(A)
            await world.use(A)

    run(main())


def test_an_explicit_load_does_not_wait_for_the_backoff() -> None:
    async def main() -> None:
        world = World()
        world.launcher.failures["a"] = [load_error(), load_error()]
        async with world.scheduler as scheduler:
            for _ in range(2):
                with pytest.raises(ModelLoadError):
                    await scheduler.acquire(A)
            began = now()
            await scheduler.load(A)
            assert now() - began == world.launcher.load_seconds

    run(main())


# The queue


def test_the_queue_of_a_model_is_bounded() -> None:
    async def main() -> None:
        world = World(max_queue=2)
        async with world.scheduler as scheduler:
            waiting = [asyncio.ensure_future(world.use(A)) for _ in range(2)]
            await ticks()
            with pytest.raises(QueueFullError) as full:
                await scheduler.acquire(A)
            assert full.value.retry_after is not None
            assert full.value.retry_after >= 1
            # An explicit load takes no place in it.
            await scheduler.load(A)
            await asyncio.gather(*waiting)
            world.assert_at_rest()

    run(main())


def test_a_request_waits_no_longer_than_queue_timeout() -> None:
    async def main() -> None:
        world = World(launcher=VirtualLauncher(load_seconds=50), queue_timeout=20)
        async with world.scheduler as scheduler:
            with pytest.raises(QueueTimeoutError):
                await scheduler.acquire(A)
            assert now() == 20
            assert scheduler.waiting == 0
            # The load continues, and the next request profits.
            await asyncio.sleep(31)
            assert world.status("a") is ModelStatus.LOADED
            world.assert_at_rest()

    run(main())


def test_more_requests_than_connections_wait_in_order() -> None:
    async def main() -> None:
        world = World(max_concurrent_requests=2)
        order: list[int] = []

        async def request(number: int) -> None:
            with await world.scheduler.acquire(A):
                order.append(number)
                await asyncio.sleep(1)

        async with world.scheduler as scheduler:
            requests = [asyncio.ensure_future(request(number)) for number in range(6)]
            await asyncio.sleep(1.5)
            assert scheduler.in_flight == 2
            assert scheduler.try_acquire(A) is None
            state = scheduler.state("a")
            assert state is not None
            assert state.queued == 4
            await asyncio.gather(*requests)
            assert order == list(range(6))
            assert now() == 4.0
            world.assert_at_rest()

    run(main())


def test_a_request_that_is_being_cancelled_gets_no_place() -> None:
    async def main() -> None:
        world = World(max_concurrent_requests=1)
        async with world.scheduler as scheduler:
            first = await scheduler.acquire(A)
            second, third = (asyncio.ensure_future(scheduler.acquire(A)) for _ in range(2))
            await ticks()
            second.cancel()
            # It is still in the queue at this moment.
            first.release()
            (await third).release()
            await asyncio.wait({second})
            assert second.cancelled()
            world.assert_at_rest()

    run(main())


def test_an_explicit_load_ends_before_the_requests_in_the_queue() -> None:
    async def main() -> None:
        world = World(max_concurrent_requests=1)
        async with world.scheduler as scheduler:
            requests = [asyncio.ensure_future(world.use(A, 100)) for _ in range(3)]
            await ticks()
            await scheduler.load(A)
            assert now() == 1.0
            await asyncio.gather(*requests)

    run(main())


def test_cancelling_leaves_the_queue() -> None:
    async def main() -> None:
        world = World(max_loaded_models=1)
        async with world.scheduler as scheduler:
            busy = await scheduler.acquire(A)
            request = asyncio.ensure_future(scheduler.acquire(B))
            explicit = asyncio.ensure_future(scheduler.load(C))
            await ticks()
            assert (world.status("b"), world.status("c")) == (ModelStatus.QUEUED,) * 2
            request.cancel()
            explicit.cancel()
            await asyncio.wait({request, explicit})
            await ticks()
            assert (world.status("b"), world.status("c")) == (ModelStatus.UNLOADED,) * 2
            assert scheduler.waiting == 0
            busy.release()
            await asyncio.sleep(10)
            assert world.launcher.launched == ["a"]

    run(main())


def test_leaving_the_queue_of_a_failed_model_keeps_its_failure() -> None:
    async def main() -> None:
        world = World(max_loaded_models=1)
        world.launcher.failures["a"] = [load_error()]
        async with world.scheduler as scheduler:
            with pytest.raises(ModelLoadError):
                await scheduler.load(A)
            with await scheduler.acquire(B):
                again = asyncio.ensure_future(scheduler.acquire(A))
                await ticks()
                assert world.status("a") is ModelStatus.QUEUED
                again.cancel()
                await asyncio.wait({again})
            assert world.status("a") is ModelStatus.FAILED

    run(main())


@pytest.mark.parametrize("yields", range(6))
def test_a_place_granted_at_the_moment_of_a_cancel_is_given_back(yields: int) -> None:
    async def main() -> None:
        world = World()
        async with world.scheduler as scheduler:
            request = asyncio.ensure_future(scheduler.acquire(A))
            await ticks()
            state = scheduler.state("a")
            assert state is not None
            while state.status is not ModelStatus.LOADED:
                state.changed.clear()
                await state.changed.wait()
            for _ in range(yields):
                await asyncio.sleep(0)
            granted = request.done()
            request.cancel()
            await asyncio.wait({request})
            if granted:
                request.result().release()
            else:
                assert request.cancelled()
            world.assert_at_rest()

    run(main())


def test_a_place_granted_at_the_moment_of_the_queue_timeout_is_given_back() -> None:
    async def main() -> None:
        # The load ends at the time of the request's timeout.
        world = World(launcher=VirtualLauncher(load_seconds=20), queue_timeout=20)
        async with world.scheduler as scheduler:
            results = await asyncio.gather(
                *(scheduler.acquire(A) for _ in range(3)), return_exceptions=True
            )
            for result in results:
                if not isinstance(result, BaseException):
                    result.release()
                else:
                    assert isinstance(result, QueueTimeoutError)
            await ticks()
            world.assert_at_rest()

    run(main())


# Unloading


def test_an_idle_model_is_unloaded_after_its_time() -> None:
    async def main() -> None:
        world = World(model_idle_timeout=300)
        async with world.scheduler:
            await world.use(A, 5)
            ended = now()
            await asyncio.sleep(299)
            assert world.status("a") is ModelStatus.LOADED
            await asyncio.sleep(2)
            assert world.status("a") is ModelStatus.UNLOADED
            assert now() - ended == 301
            assert not world.launcher.alive

    run(main())


def test_zero_means_never_for_all_and_for_one() -> None:
    async def main() -> None:
        never = model("never", idle_timeout=0)
        soon = model("soon", idle_timeout=10)
        world = World(model_idle_timeout=0)
        async with world.scheduler:
            await asyncio.gather(world.use(A), world.use(never), world.use(soon))
            await asyncio.sleep(10**6)
            assert world.scheduler.loaded_ids == ["a", "never"]

    run(main())


def test_a_short_idle_time_is_kept_beside_a_long_one() -> None:
    async def main() -> None:
        short = model("short", idle_timeout=10)
        world = World(model_idle_timeout=1000)
        async with world.scheduler as scheduler:
            lease = await scheduler.acquire(short)
            await scheduler.load(A)
            await asyncio.sleep(100)
            lease.release()
            await asyncio.sleep(11)
            assert scheduler.loaded_ids == ["a"]

    run(main())


def test_a_request_asks_for_another_idle_time_until_the_unload() -> None:
    async def main() -> None:
        world = World(model_idle_timeout=300)
        async with world.scheduler as scheduler:
            for seconds in (5, 0.001, 1000):
                with await scheduler.acquire(A) as lease:
                    lease.keep_loaded(seconds)
                await asyncio.sleep(seconds * 0.9)
                assert scheduler.loaded_ids == ["a"]
                await asyncio.sleep(seconds * 0.2 + 5)
                assert scheduler.loaded_ids == []
            # The last one counts, also if it is longer, and 0 never ends.
            for seconds in (5, 0):
                with await scheduler.acquire(A) as lease:
                    lease.keep_loaded(seconds)
            await asyncio.sleep(10_000)
            assert scheduler.loaded_ids == ["a"]
            await scheduler.unload(A)
            await world.use(A, 5)
            await asyncio.sleep(299)
            assert scheduler.loaded_ids == ["a"]
            await asyncio.sleep(2)
            assert scheduler.loaded_ids == []

    run(main())


def test_a_busy_or_pinned_model_does_not_idle_out() -> None:
    async def main() -> None:
        world = World(model_idle_timeout=10)
        pinned = model("pinned", pinned=True)
        async with world.scheduler as scheduler:
            await asyncio.gather(world.use(pinned), world.use(A))
            scheduler.pin(A, True)
            with await scheduler.acquire(B):
                await asyncio.sleep(1000)
                assert scheduler.loaded_ids == ["pinned", "a", "b"]
            scheduler.pin(A, False)
            await asyncio.sleep(11)
            assert scheduler.loaded_ids == ["pinned"]

    run(main())


def test_changed_settings_of_a_model_apply_at_once() -> None:
    async def main() -> None:
        world = World(model_idle_timeout=1000)
        async with world.scheduler as scheduler:
            await world.use(A)
            scheduler.refresh(model("a", idle_timeout=5))
            await asyncio.sleep(6)
            assert scheduler.loaded_ids == []

    run(main())


def test_eviction_takes_the_longest_idle_and_waits_until_it_is_gone() -> None:
    async def main() -> None:
        world = World(max_loaded_models=2)
        async with world.scheduler as scheduler:
            await world.use(A)
            await world.use(B)
            await asyncio.sleep(1)
            await world.use(A)
            began = now()
            await world.use(C)
            assert scheduler.loaded_ids == ["a", "c"]
            launcher = world.launcher
            assert now() - began == launcher.stop_seconds + launcher.load_seconds
            assert launcher.most_alive == 2

    run(main())


def test_eviction_waits_for_busy_models() -> None:
    async def main() -> None:
        world = World(max_loaded_models=1)
        async with world.scheduler:
            busy = asyncio.ensure_future(world.use(A, 100))
            await asyncio.sleep(2)
            await world.use(B)
            assert busy.done()
            assert now() == 101 + world.launcher.stop_seconds + world.launcher.load_seconds

    run(main())


def test_a_load_is_refused_if_pinned_models_fill_the_limit() -> None:
    async def main() -> None:
        world = World(max_loaded_models=1)
        async with world.scheduler as scheduler:
            await world.use(B)
            scheduler.pin(B, True)
            with pytest.raises(ModelLoadError, match="max_loaded_models is 1, and b cannot"):
                await scheduler.acquire(A)
            assert world.status("a") is ModelStatus.FAILED
            scheduler.pin(B, False)
            await world.use(A)

    run(main())


def test_an_unload_waits_for_requests_and_later_ones_load_again() -> None:
    async def main() -> None:
        world = World()
        async with world.scheduler as scheduler:
            lease = await scheduler.acquire(A)
            unload = asyncio.ensure_future(scheduler.unload(A))
            await asyncio.sleep(5)
            assert not unload.done()
            assert scheduler.try_acquire(A) is None
            late = asyncio.ensure_future(scheduler.acquire(A))
            await asyncio.sleep(5)
            assert world.status("a") is ModelStatus.LOADED
            lease.release()
            await unload
            assert not world.launcher.alive
            (await late).release()
            assert world.launcher.launched == ["a", "a"]
            assert world.statuses_of("a")[3:] == ["unloading", "queued", "loading", "loaded"]
            world.assert_at_rest()

    run(main())


def test_a_forced_unload_ends_running_requests() -> None:
    async def main() -> None:
        world = World(max_concurrent_requests=1)
        async with world.scheduler as scheduler:
            lease = await scheduler.acquire(A)
            waiting = asyncio.ensure_future(scheduler.acquire(A))
            await ticks()
            await scheduler.unload(A, force=True)
            assert lease.server_exited
            assert world.status("a") is ModelStatus.UNLOADED
            with pytest.raises(ModelLoadError, match="by force"):
                await waiting
            lease.release()
            world.assert_at_rest()

    run(main())


def test_a_request_during_an_unload_waits_and_loads_the_model_again() -> None:
    async def main() -> None:
        world = World()
        async with world.scheduler as scheduler:
            await scheduler.load(A)
            unload = asyncio.ensure_future(scheduler.unload(A))
            await ticks()
            assert world.status("a") is ModelStatus.UNLOADING
            await world.use(A)
            await unload
            assert world.launcher.launched == ["a", "a"]

    run(main())


@pytest.mark.parametrize("delay", [None, 0, 0.25, 0.75])
def test_an_unload_cancels_a_load_that_no_request_waits_for(delay: float | None) -> None:
    async def main() -> None:
        world = World()
        async with world.scheduler as scheduler:
            load = scheduler.request_load(A)
            assert load is not None
            if delay is not None:
                await asyncio.sleep(delay)
            await scheduler.unload(A)
            with pytest.raises(ModelLoadError, match="cancelled"):
                await load
            assert world.status("a") is ModelStatus.UNLOADED
            assert not world.launcher.loading
            world.assert_at_rest()
            await world.use(A)
        await world.assert_nothing_left()

    run(main())


def test_unloading_twice_during_a_load_waits_for_the_process_both_times() -> None:
    async def main() -> None:
        world = World(launcher=VirtualLauncher(stop_seconds=5))
        async with world.scheduler as scheduler:
            scheduler.request_load(A)
            await asyncio.sleep(0.5)
            first = asyncio.ensure_future(scheduler.unload(A))
            await ticks()
            # A request that arrives now waits for the end of the process, and loads it again.
            request = asyncio.ensure_future(scheduler.acquire(A))
            await asyncio.sleep(1)
            await scheduler.unload(A)
            assert now() == 5.5
            await first
            (await request).release()
            assert world.launcher.launched == ["a", "a"]

    run(main())


def test_a_load_that_ends_well_although_it_was_cancelled_leaves_no_server() -> None:
    async def main() -> None:
        world = World()
        world.launcher.swallows_cancel = True
        async with world.scheduler as scheduler:
            scheduler.request_load(A)
            await asyncio.sleep(0.5)
            await scheduler.unload(A)
            assert not world.launcher.alive
            assert world.status("a") is ModelStatus.UNLOADED

    run(main())


def test_a_load_that_fails_because_it_was_cancelled_is_no_failure() -> None:
    async def main() -> None:
        world = World()
        world.launcher.fails_on_cancel = True
        async with world.scheduler as scheduler:
            scheduler.request_load(A)
            await asyncio.sleep(0.5)
            await scheduler.unload(A)
            state = scheduler.state("a")
            assert state is not None
            assert (state.status, state.failure) == (ModelStatus.UNLOADED, None)
            await world.use(A)

    run(main())


def test_an_unload_waits_for_the_requests_in_the_queue_of_a_load() -> None:
    async def main() -> None:
        world = World()
        async with world.scheduler as scheduler:
            request = asyncio.ensure_future(world.use(A, 10))
            await asyncio.sleep(0.5)
            await scheduler.unload(A)
            assert request.done()
            assert world.launcher.launched == ["a"]
            assert world.status("a") is ModelStatus.UNLOADED

    run(main())


def test_an_unload_cancels_a_load_when_its_last_request_gives_up() -> None:
    async def main() -> None:
        world = World(launcher=VirtualLauncher(load_seconds=50))
        async with world.scheduler as scheduler:
            request = asyncio.ensure_future(scheduler.acquire(A))
            await asyncio.sleep(0.5)
            unload = asyncio.ensure_future(scheduler.unload(A))
            await ticks()
            request.cancel()
            await unload
            assert now() == 0.5 + world.launcher.stop_seconds
            assert world.status("a") is ModelStatus.UNLOADED
            world.assert_at_rest()

    run(main())


def test_a_forced_unload_fails_the_queue_of_a_load() -> None:
    async def main() -> None:
        world = World(max_loaded_models=1)
        async with world.scheduler as scheduler:
            loading = asyncio.ensure_future(scheduler.acquire(A))
            queued = asyncio.ensure_future(scheduler.acquire(B))
            await asyncio.sleep(0.5)
            await scheduler.unload(B, force=True)
            assert world.status("b") is ModelStatus.UNLOADED
            await scheduler.unload(A, force=True)
            results = await asyncio.gather(loading, queued, return_exceptions=True)
            assert all(isinstance(result, ModelLoadError) for result in results)
            world.assert_at_rest()

    run(main())


def test_unloading_a_model_that_is_not_loaded_returns_at_once() -> None:
    async def main() -> None:
        world = World()
        async with world.scheduler as scheduler:
            await scheduler.unload(A)
            await scheduler.unload(A, force=True)
            assert world.status("a") is ModelStatus.UNLOADED
            assert now() == 0

    run(main())


# Crashes


def test_a_crash_is_a_failure_with_its_reason_at_once_and_the_next_request_loads_again() -> None:
    async def main() -> None:
        world = World()
        async with world.scheduler as scheduler:
            lease = await scheduler.acquire(A)
            server = world.server("a")
            server.end(1)
            await ticks(2)
            state = scheduler.state("a")
            assert state is not None
            assert state.status is ModelStatus.FAILED
            assert isinstance(state.failure, ModelLoadError)
            assert state.failure.message == "a stopped: its server exited with code 1."
            assert state.failure.log_tail == ("last words",)
            assert lease.server_exited
            assert lease.exit_reason() == "its server exited with code 1"
            lease.release()
            await world.use(A)
            assert world.launcher.launched == ["a", "a"]
            world.assert_at_rest()

    run(main())


def test_backoff_grows_while_a_server_keeps_dying_and_is_forgotten_after_a_stable_run() -> None:
    async def main() -> None:
        world = World()
        async with world.scheduler as scheduler:

            async def crash_after(seconds: float) -> float:
                """Load, crash, and return the seconds until the next try is allowed."""
                await scheduler.load(A)
                await asyncio.sleep(seconds)
                world.server("a").end(1)
                await ticks()
                state = scheduler.state("a")
                assert state is not None
                return max(0.0, state.failures.retry_at - now())

            assert [await crash_after(1) for _ in range(5)] == [0, 1, 2, 4, 8]
            assert await crash_after(60) == 0
            assert await crash_after(1) == 1

    run(main())


def test_a_request_that_kills_two_servers_delays_nobody_else() -> None:
    async def main() -> None:
        world = World()
        async with world.scheduler as scheduler:

            async def crash(*, again: bool, answers: bool = False) -> float:
                """Let a server die with a request, and return the seconds until the next try."""
                if answers:
                    with await scheduler.acquire(A) as fine:
                        fine.answered()
                with await scheduler.acquire(A) as lease:
                    if again:
                        lease.mark_retry()
                    world.server("a").end(1)
                    await ticks()
                state = scheduler.state("a")
                assert state is not None
                return max(0.0, state.failures.retry_at - now())

            for _ in range(3):
                # It worked before this request, and again after it.
                assert await crash(again=False, answers=True) == 0
                assert await crash(again=True) == 0
            # A server that never answers anything is not excused.
            assert await crash(again=True) == 1
            await asyncio.sleep(1)
            assert await crash(again=False) == 2

    run(main())


def test_a_queue_is_served_by_the_next_server_unless_it_keeps_dying() -> None:
    async def main() -> None:
        world = World(max_concurrent_requests=1)
        async with world.scheduler as scheduler:
            first = await scheduler.acquire(A)
            second = asyncio.ensure_future(scheduler.acquire(A))
            await ticks()
            world.server("a").end(1)
            first.release()
            lease = await second
            assert not lease.server_exited
            third = asyncio.ensure_future(scheduler.acquire(A))
            await ticks()
            world.server("a").end(1)
            lease.release()
            with pytest.raises(ModelLoadError, match="next try is possible in 1 s"):
                await third
            world.assert_at_rest()

    run(main())


@pytest.mark.parametrize("yields", range(4))
def test_a_server_that_dies_when_it_is_ready_leaks_no_place(yields: int) -> None:
    async def main() -> None:
        world = World()
        async with world.scheduler as scheduler:
            request = asyncio.ensure_future(scheduler.acquire(A))
            await ticks()
            state = scheduler.state("a")
            assert state is not None
            while not world.launcher.alive:
                state.changed.clear()
                await state.changed.wait()
            for _ in range(yields):
                await asyncio.sleep(0)
            world.server("a").end(1)
            try:
                lease = await request
            except ModelLoadError as error:
                assert "exited with code 1" in error.message
            else:
                lease.release()
            await ticks()
            # Either it got the error, or it was not admitted yet and got the next server.
            again = world.launcher.launched == ["a", "a"]
            assert world.status("a") is (ModelStatus.LOADED if again else ModelStatus.FAILED)
            world.assert_at_rest()

    run(main())


def test_a_crash_ends_an_unload_that_waits() -> None:
    async def main() -> None:
        world = World()
        async with world.scheduler as scheduler:
            lease = await scheduler.acquire(A)
            unload = asyncio.ensure_future(scheduler.unload(A))
            await ticks()
            world.server("a").end(1)
            await unload
            lease.release()
            await world.use(A)

    run(main())


# The end


def test_shutdown_fails_the_queues_and_drains_requests_in_flight() -> None:
    async def main() -> None:
        world = World(max_loaded_models=1)
        async with world.scheduler as scheduler:
            running = asyncio.ensure_future(world.use(A, 10))
            await asyncio.sleep(2)
            waiting = [
                asyncio.ensure_future(scheduler.acquire(B)),
                asyncio.ensure_future(scheduler.load(C)),
            ]
            await ticks()
            scheduler.begin_shutdown()
            for refused in await asyncio.gather(*waiting, return_exceptions=True):
                assert isinstance(refused, ShuttingDownError)
            assert world.status("b") is ModelStatus.UNLOADED
            with pytest.raises(ShuttingDownError):
                await scheduler.acquire(A)
            with pytest.raises(ShuttingDownError):
                scheduler.request_load(B)
            assert not await scheduler.drain(5)
            assert await scheduler.drain(30)
            assert running.done()
            assert now() == 11
        await world.assert_nothing_left()

    run(main())


def test_drain_returns_at_once_when_nothing_runs() -> None:
    async def main() -> None:
        world = World()
        async with world.scheduler as scheduler:
            assert await scheduler.drain(10)
            assert now() == 0

    run(main())


@pytest.mark.parametrize("moment", [None, 0, 0.25, 1.0, 1.25, 3.0])
def test_close_leaves_no_process_and_no_task_at_any_moment(moment: float | None) -> None:
    async def main() -> None:
        world = World(max_loaded_models=1)
        requests = [
            asyncio.ensure_future(world.use(A, 1)),
            asyncio.ensure_future(world.use(B, 10)),
        ]
        await asyncio.sleep(0)
        if moment is not None:
            await asyncio.sleep(moment)
        await world.scheduler.close()
        await asyncio.gather(*requests, return_exceptions=True)
        await world.assert_nothing_left()
        assert world.status("a") in {ModelStatus.UNLOADED, ModelStatus.FAILED}

    run(main())


def test_close_ends_an_unload_that_waits_for_requests() -> None:
    async def main() -> None:
        world = World()
        lease = await world.scheduler.acquire(A)
        unload = asyncio.ensure_future(world.scheduler.unload(A))
        await ticks()
        await world.scheduler.close()
        await unload
        lease.release()
        await world.assert_nothing_left()

    run(main())


def test_a_stuck_schedule_would_be_noticed_by_these_tests() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(NothingCanHappenError):
        run(main())
