"""Detects servers that send nothing, to a single request or to all of them.

The timer of each watched exchange checks four times in each ``stall_timeout`` whether bytes have
arrived since the last check. Receiving bytes costs nothing extra. A silence is detected after 1 to
1.5 times the setting. Time in which the client does not read, or in which the service itself was
stopped, does not count.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Iterator
from weakref import WeakKeyDictionary

from cyber_inference_tui.http.upstream import Exchange
from cyber_inference_tui.scheduler.lease import Lease
from cyber_inference_tui.scheduler.server_interface import Server

_CHECKS = 4
_SHORTEST_PAUSE = 0.01
_STOPPED = 1.0
"""Seconds of delay of a check after which the service itself must have been stopped."""


class StalledError(Exception):
    """The server sent nothing for ``seconds``; ``hung`` means that no request got anything."""

    def __init__(self, seconds: float, *, hung: bool) -> None:
        super().__init__(f"sent nothing for {seconds:g} s (stall_timeout)")
        self.hung = hung


class StallWatch:
    """Watches exchanges, and distinguishes a stalled request from a hanging server."""

    def __init__(self) -> None:
        self._servers: WeakKeyDictionary[Server, _ServerActivity] = WeakKeyDictionary()

    @contextlib.contextmanager
    def watch(self, exchange: Exchange, lease: Lease, seconds: float) -> Iterator[None]:
        """Watch the exchange until the block ends.

        A stalled exchange fails with ``StalledError``. If no other exchange of its server received
        a byte in the same time, the server is declared hung.
        """
        activity = self._servers.setdefault(lease.server, _ServerActivity())
        watched = _WatchedExchange(exchange, lease, activity, seconds)
        activity.watched.add(watched)
        try:
            yield
        finally:
            activity.watched.discard(watched)
            watched.end()


class _ServerActivity:
    """The watched exchanges of a server, and the time of its last byte."""

    def __init__(self) -> None:
        self.watched: set[_WatchedExchange] = set()
        self.last = -math.inf
        """The loop's time of the last check that found a byte of any exchange."""


class _WatchedExchange:
    """An exchange and its timer."""

    def __init__(
        self, exchange: Exchange, lease: Lease, activity: _ServerActivity, seconds: float
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._exchange = exchange
        self._lease = lease
        self._activity = activity
        self._seconds = seconds
        self._last = self._loop.time()
        self._pause = max(seconds / _CHECKS, _SHORTEST_PAUSE)
        self._timer = self._arm()

    @property
    def is_alive(self) -> bool:
        """Return whether there are unnoticed bytes, or the client is too slow for any to arrive."""
        return self._exchange.has_new_bytes or self._exchange.paused

    def end(self) -> None:
        """Stop watching."""
        self._timer.cancel()
        if self._exchange.take_new_bytes():
            self._activity.last = self._loop.time()

    def _arm(self) -> asyncio.TimerHandle:
        return self._loop.call_later(self._pause, self._check)

    def _check(self) -> None:
        now = self._loop.time()
        if self._exchange.take_new_bytes():
            self._last = self._activity.last = now
        elif self._exchange.paused or now > self._timer.when() + _STOPPED:
            # After a stop (SIGSTOP, a paused virtual machine), timers expire before the bytes that
            # have arrived are read.
            self._last = now
        elif now - self._last >= self._seconds:
            self._stalled(now)
            return
        self._timer = self._arm()

    def _stalled(self, now: float) -> None:
        others = any(one.is_alive for one in self._activity.watched if one is not self)
        hung = not others and now - self._activity.last >= self._seconds
        error = StalledError(self._seconds, hung=hung)
        self._exchange.fail(error)
        if hung:
            self._lease.declare_hung(str(error))
