"""Limit how many refused requests are kept, so that strangers cannot fill the history."""

from __future__ import annotations

from collections.abc import Callable

from cyber_inference_tui.service.allowance import Allowance

BURST = 100
"""Refused requests of a kind that are kept at once; after them one every ``PAUSE`` seconds."""
PAUSE = 30.0

_BY_STRANGERS = frozenset({"invalid_api_key", "forbidden_host", "forbidden_origin"})


class Refusals:
    """Chooses the refused requests to keep. ``clock`` returns seconds.

    Anybody can cause those with a wrong key or a foreign name, so they have a limit of their own.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._by_strangers = Allowance(BURST, PAUSE)
        self._others = Allowance(BURST, PAUSE)

    def keeps(self, code: str) -> bool:
        """Return whether to keep the next refused request, which has this code."""
        allowance = self._by_strangers if code in _BY_STRANGERS else self._others
        return allowance.take(self._clock())
