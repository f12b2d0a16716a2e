"""The connections to each model's server: idle ones, and those with an exchange under way.

llama-server (cpp-httplib) closes a connection after 5 s without a request, and each open connection
occupies one of its threads. So idle connections are kept for a shorter time. There are never more
than requests were in flight at once, and a spare one.

For each server with exchanges a timer checks four times in each ``stall_timeout`` which of them
have received bytes since the last check. Receiving bytes costs nothing extra. A silence is detected
after 1 to 1.5 times the setting. Time in which the client does not read, or in which the service
itself was stopped, does not count.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from cyber_inference_tui.http.answer_head import AnswerHeads
from cyber_inference_tui.http.box_place import BoxPlace
from cyber_inference_tui.http.upstream import Receiver, UpstreamConnection, UpstreamLostError
from cyber_inference_tui.llama.http_get import ServerAddress
from cyber_inference_tui.peers.peer import PeerServer
from cyber_inference_tui.scheduler.lease import Lease
from cyber_inference_tui.scheduler.places import Places
from cyber_inference_tui.scheduler.server_interface import Server

_IDLE_SECONDS = 4.0
_MAX_IDLE = 64
_CONNECT_TIMEOUT = 10.0
_EARLY = 1.0
"""Seconds. A server that closes a connection so soon after an answer does so after each answer of
the kind: llama-server after each stream."""

_CHECKS = 4
_SHORTEST_PAUSE = 0.01
_LONGEST_PAUSE = 60.0
_STOPPED = 1.0
"""Seconds of delay of a check after which the service itself must have been stopped."""


class StalledError(Exception):
    """The server sent nothing for ``seconds``; ``hung`` means that no request got anything."""

    def __init__(self, seconds: float, *, hung: bool) -> None:
        super().__init__(f"sent nothing for {seconds:g} s (stall_timeout)")
        self.hung = hung


class ConnectionPool:
    """The connections to all servers."""

    def __init__(self) -> None:
        self._heads = AnswerHeads()
        self._servers: dict[ServerAddress, ServerConnections] = {}

    def of(self, address: ServerAddress) -> ServerConnections:
        """Return the connections to a server."""
        server = self._servers.get(address)
        if server is None:
            # Drop those of servers that are gone.
            self._servers = {old: one for old, one in self._servers.items() if one.is_used}
            server = self._servers[address] = ServerConnections(address, self._heads)
        return server

    def receivers(self) -> list[Receiver]:
        """Return the receivers of all exchanges under way."""
        return [
            connection.receiver
            for server in self._servers.values()
            for connection in server.connections
            if connection.receiver is not None
        ]

    def close(self) -> None:
        """Close all idle connections."""
        for server in self._servers.values():
            server.close()


class ServerConnections:
    """The connections to a server. The most recently used idle connection is taken first."""

    def __init__(self, address: ServerAddress, heads: AnswerHeads) -> None:
        self.loop = asyncio.get_running_loop()
        self._address = address
        self.heads = heads
        self.idle: list[UpstreamConnection] = []
        """The connections without an exchange, the most recently used last."""
        self._idle_timer: asyncio.TimerHandle | None = None
        self._closes_early = False
        """Whether the server has closed a connection that it had promised to keep."""
        self._spare: asyncio.Task[None] | None = None
        self.connections: set[UpstreamConnection] = set()
        """All open connections."""
        self.heard = -math.inf
        """A time at which an exchange ended with a byte, or a check found a byte of one."""
        self._seconds = 0.0
        self._check_timer: asyncio.TimerHandle | None = None
        self.watched: Server | PeerServer | None = None
        """The server of the exchanges that are watched; ``None`` if there are none."""
        self._on_forced_unload: set[Callable[[], None]] = set()

    @property
    def is_used(self) -> bool:
        """Return whether there are connections, or were a moment ago."""
        return (self._idle_timer, self._check_timer, self._spare) != (None, None, None)

    # Idle connections

    def take(self) -> UpstreamConnection | None:
        """Return an idle connection, if there is one."""
        # A closed connection is forgotten. If it closes under the request, that is sent again.
        if self.idle:
            return self.take_idle()
        if self._closes_early:
            self.open_spare()
        return None

    def take_idle(self) -> UpstreamConnection:
        """Return an idle connection. There must be one."""
        connection = self.idle.pop()
        if self._closes_early and not self.idle:
            self.open_spare()
        return connection

    async def connect(self) -> UpstreamConnection:
        """Return a new connection.

        Raises ``OSError`` (also ``TimeoutError``) if it cannot connect.
        """
        async with asyncio.timeout(_CONNECT_TIMEOUT):
            _, connection = await self.loop.create_connection(
                lambda: UpstreamConnection(self), *self._address[:2], ssl=self._address.tls
            )
        return connection

    def keep(self, connection: UpstreamConnection, now: float) -> None:
        """Keep a connection for the next request, in the place of the oldest if there are many."""
        idle = self.idle
        if len(idle) >= _MAX_IDLE:
            idle[0].close()
        connection.since, connection.kept = now, True
        idle.append(connection)
        if self._idle_timer is None:
            self._idle_timer = self.loop.call_later(_IDLE_SECONDS, self._close_old)

    def forget(self, connection: UpstreamConnection) -> None:
        """Remove a connection that is closed or about to be."""
        if connection in self.idle:
            self.idle.remove(connection)

    def lost(self, connection: UpstreamConnection) -> None:
        """Remove a connection that the server has closed."""
        self.connections.discard(connection)
        if connection in self.idle:
            self.idle.remove(connection)
            if self.loop.time() < connection.since + _EARLY:
                self._closes_early = True
                if self._busy() and not self.idle:
                    self.open_spare()

    def open_spare(self) -> None:
        """Open a connection, so that a later request needs no wait."""
        if self._spare is None:
            self._spare = self.loop.create_task(self._keep_spare(), name="open a spare connection")

    async def _keep_spare(self) -> None:
        try:
            connection = await self.connect()
        except OSError:
            # The next request reports it.
            return
        finally:
            self._spare = None
        self.keep(connection, self.loop.time())

    def close(self) -> None:
        """Close all idle connections, and check no more."""
        if self._spare is not None:
            self._spare.cancel()
        for timer in (self._idle_timer, self._check_timer):
            if timer is not None:
                timer.cancel()
        self._idle_timer = self._check_timer = None
        for connection in list(self.idle):
            connection.close()

    def _close_old(self) -> None:
        """Close the connections that were idle for ``_IDLE_SECONDS``."""
        now = self.loop.time()
        self._idle_timer = None
        for connection in list(self.idle):
            if connection.since + _IDLE_SECONDS <= now:
                connection.close()
        if self.idle:
            oldest = min(connection.since for connection in self.idle)
            self._idle_timer = self.loop.call_at(oldest + _IDLE_SECONDS, self._close_old)

    # Exchanges

    def watch(self, place: Lease | Places | BoxPlace, seconds: float) -> None:
        """Watch the exchanges, of which the newest has this place, until their ends.

        A stalled exchange fails with ``StalledError``, after ``seconds`` (0 = never). If no other
        exchange received a byte in the same time, the server is declared hung. If the model is
        unloaded by force, the exchange fails with ``UpstreamLostError``.
        """
        if self._check_timer is None or seconds != self._seconds:
            self._seconds = seconds
            self._arm()
        if self.watched is not place.server:
            self._forget_server()
            self.watched, self._on_forced_unload = place.server, place.on_forced_unload
            self._on_forced_unload.add(self._end_all)

    def end_deaf(self, server: Server | PeerServer) -> bool:
        """Kill a server that refuses connections, unless it has exchanges; return whether it did.

        After a SIGTERM, llama-server stops listening, and exits only when its input ends.
        """
        deaf = not self._busy()
        if deaf:
            server.declare_hung("it stopped listening on its port")
        return deaf

    def _busy(self) -> list[UpstreamConnection]:
        """Return the connections with an exchange."""
        return [one for one in self.connections if one.receiver is not None]

    def _forget_server(self) -> None:
        self._on_forced_unload.discard(self._end_all)
        self.watched = None

    def _end_all(self) -> None:
        for connection in self._busy():
            connection.fail(UpstreamLostError(untouched=False))

    def _arm(self) -> None:
        if self._check_timer is not None:
            self._check_timer.cancel()
        pause = self._seconds / _CHECKS if self._seconds else _LONGEST_PAUSE
        self._check_timer = self.loop.call_later(max(pause, _SHORTEST_PAUSE), self._check)

    def _check(self) -> None:
        """Check all exchanges, or stop if there are none."""
        now, timer = self.loop.time(), self._check_timer
        # After a stop (SIGSTOP, a paused virtual machine), timers expire before the bytes that
        # have arrived are read.
        was_stopped = timer is not None and now > timer.when() + _STOPPED
        self._check_timer = None
        busy = self._busy()
        if not busy:
            self._forget_server()
            return
        self._arm()
        for connection in busy:
            if connection.receiver is None:
                continue
            if connection.take_new_bytes():
                connection.since = self.heard = now
            elif connection.paused or was_stopped:
                connection.since = now
            elif self._seconds and now - connection.since >= self._seconds:
                self._fail(connection, now)

    def _fail(self, connection: UpstreamConnection, now: float) -> None:
        others = any(
            # There are unnoticed bytes, or the client is too slow for any to arrive.
            one.has_new_bytes or one.paused
            for one in self._busy()
            if one is not connection
        )
        hung = not others and now - self.heard >= self._seconds
        error = StalledError(self._seconds, hung=hung)
        server = self.watched
        connection.fail(error)
        if hung and server is not None and not server.exited.done():
            server.declare_hung(str(error))
