"""Linux's answers from ``/proc`` and ``prctl(2)``, and replacements for other systems.

Each function documents its result without the Linux part: macOS has neither of the two.
"""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import psutil

from cyber_inference_tui.files import read_file
from cyber_inference_tui.text import clean_line

PROC = Path("/proc")
_MOST_BYTES = 1 << 16
_MOST_THREADS = 1024
_MOST_DIGITS = 10
_PROGRAM_LIMIT = 5.0


def child_pids(pid: int, proc: Path = PROC) -> list[int]:
    """Return the children of process ``pid``; none if it is gone.

    Source: ``proc_tid_children(5)``. psutil, which examines every process, replaces it on other
    systems, on kernels without it, and when a thread ends meanwhile.
    """
    found: list[int] = []
    whole = True
    try:
        # A child is listed with the thread that started it. A llama-server has hundreds: without
        # objects for the paths, this takes a quarter of the time.
        with os.scandir(f"{proc}/{pid}/task") as threads:
            for thread in islice(threads, _MOST_THREADS):
                try:
                    words = _read(f"{thread.path}/children").split()
                except OSError:
                    whole = False
                    continue
                found += [int(one) for one in words if one.isdigit() and len(one) <= _MOST_DIGITS]
    except OSError:
        whole = False
    if whole or proc != PROC:
        return [child for child in found if child > 0]
    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except (psutil.Error, OSError, ValueError):
        return []


def _read(path: str) -> bytes:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    content = b""
    try:
        # The kernel returns a long list in pieces.
        while len(content) < _MOST_BYTES and (piece := os.read(file, _MOST_BYTES)):
            content += piece
    finally:
        os.close(file)
    return content


def has_exited_child() -> bool:
    """Return whether a child of this process has exited and was not reaped yet.

    Source: ``waitid(2)``. Python on macOS has it from 3.13 on; before, the answer is ``True``.
    """
    if (waitid := getattr(os, "waitid", None)) is None:
        return True
    try:
        return waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return False


def find_prctl() -> Callable[..., int] | None:
    """Return ``prctl(2)`` for calls between fork and exec; ``None`` = the system has none."""
    try:
        found: Callable[..., int] = ctypes.CDLL(None).prctl
    except (AttributeError, OSError):
        return None
    return found


def boot_id(root: Path = Path("/")) -> str:
    """Return an id of this run of the machine, from boot to shutdown; empty if unknown.

    https://www.kernel.org/doc/html/latest/admin-guide/sysctl/kernel.html#random; macOS has
    ``kern.bootsessionuuid``.
    """
    try:
        return read_file(root / "proc/sys/kernel/random/boot_id", 64).decode("ascii").strip()
    except (OSError, ValueError):
        return sysctl("kern.bootsessionuuid") or ""


def on_macos() -> bool:
    """Return whether this program runs on macOS."""
    return platform.system() == "Darwin"


def on_apple_silicon() -> bool:
    """Return whether this is a Mac whose GPU is in its chip and shares the machine's memory."""
    return on_macos() and platform.machine() == "arm64"


def sysctl(name: str) -> str | None:
    """Return a value of macOS's ``sysctl(8)``; ``None`` = another system, or no such value."""
    return output_of("sysctl", "-n", name) if on_macos() else None


def output_of(*command: str) -> str | None:
    """Return the output of a small system program; ``None`` = it is missing or fails."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PROGRAM_LIMIT,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    text = done.stdout[:_MOST_BYTES].decode("utf-8", "replace")
    return "\n".join(clean_line(line) for line in text.splitlines()).strip() or None
