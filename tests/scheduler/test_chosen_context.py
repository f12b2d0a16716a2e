"""A context that the service chooses: ``context_size = "auto"``."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.errors import InsufficientMemoryError
from cyber_inference_tui.gguf.metadata import ModelMetadata
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.llama.need_estimate import with_smaller_contexts
from cyber_inference_tui.llama.needs import Footprint, Need, NeedSource, largest_context
from cyber_inference_tui.llama.spec import ServerSpec, resolve, smaller_contexts
from cyber_inference_tui.scheduler.scheduler import Scheduler
from cyber_inference_tui.settings.schema import Settings
from tests.scheduler.virtual import VirtualLauncher, VirtualMachine, World, model, run

GB = 10**9
TRAINED = 32768
MIB_EACH = 1 << 20
"""Bytes that a token of context takes."""


def auto(model_id: str = "auto-a", trained: int = TRAINED, **own: Any) -> LocalModel:
    metadata = ModelMetadata(architecture="llama", context_length=trained)
    one = model(model_id, context_size="auto", **own)
    return msgspec.structs.replace(one, metadata=metadata)


A = auto()
B = model("b")


def per_token(tokens: int = TRAINED, **fields: Any) -> Need:
    footprint = Footprint(**{"host": tokens * MIB_EACH} | fields)
    return Need(footprint=footprint, source=NeedSource.FORMULA)


def make_world(
    total: int, needs: dict[str, Need], cards: tuple[int, ...] = (), **more: Any
) -> World:
    machine = VirtualMachine(total, cards=cards)
    launcher = VirtualLauncher(machine=machine, needs=needs, **more.pop("launcher", {}))
    return World(launcher=launcher, model_idle_timeout=0, max_memory_percent=80, **more)


def room_for(tokens: int) -> int:
    """Return the memory of a machine that has room for so many tokens."""
    return int(tokens * MIB_EACH / 0.8) + 1


def context_of(scheduler: Scheduler, model_id: str = A.id) -> int | None:
    state = scheduler.state(model_id)
    assert state is not None
    return state.spec.context_size


@pytest.mark.parametrize(
    ("room", "chosen"),
    [(8192, 8192), (8703, 8192), (8704, 8704), (20000, 19456), (32767, 31744), (32768, 32768)],
)
def test_it_is_the_largest_that_fits(room: int, chosen: int) -> None:
    async def main() -> None:
        world = make_world(room_for(room), {A.id: per_token()})
        async with world.scheduler as scheduler:
            await scheduler.estimate([A])
            spec, need = scheduler.next_load(A)
            assert need is not None
            assert (spec.context_size, need.footprint.host) == (chosen, chosen * MIB_EACH)
            await world.use(A)
            assert context_of(scheduler) == chosen
        await world.assert_nothing_left()

    run(main())


def test_less_than_the_least_is_refused_with_the_numbers() -> None:
    async def main() -> None:
        world = make_world(room_for(8000), {A.id: per_token()}, allow_smaller_context=True)
        async with world.scheduler as scheduler:
            with pytest.raises(InsufficientMemoryError) as refused:
                await scheduler.acquire(A)
            assert "needs 8.00 GiB with 8,192 tokens of context, the least" in str(refused.value)
            await scheduler.estimate([A])
            verdict = scheduler.fit_check().verdict(A.id, scheduler.next_load(A)[1])
            assert verdict is not None
            assert "8.00 GiB with 8,192 tokens of context" in verdict.reason
            assert not world.launcher.launched

    run(main())


def test_a_number_is_never_reduced() -> None:
    async def main() -> None:
        fixed = model(A.id, context_size=TRAINED)
        world = make_world(room_for(20000), {A.id: per_token()})
        async with world.scheduler as scheduler:
            with pytest.raises(InsufficientMemoryError, match=r"needs 32\.0 GiB, and"):
                await scheduler.acquire(fixed)

    run(main())


def test_other_models_make_room_unless_they_are_pinned() -> None:
    async def main() -> None:
        needs = {A.id: per_token(), B.id: per_token(10000)}
        world = make_world(room_for(TRAINED), needs)
        async with world.scheduler as scheduler:
            await world.use(B)
            await world.use(A)
            assert scheduler.loaded_ids == [A.id]
            assert context_of(scheduler) == TRAINED
            await scheduler.unload(A)
            scheduler.pin(B, pinned=True)
            await world.use(B)
            await world.use(A)
            assert set(scheduler.loaded_ids) == {A.id, B.id}
            assert context_of(scheduler) == 22528

    run(main())


def test_it_is_kept_while_loaded_and_chosen_again_by_the_next_load() -> None:
    async def main() -> None:
        world = make_world(room_for(TRAINED), {A.id: per_token()})
        machine = world.launcher.machine
        assert machine is not None
        async with world.scheduler as scheduler:
            machine.others = 12 * GB
            await world.use(A)
            chosen = context_of(scheduler)
            assert chosen is not None
            assert chosen < TRAINED
            machine.others = 0
            scheduler.configure(msgspec.structs.replace(world.settings, queue_timeout=9.0))
            world.server(A.id).end(1)
            await world.use(A)
            assert context_of(scheduler) == chosen
            await scheduler.unload(A)
            await world.use(A)
            assert context_of(scheduler) == TRAINED
            assert world.launcher.launched == [A.id] * 3

    run(main())


def test_a_number_set_meanwhile_is_not_limited_by_the_choice() -> None:
    async def main() -> None:
        world = make_world(room_for(TRAINED), {A.id: per_token()})
        machine = world.launcher.machine
        assert machine is not None
        async with world.scheduler as scheduler:
            machine.others = 12 * GB
            await world.use(A)
            machine.others = 0
            number = model(A.id, context_size=30000)
            scheduler.refresh(number)
            await world.use(number)
            assert context_of(scheduler) == 30000

    run(main())


def test_no_more_than_the_least_moves_layers_off_the_cards() -> None:
    async def main(card: int) -> int | None:
        needs = {A.id: msgspec.structs.replace(per_token(host=0, device=32 * GB), spills=True)}
        launcher = {"real": {A.id: Footprint(host=GB)}}
        world = make_world(
            100 * GB, needs, cards=(card,), launcher=launcher, max_gpu_memory_percent=100
        )
        async with world.scheduler as scheduler:
            await world.use(A)
            return context_of(scheduler)

    assert run(main(16 * GB)) == 16384
    assert run(main(4 * GB)) == 8192


def test_running_out_of_memory_halves_it_once_and_not_below_the_least() -> None:
    async def main() -> None:
        launcher = {"real": {A.id: Footprint(host=2000 * GB)}}
        world = make_world(999 * GB, {A.id: per_token()}, launcher=launcher)
        async with world.scheduler as scheduler:
            with pytest.raises(Exception, match="out of memory"):
                await scheduler.acquire(A)
            assert world.launcher.contexts == [None, 16384]
        small = auto(trained=4096)
        world = make_world(999 * GB, {A.id: per_token()}, launcher=launcher)
        async with world.scheduler as scheduler:
            with pytest.raises(Exception, match="out of memory"):
                await scheduler.acquire(small)
            assert world.launcher.contexts == [None]

    run(main())


def test_a_preload_chooses_within_the_free_memory() -> None:
    async def main() -> None:
        needs = {A.id: per_token(), B.id: per_token(10000)}
        world = make_world(room_for(TRAINED), needs)
        async with world.scheduler as scheduler:
            await world.use(B)
            loaded = scheduler.request_load(A, reason="preload")
            assert loaded is not None
            await loaded
            assert set(scheduler.loaded_ids) == {A.id, B.id}
            assert context_of(scheduler) == 22528

    run(main())


# The range


def spec_of(one: LocalModel, **settings: Any) -> ServerSpec:
    return resolve(one, Settings(**settings))


def test_each_slot_with_a_cache_of_its_own_gets_the_least() -> None:
    shared, four = spec_of(A), spec_of(auto(parallel=4))
    assert (shared.least_context, shared.context_size) == (8192, TRAINED)
    assert (four.least_context, four.context_size) == (4 * 8192, 4 * TRAINED)
    assert four.request_context == TRAINED
    assert four.with_context(4 * 8192).request_context == 8192
    assert spec_of(auto(parallel=4, args=("--kv-unified",))).context_size == TRAINED
    assert spec_of(auto(trained=4096)).least_context == 4096


def test_an_argument_of_the_user_decides_instead() -> None:
    spec = spec_of(auto(args=("-c", "1024")))
    assert (spec.context_size, spec.least_context) == (1024, None)


def test_a_choice_starts_the_same_server_as_the_same_choice() -> None:
    spec = spec_of(A)
    assert spec.with_context(8192).signature == spec.with_context(8192).signature
    assert spec.with_context(8192).signature != spec.signature


@given(trained=st.integers(1, 2_000_000), slots=st.integers(0, 8))
def test_each_step_is_at_most_a_sixteenth(trained: int, slots: int) -> None:
    spec = spec_of(auto(trained=trained, parallel=slots))
    assert spec.context_size is not None
    sizes = [*smaller_contexts(spec), spec.context_size]
    assert sizes[0] == spec.least_context
    for smaller, larger in pairwise(sizes):
        assert smaller < larger <= smaller * 17 / 16
    assert all(size // max(1, slots) % 256 == 0 for size in sizes[:-1])


@given(
    free=st.lists(st.integers(0, 2 * TRAINED), min_size=2, max_size=2).map(sorted),
    base=st.integers(0, TRAINED),
)
def test_more_memory_never_gives_less_and_none_is_exceeded(free: list[int], base: int) -> None:
    spec = spec_of(A)

    def formula(one: ServerSpec) -> Footprint:
        return Footprint(host=base + (one.context_size or 0))

    need = with_smaller_contexts(Need(footprint=formula(spec)), spec, formula)
    needs = (*need.smaller, need)
    chosen = [
        largest_context(needs, lambda one, room=room: one.footprint.total <= room)  # type: ignore[misc]
        for room in free
    ]
    assert chosen[0].context <= chosen[1].context
    for one, room in zip(chosen, free, strict=True):
        assert one.footprint.total <= room or one.context == spec.least_context
        larger = next((other for other in needs if other.context > one.context), None)
        assert larger is None or larger.footprint.total > room


def test_the_engine_corrects_the_formula() -> None:
    spec = spec_of(A)
    engine = Need(footprint=Footprint(host=40000), source=NeedSource.ENGINE)
    found = with_smaller_contexts(
        engine, spec, lambda one: Footprint(host=(one.context_size or 0) + 100)
    )
    assert found.smaller[0].footprint.host == 40000 - TRAINED + 8192
