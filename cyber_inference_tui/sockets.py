"""Listens on TCP ports, lists this machine's TCP sockets, and tells clients apart.

The list is Linux's ``/proc/net/tcp`` and ``tcp6``. Source: ``proc_net_tcp.rst`` of the kernel's
documentation. Other systems have no such list; the callers document their alternative.
"""

from __future__ import annotations

import contextlib
import io
import ipaddress
import itertools
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cyber_inference_tui.files import read_file

PROC_NET = Path("/proc/self/net")
_MOST_BYTES = 16 << 20
_LOCAL, _REMOTE, _STATE, _INODE = 1, 2, 3, 9
_LISTEN = b"0A"
_FEW_LINES = 512
"""Bytes to read at once. A line has 150."""
BACKLOG = 512
"""Connections that may wait to be accepted."""


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach the address."""
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address.is_loopback


def listening_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address; raises ``OSError``.

    It is a ``socket.gaierror`` if the name cannot be resolved.
    """
    (family, kind, protocol, _, address), *_ = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    listener = socket.socket(family, kind, protocol)
    try:
        # A port with connections in TIME_WAIT is free.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


class TcpSocket(NamedTuple):
    """A socket; addresses are in the form of ``hex_address``."""

    local: bytes
    remote: bytes
    listens: bool
    inode: bytes
    """Listed among the open files of the socket's process; ``0`` = no process has it any more."""


def tcp_sockets(proc_net: Path = PROC_NET) -> Iterator[TcpSocket] | None:
    """Return all sockets in this network namespace; ``None`` = the system has no such list.

    There may be tens of thousands, so they are made one by one.
    """
    lists = []
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            lists.append(read_file(proc_net / name, _MOST_BYTES))
    return itertools.chain.from_iterable(map(_parsed, lists)) if lists else None


def _parsed(content: bytes) -> Iterator[TcpSocket]:
    for line in itertools.islice(io.BytesIO(content), 1, None):
        row = line.split()
        if len(row) > _INODE:
            yield TcpSocket(row[_LOCAL], row[_REMOTE], row[_STATE] == _LISTEN, row[_INODE])


def listening_inode(host: str, port: int, proc_net: Path = PROC_NET) -> str | None:
    """Return the inode of a socket that listens on this IPv4 address; ``None`` = there is none.

    Listening sockets are listed first. Reading stops after them, because to list connections the
    kernel goes through a table that is large even with few of them.
    """
    wanted = hex_address(host, port)
    with contextlib.suppress(OSError), (proc_net / "tcp").open("rb", buffering=_FEW_LINES) as file:
        file.readline()
        for line in file:
            row = line.split()
            if len(row) <= _INODE or row[_STATE] != _LISTEN:
                break
            if row[_LOCAL] == wanted:
                return row[_INODE].decode("ascii", "replace")
    return None


def hex_address(host: str, port: int) -> bytes:
    """Encode an address like the list: four-byte words in the machine's order, then the port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    address = socket.inet_pton(family, host)
    words = (address[at : at + 4] for at in range(0, len(address), 4))
    text = "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words)
    return f"{text}:{port:04X}".encode()


def network_of(address: str | None) -> str:
    """Return a client's address; of IPv6 its /64 network, of which one client has all addresses.

    Empty for anything but an IP address.
    """
    try:
        ip = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return ""
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is None:
            return str(ipaddress.ip_network((ip, 64), strict=False))
        return str(ip.ipv4_mapped)
    return str(ip)
