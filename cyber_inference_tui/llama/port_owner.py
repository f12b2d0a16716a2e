"""Finds out which program listens on a server's port.

Another program may take the port before the server binds it, or after the server has released it.
Connections to 127.0.0.1 go to a socket that listens there. Linux lists the socket's inode in
``/proc/net/tcp`` and among the files of its process (proc(5)); on other systems psutil lists the
sockets of this user's processes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from cyber_inference_tui.kernel import PROC
from cyber_inference_tui.sockets import hex_address, tcp_sockets
from cyber_inference_tui.text import clean_line

_ADDRESSES = ("127.0.0.1", "::ffff:127.0.0.1", "0.0.0.0", "::")
"""Addresses whose listeners get connections to 127.0.0.1, by precedence: a specific address before
the wildcard, and IPv4 before IPv6."""
_FORWARDERS = frozenset(
    {"docker-proxy", "rootlessport", "rootlesskit", "slirp4netns", "pasta", "pasta.avx2"}
    | {"gvproxy", "ssh", "systemd"}
)
"""Programs that listen on behalf of a command: for containers, over an open SSH connection
(ControlMaster), or as a service."""

_SOCKET = "socket:["


class _Process(NamedTuple):
    parent: int
    session: int
    started: int
    """Clock ticks since boot."""


def foreign_listener(
    port: int, roots: Sequence[int], *, by_command: bool, proc: Path = PROC
) -> str | None:
    """Return a program other than the server that listens on ``port`` of 127.0.0.1. Blocks.

    ``roots`` are pids of the server, beginning with the process that we started. The processes
    below them and in its session belong to the server, too. ``by_command`` = a user's command
    started it, so a container or a forwarder may listen for it. ``None`` = the server listens,
    nobody listens, or the listener is unknown.
    """
    sockets = _listening(port, proc)
    if sockets is None:
        return _find_by_psutil(port, roots, by_command=by_command) if proc == PROC else None
    if not sockets or _holders(roots, sockets, proc):
        return None
    processes = _processes(proc)
    own = _family(roots, processes)
    if _holders(own, sockets, proc):
        return None
    others = _holders(processes.keys() - own, sockets, proc)
    if by_command:
        others = [one for one in others if not _may_serve(one, roots[0], processes, proc)]
        certain = bool(others)
    else:
        certain = bool(others) or all(_sockets_of(one, proc) is not None for one in own)
    # The sockets have changed meanwhile: the next look decides.
    if not certain or _listening(port, proc) != sockets:
        return None
    return _in_words(others[0], proc) if others else "another user's program"


class OwnSocket(NamedTuple):
    """The server's own socket on its port, as an open file of one of its processes."""

    file: Path
    target: str

    def is_open(self) -> bool:
        """Return whether it is still open; then no other program has the port. Does not block."""
        try:
            return str(self.file.readlink()) == self.target
        except OSError:
            return False


def find_own_socket(port: int, roots: Sequence[int], proc: Path = PROC) -> OwnSocket | None:
    """Return the server's socket on ``port`` of 127.0.0.1. Blocks; ``roots`` as above.

    ``None`` = it is unknown, or it is a socket for all addresses: another program may listen on
    this address beside it.
    """
    local = hex_address(_ADDRESSES[0], port)
    inodes = {
        one.inode.decode("ascii", "replace")
        for one in tcp_sockets(proc / "self/net") or ()
        if one.listens and one.local == local
    }
    for pid in _family(roots, _processes(proc)) if inodes else ():
        for file, inode in (_open_sockets(pid, proc) or {}).items():
            if inode in inodes:
                return OwnSocket(file, f"{_SOCKET}{inode}]")
    return None


def _find_by_psutil(port: int, roots: Sequence[int], *, by_command: bool) -> str | None:
    """Do the same without ``/proc``. Other users' programs are invisible here."""
    own = set(roots)
    for pid in roots:
        with contextlib.suppress(psutil.Error, OSError):
            own |= {child.pid for child in psutil.Process(pid).children(recursive=True)}
    if any(_listens(pid, port) for pid in own):
        return None
    for pid in psutil.pids():
        if pid in own or not _listens(pid, port):
            continue
        with contextlib.suppress(psutil.Error, OSError):
            name = clean_line(psutil.Process(pid).name())
            mine = os.getsid(pid) == roots[0] or (by_command and name in _FORWARDERS)
            return None if mine else f"{name} (pid {pid})"
    return None


def _listens(pid: int, port: int) -> bool:
    try:
        sockets = psutil.Process(pid).net_connections("tcp")
    except (psutil.Error, OSError):
        return False
    return any(
        one.status == psutil.CONN_LISTEN and one.laddr.port == port and one.laddr.ip in _ADDRESSES
        for one in sockets
    )


def _listening(port: int, proc: Path) -> frozenset[str] | None:
    """Return the inodes of the sockets that get connections to ``port`` of 127.0.0.1.

    ``None`` = the system has no such list.
    """
    if (sockets := tcp_sockets(proc / "self/net")) is None:
        return None
    ranks: dict[bytes, set[str]] = {hex_address(host, port): set() for host in _ADDRESSES}
    for one in sockets:
        if one.listens and one.local in ranks:
            ranks[one.local].add(one.inode.decode("ascii", "replace"))
    return frozenset(next((found for found in ranks.values() if found), ()))


def _holders(pids: Iterable[int], sockets: frozenset[str], proc: Path) -> list[int]:
    return [pid for pid in pids if not sockets.isdisjoint(_sockets_of(pid, proc) or ())]


def _sockets_of(pid: int, proc: Path) -> set[str] | None:
    """Return the inodes of a process's sockets; ``None`` = we may not look."""
    found = _open_sockets(pid, proc)
    return None if found is None else set(found.values())


def _open_sockets(pid: int, proc: Path) -> dict[Path, str] | None:
    """Return the same by the path of the open file."""
    folder = proc / str(pid) / "fd"
    found = {}
    try:
        for entry in folder.iterdir():
            try:
                target = str(entry.readlink())
            except FileNotFoundError:
                continue
            if target.startswith(_SOCKET):
                found[entry] = target[len(_SOCKET) : -1]
    except (FileNotFoundError, ProcessLookupError):
        return {}
    except OSError:
        return None
    return found


def _processes(proc: Path) -> dict[int, _Process]:
    found = {}
    for folder in proc.iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            stat = (folder / "stat").read_text("ascii", "replace")
        except OSError:
            continue
        # The name in brackets may contain anything. The fields after it are state, ppid, pgrp,
        # session, …, and starttime as field 22.
        fields = stat.rpartition(")")[2].split()
        found[int(folder.name)] = _Process(int(fields[1]), int(fields[3]), int(fields[19]))
    return found


def _family(roots: Sequence[int], processes: Mapping[int, _Process]) -> set[int]:
    """Return ``roots``, the session that the first root leads, and all their descendants."""
    children: dict[int, list[int]] = {}
    for one, process in processes.items():
        children.setdefault(process.parent, []).append(one)
    family: set[int] = set()
    waiting = [*roots, *(one for one in processes if processes[one].session == roots[0])]
    while waiting:
        if (one := waiting.pop()) not in family:
            family.add(one)
            waiting += children.get(one, ())
    return family


def _may_serve(one: int, command: int, processes: Mapping[int, _Process], proc: Path) -> bool:
    """Return whether a process outside the command may listen for it."""
    if _name(one, proc) in _FORWARDERS:
        return True
    try:
        spaces = [(proc / name / "ns/pid").readlink() for name in (str(one), "self")]
    except OSError:
        return False
    # A process in a container that is younger than the command: the command may have started it.
    if spaces[0] == spaces[1] or command not in processes:
        return False
    return processes[one].started >= processes[command].started


def _name(pid: int, proc: Path) -> str:
    try:
        return clean_line((proc / str(pid) / "comm").read_text("utf-8", "replace").strip())
    except OSError:
        return ""


def _in_words(pid: int, proc: Path) -> str:
    return f"{_name(pid, proc) or 'another program'} (pid {pid})"
