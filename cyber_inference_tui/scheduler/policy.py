"""Which model to load and which to unload: a pure function of what is known at one moment.

No clock, no processes, no logging: ``decide`` gets frozen views and returns what to do next. The
scheduler carries it out and asks again after every change. ``plan`` has the arithmetic of room.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import NamedTuple

from cyber_inference_tui.records import ModelStatus
from cyber_inference_tui.scheduler.free_memory import Amount, FreeMemory
from cyber_inference_tui.scheduler.memory_plan import MemoryPlan, can_unload, eviction_cost
from cyber_inference_tui.scheduler.views import (
    Decision,
    LoadLimits,
    ModelView,
    Reason,
    Refusal,
    Unload,
)

STABLE_AFTER = 60.0
"""Seconds a server must have run for its earlier failures to be forgotten."""

PATIENCE = 5.0
"""Seconds a request waits for busy models at least, before they get no new requests for it."""
_PATIENCE_LOADS = 2.0
"""A turn lasts at least so many times what the change of models costs, so that changing back and
forth never takes most of the time."""

MEMORY_FRESH = 1.0
"""Seconds for which a reading of the memory is good enough to load by."""
MEMORY_WATCH = 2.0
"""Seconds between readings while idle models could be unloaded for other programs."""
MEMORY_RETRY = 30.0
"""Seconds after which a reading that failed is tried again."""
MEMORY_RETURN_POLL = 0.1
"""Seconds between readings while the memory of a server that ended is awaited."""

_BACKOFF_MOST = 60.0


Policy = Callable[[Sequence[ModelView], LoadLimits, FreeMemory, float], Decision]
"""Models, limits, memory and the time in; what to do out."""


def decide(
    models: Sequence[ModelView], limits: LoadLimits, memory: FreeMemory, now: float
) -> Decision:
    """The next steps.

    * A model that was asked to leave goes as soon as it is not busy; an idle one after its time.
    * Loads are one at a time, when nothing is on its way out, and by a fresh reading of the memory:
      llama-server fits itself to what it finds free at its start. What does not fit yet because the
      memory of an ended server is still on its way back waits for that, before others have to go.
    * The model whose request came first is loaded next. Where it does not fit, idle models make
      room: those that are missed least, and no more of them than needed. A busy or pinned one
      never does; and while one waits for busy ones, others that fit may be loaded before it.
    * Nobody waits behind more than ``max_overtake`` later requests for other models, nor much
      longer than it takes to change models: then the busy ones that stand in the way get no later
      requests, end those they have, and go.
    * What cannot fit even with every other model gone is refused, and so is one that is wanted
      only if there is room, when there is none.
    * When other programs leave too little memory, idle models go first.
    * When more models are loaded than ``max_loaded_models`` allows (it was lowered), idle ones go.
    """
    unload = [
        Unload(model.id, model.leaving or Reason.IDLE)
        for model in models
        if can_unload(model) and (model.leaving or (_idles_out(model) and now >= _idle_at(model)))
    ]
    unload += _over_limit(models, limits, {step.id for step in unload}, now)
    going = {step.id for step in unload}
    in_flux = bool(going) or any(
        model.status in {ModelStatus.LOADING, ModelStatus.UNLOADING} for model in models
    )
    deadlines = [
        _idle_at(model)
        for model in models
        if can_unload(model) and _idles_out(model) and model.id not in going
    ]
    wanted = sorted((model for model in models if _wants_load(model)), key=lambda m: m.arrival)

    look = _check_memory(models, limits, memory, now, in_flux=in_flux, wanted=bool(wanted))
    deadlines += look.again
    settled = look.fresh and not in_flux
    turns = _LoadOrder(
        models,
        limits,
        memory,
        now,
        going,
        may_load=settled and look.back_on_cards,
        may_unload=settled and look.back,
    )
    for model in wanted:
        turns.give(model)
    unload += turns.unload
    deadlines += turns.deadlines
    if memory.short and settled and look.back and not unload and turns.load is None:
        unload += _for_other_programs(models, now)
    return Decision(
        load=turns.load,
        unload=tuple(unload),
        refuse=tuple(turns.refuse),
        admit_before=turns.admit_before,
        blocked=frozenset(turns.blocked),
        read_memory=look.read,
        wake_at=min((time for time in deadlines if time > now), default=None),
    )


class _LoadOrder:
    """Gives those who want a load their turns, oldest first, and collects what follows."""

    def __init__(
        self,
        models: Sequence[ModelView],
        limits: LoadLimits,
        memory: FreeMemory,
        now: float,
        going: set[str],
        *,
        may_load: bool,
        may_unload: bool,
    ) -> None:
        self._limits = limits
        self._now = now
        self._may_load = may_load
        self._may_unload = self._may_refuse = may_unload
        self._make_plan = partial(MemoryPlan, models, limits, memory, now, going)
        self.load: str | None = None
        self.unload: list[Unload] = []
        self.refuse: list[Refusal] = []
        self.admit_before: dict[str, int] = {}
        self.blocked: set[str] = set()
        self.deadlines: list[float] = []

    @cached_property
    def _plan(self) -> MemoryPlan:
        """The plan with all that was taken so far."""
        return self._make_plan()

    @cached_property
    def _at_best(self) -> MemoryPlan:
        """The plan before anything was taken."""
        return self._make_plan()

    def give(self, model: ModelView) -> None:
        """What can be done for ``model``, after all that was planned for those before it."""
        if model.need is None:
            return
        victims = self._plan.victims_for(model)
        if model.only_if_free and victims != ():
            if self._may_refuse:
                self.refuse.append(self._plan.refusal(model))
        elif victims is not None:
            if not victims and self._may_load:
                self.load = model.id
                self._enough()
            elif victims and self._may_unload:
                self.unload += [Unload(victim.id, Reason.ROOM) for victim in victims]
                self._enough()
            else:
                self._hold(model, victims)
            self._plan.take(model, victims)
        elif not self._at_best.could_fit(model):
            if self._may_refuse:
                self.refuse.append(self._at_best.refusal(model))
        else:
            self._wait_for_busy(model)
        if not self._may_refuse:
            # Memory is on its way back, maybe for this one: nobody later takes it meanwhile.
            self._enough()

    def _enough(self) -> None:
        """One step at a time: the others are asked about when it is done."""
        self._may_load = self._may_unload = False

    def _hold(self, model: ModelView, victims: Sequence[ModelView]) -> None:
        """Nothing can be done for it at this moment: what is to go for it must not get busy."""
        if victims:
            self.blocked.add(model.id)
        for victim in victims:
            if victim.admit_before is not None or model.overtaken >= self._limits.max_overtake:
                self.admit_before.setdefault(victim.id, model.arrival)

    def _wait_for_busy(self, model: ModelView) -> None:
        self.blocked.add(model.id)
        in_the_way = self._plan.busy_victims_for(model)
        patience = max(
            PATIENCE,
            _PATIENCE_LOADS
            * (model.load_seconds + max((one.load_seconds for one in in_the_way), default=0.0)),
        )
        if model.overtaken < self._limits.max_overtake:
            enough = model.waiting_since + patience
            self.deadlines.append(enough)
            if self._now < enough:
                # One that rests for a moment may be let go soon.
                self.deadlines += self._plan.rests
                return
        for one in in_the_way:
            self.admit_before.setdefault(one.id, model.arrival)
        # The room that comes free is for this one: nobody slips in before it.
        self._enough()
        if in_the_way:
            self._plan.take_when_free(model, in_the_way)


class _MemoryCheck(NamedTuple):
    """What is known of the memory, and what to do about it."""

    fresh: bool = False
    """The last reading is new enough to load by."""
    back: bool = True
    """All that ended servers held was seen to be back, or has been waited for long enough."""
    back_on_cards: bool = True
    """The same for the cards alone."""
    read: bool = False
    again: tuple[float, ...] = ()
    """When to look again."""


def _check_memory(
    models: Sequence[ModelView],
    limits: LoadLimits,
    memory: FreeMemory,
    now: float,
    *,
    in_flux: bool,
    wanted: bool,
) -> _MemoryCheck:
    age = now - memory.at
    if memory.free is None:
        # A reading that failed is tried again, now and then; one that cannot be is not.
        retry = wanted and not in_flux and MEMORY_RETRY < age < float("inf")
        return _MemoryCheck(fresh=True, read=retry)
    current = memory.at >= limits.memory_changed_at
    fresh = current and age <= MEMORY_FRESH
    could_go = any(can_unload(model) and not model.pinned for model in models)
    if in_flux or not (wanted or could_go):
        return _MemoryCheck(fresh)
    awaited = limits.awaited
    if awaited is not None and now < awaited.until:
        back = current and memory.free.covers(awaited.free)
        if not back:
            on_cards = current and memory.free.covers(Amount(0, awaited.free.device))
            due = memory.at + (MEMORY_RETURN_POLL if wanted else MEMORY_WATCH) if current else now
            return _MemoryCheck(fresh, back, on_cards, now >= due, (min(due, awaited.until),))
    if wanted and not fresh:
        return _MemoryCheck(read=True)
    if not could_go:
        return _MemoryCheck(fresh)
    due = memory.at + MEMORY_WATCH
    return _MemoryCheck(fresh, again=(due,)) if current and now < due else _MemoryCheck(read=True)


def _over_limit(
    models: Sequence[ModelView], limits: LoadLimits, going: set[str], now: float
) -> list[Unload]:
    """The idle models that are missed least, so many as are loaded beyond the limit."""
    there = [
        model
        for model in models
        if model.status in {ModelStatus.LOADING, ModelStatus.LOADED} and model.id not in going
    ]
    if not limits.max_loaded_models or len(there) <= limits.max_loaded_models:
        return []
    idle = [model for model in there if can_unload(model) and not model.pinned]
    idle.sort(key=lambda model: eviction_cost(model, now))
    return [Unload(one.id, Reason.LIMIT) for one in idle[: len(there) - limits.max_loaded_models]]


def _for_other_programs(models: Sequence[ModelView], now: float) -> list[Unload]:
    """The idle model that is missed least: one at a time, for each gives memory back."""
    idle = [model for model in models if can_unload(model) and not model.pinned]
    if not idle:
        return []
    return [Unload(min(idle, key=lambda model: eviction_cost(model, now)).id, Reason.SHORTAGE)]


def _wants_load(model: ModelView) -> bool:
    return model.waiting > 0 and model.status in {
        ModelStatus.UNLOADED,
        ModelStatus.QUEUED,
        ModelStatus.FAILED,
    }


def _idles_out(model: ModelView) -> bool:
    return model.idle_timeout > 0 and not model.pinned


def _idle_at(model: ModelView) -> float:
    return model.last_used + model.idle_timeout


def backoff(failures: int) -> float:
    """Seconds to wait after the ``failures``-th failure in a row: none, then 1, 2, 4 … 60."""
    if failures <= 1:
        return 0.0
    return min(_BACKOFF_MOST, 2.0 ** min(failures - 2, 10))
