"""What the policy decides, for every situation hypothesis can think of."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.records import ModelStatus
from cyber_inference_tui.scheduler.policy import (
    PATIENCE,
    Decision,
    Limits,
    ModelView,
    Reason,
    Unload,
    backoff,
    decide,
)

THERE = {ModelStatus.LOADED, ModelStatus.LOADING, ModelStatus.UNLOADING}
seconds = st.floats(0, 1000).map(lambda value: round(value, 1))


@st.composite
def model_lists(draw: st.DrawFn) -> list[ModelView]:
    """Models in any state the scheduler can be in: at most one of them loads."""
    views = []
    loading = False
    for number in range(draw(st.integers(0, 6))):
        status = draw(st.sampled_from(ModelStatus))
        if status is ModelStatus.LOADING:
            if loading:
                status = ModelStatus.LOADED
            loading = True
        loaded = status is ModelStatus.LOADED
        views.append(
            ModelView(
                id=f"m{number}",
                status=status,
                in_flight=draw(st.integers(0, 2)),
                waiting=draw(st.integers(0, 2)),
                waiting_since=draw(seconds),
                last_used=draw(seconds),
                idle_timeout=draw(st.sampled_from([0.0, 10.0, 300.0])),
                pinned=draw(st.booleans()),
                leaving=loaded and draw(st.booleans()),
            )
        )
    return views


limit_values = st.builds(Limits, max_loaded_models=st.integers(0, 4))


def by_id(models: list[ModelView]) -> dict[str, ModelView]:
    return {model.id: model for model in models}


@given(model_lists(), limit_values, seconds)
def test_a_busy_model_is_never_unloaded(
    models: list[ModelView], limits: Limits, now: float
) -> None:
    for step in decide(models, limits, now).unload:
        assert by_id(models)[step.id].in_flight == 0
        assert by_id(models)[step.id].status is ModelStatus.LOADED


@given(model_lists(), limit_values, seconds)
def test_a_pinned_or_wanted_model_goes_only_when_somebody_asked_for_it(
    models: list[ModelView], limits: Limits, now: float
) -> None:
    for step in decide(models, limits, now).unload:
        model = by_id(models)[step.id]
        if step.reason is Reason.REQUEST:
            assert model.leaving
        else:
            assert not model.pinned
            assert not model.waiting
            assert not model.leaving


@given(model_lists(), limit_values, seconds)
def test_a_model_idles_out_exactly_at_its_time_and_never_with_0(
    models: list[ModelView], limits: Limits, now: float
) -> None:
    idled = {step.id for step in decide(models, limits, now).unload if step.reason is Reason.IDLE}
    for model in models:
        due = (
            model.status is ModelStatus.LOADED
            and not (model.in_flight or model.waiting or model.pinned or model.leaving)
            and model.idle_timeout > 0
            and now >= model.last_used + model.idle_timeout
        )
        assert (model.id in idled) == due


@given(model_lists(), limit_values, seconds)
def test_loads_are_one_at_a_time_and_for_somebody(
    models: list[ModelView], limits: Limits, now: float
) -> None:
    load = decide(models, limits, now).load
    if load is not None:
        assert not any(model.status is ModelStatus.LOADING for model in models)
        assert by_id(models)[load].waiting
        assert by_id(models)[load].status not in THERE


@given(model_lists(), limit_values, seconds)
def test_never_more_than_max_loaded_models(
    models: list[ModelView], limits: Limits, now: float
) -> None:
    decision = decide(models, limits, now)
    there = sum(model.status in THERE for model in models)
    if limits.max_loaded_models and decision.load is not None:
        # What is on its way out counts until it is gone.
        assert there + 1 <= limits.max_loaded_models


@given(model_lists(), limit_values, seconds)
def test_no_more_victims_than_needed_and_the_longest_idle_first(
    models: list[ModelView], limits: Limits, now: float
) -> None:
    decision = decide(models, limits, now)
    victims = [step.id for step in decision.unload if step.reason is Reason.ROOM]
    if not victims:
        return
    assert limits.max_loaded_models
    assert decision.load is None
    there = sum(model.status in THERE for model in models)
    assert len(victims) <= there + 1 - limits.max_loaded_models
    views = by_id(models)
    spared = [
        model
        for model in models
        if model.status is ModelStatus.LOADED
        and not (model.in_flight or model.waiting or model.pinned)
        and model.id not in {step.id for step in decision.unload}
    ]
    for victim in victims:
        assert all(views[victim].last_used <= model.last_used for model in spared)


@given(model_lists(), limit_values, seconds)
def test_the_longest_waiting_is_loaded_first(
    models: list[ModelView], limits: Limits, now: float
) -> None:
    load = decide(models, limits, now).load
    if load is not None:
        since = by_id(models)[load].waiting_since
        for model in models:
            if model.waiting and model.status not in THERE:
                assert since <= model.waiting_since


@given(model_lists(), limit_values, seconds)
def test_no_model_is_told_two_things(models: list[ModelView], limits: Limits, now: float) -> None:
    decision = decide(models, limits, now)
    ids = [step.id for step in decision.unload]
    assert len(ids) == len(set(ids))
    assert decision.load not in ids


@given(model_lists(), limit_values, seconds)
def test_wakes_when_something_is_to_be_done_and_not_before(
    models: list[ModelView], limits: Limits, now: float
) -> None:
    decision = decide(models, limits, now)
    if decision.wake_at is None:
        return
    assert decision.wake_at > now
    # Asked at that moment, somebody idles out or is brought to rest for another.
    after = [model for model in models if model.id not in {step.id for step in decision.unload}]
    then = decide(after, limits, decision.wake_at)
    assert then.drain is not None or Reason.IDLE in {step.reason for step in then.unload}


@given(model_lists(), limit_values, seconds)
def test_following_the_decisions_comes_to_rest(
    models: list[ModelView], limits: Limits, now: float
) -> None:
    """Carried out at once, decisions end soon, and whoever can be served is."""
    for _ in range(4 * len(models) + 4):
        decision = decide(models, limits, now)
        models = [_after(model, decision) for model in models]
        if decision.load is None and not decision.unload:
            if not any(
                model.status in {ModelStatus.LOADING, ModelStatus.UNLOADING} for model in models
            ):
                break
            models = [_settled(model) for model in models]
    else:
        raise AssertionError("the policy goes on and on")
    there = [model for model in models if model.status in THERE]
    for model in models:
        if model.waiting and model.status not in THERE:
            assert limits.max_loaded_models
            assert len(there) >= limits.max_loaded_models
            # Nobody who could make room is left, or making room would not be enough.
            free = [m for m in there if not (m.in_flight or m.waiting or m.pinned)]
            assert not free


def _after(model: ModelView, decision: Decision) -> ModelView:
    if model.id == decision.load:
        return msgspec.structs.replace(model, status=ModelStatus.LOADING)
    if model.id in {step.id for step in decision.unload}:
        return msgspec.structs.replace(model, status=ModelStatus.UNLOADING)
    return model


def _settled(model: ModelView) -> ModelView:
    if model.status is ModelStatus.LOADING:
        return msgspec.structs.replace(
            model, status=ModelStatus.LOADED, waiting=0, in_flight=1, pinned=False
        )
    if model.status is ModelStatus.UNLOADING:
        return msgspec.structs.replace(model, status=ModelStatus.UNLOADED, leaving=False)
    return model


def test_the_longest_idle_makes_room() -> None:
    old = ModelView(id="old", status=ModelStatus.LOADED, last_used=1)
    new = ModelView(id="new", status=ModelStatus.LOADED, last_used=2)
    wanted = ModelView(id="wanted", status=ModelStatus.QUEUED, waiting=1, waiting_since=3)
    decision = decide([new, old, wanted], Limits(max_loaded_models=2), 4)
    assert decision == Decision(unload=(Unload("old", Reason.ROOM),))


def test_a_load_waits_for_the_memory_of_whatever_is_on_its_way_out() -> None:
    leaving = ModelView(id="leaving", status=ModelStatus.UNLOADING)
    wanted = ModelView(id="wanted", status=ModelStatus.QUEUED, waiting=1)
    assert decide([leaving, wanted], Limits(), 0) == Decision()
    gone = msgspec.structs.replace(leaving, status=ModelStatus.UNLOADED)
    assert decide([gone, wanted], Limits(), 0) == Decision(load="wanted")


def test_backoff_begins_with_nothing_and_grows_to_a_minute() -> None:
    assert [backoff(n) for n in range(10)] == [0, 0, 1, 2, 4, 8, 16, 32, 60, 60]
    assert backoff(10**6) == 60


def busy(model_id: str, **facts: Any) -> ModelView:
    return ModelView(id=model_id, status=ModelStatus.LOADED, in_flight=1, **facts)


def test_a_model_that_never_rests_is_drained_for_one_that_has_waited_enough() -> None:
    waiting = ModelView(id="b", status=ModelStatus.QUEUED, waiting=1, waiting_since=10.0)
    limits = Limits(max_loaded_models=1)
    early = decide((busy("a"), waiting), limits, 10.0 + PATIENCE - 1)
    assert early.drain is None
    assert early.wake_at == 10.0 + PATIENCE
    late = decide((busy("a"), waiting), limits, 10.0 + PATIENCE)
    assert late.drain == "a"
    assert late.unload == ()


def test_draining_stays_with_its_model_and_spares_the_pinned() -> None:
    waiting = ModelView(id="c", status=ModelStatus.QUEUED, waiting=1, waiting_since=0.0)
    limits = Limits(max_loaded_models=2)
    models = (busy("a"), busy("b", draining=True), waiting)
    assert decide(models, limits, 100.0).drain == "b"
    pinned = (busy("a", pinned=True), busy("b", pinned=True), waiting)
    assert decide(pinned, limits, 100.0).drain is None


def test_a_drained_model_makes_room_although_requests_wait_for_it() -> None:
    drained = ModelView(
        id="a", status=ModelStatus.LOADED, waiting=3, waiting_since=50.0, draining=True
    )
    waiting = ModelView(id="b", status=ModelStatus.QUEUED, waiting=1, waiting_since=0.0)
    decision = decide((drained, waiting), Limits(max_loaded_models=1), 100.0)
    assert [(step.id, step.reason) for step in decision.unload] == [("a", Reason.ROOM)]
