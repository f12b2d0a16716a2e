"""A failed model has no queue, and keeps its reason until something that its load depends on has
changed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from cyber_inference_tui.errors import CyberError, ModelLoadError
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.llama.needs import Footprint, Need, NeedSource
from cyber_inference_tui.records import ModelStatus
from tests.scheduler.virtual import (
    VirtualLauncher,
    VirtualMachine,
    World,
    load_error,
    model,
    run,
    ticks,
)

GB = 10**9
A, LARGE = model("a"), model("large")


def make_world(**settings: Any) -> World:
    needs = {"large": Need(footprint=Footprint(host=20 * GB), source=NeedSource.FORMULA)}
    return World(
        launcher=VirtualLauncher(machine=VirtualMachine(16 * GB), needs=needs),
        **{"max_concurrent_requests": 1, "model_idle_timeout": 0, **settings},
    )


# Nobody waits for it


async def load_fails(world: World) -> None:
    world.launcher.failures["a"] = [load_error()]
    await asyncio.gather(*(world.scheduler.acquire(A) for _ in range(3)))


async def server_keeps_dying(world: World) -> None:
    for _ in range(2):
        lease = await world.scheduler.acquire(A)
        waiting = asyncio.ensure_future(world.scheduler.acquire(A))
        await ticks()
        world.server("a").end(1)
        lease.release()
        (await waiting).release()


async def there_is_no_room(world: World) -> None:
    await asyncio.gather(*(world.scheduler.acquire(LARGE) for _ in range(3)))


async def there_is_no_room_to_preload_it(world: World) -> None:
    loading = world.scheduler.request_load(LARGE, reason="preload")
    assert loading is not None
    await loading


async def it_is_unloaded_by_force(world: World) -> None:
    lease = await world.scheduler.acquire(A)
    waiting = asyncio.ensure_future(world.scheduler.acquire(A))
    await ticks()
    unloading = asyncio.ensure_future(world.scheduler.unload(A, force=True))
    await asyncio.wait({waiting})
    lease.release()
    await unloading
    await waiting


async def its_load_is_cancelled(world: World) -> None:
    waiting = asyncio.ensure_future(world.scheduler.load(A))
    await asyncio.sleep(0.5)
    await world.scheduler.unload(A)
    await waiting


async def its_queue_times_out(world: World) -> None:
    world.scheduler.configure(msgspec.structs.replace(world.settings, queue_timeout=0.2))
    world.launcher.failures["a"] = [load_error()]
    await world.scheduler.acquire(A)


async def its_client_leaves(world: World) -> None:
    world.launcher.failures["a"] = [load_error()]
    waiting = asyncio.ensure_future(world.scheduler.acquire(A))
    await asyncio.sleep(0.5)
    waiting.cancel()
    await asyncio.wait({waiting})
    raise load_error()


async def it_is_removed(world: World) -> None:
    waiting = asyncio.ensure_future(world.scheduler.acquire(A))
    await asyncio.sleep(0.5)
    world.scheduler.remove("a")
    await waiting


async def the_service_ends(world: World) -> None:
    lease = await world.scheduler.acquire(A)
    waiting = asyncio.ensure_future(world.scheduler.acquire(A))
    await ticks()
    world.scheduler.begin_shutdown()
    await asyncio.wait({waiting})
    lease.release()
    await world.scheduler.close()
    await waiting


@pytest.mark.parametrize(
    "happens",
    [
        load_fails,
        server_keeps_dying,
        there_is_no_room,
        there_is_no_room_to_preload_it,
        it_is_unloaded_by_force,
        its_load_is_cancelled,
        its_queue_times_out,
        its_client_leaves,
        it_is_removed,
        the_service_ends,
    ],
)
def test_the_last_record_of_an_ended_model_has_no_queue(
    happens: Callable[[World], Awaitable[None]],
) -> None:
    async def main() -> None:
        world = make_world()
        async with world.scheduler:
            with pytest.raises(CyberError):
                await happens(world)
            await asyncio.sleep(10)
            world.assert_at_rest()
            for model_id in {queue.model_id for queue in world.queues}:
                last = [queue for queue in world.queues if queue.model_id == model_id][-1]
                assert last.status is world.status(model_id)
                assert last.status in {ModelStatus.UNLOADED, ModelStatus.FAILED}
                assert last.queued == 0
                assert last.status is ModelStatus.UNLOADED or last.wait is None

    run(main())


def test_a_failure_is_reported_when_the_queue_is_empty() -> None:
    async def main() -> None:
        world = make_world()
        async with world.scheduler:
            with pytest.raises(CyberError):
                await load_fails(world)
            failed = [queue for queue in world.queues if queue.status is ModelStatus.FAILED]
            assert failed
            assert {(queue.queued, queue.wait) for queue in failed} == {(0, None)}

    run(main())


# It keeps its reason


async def fail(world: World, one: LocalModel, times: int = 3) -> str:
    """Let loads of the model fail until the backoff begins, and return the reason."""
    world.launcher.failures[one.id] = [load_error(f"No. {number}") for number in range(times)]
    for _ in range(times):
        with pytest.raises(ModelLoadError):
            await world.scheduler.load(one)
    with pytest.raises(ModelLoadError, match="next try is possible"):
        await world.scheduler.acquire(one)
    state = world.scheduler.state(one.id)
    assert state is not None
    return str(state.failure)


@pytest.mark.parametrize(
    "change",
    [
        {"refresh_rate": 2.0},
        {"theme": "nord"},
        {"log_level": "debug"},
        {"model_idle_timeout": 5.0},
        {"queue_timeout": 1.0},
        {"max_queue": 7},
        {"max_concurrent_requests": 7},
        {"stop_timeout": 1.0},
        {"sample_interval": 2.0},
        {"api_keys": ("secret-key",)},
        {"hf_token": "hf_x"},
    ],
)
def test_a_setting_that_no_load_depends_on_leaves_a_failure_as_it_is(
    change: dict[str, Any],
) -> None:
    async def main() -> None:
        world = make_world()
        async with world.scheduler as scheduler:
            reason = await fail(world, A)
            scheduler.configure(msgspec.structs.replace(world.settings, **change))
            state = scheduler.state("a")
            assert state is not None
            assert (state.status, str(state.failure)) == (ModelStatus.FAILED, reason)
            with pytest.raises(ModelLoadError, match="next try is possible"):
                await scheduler.acquire(A)

    run(main())


@pytest.mark.parametrize(
    "change",
    [
        {"llama_args": ("--mlock",)},
        {"llama_server_path": "/opt/llama-server"},
        {"confine_servers": False},
        {"load_timeout": 900.0},
        {"max_memory_percent": 95.0},
        {"max_gpu_memory_percent": 95.0},
        {"max_loaded_models": 1},
        {"allow_smaller_context": True},
    ],
)
def test_a_setting_that_a_load_depends_on_lets_it_try_again(change: dict[str, Any]) -> None:
    async def main() -> None:
        world = make_world()
        async with world.scheduler as scheduler:
            await fail(world, A)
            scheduler.configure(msgspec.structs.replace(world.settings, **change))
            assert world.status("a") is ModelStatus.UNLOADED
            await world.use(A)

    run(main())


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        (model("a", args=("--mlock",)), ModelStatus.UNLOADED),
        (msgspec.structs.replace(A, modified=2), ModelStatus.UNLOADED),
        (msgspec.structs.replace(A, problem="it is empty"), ModelStatus.UNLOADED),
        (model("a", idle_timeout=7, pinned=True, aliases=("b",)), ModelStatus.FAILED),
        (model("a", max_concurrent_requests=3), ModelStatus.FAILED),
        (model("a", request_defaults={"temperature": 0.1}), ModelStatus.FAILED),
    ],
)
def test_only_a_change_of_its_own_file_or_command_lets_one_model_try_again(
    changed: LocalModel, status: ModelStatus
) -> None:
    async def main() -> None:
        world = make_world()
        async with world.scheduler as scheduler:
            other = model("b")
            await fail(world, A)
            reason = await fail(world, other)
            scheduler.refresh(changed)
            assert world.status("a") is status
            state = scheduler.state("b")
            assert state is not None
            assert (state.status, str(state.failure)) == (ModelStatus.FAILED, reason)

    run(main())


def test_another_llama_server_lets_all_try_again_but_those_with_a_command() -> None:
    async def main() -> None:
        world = make_world()
        async with world.scheduler as scheduler:
            other = model("b", command=("serve", "{port}"))
            await fail(world, A)
            await fail(world, other)
            scheduler.configure(
                msgspec.structs.replace(world.settings, llama_server_path="/opt/llama-server")
            )
            assert (world.status("a"), world.status("b")) == ("unloaded", "failed")
            await fail(world, A)
            scheduler.binary_changed()
            assert (world.status("a"), world.status("b")) == ("unloaded", "failed")

    run(main())
