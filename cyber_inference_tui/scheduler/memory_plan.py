"""Works out which models fit and which have to be evicted for them. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from cyber_inference_tui.records import ModelStatus
from cyber_inference_tui.scheduler.free_memory import Amount, FreeMemory, needed_amount
from cyber_inference_tui.scheduler.shares import WEIGHTS
from cyber_inference_tui.scheduler.views import LoadLimits, ModelView, Refusal

_LINGER_MOST = 0.5
_LINGER_SHARE = 0.2
"""The share of its load time for which a model is not evicted after a request. Without that pause,
a client that sends one request after the other could have it loaded for each."""

_LEAST_LOAD = 1.0
"""Seconds. Below this, the duration of a load makes no difference to the cost."""
_LEAST_IDLE = 0.001


def can_unload(model: ModelView) -> bool:
    """Return whether unloading it now would interrupt no request."""
    if model.status is not ModelStatus.LOADED or model.in_flight:
        return False
    kept_out = model.admit_before is not None and model.arrival >= model.admit_before
    return model.waiting == 0 or model.leaving is not None or kept_out


def eviction_cost(model: ModelView, now: float) -> tuple[float, float, str]:
    """Return the cost of an eviction: the duration of the next load, divided by the idle time.

    The second and the third part make the order total.
    """
    idle = max(_LEAST_IDLE, now - model.last_used)
    return max(_LEAST_LOAD, model.load_seconds) / idle, model.last_used, model.id


def evictable_at(model: ModelView) -> float:
    """Return the time from which on a model without requests may be evicted."""
    if model.admit_before is not None:
        return model.last_used
    return model.last_used + min(_LINGER_MOST, _LINGER_SHARE * model.load_seconds)


class MemoryPlan:
    """The memory after all loads and unloads under way, and the models that may be evicted.

    ``take`` adds a model; later answers are about the memory that is left then.
    """

    def __init__(
        self,
        models: Sequence[ModelView],
        limits: LoadLimits,
        memory: FreeMemory,
        now: float,
        going: Collection[str],
    ) -> None:
        self._limits = limits
        self._now = now
        self._memory = memory
        self._count = 0
        self._idle: list[ModelView] = []
        self._busy: list[ModelView] = []
        self._freed = {model.id: model.freed_on_unload for model in models}
        self.later_evictable: list[float] = []
        """The times from which on models may be evicted that were in use a moment ago."""
        loading: list[ModelView] = []
        for model in models:
            if model.status is ModelStatus.UNLOADING or model.id in going:
                self._free(model)
            elif model.status is ModelStatus.LOADING:
                loading.append(model)
            elif model.status is ModelStatus.LOADED:
                self._count += 1
                if not model.pinned:
                    self._sort_in(model)
        self._idle.sort(key=lambda model: eviction_cost(model, now))
        # The end of a load under way would free the memory that the load reserves.
        for model in loading:
            self._freed[model.id] = self.amount(model)
            self.take(model, ())
            if not model.pinned:
                self._busy.append(model)

    def free_for(self, model: ModelView) -> Amount | None:
        """Return the memory that ``model`` may use without evictions; ``None`` = unknown."""
        return self._memory.free_for(_visible(model))

    def count_allows(self) -> bool:
        """Return whether ``max_loaded_models`` allows another model without evictions."""
        return self._count_allows(())

    def _sort_in(self, model: ModelView) -> None:
        if not can_unload(model):
            self._busy.append(model)
        elif evictable_at(model) <= self._now:
            self._idle.append(model)
        else:
            self.later_evictable.append(evictable_at(model))
            self._busy.append(model)

    def _free(self, model: ModelView) -> None:
        self._memory = self._with(model)

    def _with(self, *gone: ModelView) -> FreeMemory:
        """Return the memory without these models."""
        memory = self._memory
        for model in gone:
            memory = memory.plus(self._freed[model.id], _visible(model))
        return memory

    def amount(self, model: ModelView) -> Amount:
        """Return the memory that ``model`` needs."""
        if model.need is None:
            return Amount()
        device = 0
        cards = self._memory.cards_for(_visible(model))
        if cards and model.need.spills:
            at_best = self._free_without(model, self._idle + self._busy)
            device = at_best.device if at_best else 0
        return needed_amount(model.need, cards=cards, device_at_most=device)

    def _free_without(self, model: ModelView, gone: Sequence[ModelView]) -> Amount | None:
        """Return the memory that ``model`` may use without the models in ``gone``."""
        return self._with(*gone).free_for(_visible(model))

    def _fits(self, model: ModelView, gone: Sequence[ModelView]) -> bool:
        """Return whether ``model`` fits without the models in ``gone``."""
        if model.needs_exclusive_memory and len(gone) < len(self._idle) + len(self._busy):
            return False
        return self._count_allows(gone) and self._memory_allows(model, gone)

    def _count_allows(self, gone: Sequence[ModelView]) -> bool:
        most = self._limits.max_loaded_models
        return most == 0 or self._count - len(gone) + 1 <= most

    def _memory_allows(self, model: ModelView, gone: Sequence[ModelView]) -> bool:
        free = self._free_without(model, gone)
        return free is None or free.covers(self.amount(model))

    def victims_for(self, model: ModelView) -> tuple[ModelView, ...] | None:
        """Return the idle models to evict for ``model``, none if it fits; ``None`` = not enough.

        They are those with the lowest cost, and only as many as needed. A single model replaces
        several if its cost is lower than their sum.
        """
        if self._fits(model, ()):
            return ()
        chosen = self._fewest(model, (), self._idle)
        if chosen is None or len(chosen) < 2:
            return chosen
        cost = sum(eviction_cost(victim, self._now)[0] for victim in chosen)
        for single in self._idle:
            if eviction_cost(single, self._now)[0] < cost and self._fits(model, (single,)):
                return (single,)
        return chosen

    def fits(self, model: ModelView) -> bool:
        """Return whether it fits without evictions."""
        return self._fits(model, ())

    def busy_victims_for(self, model: ModelView) -> tuple[ModelView, ...]:
        """Return the busy models to evict for ``model`` beside all idle ones, as few as needed."""
        in_order = sorted(
            self._busy,
            key=lambda busy: (
                busy.leaving is None,
                busy.admit_before is None,
                WEIGHTS[busy.priority],
                busy.in_flight + busy.waiting,
                eviction_cost(busy, self._now),
            ),
        )
        return self._fewest(model, tuple(self._idle), in_order) or ()

    def _fewest(
        self, model: ModelView, gone: Sequence[ModelView], in_order: Sequence[ModelView]
    ) -> tuple[ModelView, ...] | None:
        """Return the first of ``in_order`` to evict beside ``gone``; ``None`` = too few."""
        chosen: list[ModelView] = []
        for candidate in in_order:
            chosen.append(candidate)
            if self._fits(model, (*gone, *chosen)):
                break
        else:
            return None
        for candidate in reversed(chosen[:-1]):
            fewer = [other for other in chosen if other is not candidate]
            if self._fits(model, (*gone, *fewer)):
                chosen = fewer
        return tuple(chosen)

    def could_fit(self, model: ModelView) -> bool:
        """Return whether it fits when every model is evicted that may be."""
        return self._fits(model, self._idle + self._busy)

    def refusal(self, model: ModelView) -> Refusal:
        """Return why it could not fit."""
        everything = [] if model.only_if_free else self._idle + self._busy
        lacks_memory = not self._memory_allows(model, everything)
        return Refusal(
            id=model.id,
            needed=self.amount(model),
            free_at_best=self._free_without(model, everything) if lacks_memory else None,
            visible=_visible(model),
        )

    def take(self, model: ModelView, gone: Sequence[ModelView]) -> None:
        """Add ``model`` and evict the models in ``gone``."""
        amount = self.amount(model)
        for victim in gone:
            self._free(victim)
        self._count += 1 - len(gone)
        self._memory = self._memory.plus(Amount() - amount, _visible(model))
        ids = {victim.id for victim in gone}
        self._idle = [other for other in self._idle if other.id not in ids]
        self._busy = [other for other in self._busy if other.id not in ids]

    def take_when_free(self, model: ModelView, closed: Sequence[ModelView]) -> None:
        """Add ``model`` and evict these busy models and as many idle ones as needed."""
        idle = () if self._fits(model, closed) else self._fewest(model, closed, self._idle)
        self.take(model, (*closed, *(idle or ())))


def _visible(model: ModelView) -> str | None:
    return None if model.need is None else model.need.visible
