"""Requests whose server died go to the next one by turns, and new requests wait for them.

One of them may be what killed it. Together they would all be lost once more; one by one, the
others are answered, and the one that kills again has had its second try. A new request could kill
the server as well, so it waits until the last turn is over.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self
from weakref import WeakValueDictionary

from cyber_inference_tui.errors import QueueFullError, QueueTimeoutError

TRIAL = 5.0
"""Seconds a server has to live with a request before the next one comes, if there is no answer
before. What kills a server mostly does so at once."""

LONG_TRIAL = 60.0
"""The same for a request that was lost again, in company: this time it should be clear."""


class RetryQueue:
    """One line for each model whose server died."""

    def __init__(self) -> None:
        self._lines: WeakValueDictionary[str, _ModelQueue] = WeakValueDictionary()

    def of(self, model_id: str, trial: float = TRIAL, *, suspect: bool = False) -> Retry:
        """A place at the end of the model's line, once ``come`` is awaited; its trial takes at most
        ``trial`` seconds. ``suspect`` = the request was alone with the server that died."""
        line = self._lines.get(model_id)
        if line is None:
            line = self._lines[model_id] = _ModelQueue()
        return Retry(line, trial, suspect)

    def under_way(self, model_id: str) -> bool:
        """Whether a request of the model's line waits for its turn or is on trial."""
        line = self._lines.get(model_id)
        return line is not None and line.turns > 0

    async def wait_over(self, model_id: str, *, timeout: float, most: int) -> None:
        """Let a new request wait until the line is empty.

        Raises ``QueueTimeoutError`` after ``timeout`` seconds (0 = no limit), and
        ``QueueFullError`` when ``most`` others wait already.
        """
        while (line := self._lines.get(model_id)) is not None and line.turns:
            if line.held >= most:
                raise QueueFullError(
                    f"{model_id} recovers from a crash, and as many requests wait for that as"
                    f" max_queue allows ({line.held}).",
                    retry_after=TRIAL,
                )
            line.held += 1
            try:
                async with asyncio.timeout(timeout or None):
                    await line.over.wait()
            except TimeoutError:
                raise QueueTimeoutError(
                    f"{model_id} did not recover from a crash within {timeout:g} s."
                ) from None
            finally:
                line.held -= 1


class _ModelQueue:
    """The requests of one model that lost their server."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.turns = 0
        """Requests that wait for their turn or are on trial."""
        self.held = 0
        """New requests that wait for the last turn to be over."""
        self.over = asyncio.Event()


class Retry:
    """One request's turn. Use it as ``with``: leaving it lets the next one come."""

    def __init__(self, line: _ModelQueue, trial: float, suspect: bool) -> None:
        self.trial = trial
        """Seconds; also what the request waits at most to be the only one without an answer."""
        self.suspect = suspect
        self._line = line
        self._is_over = False
        self._has_come = False
        self._timer: asyncio.TimerHandle | None = None

    async def come(self) -> None:
        """Return when nobody else of the line is on trial."""
        await self._line.lock.acquire()
        self._has_come = True

    def begin_trial(self) -> None:
        """The request is sent now."""
        self._timer = asyncio.get_running_loop().call_later(self.trial, self.end)

    def end(self) -> None:
        """The server lives: the next one may come. Once counts."""
        if self._timer is not None:
            self._timer.cancel()
        if self._has_come:
            self._has_come = False
            self._line.lock.release()
        if not self._is_over:
            self._is_over = True
            self._line.turns -= 1
            if not self._line.turns:
                self._line.over.set()

    def __enter__(self) -> Self:
        self._line.turns += 1
        self._line.over.clear()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end()
