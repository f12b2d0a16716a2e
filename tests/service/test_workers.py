"""Memory that is lent to another box, as this box's scheduler sees it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cyber_inference_tui.errors import (
    ConflictError,
    InsufficientMemoryError,
    NotFoundError,
    PeerRightsError,
)
from cyber_inference_tui.llama.needs import Footprint, Need, NeedSource
from cyber_inference_tui.llama.worker import WorkerFacts
from cyber_inference_tui.records import ModelStatus
from cyber_inference_tui.records.workers import WorkerQuery
from cyber_inference_tui.service.workers import Workers
from cyber_inference_tui.settings.schema import PeerSettings, Settings
from tests.scheduler.virtual import VirtualLauncher, VirtualMachine, World, model, run

GIB = 1 << 30
MINE = model("mine")
NAME = "worker for asker"


def need(size: float) -> Need:
    return Need(footprint=Footprint(host=int(size * GIB)), source=NeedSource.FORMULA)


def question(size: float) -> WorkerQuery:
    return WorkerQuery(model="big", memory=int(size * GIB))


def make(lent: float, **facts: Any) -> tuple[World, Workers]:
    """A box with 12.8 GiB for models, and a model of 9 GiB."""
    needs = {"mine": need(9)} | {f"{NAME}{end}": need(lent) for end in ("", " 2", " 3", " 4")}
    machine = VirtualMachine(16 * GIB)
    world = World(launcher=VirtualLauncher(machine=machine, needs=needs), model_idle_timeout=0)
    settings = Settings(peers={"asker": PeerSettings(worker=True), "other": PeerSettings()})

    async def of_build() -> WorkerFacts:
        return WorkerFacts(**{"build": "b9000", "protocol": "8.0.0", **facts})

    return world, Workers(world.scheduler, settings=lambda: settings, facts=of_build)


def test_a_worker_has_its_memory_until_its_end() -> None:
    async def main() -> None:
        world, workers = make(5)
        async with world.scheduler:
            await world.scheduler.refresh_memory()
            before = workers.lends("asker")
            assert before > 12 * GIB
            async with workers.lend("asker", question(5)) as worker:
                assert workers.find(worker.token, "asker") is worker
                assert worker.server.address.port == world.server(NAME).address.port
                assert before - workers.lends("asker") >= 5 * GIB
                # It is not unloaded for a model of this box.
                with pytest.raises(InsufficientMemoryError, match=rf"{NAME} \(pinned\) holds 5.00"):
                    await world.use(MINE)
            with pytest.raises(NotFoundError):
                workers.find(worker.token, "asker")
            assert not world.launcher.alive
            assert world.scheduler.state(NAME) is None
            await world.scheduler.refresh_memory()
            assert workers.lends("asker") == before

    run(main())


def test_an_idle_model_makes_room_for_a_worker() -> None:
    async def main() -> None:
        world, workers = make(5)
        async with world.scheduler:
            await world.use(MINE)
            await asyncio.sleep(10)
            async with workers.lend("asker", question(5)):
                assert world.status("mine") is ModelStatus.UNLOADED

    run(main())


def test_too_much_memory_is_refused() -> None:
    async def main() -> None:
        world, workers = make(20)
        async with world.scheduler:
            with pytest.raises(InsufficientMemoryError, match=r"needs 20\.0 GiB"):
                async with workers.lend("asker", question(20)):
                    raise AssertionError
            assert world.scheduler.state(NAME) is None

    run(main())


def test_a_box_gets_only_what_its_owner_allows() -> None:
    async def main() -> None:
        world, workers = make(1)
        async with world.scheduler:
            await world.scheduler.refresh_memory()
            assert workers.lends("other") == workers.lends("unknown") == 0
            facts = await workers.facts("other")
            assert 'worker = true in the table [peers."other"]' in facts.problem
            with pytest.raises(PeerRightsError):
                async with workers.lend("other", question(1)):
                    raise AssertionError
            async with workers.lend("asker", question(1)) as worker:
                with pytest.raises(NotFoundError):
                    workers.find(worker.token, "other")

    run(main())


def test_a_box_has_four_workers_at_most() -> None:
    async def main() -> None:
        world, workers = make(1)
        async with world.scheduler, asyncio.timeout(1000):
            async with (
                workers.lend("asker", question(1)),
                workers.lend("asker", question(1)),
                workers.lend("asker", question(1)),
                workers.lend("asker", question(1)),
            ):
                with pytest.raises(ConflictError, match="4 workers for asker already"):
                    async with workers.lend("asker", question(1)):
                        raise AssertionError
            async with workers.lend("asker", question(1)):
                assert world.status(NAME) is ModelStatus.LOADED

    run(main())


def test_a_build_without_a_worker_says_so() -> None:
    async def main() -> None:
        world, workers = make(1, protocol="")
        async with world.scheduler:
            assert "ggml-rpc-server" in (await workers.facts("asker")).problem
        world, workers = make(1, gpus=2)
        async with world.scheduler:
            found = await workers.facts("asker")
            assert (found.problem, found.devices, found.has_gpu) == ("", 2, True)
            assert found.memory > 12 * GIB

    run(main())
