"""Which port a model's server gets."""

from __future__ import annotations

import socket

from cyber_inference_tui.errors import ModelLoadError

TRIES = 200
"""Ports that are tried, counting up from the first."""


class PortPool:
    """Hands out free ports, counting up from ``base`` and stepping over those in use.

    ``base`` 0 lets the kernel pick. A port is held until it is given back.
    """

    def __init__(self, host: str) -> None:
        self._host = host
        self._held: set[int] = set()

    def take(self, base: int, *, avoid: frozenset[int] = frozenset()) -> int:
        """A port that nobody listens on now; raises ``ModelLoadError`` when there is none."""
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
        """The port's server is gone."""
        self._held.discard(port)

    def _bindable(self, port: int) -> int:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # Without this a port whose last connections are in TIME_WAIT would seem taken.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self._host, port))
            except OSError:
                return 0
            bound: int = probe.getsockname()[1]
            return bound
