"""Linux's ``/proc``, ``prctl(2)`` and Landlock, and replacements for other systems.

Each function documents its result without the Linux part: macOS has none of the three.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import stat
import struct
import subprocess
from collections.abc import Callable, Iterable
from functools import cache
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

# linux/landlock.h and linux/prctl.h. The numbers of these system calls are the same everywhere.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_PATH_BENEATH = 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE = 1, 1 << 1, 1 << 2, 1 << 3, 1 << 14
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
_DEVICES = 1 << 6 | 1 << 11
_KNOWN = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1}
"""The rights that each version of Landlock knows."""
_SCOPES = 3
"""No signals to other processes, and no connections to their abstract sockets (version 6)."""
_PR_SET_NO_NEW_PRIVS = 38


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


class Ruleset:
    """The files that a thread may use, and every program that it starts after ``enter``.

    Nothing else can be read, run or written, no program gets more rights by its file's mode, and no
    process outside gets signals from inside. Source: ``landlock(7)``. ``read`` and ``write`` are
    files, and folders with all in them; what is not there is left out. Blocks. Raises ``OSError``
    if this system has no Landlock. Threads that have entered stay confined after ``close``. An
    object that nobody holds any more is closed.
    """

    def __init__(self, read: Iterable[Path], write: Iterable[Path]) -> None:
        self._fd = -1
        version = _call(_CREATE_RULESET, None, 0, 1)
        known = _KNOWN[min(version, max(_KNOWN))]
        attributes = struct.pack("=QQQ", known, 0, _SCOPES)
        size = 24 if version >= 6 else 8
        self._fd = _call(_CREATE_RULESET, attributes[:size], size, 0)
        try:
            for paths, rights in ((read, _READ), (write, known & ~_DEVICES)):
                for path in paths:
                    self._allow(path, rights)
        except BaseException:
            self.close()
            raise

    def __del__(self) -> None:
        self.close()

    def _allow(self, path: Path, rights: int) -> None:
        try:
            fd = os.open(path, getattr(os, "O_PATH", 0) | os.O_CLOEXEC)
        except OSError:
            return
        try:
            if not stat.S_ISDIR(os.fstat(fd).st_mode):
                rights &= _OF_FILES
            _call(_ADD_RULE, self._fd, _PATH_BENEATH, struct.pack("=Qi", rights, fd), 0)
        finally:
            os.close(fd)

    def enter(self) -> None:
        """Confine the calling thread for good. Raises ``OSError``."""
        if (prctl := find_prctl()) is not None:
            prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        _call(_RESTRICT_SELF, self._fd, 0)

    def close(self) -> None:
        """Release the ruleset."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _call(number: int, *arguments: int | bytes | None) -> int:
    """Call Linux's kernel. Raises ``OSError``."""
    if platform.system() != "Linux":
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    words = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    result: int = _library().syscall(number, *words)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


@cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


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
