"""Limits the number of clients' connections, in all and from one address."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from operator import attrgetter

from cyber_inference_tui.errors import TooManyConnectionsError
from cyber_inference_tui.http.lean_connection import LeanConnection
from cyber_inference_tui.sockets import network_of

_WARNING_INTERVAL = 60.0

_logger = logging.getLogger(__name__)


class ConnectionLimit:
    """Knows the open connections, and closes idle ones for new ones.

    At most ``most`` are open at once, and ``most_of_one`` from one address (with IPv6 from one /64
    network); ``None`` = no limit. Connections with a request are never closed.
    """

    def __init__(
        self, most: int | None, most_of_one: int | None, clock: Callable[[], float]
    ) -> None:
        self._most = most
        self._most_of_one = most_of_one
        self._clock = clock
        self._networks: dict[LeanConnection, str] = {}
        """The open connections, each with the network of its client."""
        self._counts: Counter[str] = Counter()
        self._warned: float | None = None

    def add(self, new: LeanConnection) -> TooManyConnectionsError | None:
        """Add a connection, and close an idle one for it if needed.

        Return the error for the client if none is idle.
        """
        network = self._networks[new] = network_of(new.remote)
        self._counts[network] += 1
        if self._most_of_one is not None and self._counts[network] > self._most_of_one:
            rivals = [one for one, its in self._networks.items() if its == network]
            limit, whose = self._most_of_one, f"of {network}"
            sentence = "Too many connections come from this address."
        elif self._most is not None and len(self._networks) > self._most:
            rivals = list(self._networks)
            limit, whose = self._most, "that the limit of open files allows"
            sentence = "The service has no connection left."
        else:
            return None
        idle = [one for one in rivals if one.is_idle and one is not new]
        if idle:
            # The least recently used one.
            min(idle, key=attrgetter("idle_until")).force_close()
            return None
        now = self._clock()
        if self._warned is None or now - self._warned >= _WARNING_INTERVAL:
            self._warned = now
            _logger.warning("refusing a client: all %d connections %s are in use", limit, whose)
        return TooManyConnectionsError(sentence, hint="Try again later.")

    def remove(self, connection: LeanConnection) -> None:
        """Forget a closed connection."""
        network = self._networks.pop(connection, None)
        if network is not None:
            self._counts[network] -= 1
            if not self._counts[network]:
                del self._counts[network]
