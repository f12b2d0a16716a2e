"""Requests whose server died go to the next one by turns.

One of them may be what killed it. Together they would all be lost once more; one by one, the
others are answered, and the one that kills again has had its second try.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self
from weakref import WeakValueDictionary

TRIAL = 5.0
"""Seconds a server has to live with a request before the next one comes, if there is no answer
before. What kills a server mostly does so at once."""


class Turns:
    """One line for each model."""

    def __init__(self, trial: float = TRIAL) -> None:
        self._trial = trial
        self._lines: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def of(self, model_id: str) -> Turn:
        """A place at the end of the model's line, once ``come`` is awaited."""
        line = self._lines.get(model_id)
        if line is None:
            line = self._lines[model_id] = asyncio.Lock()
        return Turn(line, self._trial)


class Turn:
    """One request's turn. Use it as ``with``: leaving it lets the next one come."""

    def __init__(self, line: asyncio.Lock, trial: float) -> None:
        self._line = line
        self._trial = trial
        self._has_come = False
        self._timer: asyncio.TimerHandle | None = None

    async def come(self) -> None:
        """Return when nobody else of the line is on trial."""
        await self._line.acquire()
        self._has_come = True

    def begin_trial(self) -> None:
        """The request is sent now."""
        self._timer = asyncio.get_running_loop().call_later(self._trial, self.end)

    def end(self) -> None:
        """The server lives: the next one may come. Once counts."""
        if self._timer is not None:
            self._timer.cancel()
        if self._has_come:
            self._has_come = False
            self._line.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end()
