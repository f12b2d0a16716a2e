"""Limits how fast an address may try passwords."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from cyber_inference_tui.backoff import backoff
from cyber_inference_tui.sockets import network_of

FREE_FAILURES = 5
"""Wrong passwords that an address may send before it has to wait."""
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
FORGET_AFTER = 900.0
"""Seconds after which the wrong passwords of an address are forgotten."""
MAX_CLIENTS = 1024


class LoginAttempts:
    """Makes addresses wait after wrong passwords: 0 s at first, then 1, 2, 4 … 60 s.

    IPv6 addresses are counted by their 64-bit network, the size that a customer gets. Only the
    newest ``MAX_CLIENTS`` are remembered.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()
        """The number of failures and the time of the last failure, by address, oldest first."""

    def __len__(self) -> int:
        return len(self._failures)

    def wait(self, address: str | None) -> float:
        """Return the seconds until the address may try again; 0 = now."""
        count, last = self._failures.get(network_of(address), (0, 0.0))
        since = self._clock() - last
        if count < FREE_FAILURES or since > FORGET_AFTER:
            return 0.0
        pause = backoff(FIRST_PAUSE, LONGEST_PAUSE, count - FREE_FAILURES + 1)
        return max(0.0, pause - since)

    def failed(self, address: str | None) -> None:
        """Count a wrong password."""
        now = self._clock()
        count, last = self._failures.pop(network_of(address), (0, now))
        self._failures[network_of(address)] = (1 if now - last > FORGET_AFTER else count + 1, now)
        if len(self._failures) > MAX_CLIENTS:
            self._failures.popitem(last=False)

    def succeeded(self, address: str | None) -> None:
        """Forget the address's failures."""
        self._failures.pop(network_of(address), None)
