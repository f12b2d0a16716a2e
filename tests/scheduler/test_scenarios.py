"""Long scenarios in virtual time: memory, the order of models, retries, settings and reports."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cyber_inference_tui.errors import InsufficientMemoryError, ModelLoadError, QueueFullError
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.llama.needs import Footprint, Need, NeedSource
from cyber_inference_tui.llama.spec import ServerSpec
from cyber_inference_tui.monitor.memory_reading import MemoryReading
from cyber_inference_tui.records import ModelStatus
from cyber_inference_tui.scheduler.memory_tracker import RETURN_PATIENCE
from cyber_inference_tui.scheduler.state import Waiter
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
A, B, C = model("a"), model("b"), model("c")


def need(size: float) -> Need:
    return Need(footprint=Footprint(host=int(size * GB)), source=NeedSource.FORMULA)


def make_world(
    total: float = 16,
    sizes: dict[str, Need] | None = None,
    *,
    launcher: dict[str, Any] | None = None,
    back_seconds: float = 0.0,
    **settings: Any,
) -> World:
    machine = VirtualMachine(int(total * GB), back_seconds=back_seconds)
    sizes = sizes or {"a": need(9), "b": need(9), "c": need(2)}
    return World(
        launcher=VirtualLauncher(**{"machine": machine, "needs": sizes, **(launcher or {})}),
        model_idle_timeout=0,
        **settings,
    )


def machine_of(world: World) -> VirtualMachine:
    assert world.launcher.machine is not None
    return world.launcher.machine


def test_a_model_that_does_not_fit_replaces_an_idle_one() -> None:
    async def main() -> None:
        world = make_world()
        async with world.scheduler:
            await world.use(A)
            await world.use(C)
            assert world.scheduler.loaded_ids == ["a", "c"]
            await asyncio.sleep(10)
            await world.use(B)
            # c was idle for as long, but is too small to be enough.
            assert set(world.scheduler.loaded_ids) == {"b", "c"}
            assert [session.unload_reason for session in world.sessions] == [
                "room for another model"
            ]

    run(main())


def test_mapped_weights_count_although_the_kernel_calls_them_available() -> None:
    async def main() -> None:
        mapped = Need(footprint=Footprint(mapped=9 * GB, host=GB // 10), source=NeedSource.FORMULA)
        world = make_world(sizes={"a": mapped, "b": mapped})
        async with world.scheduler:
            await world.use(A)
            assert machine_of(world).used() < GB
            await asyncio.sleep(5)
            await world.use(B)
            assert world.scheduler.loaded_ids == ["b"]

    run(main())


def test_a_running_answer_ends_before_its_model_is_evicted() -> None:
    """A stream of 4 s at a, an idle timeout of 1 s, and a request for b; only one model fits."""

    async def main() -> None:
        world = make_world()
        world.settings = msgspec.structs.replace(world.settings, model_idle_timeout=1)
        world.scheduler.configure(world.settings)
        async with world.scheduler:
            await world.use(A)
            stream = asyncio.ensure_future(world.use(A, 4))
            await asyncio.sleep(0.5)
            ended = []
            stream.add_done_callback(lambda _: ended.append(("a", now())))
            await world.use(B)
            ended.append(("b", now()))
            assert [name for name, _ in ended] == ["a", "b"]

    run(main())


def test_a_model_that_never_fits_is_refused_at_once_with_the_numbers() -> None:
    async def main() -> None:
        world = make_world(sizes={"a": need(5), "b": need(10)})
        async with world.scheduler as scheduler:
            await world.use(A)
            scheduler.pin(A, True)
            machine_of(world).others = 2 * GB
            await asyncio.sleep(5)
            began = now()
            with pytest.raises(InsufficientMemoryError) as refused:
                await scheduler.acquire(B)
            assert now() == began
            text = str(refused.value)
            # 80 % of 16 GB may be used: 12.8 GB, less 5 (a) and 2 (others).
            assert "b needs 9.31 GiB, and at best 5.40 GiB can be free" in text
            assert "a (pinned) holds 4.66 GiB" in text
            assert "other programs hold 1.86 GiB" in text
            assert world.status("b") is ModelStatus.FAILED
            # There is no backoff: the next request is served as soon as the model fits.
            scheduler.pin(A, False)
            await world.use(B)

    run(main())


def test_memory_that_is_freed_late_is_awaited() -> None:
    async def main() -> None:
        world = make_world(back_seconds=3.0)
        async with world.scheduler:
            await world.use(A)
            await asyncio.sleep(5)
            began = now()
            await world.use(B)
            stop, load = world.launcher.stop_seconds, world.launcher.load_seconds
            assert now() - began == pytest.approx(stop + 3.0 + load, abs=0.2)

    run(main())


def test_memory_that_is_never_freed_is_logged_and_not_awaited_for_ever(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        world = make_world(back_seconds=1000.0)
        async with world.scheduler as scheduler:
            await world.use(C)
            await world.use(A)
            await asyncio.sleep(5)
            began = now()
            with pytest.raises(InsufficientMemoryError):
                await scheduler.acquire(B)
            # First a was evicted and its memory awaited; then nothing was enough.
            assert now() - began == pytest.approx(
                world.launcher.stop_seconds + RETURN_PATIENCE, abs=0.2
            )
            assert scheduler.loaded_ids == ["c"]

    run(main())
    assert "was not seen to be back after 5 s" in caplog.text


def test_memory_that_other_programs_took_is_awaited_once() -> None:
    async def main() -> None:
        world = make_world(total=40, max_loaded_models=1)
        stop, load = world.launcher.stop_seconds, world.launcher.load_seconds

        async def take() -> None:
            await asyncio.sleep(stop / 2)
            machine_of(world).others += 3 * GB

        async with world.scheduler:
            await world.use(A)
            await asyncio.gather(world.use(B), take())
            seconds = []
            for model in (A, B, A):
                began = now()
                await world.use(model)
                seconds.append(now() - began)
        # The end of B was right after that: its successor waits for the rest of the time.
        longest = pytest.approx(stop + RETURN_PATIENCE, abs=0.2)
        swap = pytest.approx(stop + load, abs=0.3)
        assert seconds == [longest, swap, swap]

    run(main())


def test_memory_that_is_not_needed_is_not_awaited() -> None:
    async def main() -> None:
        world = make_world(total=40, back_seconds=1000.0, max_loaded_models=1)
        async with world.scheduler:
            await world.use(A)
            await asyncio.sleep(5)
            began = now()
            await world.use(B)
            stop, load = world.launcher.stop_seconds, world.launcher.load_seconds
            assert now() - began == pytest.approx(stop + load)

    run(main())


def test_a_model_may_be_unloaded_before_the_memory_was_read() -> None:
    """The last reading is from before its load; the freed memory is not counted twice."""

    async def main() -> None:
        world = make_world()
        async with world.scheduler as scheduler:
            await world.use(A)
            await scheduler.unload(A)
            began = now()
            await world.use(A)
            assert now() - began == pytest.approx(world.launcher.load_seconds)

    run(main())


def test_idle_models_are_unloaded_when_other_programs_need_the_memory() -> None:
    async def main() -> None:
        world = make_world(sizes={"a": need(4), "b": need(4), "c": need(2)})
        async with world.scheduler as scheduler:
            for one in (A, B, C):
                await world.use(one)
            scheduler.pin(C, True)
            busy = await scheduler.acquire(A)
            machine_of(world).others = int(5.8 * GB)
            await asyncio.sleep(10)
            # b was the only model that could be unloaded.
            assert scheduler.loaded_ids == ["a", "c"]
            assert world.sessions[-1].unload_reason == "other programs need the memory"
            machine_of(world).others = int(9.8 * GB)
            await asyncio.sleep(10)
            assert scheduler.loaded_ids == ["a", "c"]
            busy.release()
            await asyncio.sleep(10)
            assert scheduler.loaded_ids == ["c"]

    run(main())


def test_after_running_out_of_memory_others_are_evicted_for_a_retry() -> None:
    async def main() -> None:
        # It uses far more than expected.
        launcher = {"real": {"b": Footprint(host=12 * GB)}}
        world = make_world(sizes={"a": need(9), "b": need(1)}, launcher=launcher)
        async with world.scheduler as scheduler:
            await world.use(A)
            await world.use(B)
            assert world.launcher.launched == ["a", "b", "b"]
            assert scheduler.loaded_ids == ["b"]
            assert world.sessions[0].model == "a"
            # Its next load needs no eviction.
            world.launcher.real.clear()
            await scheduler.unload(B)
            await world.use(A)
            await world.use(B)
            assert scheduler.loaded_ids == ["a", "b"]

    run(main())


def test_a_runaway_load_is_ended_without_a_retry() -> None:
    async def main() -> None:
        world = make_world(sizes={"a": need(6), "b": need(2)})
        # 12.8 GB may be used: 7 GB are too much beside the 6 GB of a.
        world.launcher.grows["b"] = [GB, 2 * GB, 3 * GB, 7 * GB, 9 * GB]
        async with world.scheduler as scheduler:
            await world.use(A)
            with pytest.raises(ModelLoadError) as error:
                await scheduler.acquire(B)
            assert (
                "b was stopped while it loaded: its server had taken 6.52 GiB of memory where"
                " 1.86 GiB were expected, and 81 % of 14.9 GiB was in use"
                " (max_memory_percent is 80)."
            ) in str(error.value)
            assert world.launcher.launched == ["a", "b"]
            assert world.statuses_of("b")[-2:] == ["loading", "failed"]
            assert scheduler.loaded_ids == ["a"]
            assert machine_of(world).used() == 6 * GB
            # Later loads work as before.
            world.launcher.grows.clear()
            await asyncio.sleep(60)
            await world.use(B)
            assert scheduler.loaded_ids == ["a", "b"]

    run(main())


def test_a_load_is_not_ended_because_of_other_programs() -> None:
    async def main() -> None:
        world = make_world(sizes={"a": need(6)})
        world.launcher.grows["a"] = [2 * GB, 4 * GB, 6 * GB]
        async with world.scheduler as scheduler:
            load = asyncio.ensure_future(world.use(A))
            await ticks()
            machine_of(world).others = 9 * GB
            await load
            assert scheduler.loaded_ids == ["a"]

    run(main())


def test_a_load_with_an_excess_is_not_retried_when_memory_runs_out() -> None:
    async def main() -> None:
        world = make_world(sizes={"a": need(6), "b": need(1)})
        world.launcher.grows["b"] = [2 * GB]
        out_of_memory = ModelLoadError("b: killed", out_of_memory=True)
        world.launcher.failures["b"] = [out_of_memory]
        async with world.scheduler as scheduler:
            await world.use(A)
            with pytest.raises(ModelLoadError, match="killed"):
                await scheduler.acquire(B)
            assert world.launcher.launched == ["a", "b"]
            assert scheduler.loaded_ids == ["a"]

    run(main())


def test_running_out_of_memory_alone_is_a_failure_unless_less_context_is_allowed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        real = {"real": {"a": Footprint(host=20 * GB)}}
        world = make_world(sizes={"a": need(1)}, launcher=real)
        async with world.scheduler as scheduler:
            with pytest.raises(ModelLoadError, match="out of memory") as error:
                await scheduler.acquire(A)
            assert error.value.permanent
            assert world.launcher.launched == ["a"]
        world = make_world(sizes={"a": need(1)}, launcher=real, allow_smaller_context=True)
        async with world.scheduler as scheduler:
            with pytest.raises(ModelLoadError, match="out of memory"):
                await scheduler.acquire(A)
            assert world.launcher.contexts == [None, 4096]

    run(main())
    assert "tried once more with 4,096 tokens of context" in caplog.text


def test_a_model_gets_a_smaller_context_if_the_settings_allow_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        sizes = {"a": need(30)}
        context: dict[str, Any] = {"default_context_size": 16384}
        world = make_world(sizes=sizes, allow_smaller_context=True, **context)
        async with world.scheduler:
            await world.use(A)
            assert world.launcher.contexts == [4096]
        world = make_world(sizes={"a": need(300)}, allow_smaller_context=True, **context)
        async with world.scheduler as scheduler:
            with pytest.raises(InsufficientMemoryError):
                await scheduler.acquire(A)
        world = make_world(sizes=sizes, **context)
        async with world.scheduler as scheduler:
            with pytest.raises(InsufficientMemoryError):
                await scheduler.acquire(A)

    run(main())
    assert "it is tried with 4096 tokens of context" in caplog.text


SEES = msgspec.structs.replace(A, mmproj=Path("mmproj.gguf"))


def test_a_projector_stays_in_main_memory_before_a_vision_model_is_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        large = Need(footprint=Footprint(device=8 * GB), source=NeedSource.FORMULA)
        sizes = {"a": msgspec.structs.replace(large, projector=2 * GB)}
        cards = {"machine": VirtualMachine(20 * GB, cards=(8 * GB,))}
        world = make_world(sizes=sizes, launcher=cards)
        async with world.scheduler:
            await world.use(SEES)
            assert world.launcher.kept_back == [True]
            state = world.scheduler.state("a")
            assert state is not None
            assert state.spec.arguments == ("--no-mmproj-offload",)
            assert state.restart_reason(SEES, state.next_spec) is None
        cards = {"machine": VirtualMachine(20 * GB, cards=(8 * GB,))}
        world = make_world(sizes={"a": large}, launcher=cards)
        async with world.scheduler as scheduler:
            with pytest.raises(InsufficientMemoryError):
                await scheduler.acquire(A)

    run(main())
    assert "it is tried with its projector in main memory" in caplog.text


def test_a_vision_model_that_runs_out_of_shared_memory_is_tried_without_its_projector(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        footprint = Footprint(device=2 * GB)
        sizes = {"a": Need(footprint=footprint, source=NeedSource.FORMULA, projector=GB)}
        world = make_world(sizes=sizes)
        short = ModelLoadError("NvMap error 12", out_of_memory=True)
        world.launcher.failures["a"] = [short]
        async with world.scheduler as scheduler:
            await world.use(SEES)
            assert world.launcher.kept_back == [False, True]
            world.launcher.failures["a"] = [short, short]
            await scheduler.unload(SEES)
            with pytest.raises(ModelLoadError, match="NvMap"):
                await scheduler.acquire(SEES)
            assert world.launcher.kept_back == [False, True, False, True]

    run(main())
    assert "tried once more with its projector in main memory" in caplog.text


def test_models_are_preloaded_into_free_memory_and_evict_nobody() -> None:
    async def main() -> None:
        world = make_world(sizes={"a": need(9), "b": need(9), "c": need(2)})
        async with world.scheduler as scheduler:
            for one in (A, B, C):
                scheduler.request_load(one, reason="preload")
            await asyncio.sleep(10)
            assert scheduler.loaded_ids == ["a", "c"]
            assert world.status("b") is ModelStatus.UNLOADED
            # A request still loads it.
            await world.use(B)
            assert set(scheduler.loaded_ids) == {"b", "c"}

    run(main())


class SlowEstimates(VirtualLauncher):
    """A launcher whose estimates take a second; any argument of the user makes a model large."""

    async def need(self, spec: ServerSpec, *, ask_engine: bool = True) -> Need:
        await asyncio.sleep(1)
        return need(30 if spec.arguments else 5)


def test_an_estimate_that_a_change_of_settings_overtakes_is_repeated() -> None:
    async def main() -> None:
        world = World(launcher=SlowEstimates(machine=VirtualMachine(16 * GB)))
        async with world.scheduler as scheduler:
            request = asyncio.ensure_future(scheduler.acquire(A))
            await asyncio.sleep(0.5)
            scheduler.configure(msgspec.structs.replace(world.settings, llama_args=("--mlock",)))
            with pytest.raises(InsufficientMemoryError):
                await request
            assert now() == 2.0
            assert world.launcher.launched == []

    run(main())


def test_the_end_waits_for_no_estimate() -> None:
    async def main() -> None:
        world = World(launcher=SlowEstimates(machine=VirtualMachine(16 * GB)))
        async with world.scheduler as scheduler:
            scheduler.request_load(A)
            await asyncio.sleep(0.5)
        assert now() == 0.5
        await world.assert_nothing_left()

    run(main())


@pytest.mark.parametrize(("delays", "seconds"), [([], 1.0), ([0.0, 3.0], 3.0)])
def test_a_server_that_does_not_report_its_memory_is_measured(
    delays: list[float], seconds: float
) -> None:
    """A reading that began before its load and ends after it does not count."""

    async def main() -> None:
        machine = VirtualMachine(16 * GB)
        read = machine.read

        async def slow(pids: Collection[int]) -> MemoryReading | None:
            delay = delays.pop(0) if delays else 0.0
            reading = await read(pids)
            await asyncio.sleep(delay)
            return reading

        machine.read = slow  # type: ignore[method-assign]
        launcher = VirtualLauncher(machine=machine, real={"a": Footprint(host=5 * GB)})
        launcher.silent = {"a"}
        world = World(launcher=launcher)
        async with world.scheduler as scheduler:
            # Nothing else causes a reading.
            scheduler.pin(A, True)
            await scheduler.refresh_memory()
            load = asyncio.ensure_future(scheduler.load(A))
            await asyncio.gather(load, scheduler.refresh_memory())
            assert now() == seconds
            await ticks()
            state = scheduler.state("a")
            assert state is not None
            assert state.footprint == Footprint(host=5 * GB)
            assert state.freed_on_unload.host == 5 * GB

    run(main())


# Turns


async def _client(world: World, models: list[LocalModel], count: int, waits: list[float]) -> None:
    for number in range(count):
        began = now()
        with await world.scheduler.acquire(models[number % len(models)]):
            waits.append(now() - began)
            await asyncio.sleep(0.3)


@pytest.mark.parametrize("start", ["together", "one by one", "half and half"])
def test_eight_clients_that_alternate_between_two_models(start: str) -> None:
    """40 requests, two models that exclude each other: few loads, and everybody is answered."""

    async def main() -> None:
        world = make_world(max_concurrent_requests=4)
        waits: list[float] = []
        clients = []
        async with world.scheduler:
            for number in range(8):
                models = [A, B] if start != "half and half" or number % 2 else [B, A]
                clients.append(asyncio.ensure_future(_client(world, models, 5, waits)))
                if start == "one by one":
                    await asyncio.sleep(0.7)
            await asyncio.gather(*clients)
        assert len(waits) == 40
        assert len(world.launcher.launched) <= 12
        # Two changes of models, and the requests of the other model with four places.
        assert max(waits) <= 2 * (0.5 + 1.0) + (8 + 8) / 4 * 0.3 + 5

    run(main())


def test_two_clients_each_with_its_own_model_do_not_change_it_for_every_request() -> None:
    async def main() -> None:
        world = make_world(launcher={"load_seconds": 4.0})
        waits: list[float] = []
        async with world.scheduler:
            await asyncio.gather(_client(world, [A], 40, waits), _client(world, [B], 40, waits))
        # Without the pause for the next request of the same client it would be 80.
        assert len(world.launcher.launched) <= 14

    run(main())


def test_a_turn_is_not_cut_short_because_others_waited_before() -> None:
    """A model whose queue is never empty does not keep the count of its former turns."""

    async def main() -> None:
        world = World(max_loaded_models=1, max_concurrent_requests=2)

        async def ask(one: LocalModel) -> None:
            for _ in range(100):
                with await world.scheduler.acquire(one):
                    await asyncio.sleep(0.1)

        async with world.scheduler:
            await asyncio.gather(*[ask(one) for one in (A, B) for _ in range(4)])
        # In each turn the four that wait, and at least the eight that may overtake.
        assert len(world.launcher.launched) <= 800 / 10

    run(main())


@pytest.mark.parametrize("max_overtake", [0, 1, 5])
def test_a_request_waits_behind_at_most_max_overtake_later_ones(max_overtake: int) -> None:
    async def main() -> None:
        world = make_world(max_overtake=max_overtake, max_concurrent_requests=2)
        order: list[str] = []

        async def ask(one: LocalModel, name: str) -> None:
            with await world.scheduler.acquire(one):
                order.append(name)
                await asyncio.sleep(0.4)

        async with world.scheduler:
            await world.use(A)
            asked = [asyncio.ensure_future(ask(A, "early")) for _ in range(4)]
            await asyncio.sleep(0.01)
            asked.append(asyncio.ensure_future(ask(B, "b")))
            await asyncio.sleep(0.01)
            asked += [asyncio.ensure_future(ask(A, "late")) for _ in range(20)]
            await asyncio.gather(*asked)
        assert order[: order.index("b")] == ["early"] * 4 + ["late"] * max_overtake

    run(main())


def test_positions_and_expected_waits_are_known() -> None:
    async def main() -> None:
        world = make_world(max_concurrent_requests=1, max_queue=3)
        async with world.scheduler as scheduler:
            await world.use(B, 1)
            await scheduler.unload(B)
            await world.use(A, 2)
            busy = asyncio.ensure_future(world.use(A, 10))
            await ticks()
            waiters: list[Waiter] = []
            waiting = [
                asyncio.ensure_future(scheduler.acquire(B, on_wait=waiters.append))
                for _ in range(2)
            ]
            await ticks()
            assert [record.position for record in scheduler.waits.records()] == [1, 2]
            assert {record.model for record in scheduler.waits.records()} == {"b"}
            # The request of a, as long as the last one, the load of b, and its first request.
            assert [record.expected_wait_seconds for record in scheduler.waits.records()] == [
                3.0,
                4.0,
            ]
            outlook = scheduler.waits.estimate("b", waiters[1])
            assert outlook is not None
            assert outlook.in_words("b") == "queued b, 2 of 2, about 4 s"
            third = asyncio.ensure_future(scheduler.acquire(B))
            await ticks()
            with pytest.raises(QueueFullError) as full:
                await scheduler.acquire(B)
            assert full.value.retry_after == 6.0
            third.cancel()
            await busy
            (await waiting[0]).release()
            assert scheduler.waits.estimate("b", waiters[0]) is None
            (await waiting[1]).release()

    run(main())


def test_the_rest_of_a_load_under_way_is_known() -> None:
    async def main() -> None:
        world = make_world(launcher={"load_seconds": 10.0})
        async with world.scheduler as scheduler:
            waiters: list[Waiter] = []
            waiting = asyncio.ensure_future(scheduler.acquire(A, on_wait=waiters.append))
            await asyncio.sleep(4)
            outlook = scheduler.waits.estimate("a", waiters[0])
            assert outlook is not None
            # The duration of its load is unknown.
            assert outlook.in_words("a") == "loading a"
            await asyncio.sleep(2)
            outlook = scheduler.waits.estimate("a", waiters[0])
            assert outlook is not None
            assert outlook.in_words("a") == "loading a 50%, about 6 s left"
            (await waiting).release()

    run(main())


# Settings


def test_only_models_with_another_command_line_restart_after_their_requests() -> None:
    async def main() -> None:
        world = make_world(sizes={"a": need(1), "b": need(1)})
        async with world.scheduler as scheduler:
            await world.use(B)
            stream = asyncio.ensure_future(world.use(A, 20))
            await asyncio.sleep(2)
            first, other = world.server("a").pid, world.server("b").pid
            changed = model("a", args=("--temp", "0"))
            scheduler.refresh(changed)
            await asyncio.sleep(5)
            assert not stream.done()
            assert world.server("a").pid == first
            late = asyncio.ensure_future(world.use(changed))
            await stream
            await late
            assert world.server("a").pid != first
            assert world.server("b").pid == other
            assert world.sessions[-1].unload_reason == "its settings changed"

    run(main())


def test_a_model_whose_file_was_replaced_restarts_after_its_requests() -> None:
    async def main() -> None:
        world = make_world(sizes={"a": need(1)})
        before, after = (msgspec.structs.replace(A, modified=time) for time in (1, 2))
        async with world.scheduler as scheduler:
            stream = asyncio.ensure_future(world.use(before, 20))
            await asyncio.sleep(2)
            first = world.server("a").pid
            scheduler.refresh(before)
            scheduler.refresh(after)
            await asyncio.sleep(5)
            assert not stream.done()
            assert world.server("a").pid == first
            await stream
            await world.use(after)
            assert world.server("a").pid != first
            assert world.sessions[-1].unload_reason == "its files changed"
            scheduler.refresh(after)
            await asyncio.sleep(5)
            assert world.launcher.launched == ["a", "a"]

    run(main())


def test_a_failed_model_is_tried_again_after_a_change() -> None:
    async def main() -> None:
        world = make_world(sizes={"a": need(1), "b": need(1)})
        async with world.scheduler as scheduler:
            changes: list[Callable[[], None]] = [
                lambda: scheduler.refresh(model("a", args=("--mlock",))),
                lambda: scheduler.configure(
                    msgspec.structs.replace(world.settings, max_memory_percent=70)
                ),
                scheduler.binary_changed,
            ]
            for change in changes:
                world.launcher.failures["a"] = [ModelLoadError("No.") for _ in range(3)]
                for _ in range(3):
                    with pytest.raises(ModelLoadError):
                        await scheduler.load(A)
                with pytest.raises(ModelLoadError, match="next try is possible"):
                    await world.use(A)
                change()
                assert world.status("a") is ModelStatus.UNLOADED
                await world.use(A)
                await scheduler.unload(A)

    run(main())


def test_an_idle_model_is_restarted_and_stays_loaded() -> None:
    async def main() -> None:
        world = make_world(sizes={"a": need(1), "b": need(1)})
        async with world.scheduler as scheduler:
            await world.use(A)
            first = world.server("a").pid
            scheduler.refresh(model("a", request_defaults={"temperature": 0.1}, idle_timeout=7))
            await asyncio.sleep(3)
            assert world.server("a").pid == first
            world.settings = msgspec.structs.replace(world.settings, llama_args=("--mlock",))
            scheduler.configure(world.settings)
            await asyncio.sleep(3)
            assert world.server("a").pid != first
            assert scheduler.sessions()[0].load_reason == "restart"

    run(main())


def test_prompts_are_kept_only_for_a_server_that_is_started_in_the_same_way() -> None:
    async def main() -> None:
        world = make_world(sizes={"a": need(1)})
        changed, replaced = model("a", args=("--mlock",)), msgspec.structs.replace(A, modified=2)
        async with world.scheduler as scheduler:
            for after, is_kept in ((A, True), (changed, False), (replaced, False)):
                scheduler.refresh(A)
                await world.use(A)
                server = world.server("a")
                if after is not A:
                    scheduler.refresh(after)
                await scheduler.unload(A)
                assert server.keeps_prompts is is_kept

    run(main())


def test_a_server_that_dies_before_its_restart_is_not_loaded_again_after_the_next_unload() -> None:
    async def main() -> None:
        world = make_world(sizes={"a": need(1)})
        changed = model("a", args=("--mlock",), idle_timeout=5)
        async with world.scheduler as scheduler:
            lease = await scheduler.acquire(A)
            scheduler.refresh(changed)
            world.server("a").end(1)
            await ticks()
            lease.release()
            await world.use(changed)
            await asyncio.sleep(20)
            assert world.launcher.launched == ["a", "a"]
            assert world.status("a") is ModelStatus.UNLOADED

    run(main())


def test_a_change_during_a_load_restarts_the_model_after_it() -> None:
    async def main() -> None:
        world = make_world(sizes={"a": need(1)})
        async with world.scheduler as scheduler:
            asking = asyncio.ensure_future(world.use(A))
            await asyncio.sleep(0.5)
            scheduler.refresh(model("a", args=("--mlock",)))
            await asking
            await asyncio.sleep(5)
            assert world.launcher.launched == ["a", "a"]
            assert world.status("a") is ModelStatus.LOADED

    run(main())


def test_a_model_whose_files_are_gone_is_unloaded_after_its_requests() -> None:
    async def main() -> None:
        world = make_world(sizes={"a": need(1)})
        async with world.scheduler as scheduler:
            lease = await scheduler.acquire(A)
            scheduler.remove("a")
            await asyncio.sleep(5)
            assert world.status("a") is ModelStatus.LOADED
            lease.release()
            await asyncio.sleep(1)
            assert world.status("a") is ModelStatus.UNLOADED
            assert world.sessions[-1].unload_reason == "its files are gone"

    run(main())


# Sessions


def test_a_session_lasts_from_load_to_unload() -> None:
    async def main() -> None:
        world = make_world(sizes={"a": need(1)})
        async with world.scheduler as scheduler:
            for _ in range(3):
                with await scheduler.acquire(A) as lease:
                    lease.count(5, 7)
            (running,) = scheduler.sessions()
            assert (running.requests, running.tokens_in, running.tokens_out) == (3, 15, 21)
            assert running.unload_reason is None
            assert running.load_seconds == 1.0
            assert running.memory_bytes == GB
            await scheduler.unload(A)
            assert scheduler.sessions() == []
            (ended,) = world.sessions
            assert ended.load_reason == "request"
            assert ended.unload_reason == "asked to unload"
            assert ended.unloaded_at is not None
            await scheduler.load(A)
            world.server("a").end(1)
            await ticks()
            assert world.sessions[-1].load_reason == "asked"
            assert world.sessions[-1].unload_reason == "stopped: its server exited with code 1"
            world.launcher.failures["a"] = [load_error()]
            with pytest.raises(ModelLoadError):
                await scheduler.load(A)
            # A failed load is no session.
            assert len(world.sessions) == 2
            scheduler.request_load(A, reason="preload")
            await asyncio.sleep(2)
        assert world.sessions[-1].load_reason == "preload"
        assert world.sessions[-1].unload_reason == "the service stops"

    run(main())


def test_the_memory_of_a_load_is_known_for_the_next_one() -> None:
    async def main() -> None:
        world = make_world(
            sizes={"a": need(9), "b": need(1)}, launcher={"real": {"a": Footprint(host=2 * GB)}}
        )
        async with world.scheduler as scheduler:
            await world.use(A)
            state = scheduler.state("a")
            assert state is not None
            assert state.footprint == Footprint(host=2 * GB)
            assert state.freed_on_unload.host == 2 * GB or state.freed_on_unload.host == 0
            await asyncio.sleep(5)
            assert state.freed_on_unload.host == 2 * GB
            # The next load asks for its need again.
            world.launcher.needs["a"] = need(30)
            await scheduler.unload(A)
            with pytest.raises(InsufficientMemoryError):
                await scheduler.acquire(A)

    run(main())
