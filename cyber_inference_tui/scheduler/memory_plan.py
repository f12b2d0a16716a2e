"""The arithmetic of room: what fits, what has to go for it, and what is missed least. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from cyber_inference_tui.records import ModelStatus
from cyber_inference_tui.scheduler.free_memory import Amount, FreeMemory, needed_amount
from cyber_inference_tui.scheduler.views import LoadLimits, ModelView, Refusal

_LINGER_MOST = 0.5
_LINGER_SHARE = 0.2
"""Of a model's load time: so long it may rest between two requests before it makes room, for
clients that ask one after the other would have it loaded again and again."""

_LEAST_LOAD = 1.0
"""Seconds. Loads shorter than this are all alike: then only the time without use counts."""
_LEAST_IDLE = 0.001


def can_unload(model: ModelView) -> bool:
    """Whether unloading it now would cut nobody off."""
    if model.status is not ModelStatus.LOADED or model.in_flight:
        return False
    kept_out = model.admit_before is not None and model.arrival >= model.admit_before
    return model.waiting == 0 or model.leaving is not None or kept_out


def eviction_cost(model: ModelView, now: float) -> tuple[float, float, str]:
    """How much a model would be missed: the cost of loading it again, by the time it has been idle.

    Its second and third parts make the order total.
    """
    idle = max(_LEAST_IDLE, now - model.last_used)
    return max(_LEAST_LOAD, model.load_seconds) / idle, model.last_used, model.id


def evictable_at(model: ModelView) -> float:
    """From when on a free model counts as idle enough to make room."""
    if model.admit_before is not None:
        return model.last_used
    return model.last_used + min(_LINGER_MOST, _LINGER_SHARE * model.load_seconds)


class MemoryPlan:
    """The machine as it will be when what is under way is done, and what may still change in it.

    ``take`` puts a model in; later questions are about the room that is then left.
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
        self.rests: list[float] = []
        """When models that have just become free will count as idle."""
        loading: list[ModelView] = []
        for model in models:
            if model.status is ModelStatus.UNLOADING or model.id in going:
                self._give(model)
            elif model.status is ModelStatus.LOADING:
                loading.append(model)
            elif model.status is ModelStatus.LOADED:
                self._count += 1
                if not model.pinned:
                    self._sort_in(model)
        self._idle.sort(key=lambda model: eviction_cost(model, now))
        # What is reserved for a load under way would come back with it.
        for model in loading:
            self._freed[model.id] = self.amount(model)
            self.take(model, ())
            if not model.pinned:
                self._busy.append(model)

    def free_for(self, model: ModelView) -> Amount | None:
        """What ``model`` may take as it stands; ``None`` = the machine does not tell."""
        return self._memory.free_for(_visible(model))

    def count_allows(self) -> bool:
        """Whether the number of models allows one more as it stands."""
        return self._count_allows(())

    def _sort_in(self, model: ModelView) -> None:
        if not can_unload(model):
            self._busy.append(model)
        elif evictable_at(model) <= self._now:
            self._idle.append(model)
        else:
            self.rests.append(evictable_at(model))
            self._busy.append(model)

    def _give(self, model: ModelView) -> None:
        self._memory = self._with(model)

    def _with(self, *gone: ModelView) -> FreeMemory:
        """The memory when those are gone."""
        memory = self._memory
        for model in gone:
            memory = memory.plus(self._freed[model.id], _visible(model))
        return memory

    def amount(self, model: ModelView) -> Amount:
        """What it will take."""
        if model.need is None:
            return Amount()
        device = 0
        cards = self._memory.cards_for(_visible(model))
        if cards and model.need.spills:
            at_best = self._free_without(model, self._idle + self._busy)
            device = at_best.device if at_best else 0
        return needed_amount(model.need, cards=cards, device_at_most=device)

    def _free_without(self, model: ModelView, gone: Sequence[ModelView]) -> Amount | None:
        """What ``model`` may take when those are gone."""
        return self._with(*gone).free_for(_visible(model))

    def _fits(self, model: ModelView, gone: Sequence[ModelView]) -> bool:
        """Whether ``model`` fits when those are gone."""
        if model.needs_exclusive_memory and len(gone) < len(self._idle) + len(self._busy):
            return False
        return self._count_allows(gone) and self._memory_allows(model, gone)

    def _count_allows(self, gone: Sequence[ModelView]) -> bool:
        most = self._limits.max_loaded_models
        return most == 0 or self._count - len(gone) + 1 <= most

    def _memory_allows(self, model: ModelView, gone: Sequence[ModelView]) -> bool:
        room = self._free_without(model, gone)
        return room is None or room.covers(self.amount(model))

    def victims_for(self, model: ModelView) -> tuple[ModelView, ...] | None:
        """Idle models that have to go for it, none if it fits; ``None`` = they are not enough.

        Those that are missed least, and only as many as needed: one that alone is enough is taken
        instead of several that together are missed more.
        """
        if self._fits(model, ()):
            return ()
        chosen = self._fewest(model, (), self._idle)
        if chosen is None or len(chosen) < 2:
            return chosen
        missed = sum(eviction_cost(victim, self._now)[0] for victim in chosen)
        for single in self._idle:
            if eviction_cost(single, self._now)[0] < missed and self._fits(model, (single,)):
                return (single,)
        return chosen

    def fits(self, model: ModelView) -> bool:
        """Whether it fits as it stands."""
        return self._fits(model, ())

    def busy_victims_for(self, model: ModelView) -> tuple[ModelView, ...]:
        """Busy models that have to come to rest for it, beside the idle ones: as few as needed."""
        in_order = sorted(
            self._busy,
            key=lambda one: (
                one.leaving is None,
                one.admit_before is None,
                one.in_flight + one.waiting,
                eviction_cost(one, self._now),
            ),
        )
        return self._fewest(model, tuple(self._idle), in_order) or ()

    def _fewest(
        self, model: ModelView, gone: Sequence[ModelView], in_order: Sequence[ModelView]
    ) -> tuple[ModelView, ...] | None:
        """The first of ``in_order`` that are needed beside ``gone``; ``None`` = all do not do."""
        chosen: list[ModelView] = []
        for one in in_order:
            chosen.append(one)
            if self._fits(model, (*gone, *chosen)):
                break
        else:
            return None
        for one in reversed(chosen[:-1]):
            fewer = [other for other in chosen if other is not one]
            if self._fits(model, (*gone, *fewer)):
                chosen = fewer
        return tuple(chosen)

    def could_fit(self, model: ModelView) -> bool:
        """Whether it fits when everything is gone that may go."""
        return self._fits(model, self._idle + self._busy)

    def refusal(self, model: ModelView) -> Refusal:
        """Why ``could_fit`` says no."""
        everything = self._idle + self._busy
        lacks_memory = not self._memory_allows(model, everything)
        return Refusal(
            id=model.id,
            needed=self.amount(model),
            free_at_best=self._free_without(model, everything) if lacks_memory else None,
            visible=_visible(model),
        )

    def take(self, model: ModelView, gone: Sequence[ModelView]) -> None:
        """``model`` is there, and those are gone for it."""
        amount = self.amount(model)
        for one in gone:
            self._give(one)
        self._count += 1 - len(gone)
        self._memory = self._memory.plus(Amount() - amount, _visible(model))
        ids = {one.id for one in gone}
        self._idle = [one for one in self._idle if one.id not in ids]
        self._busy = [one for one in self._busy if one.id not in ids]

    def take_when_free(self, model: ModelView, closed: Sequence[ModelView]) -> None:
        """``model`` is there, in the place of those busy ones and the idle ones it needs, too."""
        idle = () if self._fits(model, closed) else self._fewest(model, closed, self._idle)
        self.take(model, (*closed, *(idle or ())))


def _visible(model: ModelView) -> str | None:
    return None if model.need is None else model.need.visible
