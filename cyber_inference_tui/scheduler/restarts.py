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
    """Compares what servers were started with to what they would be started with."""

    def __init__(self, launcher: ServerLauncher) -> None:
        self._launcher = launcher

    def demand(self, state: ModelState, settings: Settings) -> None:
        """Have a loaded model go when its requests have ended, and come back, if it is to."""
        if self._is_due(state, state.model, settings):
            _logger.info("%s is restarted: its settings changed", state.model.id)
            state.leaving = Reason.SETTINGS
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
            if self._is_due(state, changed(state.model), settings)
        )

    def _is_due(self, state: ModelState, model: LocalModel, settings: Settings) -> bool:
        return (
            state.status is ModelStatus.LOADED
            and state.leaving is None
            and state.signature != self._launcher.signature(model, settings, state.context_limit)
        )
