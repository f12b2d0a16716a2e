"""Retries the requests of a crashed server one at a time, while new requests wait.

One of the requests may have crashed the server. Sent together, all would be lost again. Sent one at
a time, the others are answered, and the culprit has used up its retry. New requests wait until the
last retry is over, because they could be lost too.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self
from weakref import WeakValueDictionary

from cyber_inference_tui.errors import QueueFullError, QueueTimeoutError

TRIAL = 5.0
"""Seconds after which the next request may be sent although there is no answer yet. A request that
crashes a server mostly does so at once."""

LONG_TRIAL = 60.0
"""The same for a request that was lost again together with others, to find the culprit."""


class RetryQueue:
    """The retries of each model whose server crashed."""

    def __init__(self) -> None:
        self._queues: WeakValueDictionary[str, _ModelQueue] = WeakValueDictionary()
        self.active: set[_ModelQueue] = set()
        """The queues with retries; empty unless servers crash."""

    def retry(self, model_id: str, trial: float = TRIAL, *, suspect: bool = False) -> Retry:
        """Return a retry for a lost request. ``Retry.wait_turn`` puts it into the model's queue.

        Its trial takes at most ``trial`` seconds. ``suspect`` means that the request was the only
        one at the server that crashed.
        """
        queue = self._queues.get(model_id)
        if queue is None:
            queue = self._queues[model_id] = _ModelQueue(self.active)
        return Retry(queue, trial, suspect)

    def is_active(self, model_id: str) -> bool:
        """Check whether a request of the model waits for its retry or is being retried."""
        return bool(self.active) and self._queues.get(model_id) in self.active

    async def wait_until_empty(self, model_id: str, *, timeout: float, most: int) -> None:
        """Wait, with a new request, until the model's queue is empty.

        Raises ``QueueTimeoutError`` after ``timeout`` seconds (0 = no limit), and
        ``QueueFullError`` if ``most`` new requests wait already.
        """
        while (queue := self._queues.get(model_id)) is not None and queue.retries:
            if queue.waiting >= most:
                raise QueueFullError(
                    f"{model_id} is recovering from a crash, and as many requests wait for it as"
                    f" max_queue allows ({queue.waiting}).",
                    retry_after=TRIAL,
                )
            queue.waiting += 1
            try:
                async with asyncio.timeout(timeout or None):
                    await queue.empty.wait()
            except TimeoutError:
                raise QueueTimeoutError(
                    f"{model_id} did not recover from a crash within {timeout:g} s."
                ) from None
            finally:
                queue.waiting -= 1


class _ModelQueue:
    """The retries of one model."""

    def __init__(self, active: set[_ModelQueue]) -> None:
        self._active = active
        """The queues with retries."""
        self.lock = asyncio.Lock()
        self.retries = 0
        """Requests that wait for their retry or are being retried."""
        self.waiting = 0
        """New requests that wait for the end of the last retry."""
        self.empty = asyncio.Event()

    def enter(self) -> None:
        """Count a retry."""
        self.retries += 1
        self.empty.clear()
        self._active.add(self)

    def leave(self) -> None:
        """Count the end of a retry."""
        self.retries -= 1
        if not self.retries:
            self.empty.set()
            self._active.discard(self)


class Retry:
    """The retry of a request. Use it with ``with``: at the end the next retry may start."""

    def __init__(self, queue: _ModelQueue, trial: float, suspect: bool) -> None:
        self.trial = trial
        """Seconds. The request also waits at most this long for others at the server to end."""
        self.suspect = suspect
        self._queue = queue
        self._is_over = False
        self._has_turn = False
        self._timer: asyncio.TimerHandle | None = None

    async def wait_turn(self) -> None:
        """Wait until no other request of the model is on trial."""
        await self._queue.lock.acquire()
        self._has_turn = True

    def begin_trial(self) -> None:
        """Start the trial: the request is about to be sent."""
        self._timer = asyncio.get_running_loop().call_later(self.trial, self.end)

    def end(self) -> None:
        """Let the next retry start. Further calls do nothing."""
        if self._timer is not None:
            self._timer.cancel()
        if self._has_turn:
            self._has_turn = False
            self._queue.lock.release()
        if not self._is_over:
            self._is_over = True
            self._queue.leave()

    def __enter__(self) -> Self:
        self._queue.enter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end()
