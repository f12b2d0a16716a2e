"""When it is decided anew: after every change, and when time alone may change something."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_AT_ONCE = 16


class Steps:
    """Calls ``decide``, which returns when to be called again if nothing happens until then.

    A change that comes out of deciding is decided on after that, never within it.
    """

    def __init__(self, decide: Callable[[], float | None]) -> None:
        self._decide = decide
        self._timer: asyncio.TimerHandle | None = None
        self._deciding = False
        self._again = False
        self._stopped = False

    @property
    def next_at(self) -> float | None:
        """When time alone brings the next decision, by the loop's clock; ``None`` = never."""
        return self._timer.when() if self._timer is not None else None

    def step(self) -> None:
        """Decide and have it done, until nothing more follows at this moment."""
        self._again = True
        if self._deciding or self._stopped:
            return
        self._deciding = True
        try:
            for _ in range(_AT_ONCE):
                if not self._again or self._stopped:
                    break
                self._again = False
                self._wake_at(self._decide())
        finally:
            self._deciding = False

    def stop(self) -> None:
        """Decide nothing any more."""
        self._stopped = True
        self._wake_at(None)

    def _wake_at(self, when: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if when is not None and not self._stopped:
            self._timer = asyncio.get_running_loop().call_at(when, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self.step()
