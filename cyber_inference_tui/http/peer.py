"""Finds half-closed clients that do not read their answers any more.

TCP sends the same FIN for a closed connection and for one whose client has closed only its sending
side (``nc -N``, ``socat``) and still waits for its answer. For a client on this machine, the
kernel's list of sockets shows the difference: a socket that no program holds has no inode. A client
on another machine is assumed to read until it resets the connection.

Without such a list (macOS), a half-closed client on this machine counts as gone. Most are, and a
search through the files of all processes would block the event loop.
"""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

from cyber_inference_tui.sockets import PROC_NET, hex_address, tcp_sockets

_TCP_CLOSE = 7  # include/net/tcp_states.h of Linux


def clients_gone(
    transports: list[asyncio.BaseTransport], proc_net: Path = PROC_NET
) -> list[asyncio.BaseTransport]:
    """Return the half-closed ``transports`` whose clients do not read any more."""
    sockets = _Sockets(proc_net)
    return [transport for transport in transports if _is_gone(transport, sockets)]


class _Sockets:
    """The TCP sockets of this machine, read at the first use."""

    def __init__(self, proc_net: Path) -> None:
        self._proc_net = proc_net
        self._held: dict[tuple[bytes, bytes], bool] | None = None

    def is_held(self, address: tuple[str, int], other: tuple[str, int]) -> bool | None:
        """Check whether a program here holds the socket from ``address`` to ``other``.

        ``None`` if there is no such socket.
        """
        if self._held is None:
            self._held = {
                (one.local, one.remote): one.inode != b"0"
                for one in tcp_sockets(self._proc_net) or ()
            }
        keys = zip(_keys(*address), _keys(*other), strict=True)
        found = [self._held[key] for key in keys if key in self._held]
        return any(found) if found else None


def _is_gone(transport: asyncio.BaseTransport, sockets: _Sockets) -> bool:
    own = transport.get_extra_info("socket")
    address, client = transport.get_extra_info("sockname"), transport.get_extra_info("peername")
    if transport.is_closing() or own is None or not isinstance(client, tuple):
        return True
    if _state(own) == _TCP_CLOSE:
        return True
    held = sockets.is_held(client[:2], address[:2])
    if held is None:
        # The client is on another machine, unless its address is ours.
        return bool(client[0] == address[0])
    return not held


def _state(own: Any) -> int | None:
    """Return the TCP state, from Linux's ``struct tcp_info``; ``None`` on other systems."""
    if not hasattr(socket, "TCP_INFO"):
        return None
    try:
        return int(own.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0])
    except OSError:
        return _TCP_CLOSE


def _keys(host: str, port: int) -> tuple[bytes, bytes]:
    """Return an address in the forms of the two lists: as IPv4, and as IPv4 in IPv6."""
    host = host.partition("%")[0].removeprefix("::ffff:")
    if ":" in host:
        return (b"", hex_address(host, port))
    return (hex_address(host, port), hex_address(f"::ffff:{host}", port))
