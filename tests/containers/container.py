"""Runs an image without a daemon, as Docker would: chroot, namespaces, no capabilities."""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from .buildah import Image

_T = TypeVar("_T")
_START_LIMIT = 60.0
_CLONE_NEWNET = 0x40000000
_LOOPBACK_UP = (
    "import fcntl, socket, struct; "
    "fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sh14x', b'lo', 1))"  # SIOCSIFFLAGS
)
# Arguments: the root, the host name, the host's Python; then pairs of a folder of the host and its
# place in the container; then -- and the command.
_ENTER = """
set -eu
root=$1 name=$2 python=$3
shift 3
mount --make-rprivate /
hostname "$name"
"$python" -c "$LOOPBACK_UP"
mount --bind "$root" "$root"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
mkdir "$root/dev/shm"
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
while [ "$1" != -- ]; do
    mkdir -p "$root$2"
    mount --bind "$1" "$root$2"
    shift 2
done
shift
mount -o remount,bind,ro "$root"
exec chroot "$root" "$@"
"""


class Container:
    """One container of an image; ``with`` ends it, however it is doing.

    ``user`` is as in ``docker run --user``. ``mounts`` are folders of the host by their place in
    the container; it has a network of its own, in which it is alone.
    """

    def __init__(
        self,
        image: Image,
        *,
        user: str,
        mounts: Mapping[str, Path],
        environ: Mapping[str, str] = {},
        hostname: str = "box",
        command: Sequence[str] = (),
        log: Path,
    ) -> None:
        self._environ = {**image.environ, "HOSTNAME": hostname, **environ}
        self._drop = _dropping(user)
        self._log = log
        self._image = image
        arguments = [str(image.root), hostname, sys.executable]
        for place, folder in mounts.items():
            arguments += [str(folder), place]
        inside = [*self._drop, *self._env(), *image.entrypoint, *(command or image.command)]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [
                    *("unshare", "--mount", "--pid", "--net", "--uts", "--ipc"),
                    *("--fork", "--kill-child", "sh", "-c", _ENTER, "sh", *arguments, "--"),
                    *inside,
                ],
                env={**os.environ, "LOOPBACK_UP": _LOOPBACK_UP},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *_: object) -> None:
        # With the first process of the namespace the kernel ends all others. --kill-child does not
        # reach it: a process that changes its user loses the signal for its parent's end.
        with contextlib.suppress(OSError, IndexError):
            os.kill(self.first, signal.SIGKILL)
        self._process.kill()
        self._process.wait(30)

    @property
    def log(self) -> str:
        """What it printed (``docker logs``)."""
        return self._log.read_text(errors="replace")

    @property
    def first(self) -> int:
        """The machine's pid of the container's first process."""
        pid = self._process.pid
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])

    def wait_until(self, what: str, condition: Callable[[], _T | None]) -> _T:
        """The first value of ``condition`` that is true; fails after a minute."""
        deadline = time.monotonic() + _START_LIMIT
        while time.monotonic() < deadline:
            if value := condition():
                return value
            # The end of the process is the one thing that would make waiting useless.
            self.ended(0.1)
            assert self._process.returncode is None, f"it ended before {what}\n{self.log}"
        raise AssertionError(f"not within {_START_LIMIT:g} s: {what}\n{self.log}")

    def wait_for_line(self, start: str) -> str:
        """The first printed line that begins so."""

        def look() -> str | None:
            return next((one for one in self.log.splitlines() if one.startswith(start)), None)

        return self.wait_until(f"the line {start}", look)

    def stop(self, grace: float) -> int | None:
        """The image's stop signal, as ``docker stop``; the exit code, ``None`` = not in time."""
        os.kill(self.first, signal.Signals[self._image.stop_signal])
        return self.ended(grace)

    def ended(self, limit: float) -> int | None:
        """The exit code; ``None`` if it has not ended within ``limit`` seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(limit)
        return None

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in it as its own user (``docker exec``)."""
        enter = ["nsenter", f"--target={self.first}", "--mount", "--pid", "--net", "--uts"]
        return subprocess.run(
            [*enter, "--ipc", "--root", "--wd", *self._drop, *self._env(), *command],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def processes(self) -> dict[int, tuple[str, str, int]]:
        """Name, state (``Z`` is a zombie) and parent by pid, all as they are inside."""
        found = {}
        listed = self.run("sh", "-c", "cat /proc/[0-9]*/stat 2>/dev/null").stdout
        for line in listed.splitlines():
            pid, _, rest = line.partition(" (")
            name, _, fields = rest.rpartition(") ")
            state, parent = fields.split()[:2]
            found[int(pid)] = (name, state, int(parent))
        return found

    def ask(
        self, path: str, body: bytes | None = None, headers: Mapping[str, str] = {}
    ) -> tuple[int, bytes]:
        """Status and body of a request that comes from the container's own network."""
        port = int(self._image.ports[0].partition("/")[0])

        def ask() -> tuple[int, bytes]:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            with contextlib.closing(connection):
                method = "GET" if body is None else "POST"
                kind = {"Content-Type": "application/json"} if body is not None else {}
                connection.request(method, path, body, {**kind, **headers})
                answer = connection.getresponse()
                return answer.status, answer.read()

        return self._in_its_network(ask)

    def _env(self) -> list[str]:
        return ["env", "-i", *(f"{key}={value}" for key, value in self._environ.items())]

    def _in_its_network(self, action: Callable[[], _T]) -> _T:
        # A namespace is a thread's own: the thread goes, and nobody else has moved.
        results: list[Any] = []

        def act() -> None:
            try:
                with Path(f"/proc/{self.first}/ns/net").open() as namespace:
                    libc = ctypes.CDLL(None, use_errno=True)
                    if libc.setns(namespace.fileno(), _CLONE_NEWNET) != 0:
                        raise OSError(ctypes.get_errno(), "setns")
                results.append(action())
            except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
                results.append(error)

        thread = threading.Thread(target=act)
        thread.start()
        thread.join()
        if isinstance(results[0], BaseException):
            raise results[0]
        value: _T = results[0]
        return value


def _dropping(user: str) -> list[str]:
    """The command that becomes ``user`` (``UID[:GID]``) and gives up all capabilities."""
    uid, _, gid = user.partition(":")
    return [
        *("setpriv", f"--reuid={uid}", f"--regid={gid or 0}", "--clear-groups"),
        *("--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"),
    ]
