"""Decides which models to load and to unload: a pure function without a clock, processes or logs.

``ControlLoop`` carries a decision out and asks again after every change. ``MemoryPlan`` has the
arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import NamedTuple

from cyber_inference_tui.backoff import backoff
from cyber_inference_tui.records import ModelStatus, Priority
from cyber_inference_tui.scheduler.free_memory import Amount, FreeMemory
from cyber_inference_tui.scheduler.memory_plan import MemoryPlan, can_unload, eviction_cost
from cyber_inference_tui.scheduler.shares import WEIGHTS, highest
from cyber_inference_tui.scheduler.views import (
    Decision,
    LoadLimits,
    ModelView,
    Reason,
    Refusal,
    Unload,
)

STABLE_AFTER = 60.0
"""Seconds after which a running server's earlier failures are forgotten."""

PATIENCE = 5.0
"""Seconds that a request waits at least before busy models get no new requests for its sake."""
_PATIENCE_LOADS = 2.0
"""A model keeps its turn for at least so many times the duration of the change to another, so that
changes never take most of the time."""
_PATIENCE_MOST = 120.0
"""Seconds after which a request of a lower priority has waited enough for busy models, unless a
change takes longer."""

MEMORY_FRESH = 1.0
"""Seconds for which a memory reading is recent enough for a load."""
MEMORY_WATCH = 2.0
"""Seconds between memory readings while idle models could be unloaded for other programs, at least.
With much memory to spare it is the time in which other programs could take that, at most
``MEMORY_WATCH_MOST``."""
MEMORY_WATCH_MOST = 10.0
TAKEN_PER_SECOND = 4_000_000_000
"""Bytes that programs can take in a second: one core zeroes some 1 to 2 GB."""
MEMORY_RETRY = 30.0
"""Seconds between tries when the memory cannot be read."""
MEMORY_RETURN_POLL = 0.1
"""Seconds between memory readings while the memory of an ended server is awaited."""

_LONGEST_DELAY = 60.0


Policy = Callable[[Sequence[ModelView], LoadLimits, FreeMemory, float], Decision]
"""A function from models, limits, memory and the time to a decision."""


def decide(
    models: Sequence[ModelView], limits: LoadLimits, memory: FreeMemory, now: float
) -> Decision:
    """Return the next actions.

    * A model that is leaving is unloaded as soon as it is not busy, an idle model after its
      timeout.
    * Models are loaded one at a time, when no other is being unloaded, and by a recent reading of
      the memory, because llama-server fits itself to the memory that is free at its start. If the
      memory of an ended server is not free yet, a load waits for it before others are evicted.
    * The model whose request came first is loaded next, or one with a request of a higher priority,
      unless the first has waited enough. If the next one does not fit, idle models are
      evicted: those with the lowest cost, and no more than needed. Busy and pinned models are
      never evicted. While a model waits for busy models, others that fit may be loaded before it.
    * A request waits behind at most ``max_overtake`` later requests for other models, and not much
      longer than a change of models takes. Then the busy models in its way get no later requests,
      and are evicted when theirs have ended. The weights of their priorities multiply the number
      and the time.
    * A model that would not fit even after all possible evictions is refused. A preload is refused
      if the model does not fit now.
    * If other programs leave too little memory, an idle model is unloaded.
    * If more models are loaded than ``max_loaded_models`` allows (after a change), idle models are
      unloaded.
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
    wanted = _in_order([model for model in models if _wants_load(model)], limits, now)

    check = _check_memory(models, limits, memory, now, in_flux=in_flux, wanted=bool(wanted))
    deadlines += check.again
    settled = check.fresh and not in_flux
    order = _LoadOrder(
        models,
        limits,
        memory,
        now,
        going,
        may_load=settled and check.back_on_cards,
        may_unload=settled and check.back,
    )
    for model in wanted:
        order.plan(model)
    unload += order.unload
    deadlines += order.deadlines
    if memory.short and settled and check.back and not unload and order.load is None:
        unload += _for_other_programs(models, now)
    return Decision(
        load=order.load,
        unload=tuple(unload),
        refuse=tuple(order.refuse),
        admit_before=order.admit_before,
        blocked=frozenset(order.blocked),
        read_memory=check.read,
        wake_at=min((time for time in deadlines if time > now), default=None),
    )


class _LoadOrder:
    """Goes through the models to load in the order of their requests, and collects the actions."""

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
        """The plan with all models that were planned so far."""
        return self._make_plan()

    @cached_property
    def _at_best(self) -> MemoryPlan:
        """The plan without them."""
        return self._make_plan()

    def plan(self, model: ModelView) -> None:
        """Decide what to do for ``model``, after everything for the models before it."""
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
            # Memory is about to become free, perhaps for this model: no later model takes it.
            self._enough()

    def _enough(self) -> None:
        """Begin nothing for later models; the next decision is about them."""
        self._may_load = self._may_unload = False

    def _hold(self, model: ModelView, victims: Sequence[ModelView]) -> None:
        """Note a model for which nothing can be done now; its victims must not get busy."""
        if victims:
            self.blocked.add(model.id)
        for victim in victims:
            if victim.admit_before is not None or model.overtaken >= self._limits.max_overtake:
                self.admit_before.setdefault(victim.id, model.arrival)

    def _wait_for_busy(self, model: ModelView) -> None:
        self.blocked.add(model.id)
        in_the_way = self._plan.busy_victims_for(model)
        change = model.load_seconds + max((busy.load_seconds for busy in in_the_way), default=0.0)
        before = highest([busy.priority for busy in in_the_way] or [model.priority])
        patience = _patience(model, before, change)
        if model.overtaken < self._limits.max_overtake:
            enough = model.waiting_since + patience
            self.deadlines.append(enough)
            if self._now < enough:
                # A model that was in use a moment ago may be evicted soon.
                self.deadlines += self._plan.later_evictable
                return
        for busy in in_the_way:
            self.admit_before.setdefault(busy.id, model.arrival)
        # The memory that becomes free is for this model: no later model takes it.
        self._enough()
        if in_the_way:
            self._plan.take_when_free(model, in_the_way)


class _MemoryCheck(NamedTuple):
    """The usefulness of the last memory reading, and the need for another."""

    fresh: bool = False
    """The last reading is recent enough for a load."""
    back: bool = True
    """The memory of all ended servers is free again, or was awaited long enough."""
    back_on_cards: bool = True
    """The same for the memory of the cards alone."""
    read: bool = False
    again: tuple[float, ...] = ()
    """Times of the next check."""


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
        # A reading that failed is tried again from time to time, unless there is no reader.
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
    due = memory.at + _memory_watch(memory)
    return _MemoryCheck(fresh, again=(due,)) if current and now < due else _MemoryCheck(read=True)


def _memory_watch(memory: FreeMemory) -> float:
    """Return the seconds from this reading to the next one at rest."""
    return min(max(MEMORY_WATCH, memory.spare / TAKEN_PER_SECOND), MEMORY_WATCH_MOST)


def _over_limit(
    models: Sequence[ModelView], limits: LoadLimits, going: set[str], now: float
) -> list[Unload]:
    """The idle models with the lowest cost, for each that is loaded beyond the limit."""
    loaded = [
        model
        for model in models
        if model.status in {ModelStatus.LOADING, ModelStatus.LOADED} and model.id not in going
    ]
    if not limits.max_loaded_models or len(loaded) <= limits.max_loaded_models:
        return []
    idle = [model for model in loaded if can_unload(model) and not model.pinned]
    idle.sort(key=lambda model: eviction_cost(model, now))
    excess = len(loaded) - limits.max_loaded_models
    return [Unload(model.id, Reason.LIMIT) for model in idle[:excess]]


def _for_other_programs(models: Sequence[ModelView], now: float) -> list[Unload]:
    """The idle model with the lowest cost: one at a time, since each makes memory free."""
    idle = [model for model in models if can_unload(model) and not model.pinned]
    if not idle:
        return []
    return [Unload(min(idle, key=lambda model: eviction_cost(model, now)).id, Reason.SHORTAGE)]


def _in_order(wanted: Sequence[ModelView], limits: LoadLimits, now: float) -> list[ModelView]:
    """Return the models in the order in which they are to be loaded."""
    top = highest(model.priority for model in wanted)

    def rank(model: ModelView) -> tuple[int, int]:
        has_waited_enough = (
            model.overtaken >= limits.max_overtake
            or now >= model.waiting_since + _patience(model, top, model.load_seconds)
        )
        return -WEIGHTS[top if has_waited_enough else model.priority], model.arrival

    return sorted(wanted, key=rank)


def _patience(model: ModelView, before: Priority, change: float) -> float:
    """Return the seconds that the model waits for requests of the priority ``before``.

    ``change`` is the duration of the change to it, in seconds.
    """
    patience = max(PATIENCE, _PATIENCE_LOADS * change)
    longer = patience * WEIGHTS[before] / WEIGHTS[model.priority]
    return max(patience, min(longer, _PATIENCE_MOST))


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


def retry_delay(failures: int) -> float:
    """Return the pause after so many failures in a row, in seconds: 0, then 1, 2, 4 … 60."""
    return 0.0 if failures <= 1 else backoff(1.0, _LONGEST_DELAY, failures - 1)
