"""Random schedules: whatever people, clients and servers do, nothing is left over."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.records import ModelStatus
from tests.scheduler.virtual import VirtualLauncher, World, load_error, model, run, ticks

MODELS = [model("a"), model("b", idle_timeout=3), model("c", pinned=True)]

NEXT = {
    "unloaded": {"queued"},
    "queued": {"loading", "unloaded", "failed"},
    "loading": {"loaded", "failed", "unloading"},
    "loaded": {"unloading", "failed", "loaded"},
    "unloading": {"unloaded", "queued"},
    "failed": {"queued", "unloaded"},
}


class Step(msgspec.Struct, frozen=True):
    """After ``pause`` seconds somebody does ``what`` with a model."""

    what: str
    model: int
    pause: float
    seconds: float


steps = st.builds(
    Step,
    what=st.sampled_from(
        [
            *("use", "use", "use", "impatient", "load", "impatient load", "unload", "force"),
            *("crash", "fail", "pin", "unpin", "limit", "refresh"),
        ]
    ),
    model=st.integers(0, 2),
    pause=st.sampled_from([0.0, 0.0, 0.25, 0.5, 1.0, 1.5, 5.0]),
    seconds=st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 7.0]),
)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


async def _do(world: World, step: Step) -> None:
    scheduler = world.scheduler
    chosen = MODELS[step.model]
    with contextlib.suppress(CyberError, TimeoutError):
        match step.what:
            case "use":
                await world.use(chosen, step.seconds)
            case "impatient":
                async with asyncio.timeout(step.seconds):
                    await world.use(chosen, 1)
            case "load":
                await scheduler.load(chosen)
            case "impatient load":
                async with asyncio.timeout(step.seconds):
                    await scheduler.load(chosen)
            case "unload":
                await scheduler.unload(chosen)
            case "force":
                await scheduler.unload(chosen, force=True)
            case "crash":
                for server in list(world.launcher.alive):
                    if server.model_id == chosen.id:
                        server.end(1)
            case "fail":
                world.launcher.failures.setdefault(chosen.id, []).append(load_error())
            case "pin" | "unpin":
                scheduler.pin(chosen, step.what == "pin")
            case "limit":
                # Raised only: lowered below what is loaded, the launcher's check would not hold.
                higher = max(world.settings.max_loaded_models, step.model + 1)
                world.settings = msgspec.structs.replace(world.settings, max_loaded_models=higher)
                scheduler.configure(world.settings)
            case "refresh":
                scheduler.refresh(model(chosen.id, idle_timeout=step.seconds))


@settings(max_examples=150, deadline=None)
@given(
    schedule=st.lists(steps, max_size=25),
    connections=st.integers(1, 3),
    loaded=st.integers(1, 2),
    queue=st.integers(1, 4),
    close_after=st.sampled_from([None, 0.0, 0.5, 2.0]),
)
def test_at_rest_nothing_is_left_over(
    schedule: list[Step], connections: int, loaded: int, queue: int, close_after: float | None
) -> None:
    async def main() -> None:
        world = World(
            launcher=VirtualLauncher(load_seconds=1.0, stop_seconds=0.5),
            max_connections=connections,
            max_loaded_models=loaded,
            max_queue=queue,
            queue_timeout=20,
            model_idle_timeout=5,
        )
        scheduler = world.scheduler
        async with scheduler:
            doing = []
            for step in schedule:
                await asyncio.sleep(step.pause)
                doing.append(asyncio.ensure_future(_do(world, step)))
                assert len(world.launcher.alive) + len(world.launcher.loading) <= 3
            if close_after is None:
                # Room for those whose way is barred by pins: they would wait for ever.
                for each in MODELS:
                    scheduler.pin(each, False)
                await asyncio.gather(*doing)
                await ticks()
                await asyncio.sleep(100)
                world.assert_at_rest()
                statuses = {world.status(each.id) for each in MODELS}
                assert statuses <= {
                    ModelStatus.UNLOADED,
                    ModelStatus.LOADED,
                    ModelStatus.FAILED,
                }
            else:
                await asyncio.sleep(close_after)
        await asyncio.gather(*doing)
        await world.assert_nothing_left()
        for each in MODELS:
            told = ["unloaded", *world.told(each.id)]
            for before, after in itertools.pairwise(told):
                assert after in NEXT[before] or after == before, told

    run(main())
