"""Records the servers that this service started, so that the next start can kill leftovers.

The kernel uses a pid again, so each is stored with its start time.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import psutil

from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.files import read_file, replace_file, write_problem
from cyber_inference_tui.kernel import boot_id
from cyber_inference_tui.llama.descendants import (
    MARK,
    KnownProcess,
    directory_mark,
    run_mark,
    start_of,
    sweep,
)

_logger = logging.getLogger(__name__)

_MAX_BYTES = 1 << 20


class ServerPid(msgspec.Struct, frozen=True):
    """A server process: its pid (also its process group) and start time (``start_of``)."""

    pid: int
    started: float
    model: str
    strays: tuple[KnownProcess, ...] = ()
    """Descendants without the mark of this data directory."""
    boot: str = ""
    """The boot during which it ran: after a reboot the same pid is another process."""


class PidRecord:
    """The file that lists running servers. Each method reads or writes it at once: it is tiny."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._servers: dict[int, ServerPid] = {}
        self.mark = run_mark(path.parent)
        """The mark of the children of this run of the service."""

    def marked(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return our environment with the mark, for children to inherit."""
        return {**environ, MARK: self.mark}

    def add(self, pid: int, model: str) -> None:
        """Record a server that was just started."""
        try:
            started = start_of(psutil.Process(pid))
        except psutil.NoSuchProcess:
            return
        self._servers[pid] = ServerPid(pid, started, model, boot=boot_id())
        self._write()

    def record_strays(self, pid: int, strays: Sequence[KnownProcess]) -> None:
        """Record the descendants of a server that do not have the mark."""
        server = self._servers.get(pid)
        if server is not None and server.strays != (new := tuple(strays)):
            self._servers[pid] = msgspec.structs.replace(server, strays=new)
            self._write()

    def remove(self, pid: int) -> None:
        """Remove a server that is gone."""
        if self._servers.pop(pid, None):
            self._write()

    def _write(self) -> None:
        try:
            replace_file(self._path, msgspec.json.encode(list(self._servers.values())))
        except OSError as error:
            _logger.warning("cannot write %s: %s", self._path, error.strerror)

    def _read(self) -> list[ServerPid]:
        try:
            content = read_file(self._path, _MAX_BYTES)
            return msgspec.json.decode(content, type=thread_safe(list[ServerPid]))
        except FileNotFoundError:
            return []
        except (OSError, msgspec.MsgspecError) as error:
            _logger.warning("cannot read %s: %s", self._path, error)
            return []

    def kill_orphans(self, timeout: float = 5.0) -> list[KnownProcess]:
        """Kill and return the processes left by a former service on this data directory. Blocks.

        Processes without a record, descendants of servers and of other programs, are found by their
        mark. Waits at most twice ``timeout`` seconds for all to be gone.
        """
        boot = boot_id()
        known = [one for one in self._read() if one.boot == boot]
        found: list[tuple[ServerPid, psutil.Process]] = []
        for server in known:
            process = KnownProcess(server.pid, server.started).find()
            if process is None:
                continue
            try:
                # A server that has ended may wait for its new parent to notice: not for us.
                has_ended = process.status() == psutil.STATUS_ZOMBIE
                # Our servers lead their own process group.
                if os.getpgid(server.pid) == server.pid:
                    os.killpg(server.pid, signal.SIGKILL)
                else:
                    process.kill()
            except (psutil.Error, OSError):
                continue
            if not has_ended:
                found.append((server, process))
        psutil.wait_procs([process for _, process in found], timeout)
        strays = [stray for server in known for stray in server.strays]
        swept = sweep(directory_mark(self.mark), strays, timeout)
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            _logger.warning("%s", write_problem(self._path, error))
        return [
            *(KnownProcess(one.pid, one.started, f"the server of {one.model}") for one, _ in found),
            *swept.found,
        ]
