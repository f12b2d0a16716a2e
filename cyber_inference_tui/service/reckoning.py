"""What each model would take of the memory, and whether it would find room."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.llama.launch import Launcher
from cyber_inference_tui.llama.needs import Need
from cyber_inference_tui.records import Fit, ModelStatus
from cyber_inference_tui.scheduler.experience import Experience
from cyber_inference_tui.scheduler.room import Survey, Verdict
from cyber_inference_tui.scheduler.scheduler import Scheduler
from cyber_inference_tui.settings.schema import Settings

_AT_REST = frozenset({ModelStatus.UNLOADED, ModelStatus.FAILED})


class Reckoning:
    """Kept for all models, loaded or not, so that a list of them costs no look at files."""

    def __init__(self, scheduler: Scheduler, launcher: Launcher, experience: Experience) -> None:
        self._scheduler = scheduler
        self._launcher = launcher
        self._experience = experience
        self._needs: dict[str, tuple[str, Need]] = {}
        """By id, with the signature for which that holds."""
        self._told: dict[str, tuple[Fit | None, int | None]] = {}
        """Whether it fitted when it was looked at last, and the context it would have."""

    async def update(self, models: Mapping[str, LocalModel], settings: Settings) -> None:
        """Reckon anew what models would take, as far as that has changed."""
        for model in list(models.values()):
            signature = self._launcher.signature(model, settings)
            known = self._needs.get(model.id)
            measured = self._experience.footprint(signature)
            if known is None or known[0] != signature or measured not in {None, known[1].footprint}:
                need = await self._launcher.need(model, settings, ask_engine=False)
                self._needs[model.id] = (signature, need)
        for model_id in self._needs.keys() - models.keys():
            del self._needs[model_id]

    def need(self, model: LocalModel) -> Need | None:
        """What a model takes, or would take by its settings now; ``None`` = not looked at yet."""
        kept = self._needs.get(model.id)
        known = kept[1] if kept else None
        state = self._scheduler.state(model.id)
        if state is None or state.need is None:
            return known
        # Of one that rests the scheduler knows what held at its last load.
        return known or state.need if state.status in _AT_REST else state.need

    def verdict(self, model: LocalModel, survey: Survey) -> Verdict | None:
        """Whether a model that is not loaded fits; ``None`` = that is not known."""
        if model.problem is not None:
            return None
        return survey.verdict(model.id, self.need(model), alone=self._is_alone(model))

    def changed(self, models: Iterable[LocalModel]) -> list[str]:
        """The ids of those that fit now and did not at the last call, or the other way round, and
        of those that would be started with another context."""
        survey = self._scheduler.survey()
        former, self._told = self._told, {}
        for model in models:
            need, fit = self.need(model), None
            if not model.problem:
                fit = survey.fit(model.id, need, alone=self._is_alone(model))
            self._told[model.id] = fit, need.context_size if need else None
        return [name for name, told in self._told.items() if told != former.get(name)]

    def _is_alone(self, model: LocalModel) -> bool:
        """Whether it ran out of memory beside others."""
        state = self._scheduler.state(model.id)
        return state is not None and state.alone
