"""What finds room in the memory and what would have to go for it, as it is told to people.

By the arithmetic by which models are loaded (``plan``), so that nobody is told otherwise than it
is done. Pure: it reads what it is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

from cyber_inference_tui.llama.needs import Need, Source
from cyber_inference_tui.monitor.memory import MemoryReading
from cyber_inference_tui.records import Fit, MemoryRoom, ModelStatus
from cyber_inference_tui.scheduler.free_memory import Amount, FreeMemory, in_words
from cyber_inference_tui.scheduler.load_errors import refusal_error
from cyber_inference_tui.scheduler.memory_plan import MemoryPlan, can_unload
from cyber_inference_tui.scheduler.state import ModelState
from cyber_inference_tui.scheduler.views import LoadLimits, ModelView
from cyber_inference_tui.settings.schema import Settings


class Verdict(NamedTuple):
    """Whether a model fits."""

    fit: Fit
    reason: str
    """In one sentence, with the numbers."""
    unloads: tuple[str, ...] = ()
    """Models that would have to go, by id."""


class FitCheck:
    """The memory and the models at one moment.

    ``states`` are all models that were ever touched and ``views`` what the policy sees of them;
    ``reading`` is the machine's memory, ``None`` = it was not read.
    """

    def __init__(
        self,
        states: Sequence[ModelState],
        views: Sequence[ModelView],
        *,
        limits: LoadLimits,
        memory: FreeMemory,
        reading: MemoryReading | None,
        settings: Settings,
        now: float,
    ) -> None:
        self._states = states
        self._views = views
        self._limits = limits
        self._memory = memory
        self._reading = reading
        self._settings = settings
        self._now = now
        self._alone = frozenset(state.model.id for state in states if state.needs_exclusive_memory)

    def _candidate(self, model_id: str, need: Need) -> ModelView:
        return ModelView(
            id=model_id,
            status=ModelStatus.UNLOADED,
            need=need,
            # It ran out of memory beside others.
            needs_exclusive_memory=model_id in self._alone,
        )

    @cached_property
    def _plan(self) -> MemoryPlan:
        return self._plan_without(())

    def _plan_without(self, gone: tuple[str, ...]) -> MemoryPlan:
        return MemoryPlan(self._views, self._limits, self._memory, self._now, gone)

    @property
    def _free(self) -> Amount | None:
        return None if self._reading is None else self._memory.free

    def fit(self, model_id: str, need: Need | None) -> Fit | None:
        """What ``verdict`` would say in a word, at less cost."""
        if need is None or need.source is Source.UNKNOWN or self._free is None:
            return None
        model = self._candidate(model_id, need)
        if self._plan.fits(model):
            return Fit.NOW
        return Fit.AFTER_UNLOADING if self._plan.could_fit(model) else Fit.NEVER

    def verdict(self, model_id: str, need: Need | None, *, reload: bool = False) -> Verdict | None:
        """Whether a model with this need fits; ``None`` = its need or the memory is not known.

        ``anew``: it is loaded and would be loaded again with this need, so what it holds now comes
        back first.
        """
        if need is None or need.source is Source.UNKNOWN or self._free is None:
            return None
        plan = self._plan_without((model_id,)) if reload else self._plan
        model = self._candidate(model_id, need)
        at_most = need.source is Source.UPPER_BOUND
        victims = plan.victims_for(model)
        if victims is None and not plan.could_fit(model):
            error = refusal_error(
                plan.refusal(model), self._states, self._reading, self._settings, at_most=at_most
            )
            return Verdict(Fit.NEVER, error.message)
        cards = self._memory.cards_for(need.visible)
        numbers = (
            f"It needs {'up to ' if at_most else ''}{in_words(plan.amount(model), cards=cards)},"
            f" and {in_words(plan.free_for(model) or Amount(), cards=cards)} can be had now"
        )
        if victims == ():
            return Verdict(Fit.NOW, f"{numbers}.")
        if not plan.count_allows():
            most = self._limits.max_loaded_models
            numbers += f", but only {most} may be loaded at once (max_loaded_models)"
        if victims is None:
            busy = tuple(one.id for one in plan.busy_victims_for(model))
            return Verdict(
                Fit.AFTER_UNLOADING,
                f"{numbers}: {', '.join(busy)} would be unloaded for it after its requests.",
                busy,
            )
        names = tuple(one.id for one in victims)
        return Verdict(
            Fit.AFTER_UNLOADING, f"{numbers}: {', '.join(names)} would be unloaded for it.", names
        )

    def rooms(self) -> list[MemoryRoom]:
        """The memory that models may have: of the machine, and of its GPUs together if they have
        their own."""
        reading, room = self._reading, self._free
        if reading is None or room is None:
            return [MemoryRoom(pool="memory")]
        idle = [one for one in self._views if can_unload(one) and not one.pinned]
        then = sum((one.freed_on_unload for one in idle), start=room)
        rooms = [
            MemoryRoom(
                pool="memory",
                limit_bytes=int(reading.total * self._settings.max_memory_percent / 100),
                free_bytes=max(0, room.host),
                free_after_unloading_bytes=max(0, then.host),
            )
        ]
        if self._memory.cards:
            share = self._settings.max_gpu_memory_percent / 100
            rooms.append(
                MemoryRoom(
                    pool="gpu",
                    limit_bytes=sum(int(gpu.total * share) for gpu in reading.gpus),
                    free_bytes=max(0, room.device),
                    free_after_unloading_bytes=max(0, then.device),
                )
            )
        return rooms
