"""Keeps the specification and the estimated need of every model, loaded or not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.llama.needs import Need
from cyber_inference_tui.llama.spec import ServerSpec, resolve
from cyber_inference_tui.scheduler.load_history import LoadHistory
from cyber_inference_tui.scheduler.server_interface import ServerLauncher
from cyber_inference_tui.settings.schema import Settings


class Estimates:
    """The specifications and needs of all models, so that a list of them reads no files.

    A spec is resolved when a model or the settings change. A need is estimated when the spec or a
    measurement of it changes.
    """

    def __init__(self, launcher: ServerLauncher, load_history: LoadHistory) -> None:
        self._launcher = launcher
        self._load_history = load_history
        self._specs: dict[str, tuple[LocalModel, Settings, ServerSpec]] = {}
        self._needs: dict[str, tuple[str, Need]] = {}
        """By id, with the signature of the estimated spec."""

    def spec(self, model: LocalModel, settings: Settings) -> ServerSpec:
        """Return the specification of the model's server."""
        known = self._specs.get(model.id)
        if known is None or known[0] != model or known[1] is not settings:
            known = self._specs[model.id] = model, settings, resolve(model, settings)
        return known[2]

    async def update(self, models: Iterable[LocalModel], settings: Settings) -> None:
        """Estimate the needs of models that have changed, and forget all other models."""
        there: Mapping[str, LocalModel] = {model.id: model for model in models}
        for model in there.values():
            spec = self.spec(model, settings)
            known = self._needs.get(model.id)
            measured = self._load_history.footprint(spec.signature)
            if (
                known is None
                or known[0] != spec.signature
                or spec.split
                or measured not in {None, known[1].footprint}
            ):
                need = await self._launcher.need(spec, ask_engine=False)
                self._needs[model.id] = spec.signature, need
        for model_id in self._specs.keys() - there.keys():
            del self._specs[model_id]
        for model_id in self._needs.keys() - there.keys():
            del self._needs[model_id]

    def need(self, model_id: str) -> Need | None:
        """Return the need of a model by the settings in force; ``None`` = not estimated yet."""
        kept = self._needs.get(model_id)
        return kept[1] if kept else None
