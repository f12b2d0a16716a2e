"""Whether a client that sends no more still reads.

TCP says the same (FIN) of a program that has closed its connection and of one that has closed its
sending side only (``nc -N``, ``socat``) and waits for its answer. Where the client is on this
machine the kernel's list of sockets tells them apart: a socket that no program holds has no inode.
A client on another machine is taken to read until it resets the connection.

Without such a list (macOS) a client on this machine that sends no more counts as gone: most are,
and to look through the files of all processes would hold up the event loop.
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
    """Those of ``transports``, whose clients send no more, that nobody reads from any more."""
    sockets = _Sockets(proc_net)
    return [transport for transport in transports if _is_gone(transport, sockets)]


class _Sockets:
    """The TCP sockets of this machine, read when they are first asked for."""

    def __init__(self, proc_net: Path) -> None:
        self._proc_net = proc_net
        self._held: dict[tuple[bytes, bytes], bool] | None = None

    def is_held(self, address: tuple[str, int], other: tuple[str, int]) -> bool | None:
        """Whether a program here holds the socket at ``address`` that is connected to ``other``.

        ``None`` = there is no such socket.
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
        # Not on this machine, unless its address is ours.
        return bool(client[0] == address[0])
    return not held


def _state(own: Any) -> int | None:
    """The first byte of Linux's ``struct tcp_info``; ``None`` on other systems."""
    if not hasattr(socket, "TCP_INFO"):
        return None
    try:
        return int(own.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0])
    except OSError:
        return _TCP_CLOSE


def _keys(host: str, port: int) -> tuple[bytes, bytes]:
    """An address as the two lists have it: IPv4, and the same within IPv6."""
    host = host.partition("%")[0].removeprefix("::ffff:")
    if ":" in host:
        return (b"", hex_address(host, port))
    return (hex_address(host, port), hex_address(f"::ffff:{host}", port))
