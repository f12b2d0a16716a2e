"""Compares the descriptions of fits with what the scheduler then does."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cyber_inference_tui.errors import InsufficientMemoryError
from cyber_inference_tui.llama.needs import Footprint, Need, NeedSource
from cyber_inference_tui.records import Fit
from cyber_inference_tui.scheduler.fit import Verdict
from tests.scheduler.virtual import VirtualLauncher, VirtualMachine, World, model, run, ticks

GIB = 1 << 30
A, B, C = model("a"), model("b"), model("c")


def need(size: float, **more: Any) -> Need:
    footprint = Footprint(host=int(size * GIB), device=int(more.pop("device", 0) * GIB))
    return Need(footprint=footprint, **{"source": NeedSource.FORMULA, **more})


NEEDS = {"a": need(9), "b": need(5), "c": need(2)}


def make_world(total: int = 16, cards: tuple[int, ...] = (), **settings: Any) -> World:
    machine = VirtualMachine(total * GIB, cards=tuple(size * GIB for size in cards))
    needs = settings.pop("needs", NEEDS)
    return World(
        launcher=VirtualLauncher(machine=machine, needs=needs),
        **{"model_idle_timeout": 0, **settings},
    )


def verdict(world: World, model_id: str, **more: Any) -> Verdict:
    found = world.scheduler.fit_check().verdict(model_id, world.launcher.needs[model_id], **more)
    assert found is not None
    if not more:
        assert (
            world.scheduler.fit_check().fit(model_id, world.launcher.needs[model_id]) is found.fit
        )
    return found


def test_a_model_is_loaded_if_it_fits() -> None:
    async def main() -> None:
        world = make_world()  # 12.8 GiB may be used
        async with world.scheduler:
            assert world.scheduler.fit_check().verdict("a", need(9)) is None
            await world.scheduler.refresh_memory()
            fit = verdict(world, "a")
            assert fit.fit is Fit.NOW
            assert "9.00 GiB" in fit.reason
            assert "12.8 GiB" in fit.reason
            await world.use(A)
            # At once, without another reading: started servers are counted.
            assert verdict(world, "c").fit is Fit.NOW
            fit = verdict(world, "b")
            assert (fit.fit, fit.unloads) == (Fit.AFTER_UNLOADING, ("a",))
            assert "5.00 GiB" in fit.reason
            assert "3.80 GiB" in fit.reason
            assert "a would be unloaded" in fit.reason
            await asyncio.sleep(10)
            await world.use(B)
            assert world.scheduler.loaded_ids == ["b"]

    run(main())


def test_the_memory_of_a_busy_model_counts_after_its_requests() -> None:
    async def main() -> None:
        world = make_world()
        async with world.scheduler:
            lease = await world.scheduler.acquire(A)
            await world.scheduler.refresh_memory()
            fit = verdict(world, "b")
            assert (fit.fit, fit.unloads) == (Fit.AFTER_UNLOADING, ("a",))
            assert "after its requests" in fit.reason
            lease.release()

    run(main())


@pytest.mark.parametrize("pinned", [False, True])
def test_a_model_that_would_be_refused_never_fits_for_the_same_reason(pinned: bool) -> None:
    async def main() -> None:
        world = make_world(8, needs={"a": need(3), "b": need(4), "c": need(9)})
        async with world.scheduler:
            await world.use(A)
            world.scheduler.pin(A, pinned)
            await world.scheduler.refresh_memory()
            assert verdict(world, "c").fit is Fit.NEVER
            assert verdict(world, "b").fit is (Fit.NEVER if pinned else Fit.AFTER_UNLOADING)
            refused = B if pinned else C
            fit = verdict(world, refused.id)
            with pytest.raises(InsufficientMemoryError) as caught:
                await world.use(refused)
            assert fit.reason == caught.value.message

    run(main())


def test_a_vision_model_fits_as_a_load_tries_it_last() -> None:
    async def main() -> None:
        needs = {
            "a": need(1, device=8, projector=2 * GIB),
            "b": need(1, device=4, projector=2 * GIB),
            "c": need(1, device=10, projector=2 * GIB),
        }
        a, b, c = (msgspec.structs.replace(one, mmproj=Path("mmproj.gguf")) for one in (A, B, C))
        world = make_world(cards=(8,), needs=needs)  # 7.2 GiB of the card may be used
        async with world.scheduler:
            await world.scheduler.refresh_memory()
            fit = verdict(world, "a")
            assert (fit.fit, fit.projector_kept_back) == (Fit.NOW, True)
            assert "6.00 GiB of GPU memory with its projector in main memory" in fit.reason
            fit = verdict(world, "b")
            assert (fit.fit, fit.projector_kept_back) == (Fit.NOW, False)
            # It needs 8 GiB of the card even so.
            fit = verdict(world, "c")
            assert (fit.fit, fit.projector_kept_back) == (Fit.NEVER, False)
            with pytest.raises(InsufficientMemoryError) as caught:
                await world.use(c)
            assert fit.reason == caught.value.message
            await world.use(b)
            fit = verdict(world, "a")
            assert (fit.fit, fit.projector_kept_back) == (Fit.AFTER_UNLOADING, True)
            assert fit.unloads == ("b",)
            await world.use(a)
            assert world.launcher.kept_back == [False, True]

    run(main())


def test_the_number_of_models_counts_too() -> None:
    async def main() -> None:
        world = make_world(64, max_loaded_models=1)
        async with world.scheduler:
            await world.use(A)
            await world.scheduler.refresh_memory()
            fit = verdict(world, "b")
            assert (fit.fit, fit.unloads) == (Fit.AFTER_UNLOADING, ("a",))
            assert "max_loaded_models" in fit.reason
            world.scheduler.pin(A, True)
            assert verdict(world, "b").fit is Fit.NEVER

    run(main())


def test_a_loaded_model_frees_its_memory_before_its_next_load() -> None:
    async def main() -> None:
        world = make_world()
        async with world.scheduler:
            await world.use(A)
            await world.scheduler.refresh_memory()
            fit_check = world.scheduler.fit_check()
            bigger, too_big = need(12), need(13)
            fits = [fit_check.verdict("a", one, reload=True) for one in (bigger, too_big)]
            assert [fit.fit for fit in fits if fit] == [Fit.NOW, Fit.NEVER]

    run(main())


def test_there_is_no_answer_without_a_need_or_a_reading() -> None:
    async def main() -> None:
        world = make_world()
        async with world.scheduler:
            await world.scheduler.refresh_memory()
            fit_check = world.scheduler.fit_check()
            assert fit_check.verdict("a", None) is None
            assert fit_check.verdict("a", Need()) is None
            maybe = fit_check.verdict("a", need(1, source=NeedSource.UPPER_BOUND))
            assert maybe is not None
            assert "up to 1.00 GiB" in maybe.reason
        without = World()
        async with without.scheduler:
            await without.scheduler.refresh_memory()
            assert without.scheduler.fit_check().verdict("a", need(1)) is None
            (room,) = without.scheduler.fit_check().rooms()
            assert (room.pool, room.limit_bytes, room.free_bytes) == ("memory", None, None)
            assert room.free_after_unloading_bytes is None

    run(main())


def test_there_is_one_room_for_main_memory_and_one_for_all_cards() -> None:
    async def main() -> None:
        needs = {"a": need(1, device=4), "b": need(1, device=20)}
        world = make_world(16, cards=(8, 8), needs=needs, max_gpu_memory_percent=75)
        async with world.scheduler:
            await world.use(A)
            await world.scheduler.refresh_memory()
            memory, gpu = world.scheduler.fit_check().rooms()
            assert (memory.pool, gpu.pool) == ("memory", "gpu")
            assert memory.limit_bytes == int(16 * GIB * 0.8)
            assert memory.free_bytes == int(16 * GIB * 0.8) - GIB
            assert memory.free_after_unloading_bytes == int(16 * GIB * 0.8)
            assert (gpu.limit_bytes, gpu.free_bytes) == (12 * GIB, 8 * GIB)
            assert gpu.free_after_unloading_bytes == 12 * GIB
            assert "of GPU memory" in verdict(world, "b").reason
            world.scheduler.pin(A, True)
            assert world.scheduler.fit_check().rooms()[1].free_after_unloading_bytes == 8 * GIB

    run(main())


def test_the_memory_is_not_read_in_the_middle_of_a_load() -> None:
    async def main() -> None:
        world = make_world()
        machine = world.launcher.machine
        assert machine is not None
        async with world.scheduler:
            await world.scheduler.refresh_memory()
            loading = asyncio.ensure_future(world.scheduler.load(A))
            await asyncio.sleep(0.1)
            before = machine.reads
            assert before == 1
            await world.scheduler.refresh_memory()
            assert machine.reads == before
            assert verdict(world, "b").fit is Fit.AFTER_UNLOADING
            await loading
            # The scheduler reads it once more, to see what the load changed.
            await ticks()
            before = machine.reads
            await world.scheduler.refresh_memory(max_age=60)
            assert machine.reads == before
            await world.scheduler.refresh_memory()
            assert machine.reads == before + 1

    run(main())


def test_the_predicted_restarts_happen() -> None:
    async def main() -> None:
        world = make_world()
        async with world.scheduler:
            await world.use(A)
            await world.use(C)
            settings = msgspec.structs.replace(world.settings, llama_args=("--x",))
            assert world.scheduler.would_restart(settings, lambda one: one) == ["a", "c"]
            assert world.scheduler.would_restart(world.settings, lambda one: one) == []

            def changed(one: Any) -> Any:
                return model("c", args=("--y",)) if one.id == "c" else one

            assert world.scheduler.would_restart(world.settings, changed) == ["c"]

    run(main())
