"""The last line against orphans: a tiny shell that ends our servers when the service is gone.

A server dies with us by itself (stdin, PR_SET_PDEATHSIG), but its own children need not, and
macOS has no PR_SET_PDEATHSIG. The guard reads the process groups to watch from a pipe; when the
pipe closes, however the service died, it kills those that are left and exits.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import resource
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable

from cyber_inference_tui.descriptors import LIMITS_AT_START

_PR_SET_PDEATHSIG = 1

# "kill -KILL -- -N" is an error in dash, which is /bin/sh in Debian: "-s" is the portable form.
_SCRIPT = """
trap '' INT TERM HUP
groups=' '
while read -r what group; do
  case "$what" in
    add) groups="$groups$group " ;;
    del)
      case "$groups" in
        *" $group "*) groups="${groups%%" $group "*} ${groups#*" $group "}" ;;
      esac ;;
  esac
done
for group in $groups; do kill -s KILL -- "-$group" 2>/dev/null; done
exit 0
"""


class ProcessGuard:
    """Owns the guard process: ``start``, ``add`` and ``remove`` process groups, ``stop``."""

    def __init__(self) -> None:
        self._process: Process | None = None

    async def start(self) -> None:
        """Start the guard in a session of its own, so that no terminal signal reaches it."""
        self._process = await asyncio.create_subprocess_exec(
            "/bin/sh",
            "-c",
            _SCRIPT,
            stdin=PIPE,
            stdout=DEVNULL,
            stderr=DEVNULL,
            cwd="/",
            env={"PATH": os.defpath},
            start_new_session=True,
        )

    def add(self, group: int) -> None:
        """Watch a process group."""
        self._tell(f"add {group}\n")

    def remove(self, group: int) -> None:
        """The group's processes are gone; its number may soon belong to someone else."""
        self._tell(f"del {group}\n")

    def _tell(self, line: str) -> None:
        if self._process is None or self._process.stdin is None:
            return
        if not self._process.stdin.is_closing():
            self._process.stdin.write(line.encode())

    async def stop(self, timeout: float = 5.0) -> None:
        """Close the pipe; the guard kills what is still listed and ends."""
        process, self._process = self._process, None
        if process is None or process.stdin is None:
            return
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), timeout)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def die_with_parent() -> Callable[[], None] | None:
    """What a child does before exec: ask the kernel to kill it when this process dies, and take
    back the limit of open files that this process began with.

    Linux only (prctl(2)). The parent may have died already between fork and prctl: checked.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def prepare() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        resource.setrlimit(resource.RLIMIT_NOFILE, LIMITS_AT_START)
        if os.getppid() != parent:
            os._exit(1)

    return prepare
