"""Runs a module of ours as if it ran on macOS: ``python -P without_linux.py … -m MODULE …``

What only Linux has is gone: files below ``/proc`` and ``/sys`` (for everybody but psutil, which has
another source on macOS), ``prctl``, and names of the standard library. ``platform`` says that it is
a Mac with Apple's chip.
"""

from __future__ import annotations

import errno
import importlib
import os
import runpy
import sys
from collections.abc import Mapping
from types import FrameType

LINUX_ONLY = {
    # First: other modules take from it what there is.
    "select": ("epoll", "EPOLLIN", "EPOLLOUT", "EPOLLERR", "EPOLLHUP", "EPOLL_CLOEXEC"),
    "fcntl": ("F_OFD_SETLK", "F_SETLEASE", "F_NOTIFY", "F_SETPIPE_SZ", "F_ADD_SEALS"),
    "os": (
        *("O_DIRECT", "O_LARGEFILE", "O_NOATIME", "O_PATH", "O_TMPFILE", "O_RSYNC"),
        *("eventfd", "fdatasync", "memfd_create", "pidfd_open", "copy_file_range", "splice"),
        *("getrandom", "posix_fadvise", "posix_fallocate", "sched_getaffinity", "pipe2"),
        *("sched_setaffinity", "sched_setscheduler", "setns", "unshare", "waitid", "getxattr"),
        *("setxattr", "getresuid", "sched_getparam", "timerfd_create"),
    ),
    "resource": ("prlimit", "RLIMIT_MSGQUEUE", "RLIMIT_NICE", "RLIMIT_SIGPENDING"),
    "signal": ("SIGRTMIN", "SIGRTMAX", "SIGPWR", "SIGSTKFLT", "pidfd_send_signal", "sigtimedwait"),
    "socket": (
        *("AF_NETLINK", "AF_PACKET", "AF_VSOCK", "SO_PEERCRED", "SO_PASSCRED", "SO_BINDTODEVICE"),
        *("TCP_INFO", "TCP_CORK", "TCP_DEFER_ACCEPT", "TCP_QUICKACK", "TCP_USER_TIMEOUT"),
    ),
}
"""Names of the standard library that there are not on macOS, by their modules."""
CLOSED = ("/proc/", "/sys/")


class _NoPrctl:
    """The C library, without ``prctl``."""

    def __getattr__(self, name: str) -> object:
        raise AttributeError(f"dlsym(RTLD_DEFAULT, {name}): symbol not found")


def _by_psutil(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith("psutil"):
            return True
        frame = frame.f_back
    return False


def _close(event: str, arguments: tuple[object, ...]) -> None:
    """An audit hook: no file that only Linux has can be opened."""
    if event not in {"open", "os.listdir", "os.scandir"} or not arguments:
        return
    path = arguments[0]
    if isinstance(path, bytes):
        path = os.fsdecode(path)
    if isinstance(path, str) and f"{path}/".startswith(CLOSED) and not _by_psutil(sys._getframe(1)):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


def remove_linux() -> None:
    """From now on this process has nothing of Linux's own. There is no way back."""
    _delete("select")
    # They look at their system when they are imported, for themselves.
    for name in ("psutil", "uvloop"):
        importlib.import_module(name)
    for name in LINUX_ONLY:
        _delete(name)
    # Since Python 3.13 it asks sched_getaffinity, where there is that.
    vars(os).update({"process_cpu_count": os.cpu_count} if sys.version_info >= (3, 13) else {})
    ctypes, platform = map(importlib.import_module, ("ctypes", "platform"))
    whole = ctypes.CDLL

    def library(name: str | None, *arguments: object, **keywords: object) -> object:
        return _NoPrctl() if name is None else whole(name, *arguments, **keywords)

    ctypes.__dict__["CDLL"] = library
    platform.__dict__.update(system=lambda: "Darwin", machine=lambda: "arm64")
    sys.addaudithook(_close)


def run_without_linux(script: str, *arguments: str, environ: Mapping[str, str] = os.environ) -> str:
    """What a Python script prints that runs without anything of Linux's own."""
    import subprocess

    beginning = f"import runpy, sys\nrunpy.run_path({__file__!r})['remove_linux']()\n"
    done = subprocess.run(
        [sys.executable, "-c", beginning + script, *arguments],
        env=dict(environ),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def _delete(name: str) -> None:
    module = importlib.import_module(name)
    for one in LINUX_ONLY[name]:
        vars(module).pop(one, None)


if __name__ == "__main__":
    at = sys.argv.index("-m")
    sys.argv = sys.argv[at + 1 :]
    remove_linux()
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
