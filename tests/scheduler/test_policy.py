"""Checks the decisions of the policy, for all situations that hypothesis finds."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.llama.needs import Footprint, Need, NeedSource
from cyber_inference_tui.records import ModelStatus
from cyber_inference_tui.scheduler.free_memory import Amount, FreeMemory
from cyber_inference_tui.scheduler.memory_plan import evictable_at
from cyber_inference_tui.scheduler.policy import (
    MEMORY_RETURN_POLL,
    MEMORY_WATCH,
    MEMORY_WATCH_MOST,
    PATIENCE,
    decide,
    retry_delay,
)
from cyber_inference_tui.scheduler.views import (
    AwaitedMemory,
    Decision,
    LoadLimits,
    ModelView,
    Reason,
    Refusal,
    Unload,
)

THERE = {ModelStatus.LOADED, ModelStatus.LOADING, ModelStatus.UNLOADING}
UNLIMITED = FreeMemory(at=float("-inf"), free=None)
NOW = 1_000.0
GB = 10**9
seconds = st.floats(0, 1000).map(lambda value: round(value, 1))
sizes = st.integers(0, 6)


def need(host: int, **more: Any) -> Need:
    return Need(footprint=Footprint(host=host), source=NeedSource.FORMULA, **more)


def fresh(room: int, **more: Any) -> FreeMemory:
    return FreeMemory(at=NOW, free=Amount(room), **more)


@st.composite
def model_lists(draw: st.DrawFn) -> list[ModelView]:
    """Draw models in any states that are possible together: at most one of them loads."""
    views = []
    loading = False
    for number in range(draw(st.integers(0, 6))):
        status = draw(st.sampled_from(ModelStatus))
        if status is ModelStatus.LOADING:
            if loading:
                status = ModelStatus.LOADED
            loading = True
        loaded = status is ModelStatus.LOADED
        size = draw(sizes)
        views.append(
            ModelView(
                id=f"m{number}",
                status=status,
                in_flight=draw(st.integers(0, 2)),
                waiting=draw(st.integers(0, 2)),
                arrival=draw(st.integers(0, 50)) * 10 + number,
                waiting_since=draw(seconds),
                overtaken=draw(st.integers(0, 10)),
                last_used=draw(seconds),
                idle_timeout=draw(st.sampled_from([0.0, 10.0, 300.0])),
                pinned=draw(st.booleans()),
                leaving=draw(st.sampled_from([Reason.REQUEST, Reason.SETTINGS, None]))
                if loaded
                else None,
                admit_before=draw(st.sampled_from([None, None, 200])) if loaded else None,
                need=draw(st.sampled_from([None, need(size), need(size), need(size)])),
                needs_exclusive_memory=draw(st.sampled_from([False, False, True])),
                load_seconds=draw(st.sampled_from([0.0, 0.1, 20.0])),
                freed_on_unload=Amount(size) if loaded else Amount(),
            )
        )
    return views


limit_values = st.builds(
    LoadLimits,
    max_loaded_models=st.integers(0, 4),
    max_overtake=st.integers(0, 9),
    memory_changed_at=st.sampled_from([0.0, NOW]),
    awaited=st.sampled_from(
        [
            None,
            None,
            AwaitedMemory(free=Amount(5), until=NOW - 1),
            AwaitedMemory(free=Amount(5), until=NOW + 3),
        ]
    ),
)
memories = st.one_of(
    st.just(UNLIMITED),
    st.builds(
        FreeMemory,
        at=st.sampled_from([NOW, NOW - 0.5, NOW - 1.5, NOW - 10]),
        free=st.builds(Amount, st.integers(-3, 12)),
        short=st.booleans(),
    ),
)


def by_id(models: list[ModelView]) -> dict[str, ModelView]:
    return {model.id: model for model in models}


@given(model_lists(), limit_values, memories)
def test_a_busy_model_is_never_unloaded(
    models: list[ModelView], limits: LoadLimits, memory: FreeMemory
) -> None:
    for step in decide(models, limits, memory, NOW).unload:
        assert by_id(models)[step.id].in_flight == 0
        assert by_id(models)[step.id].status is ModelStatus.LOADED


@given(model_lists(), limit_values, memories)
def test_a_pinned_or_wanted_model_is_unloaded_only_on_request(
    models: list[ModelView], limits: LoadLimits, memory: FreeMemory
) -> None:
    for step in decide(models, limits, memory, NOW).unload:
        model = by_id(models)[step.id]
        if model.leaving is not None:
            assert step.reason is model.leaving
            continue
        assert not model.pinned
        if model.waiting:
            # Its own requests arrived after a request that has waited enough.
            assert step.reason in {Reason.ROOM, Reason.SHORTAGE, Reason.LIMIT, Reason.IDLE}
            assert model.admit_before is not None
            assert model.arrival >= model.admit_before


@given(model_lists(), limit_values, memories)
def test_a_model_idles_out_exactly_at_its_time_and_never_with_0(
    models: list[ModelView], limits: LoadLimits, memory: FreeMemory
) -> None:
    decision = decide(models, limits, memory, NOW)
    idled = {step.id for step in decision.unload if step.reason is Reason.IDLE}
    for model in models:
        nobody_waits = not model.waiting or (
            model.admit_before is not None and model.arrival >= model.admit_before
        )
        due = (
            model.status is ModelStatus.LOADED
            and not model.in_flight
            and nobody_waits
            and not (model.pinned or model.leaving)
            and model.idle_timeout > 0
            and model.last_used + model.idle_timeout <= NOW
        )
        assert (model.id in idled) == due


@given(model_lists(), limit_values, memories)
def test_loads_are_one_at_a_time_for_a_request_and_not_during_unloads(
    models: list[ModelView], limits: LoadLimits, memory: FreeMemory
) -> None:
    decision = decide(models, limits, memory, NOW)
    if decision.load is not None:
        assert not any(
            model.status in {ModelStatus.LOADING, ModelStatus.UNLOADING} for model in models
        )
        assert not decision.unload
        assert by_id(models)[decision.load].waiting
        assert by_id(models)[decision.load].need is not None
        assert by_id(models)[decision.load].status not in THERE


@given(model_lists(), limit_values, memories)
def test_never_more_than_max_loaded_models(
    models: list[ModelView], limits: LoadLimits, memory: FreeMemory
) -> None:
    decision = decide(models, limits, memory, NOW)
    there = sum(model.status in THERE for model in models)
    if limits.max_loaded_models and decision.load is not None:
        assert there + 1 <= limits.max_loaded_models


@given(model_lists(), limit_values, memories)
def test_a_load_fits_into_a_fresh_reading_of_the_memory(
    models: list[ModelView], limits: LoadLimits, memory: FreeMemory
) -> None:
    decision = decide(models, limits, memory, NOW)
    if decision.load is None or memory.free is None:
        return
    model = by_id(models)[decision.load]
    assert model.need is not None
    assert model.need.footprint.host <= max(0, memory.free.host)
    assert NOW - memory.at <= 1.0
    assert memory.at >= limits.memory_changed_at
    if limits.awaited is not None and limits.awaited.until > NOW:
        assert memory.free.covers(Amount(0, limits.awaited.free.device))


@given(model_lists(), limit_values, memories)
def test_after_running_out_of_memory_a_model_loads_beside_pinned_ones_only(
    models: list[ModelView], limits: LoadLimits, memory: FreeMemory
) -> None:
    decision = decide(models, limits, memory, NOW)
    if decision.load is not None and by_id(models)[decision.load].needs_exclusive_memory:
        assert all(model.pinned for model in models if model.status in THERE)


@given(model_lists(), limit_values, memories)
def test_no_more_victims_than_needed(
    models: list[ModelView], limits: LoadLimits, memory: FreeMemory
) -> None:
    decision = decide(models, limits, memory, NOW)
    victims = [step.id for step in decision.unload if step.reason is Reason.ROOM]
    if not victims:
        return
    assert decision.load is None
    there = sum(model.status is ModelStatus.LOADED for model in models)
    wanted = [model for model in models if model.waiting and model.status not in THERE]
    for spared in victims:
        gone = [victim for victim in victims if victim != spared]
        count = there - len(gone) + 1
        room = None
        if memory.free is not None:
            room = memory.free.host + sum(by_id(models)[one].freed_on_unload.host for one in gone)
        # Without this victim no waiting model would fit.
        assert not all(
            (not limits.max_loaded_models or count <= limits.max_loaded_models)
            and (room is None or (m.need is not None and m.need.footprint.host <= max(0, room)))
            and not m.needs_exclusive_memory
            for m in wanted
        )


@given(model_lists(), limit_values, memories)
def test_no_model_gets_two_actions(
    models: list[ModelView], limits: LoadLimits, memory: FreeMemory
) -> None:
    decision = decide(models, limits, memory, NOW)
    ids = [step.id for step in decision.unload] + [refusal.id for refusal in decision.refuse]
    assert len(ids) == len(set(ids))
    assert decision.load not in ids
    assert not decision.blocked & {*ids, decision.load}


@given(model_lists(), limit_values, memories)
def test_only_busy_models_that_may_go_are_closed_and_for_somebody_blocked(
    models: list[ModelView], limits: LoadLimits, memory: FreeMemory
) -> None:
    decision = decide(models, limits, memory, NOW)
    arrivals = {by_id(models)[model_id].arrival for model_id in decision.blocked}
    for model_id, arrival in decision.admit_before.items():
        model = by_id(models)[model_id]
        assert model.status in {ModelStatus.LOADED, ModelStatus.LOADING}
        assert not model.pinned
        assert arrival in arrivals


@given(model_lists(), limit_values, memories)
def test_a_request_that_waited_enough_closes_models_or_waits_behind_another(
    models: list[ModelView], limits: LoadLimits, memory: FreeMemory
) -> None:
    decision = decide(models, limits, memory, NOW)
    enough = [
        model
        for model in models
        if model.id in decision.blocked and model.overtaken >= limits.max_overtake
    ]
    if enough:
        oldest = min(model.arrival for model in enough)
        before = [
            model
            for model in models
            if model.waiting and model.status not in THERE and model.arrival < oldest
        ]
        # An even earlier request may get the free memory.
        assert decision.admit_before or any(model.id not in decision.blocked for model in before)
        # A later request that has waited enough may close other models as well.
        assert min(decision.admit_before.values(), default=oldest) <= oldest or before
        assert decision.load is None or by_id(models)[decision.load] in before


@given(model_lists(), limit_values, memories)
def test_wakes_only_later(models: list[ModelView], limits: LoadLimits, memory: FreeMemory) -> None:
    decision = decide(models, limits, memory, NOW)
    assert decision.wake_at is None or decision.wake_at > NOW


@given(model_lists(), limit_values, memories)
def test_carrying_out_decisions_ends_and_serves_all_that_can_be_served(
    models: list[ModelView], limits: LoadLimits, memory: FreeMemory
) -> None:
    """If decisions are carried out while time passes and requests end, nobody waits in the end."""
    limits = msgspec.structs.replace(limits, awaited=None)
    models = [
        msgspec.structs.replace(model, need=model.need or need(1), admit_before=None)
        for model in models
    ]
    now = NOW
    for _ in range(20 * len(models) + 20):
        if memory.free is not None:
            memory = msgspec.structs.replace(memory, at=now)
        decision = decide(models, limits, memory, now)
        refused = {refusal.id for refusal in decision.refuse}
        unloaded = {step.id for step in decision.unload}
        acted = bool(decision.load or unloaded or refused)
        after = []
        for model in models:
            change: dict[str, Any] = {}
            if model.status is ModelStatus.LOADED:
                change["admit_before"] = decision.admit_before.get(model.id)
            if model.id == decision.load:
                change |= {"status": ModelStatus.LOADING}
            elif model.id in unloaded:
                change |= {"status": ModelStatus.UNLOADING}
            elif model.id in refused:
                change |= {"status": ModelStatus.FAILED, "waiting": 0}
            elif model.status is ModelStatus.LOADING:
                size = model.need.footprint.host if model.need else 0
                change |= {"status": ModelStatus.LOADED, "waiting": 0, "in_flight": 1}
                change |= {"freed_on_unload": Amount(size), "last_used": now}
                memory = _with_room(memory, -size)
            elif model.status is ModelStatus.UNLOADING:
                change |= {"status": ModelStatus.UNLOADED, "leaving": None, "admit_before": None}
                change |= {"freed_on_unload": Amount()}
                memory = _with_room(memory, model.freed_on_unload.host)
            elif model.status is ModelStatus.LOADED and not acted:
                kept_out = decision.admit_before.get(model.id, 10**9) <= model.arrival
                change |= {"in_flight": 0, "last_used": now}
                if not kept_out and model.leaving is None:
                    change |= {"waiting": 0}
            after.append(msgspec.structs.replace(model, **change))
        if after == models:
            break
        models = after
        now += 10.0
    waiting = [
        model
        for model in models
        if model.waiting and model.status not in THERE and model.id not in refused
    ]
    assert not waiting, (waiting, models)


def _with_room(memory: FreeMemory, more: int) -> FreeMemory:
    if memory.free is None:
        return memory
    return msgspec.structs.replace(memory, free=memory.free + Amount(more))


# Single situations


def loaded(model_id: str, **facts: Any) -> ModelView:
    facts = {"last_used": NOW - 100, **facts}
    return ModelView(id=model_id, status=ModelStatus.LOADED, **facts)


def busy(model_id: str, **facts: Any) -> ModelView:
    return loaded(model_id, in_flight=1, **facts)


def wanted(model_id: str, host: int = 0, **facts: Any) -> ModelView:
    facts = {"arrival": 1, "waiting_since": NOW, "need": need(host), **facts}
    return ModelView(id=model_id, status=ModelStatus.QUEUED, waiting=1, **facts)


def test_a_lower_limit_unloads_idle_models_and_waits_for_the_rest() -> None:
    models = [
        loaded("new", last_used=3),
        loaded("old", last_used=1),
        loaded("kept", last_used=0, pinned=True),
        busy("busy", last_used=0),
    ]
    two = decide(models, LoadLimits(max_loaded_models=2), UNLIMITED, 4)
    assert two.unload == (Unload("old", Reason.LIMIT), Unload("new", Reason.LIMIT))
    three = decide(models, LoadLimits(max_loaded_models=3), UNLIMITED, 4)
    assert three.unload == (Unload("old", Reason.LIMIT),)
    assert decide(models, LoadLimits(max_loaded_models=4), UNLIMITED, 4).unload == ()
    # A model that becomes idle later is unloaded then.
    later = [models[2], loaded("busy", last_used=4)]
    assert decide(later, LoadLimits(max_loaded_models=1), UNLIMITED, 5).unload == (
        Unload("busy", Reason.LIMIT),
    )


def test_the_longest_idle_model_is_evicted() -> None:
    models = [loaded("new", last_used=2), loaded("old", last_used=1), wanted("w")]
    decision = decide(models, LoadLimits(max_loaded_models=2), UNLIMITED, 4)
    assert decision == Decision(unload=(Unload("old", Reason.ROOM),))


def test_a_model_with_a_long_load_is_kept_before_one_used_a_little_later() -> None:
    models = [
        loaded("slow", last_used=NOW - 100, load_seconds=60),
        loaded("quick", last_used=NOW - 80, load_seconds=2),
        wanted("w"),
    ]
    decision = decide(models, LoadLimits(max_loaded_models=2), UNLIMITED, NOW)
    assert decision.unload == (Unload("quick", Reason.ROOM),)


def test_one_victim_replaces_several_with_a_higher_cost() -> None:
    models = [
        loaded("small", freed_on_unload=Amount(1), last_used=NOW - 100),
        loaded("other", freed_on_unload=Amount(2), last_used=NOW - 90),
        loaded("large", freed_on_unload=Amount(4), last_used=NOW - 80),
        wanted("w", 4),
    ]
    decision = decide(models, LoadLimits(), fresh(1), NOW)
    assert decision.unload == (Unload("large", Reason.ROOM),)


def test_only_as_many_victims_as_needed() -> None:
    models = [
        loaded("tiny", freed_on_unload=Amount(1), last_used=NOW - 300),
        loaded("large", freed_on_unload=Amount(8), last_used=NOW - 200),
        wanted("w", 8),
    ]
    # The longest idle model comes first, but stays if the next one alone is enough.
    assert decide(models, LoadLimits(), fresh(0), NOW).unload == (Unload("large", Reason.ROOM),)


def test_a_load_waits_for_the_memory_of_models_that_unload() -> None:
    leaving = ModelView(id="leaving", status=ModelStatus.UNLOADING)
    models = [leaving, wanted("w")]
    assert decide(models, LoadLimits(), UNLIMITED, NOW) == Decision()
    models[0] = msgspec.structs.replace(leaving, status=ModelStatus.UNLOADED)
    assert decide(models, LoadLimits(), UNLIMITED, NOW) == Decision(load="w")


def test_memory_of_ended_servers_is_awaited_before_others_are_evicted() -> None:
    limits = LoadLimits(awaited=AwaitedMemory(free=Amount(5), until=NOW + 3))
    models = [loaded("idle", freed_on_unload=Amount(4)), wanted("w", 5)]
    decision = decide(models, limits, fresh(4), NOW)
    assert decision == Decision(blocked=frozenset({"w"}), wake_at=NOW + MEMORY_RETURN_POLL)
    late = decide(models, limits, fresh(4), NOW + MEMORY_RETURN_POLL)
    assert late.read_memory
    assert late.unload == ()
    assert decide(models, limits, fresh(5), NOW).load == "w"
    given_up = LoadLimits(awaited=AwaitedMemory(free=Amount(5), until=NOW))
    assert decide(models, given_up, fresh(4), NOW).unload == (Unload("idle", Reason.ROOM),)
    # A model that fits is loaded at once; only on cards llama-server would spread it differently.
    assert decide([wanted("w", 4)], limits, fresh(4), NOW).load == "w"
    on_cards = LoadLimits(awaited=AwaitedMemory(free=Amount(0, 5), until=NOW + 3))
    cards = FreeMemory(at=NOW, free=Amount(9, 4), cards=True)
    assert decide([wanted("w", 4)], on_cards, cards, NOW).load is None


def test_an_old_reading_is_renewed_before_a_load() -> None:
    old = FreeMemory(at=NOW - 2, free=Amount(10))
    assert decide([wanted("w", 1)], LoadLimits(), old, NOW) == Decision(read_memory=True)
    changed = LoadLimits(memory_changed_at=NOW)
    assert decide([wanted("w", 1)], changed, fresh(10), NOW).load == "w"
    before = FreeMemory(at=NOW - 0.1, free=Amount(10))
    assert decide([wanted("w", 1)], changed, before, NOW) == Decision(read_memory=True)


def test_a_failed_reading_delays_nothing_and_is_tried_again_later() -> None:
    failed = FreeMemory(at=NOW, free=None)
    assert decide([wanted("w", 1)], LoadLimits(), failed, NOW + 29) == Decision(load="w")
    assert decide([wanted("w", 1)], LoadLimits(), failed, NOW + 31).read_memory
    assert not decide([wanted("w", 1)], LoadLimits(), UNLIMITED, NOW).read_memory


def test_a_model_that_never_fits_is_refused_with_the_numbers() -> None:
    models = [
        loaded("pinned", pinned=True, freed_on_unload=Amount(5)),
        busy("busy", freed_on_unload=Amount(3)),
        loaded("idle", freed_on_unload=Amount(2)),
        wanted("w", 8),
    ]
    refusal = Refusal(id="w", needed=Amount(8), free_at_best=Amount(7))
    assert decide(models, LoadLimits(), fresh(2), NOW).refuse == (refusal,)
    assert decide(models, LoadLimits(), fresh(3), NOW).refuse == ()


def test_a_model_is_refused_if_pinned_models_fill_max_loaded_models() -> None:
    models = [loaded("pinned", pinned=True), wanted("w")]
    refusal = Refusal(id="w", needed=Amount(), free_at_best=None)
    assert decide(models, LoadLimits(max_loaded_models=1), UNLIMITED, NOW).refuse == (refusal,)


def test_a_model_that_fits_loads_before_one_that_waits_for_busy_models() -> None:
    models = [busy("a", freed_on_unload=Amount(5)), wanted("big", 6), wanted("small", 2, arrival=2)]
    decision = decide(models, LoadLimits(), fresh(2), NOW)
    assert decision.load == "small"
    assert decision.blocked == {"big"}
    # Not after the big model has waited enough.
    models[1] = wanted("big", 6, overtaken=8)
    decision = decide(models, LoadLimits(), fresh(2), NOW)
    assert decision.load is None
    assert decision.admit_before == {"a": 1}


def test_idle_models_are_unloaded_one_by_one_when_memory_is_short() -> None:
    models = [loaded("a", last_used=NOW - 50), loaded("b", last_used=NOW - 60), busy("c")]
    decision = decide(models, LoadLimits(), fresh(-5, short=True), NOW)
    assert decision.unload == (Unload("b", Reason.SHORTAGE),)
    pinned = [msgspec.structs.replace(model, pinned=True) for model in models]
    assert decide(pinned, LoadLimits(), fresh(-5, short=True), NOW).unload == ()


def test_the_memory_is_watched_while_a_model_could_be_unloaded() -> None:
    assert decide([loaded("a")], LoadLimits(), fresh(5), NOW).wake_at == NOW + MEMORY_WATCH
    assert decide([loaded("a")], LoadLimits(), fresh(5), NOW + MEMORY_WATCH).read_memory
    assert decide([busy("a")], LoadLimits(), fresh(5), NOW) == Decision()
    assert decide([loaded("a", pinned=True)], LoadLimits(), fresh(5), NOW) == Decision()
    assert decide([], LoadLimits(), fresh(5), NOW) == Decision()


@pytest.mark.parametrize(
    ("spare", "pause"),
    [(0, MEMORY_WATCH), (7 * GB, MEMORY_WATCH), (20 * GB, 5.0), (500 * GB, MEMORY_WATCH_MOST)],
)
def test_the_more_memory_there_is_the_less_often_it_is_read(spare: int, pause: float) -> None:
    memory = FreeMemory(at=NOW, free=Amount(5), spare=spare)
    assert decide([loaded("a")], LoadLimits(), memory, NOW).wake_at == NOW + pause
    assert not decide([loaded("a")], LoadLimits(), memory, NOW + pause - 0.1).read_memory
    assert decide([loaded("a")], LoadLimits(), memory, NOW + pause).read_memory
    # A request for another model does not wait for that.
    assert decide([loaded("a"), wanted("b")], LoadLimits(), memory, NOW + 1.5).read_memory


def test_layers_that_do_not_fit_on_cards_are_in_main_memory() -> None:
    spills = Need(footprint=Footprint(device=10, mapped=1), source=NeedSource.FORMULA, spills=True)
    w = msgspec.structs.replace(wanted("w"), need=spills)
    cards = FreeMemory(at=NOW, free=Amount(8, 6), cards=True)
    assert decide([w], LoadLimits(), cards, NOW).load == "w"
    # Idle models on cards are evicted first, because layers there are faster.
    models = [loaded("idle", freed_on_unload=Amount(0, 4)), w]
    assert decide(models, LoadLimits(), cards, NOW).unload == (Unload("idle", Reason.ROOM),)
    fixed = msgspec.structs.replace(w, need=msgspec.structs.replace(spills, spills=False))
    assert decide([fixed], LoadLimits(), cards, NOW).refuse == (
        Refusal(id="w", needed=Amount(1, 10), free_at_best=Amount(8, 6)),
    )


def test_a_model_waits_for_the_estimate_of_its_need() -> None:
    assert decide([wanted("w", need=None)], LoadLimits(), fresh(5), NOW).load is None


def test_a_model_that_loads_only_into_free_memory_evicts_nobody() -> None:
    models = [loaded("idle", freed_on_unload=Amount(5)), wanted("w", 4, only_if_free=True)]
    assert decide(models, LoadLimits(), fresh(4), NOW).load == "w"
    decision = decide(models, LoadLimits(), fresh(3), NOW)
    assert [refusal.id for refusal in decision.refuse] == ["w"]
    assert decision.unload == ()
    # Not before all loads and unloads under way have ended.
    models.append(ModelView(id="leaving", status=ModelStatus.UNLOADING, freed_on_unload=Amount(2)))
    assert decide(models, LoadLimits(), fresh(3), NOW).refuse == ()


def test_backoff_begins_with_nothing_and_grows_to_a_minute() -> None:
    assert [retry_delay(n) for n in range(10)] == [0, 0, 1, 2, 4, 8, 16, 32, 60, 60]
    assert retry_delay(10**6) == 60


def test_a_busy_model_is_closed_for_one_that_has_waited_long_enough() -> None:
    waiting = wanted("b", waiting_since=NOW)
    limits = LoadLimits(max_loaded_models=1)
    early = decide((busy("a"), waiting), limits, UNLIMITED, NOW + PATIENCE - 1)
    assert early.admit_before == {}
    assert early.wake_at == NOW + PATIENCE
    late = decide((busy("a"), waiting), limits, UNLIMITED, NOW + PATIENCE)
    assert late.admit_before == {"a": 1}
    assert late.unload == ()


def test_patience_grows_with_what_a_change_of_models_costs() -> None:
    models = (busy("a", load_seconds=20.0), wanted("b", load_seconds=10.0))
    limits = LoadLimits(max_loaded_models=1)
    assert decide(models, limits, UNLIMITED, NOW + 59).admit_before == {}
    assert decide(models, limits, UNLIMITED, NOW + 60).admit_before == {"a": 1}


def test_closing_stays_with_its_model_and_never_hits_a_pinned_one() -> None:
    waiting = wanted("c", overtaken=8)
    limits = LoadLimits(max_loaded_models=2)
    models = (busy("a"), busy("b", admit_before=1), waiting)
    assert decide(models, limits, UNLIMITED, NOW).admit_before == {"b": 1}
    one_pinned = (busy("a"), busy("b", pinned=True), waiting)
    assert decide(one_pinned, limits, UNLIMITED, NOW).admit_before == {"a": 1}


def test_two_that_have_waited_long_enough_each_close_a_model() -> None:
    models = (busy("a"), busy("b"), wanted("c", overtaken=8), wanted("d", overtaken=8, arrival=2))
    assert decide(models, LoadLimits(max_loaded_models=2), UNLIMITED, NOW).admit_before == {
        "a": 1,
        "b": 2,
    }


def test_a_closed_model_is_evicted_although_later_requests_wait_for_it() -> None:
    closed = loaded("a", waiting=3, arrival=5, admit_before=1, last_used=NOW)
    decision = decide(
        (closed, wanted("b", overtaken=8)), LoadLimits(max_loaded_models=1), UNLIMITED, NOW
    )
    assert [(step.id, step.reason) for step in decision.unload] == [("a", Reason.ROOM)]
    earlier = msgspec.structs.replace(closed, arrival=0)
    decision = decide(
        (earlier, wanted("b", overtaken=8)), LoadLimits(max_loaded_models=1), UNLIMITED, NOW
    )
    assert decision.unload == ()


@pytest.mark.parametrize("load_seconds", [0.0, 1.0, 100.0])
def test_a_model_stays_for_a_moment_between_two_requests_of_one_client(
    load_seconds: float,
) -> None:
    model = loaded("a", last_used=NOW, load_seconds=load_seconds)
    limits = LoadLimits(max_loaded_models=1)
    rested = evictable_at(model)
    assert rested - NOW == pytest.approx(min(0.5, 0.2 * load_seconds))
    if load_seconds:
        decision = decide((model, wanted("b")), limits, UNLIMITED, NOW)
        assert decision.unload == ()
        assert decision.wake_at == rested
    assert decide((model, wanted("b")), limits, UNLIMITED, rested).unload == (
        Unload("a", Reason.ROOM),
    )
