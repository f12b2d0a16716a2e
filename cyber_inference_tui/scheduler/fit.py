"""What finds room in the memory and what would have to go for it, as it is told to people.

By the arithmetic by which models are loaded (``plan``), so that nobody is told otherwise than it
is done. Pure: it reads what it is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cyber_inference_tui.llama.needs import Need, NeedSource
from cyber_inference_tui.monitor.memory_reading import MemoryReading
from cyber_inference_tui.records import Fit, MemoryRoom, ModelStatus
from cyber_inference_tui.scheduler.memory import Amount, Memory, in_words
from cyber_inference_tui.scheduler.plan import Plan, free_to_go
from cyber_inference_tui.scheduler.refusal import refusal_error
from cyber_inference_tui.scheduler.state import ModelState
from cyber_inference_tui.scheduler.views import Limits, ModelView
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
        limits: Limits,
        memory: Memory,
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
        self._plan = self._plan_without(())

        self._alone = frozenset(state.model.id for state in states if state.alone)

    def _candidate(self, model_id: str, need: Need) -> ModelView:
        return ModelView(
            id=model_id,
            status=ModelStatus.UNLOADED,
            need=need,
            # It ran out of memory beside others.
            alone=model_id in self._alone,
        )

    def _plan_without(self, gone: tuple[str, ...]) -> Plan:
        return Plan(self._views, self._limits, self._memory, self._now, gone)

    @property
    def _room(self) -> Amount | None:
        return None if self._reading is None else self._memory.room

    def fit(self, model_id: str, need: Need | None) -> Fit | None:
        """What ``verdict`` would say in a word, at less cost."""
        if need is None or need.source is NeedSource.UNKNOWN or self._room is None:
            return None
        model = self._candidate(model_id, need)
        if self._plan.holds(model):
            return Fit.NOW
        return Fit.AFTER_UNLOADING if self._plan.could_hold(model) else Fit.NEVER

    def verdict(self, model_id: str, need: Need | None, *, anew: bool = False) -> Verdict | None:
        """Whether a model with this need fits; ``None`` = its need or the memory is not known.

        ``anew``: it is loaded and would be loaded again with this need, so what it holds now comes
        back first.
        """
        if need is None or need.source is NeedSource.UNKNOWN or self._room is None:
            return None
        plan = self._plan_without((model_id,)) if anew else self._plan
        model = self._candidate(model_id, need)
        at_most = need.source is NeedSource.UPPER_BOUND
        victims = plan.victims_for(model)
        if victims is None and not plan.could_hold(model):
            error = refusal_error(
                plan.refusal(model), self._states, self._reading, self._settings, at_most=at_most
            )
            return Verdict(Fit.NEVER, error.message)
        cards = self._memory.cards_for(need.visible)
        numbers = (
            f"It needs {'up to ' if at_most else ''}{in_words(plan.amount(model), cards=cards)},"
            f" and {in_words(plan.room_for(model) or Amount(), cards=cards)} can be had now"
        )
        if victims == ():
            return Verdict(Fit.NOW, f"{numbers}.")
        if not plan.has_place():
            most = self._limits.max_loaded_models
            numbers += f", but only {most} may be loaded at once (max_loaded_models)"
        if victims is None:
            busy = tuple(one.id for one in plan.to_close_for(model))
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
        reading, room = self._reading, self._room
        if reading is None or room is None:
            return [MemoryRoom(pool="memory")]
        idle = [one for one in self._views if free_to_go(one) and not one.pinned]
        then = sum((one.gives for one in idle), start=room)
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
