"""Finds out what changed settings and files mean for a model.

A loaded model restarts when its server would now be started in another way. The failure of a model
is forgotten when something changed that decides whether a load succeeds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.records import ModelStatus
from cyber_inference_tui.scheduler.state import ModelState, ServerLauncher
from cyber_inference_tui.scheduler.views import Reason
from cyber_inference_tui.settings.schema import Settings

_logger = logging.getLogger(__name__)


class Restarts:
    """Compares what servers were started with, and from, to what they would be started with now."""

    def __init__(self, launcher: ServerLauncher) -> None:
        self._launcher = launcher

    def demand(self, state: ModelState, settings: Settings) -> None:
        """Have a loaded model go when its requests have ended, and come back, if it is to."""
        why = self._why(state, state.model, settings)
        if why is not None:
            _logger.info("%s is restarted: %s", state.model.id, why.value)
            state.leaving = why
            state.restart = True

    def among(
        self,
        states: Iterable[ModelState],
        settings: Settings,
        changed: Callable[[LocalModel], LocalModel],
    ) -> list[str]:
        """The models that would restart with these settings, if they became what ``changed``
        makes of them."""
        return sorted(
            state.model.id
            for state in states
            if self._why(state, changed(state.model), settings) is not None
        )

    def circumstances(self, model: LocalModel, settings: Settings) -> object:
        """Everything that decides whether a load of ``model`` succeeds, as a value to compare."""
        return (
            self._launcher.signature(model, settings),
            model.modified,
            model.problem,
            None if model.settings.command else settings.llama_server_path,
            settings.load_timeout,
            settings.max_loaded_models,
            settings.max_memory_percent,
            settings.max_gpu_memory_percent,
            settings.allow_smaller_context,
        )

    def _why(self, state: ModelState, model: LocalModel, settings: Settings) -> Reason | None:
        if state.status is not ModelStatus.LOADED or state.leaving is not None:
            return None
        if state.signature != self._launcher.signature(model, settings, state.context_limit):
            return Reason.SETTINGS
        if state.session is not None and state.session.modified != model.modified:
            return Reason.FILES
        return None
