"""Which servers have to be started anew because they would be started otherwise now."""

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

    def _why(self, state: ModelState, model: LocalModel, settings: Settings) -> Reason | None:
        if state.status is not ModelStatus.LOADED or state.leaving is not None:
            return None
        if state.signature != self._launcher.signature(model, settings, state.context_limit):
            return Reason.SETTINGS
        if state.session is not None and state.session.modified != model.modified:
            return Reason.FILES
        return None
