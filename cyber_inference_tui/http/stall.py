"""Servers that are alive and send nothing: who is held up, one request or all of them.

Each watched exchange has a timer that looks four times in each ``stall_timeout`` whether bytes
came since it looked last; the bytes themselves cost nothing more. So a silence is noticed after
one to one and a half times the setting. Time in which the client does not read does not count,
and neither does time in which the service itself was stopped.
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

_LOOKS = 4
_SHORTEST_PAUSE = 0.01
_STOOD_STILL = 1.0
"""Seconds by which a look may be late before that counts as having been stopped ourselves."""


class StalledError(Exception):
    """The server sent nothing for ``seconds``; ``hung`` = to nobody else either."""

    def __init__(self, seconds: float, *, hung: bool) -> None:
        super().__init__(f"sent nothing for {seconds:g} s (stall_timeout)")
        self.hung = hung


class StallWatch:
    """Watches exchanges, and tells a stalled request from a server that hangs."""

    def __init__(self) -> None:
        self._servers: WeakKeyDictionary[Server, _Pulse] = WeakKeyDictionary()

    @contextlib.contextmanager
    def over(self, exchange: Exchange, lease: Lease, seconds: float) -> Iterator[None]:
        """Watch the exchange until the block ends.

        An exchange that stalls fails with ``StalledError``. Where no other one of its server had
        a byte in the same time, the server is declared hung.
        """
        pulse = self._servers.setdefault(lease.server, _Pulse())
        watched = _Watched(exchange, lease, pulse, seconds)
        pulse.watched.add(watched)
        try:
            yield
        finally:
            pulse.watched.discard(watched)
            watched.end()


class _Pulse:
    """One server's signs of life."""

    def __init__(self) -> None:
        self.watched: set[_Watched] = set()
        self.last = -math.inf
        """When a byte of any exchange was noticed last, in the loop's time."""


class _Watched:
    """One exchange and its timer."""

    def __init__(self, exchange: Exchange, lease: Lease, pulse: _Pulse, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._exchange = exchange
        self._lease = lease
        self._pulse = pulse
        self._seconds = seconds
        self._last = self._loop.time()
        self._pause = max(seconds / _LOOKS, _SHORTEST_PAUSE)
        self._timer = self._arm()

    @property
    def shows_life(self) -> bool:
        """Whether bytes came and were not noticed yet, or could not come for the client's sake."""
        return self._exchange.heard or self._exchange.paused

    def end(self) -> None:
        """The exchange is over."""
        self._timer.cancel()
        if self._exchange.notice():
            self._pulse.last = self._loop.time()

    def _arm(self) -> asyncio.TimerHandle:
        return self._loop.call_later(self._pause, self._look)

    def _look(self) -> None:
        now = self._loop.time()
        if self._exchange.notice():
            self._last = self._pulse.last = now
        elif self._exchange.paused or now > self._timer.when() + _STOOD_STILL:
            # After a stop (SIGSTOP, a paused virtual machine) timers run out before what came
            # meanwhile is read.
            self._last = now
        elif now - self._last >= self._seconds:
            self._stalled(now)
            return
        self._timer = self._arm()

    def _stalled(self, now: float) -> None:
        others = any(one.shows_life for one in self._pulse.watched if one is not self)
        hung = not others and now - self._pulse.last >= self._seconds
        error = StalledError(self._seconds, hung=hung)
        self._exchange.fail(error)
        if hung:
            self._lease.declare_hung(str(error))
