"""Chooses the port of a model's server."""

from __future__ import annotations

import socket

from cyber_inference_tui.errors import ModelLoadError

TRIES = 200
"""Ports to try, counting up from the first."""


class PortPool:
    """Hands out free ports, counting up from ``base`` and skipping ports in use.

    With ``base`` 0 the kernel chooses. A port is reserved until it is given back.
    """

    def __init__(self, host: str) -> None:
        self._host = host
        self._held: set[int] = set()

    def take(self, base: int, *, avoid: frozenset[int] = frozenset()) -> int:
        """Reserve a port that nobody listens on. Raises ``ModelLoadError`` if there is none."""
        if base == 0:
            for _ in range(TRIES):
                port = self._bindable(0)
                if port and port not in self._held and port not in avoid:
                    self._held.add(port)
                    return port
        for port in range(base, min(base + TRIES, 65_536)) if base else ():
            if port not in self._held and port not in avoid and self._bindable(port):
                self._held.add(port)
                return port
        raise ModelLoadError(
            f"no free port from {base} to {min(base + TRIES, 65_536) - 1} on {self._host}.",
            hint="Set llama_server_base_port to a free range.",
        )

    def give_back(self, port: int) -> None:
        """Release the port after its server is gone."""
        self._held.discard(port)

    def _bindable(self, port: int) -> int:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # Without this, a port with connections in TIME_WAIT would seem taken.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self._host, port))
            except OSError:
                return 0
            bound: int = probe.getsockname()[1]
            return bound
