"""Half-closed connections: clients that send no more, and still wait for their answers."""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

from cyber_inference_tui.http.peer import clients_gone

HALF_CLOSED_INTERVAL = 0.5
"""Seconds between two checks whether half-closed clients still read."""
_HALF_CLOSED_PAUSE = 0.1
"""The least seconds between two checks, because each reads the list of all sockets."""


class HalfClosed(Protocol):
    """A half-closed connection."""

    transport: asyncio.Transport | None

    def close_if_answered(self) -> None:
        """End the connection, unless a complete request waits for its answer."""


class HalfClosedConnections:
    """Half-closed connections, checked until they are answered or their clients are gone."""

    def __init__(self) -> None:
        self._connections: set[HalfClosed] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._looked_at = float("-inf")

    def add(self, connection: HalfClosed) -> bool:
        """Start to check ``connection``; return ``False`` if its client is already gone."""
        now = asyncio.get_running_loop().time()
        transport = connection.transport
        if transport is None:
            return False
        if now >= self._looked_at + _HALF_CLOSED_PAUSE:
            self._looked_at = now
            if clients_gone([transport]):
                return False
        elif self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._connections.add(connection)
        self._look_later(_HALF_CLOSED_PAUSE)
        return True

    def discard(self, connection: HalfClosed) -> None:
        """Forget a closed connection."""
        self._connections.discard(connection)

    def _look_later(self, pause: float = HALF_CLOSED_INTERVAL) -> None:
        if self._timer is None and self._connections:
            self._timer = asyncio.get_running_loop().call_later(pause, self._look)

    def _look(self) -> None:
        self._timer = None
        self._looked_at = asyncio.get_running_loop().time()
        transports = [one.transport for one in self._connections if one.transport is not None]
        for transport in clients_gone(list(transports)):
            cast("asyncio.Transport", transport).abort()
        for connection in list(self._connections):
            connection.close_if_answered()
        self._look_later()
