"""Where a request runs: the waits of all boxes, evictions, caches, and ties."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.peers.routing import HERE, Home, can_answer, cost, order
from cyber_inference_tui.records.models import Fit, ModelRecord, ModelStatus

LOADED, UNLOADED, LOADING = ModelStatus.LOADED, ModelStatus.UNLOADED, ModelStatus.LOADING


def home(box: str, status: ModelStatus = LOADED, **more: Any) -> Home:
    sent, warm = more.pop("sent", 0), more.pop("warm", False)
    record = ModelRecord(id="m", status=status, **{"slots": 1, "size_bytes": 3 << 30, **more})
    return Home(box, record, sent, warm)


def boxes(*homes: Home) -> list[str]:
    return [one.box for one in order(homes)]


def test_this_box_wins_a_tie() -> None:
    assert boxes(home("a"), home(HERE), home("b")) == [HERE, "a", "b"]
    assert boxes(home("b", UNLOADED), home("a", UNLOADED)) == ["a", "b"]


def test_a_loaded_model_comes_before_a_load() -> None:
    assert boxes(home(HERE, UNLOADED), home("a")) == ["a", HERE]
    assert boxes(home(HERE, LOADING, expected_wait_seconds=4.0), home("a")) == ["a", HERE]


def test_a_busy_box_comes_after_a_free_one_and_before_a_long_load() -> None:
    busy = home(HERE, in_flight=1, expected_wait_seconds=6.0)
    assert boxes(busy, home("a")) == ["a", HERE]
    assert boxes(busy, home("a", UNLOADED, expected_wait_seconds=30.0)) == [HERE, "a"]


def test_requests_count_before_the_box_reports_them() -> None:
    assert boxes(home("a", sent=1), home("b")) == ["b", "a"]
    assert boxes(home("a", sent=1, slots=2), home("b", sent=2, slots=4)) == ["a", "b"]


def test_an_eviction_costs() -> None:
    evicts = home("a", UNLOADED, expected_wait_seconds=2.0, fits=Fit.AFTER_UNLOADING)
    loads = home("b", UNLOADED, expected_wait_seconds=10.0, fits=Fit.NOW)
    assert boxes(evicts, loads) == ["b", "a"]
    # Of a loaded model, the fit says nothing.
    assert cost(home("a", fits=Fit.AFTER_UNLOADING)) == cost(home("a"))


def test_a_box_with_the_whole_model_comes_before_one_that_splits_it() -> None:
    split = home(HERE, split=("a",))
    assert boxes(split, home("b", UNLOADED, expected_wait_seconds=30.0)) == ["b", HERE]
    assert boxes(split, home("b", UNLOADED, expected_wait_seconds=90.0)) == [HERE, "b"]


def test_the_box_with_the_conversation_is_preferred_until_it_is_too_busy() -> None:
    assert boxes(home(HERE), home("a", warm=True)) == ["a", HERE]
    waits = home("a", warm=True, in_flight=2, expected_wait_seconds=9.0)
    assert boxes(home(HERE), waits) == [HERE, "a"]


@pytest.mark.parametrize(
    "record", [{"fits": Fit.NEVER}, {"unreadable": True}], ids=["too large", "unreadable"]
)
def test_a_box_that_cannot_is_not_asked(record: dict[str, Any]) -> None:
    assert boxes(home(HERE, UNLOADED, **record)) == []


@st.composite
def any_home(draw: st.DrawFn) -> Home:
    seconds = st.none() | st.floats(0, 1e6)
    return home(
        draw(st.sampled_from([HERE, "a", "b", "c"])),
        draw(st.sampled_from(ModelStatus)),
        slots=draw(st.none() | st.integers(1, 8)),
        in_flight=draw(st.integers(0, 20)),
        queued=draw(st.integers(0, 20)),
        expected_wait_seconds=draw(seconds),
        fits=draw(st.none() | st.sampled_from(Fit)),
        unreadable=draw(st.booleans()),
        size_bytes=draw(st.none() | st.integers(0, 1 << 45)),
        sent=draw(st.integers(0, 20)),
        warm=draw(st.booleans()),
    )


@given(st.lists(any_home(), max_size=8))
def test_the_order_is_by_cost_and_does_not_depend_on_the_input(homes: list[Home]) -> None:
    found = order(homes)
    costs = [cost(one) for one in found]
    assert costs == sorted(costs)
    assert sorted(map(id, found)) == sorted(id(one) for one in homes if can_answer(one.record))
    assert [(cost(one), one.box) for one in order(reversed(homes))] == [
        (cost(one), one.box) for one in found
    ]


@given(any_home(), st.integers(1, 5))
def test_more_requests_never_make_a_box_cheaper(one: Home, more: int) -> None:
    assert cost(one._replace(sent=one.sent + more)) >= cost(one)
