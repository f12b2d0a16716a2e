"""Whether a client that sends no more still reads.

TCP says the same (FIN) of a program that has closed its connection and of one that has closed its
sending side only (``nc -N``, ``socat``) and waits for its answer. Where the client is on this
machine the kernel's list of sockets tells them apart: a socket that no program holds has no inode.
A client on another machine is taken to read until it resets the connection.
"""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

PROC_NET = Path("/proc/net")
_MOST_BYTES = 16 << 20
_TCP_CLOSE = 7  # include/net/tcp_states.h of Linux
# Fields of /proc/net/tcp (``proc_net_tcp.rst`` of the kernel's documentation).
_LOCAL, _REMOTE, _INODE = 1, 2, 9


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
            self._held = _read(self._proc_net / "tcp") | _read(self._proc_net / "tcp6")
        keys = zip(_keys(*address), _keys(*other), strict=True)
        found = [self._held[key] for key in keys if key in self._held]
        return any(found) if found else None


def _read(path: Path) -> dict[tuple[bytes, bytes], bool]:
    """By both addresses: whether a program holds the socket."""
    try:
        with path.open("rb") as file:
            lines = file.read(_MOST_BYTES).splitlines()[1:]
    except OSError:
        return {}
    rows = (line.split() for line in lines)
    return {
        (fields[_LOCAL], fields[_REMOTE]): fields[_INODE] != b"0"
        for fields in rows
        if len(fields) > _INODE
    }


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
    """An address as the two lists write it: 32-bit words in the machine's order, then the port."""
    host = host.partition("%")[0].removeprefix("::ffff:")
    if ":" in host:
        words = socket.inet_pton(socket.AF_INET6, host)
        return (b"", _hex(words, port))
    words = socket.inet_pton(socket.AF_INET, host)
    return (_hex(words, port), _hex(bytes(10) + b"\xff\xff" + words, port))


def _hex(words: bytes, port: int) -> bytes:
    text = "".join(words[at : at + 4][::-1].hex() for at in range(0, len(words), 4))
    return f"{text}:{port:04x}".upper().encode()
