"""Describes whether models fit and which others would be evicted, for records and errors.

It uses the ``MemoryPlan`` of the policy, so a description always agrees with the decision. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

from cyber_inference_tui.llama.needs import Need, NeedSource, largest_context
from cyber_inference_tui.monitor.memory_reading import MemoryReading
from cyber_inference_tui.records import Fit, MemoryPool, ModelStatus
from cyber_inference_tui.scheduler.free_memory import Amount, FreeMemory, in_words
from cyber_inference_tui.scheduler.load_errors import NOBODY, Lending, refusal_error
from cyber_inference_tui.scheduler.memory_plan import MemoryPlan, can_unload
from cyber_inference_tui.scheduler.state import ModelState
from cyber_inference_tui.scheduler.views import LoadLimits, ModelView
from cyber_inference_tui.settings.schema import Settings


class Verdict(NamedTuple):
    """The answer whether a model fits."""

    fit: Fit
    reason: str
    """One sentence with the numbers."""
    unloads: tuple[str, ...] = ()
    """The ids of the models that would be evicted."""
    projector_kept_back: bool = False
    """It fits only with its projector in main memory."""


class FitCheck:
    """Checks models against the memory of one moment.

    ``views`` are the policy's views of ``states``. Without a ``reading`` nothing is known.
    ``lending`` is as for ``Scheduler``.
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
        lending: Lending = lambda _: NOBODY,
    ) -> None:
        self._lending = lending
        self._states = states
        self._views = views
        self._limits = limits
        self._memory = memory
        self._reading = reading
        self._settings = settings
        self._now = now
        self._need_exclusive_memory = frozenset(
            state.model.id for state in states if state.needs_exclusive_memory
        )

    def _candidate(self, model_id: str, need: Need) -> ModelView:
        return ModelView(
            id=model_id,
            status=ModelStatus.UNLOADED,
            need=need,
            needs_exclusive_memory=model_id in self._need_exclusive_memory,
        )

    def _tried(self, model_id: str, need: Need, plan: MemoryPlan) -> ModelView:
        """Return the model as a load tries it last: if it cannot fit otherwise, with its projector
        in main memory."""
        model = self._candidate(model_id, need)
        if not need.projector or plan.could_fit(model):
            return model
        return self._candidate(model_id, need.with_projector_kept_back())

    @cached_property
    def _plan(self) -> MemoryPlan:
        return self._plan_without(())

    def _plan_without(self, gone: tuple[str, ...]) -> MemoryPlan:
        return MemoryPlan(self._views, self._limits, self._memory, self._now, gone)

    @property
    def _free(self) -> Amount | None:
        return None if self._reading is None else self._memory.free

    def fit(self, model_id: str, need: Need | None) -> Fit | None:
        """Return the ``fit`` of ``verdict``, without the cost of the sentence."""
        if need is None or need.source is NeedSource.UNKNOWN or self._free is None:
            return None
        model = self._tried(model_id, need, self._plan)
        if self._plan.fits(model):
            return Fit.NOW
        return Fit.AFTER_UNLOADING if self._plan.could_fit(model) else Fit.NEVER

    def chosen(self, model_id: str, need: Need) -> Need:
        """Return the need with the context that a load would choose now, if it chooses."""
        if not need.smaller or self._free is None:
            return need
        return largest_context(
            (*need.smaller, need),
            lambda one: self._plan.could_fit(self._candidate(model_id, one)),
        )

    def verdict(self, model_id: str, need: Need | None, *, reload: bool = False) -> Verdict | None:
        """Return whether a model with this need fits; ``None`` = its need or the memory is unknown.

        With ``reload`` it is loaded and would be loaded again, which first frees its memory.
        """
        if need is None or need.source is NeedSource.UNKNOWN or self._free is None:
            return None
        plan = self._plan_without((model_id,)) if reload else self._plan
        model = self._tried(model_id, need, plan)
        kept_back = model.need is not need
        at_most = need.source is NeedSource.UPPER_BOUND
        victims = plan.victims_for(model)
        if victims is None and not plan.could_fit(model):
            error = refusal_error(
                plan.refusal(model),
                self._states,
                self._reading,
                self._settings,
                need=need,
                lending=self._lending(model_id),
            )
            return Verdict(Fit.NEVER, error.message)
        cards = self._memory.cards_for(need.visible)
        numbers = (
            f"It needs {'up to ' if at_most else ''}{in_words(plan.amount(model), cards=cards)}"
            f"{' with its projector in main memory' if kept_back else ''}"
            f", and {in_words(plan.free_for(model) or Amount(), cards=cards)} can be had now"
        )
        if victims == ():
            return Verdict(Fit.NOW, f"{numbers}.", (), kept_back)
        if not plan.count_allows():
            most = self._limits.max_loaded_models
            numbers += f", but only {most} may be loaded at once (max_loaded_models)"
        gone = plan.busy_victims_for(model) if victims is None else victims
        names = tuple(victim.id for victim in gone)
        when = " after its requests" if victims is None else ""
        reason = f"{numbers}: {', '.join(names)} would be unloaded for it{when}."
        return Verdict(Fit.AFTER_UNLOADING, reason, names, kept_back)

    def rooms(self) -> list[MemoryPool]:
        """Return the memory for models: of the machine, and of all GPUs that have their own."""
        reading, free = self._reading, self._free
        if reading is None or free is None:
            return [MemoryPool(pool="memory")]
        idle = [model for model in self._views if can_unload(model) and not model.pinned]
        later = sum((model.freed_on_unload for model in idle), start=free)
        rooms = [
            MemoryPool(
                pool="memory",
                limit_bytes=int(reading.total * self._settings.max_memory_percent / 100),
                free_bytes=max(0, free.host),
                free_after_unloading_bytes=max(0, later.host),
            )
        ]
        if self._memory.cards:
            share = self._settings.max_gpu_memory_percent / 100
            rooms.append(
                MemoryPool(
                    pool="gpu",
                    limit_bytes=sum(int(gpu.total * share) for gpu in reading.gpus),
                    free_bytes=max(0, free.device),
                    free_after_unloading_bytes=max(0, later.device),
                )
            )
        return rooms
