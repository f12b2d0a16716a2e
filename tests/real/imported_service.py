"""A Python that has imported the service already, and forks one for each command line it is sent.

To import takes most of a start's CPU time. Apart from that, such a service is like any other:
``python -m cyber_inference_tui`` runs with its own arguments, environment, files and session, as a
child of the process that asked. What only ``exec`` gives it has from this Python: the command line
that ``ps`` shows, the signals that are ignored, libraries that are loaded first.

Run as a program, this gets the descriptor of a socket. Each message on it is JSON and brings the
service's stdin, stdout and stderr; the answer is the pid.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import importlib
import io
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

PACKAGE = "cyber_inference_tui"
_IMPORTED = (
    f"{PACKAGE}.cli.main",
    f"{PACKAGE}.cli.serve_command",
    f"{PACKAGE}.http.serve",
    f"{PACKAGE}.settings.load",
    "uvloop",
)
_ROOT = Path(__file__).parents[2]
_EARLY = ("LD_", "LC_", "LANG", "PYTHON")
_MOST_BYTES = 1 << 17
_PR_SET_CHILD_SUBREAPER = 36


class ForkedService:
    """One service: what the tests use of ``subprocess.Popen``."""

    def __init__(self, pid: int, stdout: IO[str]) -> None:
        self.pid = pid
        self.stdout = stdout
        self.returncode: int | None = None
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        with self._lock:
            if self.returncode is None:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.poll() is None:
            end = os.pidfd_open(self.pid)
            try:
                waiting = select.poll()
                waiting.register(end, select.POLLIN)
                waiting.poll(None if timeout is None else timeout * 1000)
            finally:
                os.close(end)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired([PACKAGE], timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class ImportedService:
    """Starts services without an import; ``close`` it.

    ``environ`` is its own environment: what the loader and the interpreter read of it holds for
    its services.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._socket, its = socket.socketpair(type=socket.SOCK_SEQPACKET)
        with its:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(its.fileno())],
                env=dict(environ),
                cwd=_ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[its.fileno()],
                start_new_session=True,
            )

    def close(self) -> None:
        self._socket.close()
        self._process.wait()

    def suits(self, environ: Mapping[str, str]) -> bool:
        """Whether what is read when a process starts is the same in its environment and this."""
        names = self._environ.keys() | environ.keys()
        return not any(
            name.startswith(_EARLY) and self._environ.get(name) != environ.get(name)
            for name in names
        )

    def fork(
        self, arguments: Sequence[str], environ: Mapping[str, str], stderr: IO[bytes]
    ) -> ForkedService:
        """A service with these arguments."""
        asked = {"arguments": arguments, "environ": dict(environ), "directory": str(Path.cwd())}
        message = json.dumps(asked).encode()
        read, write = os.pipe()
        adopt_orphans(True)
        try:
            with Path(os.devnull).open("rb") as stdin, os.fdopen(write, "wb") as stdout:
                fds = [stdin.fileno(), stdout.fileno(), stderr.fileno()]
                socket.send_fds(self._socket, [message], fds)
                pid = int(self._socket.recv(_MOST_BYTES))
        finally:
            adopt_orphans(False)
        return ForkedService(pid, os.fdopen(read, encoding="utf-8"))


def adopt_orphans(value: bool) -> None:
    """Let this process become the parent of orphaned descendants, or leave them to init."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(value), 0, 0, 0)


def _fork(channel: socket.socket) -> int:
    """0 in the new process, which is no child of ours but of the process that adopts orphans."""
    pid_read, pid_write = os.pipe()
    go_read, go_write = os.pipe()
    between = os.fork()
    if not between:
        if pid := os.fork():
            os.write(pid_write, b"%d" % pid)
            os._exit(0)
        for fd in (pid_read, pid_write, go_write, channel.detach()):
            os.close(fd)
        os.read(go_read, 1)  # until it has its parent
        os.close(go_read)
        return 0
    os.waitpid(between, 0)
    pid = int(os.read(pid_read, 20))
    for fd in (pid_read, pid_write, go_read, go_write):
        os.close(fd)
    channel.send(b"%d" % pid)
    return pid


def _wait(channel: socket.socket) -> dict[str, Any] | None:
    """Fork at each message. In a new service, what it was asked for; ``None`` at the end."""
    while True:
        message, fds, _, _ = socket.recv_fds(channel, _MOST_BYTES, 3)
        if not message:
            return None
        if not _fork(channel):
            for number, fd in enumerate(fds):
                os.dup2(fd, number)
                os.close(fd)
            asked: dict[str, Any] = json.loads(message)
            return asked
        for fd in fds:
            os.close(fd)


def _stream(fd: int, errors: str | None) -> io.TextIOWrapper:
    raw = io.FileIO(fd, "w", closefd=False)
    return io.TextIOWrapper(raw, errors=errors, write_through=True)


def _main(fd: str) -> None:
    for name in _IMPORTED:
        importlib.import_module(name)
    # The built-in model is always the same: made once, not at each start with it.
    demo = importlib.import_module(f"{PACKAGE}.gguf.demo")
    vars(demo)["demo_bytes"] = functools.cache(demo.demo_bytes)
    demo.demo_bytes()
    gc.collect()
    gc.freeze()
    asked = _wait(socket.socket(fileno=int(fd)))
    if asked is None:
        return
    os.setsid()
    os.chdir(asked["directory"])
    os.environ.clear()
    os.environ.update(asked["environ"])
    time.tzset()
    sys.stdout = _stream(1, sys.stdout.errors)
    sys.stderr = _stream(2, sys.stderr.errors)
    sys.argv = [PACKAGE, *asked["arguments"]]
    runpy.run_module(PACKAGE, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])
