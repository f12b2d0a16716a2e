"""Which program answers on a server's port: told by Linux in ``/proc`` (proc(5)).

A port is chosen before its server binds it, so another program may have it in between, and again
when the server has let go of it. Connections to 127.0.0.1 go to a socket that listens there; its
inode stands in ``/proc/net/tcp`` and among the files of the process that has it.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from cyber_inference_tui.llama.reading import PROC
from cyber_inference_tui.text import clean_line

_LISTEN = "0A"
_FORWARDERS = frozenset(
    {"docker-proxy", "rootlessport", "rootlesskit", "slirp4netns", "pasta", "pasta.avx2"}
    | {"gvproxy", "ssh", "systemd"}
)
"""Programs that listen for what a command starts: in containers, beyond an SSH connection that was
open already (ControlMaster), as a service."""


class _Process(NamedTuple):
    parent: int
    session: int
    started: int
    """Clock ticks since boot."""


def stranger(port: int, roots: Sequence[int], *, by_command: bool, proc: Path = PROC) -> str | None:
    """Another program than a server that listens on ``port`` of 127.0.0.1. Blocks.

    ``roots`` are the pids of the server: the process that we started comes first. The processes
    below them and those of its session belong to it, too. ``by_command`` = a person's command
    started it, so that a container or a forwarder may listen for it. ``None`` = the server listens,
    or nobody does, or it cannot be told.
    """
    sockets = _listening(port, proc)
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
    # What has changed meanwhile says nothing; the next look will.
    if not certain or _listening(port, proc) != sockets:
        return None
    return _in_words(others[0], proc) if others else "another user's program"


def _listening(port: int, proc: Path) -> frozenset[str]:
    """The inodes of the sockets that get connections to ``port`` of 127.0.0.1."""
    loopback = _hex(socket.inet_aton("127.0.0.1"))
    mapped = _hex(socket.inet_pton(socket.AF_INET6, "::ffff:127.0.0.1"))
    # An address of its own comes before all addresses, and IPv4 before IPv6.
    ranks: dict[str, set[str]] = {loopback: set(), mapped: set(), "0" * 8: set(), "0" * 32: set()}
    for name in ("tcp", "tcp6"):
        try:
            lines = (proc / "self/net" / name).read_text("ascii", "replace").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            words = line.split()
            if len(words) < 10 or words[3] != _LISTEN:
                continue
            address, _, number = words[1].partition(":")
            if int(number, 16) == port and address in ranks:
                ranks[address].add(words[9])
    return frozenset(next((found for found in ranks.values() if found), ()))


def _hex(address: bytes) -> str:
    """An address as the kernel prints it: words of four bytes in the machine's order."""
    words = (address[at : at + 4] for at in range(0, len(address), 4))
    return "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words)


def _holders(pids: Iterable[int], sockets: frozenset[str], proc: Path) -> list[int]:
    return [pid for pid in pids if not sockets.isdisjoint(_sockets_of(pid, proc) or ())]


def _sockets_of(pid: int, proc: Path) -> set[str] | None:
    """The inodes of a process's sockets; ``None`` where we may not look."""
    folder = proc / str(pid) / "fd"
    found = set()
    try:
        for entry in folder.iterdir():
            try:
                target = str(entry.readlink())
            except FileNotFoundError:
                continue
            if target.startswith("socket:["):
                found.add(target[8:-1])
    except (FileNotFoundError, ProcessLookupError):
        return set()
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
        # The name in brackets may hold anything. After it: state, ppid, pgrp, session, …, and
        # starttime as the 22nd field.
        fields = stat.rpartition(")")[2].split()
        found[int(folder.name)] = _Process(int(fields[1]), int(fields[3]), int(fields[19]))
    return found


def _family(roots: Sequence[int], processes: Mapping[int, _Process]) -> set[int]:
    """``roots``, the session that the first of them leads, and all that descends from these."""
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
    """Whether a process that is not below a command may listen for it all the same."""
    if _name(one, proc) in _FORWARDERS:
        return True
    try:
        spaces = [(proc / name / "ns/pid").readlink() for name in (str(one), "self")]
    except OSError:
        return False
    # In a container that is younger than the command, which may have started it.
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
