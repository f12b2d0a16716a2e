"""The model that the id ``auto`` means."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from cyber_inference_tui.errors import ModelNotFoundError
from cyber_inference_tui.gguf.metadata import ModelMetadata
from cyber_inference_tui.library.catalog import Catalog, LocalModel
from cyber_inference_tui.service.auto_model import auto_model
from tests.scheduler.virtual import World, model, run

A, B = model("a"), model("b")
VECTORS = msgspec.structs.replace(
    model("vectors", pinned=True), metadata=ModelMetadata(architecture="bert")
)
BROKEN = msgspec.structs.replace(model("broken", pinned=True), problem="it is cut short")


def catalog(*models: LocalModel) -> Catalog:
    return Catalog({one.id: one for one in models})


def test_the_loaded_model_that_was_used_last() -> None:
    async def main() -> None:
        world = World()
        here = catalog(A, B, VECTORS)
        async with world.scheduler as scheduler:
            await world.use(A)
            assert auto_model(here, scheduler, "b").id == "a"
            await asyncio.sleep(1)
            await world.use(B)
            assert auto_model(here, scheduler, "a").id == "b"
            await asyncio.sleep(1)
            # Documents are searched between two parts of a chat.
            await world.use(VECTORS)
            assert auto_model(here, scheduler, "a").id == "b"
            await asyncio.sleep(1)
            await world.use(A)
            assert auto_model(here, scheduler, "").id == "a"
            await scheduler.unload(A)
            assert auto_model(here, scheduler, "").id == "b"

    run(main())


def test_a_model_that_leaves_is_not_meant() -> None:
    async def main() -> None:
        world = World()
        here = catalog(A, B)
        async with world.scheduler as scheduler:
            with await scheduler.acquire(A):
                leaving = asyncio.ensure_future(scheduler.unload(A))
                await asyncio.sleep(0)
                assert auto_model(here, scheduler, "b").id == "b"
            await leaving

    run(main())


def test_some_models_may_not_count() -> None:
    async def main() -> None:
        world = World()
        here = catalog(A, B)
        async with world.scheduler as scheduler:
            await world.use(B)
            assert auto_model(here, scheduler, "", lambda one: one.id != "b").id == "a"

    run(main())


def test_else_a_pinned_one_else_the_default_else_the_only_one() -> None:
    async def main() -> None:
        scheduler = World().scheduler
        pinned = model("pinned", pinned=True)
        assert auto_model(catalog(A, BROKEN, VECTORS, pinned), scheduler, "a").id == "pinned"
        scheduler.pin(pinned, False)
        assert auto_model(catalog(A, BROKEN, VECTORS, pinned), scheduler, "A").id == "a"
        scheduler.pin(A, True)
        assert auto_model(catalog(A, B), scheduler, "b").id == "a"
        scheduler.pin(A, False)
        assert auto_model(catalog(A, B), scheduler, "b").id == "b"
        assert auto_model(catalog(A, BROKEN, VECTORS), scheduler, "").id == "a"
        # A default that cannot be loaded says why at the load.
        assert auto_model(catalog(A, BROKEN), scheduler, "broken").id == "broken"

    run(main())


@pytest.mark.parametrize(
    ("models", "default", "said"),
    [
        ((), "", "none is loaded or pinned"),
        ((A, B), "", "set default_model"),
        ((VECTORS, BROKEN), "", "none is loaded or pinned"),
        ((A,), "gone\n", 'no model "gone\\n"'),
        ((A,), "auto", 'no model "auto"'),
    ],
)
def test_nothing_is_guessed(models: tuple[LocalModel, ...], default: str, said: str) -> None:
    async def main() -> None:
        with pytest.raises(ModelNotFoundError, match="auto") as caught:
            auto_model(catalog(*models), World().scheduler, default)
        assert said in str(caught.value)

    run(main())
