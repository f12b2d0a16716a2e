"""The free memory by a reading of the machine, and the memory that servers use."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.llama.needs import Footprint, Need, NeedSource
from cyber_inference_tui.monitor.memory_reading import GpuMemory, MemoryReading, ProcessMemory
from cyber_inference_tui.records import ModelStatus
from cyber_inference_tui.scheduler.free_memory import (
    Amount,
    FreeMemory,
    excess_of,
    footprint_by_change,
    free_memory,
    in_words,
    needed_amount,
    used_memory,
)
from cyber_inference_tui.scheduler.load_errors import refusal_error
from cyber_inference_tui.scheduler.memory_plan import MemoryPlan
from cyber_inference_tui.scheduler.views import LoadLimits, ModelView, Refusal
from cyber_inference_tui.settings.schema import Settings

GB = 10**9


def reading(
    available: int, *, total: int = 16 * GB, gpus: tuple[GpuMemory, ...] = ()
) -> MemoryReading:
    return MemoryReading(total=total, available=available, gpus=gpus)


def memory(
    available: float, total: float = 16, percent: float = 80, held: int = 0
) -> tuple[int, bool]:
    """Return the free main memory, and whether memory is short."""
    footprint = Footprint(mapped=held)
    found = free_memory(
        reading(int(available * GB), total=int(total * GB)),
        [used_memory(footprint, None, cards=False)],
        at=0.0,
        max_percent=percent,
        max_gpu_percent=90,
    )
    assert found.free is not None
    return found.free.host, found.short


def test_free_memory_is_the_rest_under_the_limit() -> None:
    assert memory(16) == (int(12.8 * GB), False)
    assert memory(10) == (int(6.8 * GB), False)
    # The limit is exceeded: nothing fits, and an error shows no negative size.
    room, short = memory(2)
    assert room < 0
    assert not short
    assert not Amount(room).covers(Amount(1))
    assert Amount(room).covers(Amount(0))


def test_other_programs_may_take_what_is_above_the_floor() -> None:
    def spare(available: float) -> int:
        found = free_memory(
            reading(int(available * GB)), (), at=0.0, max_percent=80, max_gpu_percent=90
        )
        return found.spare

    assert spare(10.8) == 10 * GB
    assert spare(0.7) == 0


def test_mapped_weights_count_as_used_although_they_are_available() -> None:
    assert memory(16, held=5 * GB)[0] == memory(11)[0]


@pytest.mark.parametrize(
    ("total", "available", "percent", "short"),
    [
        (64, 3.3, 80, False),  # 5 % = 3.2 GB
        (64, 3.1, 80, True),
        (8, 0.51, 80, False),  # 500 MB
        (8, 0.49, 80, True),
        (1, 0.11, 80, False),  # a tenth
        (1, 0.09, 80, True),
        (64, 1.0, 99, False),  # no shortage for a user who allows 99 %
        (64, 0.6, 99, True),
        (64, 0.1, 100, False),
    ],
)
def test_what_counts_as_a_shortage(
    total: float, available: float, percent: float, short: bool
) -> None:
    assert memory(available, total, percent)[1] is short


def test_each_card_has_its_own_limit() -> None:
    full = GpuMemory(name="full", total=10 * GB, free=0)
    half = GpuMemory(name="half", total=10 * GB, free=5 * GB)
    found = free_memory(
        reading(16 * GB, gpus=(full, half)), [], at=0.0, max_percent=80, max_gpu_percent=90
    )
    # The full card is over its limit, which takes nothing from the other.
    assert found.free == Amount(int(12.8 * GB), 4 * GB)
    assert found.cards


def test_the_kernel_does_not_count_unused_buffers() -> None:
    footprint = Footprint(mapped=3, host=10, device=20)
    half = used_memory(footprint, ProcessMemory(private=4, mapped=3), cards=False)
    assert half.unseen == Amount(3 + 6)
    assert half.freed_on_unload == Amount(3 + 10 + 20)
    # A server that uses more than it reported frees more, and only its weights are unseen.
    grown = used_memory(footprint, ProcessMemory(private=15, mapped=3), cards=True)
    assert grown.unseen == Amount(3)
    assert grown.freed_on_unload == Amount(3 + 15, 20)


def test_the_kernel_counts_locked_weights() -> None:
    process = ProcessMemory(private=10, mapped=30, locked=30)
    held = used_memory(Footprint(mapped=30, host=10), process, cards=False)
    assert held.unseen == Amount()
    assert held.freed_on_unload == Amount(40)


def test_without_cards_the_memory_of_the_driver_is_main_memory() -> None:
    need = Need(footprint=Footprint(mapped=1, host=2, device=4), source=NeedSource.FORMULA)
    assert needed_amount(need, cards=False, device_at_most=0) == Amount(7)
    assert needed_amount(need, cards=True, device_at_most=100) == Amount(3, 4)


SMALL = GpuMemory(name="small", total=6 * GB, free=6 * GB, uuid="GPU-a")
LARGE = GpuMemory(name="large", total=24 * GB, free=24 * GB, uuid="GPU-b")


def two_cards() -> FreeMemory:
    found = MemoryReading(
        total=16 * GB,
        available=16 * GB,
        gpus=(SMALL, LARGE),
        gpus_by_variable={"GPU-a": (SMALL,), "1": (LARGE,), "": ()},
    )
    return free_memory(found, [], at=0.0, max_percent=100, max_gpu_percent=100)


def test_a_model_has_the_free_memory_of_the_cards_that_it_sees() -> None:
    memory = two_cards()
    assert memory.free_for(None) == Amount(16 * GB, 30 * GB)
    assert memory.free_for("GPU-a") == Amount(16 * GB, 6 * GB)
    assert memory.free_for("1") == Amount(16 * GB, 24 * GB)
    assert not memory.cards_for("")
    # Memory that a model uses is missing on its own cards only.
    taken = memory.plus(Amount(0, -5 * GB), "GPU-a")
    assert taken.free_for(None) == Amount(16 * GB, 25 * GB)
    assert taken.free_for("GPU-a") == Amount(16 * GB, 1 * GB)
    assert taken.free_for("1") == Amount(16 * GB, 24 * GB)
    # A model that sees both cards is on both, by their size.
    spread = memory.plus(Amount(-GB, -10 * GB), None)
    assert spread.free_for("GPU-a") == Amount(15 * GB, 4 * GB)
    assert spread.free_for("1") == Amount(15 * GB, 16 * GB)
    # Memory on cards that other models do not see takes nothing from them.
    hidden = MemoryReading(
        total=16 * GB, available=16 * GB, gpus=(SMALL,), gpus_by_variable={"1": (LARGE,)}
    )
    apart = free_memory(hidden, [], at=0.0, max_percent=100, max_gpu_percent=100)
    assert apart.plus(Amount(0, -9 * GB), "1").free_for(None) == Amount(16 * GB, 6 * GB)


def wanted(model_id: str, visible: str | None, **facts: Any) -> ModelView:
    need = Need(footprint=Footprint(device=10 * GB), source=NeedSource.FORMULA, visible=visible)
    return ModelView(id=model_id, status=ModelStatus.QUEUED, need=need, waiting=1, **facts)


def test_a_model_is_judged_by_its_own_cards() -> None:
    plan = MemoryPlan([], LoadLimits(), two_cards(), 0.0, ())
    assert plan.fits(wanted("big", None))
    assert plan.fits(wanted("big", "1"))
    assert not plan.could_fit(wanted("big", "GPU-a"))
    assert plan.refusal(wanted("big", "GPU-a")).free_at_best == Amount(16 * GB, 6 * GB)
    # It sees no card at all: its layers are in main memory.
    assert plan.amount(wanted("big", "")) == Amount(10 * GB)


def test_only_a_model_on_its_own_cards_goes_for_it() -> None:
    def idle(model_id: str, visible: str, taken: int) -> ModelView:
        return msgspec.structs.replace(
            wanted(model_id, visible),
            status=ModelStatus.LOADED,
            waiting=0,
            freed_on_unload=Amount(0, taken * GB),
        )

    full = two_cards().plus(Amount(0, -5 * GB), "GPU-a")
    full = full.plus(Amount(0, -20 * GB), "1")
    models = [idle("on-small", "GPU-a", 5), idle("on-large", "1", 20)]
    plan = MemoryPlan(models, LoadLimits(), full, 100.0, ())
    victims = plan.victims_for(wanted("big", "1"))
    assert victims is not None
    assert [one.id for one in victims] == ["on-large"]


def test_a_refusal_names_the_cards_that_the_model_may_see() -> None:
    error = refusal_error(
        Refusal(
            id="big", needed=Amount(0, 9 << 30), free_at_best=Amount(0, 2 << 30), visible="GPU-a"
        ),
        [],
        MemoryReading(
            total=4 << 30, available=2 << 30, gpus=(LARGE,), gpus_by_variable={"GPU-a": (SMALL,)}
        ),
        Settings(),
        need=Need(),
    )
    assert "2.00 GiB of GPU memory can be free with CUDA_VISIBLE_DEVICES=GPU-a" in error.message


def test_a_refusal_names_the_caches_that_counted_as_free() -> None:
    error = refusal_error(
        Refusal(id="big", needed=Amount(9 << 30), free_at_best=Amount(2 << 30)),
        [],
        MemoryReading(total=4 << 30, available=2 << 30, cache=1 << 30, zfs_cache=1 << 20),
        Settings(),
        need=Need(),
    )
    assert "1.00 GiB of file cache and 1.00 MiB of ZFS cache counted as free" in error.message


@pytest.mark.parametrize(("lends", "offered"), [(6 << 30, False), (8 << 30, True)])
def test_a_refusal_offers_a_box_that_lends_the_missing_memory(lends: int, offered: bool) -> None:
    error = refusal_error(
        Refusal(id="big", needed=Amount(9 << 30), free_at_best=Amount(2 << 30)),
        [],
        MemoryReading(total=4 << 30, available=2 << 30),
        Settings(),
        need=Need(),
        lending={"small": 1 << 30, "jetson": lends},
    )
    offer = 'It would fit with split = ["jetson"]: jetson lends 8.00 GiB.'
    assert (offer in error.message) is offered
    assert ("split" in error.message) is offered


@given(device=st.integers(0, 100), host=st.integers(0, 100), at_most=st.integers(-10, 100))
def test_spilling_moves_layers_and_loses_none(device: int, host: int, at_most: int) -> None:
    need = Need(footprint=Footprint(host=host, device=device), spills=True)
    amount = needed_amount(need, cards=True, device_at_most=at_most)
    assert amount.host + amount.device == host + device
    assert 0 <= amount.device <= max(0, at_most)
    assert amount.host >= host


def test_a_server_without_a_report_is_measured_by_the_loss_of_memory() -> None:
    card = GpuMemory(name="card", total=10 * GB, free=9 * GB)
    less = GpuMemory(name="card", total=10 * GB, free=6 * GB)
    process = ProcessMemory(private=GB, mapped=2 * GB)
    after = MemoryReading(total=16 * GB, available=9 * GB, gpus=(less,), processes={7: process})
    found = footprint_by_change(reading(10 * GB, gpus=(card,)), after, 7)
    assert found == Footprint(mapped=2 * GB, host=GB, device=3 * GB)
    assert footprint_by_change(None, after, 8) is None
    # A GPU without memory of its own: the loss beyond the memory of the process.
    after = MemoryReading(total=16 * GB, available=9 * GB, processes={7: process})
    assert footprint_by_change(reading(14 * GB), after, 7) == Footprint(
        mapped=2 * GB, host=GB, device=4 * GB
    )
    # A small difference comes from other programs.
    assert footprint_by_change(reading(int(10.1 * GB)), after, 7) == Footprint(
        mapped=2 * GB, host=GB
    )


def test_amounts_in_words() -> None:
    assert in_words(Amount(3 << 30), cards=False) == "3.00 GiB"
    assert in_words(Amount(-5), cards=False) == "0 B"
    assert in_words(Amount(1 << 20, 3 << 30), cards=True) == "1.00 MiB and 3.00 GiB of GPU memory"


def runs_away(
    taken: float, expected: float | None, *, available: float, percent: float = 80
) -> bool | None:
    """Return whether a load on a machine of 16 GB has to end; ``None`` = it has no excess."""
    need = Need()
    if expected is not None:
        footprint = Footprint(mapped=int(expected * GB / 2), host=int(expected * GB / 2))
        need = Need(footprint=footprint, source=NeedSource.FORMULA)
    found = excess_of(need, int(taken * GB), reading(int(available * GB)), max_percent=percent)
    return None if found is None else found.runaway


@pytest.mark.parametrize(
    ("taken", "expected", "available", "runaway"),
    [
        (4, 4, 10, None),
        (4.9, 4, 10, None),  # the error of an estimate
        (5.1, 4, 10, False),
        (7, 4, 8, False),
        (7.2, 4, 8, True),  # 1.5 times as much and 1 GiB, although memory is free
        (0.9, 0.1, 10, False),
        (1.3, 0.1, 10, True),
        # Beyond 80 % of 16 GB, 3.2 GB free:
        (6, 4, 3, True),
        (6, 4, 1, False),  # because of other programs
        (4.5, 4, 1, None),
        # Its need is unknown.
        (9, None, 4, False),
        (9, None, 3, True),
        (2, None, 1, False),  # the limit is exceeded without it, too
        (12.9, None, 16, True),  # with any amount of available memory
    ],
)
def test_a_load_runs_away_by_its_own_growth_alone(
    taken: float, expected: float | None, available: float, runaway: bool | None
) -> None:
    assert runs_away(taken, expected, available=available) is runaway


@given(
    expected=st.integers(0, 16 * GB),
    taken=st.integers(0, 20 * GB),
    available=st.integers(0, 16 * GB),
    percent=st.floats(1, 100),
)
def test_a_load_within_its_need_never_runs_away(
    expected: int, taken: int, available: int, percent: float
) -> None:
    need = Need(footprint=Footprint(host=expected), source=NeedSource.FORMULA)
    found = excess_of(need, min(taken, expected), reading(available), max_percent=percent)
    assert found is None
